"""A model as data: a list of layers with sizes, so that nobody runs a stranger's code (docs/EXACT.md, "Models").

`place` walks the list once: it checks every layer against the shape that reaches it, numbers the layers that have
parameters, and knows from sizes alone what a step will cost. Needs neither torch nor numpy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec

from learner.canonical import RANK_MAX, Field
from learner.errors import InvalidManifest

LAYERS_MAX: Final = 64  # those inside residual layers count
DEPTH_MAX: Final = 4
WIDTH_MAX: Final = 65_536
WINDOW_MAX: Final = 16
LEVELS_MAX: Final = 65_535
NUMBERS_MAX: Final = 2**26  # in any one tensor of any one sample

Shape = tuple[int, ...]
Width = Annotated[int, msgspec.Meta(ge=1, le=WIDTH_MAX)]
Window = Annotated[int, msgspec.Meta(ge=1, le=WINDOW_MAX)]


class _Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """What every layer has: its kind."""

    @property
    def kind(self) -> str:
        """The word that names it in a manifest."""
        return str(self.__struct_config__.tag)


class Linear(_Layer, frozen=True, tag="linear"):
    """[..., inputs] -> [..., outputs]."""

    outputs: Width


class Conv2d(_Layer, frozen=True, tag="conv2d"):
    """[channels in, height, width] -> [channels, ...]; a square kernel, zero padding on all four sides."""

    channels: Width
    kernel: Window
    stride: Window = 1
    padding: Annotated[int, msgspec.Meta(ge=0, le=WINDOW_MAX)] = 0


class MaxPool(_Layer, frozen=True, tag="max_pool"):
    """The greatest of each size x size window of each channel."""

    size: Window
    stride: Window


class AveragePool(_Layer, frozen=True, tag="average_pool"):
    """The mean of each size x size window of each channel."""

    size: Window
    stride: Window


class Embedding(_Layer, frozen=True, tag="embedding"):
    """[tokens] of whole numbers below `entries` -> [tokens, width]; only as the first layer."""

    entries: Width
    width: Width


class Position(_Layer, frozen=True, tag="position"):
    """[tokens, width]: adds what was learned for each place."""


class LayerNorm(_Layer, frozen=True, tag="layer_norm"):
    """Over the last dimension, with weight and bias."""


class Attention(_Layer, frozen=True, tag="attention"):
    """[tokens, width]: scaled dot products in `heads` equal parts of the width; causal sees no later token."""

    heads: Annotated[int, msgspec.Meta(ge=1, le=WIDTH_MAX)]
    causal: bool = False


class Relu(_Layer, frozen=True, tag="relu"):
    """max(x, 0)."""


class Gelu(_Layer, frozen=True, tag="gelu"):
    """x times the logistic function of 1.5957691216057308 (x + 0.044715 x^3)."""


class Flatten(_Layer, frozen=True, tag="flatten"):
    """All numbers of a sample in one row."""


class Residual(_Layer, frozen=True, tag="residual"):
    """x + layers(x)."""

    layers: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=LAYERS_MAX)]


Layer = (
    Linear | Conv2d | MaxPool | AveragePool | Embedding | Position | LayerNorm | Attention | Relu | Gelu | Flatten
    | Residual
)  # fmt: skip


class CrossEntropy(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="cross_entropy"):
    """Of the softmax of the outputs, one for each class."""


class MeanSquaredError(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mean_squared_error"
):
    """levels 0: against 1 for the label's class and 0 elsewhere. Else one output against label * 2**scale.

    Attributes:
        levels: labels are 0 to levels - 1.
        scale: 0 where levels is 0.
    """

    levels: Annotated[int, msgspec.Meta(ge=0, le=LEVELS_MAX)] = 0
    scale: Annotated[int, msgspec.Meta(ge=-30, le=30)] = 0


Loss = CrossEntropy | MeanSquaredError


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Layers in order, from one sample's shape to its outputs, and what is made small.

    Attributes:
        input: a sample's dimensions; their product is the dataset's number of features.
    """

    input: Annotated[tuple[Width, ...], msgspec.Meta(min_length=1, max_length=RANK_MAX - 1)]
    layers: Annotated[tuple[Layer, ...], msgspec.Meta(min_length=1, max_length=LAYERS_MAX)]
    loss: Loss = CrossEntropy()

    def placed(self) -> tuple[Placed, ...]:
        """The layers with their shapes; raises InvalidManifest for one that does not fit where it stands."""
        return place(self)

    def parameters(self) -> tuple[Field, ...]:
        """All parameters, in the order of the layers."""
        return tuple(field for placed in every(self.placed()) for field in placed.parameters())

    @property
    def features(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.input)

    @property
    def outputs(self) -> int:
        """Numbers that the last layer gives for one sample."""
        return self.placed()[-1].output[0]

    @property
    def classes(self) -> int:
        """Labels are 0 to classes - 1."""
        return getattr(self.loss, "levels", 0) or self.outputs


