"""Names of blobs: CIDv1, and the UnixFS layout of those above 256 KiB. Pure.

A blob of up to 256 KiB is one raw block. A larger one is cut into raw leaves of 256 KiB, and dag-pb nodes of up to 174
links are laid over them, level by level, until one is left: the root. A lone node at the end of a level is wrapped like
any other. Byte-equal to what IPFS tools make of the same settings (`--cid-version 1 --raw-leaves --chunker
size-262144`). Since the layout is fixed, the leaves' digests and the size are enough to compute the root: whoever
fetches a blob checks them against its digest and needs no dag-pb decoder.

Formats: https://github.com/multiformats/cid, https://ipld.io/specs/codecs/dag-pb/spec, https://specs.ipfs.tech/unixfs.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

LEAF_BYTES: Final = 256 * 1024
LINKS_MAX: Final = 174
DIGEST_BYTES: Final = 32

_RAW: Final = b"\x01\x55\x12\x20"  # CIDv1, codec raw, sha2-256, 32 bytes
_DAG_PB: Final = b"\x01\x70\x12\x20"
_FILE: Final = b"\x08\x02"  # UnixFS Data.Type = File


@dataclass(frozen=True, slots=True)
class Layout:
    """What a blob consists of."""

    size: int  # bytes
    leaves: tuple[bytes, ...]  # sha2-256 of each leaf, in order; one for a raw blob

    @property
    def digest(self) -> bytes:
        """The sha2-256 inside the blob's CID."""
        return self.leaves[0] if is_raw(self.size) else _root(self.leaves, self.size)

    def leaf_size(self, index: int) -> int:
        return min(LEAF_BYTES, self.size - index * LEAF_BYTES)


def is_raw(size: float) -> bool:
    """Whether a blob of this size is one raw block, not a dag-pb root."""
    return size <= LEAF_BYTES


def leaves_count(size: int) -> int:
    """Leaves of a blob of this size; 1 for an empty one."""
    return max(1, -(-size // LEAF_BYTES))


def layout(data: bytes) -> Layout:
    """Cut and hash a blob."""
    view = memoryview(data)
    spans = (view[at : at + LEAF_BYTES] for at in range(0, max(1, len(data)), LEAF_BYTES))
    return Layout(len(data), tuple(hashlib.sha256(span).digest() for span in spans))


def digest_of(data: bytes) -> bytes:
    """The digest that names a blob: the sha2-256 inside its CID."""
    return layout(data).digest


def cid(digest: bytes, size: float) -> str:
    """The CIDv1 in base32 of a blob with this digest and size."""
    prefix = _RAW if is_raw(size) else _DAG_PB
    return _base32(prefix + digest)


def parse_cid(text: str) -> bytes:
    """The digest inside a CIDv1 (base32, sha2-256, raw or dag-pb).

    Raises:
        ValueError: another kind of CID, or none.
    """
    padded = text[1:].upper() + "=" * (-len(text[1:]) % 8)
    try:
        data = base64.b32decode(padded)
    except ValueError:
        data = b""
    canonical = text == _base32(data)  # the last digit has bits to spare
    if not canonical or data[:4] not in (_RAW, _DAG_PB) or len(data) != 4 + DIGEST_BYTES:
        raise ValueError(f"not a CIDv1 of a raw or dag-pb block in base32: {text[:80]!r}")
    return data[4:]


def _base32(data: bytes) -> str:
    return "b" + base64.b32encode(data).decode().lower().rstrip("=")


@dataclass(frozen=True, slots=True)
class _Child:
    cid: bytes
    file_bytes: int  # of the file below
    dag_bytes: int  # of all blocks below, the child's own included (dag-pb's Tsize)


def _root(leaves: Sequence[bytes], size: int) -> bytes:
    level = [
        _Child(_RAW + digest, leaf_size, leaf_size)
        for index, digest in enumerate(leaves)
        for leaf_size in (min(LEAF_BYTES, size - index * LEAF_BYTES),)
    ]
    while True:
        level = [_wrap(level[at : at + LINKS_MAX]) for at in range(0, len(level), LINKS_MAX)]
        if len(level) == 1:
            return level[0].cid[len(_DAG_PB) :]


def _wrap(children: Sequence[_Child]) -> _Child:
    block = b"".join(_encode_node(children))
    return _Child(
        _DAG_PB + hashlib.sha256(block).digest(),
        sum(child.file_bytes for child in children),
        len(block) + sum(child.dag_bytes for child in children),
    )


def _encode_node(children: Sequence[_Child]) -> Iterator[bytes]:
    """A dag-pb node: links (field 2: Hash 1, Name 2, Tsize 3) before data (field 1: UnixFS)."""
    for child in children:
        yield _field(2, _field(1, child.cid) + _field(2, b"") + b"\x18" + _varint(child.dag_bytes))
    sizes = b"".join(b"\x20" + _varint(child.file_bytes) for child in children)
    yield _field(1, _FILE + b"\x18" + _varint(sum(child.file_bytes for child in children)) + sizes)


def _field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
