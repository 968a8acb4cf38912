"""What the operations of ONNX mean. Source: https://onnx.ai/onnx/operators/."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from learner import architecture as a
from learner.foreign import attending, folding
from learner.foreign.folding import array, is_constant, number, whole, wholes
from learner.foreign.graph import Array, check_room
from learner.foreign.rules import Rules
from learner.foreign.values import Misplaced, Scores, Unsupported, View

Operation = Callable[[Rules, list[Any], Mapping[str, Any]], Any]
_TYPES: Final = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


def _optional(values: list[Any], place: int) -> Array | None:
    return None if len(values) <= place or values[place] is None else array(values[place])


def _gemm(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        raise Unsupported("alpha, beta or transA other than 1, 1 and 0")
    weight = array(values[1])
    return rules.linear(values[0], weight if given.get("transB", 0) else weight.T, _optional(values, 2))


def _matmul(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    left, right = values
    if is_constant(left):
        raise Unsupported("a constant times an activation")
    return rules.linear(left, array(right).T, None) if is_constant(right) else attending.matmul(rules, left, right)


def add(rules: Rules, left: Any, right: Any) -> Any:
    """A sum of two values of any kind."""
    if is_constant(left):
        left, right = right, left
    if not is_constant(right):
        return rules.add(left, right)
    if is_constant(left):
        return folding.elementwise(np.add, left, right)
    constant = array(right)
    return attending.masked(left, constant) if isinstance(left, Scores) else rules.add_constant(left, constant)


def multiply(rules: Rules, left: Any, right: Any, divide: bool = False) -> Any:
    """A product or quotient."""
    if is_constant(left) and is_constant(right):
        return folding.elementwise(np.divide if divide else np.multiply, left, right)
    if is_constant(left) and not divide:
        left, right = right, left
    factor = number(right)
    if factor is None or not math.isfinite(factor) or (divide and factor == 0) or is_constant(left):
        raise Unsupported("of two activations" if not is_constant(right) else "by more than one number")
    return attending.scaled(left, 1 / factor if divide else factor)


def _divide_whole(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    if all(is_constant(each) and array(each).dtype.kind in "iu" for each in values):
        return folding.elementwise(lambda x, y: np.trunc(x / y).astype(np.int64), *values)
    return multiply(rules, values[0], values[1], divide=True)


def where(rules: Rules, condition: Any, left: Any, right: Any) -> Any:
    """Scores where they are allowed, else minus infinity."""
    allowed = array(condition)
    if is_constant(left) and is_constant(right):
        return folding.elementwise(np.where, allowed, left, right)
    if is_constant(left):
        left, right, allowed = right, left, ~allowed
    lowest = number(right)
    if not isinstance(left, Scores) or lowest is None or not lowest <= -1e4:
        raise Unsupported("only as the mask of attention's scores")
    return attending.kept(left, allowed)


def _convolution(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    return rules.convolution(
        values[0], array(values[1]), _optional(values, 2), given.get("strides", 1), _padding(given),
        given.get("dilations", 1), given.get("group", 1),
    )  # fmt: skip


def _padding(given: Mapping[str, Any]) -> Any:
    mode = given.get("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        raise Unsupported(f"auto_pad={mode}: export with explicit pads")
    return given.get("pads", 0)


def _pool(average: bool) -> Operation:
    def operation(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
        size = given["kernel_shape"]
        stride, dilation = given.get("strides", 1), given.get("dilations", 1)
        return rules.pool(values[0], average, size, stride, _padding(given), dilation, bool(given.get("ceil_mode", 0)))

    return operation


def _reduce_mean(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    axes = sorted(wholes(values[1] if len(values) > 1 else given["axes"]))
    if axes not in ([-2, -1], [2, 3]):
        raise Unsupported(f"over dimensions {axes}: only over height and width")
    pooled = rules.global_pool(values[0])
    return pooled if given.get("keepdims", 1) else folding.reshaped(pooled, list(pooled.shape[:2]))


def _layer_norm(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    axis = given.get("axis", -1)
    axes = -axis if axis < 0 else len(rules.view(values[0]).shape) - axis
    return rules.layer_norm(values[0], axes, array(values[1]), _optional(values, 2), given.get("epsilon", 1e-5))


def _gather(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, indices = values
    axis = given.get("axis", 0)
    if is_constant(data) and isinstance(indices, View):
        if axis:
            raise Unsupported(f"axis={axis}: only rows by token")
        return rules.embedding(array(data), indices)
    chosen = array(indices)
    return folding.moved(data, lambda places: _take(places, chosen, axis))


def _take(places: Array, chosen: Array, axis: int) -> Array:
    sizes = list(places.shape)
    sizes[axis : axis + 1 or None] = chosen.shape
    check_room(sizes)
    return places.take(chosen.astype(np.int64), axis)


def _reshape(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, sizes = values[0], wholes(values[1])
    shape = data.shape if isinstance(data, View) else array(data).shape
    if not given.get("allowzero", 0):
        sizes = [shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    return folding.reshaped(data, sizes)


def _flatten(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, axis = values[0], given.get("axis", 1)
    shape = data.shape if isinstance(data, View) else array(data).shape
    return folding.reshaped(data, [math.prod(shape[:axis]), -1])


def _transpose(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    return folding.moved(values[0], lambda places: places.transpose(given.get("perm")))


def _slice(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, starts, ends = values[0], wholes(values[1]), wholes(values[2])
    axes = wholes(values[3]) if len(values) > 3 and values[3] is not None else list(range(len(starts)))
    steps = wholes(values[4]) if len(values) > 4 and values[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0 and end < -(2**31):
            data = folding.moved(data, lambda places, axis=axis: np.flip(places, axis))  # type: ignore[misc]
            start, end, step = 0, 2**31, -step
        data = folding.part(data, axis, start, end, step)
    return data


def _split(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, axis = values[0], given.get("axis", 0)
    length = data.shape[axis] if isinstance(data, View) else array(data).shape[axis]
    if len(values) > 1 and values[1] is not None:
        return folding.split(data, wholes(values[1]), axis)
    count = given.get("num_outputs") or given["outputs"]
    size = -(-length // count)
    return folding.split(data, [min(size, length - size * place) for place in range(count)], axis)


def _unsqueeze(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    axes = wholes(values[1] if len(values) > 1 else given["axes"])
    return folding.moved(values[0], lambda places: np.expand_dims(places, tuple(axes)))


def _squeeze(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    axes = values[1] if len(values) > 1 else given.get("axes")
    return folding.moved(values[0], lambda places: places.squeeze(None if axes is None else tuple(wholes(axes))))


def _expand(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data, sizes = values[0], wholes(values[1])
    shape = data.shape if isinstance(data, View) else array(data).shape
    return folding.expanded(data, list(np.broadcast_shapes(shape, tuple(sizes))))


def _concat(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    arrays = [array(each) for each in values]
    if sum(each.size for each in arrays) > 2**20:
        raise Unsupported("constants that large")
    return np.concatenate(arrays, given["axis"])


def _cast(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    if given["to"] not in _TYPES:
        raise Unsupported(f"to the type {given['to']}")
    if not is_constant(values[0]):
        kind = np.dtype(_TYPES[given["to"]])
        if kind not in (np.float32, np.float64, np.int32, np.int64):
            raise Unsupported(f"to {kind}")
        return rules.cast(values[0], kind.kind == "f")
    with np.errstate(all="ignore"):
        return array(values[0]).astype(_TYPES[given["to"]])


def _constant_of_shape(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    sizes = wholes(values[0])
    check_room(sizes)
    value = np.ravel(given.get("value", np.zeros(1, np.float32)))
    return np.full(sizes, value[0])


def _range(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    start, end, step = map(whole, values)
    check_room([len(range(start, end, step))])
    return np.arange(start, end, step)


def _trilu(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    diagonal = whole(values[1]) if len(values) > 1 and values[1] is not None else 0
    return folding.triangle(values[0], diagonal, bool(given.get("upper", 1)))


def _shape(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    data = values[0]
    shape = data.shape if isinstance(data, View | Scores) else array(data).shape
    return np.array(shape[given.get("start", 0) : given.get("end")], np.int64)


def _dropout(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    if len(values) > 2 and values[2] is not None and whole(values[2]):
        raise Unsupported("training mode: export the model after model.eval()")
    return values[0]


def _folded(function: Callable[..., Array]) -> Operation:
    def operation(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
        if not all(map(is_constant, values)):
            raise Misplaced("of activations")
        return folding.elementwise(function, *values)

    return operation


def _pow(rules: Rules, values: list[Any], given: Mapping[str, Any]) -> Any:
    raise Unsupported("a layer norm or gelu in parts: export with opset_version=20 or later")


OPERATIONS: Final[Mapping[str, Operation]] = {
    "Gemm": _gemm,
    "MatMul": _matmul,
    "Add": lambda rules, values, given: add(rules, values[0], values[1]),
    "Mul": lambda rules, values, given: multiply(rules, values[0], values[1]),
    "Div": _divide_whole,
    "Where": lambda rules, values, given: where(rules, *values),
    "Conv": _convolution,
    "MaxPool": _pool(average=False),
    "AveragePool": _pool(average=True),
    "GlobalAveragePool": lambda rules, values, given: rules.global_pool(values[0]),
    "ReduceMean": _reduce_mean,
    "LayerNormalization": _layer_norm,
    "Relu": lambda rules, values, given: rules.pointwise(values[0], a.Relu()),
    "Gelu": lambda rules, values, given: rules.gelu(values[0], given.get("approximate", "none")),
    "Softmax": lambda rules, values, given: attending.softmax(values[0], given.get("axis", -1)),
    "Gather": _gather,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Transpose": _transpose,
    "Slice": _slice,
    "Split": _split,
    "Unsqueeze": _unsqueeze,
    "Squeeze": _squeeze,
    "Expand": _expand,
    "Concat": _concat,
    "Cast": _cast,
    "Identity": lambda rules, values, given: values[0],
    "Dropout": _dropout,
    "Constant": lambda rules, values, given: np.asarray(next(iter(given.values()))),
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Trilu": _trilu,
    "Shape": _shape,
    "Sqrt": _folded(np.sqrt),
    "Equal": _folded(np.equal),
    "Not": _folded(np.logical_not),
    "Mod": _folded(np.mod),
    "Sub": _folded(np.subtract),
    "Less": _folded(np.less),
    "LessOrEqual": _folded(np.less_equal),
    "Greater": _folded(np.greater),
    "GreaterOrEqual": _folded(np.greater_equal),
    "And": _folded(np.logical_and),
    "Pow": _pow,
    "Erf": _pow,
}
