"""A model file -> a list of layers and their parameters, or all operations that no layer does."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from learner import architecture as a
from learner import canonical
from learner.canonical import Field
from learner.errors import InvalidManifest
from learner.foreign import aten_ops, onnx_ops
from learner.foreign.attending import opaque
from learner.foreign.graph import FILE_BYTES_MAX, Array, Graph, InvalidModelFile, Node, Ref, Shape
from learner.foreign.onnx_file import read_onnx
from learner.foreign.pt2_file import HOW, read_pt2
from learner.foreign.rules import Rules
from learner.foreign.values import Activation, Misplaced, Unsupported, View

SHARED_NOTE: Final = "layers that share their weights get a copy each, and training moves these apart"
_ZIP: Final = b"PK\x03\x04"
_PICKLE: Final = b"\x80"
# What an operation raises that is given nonsense; InvalidModelFile says it itself.
_NONSENSE: Final = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, InvalidModelFile)

Apply = Callable[[Rules, Node, Callable[[Any], Any]], Any]


@dataclass(frozen=True, slots=True)
class Problem:
    """An operation that no layer does: its node's name in the file, its kind, and why."""

    node: str
    op: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node} ({self.op}): {self.reason}"


class NotConvertible(Exception):
    """Names every operation that cannot be converted, in the file's order."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(map(str, problems)))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Imported:
    """A model; its parameters by the names of docs/EXACT.md, float32; and what it does otherwise than the file."""

    model: a.Model
    parameters: Mapping[str, Array]
    notes: tuple[str, ...]

    def state(self, bits: int) -> bytes:
        """The canonical bytes of the parameters, which a job's `weights` may name."""
        parts = []
        for name, values in self.parameters.items():
            raw = np.ascontiguousarray(values, "<f4").tobytes()
            parts.append((Field(f"parameter/{name}", tuple(values.shape)), raw))
        return canonical.join(bits, parts)


def read_model(path: Path, loss: a.Loss) -> Imported:
    """Convert a file.

    Raises:
        InvalidModelFile: it is no model, damaged, a pickle, or beyond a limit.
        NotConvertible: names the operations.
        OnnxMissing, OSError.
    """
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InvalidModelFile("not an ordinary file")
        if status.st_size > FILE_BYTES_MAX:
            raise InvalidModelFile(f"{status.st_size} bytes, at most {FILE_BYTES_MAX}")
        magic = file.read(4)
    if magic == _ZIP:
        return converted(read_pt2(path), aten_ops.OPERATIONS, _apply_aten, loss)
    if magic[:1] == _PICKLE:
        raise InvalidModelFile(HOW)
    return converted(read_onnx(path), onnx_ops.OPERATIONS, _apply_onnx, loss)


def converted(graph: Graph, operations: Mapping[str, Any], apply: Apply, loss: a.Loss) -> Imported:
    """Recognise the layers of a graph."""
    ((source, shape),) = graph.inputs.items()
    rules = Rules(graph.batch)
    values: dict[str, Any] = dict(graph.constants)
    values[source] = View(Activation(None, None, tuple(size or 0 for size in shape[1:])), graph.batch)
    problems = []
    nodes = tuple(graph.needed())
    last_use = {name: place for place, node in enumerate(nodes) for name in node.refs()}
    for place, node in enumerate(nodes):
        result, problem = _result(rules, node, values, operations, apply, graph)
        if problem is not None:
            problems.append(problem)
        if len(node.outputs) > 1 and isinstance(result, tuple):
            values.update(zip(node.outputs, result, strict=False))
        else:
            values[node.outputs[0]] = result
        for name in {*node.refs()}:
            if last_use[name] == place and name != graph.outputs[0]:
                del values[name]  # a view of a large activation is large
    if not problems:
        last = values.get(graph.outputs[0])
        try:
            return _imported(rules, rules.settled(last), loss)
        except Unsupported as error:
            problems.append(Problem(graph.outputs[0], "output", str(error)))
    raise NotConvertible(tuple(problems))


