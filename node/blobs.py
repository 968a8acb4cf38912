"""The blob exchange: fetches blobs from connected peers, serves the public ones, looks further on a peer's behalf.

Two requests of one protocol, both msgpack arrays:
  Want(digest, hops, size_max)    ->  [size], then the blob itself up to 16 KiB, else the sha2-256 of every leaf;
                                      [nil] when it is not here. While `hops` > 0 a node that lacks it first asks its
                                      own peers (hops - 1), never one that asks it for the same blob right now.
  Leaves(digest, first, count)    ->  up to 16 leaves, one frame each

A fetch asks peers at once, and those that have the blob take turns in delivering spans of 16 leaves. The leaves'
digests must give the blob's digest and each leaf its own, so a lie costs the liar its place and nothing else. Whatever
has been verified stays when a holder goes. Fetches of one digest share the work. A blob that nobody has is asked for
again, ever less often, until the caller gives up. Private blobs are as if they were not here. What all fetches together
may take of memory and of the peers' attention is bounded: see blob_pursuit.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import trio

from node import unixfs
from node.blob_fetch import (
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
)
from node.blob_pursuit import PROTOCOL, Pursuit, beside
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
from node.p2p.types import ConnectionEnded, PeerFault
from node.unixfs import Layout

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = [
    "PROTOCOL",
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

HOPS_MAX: Final = 3
_RELAYS_PER_PEER: Final = 2


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
        self._pursuit = Pursuit(store, network, is_member, self._fetches)
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
            await exchange._pursuit.watch()

    def waiting(self) -> tuple[bytes, ...]:
        """Digests of running fetches that every peer asked so far has answered with no; the oldest first."""
        return tuple(self.waiting_cids())

    def waiting_cids(self) -> dict[bytes, str]:
        """As `waiting`, with the CID of each. A fetch without a size says by its limit whether the blob is raw."""
        waiting = [fetch for fetch in self._fetches.values() if fetch.misses and fetch.layout is None]
        return {each.digest: unixfs.cid(each.digest, each.size or each.size_max) for each in waiting}

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
        if (data := await self._pursuit.local(wish)) is not None:
            return _within(wish, data)
        key = (wish.digest, wish.size)
        fetch = self._fetches.get(key)
        if fetch is None:
            fetch = self._fetches[key] = Fetch(wish.digest, wish.size, wish.hops, wish.size_max, own=asker is None)
            self._nursery.start_soon(self._pursuit.run, fetch)
        fetch.waiters += 1
        fetch.hops, fetch.size_max = max(fetch.hops, wish.hops), max(fetch.size_max, wish.size_max)
        if asker is not None:
            fetch.askers[asker] += 1
        elif not fetch.own:
            fetch.own = True
            if fetch.claim is not None:
                self._pursuit.room.promote(fetch.claim)
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
            raise BlobUnavailable(wish.digest, fetch.asked)
        if isinstance(fetch.result, BlobTooLarge):
            raise BlobTooLarge(wish.digest, fetch.result.size, wish.size_max)
        return _within(wish, fetch.result)

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
        data = await beside(layout.size, partial(self.store.get, want.digest)) if layout.size <= INLINE_BYTES else None
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
        return await beside(self.store.size(digest), partial(self.store.layout, digest))

    async def _relay(self, peer: str, want: Want) -> None:
        """Look for a blob on a peer's behalf, for a while; found or not shows in the store."""
        if self._relays[peer] >= _RELAYS_PER_PEER or self._relays.total() >= self._config.blob_relays_max:
            return
        self._relays[peer] += 1
        size_max = min(want.size_max, self._config.blob_relay_bytes_max)
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
