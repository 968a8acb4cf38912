"""The canonical bytes of a model state: equal states have equal bytes, hence equal digests.

Layout, little-endian, nothing between or after the parts (docs/EXACT.md, "Canonical bytes"):

    magic "flstate1" (8)  arithmetic version u16  bits b u16  count u32
    count times, by strictly ascending name:
        name length u8, name (ASCII)   dtype u8 (1 = float32)   rank u8   rank dimensions u32   raw values

Minus zero is written as plus zero; NaN and infinity are refused. This module handles the layout and needs no torch;
`learner.tensors` converts the values and checks them.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from learner.errors import InvalidState

ARITHMETIC_VERSION: Final = 1
STATE_BYTES_MAX: Final = 64 * 2**20
TENSORS_MAX: Final = 1024
NAME_BYTES_MAX: Final = 64
RANK_MAX: Final = 4

_MAGIC: Final = b"flstate1"
_HEADER: Final = struct.Struct("<8sHHI")
_FLOAT32: Final = 1
_FLOAT32_BYTES: Final = 4
_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._/]{0,63}")


@dataclass(frozen=True, slots=True)
class Field:
    """Name and shape of one float32 tensor of a state; every dimension is at least 1."""

    name: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the raw values."""
        return _FLOAT32_BYTES * math.prod(self.shape)


def encoded_size(fields: Iterable[Field]) -> int:
    """Length in bytes of the canonical form of a state with these fields."""
    return _HEADER.size + sum(3 + len(f.name) + 4 * len(f.shape) + f.nbytes for f in fields)


def join(bits: int, parts: Sequence[tuple[Field, bytes | bytearray | memoryview]]) -> bytes:
    """Lay out fields and their raw little-endian values; the order of `parts` does not matter.

    Raises:
        ValueError: a bad name, equal names, a value buffer of the wrong length: our own bug, never a peer's.
    """
    ordered = sorted(parts, key=lambda part: part[0].name)
    names = [field.name for field, _ in ordered]
    if len(set(names)) != len(names) or not all(_NAME.fullmatch(name) for name in names):
        raise ValueError(f"names must be distinct and match {_NAME.pattern}: {names}")
    out = bytearray(_HEADER.pack(_MAGIC, ARITHMETIC_VERSION, bits, len(ordered)))
    for field, values in ordered:
        raw = memoryview(values).cast("B")
        if raw.nbytes != field.nbytes:
            raise ValueError(f"{field.name}: {raw.nbytes} bytes of values, expected {field.nbytes}")
        name = field.name.encode()
        out += struct.pack(
            f"<B{len(name)}sBB{len(field.shape)}I", len(name), name, _FLOAT32, len(field.shape), *field.shape
        )
        out += raw
    return bytes(out)


def split(data: bytes) -> tuple[int, list[tuple[Field, memoryview]]]:
    """Parse the layout of a state: (bits, fields with their raw values). The values are not looked at.

    Raises:
        InvalidState: truncated, too long, foreign, of another version, names out of order, an empty dimension.
    """
    if len(data) > STATE_BYTES_MAX:
        raise InvalidState(f"state: {len(data)} bytes, at most {STATE_BYTES_MAX}")
    reader = _Reader(data)
    magic, version, bits, count = _HEADER.unpack(reader.take(_HEADER.size, "header"))
    if magic != _MAGIC:
        raise InvalidState("state: not a state: wrong magic")
    if version != ARITHMETIC_VERSION:
        raise InvalidState(f"state: arithmetic version {version}, expected {ARITHMETIC_VERSION}")
    if count > TENSORS_MAX:
        raise InvalidState(f"state: {count} tensors, at most {TENSORS_MAX}")
    parts: list[tuple[Field, memoryview]] = []
    for index in range(count):
        field = _read_field(reader, f"tensor {index}")
        if parts and field.name <= parts[-1][0].name:
            raise InvalidState(f"state: tensor {index}: name {field.name!r} is not after {parts[-1][0].name!r}")
        parts.append((field, reader.take(field.nbytes, field.name)))
    if reader.left:
        raise InvalidState(f"state: {reader.left} bytes after the last tensor")
    return bits, parts


def _read_field(reader: _Reader, where: str) -> Field:
    raw_name = bytes(reader.take(reader.take(1, where)[0], where))
    name = raw_name.decode("ascii", errors="replace")
    if not _NAME.fullmatch(name):
        raise InvalidState(f"state: {where}: bad name {name!r}")
    dtype, rank = reader.take(2, where)
    if dtype != _FLOAT32:
        raise InvalidState(f"state: {name}: unknown dtype {dtype}")
    if rank > RANK_MAX:
        raise InvalidState(f"state: {name}: rank {rank}, at most {RANK_MAX}")
    shape = struct.unpack(f"<{rank}I", reader.take(4 * rank, name))
    if 0 in shape:
        raise InvalidState(f"state: {name}: an empty dimension in shape {shape}")
    return Field(name, shape)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._view = memoryview(data)
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._view) - self._at

    def take(self, count: int, where: str) -> memoryview:
        if count > self.left:
            raise InvalidState(f"state: ends inside {where}: {count} bytes wanted, {self.left} left")
        piece = self._view[self._at : self._at + count]
        self._at += count
        return piece