def _result(
    rules: Rules, node: Node, values: Mapping[str, Any], operations: Mapping[str, Any], apply: Apply, graph: Graph
) -> tuple[Any, Problem | None]:  # fmt: skip
    """What a node gives; after a problem, something with which those behind it can be looked at."""

    def value(given: Any) -> Any:
        if isinstance(given, Ref):
            if given.name not in values:
                raise InvalidModelFile(f"reads {given.name!r}, which nothing computes before it")
            return values[given.name]
        return [value(each) for each in given] if isinstance(given, list | tuple) else given

    missing = [name for name in node.refs() if name not in values]
    if missing:
        raise InvalidModelFile(f"{node.name} ({node.op}): reads {missing[0]!r}, which nothing computes before it")
    inputs = [values[name] for name in node.refs()]
    doubtful = any(_is_doubtful(each) for each in inputs)
    try:
        if node.op not in operations:
            raise Unsupported("no layer does this")
        if any(each is None for each in inputs):
            raise Misplaced("behind an operation that is not supported")
        return apply(rules, node, value), None
    except Misplaced as error:
        problem = None if doubtful else Problem(node.name, node.op, str(error))
    except Unsupported as error:
        problem = Problem(node.name, node.op, str(error))
    except _NONSENSE as error:
        text = " ".join(str(error).split()) or type(error).__name__
        problem = None if doubtful else Problem(node.name, node.op, f"cannot be read: {text}")
    shape = _known_shape(graph, node.outputs[0], inputs)
    first = next((each for each in inputs if isinstance(each, View)), None)
    return opaque(first, rules.batch, shape), problem


def _is_doubtful(value: Any) -> bool:
    """Does it come straight from an operation that was not supported?"""
    return value is None or (isinstance(value, View) and not value.source.known)


def _known_shape(graph: Graph, name: str, inputs: list[Any]) -> Shape | None:
    """As the file says, else as if the operation had kept its input's."""
    told = graph.shapes.get(name)
    if told and None not in told[1:]:
        return (graph.batch, *(size or 0 for size in told[1:]))
    first = next((each for each in inputs if isinstance(each, View)), None)
    return None if first is None else first.shape


def _apply_onnx(rules: Rules, node: Node, value: Callable[[Any], Any]) -> Any:
    return onnx_ops.OPERATIONS[node.op](rules, [value(each) for each in node.inputs], node.attributes)


def _apply_aten(rules: Rules, node: Node, value: Callable[[Any], Any]) -> Any:
    given = {name: value(each) for name, each in node.attributes.items()}
    return aten_ops.OPERATIONS[node.op](rules, given)


def _imported(rules: Rules, last: Activation, loss: a.Loss) -> Imported:
    """The layers that lead to the outputs."""
    chain = tuple(reversed(list(last.back())))
    layers = tuple(each.layer for each in chain[1:] if each.layer is not None)
    if not layers:
        raise Unsupported("the model has no layer")
    model = a.Model(chain[0].shape, layers, loss)
    try:
        placed = model.placed()
    except InvalidManifest as error:
        raise Unsupported(f"{error.field}: {error.reason}") from None
    parameters: dict[str, Array] = {}
    for where, each in zip(a.every(placed), _every(chain[1:]), strict=True):
        for expected in where.parameters():
            given = each.parameters.get(expected.name.removeprefix(where.prefix))
            if given is None:
                given = _left_out(where, expected)
            if tuple(given.shape) != expected.shape:
                raise Unsupported(f"{where}: parameters {list(given.shape)}, expected {list(expected.shape)}")
            parameters[expected.name] = given
    matrices = [each.tobytes() for each in parameters.values() if each.ndim > 1 and each.any()]
    if len(set(matrices)) < len(matrices):
        rules.note(SHARED_NOTE)
    return Imported(model, parameters, tuple(rules.notes))


def _left_out(placed: a.Placed, field: Field) -> Array:
    """What a layer without this parameter computes with."""
    one = isinstance(placed.layer, a.LayerNorm) and field.name.endswith("weight")
    return np.full(field.shape, 1.0 if one else 0.0, np.float32)


def _every(chain: tuple[Activation, ...]) -> Iterator[Activation]:
    """In the order of architecture.every."""
    for each in chain:
        yield each
        yield from _every(each.inside)
