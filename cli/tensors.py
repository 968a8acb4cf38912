"""Named arrays as files that any tool reads: safetensors, and NumPy's .npz. Written by hand, so that no node needs
numpy for it; both formats are a header and raw little-endian values, and neither can hold code.

Formats: https://github.com/huggingface/safetensors#format,
https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

Dtype = Literal["float32", "uint8", "uint16"]

SUFFIXES: Final = (".safetensors", ".npz")
_BYTES: Final[Mapping[Dtype, int]] = {"float32": 4, "uint8": 1, "uint16": 2}
_SAFETENSORS: Final[Mapping[Dtype, str]] = {"float32": "F32", "uint8": "U8", "uint16": "U16"}
_NUMPY: Final[Mapping[Dtype, str]] = {"float32": "<f4", "uint8": "|u1", "uint16": "<u2"}
_LONG_AGO: Final = (1980, 1, 1, 0, 0, 0)  # the same arrays make the same file


@dataclass(frozen=True, slots=True)
class Tensor:
    """Raw little-endian values, row-major."""

    dtype: Dtype
    shape: tuple[int, ...]
    values: bytes | memoryview

    def __post_init__(self) -> None:
        assert len(self.values) == math.prod(self.shape) * _BYTES[self.dtype]


def encode(suffix: str, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file's content; `suffix` is one of SUFFIXES."""
    return safetensors(tensors, metadata) if suffix == ".safetensors" else npz(tensors, metadata)


def safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """u64 length of the header, JSON header, values. Wider types first, so that all are aligned."""
    ordered = sorted(tensors.items(), key=lambda item: (-_BYTES[item[1].dtype], item[0]))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + len(tensor.values)
        dtype = _SAFETENSORS[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((len(text).to_bytes(8, "little"), text, *(tensor.values for _, tensor in ordered)))


def npz(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """A zip archive of .npy files; the metadata, if any, is a string in JSON called `metadata`."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in sorted(tensors.items()):
            member = _npy(_NUMPY[tensor.dtype], tensor.shape, tensor.values)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", _LONG_AGO), member)
        if metadata:
            text = json.dumps(dict(metadata))
            member = _npy(f"<U{len(text)}", (), text.encode("utf-32-le"))
            archive.writestr(zipfile.ZipInfo("metadata.npy", _LONG_AGO), member)
    return file.getvalue()


def _npy(descr: str, shape: tuple[int, ...], values: bytes | memoryview) -> bytes:
    """Version 1.0: the whole header is a multiple of 64 bytes and ends with a newline."""
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"".join((b"\x93NUMPY\x01\x00", len(header).to_bytes(2, "little"), header, values))
