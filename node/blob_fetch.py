"""What one fetch of a blob knows, and the words of the exchange's protocol; see blobs.py."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec
import trio

from node import unixfs
from node.blob_room import Claim
from node.blob_store import BlobError
from node.p2p.peers import redial_delay_s
from node.p2p.requests import Answer
from node.p2p.types import PeerFault
from node.unixfs import DIGEST_BYTES, LEAF_BYTES, Layout

INLINE_BYTES: Final = 16 * 1024  # a blob of up to this size comes with the first answer
SPAN_LEAVES: Final = 16  # downloaded with one request
SLOW_S: Final = 2.0  # a span without a new leaf for so long may be asked of a second peer
ANNOUNCED_MAX: Final = 1 << 34  # a size above is a lie; bounds the list of leaves that is read for it, to 2 MiB
LONG_LIST_BYTES: Final = 16 * 1024  # few lists of leaves above this size are read at the same time
RETRY_MIN_S, RETRY_QUICK_S, RETRY_MAX_S = 0.02, 1.0, 30.0
_RECORDS_MAX: Final = 256  # peers that a fetch remembers; beyond, only those that are connected


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


async def read_offer(
    answer: Answer, digest: bytes, long_lists: trio.CapacityLimiter
) -> tuple[Layout, bytes | None] | None:
    """The answer to a Want: the layout, which gives the digest, and the blob itself if it is small. None: not there.

    Of a raw blob above 16 KiB the size is the peer's word until the leaf has come.

    Args:
        long_lists: bounds the memory that lists above LONG_LIST_BYTES take.
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
        list_bytes = DIGEST_BYTES * unixfs.leaves_count(size)
        if list_bytes > LONG_LIST_BYTES:
            async with long_lists:
                text = await answer.next(list_bytes) or b""
        else:
            text = await answer.next(list_bytes) or b""
        if len(text) != list_bytes:
            raise PeerFault("its list of leaves does not fit the size")
        layout = Layout(size, tuple(text[at : at + DIGEST_BYTES] for at in range(0, len(text), DIGEST_BYTES)))
    if layout.digest != digest:
        raise PeerFault("what it offers does not have the digest")
    return layout, data


def retry_pause_s(attempts: int, age_s: float, crowding: float, jitter: float) -> float:
    """Seconds for which a peer that did not have a blob is left in peace.

    Doubles with every attempt, from 0.02 s to 1 s while the fetch is young, then to a quarter of its age, at most 30 s.

    Args:
        attempts: how often it was asked, >= 1.
        age_s: for how long it has been asked.
        crowding: fetches there are, as a multiple of those that may ask at the same time. Above 1 it stretches the
            30 s, so that a crowd of blobs that nobody has asks no more questions a second than a full house.
        jitter: uniform in [0, 1).
    """
    longest_s = min(max(RETRY_QUICK_S, age_s / 4), RETRY_MAX_S * max(1.0, crowding))
    return redial_delay_s(attempts, jitter, RETRY_MIN_S, longest_s)


