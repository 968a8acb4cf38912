"""ONNX files, read with the package onnx. Source: https://onnx.ai/onnx/repo-docs/IR.html.

Weights may lie beside the file (torch writes them to model.onnx.data): they are read from files of the same folder and
from nowhere else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from learner.foreign.graph import FILE_BYTES_MAX, RANK_MAX, Array, Graph, InvalidModelFile, Node, Ref

OPSET_MIN, OPSET_MAX = 13, 26
_TYPES: Final[Mapping[int, str]] = {
    1: "<f4", 2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8",
}  # fmt: skip


class OnnxMissing(Exception):
    """The package onnx is not installed here."""

    def __str__(self) -> str:
        return "the package onnx is needed to read .onnx files: pip install 'flnode[onnx]', or export a .pt2 archive"


def read_onnx(path: Path) -> Graph:
    """The graph of a file.

    Raises:
        OnnxMissing.
        InvalidModelFile, OSError.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise OnnxMissing from None
    try:
        model = onnx.load_model_from_string(path.read_bytes())
        return _graph(model, path.parent)
    except DecodeError:
        raise InvalidModelFile("neither a torch.export archive nor an ONNX file") from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise InvalidModelFile(f"not a sound ONNX file: {type(error).__name__}: {error}") from None


def _graph(model: Any, folder: Path) -> Graph:
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if not OPSET_MIN <= opset <= OPSET_MAX:
        raise InvalidModelFile(f"operations of opset {opset}, expected {OPSET_MIN} to {OPSET_MAX}")
    graph = model.graph
    if len(graph.sparse_initializer):
        raise InvalidModelFile("sparse weights")
    left = [FILE_BYTES_MAX]
    constants = {each.name: _tensor(each, folder, left) for each in graph.initializer}
    inputs = {each.name: _shape(each) for each in graph.input if each.name not in constants}
    nodes = tuple(_node(place, each, folder, left) for place, each in enumerate(graph.node))
    shapes = {each.name: _shape(each) for each in (*_inferred(model), *graph.output)}
    return Graph(constants, inputs, tuple(each.name for each in graph.output), nodes, shapes)


def _inferred(model: Any) -> list[Any]:
    """Shapes of the values between; what the package cannot tell is left out."""
    import onnx

    try:
        return list(onnx.shape_inference.infer_shapes(model).graph.value_info)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return []


def _shape(info: Any) -> tuple[int | None, ...]:
    return tuple(each.dim_value or None for each in info.type.tensor_type.shape.dim)


def _node(place: int, node: Any, folder: Path, left: list[int]) -> Node:
    op = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    given = {each.name: _attribute(each, folder, left) for each in node.attribute}
    given |= {"outputs": len(node.output)} if op == "Split" else {}
    inputs = tuple(Ref(name) if name else None for name in node.input)
    return Node(node.name or f"node {place}", op, inputs, given, tuple(node.output))


def _attribute(attribute: Any, folder: Path, left: list[int]) -> Any:
    import onnx

    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode("ascii", errors="replace")
    if isinstance(value, onnx.TensorProto):
        return _tensor(value, folder, left)
    if isinstance(value, int | float):
        return value
    return [each for each in value if isinstance(each, int | float)] if hasattr(value, "__iter__") else None


def _tensor(tensor: Any, folder: Path, left: list[int]) -> Array:
    """Its values; `left` is how many bytes may still lie in other files."""
    import onnx

    if tensor.data_type not in _TYPES:
        kind = onnx.TensorProto.DataType.Name(tensor.data_type)
        raise InvalidModelFile(f"{tensor.name}: values of type {kind}, expected FLOAT")
    if len(tensor.dims) > RANK_MAX:
        raise InvalidModelFile(f"{tensor.name}: {len(tensor.dims)} dimensions")
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return np.array(onnx.numpy_helper.to_array(tensor))
    return np.frombuffer(_beside(tensor, folder, left), np.dtype(_TYPES[tensor.data_type])).reshape(tuple(tensor.dims))


def _beside(tensor: Any, folder: Path, left: list[int]) -> bytes:
    """Raw values out of a file in the model's own folder."""
    given = {each.key: each.value for each in tensor.external_data}
    location, offset, length = given["location"], int(given.get("offset", 0)), int(given["length"])
    if Path(location).name != location or location in ("", ".", ".."):
        raise InvalidModelFile(f"{tensor.name}: weights in {location!r}, which is not a file beside the model")
    left[0] -= length
    if offset < 0 or length < 0 or left[0] < 0:
        raise InvalidModelFile(f"{tensor.name}: {length} bytes at {offset} of {location}, at most {FILE_BYTES_MAX}")
    try:
        with open(os.open(folder / location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            file.seek(offset)
            content = file.read(length)
    except OSError as error:
        raise InvalidModelFile(f"{tensor.name}: its weights are in {location}: {error.strerror}") from None
    if len(content) != length:
        raise InvalidModelFile(f"{tensor.name}: {location} ends before its values do")
    return content