@dataclass(frozen=True, slots=True)
class Placed:
    """A layer where it stands.

    Attributes:
        path: where in the manifest, for example "model.layers[3].layers[0]".
        number: of the layers with parameters, counted from 0 depth first; None without parameters.
        input, output: shapes of one sample.
        inner: the layers of a residual one.
    """

    layer: Layer
    path: str
    number: int | None
    input: Shape
    output: Shape
    inner: tuple[Placed, ...] = ()

    def __str__(self) -> str:
        return f"{self.path} ({self.layer.kind})"

    @property
    def prefix(self) -> str:
        """What its parameters' names begin with: two digits and a dot."""
        return "" if self.number is None else f"{self.number:02}."

    def parameters(self) -> tuple[Field, ...]:
        """Its own parameters; a matrix maps its columns, or all dimensions after the first, to its rows."""
        return tuple(Field(self.prefix + name, shape) for name, shape in self._shapes())

    def _shapes(self) -> tuple[tuple[str, Shape], ...]:
        width = self.input[-1]
        match self.layer:
            case Linear(outputs=outputs):
                return ("weight", (outputs, width)), ("bias", (outputs,))
            case Conv2d(channels=channels, kernel=kernel):
                return ("weight", (channels, self.input[0], kernel, kernel)), ("bias", (channels,))
            case Embedding(entries=entries, width=columns):
                return (("weight", (entries, columns)),)
            case Position():
                return (("weight", self.input),)
            case LayerNorm():
                return ("weight", (width,)), ("bias", (width,))
            case Attention():
                return (
                    ("in.weight", (3 * width, width)), ("in.bias", (3 * width,)),
                    ("out.weight", (width, width)), ("out.bias", (width,)),
                )  # fmt: skip
            case _:
                return ()


def every(placed: tuple[Placed, ...]) -> Iterator[Placed]:
    """All layers, depth first, a residual one before those inside it."""
    for each in placed:
        yield each
        yield from every(each.inner)


def place(model: Model) -> tuple[Placed, ...]:
    """Check the layers against each other.

    Raises:
        InvalidManifest: names the layer, what reaches it and what it needs.
    """
    total = [0, 0]
    placed = _place(model.layers, model.input, "model", 1, total)
    output = placed[-1].output
    if len(output) != 1:
        raise InvalidManifest(placed[-1].path, f"ends with the shape {list(output)}: add a flatten layer")
    match model.loss:
        case CrossEntropy() | MeanSquaredError(levels=0):
            if output[0] < 2:
                raise InvalidManifest(placed[-1].path, "must have at least 2 outputs: the classes")
            if isinstance(model.loss, MeanSquaredError) and model.loss.scale:
                raise InvalidManifest("model.loss.scale", "must be 0 without levels")
        case MeanSquaredError(levels=levels):
            if levels < 2:
                raise InvalidManifest("model.loss.levels", "must be at least 2, or 0")
            if output[0] != 1:
                raise InvalidManifest(placed[-1].path, f"must have 1 output, has {output[0]}")
    return placed


def _place(layers: tuple[Layer, ...], shape: Shape, path: str, depth: int, total: list[int]) -> tuple[Placed, ...]:
    """`total` counts the layers so far, and those with parameters."""
    placed = []
    for index, layer in enumerate(layers):
        here = f"{path}.layers[{index}]"
        total[0] += 1
        if total[0] > LAYERS_MAX:
            raise InvalidManifest(here, f"more than {LAYERS_MAX} layers")
        if isinstance(layer, Embedding) and total[0] > 1:
            raise InvalidManifest(here, "embedding: only as the first layer")
        inner: tuple[Placed, ...] = ()
        if isinstance(layer, Residual):
            if depth == DEPTH_MAX:
                raise InvalidManifest(here, f"residual: nested more than {DEPTH_MAX} deep")
            inner = _place(layer.layers, shape, here, depth + 1, total)
            if inner[-1].output != shape:
                raise InvalidManifest(here, f"residual: gets {list(shape)}, its layers give {list(inner[-1].output)}")
            output = shape
        else:
            output = _output(layer, shape, here)
        one = Placed(layer, here, total[1], shape, output, inner)
        if one.parameters():
            total[1] += 1
        else:
            one = Placed(layer, here, None, shape, output, inner)
        placed.append(one)
        shape = output
    return tuple(placed)


def _output(layer: Layer, shape: Shape, path: str) -> Shape:
    def need(holds: bool, what: str) -> None:
        if not holds:
            raise InvalidManifest(path, f"{layer.kind}: needs {what}, gets {list(shape)}")

    output = shape
    match layer:
        case Linear(outputs=outputs):
            output = (*shape[:-1], outputs)
        case Conv2d() | MaxPool() | AveragePool():
            need(len(shape) == 3, "[channels, height, width]")
            window, padding = (layer.kernel, layer.padding) if isinstance(layer, Conv2d) else (layer.size, 0)
            need(padding < window, "padding below the kernel's size")
            sides = tuple((side + 2 * padding - window) // layer.stride + 1 for side in shape[1:])
            need(min(sides) >= 1, f"at least {window} x {window} with its padding")
            output = (layer.channels if isinstance(layer, Conv2d) else shape[0], *sides)
        case Embedding(width=width):
            need(len(shape) == 1, "[tokens]")
            output = (*shape, width)
        case Position():
            need(len(shape) == 2, "[tokens, width]")
        case Attention(heads=heads):
            need(len(shape) == 2, "[tokens, width]")
            need(shape[1] % heads == 0, f"a width that {heads} heads divide")
        case Flatten():
            output = (math.prod(shape),)
        case _:
            pass
    need(max(math.prod(output), _columns(layer, shape, output)) <= NUMBERS_MAX, f"at most {NUMBERS_MAX} numbers")
    return output


def _columns(layer: Layer, shape: Shape, output: Shape) -> int:
    """Numbers of the largest tensor inside a layer, for one sample."""
    match layer:
        case Conv2d(kernel=kernel):
            return max(shape[0] * math.prod(output[1:]), output[0] * math.prod(shape[1:])) * kernel * kernel
        case Attention(heads=heads):
            return max(3 * math.prod(shape), heads * shape[0] * shape[0])
        case _:
            return 0
