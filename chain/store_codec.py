"""How keys and values of the database are written, and how a value shows that it is still what was written.

LMDB does not check what lies on its pages. So every value ends with a CRC-32 of its key and itself: a byte that the
disk has changed, or a value under another key, is found when it is read, for less than a microsecond (a keccak of a
state node takes a hundred times as long). It guards against a bad disk, not against somebody who writes on it.
"""

from __future__ import annotations

import zlib
from typing import Final, TypeVar

import msgspec

from chain.store_errors import StoreDamaged
from chain.types import Attestation

KEY_BYTES_MAX: Final = 511  # LMDB's own limit
NAMESPACE_BYTES_MAX: Final = 64
_CHECK_BYTES: Final = 4

_T = TypeVar("_T")


def seal(key: bytes, value: bytes) -> bytes:
    """The value as it is stored."""
    return value + zlib.crc32(value, zlib.crc32(key)).to_bytes(_CHECK_BYTES, "big")


def unseal(database: str, key: bytes, stored: bytes) -> bytes:
    """The value that was sealed. Raises StoreDamaged if it is not what was written."""
    value, check = stored[:-_CHECK_BYTES], stored[-_CHECK_BYTES:]
    if zlib.crc32(value, zlib.crc32(key)).to_bytes(_CHECK_BYTES, "big") != check:
        raise StoreDamaged(f"{database} {key[:32].hex()} is not what was written")
    return value


def encode(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def number_key(number: int) -> bytes:
    return number.to_bytes(8, "big")


def view_key(epoch: int, view: int) -> bytes:
    return epoch.to_bytes(8, "big") + view.to_bytes(8, "big")


def attestation_key(attestation: Attestation) -> bytes:
    return attestation.claim + attestation.signer.to_bytes(2, "big")


def kv_key(namespace: str, key: bytes) -> bytes:
    name = namespace.encode()
    if not 0 < len(name) <= NAMESPACE_BYTES_MAX or len(name) + 1 + len(key) > KEY_BYTES_MAX:
        raise ValueError(f"key of {len(key)} bytes in namespace {namespace!r} is too long")
    return bytes([len(name)]) + name + key  # the length keeps one namespace from being another's prefix


def decode(value: bytes | None, kind: type[_T]) -> _T | None:
    return None if value is None else decode_found(value, kind)


def decode_found(value: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"{kind.__name__}: {error}") from error
