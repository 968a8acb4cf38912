"""What one fetch of a blob knows, and the words of the exchange's protocol; see blobs.py."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from node import unixfs
from node.blob_store import BlobError
from node.p2p.requests import Answer
from node.p2p.types import PeerFault
from node.unixfs import DIGEST_BYTES, Layout

INLINE_BYTES: Final = 16 * 1024  # a blob of up to this size comes with the first answer
SPAN_LEAVES: Final = 16  # downloaded with one request
SLOW_S: Final = 2.0  # a span without a new leaf for so long may be asked of a second peer
ANNOUNCED_MAX: Final = 1 << 40  # a size above is a lie; bounds the list of leaves that is read for it


class Want(msgspec.Struct, frozen=True, array_like=True, tag=0, forbid_unknown_fields=True):
    digest: bytes
    hops: int
    size_max: int


class Leaves(msgspec.Struct, frozen=True, array_like=True, tag=1, forbid_unknown_fields=True):
    digest: bytes
    first: int
    count: int


encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Want | Leaves).decode
_decode_size = msgspec.msgpack.Decoder(tuple[int | None]).decode
NOT_HERE: Final = encode((None,))


@dataclass(eq=False)
class BlobUnavailable(BlobError):
    """Nobody gave the blob in time."""

    digest: bytes
    asked: dict[str, str]  # peer id -> what came of it

    def __str__(self) -> str:
        answers = "; ".join(f"{peer[-8:]}: {answer}" for peer, answer in self.asked.items()) or "no peer to ask"
        return f"blob {self.digest.hex()[:16]} is not to be had ({answers})"


@dataclass(eq=False)
class BlobTooLarge(BlobError):
    """The blob has this size, proven by its digest, and that is more than the caller allows."""

    digest: bytes
    size: int
    size_max: float

    def __str__(self) -> str:
        return f"blob {self.digest.hex()[:16]} has {self.size} bytes, the limit is {self.size_max}"


def decode_request(data: bytes) -> Want | Leaves:
    """Raises PeerFault."""
    try:
        wanted: Want | Leaves = _decode_request(data)
    except msgspec.MsgspecError as error:
        raise PeerFault(f"blob request: {error}") from error
    if len(wanted.digest) != DIGEST_BYTES:
        raise PeerFault("blob request: not a digest")
    return wanted


async def read_offer(answer: Answer, digest: bytes) -> tuple[Layout, bytes | None] | None:
    """The answer to a Want: the layout, which gives the digest, and the blob itself if it is small. None: not there.

    Of a raw blob above 16 KiB the size is the peer's word until the leaf has come.

    Raises:
        PeerFault: the answer does not fit the digest.
        ConnectionEnded.
    """
    try:
        (size,) = _decode_size(await answer.next(64) or b"")
    except msgspec.MsgspecError as error:
        raise PeerFault(f"blob answer: {error}") from error
    if size is None:
        return None
    if not 0 <= size <= ANNOUNCED_MAX:
        raise PeerFault(f"announces a blob of {size} bytes")
    if size <= INLINE_BYTES:
        data = await answer.next(INLINE_BYTES) or b""
        layout = unixfs.layout(data)
    else:
        data = None
        text = await answer.next(DIGEST_BYTES * unixfs.leaves_count(size)) or b""
        layout = Layout(size, tuple(text[at : at + DIGEST_BYTES] for at in range(0, len(text), DIGEST_BYTES)))
        if len(text) != DIGEST_BYTES * unixfs.leaves_count(size):
            raise PeerFault("its list of leaves does not fit the size")
    if layout.digest != digest:
        raise PeerFault("what it offers does not have the digest")
    return layout, data


@dataclass(eq=False)
class Fetch:
    """One digest being fetched, for everybody who waits for it.

    `size`: the only size that will do, or None. It matters to who does not trust the blob's maker: the same digest can
    name a raw blob and, if that blob happens to be a dag-pb root, the file below it.
    """

    digest: bytes
    size: int | None
    hops: int
    size_max: float
    waiters: int = 0
    layout: Layout | None = None
    leaves: dict[int, bytes] = field(default_factory=dict)  # verified
    taken: Counter[int] = field(default_factory=Counter)  # span -> how many peers deliver it right now
    touched: dict[int, float] = field(default_factory=dict)  # span -> when it was taken or had its last leaf
    asked: dict[str, str] = field(default_factory=dict)
    liars: set[str] = field(default_factory=set)
    askers: Counter[str] = field(default_factory=Counter)  # peers on whose behalf we look
    misses: int = 0  # answers that were no
    result: bytes | BlobTooLarge | None = None
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def adopt(self, layout: Layout) -> bool:
        """Whether this is the blob that is being fetched; the first layout decides unless the size is given."""
        if self.size is not None and layout.size != self.size:
            return False
        if self.layout is None:
            self.layout = layout
        return self.layout.leaves == layout.leaves

    def take_leaf(self, index: int, leaf: bytes, now: float) -> None:
        """Raises PeerFault when it is not the leaf that the layout says."""
        assert self.layout is not None
        if hashlib.sha256(leaf).digest() != self.layout.leaves[index]:
            raise PeerFault(f"leaf {index} does not have its digest")
        if unixfs.is_raw(self.layout.size) and self.size is None:
            self.layout = Layout(len(leaf), self.layout.leaves)
        elif len(leaf) != self.layout.leaf_size(index):
            raise PeerFault(f"leaf {index} does not have its size")
        self.leaves[index] = leaf
        self.touched[index - index % SPAN_LEAVES] = now

    def take_span(self, now: float) -> int | None:
        """A span with missing leaves that nobody delivers, else one that a single peer is slow with."""
        assert self.layout is not None
        slow = None
        for span in range(0, len(self.layout.leaves), SPAN_LEAVES):
            if self.taken[span] > 1 or not self.missing(span):
                continue
            if self.taken[span] == 0:
                break
            if slow is None and now - self.touched[span] >= SLOW_S:
                slow = span
        else:
            if slow is None:
                return None
            span = slow
        self.taken[span] += 1
        self.touched[span] = now
        return span

    def missing(self, span: int) -> list[int]:
        assert self.layout is not None
        end = min(span + SPAN_LEAVES, len(self.layout.leaves))
        return [index for index in range(span, end) if index not in self.leaves]

    def whole(self) -> bytes | None:
        """The blob, when no leaf is missing."""
        if self.layout is None or len(self.leaves) < len(self.layout.leaves):
            return None
        return b"".join(self.leaves[index] for index in range(len(self.layout.leaves)))

    def finish(self, result: bytes | BlobTooLarge) -> None:
        self.result = result
        self.done.set()
        self.scope.cancel()
