"""The blob exchange: fetches blobs from connected peers, serves the public ones, looks further on a peer's behalf.

Two requests of one protocol, both msgpack arrays:
  Want(digest, hops, size_max)    ->  [size], then the blob itself up to 16 KiB, else the sha2-256 of every leaf;
                                      [nil] when it is not here. While `hops` > 0 a node that lacks it first asks its
                                      own peers (hops - 1), never one that asks it for the same blob right now.
  Leaves(digest, first, count)    ->  up to 16 leaves, one frame each

A fetch pursues every peer at once: ask, and while leaves are missing take turns in downloading spans of 16. The leaves'
digests must give the blob's digest and each leaf its own, so a lie costs the liar its place and nothing else. Whatever
has been verified stays when a holder goes. Fetches of one digest share the work. A blob that nobody has is asked for
again, at most once a second per peer, until the caller gives up. Private blobs are as if they were not here.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final, TypeVar

import structlog
import trio

from node.blob_fetch import (
    ANNOUNCED_MAX,
    INLINE_BYTES,
    NOT_HERE,
    SPAN_LEAVES,
    BlobTooLarge,
    BlobUnavailable,
    Fetch,
    Leaves,
    Want,
    decode_request,
    encode,
    read_offer,
)
from node.blob_store import (
    BlobDamaged,
    BlobError,
    BlobInfo,
    BlobMissing,
    BlobStore,
    BlobStoreFailed,
    BlobStoreFull,
)
from node.p2p.host import Network, Replier
from node.p2p.peers import redial_delay_s
from node.p2p.types import ConnectionEnded, PeerFault, RequestFailed
from node.unixfs import LEAF_BYTES, Layout

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
_T = TypeVar("_T")

PROTOCOL: Final = "/flnode/blob/1"
HOPS_MAX: Final = 3
RETRY_MIN_S, RETRY_MAX_S = 0.02, 1.0
LOOK_S: Final = 0.2  # how often a fetch looks for new peers, and whether the blob has been put here meanwhile
_RELAYS_PER_PEER: Final = 2
_IN_THREAD_BYTES: Final = 1 << 20  # hashing and writing more than this happens beside the event loop


class BlobExchange:
    """See the module. Made by `serve`.

    Args:
        is_member: which peers are asked and answered.
    """

    def __init__(self, store: BlobStore, network: Network, is_member: Callable[[str], bool]) -> None:
        self.store, self._network, self._is_member = store, network, is_member
        self._config = network.config
        self._fetches: dict[tuple[bytes, int | None], Fetch] = {}
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
        return tuple(fetch.digest for fetch in self._fetches.values() if fetch.misses and fetch.layout is None)

    async def fetch(
        self, digest: bytes, size_max: float, hops: int = 2, deadline_s: float = math.inf, size: int | None = None
    ) -> bytes:
        """A blob from the store, or from whoever has it; then it is in the store, public.

        Args:
            size_max: bytes; math.inf for no limit.
            hops: how far peers look on our behalf.
            deadline_s: without one, waits until cancelled.
            size: the only size that will do; another blob of this digest is as if it were not there.
        Raises:
            BlobUnavailable: the deadline has passed.
            BlobTooLarge: its size, proven by the digest, is above `size_max`.
        """
        return await self._fetch(Fetch(digest, size, hops, size_max), deadline_s, None)

    # ---- fetching ---------------------------------------------------------------------------------------------------
    async def _fetch(self, wish: Fetch, deadline_s: float, asker: str | None) -> bytes:
        if (data := await self._local(wish)) is not None:
            return _within(wish, data)
        key = (wish.digest, wish.size)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._fetches[key] = Fetch(wish.digest, wish.size, wish.hops, wish.size_max)
            self._nursery.start_soon(self._run, fetch)
        fetch.waiters += 1
        fetch.hops, fetch.size_max = max(fetch.hops, wish.hops), max(fetch.size_max, wish.size_max)
        if asker is not None:
            fetch.askers[asker] += 1
        try:
            with trio.move_on_after(deadline_s):
                await fetch.done.wait()
        finally:
            fetch.waiters -= 1
            if asker is not None:
                fetch.askers[asker] -= 1
            if not fetch.waiters:
                fetch.scope.cancel()
                if self._fetches.get(key) is fetch:
                    del self._fetches[key]
        if fetch.result is None:
            raise BlobUnavailable(wish.digest, dict(fetch.asked))
        if isinstance(fetch.result, BlobTooLarge):
            raise BlobTooLarge(wish.digest, fetch.result.size, wish.size_max)
        return _within(wish, fetch.result)

    async def _run(self, fetch: Fetch) -> None:
        """Pursue a blob until it is found or nobody waits for it any more."""
        pursued: set[str] = set()
        with fetch.scope:
            async with trio.open_nursery() as nursery:
                while True:
                    for peer in self._new_peers(fetch, pursued):
                        pursued.add(peer)
                        nursery.start_soon(self._pursue, fetch, peer, pursued)
                    await trio.sleep(LOOK_S)
                    if (data := await self._local(fetch)) is not None:
                        fetch.finish(data)

    def _new_peers(self, fetch: Fetch, pursued: set[str]) -> list[str]:
        peers = [info.peer for info in self._network.peers() if self._is_member(info.peer)]
        new = [peer for peer in peers if peer not in pursued and peer not in fetch.liars]
        return random.sample(new, min(len(new), max(0, self._config.blob_wants_max - len(pursued))))

    async def _pursue(self, fetch: Fetch, peer: str, pursued: set[str]) -> None:
        """Ask one peer, without and with hops in turn, until the blob is complete, the peer is gone or has lied."""
        attempt = 0
        try:
            while self._network.is_connected(peer) and peer not in fetch.liars:
                if not fetch.askers[peer]:
                    await self._try(fetch, peer, fetch.hops if attempt % 2 else 0)
                attempt += 1
                await trio.sleep(redial_delay_s(attempt, random.random(), RETRY_MIN_S, RETRY_MAX_S))
        finally:
            pursued.discard(peer)

    async def _try(self, fetch: Fetch, peer: str, hops: int) -> None:
        try:
            layout = await self._ask(fetch, peer, hops)
            if layout is None:
                return
            while sum(fetch.taken.values()) < self._config.blob_holders_max:
                span = fetch.take_span(trio.current_time())
                if span is None:
                    break
                try:
                    await self._download(fetch, peer, span)
                finally:
                    fetch.taken[span] -= 1
            if (data := fetch.whole()) is not None:
                await self._keep(fetch, data)
        except RequestFailed as error:
            fetch.asked[peer] = error.reason
            if error.at_fault:
                fetch.liars.add(peer)

    async def _ask(self, fetch: Fetch, peer: str, hops: int) -> Layout | None:
        """Take up a peer's offer, if it makes one that will do. Raises RequestFailed."""
        timeout_s = self._config.blob_want_timeout_s + (self._config.blob_relay_timeout_s if hops else 0)
        request = encode(Want(fetch.digest, hops, int(min(fetch.size_max, ANNOUNCED_MAX))))
        async with self._network.request_stream(peer, PROTOCOL, request, timeout_s) as answer:
            offer = await read_offer(answer, fetch.digest)
            if offer is None:
                fetch.misses += 1
                fetch.asked[peer] = f"does not have it ({hops} hops)"
                return None
            layout, data = offer
            if not fetch.adopt(layout):
                fetch.asked[peer] = f"has another blob of this digest, {layout.size} bytes"
                return None
            fetch.asked[peer] = "has it"
            if data is not None:
                fetch.take_leaf(0, data, trio.current_time())
            elif layout.size > max(fetch.size_max, LEAF_BYTES):  # up to a leaf, the size is not proven yet
                fetch.finish(BlobTooLarge(fetch.digest, layout.size, fetch.size_max))
            return layout

    async def _download(self, fetch: Fetch, peer: str, span: int) -> None:
        """Fill one span's missing leaves. Raises RequestFailed."""
        missing = fetch.missing(span)
        first, count = missing[0], missing[-1] - missing[0] + 1
        request = encode(Leaves(fetch.digest, first, count))
        timeout_s = self._config.blob_chunks_timeout_s
        async with self._network.request_stream(peer, PROTOCOL, request, timeout_s) as answer:
            for index in range(first, first + count):
                leaf = await answer.next(LEAF_BYTES)
                if leaf is None:
                    raise RequestFailed(peer, PROTOCOL, "stopped half-way")
                fetch.take_leaf(index, leaf, trio.current_time())

    async def _keep(self, fetch: Fetch, data: bytes) -> None:
        try:
            await _beside(len(data), partial(self.store.put, data, public=True))
        except BlobError as error:  # no room: who waits for it shall have it all the same
            log.warning("blob.not_kept", digest=fetch.digest.hex(), reason=str(error))
        log.debug("blob.fetched", digest=fetch.digest.hex(), size=len(data))
        fetch.finish(data)

    async def _local(self, wish: Fetch) -> bytes | None:
        try:
            size = self.store.size(wish.digest)
            if wish.size not in (None, size):
                return None
            return await _beside(size, partial(self.store.get, wish.digest))
        except BlobMissing:
            return None
        except BlobDamaged as error:
            log.warning("blob.damaged", digest=wish.digest.hex(), reason=str(error))
            return None

    # ---- serving ----------------------------------------------------------------------------------------------------
    async def _answer(self, peer: str, request: bytes, reply: Replier) -> None:
        wanted = decode_request(request)
        try:
            if not self._is_member(peer):
                raise BlobMissing(wanted.digest)
            if isinstance(wanted, Want):
                await self._answer_want(peer, wanted, reply)
            else:
                await self._answer_leaves(wanted, reply)
        except (BlobMissing, BlobDamaged) as error:
            if isinstance(error, BlobDamaged):
                log.warning("blob.damaged", digest=wanted.digest.hex(), reason=str(error))
            if isinstance(wanted, Leaves):
                raise ConnectionEnded(str(error)) from error  # anything but a leaf would look like a lie
            await reply.send(NOT_HERE)

    async def _answer_want(self, peer: str, want: Want, reply: Replier) -> None:
        if not self.store.has(want.digest) and want.hops > 0:
            await self._relay(peer, want)
        layout = await self._public_layout(want.digest)
        data = await _beside(layout.size, partial(self.store.get, want.digest)) if layout.size <= INLINE_BYTES else None
        await reply.send(encode((layout.size,)))
        await reply.send(b"".join(layout.leaves) if data is None else data)

    async def _answer_leaves(self, wanted: Leaves, reply: Replier) -> None:
        layout = await self._public_layout(wanted.digest)
        if not 0 < wanted.count <= SPAN_LEAVES or not 0 <= wanted.first <= len(layout.leaves) - wanted.count:
            raise PeerFault(f"blob request: leaves {wanted.first} + {wanted.count} of {len(layout.leaves)}")
        for index in range(wanted.first, wanted.first + wanted.count):
            await reply.send(self.store.leaf(wanted.digest, index))

    async def _public_layout(self, digest: bytes) -> Layout:
        """Raises BlobMissing, also for a private blob; BlobDamaged."""
        if not self.store.is_public(digest):
            raise BlobMissing(digest)
        return await _beside(self.store.size(digest), partial(self.store.layout, digest))

    async def _relay(self, peer: str, want: Want) -> None:
        """Look for a blob on a peer's behalf, for a while; found or not shows in the store."""
        if self._relays[peer] >= _RELAYS_PER_PEER or self._relays.total() >= self._config.blob_relays_max:
            return
        self._relays[peer] += 1
        size_max = min(want.size_max, self._config.blob_bytes_max)
        wish = Fetch(want.digest, None, min(want.hops, HOPS_MAX) - 1, size_max)
        try:
            await self._fetch(wish, self._config.blob_relay_timeout_s, peer)
        except BlobError as error:
            log.debug("blob.not_relayed", digest=want.digest.hex(), peer=peer, reason=str(error))
        finally:
            self._relays[peer] -= 1
            if not self._relays[peer]:
                del self._relays[peer]


def _within(wish: Fetch, data: bytes) -> bytes:
    if len(data) > wish.size_max:
        raise BlobTooLarge(wish.digest, len(data), wish.size_max)
    return data


async def _beside(size: int, work: Callable[[], _T]) -> _T:
    """Run blocking work; beside the event loop when it is large."""
    return work() if size <= _IN_THREAD_BYTES else await trio.to_thread.run_sync(work)