@dataclass(slots=True)
class Record:
    """What a fetch knows of one peer, since that connected."""

    session: float  # trio time at which it connected
    due: float  # not to be asked before
    since: float  # when it was first due
    last: float = float("-inf")  # when it was asked last, in an earlier session too
    attempts: int = 0
    holds: bool = False  # its offer was taken up
    lied: bool = False
    said: str = ""


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
    own: bool = True  # wanted here, not only by peers
    waiters: int = 0
    layout: Layout | None = None
    content: io.BytesIO = field(default_factory=io.BytesIO)  # verified leaves, each in its place
    have: set[int] = field(default_factory=set)  # which ones
    taken: Counter[int] = field(default_factory=Counter)  # span -> how many peers deliver it right now
    touched: dict[int, float] = field(default_factory=dict)  # span -> when it was taken or had its last leaf
    records: dict[str, Record] = field(default_factory=dict)  # by peer
    busy: set[str] = field(default_factory=set)  # peers that are being asked, or deliver
    askers: Counter[str] = field(default_factory=Counter)  # peers on whose behalf we look
    misses: int = 0  # answers that were no
    claim: Claim | None = None
    result: bytes | BlobTooLarge | None = None
    loaded: trio.Event = field(default_factory=trio.Event)  # it is not loading any more, whatever came of it
    changed: trio.Event = field(default_factory=trio.Event)  # a peer is not busy any more
    done: trio.Event = field(default_factory=trio.Event)
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)

    @property
    def asked(self) -> dict[str, str]:
        """Peer id -> what came of it."""
        return {peer: record.said for peer, record in self.records.items() if record.said}

    # ---- whom to ask ------------------------------------------------------------------------------------------------
    def meet(self, sessions: Mapping[str, float], now: float) -> None:
        """Take note of who is connected, since when. Who has come is due at once, if it did not do so a moment ago."""
        for peer, session in sessions.items():
            known = self.records.get(peer)
            if known is None:
                self.records[peer] = Record(session, now, now)
            elif known.session != session:
                due = max(now, known.last + RETRY_QUICK_S)
                self.records[peer] = Record(session, due, now, known.last, lied=known.lied, said=known.said)
        if len(self.records) > _RECORDS_MAX:
            self.records = {peer: self.records[peer] for peer in self.records if peer in sessions}

    def due(self, sessions: Mapping[str, float], now: float) -> Iterator[str]:
        """Connected peers whose turn it is."""
        for peer in sessions:
            record = self.records[peer]
            if record.due <= now and not record.lied and peer not in self.busy and not self.askers[peer]:
                yield peer

    def next_due(self, sessions: Mapping[str, float], now: float) -> float:
        """When it may be a peer's turn; who asks us for the blob right now is looked at again in a second."""
        times = (
            max(record.due, now + RETRY_QUICK_S) if self.askers[peer] else record.due
            for peer in sessions
            if not (record := self.records[peer]).lied and peer not in self.busy
        )
        return min(times, default=float("inf"))

    # ---- what has come ----------------------------------------------------------------------------------------------
    def adopt(self, layout: Layout) -> bool:
        """Whether this is the blob that is being fetched; the first layout decides unless the size is given."""
        if self.size is not None and layout.size != self.size:
            return False
        if self.layout is None:
            self.layout = layout
        return self.layout.leaves == layout.leaves

    @property
    def memory(self) -> int:
        """Bytes that downloading takes: the blob, whose size is not proven up to a leaf, and what is under way."""
        assert self.layout is not None
        return max(self.layout.size, LEAF_BYTES) + LEAF_BYTES

    def take_leaf(self, index: int, leaf: bytes, now: float) -> None:
        """Raises PeerFault when it is not the leaf that the layout says."""
        assert self.layout is not None
        if hashlib.sha256(leaf).digest() != self.layout.leaves[index]:
            raise PeerFault(f"leaf {index} does not have its digest")
        if unixfs.is_raw(self.layout.size) and self.size is None:
            self.layout = Layout(len(leaf), self.layout.leaves)
        elif len(leaf) != self.layout.leaf_size(index):
            raise PeerFault(f"leaf {index} does not have its size")
        if index not in self.have:
            self.have.add(index)
            self.content.seek(index * LEAF_BYTES)
            self.content.write(leaf)
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
        return [index for index in range(span, end) if index not in self.have]

    def whole(self) -> bytes | None:
        """The blob, when no leaf is missing; not a copy."""
        if self.layout is None or len(self.have) < len(self.layout.leaves):
            return None
        return self.content.getvalue()

    def forget(self) -> None:
        """Give up what has come, and who has it: somebody else needs the memory."""
        self.layout, self.content = None, io.BytesIO()
        self.have.clear()
        self.taken.clear()
        self.touched.clear()
        for record in self.records.values():
            record.holds = False

    def finish(self, result: bytes | BlobTooLarge) -> None:
        self.result = result
        self.done.set()
        self.scope.cancel()
