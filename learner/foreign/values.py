"""What stands for a value of the graph while its layers are recognised.

An Activation is what a layer gives. A View is an activation rearranged, and says so exactly: for each of its numbers,
which number of the activation's batch it is. So whatever a file does to split heads or swap dimensions, in however many
steps, is judged by where the numbers end up. Constants are numpy arrays or plain numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from learner.architecture import Layer
from learner.foreign.graph import Array, Shape, check_room


class Unsupported(Exception):
    """No layer does what an operation asks for; the reason, without the operation's name."""


class Misplaced(Unsupported):
    """An operation that there is a layer for, applied to what no layer takes."""


@dataclass(eq=False, slots=True)
class Activation:
    """Outputs of a layer for each sample.

    Attributes:
        parent: the layer's input; None for the samples.
        layer: None for the samples, and for what an operation gives that is not supported.
        shape: of one sample.
        parameters: the layer's own, by the name in learner.architecture.
        inside: of a residual layer, the activations of its layers in order.
        known: whether a layer was found for it.
    """

    parent: Activation | None
    layer: Layer | None
    shape: Shape
    parameters: dict[str, Array] = field(default_factory=dict)
    inside: tuple[Activation, ...] = ()
    known: bool = True
    derived: dict[Any, Activation] = field(default_factory=dict)  # so that equal things are the same thing

    def derive(self, key: Any, make: Callable[[], Activation]) -> Activation:
        """The activation that was made for the key before, or a new one."""
        if key not in self.derived:
            self.derived[key] = make()
        return self.derived[key]

    def back(self) -> Iterator[Activation]:
        """This one and all before it, last first."""
        each: Activation | None = self
        while each is not None:
            yield each
            each = each.parent


@dataclass(frozen=True, eq=False, slots=True)
class Heads:
    """What attention gives before its output projection: [heads, tokens, width / heads] of each sample."""

    parent: Activation
    shape: Shape
    causal: bool
    weight: Array
    bias: Array
    known: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class View:
    """Numbers of a source, rearranged and multiplied by one factor.

    Attributes:
        index: int64 of the view's own shape: places in the batch [batch, *source.shape], row-major; None: all in order.
    """

    source: Activation | Heads
    batch: int
    index: Array | None = None
    factor: float = 1.0

    @property
    def shape(self) -> Shape:
        """With the batch dimension wherever it now is."""
        return (self.batch, *self.source.shape) if self.index is None else tuple(self.index.shape)

    def places(self) -> Array:
        """`index`, also where it was left out."""
        if self.index is not None:
            return self.index
        check_room(self.shape)
        return np.arange(math.prod(self.shape)).reshape(self.shape)

    def moved(self, change: Callable[[Array], Array]) -> View:
        """Rearranged further."""
        places = change(self.places())
        check_room(places.shape)
        return View(self.source, self.batch, places, self.factor)

    def in_order(self) -> bool:
        """Is it the whole batch of the source, number by number?"""
        if self.index is None:
            return True
        flat = self.index.ravel()
        return flat.size == self.batch * math.prod(self.source.shape) and bool((flat == np.arange(flat.size)).all())


@dataclass(frozen=True, eq=False, slots=True)
class Projection:
    """Columns of a linear layer's output that are the heads of queries, keys or values.

    Attributes:
        columns: [heads, width of a head].
    """

    source: Activation
    columns: Array


@dataclass(frozen=True, eq=False, slots=True)
class Scores:
    """Queries times keys, [*lead, tokens, tokens], times a factor; `softmaxed` when they are weights of the tokens."""

    queries: Projection
    keys: Projection
    lead: Shape
    factor: float
    causal: bool = False
    softmaxed: bool = False

    @property
    def shape(self) -> Shape:
        """With the batch dimension first, alone or together with the heads."""
        tokens = self.queries.source.shape[0]
        return (*self.lead, tokens, tokens)


def projection(view: View) -> Projection:
    """Heads [..., tokens, width of a head] of a linear layer's output, with the samples before the heads.

    Raises:
        Misplaced.
    """
    source = view.source
    if isinstance(source, Heads) or len(source.shape) != 2 or len(view.shape) < 3:
        raise Misplaced("attention over something else than the projection of [tokens, width]")
    tokens, width = source.shape
    length, size = view.shape[-2:]
    places = view.places().reshape(-1, length, size)
    heads, rest = divmod(len(places), view.batch)
    if rest or not heads or length != tokens:
        raise Misplaced("attention whose heads are not those of each sample")
    columns = places[:heads, 0, :] % width
    sample = np.arange(len(places))[:, None, None] // heads
    expected = (sample * tokens + np.arange(tokens)[None, :, None]) * width + np.tile(columns, (view.batch, 1))[:, None]
    if not bool((places == expected).all()):
        raise Misplaced("attention whose heads mix samples, tokens or columns")
    return Projection(source, columns)
