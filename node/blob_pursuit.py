"""How a blob is got from peers: whom to ask and when, what memory it takes, how its leaves come.

  rest    until it is a peer's turn (blob_fetch.retry_pause_s), or one has come
  ask     at one of `blob_fetches_max` places, oldest first; until a peer offers the blob or nobody is left to ask now
  wait    for room (blob_room.py); without a place, so that others may ask meanwhile
  load    with that room, from several holders at once, asking others between; until whole, or told to come again

A blob that is wanted here and by a peer is fetched twice, because only we know its size (blobs.py); who comes second to
the loading waits for what comes of the first, since the same leaves are the same bytes.

A fetch that rests or waits is one task, however many peers there are.
"""

from __future__ import annotations

import random
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Final, TypeVar

import structlog
import trio

from node.blob_fetch import (
    ANNOUNCED_MAX,
    BlobTooLarge,
    Fetch,
    Leaves,
    Record,
    Want,
    encode,
    read_offer,
    retry_pause_s,
)
from node.blob_room import BlobRoom, Claim
from node.blob_store import BlobDamaged, BlobError, BlobMissing, BlobStore
from node.p2p.host import Answer, Network
from node.p2p.types import RequestFailed
from node.unixfs import LEAF_BYTES

log = structlog.get_logger(__name__)
_T = TypeVar("_T")

PROTOCOL: Final = "/flnode/blob/1"
LOOK_S: Final = 0.2  # how often to look for new peers, and whether a blob has been put here meanwhile
PLACE_S: Final = 2.0  # who asks for longer than this without an offer makes way for those who wait for a place
HOLDER_PAUSE_S: Final = 0.2  # until a holder that found no span to deliver looks again
REQUESTS_PER_PEER_MAX: Final = 32  # half of what a peer lets us have open; each may buffer 256 KiB
_LONG_LISTS_MAX: Final = 16
_IN_THREAD_BYTES: Final = 1 << 20  # hashing and writing more than this happens beside the event loop


