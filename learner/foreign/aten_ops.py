"""What the operations of a torch.export graph mean. Source: torch's native_functions.yaml."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np

from learner import architecture as a
from learner.foreign import attending, folding
from learner.foreign.folding import array, is_constant, whole, wholes
from learner.foreign.graph import Array, check_room
from learner.foreign.onnx_ops import add, multiply, where
from learner.foreign.rules import Rules
from learner.foreign.values import Unsupported, View

Given = Mapping[str, Any]
Operation = Callable[[Rules, Given], Any]
_INT, _LONG, _FLOAT, _DOUBLE = 4, 5, 7, 8  # torch/_export/serde/schema.py, ScalarType


def _optional(value: Any) -> Array | None:
    return None if value is None else array(value)


def _matmul(rules: Rules, left: Any, right: Any) -> Any:
    if is_constant(left):
        raise Unsupported("a constant times an activation")
    return rules.linear(left, array(right).T, None) if is_constant(right) else attending.matmul(rules, left, right)


def _addmm(rules: Rules, given: Given) -> Any:
    _plain(given)
    return rules.linear(given["mat1"], array(given["mat2"]).T, array(given["self"]))


def _baddbmm(rules: Rules, given: Given) -> Any:
    _plain(given)
    return add(rules, attending.matmul(rules, given["batch1"], given["batch2"]), given["self"])


def _plain(given: Given) -> None:
    if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        raise Unsupported("alpha or beta other than 1")


def _add(rules: Rules, given: Given) -> Any:
    _plain(given)
    return add(rules, given["self"], given["other"])


def _sub(rules: Rules, given: Given) -> Any:
    _plain(given)
    return folding.elementwise(np.subtract, given["self"], given["other"])


def _convolution(rules: Rules, given: Given) -> Any:
    return rules.convolution(
        given["input"], array(given["weight"]), _optional(given.get("bias")), given.get("stride", 1),
        given.get("padding", 0), given.get("dilation", 1), given.get("groups", 1),
    )  # fmt: skip


def _pool(average: bool) -> Operation:
    def operation(rules: Rules, given: Given) -> Any:
        if given.get("divisor_override") is not None:
            raise Unsupported("divisor_override")
        size = given["kernel_size"]
        stride, dilation = given.get("stride") or size, given.get("dilation", 1)
        return rules.pool(
            given["self"], average, size, stride, given.get("padding", 0), dilation, given.get("ceil_mode", False)
        )

    return operation


def _layer_norm(rules: Rules, given: Given) -> Any:
    axes, weight, bias = len(given["normalized_shape"]), _optional(given.get("weight")), _optional(given.get("bias"))
    return rules.layer_norm(given["input"], axes, weight, bias, given.get("eps", 1e-5))


def _mean(rules: Rules, given: Given) -> Any:
    axes = sorted(given.get("dim") or [])
    if axes not in ([-2, -1], [2, 3]):
        raise Unsupported(f"over dimensions {axes}: only over height and width")
    pooled = rules.global_pool(given["self"])
    return pooled if given.get("keepdim", False) else folding.reshaped(pooled, list(pooled.shape[:2]))


def _dropout(rules: Rules, given: Given) -> Any:
    if given.get("train") and given.get("p"):
        raise Unsupported("training mode: export the model after model.eval()")
    return given["input"]


def _attention(rules: Rules, given: Given) -> Any:
    if given.get("enable_gqa"):
        raise Unsupported("enable_gqa: only as many keys as queries")
    return attending.scaled_dot_product(
        rules, given["query"], given["key"], given["value"], given.get("attn_mask"), given.get("dropout_p", 0.0),
        given.get("is_causal", False), given.get("scale"),
    )  # fmt: skip


def _slice(rules: Rules, given: Given) -> Any:
    start, end = given.get("start"), given.get("end")
    ends = 2**62 if end is None else whole(end)
    return folding.part(given["self"], given.get("dim", 0), start or 0, ends, given.get("step", 1))


def _chunk(rules: Rules, given: Given) -> Any:
    data, dim, count = given["self"], given.get("dim", 0), whole(given["chunks"])
    if not 1 <= count <= 64:
        raise Unsupported(f"{count} pieces")
    size = -(-data.shape[dim] // count)
    return _pieces(data, size, dim)


def _split(rules: Rules, given: Given) -> Any:
    data, dim = given["self"], given.get("dim", 0)
    sizes = given.get("split_size", given.get("split_sizes"))
    return folding.split(data, wholes(sizes), dim) if isinstance(sizes, list) else _pieces(data, whole(sizes), dim)


def _pieces(data: Any, size: int, dim: int) -> tuple[Any, ...]:
    length = data.shape[dim]
    if size < 1:
        raise Unsupported(f"pieces of {size}")
    count = -(-length // size)
    if count > 64:
        raise Unsupported(f"{count} pieces")
    return folding.split(data, [min(size, length - size * place) for place in range(count)], dim)


def _unbind(rules: Rules, given: Given) -> Any:
    data, dim = given["self"], given.get("dim", 0)
    if data.shape[dim] > 64:
        raise Unsupported(f"{data.shape[dim]} pieces")
    return tuple(_select(data, dim, place) for place in range(data.shape[dim]))


def _select(data: Any, dim: int, place: int) -> Any:
    return folding.moved(data, lambda places: np.take(places, place, dim))


def _unflatten(rules: Rules, given: Given) -> Any:
    data, dim = given["self"], given["dim"]
    shape = list(data.shape)
    dim += len(shape) if dim < 0 else 0
    return folding.reshaped(data, [*shape[:dim], *wholes(given["sizes"]), *shape[dim + 1 :]])


def _squeeze(rules: Rules, given: Given) -> Any:
    dims = given.get("dim")
    shape = given["self"].shape
    dims = range(len(shape)) if dims is None else wholes(dims)
    axes = tuple(dim for dim in dims if shape[dim] == 1)
    return folding.moved(given["self"], lambda places: places.squeeze(axes))


def _transpose(rules: Rules, given: Given) -> Any:
    return folding.moved(given["self"], lambda places: np.swapaxes(places, given["dim0"], given["dim1"]))


def _filled(value: float) -> Operation:
    def operation(rules: Rules, given: Given) -> Any:
        sizes = wholes(given["size"])
        check_room(sizes)
        chosen = given.get("fill_value", value)
        return np.full(sizes, chosen, np.float32 if isinstance(chosen, float) else None)

    return operation


def _arange(rules: Rules, given: Given) -> Any:
    start, end, step = (whole(given.get(name, default)) for name, default in (("start", 0), ("end", None), ("step", 1)))
    check_room([len(range(start, end, step))])
    return np.arange(start, end, step)


def _embedding(rules: Rules, given: Given) -> Any:
    weight, indices = array(given["weight"]), given["indices"]
    if isinstance(indices, View):
        return rules.embedding(weight, indices)
    chosen = array(indices).astype(np.int64)
    check_room((*chosen.shape, *weight.shape[1:]))
    return weight[chosen]


def _masked_fill(rules: Rules, given: Given) -> Any:
    return where(rules, ~array(given["mask"]).astype(bool), given["self"], given["value"])


def _to(rules: Rules, given: Given) -> Any:
    dtype = given.get("dtype")
    if is_constant(given["self"]) or dtype is None:
        return given["self"]
    if dtype not in (_INT, _LONG, _FLOAT, _DOUBLE):
        raise Unsupported(f"to torch's type {dtype}")
    return rules.cast(given["self"], dtype in (_FLOAT, _DOUBLE))


def _as_is(name: str) -> Operation:
    return lambda rules, given: given[name]


def _folded(function: Callable[..., Array], *names: str) -> Operation:
    return lambda rules, given: folding.elementwise(function, *(given[name] for name in names))


def _integers(function: Callable[..., int]) -> Operation:
    return lambda rules, given: function(*map(whole, given.values()))


OPERATIONS: Final[Mapping[str, Operation]] = {
    "linear": lambda rules, g: rules.linear(g["input"], array(g["weight"]), _optional(g.get("bias"))),
    "addmm": _addmm,
    "mm": lambda rules, g: _matmul(rules, g["self"], g["mat2"]),
    "matmul": lambda rules, g: _matmul(rules, g["self"], g["other"]),
    "bmm": lambda rules, g: _matmul(rules, g["self"], g["mat2"]),
    "baddbmm": _baddbmm,
    "add": _add,
    "add_": _add,
    "sub": _sub,
    "mul": lambda rules, g: multiply(rules, g["self"], g["other"]),
    "div": lambda rules, g: multiply(rules, g["self"], g["other"], divide=True),
    "conv2d": _convolution,
    "max_pool2d": _pool(average=False),
    "avg_pool2d": _pool(average=True),
    "adaptive_avg_pool2d": lambda rules, g: rules.global_pool(g["self"], tuple(wholes(g["output_size"]))),
    "mean": _mean,
    "layer_norm": _layer_norm,
    "relu": lambda rules, g: rules.pointwise(g["self"], a.Relu()),
    "relu_": lambda rules, g: rules.pointwise(g["self"], a.Relu()),
    "gelu": lambda rules, g: rules.gelu(g["self"], g.get("approximate", "none")),
    "softmax": lambda rules, g: attending.softmax(g["self"], g["dim"]),
    "_softmax": lambda rules, g: attending.softmax(g["self"], g["dim"]),
    "scaled_dot_product_attention": _attention,
    "embedding": _embedding,
    "masked_fill": _masked_fill,
    "where": lambda rules, g: where(rules, g["condition"], g["self"], g["other"]),
    "dropout": _dropout,
    "view": lambda rules, g: folding.reshaped(g["self"], wholes(g["size"])),
    "_unsafe_view": lambda rules, g: folding.reshaped(g["self"], wholes(g["size"])),
    "reshape": lambda rules, g: folding.reshaped(g["self"], wholes(g["shape"])),
    "flatten": lambda rules, g: folding.flattened(g["self"], g.get("start_dim", 0), g.get("end_dim", -1)),
    "unflatten": _unflatten,
    "transpose": _transpose,
    "permute": lambda rules, g: folding.moved(g["self"], lambda places: places.transpose(wholes(g["dims"]))),
    "t": lambda rules, g: folding.moved(g["self"], lambda places: places.T),
    "unsqueeze": lambda rules, g: folding.moved(g["self"], lambda places: np.expand_dims(places, g["dim"])),
    "squeeze": _squeeze,
    "expand": lambda rules, g: folding.expanded(g["self"], wholes(g["size"])),
    "slice": _slice,
    "select": lambda rules, g: _select(g["self"], g["dim"], whole(g["index"])),
    "chunk": _chunk,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _unbind,
    "contiguous": _as_is("self"),
    "clone": _as_is("self"),
    "alias": _as_is("self"),
    "detach_": _as_is("self"),
    "detach": _as_is("self"),
    "lift_fresh_copy": _as_is("self"),
    "to": _to,
    "_to_copy": _to,
    "operator.getitem": lambda rules, g: g["a"][whole(g["b"])],
    "sym_size": lambda rules, g: g["self"].shape[g["dim"]],
    "operator.mul": _integers(lambda x, y: x * y),
    "operator.add": _integers(lambda x, y: x + y),
    "operator.sub": _integers(lambda x, y: x - y),
    "operator.floordiv": _integers(lambda x, y: x // y),
    "arange": _arange,
    "ones": _filled(1.0),
    "zeros": _filled(0.0),
    "full": _filled(0.0),
    "tril": lambda rules, g: folding.triangle(g["self"], g.get("diagonal", 0), upper=False),
    "triu": lambda rules, g: folding.triangle(g["self"], g.get("diagonal", 0), upper=True),
    "logical_not": _folded(np.logical_not, "self"),
    "bitwise_not": _folded(np.logical_not, "self"),
    "eq": _folded(np.equal, "self", "other"),
    "lt": _folded(np.less, "self", "other"),
    "le": _folded(np.less_equal, "self", "other"),
    "gt": _folded(np.greater, "self", "other"),
    "ge": _folded(np.greater_equal, "self", "other"),
}
