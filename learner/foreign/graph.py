"""What a model file holds, whatever its format: constants, and nodes that compute values by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from learner.errors import JobError

FILE_BYTES_MAX: Final = 512 * 2**20  # with the weights, and those of other types than float32
NODES_MAX: Final = 20_000
NUMBERS_MAX: Final = 2**24  # of a constant, and of an activation that is rearranged
RANK_MAX: Final = 8
BATCH: Final = 3  # samples in the batch with which a graph is read whose batch dimension is left open

Array = NDArray[Any]
Shape = tuple[int, ...]


class InvalidModelFile(JobError):
    """A file that is no model, is damaged, or is beyond a limit."""

    kind = "model file"


@dataclass(frozen=True, slots=True)
class Ref:
    """Stands for a value of the graph."""

    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """One operation.

    Attributes:
        inputs: in order; Ref, None for one that is left out, or plain values and lists of these.
        attributes: by name; of the same kinds.
        outputs: names of the values that it makes; an empty name is not used.
    """

    name: str
    op: str
    inputs: tuple[Any, ...]
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...]

    def refs(self) -> Iterator[str]:
        """Names of the values that it reads."""
        yield from _refs((self.inputs, tuple(self.attributes.values())))


@dataclass(frozen=True, slots=True)
class Graph:
    """A whole file.

    Attributes:
        constants: parameters, buffers and literals.
        inputs: activations from outside, with their shapes; None is a dimension left open, which must be the first.
        outputs: names; the first is the model's.
        shapes: of values as the file tells them, if it does: only used to go on after an operation that is unknown.
    """

    constants: Mapping[str, Array]
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    shapes: Mapping[str, tuple[int | None, ...]]

    def __post_init__(self) -> None:
        if len(self.nodes) > NODES_MAX:
            raise InvalidModelFile(f"{len(self.nodes)} operations, at most {NODES_MAX}")
        if len(self.inputs) != 1:
            raise InvalidModelFile(f"{len(self.inputs)} inputs ({_some(self.inputs)}), expected one: the samples")
        if not self.outputs:
            raise InvalidModelFile("no output")
        for name, shape in self.inputs.items():
            if not 2 <= len(shape) <= RANK_MAX or any(each is None for each in shape[1:]) or 0 in shape:
                raise InvalidModelFile(
                    f"input {name}: shape {_text(shape)}, expected samples first and all other sizes fixed; "
                    "export with a sample input, and dynamic in the first dimension at most"
                )

    @property
    def batch(self) -> int:
        """Samples in the batch with which the graph is read."""
        return next(iter(self.inputs.values()))[0] or BATCH

    def needed(self) -> Iterator[Node]:
        """The nodes that the first output depends on, in order."""
        wanted, kept = {self.outputs[0]}, []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.refs())
                kept.append(node)
        return reversed(kept)


def check_room(shape: Iterable[int]) -> None:
    """Refuse what would be too large before it is made."""
    sizes = tuple(shape)
    if len(sizes) > RANK_MAX or math.prod(sizes) > NUMBERS_MAX or any(size < 0 for size in sizes):
        raise ValueError(f"a shape of {_text(sizes)}, at most {NUMBERS_MAX} numbers")


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, Ref):
        yield value.name
    elif isinstance(value, tuple | list):
        for each in value:
            yield from _refs(each)


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")


def _text(shape: Iterable[int | None]) -> str:
    return "[" + ", ".join("?" if each is None else str(each) for each in shape) + "]"


def float32(name: str, values: Array) -> Array:
    """Parameters as float32; raises InvalidModelFile for what is none."""
    if values.dtype not in (np.float16, np.float32, np.float64):
        raise InvalidModelFile(f"{name}: parameters of type {values.dtype}, expected float32")
    with np.errstate(all="ignore"):
        found = values.astype(np.float32) + np.float32(0)  # minus zero is plus zero
    if not bool(np.isfinite(found).all()):
        raise InvalidModelFile(f"{name}: a number that is not finite")
    return found