class Pursuit:
    """See the module.

    Args:
        is_member: which peers are asked.
        fetches: those that run.
    """

    def __init__(
        self,
        store: BlobStore,
        network: Network,
        is_member: Callable[[str], bool],
        fetches: Mapping[tuple[bytes, int | None], Fetch],
    ) -> None:
        self._store, self._network, self._is_member, self._fetches = store, network, is_member, fetches
        self._config = network.config
        self.room = BlobRoom(self._config.blob_fetch_bytes_max)
        self.places = trio.CapacityLimiter(self._config.blob_fetches_max)
        self._long_lists = trio.CapacityLimiter(_LONG_LISTS_MAX)
        self._requests: weakref.WeakValueDictionary[str, trio.CapacityLimiter] = weakref.WeakValueDictionary()
        self._sessions: dict[str, float] = {}  # peers to ask, and since when each is connected
        self._arrival = trio.Event()

    async def watch(self) -> None:
        """Notice peers that come, and blobs that are put here while they are fetched."""
        while True:
            self._look()
            for fetch in list(self._fetches.values()):
                if self._store.has(fetch.digest) and (data := await self.local(fetch)) is not None:
                    fetch.finish(data)
            await trio.sleep(LOOK_S)

    async def run(self, fetch: Fetch) -> None:
        """Pursue a blob until it is found or nobody waits for it any more."""
        self._look()
        with fetch.scope:
            while not fetch.done.is_set():
                await self._rest(fetch)
                async with self.places:
                    await self._round(fetch, None)
                if fetch.layout is not None:
                    await self._load(fetch)

    async def local(self, fetch: Fetch) -> bytes | None:
        """The blob, if it is here."""
        try:
            size = self._store.size(fetch.digest)
            if fetch.size not in (None, size):
                return None
            return await beside(size, partial(self._store.get, fetch.digest))
        except BlobMissing:
            return None
        except BlobDamaged as error:
            log.warning("blob.damaged", digest=fetch.digest.hex(), reason=str(error))
            return None

    # ---- phases -----------------------------------------------------------------------------------------------------
    def _look(self) -> None:
        sessions = {peer: since for peer, since in self._network.sessions().items() if self._is_member(peer)}
        come = sessions.items() - self._sessions.items()
        self._sessions = sessions
        if come:
            self._arrival.set()
            self._arrival = trio.Event()

    async def _rest(self, fetch: Fetch) -> None:
        while True:
            now, arrival = trio.current_time(), self._arrival
            fetch.meet(self._sessions, now)
            due = fetch.next_due(self._sessions, now)
            if due <= now:
                return
            with trio.move_on_at(due):
                await arrival.wait()

    async def _round(self, fetch: Fetch, claim: Claim | None) -> None:
        """Ask every peer whose turn it is; with room for the blob also load it.

        Ends when there is an offer or nobody is left to ask now; with room, when others need it.
        """
        began = trio.current_time()
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                self._start_asking(fetch, claim, nursery, now)
                if claim is not None:
                    over = self.room.overdue(claim, now)
                elif fetch.layout is not None or not fetch.busy:
                    over = True
                else:
                    over = now - began > PLACE_S and self.places.statistics().tasks_waiting > 0
                if over:
                    nursery.cancel_scope.cancel()
                    return
                free = len(fetch.busy) < self._config.blob_wants_max
                wake = fetch.next_due(self._sessions, now) if free else now + LOOK_S
                fetch.changed = trio.Event()
                with trio.move_on_at(min(wake, now + LOOK_S)):
                    await fetch.changed.wait()

    def _start_asking(self, fetch: Fetch, claim: Claim | None, nursery: trio.Nursery, now: float) -> None:
        fetch.meet(self._sessions, now)
        due = list(fetch.due(self._sessions, now))
        free = max(0, self._config.blob_wants_max - len(fetch.busy))
        for peer in random.sample(due, min(len(due), free)):
            fetch.busy.add(peer)
            nursery.start_soon(self._try, fetch, peer, fetch.records[peer], claim is not None)

    async def _load(self, fetch: Fetch) -> None:
        if (first := self._loading_the_same(fetch)) is not None:
            await first.loaded.wait()
            fetch.forget()
            if (data := await self.local(fetch)) is not None:
                fetch.finish(data)
            return
        fetch.loaded = trio.Event()
        fetch.claim = claim = self.room.claim(fetch.memory, relayed=not fetch.own)
        try:
            await claim.granted.wait()
            await self._round(fetch, claim)
            log.debug("blob.postponed", digest=fetch.digest.hex(), size=claim.size)
        finally:
            fetch.claim = None
            self.room.release(claim)
            fetch.forget()
            fetch.loaded.set()

    def _loading_the_same(self, fetch: Fetch) -> Fetch | None:
        """A fetch that has room and loads these very leaves."""
        assert fetch.layout is not None
        for other in self._fetches.values():
            if other is fetch or other.layout is None or other.claim is None or not other.claim.granted.is_set():
                continue
            if other.digest == fetch.digest and other.layout.leaves == fetch.layout.leaves:
                return other
        return None

    # ---- one peer ---------------------------------------------------------------------------------------------------
    async def _try(self, fetch: Fetch, peer: str, record: Record, may_load: bool) -> None:
        """Ask one peer, without and with hops in turn, unless it is known to hold the blob; then load from it."""
        record.last = trio.current_time()
        try:
            if not record.holds:
                await self._ask(fetch, peer, record, fetch.hops if record.attempts % 2 else 0)
            if record.holds and may_load:
                await self._take_spans(fetch, peer)
            if (data := fetch.whole()) is not None:
                await self._keep(fetch, data)
        except RequestFailed as error:
            record.said, record.holds, record.lied = error.reason, False, error.at_fault
        finally:
            now = trio.current_time()
            if record.holds:
                record.attempts, record.due = 0, now + HOLDER_PAUSE_S * may_load
            elif may_load or fetch.layout is None:  # else it was interrupted by another peer's offer
                record.attempts += 1
                crowding = len(self._fetches) / self._config.blob_fetches_max
                record.due = now + retry_pause_s(record.attempts, now - record.since, crowding, random.random())
            fetch.busy.discard(peer)
            fetch.changed.set()

    async def _ask(self, fetch: Fetch, peer: str, record: Record, hops: int) -> None:
        """Take up a peer's offer, if it makes one that will do. Raises RequestFailed."""
        timeout_s = self._config.blob_want_timeout_s + (self._config.blob_relay_timeout_s if hops else 0)
        request = encode(Want(fetch.digest, hops, int(min(fetch.size_max, ANNOUNCED_MAX))))
        async with self._request(peer, request, timeout_s) as answer:
            offer = await read_offer(answer, fetch.digest, self._long_lists)
            if offer is None:
                fetch.misses += 1
                record.said = f"does not have it ({hops} hops)"
                return
            layout, data = offer
            if not fetch.adopt(layout):
                record.said = f"has another blob of this digest, {layout.size} bytes"
                return
            record.holds, record.said = True, "has it"
            if data is not None:
                fetch.take_leaf(0, data, trio.current_time())
            elif layout.size > max(fetch.size_max, LEAF_BYTES):  # up to a leaf, the size is not proven yet
                fetch.finish(BlobTooLarge(fetch.digest, layout.size, fetch.size_max))

    async def _take_spans(self, fetch: Fetch, peer: str) -> None:
        """Take turns with the other holders until there is nothing left to do. Raises RequestFailed."""
        while sum(fetch.taken.values()) < self._config.blob_holders_max:
            span = fetch.take_span(trio.current_time())
            if span is None:
                return
            try:
                await self._load_span(fetch, peer, span)
            finally:
                fetch.taken[span] -= 1

    async def _load_span(self, fetch: Fetch, peer: str, span: int) -> None:
        """Fill one span's missing leaves. Raises RequestFailed."""
        missing = fetch.missing(span)
        first, count = missing[0], missing[-1] - missing[0] + 1
        request = encode(Leaves(fetch.digest, first, count))
        async with self._request(peer, request, self._config.blob_chunks_timeout_s) as answer:
            for index in range(first, first + count):
                leaf = await answer.next(LEAF_BYTES)
                if leaf is None:
                    raise RequestFailed(peer, PROTOCOL, "stopped half-way")
                fetch.take_leaf(index, leaf, trio.current_time())

    async def _keep(self, fetch: Fetch, data: bytes) -> None:
        try:
            await beside(len(data), partial(self._store.put, data, public=True))
        except BlobError as error:  # no room: who waits for it shall have it all the same
            log.warning("blob.not_kept", digest=fetch.digest.hex(), reason=str(error))
        log.debug("blob.fetched", digest=fetch.digest.hex(), size=len(data))
        fetch.finish(data)

    @asynccontextmanager
    async def _request(self, peer: str, request: bytes, timeout_s: float) -> AsyncIterator[Answer]:
        """A request when it is our turn with this peer: one stream too many would count as our fault."""
        turn = self._requests.get(peer)
        if turn is None:
            turn = self._requests[peer] = trio.CapacityLimiter(REQUESTS_PER_PEER_MAX)
        async with turn, self._network.request_stream(peer, PROTOCOL, request, timeout_s) as answer:
            yield answer


async def beside(size: int, work: Callable[[], _T]) -> _T:
    """Run blocking work; beside the event loop when it is large."""
    return work() if size <= _IN_THREAD_BYTES else await trio.to_thread.run_sync(work)
