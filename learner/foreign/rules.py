"""Which layers the operations of a graph are. Each rule takes values and gives one, or says why there is no layer.

A rule never guesses: what it returns computes the same numbers as the file does, up to rounding and the notes.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np

from learner import architecture as a
from learner.foreign.graph import Array, Shape, check_room, float32
from learner.foreign.values import Activation, Heads, Misplaced, Unsupported, View

EPSILON: Final = 1e-5  # of layer norm, docs/EXACT.md
Pair = tuple[int, int]

FLATTEN: Final = "flatten"
GELU_NOTE: Final = "gelu by the error function becomes gelu by tanh, which differs by less than 0.001"


class Rules:
    """See the module.

    Attributes:
        notes: what the model does otherwise than the file, up to less than 0.001.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.notes: list[str] = []

    # ---- forms ------------------------------------------------------------------------------------------------------
    def view(self, value: Any) -> View:
        """An activation as it comes into a layer."""
        if not isinstance(value, View):
            raise Misplaced("applied to what is no activation")
        if value.factor != 1.0:
            raise Misplaced(f"after a product by {value.factor:g}")
        return value

    def settled(self, value: Any) -> Activation:
        """The activation [batch, ...] that a view is, with a flatten layer if it takes one."""
        view = self.view(value)
        source = view.source
        if isinstance(source, Heads):
            raise Misplaced("attention without an output projection")
        if not view.in_order() or view.shape[0] != self.batch:
            raise Misplaced("numbers rearranged in an order that no layer gives")
        shape = view.shape[1:]
        if shape == source.shape:
            return source
        if source.parent is None and source.known:
            return source.derive(shape, lambda: Activation(None, None, shape))
        if shape == (math.prod(source.shape),):
            return source.derive(FLATTEN, lambda: Activation(source, a.Flatten(), shape))
        raise Misplaced(f"a layer's output {list(source.shape)} taken as {list(shape)}")

    def whole(self, activation: Activation) -> View:
        """An activation as a value of the graph."""
        return View(activation, self.batch)

    def rows(self, value: Any, width: int) -> tuple[Activation | Heads, Array | None]:
        """(source, places of its rows in the view's order or None for all) for layers over the last dimension."""
        view = self.view(value)
        if view.shape[-1] != width:
            raise Unsupported(f"{width} inputs, but gets {list(view.shape[1:])}")
        source = view.source
        if isinstance(source, Activation) and source.shape[-1] == width and view.index is not None:
            first = view.index[..., 0]
            if bool((first % width == 0).all()) and bool((view.index == first[..., None] + np.arange(width)).all()):
                return source, first // width
        return (source, None) if isinstance(source, Heads) else (self.settled(view), None)

    def from_rows(self, activation: Activation, rows: Array | None) -> View:
        """The view of an activation whose rows are in the given places."""
        if rows is None:
            return self.whole(activation)
        width = activation.shape[-1]
        check_room((*rows.shape, width))
        return View(activation, self.batch, rows[..., None] * width + np.arange(width))

    # ---- layers -----------------------------------------------------------------------------------------------------
    def linear(self, value: Any, weight: Array, bias: Array | None) -> View:
        """weight [outputs, inputs]."""
        if weight.ndim != 2 or (bias is not None and bias.shape not in ((weight.shape[0],), (1, weight.shape[0]))):
            raise Unsupported("weights that are not [outputs, inputs] and [outputs]")
        parameters = {"weight": float32("weight", weight)}
        if bias is not None:
            parameters["bias"] = float32("bias", bias.reshape(-1))
        outputs, inputs = weight.shape
        source, rows = self.rows(value, inputs)
        if isinstance(source, Heads):
            return self.attention(self.view(value), source, parameters)
        shape = (*source.shape[:-1], outputs)
        return self.from_rows(Activation(source, a.Linear(outputs), shape, parameters), rows)

    def attention(self, view: View, heads: Heads, out: dict[str, Array]) -> View:
        """The output projection makes attention complete; the columns of its weight follow the view's heads."""
        count, tokens, size = heads.shape
        width = count * size
        places = view.places()
        if out["weight"].shape != (width, width) or places.shape[-1] != width:
            raise Misplaced(f"attention's output projection is not [{width}, {width}]")
        sample, head, token, column = np.unravel_index(places, (self.batch, *heads.shape))
        order = (head * size + column).reshape(-1, width)
        rows = sample * tokens + token
        if not bool((order == order[0]).all()) or not bool((rows == rows[..., :1]).all()):
            raise Misplaced("attention whose heads are put together in another order")
        weight = np.empty_like(out["weight"])
        weight[:, order[0]] = out["weight"]
        parameters = {"in.weight": heads.weight, "in.bias": heads.bias, "out.weight": weight}
        if "bias" in out:
            parameters["out.bias"] = out["bias"]
        layer = a.Attention(count, heads.causal)
        return self.from_rows(Activation(heads.parent, layer, (tokens, width), parameters), rows[..., 0])

    def add_bias(self, view: View, bias: Array) -> View | None:
        """A linear layer that had no bias, with this one; None where it cannot be one."""
        source = view.source
        if isinstance(source, Heads) or bias.size != view.shape[-1] or bias.shape[-1:] != (bias.size,):
            return None
        if not isinstance(source.layer, a.Linear | a.Attention):
            return None
        name = "bias" if isinstance(source.layer, a.Linear) else "out.bias"
        if name in source.parameters:
            return None
        _, rows = self.rows(view, source.shape[-1])
        values = source.parameters | {name: float32("bias", bias.reshape(-1))}
        return self.from_rows(Activation(source.parent, source.layer, source.shape, values), rows)

    def convolution(
        self, value: Any, weight: Array, bias: Array | None, stride: Any, padding: Any, dilation: Any, groups: int
    ) -> View:  # fmt: skip
        """weight [channels, channels in, kernel, kernel]; padding as one number, two, or four (ONNX)."""
        if weight.ndim != 4 or weight.shape[2] != weight.shape[3]:
            raise Unsupported(f"a kernel of {list(weight.shape[2:])}: only square ones over images")
        if groups != 1:
            raise Unsupported(f"groups={groups}: only 1")
        if _one("dilation", dilation) != 1:
            raise Unsupported(f"dilation={dilation}: only 1")
        channels, inputs, kernel, _ = weight.shape
        layer = a.Conv2d(channels, kernel, _one("stride", stride), _one("padding", padding))
        parameters = {"weight": float32("weight", weight)}
        if bias is not None:
            parameters["bias"] = float32("bias", bias)
        return self._windowed(value, layer, parameters, inputs)

    def pool(
        self, value: Any, average: bool, size: Any, stride: Any, padding: Any = 0, dilation: Any = 1, ceil: bool = False
    ) -> View:  # fmt: skip
        """Max or average pooling without padding."""
        if _one("padding", padding) != 0:
            raise Unsupported(f"padding={padding}: only 0 for pooling")
        if _one("dilation", dilation) != 1:
            raise Unsupported(f"dilation={dilation}: only 1")
        size, stride = _one("kernel", size), _one("stride", stride)
        if ceil and any((side - size) % stride for side in self.settled(value).shape[1:]):
            raise Unsupported("ceil_mode with sides that the stride does not divide")
        return self._windowed(value, (a.AveragePool if average else a.MaxPool)(size, stride), {})

    def global_pool(self, value: Any, sides: Shape = (1, 1)) -> View:
        """Average pooling to the given sides."""
        shape = self.settled(value).shape
        each = [side / out for side, out in zip(shape[1:], sides, strict=False)]
        if len(shape) != 3 or len(sides) != 2 or each[0] != each[1] or not each[0].is_integer():
            raise Unsupported(f"average of {list(shape)} to {list(sides)}: only by equal square windows")
        return self.pool(value, True, int(each[0]), int(each[0]))

    def _windowed(
        self, value: Any, layer: a.Conv2d | a.MaxPool | a.AveragePool, parameters: dict[str, Array], inputs: int = 0
    ) -> View:  # fmt: skip
        source = self.settled(value)
        if len(source.shape) != 3 or (inputs and source.shape[0] != inputs):
            wanted = inputs or "channels"
            raise Unsupported(f"takes [{wanted}, height, width], gets {list(source.shape)}")
        window, padding = (layer.kernel, layer.padding) if isinstance(layer, a.Conv2d) else (layer.size, 0)
        if window < 1 or layer.stride < 1 or not 0 <= padding < window:
            raise Unsupported(f"kernel {window}, stride {layer.stride}, padding {padding}")
        sides = tuple((side + 2 * padding - window) // layer.stride + 1 for side in source.shape[1:])
        if min(sides) < 1:
            raise Unsupported(f"a window of {window} over {list(source.shape)}")
        channels = layer.channels if isinstance(layer, a.Conv2d) else source.shape[0]
        return self.whole(Activation(source, layer, (channels, *sides), parameters))

    def layer_norm(self, value: Any, axes: int, weight: Array | None, bias: Array | None, epsilon: float) -> View:
        """Over the last `axes` dimensions, of which there may be one."""
        if axes != 1:
            raise Unsupported(f"over the last {axes} dimensions: only over the last one")
        if not math.isclose(epsilon, EPSILON, rel_tol=1e-3):
            raise Unsupported(f"eps={epsilon:g}: only {EPSILON:g}")
        width = self.view(value).shape[-1]
        source, rows = self.rows(value, width)
        if isinstance(source, Heads):
            raise Misplaced("attention without an output projection")
        given = {"weight": weight, "bias": bias}
        parameters = {name: float32(name, each) for name, each in given.items() if each is not None}
        if any(each.shape != (width,) for each in parameters.values()):
            raise Unsupported(f"weight and bias are not [{width}]")
        return self.from_rows(Activation(source, a.LayerNorm(), source.shape, parameters), rows)

    def pointwise(self, value: Any, layer: a.Relu | a.Gelu) -> View:
        """Number by number, in whatever order."""
        view = self.view(value)
        source = view.source
        if isinstance(source, Heads):
            raise Misplaced("attention without an output projection")
        return View(source.derive(layer.kind, lambda: Activation(source, layer, source.shape)), view.batch, view.index)

    def gelu(self, value: Any, approximate: str) -> View:
        """Ours is the one by tanh."""
        if approximate not in ("tanh", "none"):
            raise Unsupported(f"approximate={approximate}")
        if approximate == "none":
            self.note(GELU_NOTE)
        return self.pointwise(value, a.Gelu())

    def embedding(self, weight: Array, value: Any) -> View:
        """Rows of weight [entries, width] by token."""
        source = self.settled(value)
        if source.parent is not None or not source.known:
            raise Misplaced("tokens that are not the model's input")
        if weight.ndim != 2 or len(source.shape) != 1:
            raise Unsupported(f"{list(weight.shape)} by {list(source.shape)}: only [entries, width] by [tokens]")
        shape = (*source.shape, weight.shape[1])
        layer = a.Embedding(*weight.shape)
        return self.whole(Activation(source, layer, shape, {"weight": float32("weight", weight)}))

    def add_constant(self, value: Any, constant: Array) -> View:
        """A bias, or what was learned for each place."""
        view = self.view(value)
        if np.broadcast_shapes(view.shape, constant.shape) != view.shape:
            raise Unsupported(f"a constant {list(constant.shape)} added to {list(view.shape[1:])}")
        if constant.size == 1 and not constant.any():
            return view
        if (biased := self.add_bias(view, constant)) is not None:
            return biased
        source = self.settled(view)
        while constant.ndim > len(source.shape) and constant.shape[0] == 1:
            constant = constant[0]
        if len(source.shape) != 2 or constant.shape != source.shape:
            raise Unsupported(f"a constant {list(constant.shape)} added to {list(source.shape)}: only [tokens, width]")
        layer, values = a.Position(), {"weight": float32("position", constant)}
        return self.whole(Activation(source, layer, source.shape, values))

    def cast(self, value: Any, to_float: bool) -> View:
        """To float32, which all numbers are here; to whole numbers only what comes as such: tokens."""
        view = self.view(value)
        if not to_float and not (isinstance(view.source, Activation) and view.source.parent is None):
            raise Unsupported("numbers of a layer rounded to whole ones")
        return view

    def add(self, one: Any, other: Any) -> View:
        """x + layers(x)."""
        first, second = self.view(one), self.view(other)
        same = first.index is second.index or (
            first.index is not None and second.index is not None and np.array_equal(first.index, second.index)
        )
        if same and isinstance(first.source, Activation) and isinstance(second.source, Activation):
            left, right, index = first.source, second.source, first.index
        else:
            left, right, index = self.settled(first), self.settled(second), None
        for start, end in ((left, right), (right, left)):
            between = _between(start, end)
            if between and start.shape == end.shape:
                layer = a.Residual(tuple(each.layer for each in between if each.layer is not None))
                known = all(each.known for each in between)
                return View(Activation(start, layer, start.shape, inside=between, known=known), self.batch, index)
        raise Unsupported("the sum of two branches, of which none leads to the other: only x + layers(x)")

    def note(self, text: str) -> None:
        """Say it once."""
        if text not in self.notes:
            self.notes.append(text)


def _between(start: Activation, end: Activation) -> tuple[Activation, ...]:
    """What lies behind start up to end, in order; empty if start does not lead to end."""
    found: list[Activation] = []
    for each in end.back():
        if each is start:
            return tuple(reversed(found))
        found.append(each)
    return ()


def _one(name: str, given: Any) -> int:
    """The number that all entries are."""
    numbers = set(np.ravel(given).tolist())
    if len(numbers) != 1:
        raise Unsupported(f"{name}={list(np.ravel(given))}: only the same on all sides")
    return int(numbers.pop())
