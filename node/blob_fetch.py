"""What one fetch of a blob knows, and the words of the exchange's protocol; see blobs.py. Does no I/O of its own."""

from __future__ import annotations

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


_encode = msgspec.msgpack.Encoder().encode
_decode_request = msgspec.msgpack.Decoder(Want | Leaves).decode
_decode_size = msgspec.msgpack.Decoder(tuple[int | None]).decode


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
    """The blob has this size, proven by its digest, and more than the caller allows."""

    digest: bytes
    size: int
    size_max: float

    def __str__(self) -> str:
        return f"blob {self.digest.hex()[:16]} has {self.size} bytes, the limit is {self.size_max}"


@dataclass(eq=False)
class _Fetch:
    """One digest being fetched, for everybody who waits for it."""

    digest: bytes
    hops: int
    size_max: float
    waiters: int = 0
    layout: Layout | None = None
    leaves: dict[int, bytes] = field(default_factory=dict)  # verified
    taken: Counter[int] = field(default_factory=Counter)  # span -> how many peers deliver it right now
    asked: dict[str, str] = field(default_factory=dict)
    liars: set[str] = field(default_factory=set)
    askers: Counter[str] = field(default_factory=Counter)  # peers on whose behalf we look
    rounds: int = 0  # asks that came back with nothing
    result: bytes | BlobTooLarge | None = None
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    def take_span(self) -> int | None:
        """A span with missing leaves: a free one, or one that a single other peer is slow with."""
        assert self.layout is not None
        spans = range(0, len(self.layout.leaves), SPAN_LEAVES)
        open_spans = [span for span in spans if self.taken[span] < 2 and self.missing(span)]
        if not open_spans:
            return None
        span = min(open_spans, key=lambda span: (self.taken[span], span))
        self.taken[span] += 1
        return span

    def missing(self, span: int) -> list[int]:
        assert self.layout is not None
        end = min(span + SPAN_LEAVES, len(self.layout.leaves))
        return [index for index in range(span, end) if index not in self.leaves]

    def is_complete(self) -> bool:
        return self.layout is not None and len(self.leaves) == len(self.layout.leaves)

    def finish(self, result: bytes | BlobTooLarge) -> None:
        self.result = result
        self.done.set()
        self.scope.cancel()


async def _read_size(answer: Answer) -> int | None:
    frame = await answer.next(64)
    try:
        (size,) = _decode_size(frame or b"")
    except msgspec.MsgspecError as error:
        raise PeerFault(f"blob answer: {error}") from error
    if size is not None and not 0 <= size <= _ANNOUNCED_MAX:
        raise PeerFault(f"announces a blob of {size} bytes")
    return size


def _layout_from(size: int, text: bytes) -> Layout:
    if len(text) != DIGEST_BYTES * unixfs.leaves_count(size):
        raise PeerFault("its list of leaves does not fit the size")
    return Layout(size, tuple(text[at : at + DIGEST_BYTES] for at in range(0, len(text), DIGEST_BYTES)))
