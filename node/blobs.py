"""The blob exchange: fetches blobs from connected peers, serves the public ones, looks further on a peer's behalf.

Two requests of one protocol, both msgpack arrays:
  Want(digest, hops, size_max)    ->  [size], then the blob itself up to 16 KiB, else the sha2-256 of every leaf;
                                      [nil] when it is not here. While `hops` > 0 a node that lacks it first asks its own
                                      peers (hops - 1), never one that asks it for the same blob right now.
  Leaves(digest, first, count)    ->  up to 16 leaves, one frame each

A fetch pursues every peer at once: ask, and while leaves are missing take turns in downloading spans of 16. The leaves'
digests must give the blob's digest and each leaf its own, so a lie costs the liar its place and nothing else. Whatever
has been verified stays when a holder goes. Fetches of one digest share the work. A blob that nobody has is asked for
again, at most once a second per peer, until the caller gives up. Private blobs are as if they were not here.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
import structlog
import trio

from node import unixfs
from node.blob_store import (
    BlobDamaged,
    BlobError,
    BlobInfo,
    BlobMissing,
    BlobStore,
    BlobStoreFailed,
    BlobStoreFull,
)
from node.p2p.config import P2PConfig
from node.p2p.host import Answer, Network, Replier
from node.p2p.peers import redial_delay_s
from node.p2p.types import PeerFault, RequestFailed
from node.unixfs import DIGEST_BYTES, LEAF_BYTES, Layout

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = [
    "BlobDamaged",
    "BlobError",
    "BlobExchange",
    "BlobInfo",
    "BlobMissing",
    "BlobStore",
    "BlobStoreFailed",
    "BlobStoreFull",
    "BlobTooLarge",
    "BlobUnavailable",
]

log = structlog.get_logger(__name__)

T = TypeVar("T")

PROTOCOL: Final = "/flnode/blob/1"
HOPS_MAX: Final = 3
INLINE_BYTES: Final = 16 * 1024
SPAN_LEAVES: Final = 16
RETRY_MIN_S, RETRY_MAX_S = 0.02, 1.0
_ANNOUNCED_MAX: Final = 1 << 40  # a size above is a lie; bounds the list of leaves that is read for it
_RELAYS_PER_PEER: Final = 2
_IN_THREAD_BYTES: Final = 1 << 20  # hashing and writing more than this happens beside the event loop


class BlobExchange:
    """See the module. Made by `serve`.

    Args:
        is_member: which peers are asked and answered.
    """

    def __init__(self, store: BlobStore, network: Network, is_member: Callable[[str], bool]) -> None:
        self.store, self._network, self._is_member = store, network, is_member
        self._config: P2PConfig = network.config
        self._fetches: dict[bytes, _Fetch] = {}
        self._relays: Counter[str] = Counter()
        self._nursery: trio.Nursery

    @classmethod
    async def serve(
        cls,
        store: BlobStore,
        network: Network,
        is_member: Callable[[str], bool] = lambda _peer: True,
        *,
        task_status: TaskStatus[BlobExchange] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serve until cancelled: `exchange = await nursery.start(BlobExchange.serve, store, network)`."""
        exchange = cls(store, network, is_member)
        async with trio.open_nursery() as exchange._nursery:
            network.serve(PROTOCOL, exchange._answer)
            task_status.started(exchange)
            await trio.sleep_forever()

    def waiting(self) -> tuple[bytes, ...]:
        """Digests of running fetches that every peer asked so far has answered with no; the oldest first."""
        return tuple(fetch.digest for fetch in self._fetches.values() if fetch.rounds and fetch.layout is None)

    async def fetch(self, digest: bytes, size_max: float, hops: int = 2, deadline_s: float = math.inf) -> bytes:
        """A blob from the store, or from whoever has it; then it is in the store, public.

        Args:
            size_max: bytes; math.inf for no limit.
            hops: how far peers look on our behalf.
            deadline_s: without one, waits until cancelled.
        Raises:
            BlobUnavailable: the deadline has passed.
            BlobTooLarge: its size, proven by the digest, is above `size_max`.
        """
        return await self._fetch(digest, size_max, hops, deadline_s, asker=None)

    # ---- fetching ---------------------------------------------------------------------------------------------------
    async def _fetch(self, digest: bytes, size_max: float, hops: int, deadline_s: float, asker: str | None) -> bytes:
        if (data := await self._local(digest)) is not None:
            return _within(digest, data, size_max)
        fetch = self._fetches.get(digest)
        if fetch is None:
            fetch = self._fetches[digest] = _Fetch(digest, hops, size_max)
            self._nursery.start_soon(self._run, fetch)
        fetch.waiters += 1
        fetch.hops, fetch.size_max = max(fetch.hops, hops), max(fetch.size_max, size_max)
        if asker is not None:
            fetch.askers[asker] += 1
        try:
            with trio.move_on_after(deadline_s):
                await fetch.done.wait()
        finally:
            fetch.waiters -= 1
            if asker is not None:
                fetch.askers[asker] -= 1
            if not fetch.waiters and not fetch.done.is_set():
                del self._fetches[digest]
                fetch.scope.cancel()
        if fetch.result is None:
            raise BlobUnavailable(digest, dict(fetch.asked))
        if isinstance(fetch.result, BlobTooLarge):
            raise BlobTooLarge(digest, fetch.result.size, size_max)
        return _within(digest, fetch.result, size_max)

    async def _run(self, fetch: _Fetch) -> None:
        """Pursue a blob until it is found or nobody waits for it any more."""
        pursued: set[str] = set()
        with fetch.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    peers = [info.peer for info in self._network.peers() if self._is_member(info.peer)]
                    new = [peer for peer in peers if peer not in pursued and peer not in fetch.liars]
                    random.shuffle(new)
                    for peer in new[: max(0, self._config.blob_wants_max - len(pursued))]:
                        pursued.add(peer)
                        nursery.start_soon(self._pursue, fetch, peer, pursued)
                    await trio.sleep(RETRY_MIN_S if not pursued else 10 * RETRY_MIN_S)
                    if (data := await self._local(fetch.digest)) is not None:
                        fetch.finish(data)
        if self._fetches.get(fetch.digest) is fetch and fetch.done.is_set():
            del self._fetches[fetch.digest]

    async def _pursue(self, fetch: _Fetch, peer: str, pursued: set[str]) -> None:
        """Ask one peer until the blob is complete, the peer is gone or has lied."""
        attempt = 0
        try:
            while self._network.is_connected(peer) and peer not in fetch.liars:
                if not fetch.askers[peer]:
                    await self._try(fetch, peer, fetch.hops if attempt % 2 else 0)
                attempt += 1
                await trio.sleep(redial_delay_s(attempt, random.random(), RETRY_MIN_S, RETRY_MAX_S))
        finally:
            pursued.discard(peer)

    async def _try(self, fetch: _Fetch, peer: str, hops: int) -> None:
        try:
            layout = await self._ask(fetch, peer, hops)
            if layout is None:
                fetch.asked[peer] = f"does not have it ({hops} hops)"
                fetch.rounds += 1
                return
            fetch.asked[peer] = "has it"
            if layout.size > fetch.size_max:
                fetch.finish(BlobTooLarge(fetch.digest, layout.size, fetch.size_max))
                return
            fetch.layout = layout
            while sum(fetch.taken.values()) < self._config.blob_holders_max and (span := fetch.take_span()) is not None:
                try:
                    await self._download(fetch, peer, span)
                finally:
                    fetch.taken[span] -= 1
            if fetch.is_complete():
                await self._complete(fetch)
        except RequestFailed as error:
            fetch.asked[peer] = error.reason
        except PeerFault as error:
            fetch.asked[peer] = f"lied: {error}"
            fetch.liars.add(peer)
            self._network.refuse(peer, f"blob {fetch.digest.hex()[:16]}: {error}")

    async def _ask(self, fetch: _Fetch, peer: str, hops: int) -> Layout | None:
        """What the blob consists of, verified, if the peer has it. Raises RequestFailed, PeerFault."""
        limit = min(fetch.size_max, _ANNOUNCED_MAX)
        timeout_s = self._config.blob_want_timeout_s + (self._config.blob_relay_timeout_s if hops else 0)
        request = _encode(Want(fetch.digest, hops, int(limit)))
        async with self._network.request_stream(peer, PROTOCOL, request, timeout_s) as answer:
            size = await _read_size(answer)
            if size is None:
                return None
            if size <= INLINE_BYTES:
                data = await answer.next(INLINE_BYTES)
                layout = unixfs.layout(data or b"")
            else:
                text = await answer.next(DIGEST_BYTES * unixfs.leaves_count(size))
                layout = _layout_from(size, text or b"")
            if layout.size != size or layout.digest != fetch.digest:
                raise PeerFault("its leaves do not give the digest")
            if size <= INLINE_BYTES and size <= fetch.size_max:
                fetch.leaves[0] = data or b""
            return layout

    async def _download(self, fetch: _Fetch, peer: str, span: int) -> None:
        """Fill one span's missing leaves. Raises RequestFailed, PeerFault."""
        missing = fetch.missing(span)
        assert fetch.layout is not None
        first, count = missing[0], missing[-1] - missing[0] + 1
        request = _encode(Leaves(fetch.digest, first, count))
        async with self._network.request_stream(peer, PROTOCOL, request, self._config.blob_chunks_timeout_s) as answer:
            for index in range(first, first + count):
                leaf = await answer.next(LEAF_BYTES)
                if leaf is None:
                    raise RequestFailed(peer, PROTOCOL, "stopped half-way")
                if hashlib.sha256(leaf).digest() != fetch.layout.leaves[index]:
                    raise PeerFault(f"leaf {index} is not what its digest says")
                fetch.leaves[index] = leaf

    async def _complete(self, fetch: _Fetch) -> None:
        assert fetch.layout is not None
        data = b"".join(fetch.leaves[index] for index in range(len(fetch.layout.leaves)))
        try:
            await _maybe_in_thread(len(data), partial(self.store.put, data, public=True))
        except BlobError as error:  # no room: who waits for it shall have it all the same
            log.warning("blob.not_kept", digest=fetch.digest.hex(), reason=str(error))
        log.debug("blob.fetched", digest=fetch.digest.hex(), size=len(data))
        fetch.finish(data)

    async def _local(self, digest: bytes) -> bytes | None:
        try:
            return await _maybe_in_thread(self.store.size(digest), partial(self.store.get, digest))
        except BlobMissing:
            return None
        except BlobDamaged as error:
            log.warning("blob.damaged", digest=digest.hex(), reason=str(error))
            return None

    # ---- serving ----------------------------------------------------------------------------------------------------
    async def _answer(self, peer: str, request: bytes, reply: Replier) -> None:
        if not self._is_member(peer):
            await reply.send(_encode((None,)))
            return
        try:
            wanted = _decode_request(request)
        except msgspec.MsgspecError as error:
            raise PeerFault(f"blob request: {error}") from error
        if len(wanted.digest) != DIGEST_BYTES:
            raise PeerFault("blob request: not a digest")
        try:
            if isinstance(wanted, Want):
                await self._answer_want(peer, wanted, reply)
            else:
                await self._answer_leaves(wanted, reply)
        except BlobMissing:
            await reply.send(_encode((None,)))
        except BlobDamaged as error:
            log.warning("blob.damaged", digest=wanted.digest.hex(), reason=str(error))
            await reply.send(_encode((None,)))

    async def _answer_want(self, peer: str, want: Want, reply: Replier) -> None:
        if not self.store.has(want.digest) and want.hops > 0:
            await self._relay(peer, want)
        if not self.store.is_public(want.digest):
            raise BlobMissing(want.digest)
        size = self.store.size(want.digest)
        layout = await _maybe_in_thread(size, partial(self.store.layout, want.digest))
        await reply.send(_encode((layout.size,)))
        if size <= INLINE_BYTES:
            await reply.send(self.store.get(want.digest))
        else:
            await reply.send(b"".join(layout.leaves))

    async def _answer_leaves(self, wanted: Leaves, reply: Replier) -> None:
        if not self.store.is_public(wanted.digest):
            raise BlobMissing(wanted.digest)
        count = len(self.store.layout(wanted.digest).leaves)
        if not 0 < wanted.count <= SPAN_LEAVES or not 0 <= wanted.first <= count - wanted.count:
            raise PeerFault(f"blob request: leaves {wanted.first} + {wanted.count} of {count}")
        for index in range(wanted.first, wanted.first + wanted.count):
            await reply.send(self.store.leaf(wanted.digest, index))

    async def _relay(self, peer: str, want: Want) -> None:
        """Look for a blob on a peer's behalf, for a while; found or not shows in the store."""
        if self._relays[peer] >= _RELAYS_PER_PEER or self._relays.total() >= self._config.blob_relays_max:
            return
        self._relays[peer] += 1
        size_max = min(want.size_max, self._config.blob_bytes_max)
        hops = min(want.hops, HOPS_MAX) - 1
        try:
            await self._fetch(want.digest, size_max, hops, self._config.blob_relay_timeout_s, asker=peer)
        except BlobError as error:
            log.debug("blob.not_relayed", digest=want.digest.hex(), peer=peer, reason=str(error))
        finally:
            self._relays[peer] -= 1


def _within(digest: bytes, data: bytes, size_max: float) -> bytes:
    if len(data) > size_max:
        raise BlobTooLarge(digest, len(data), size_max)
    return data


async def _maybe_in_thread(size: int, work: Callable[[], T]) -> T:
    """Run blocking work; beside the event loop when it is large."""
    return work() if size <= _IN_THREAD_BYTES else await trio.to_thread.run_sync(work)
