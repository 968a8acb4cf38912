"""Whom a fetch asks and when, what it takes while many run: against peers made by hand, on a virtual clock."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from blob_kit import MIB, holders, pattern
from trio.abc import Clock

from node import blob_pursuit
from node.blob_fetch import NOT_HERE, Leaves, Want, decode_request
from node.blob_pursuit import REQUESTS_PER_PEER_MAX
from node.blob_room import LEASE_S
from node.blob_store import BlobStore
from node.blobs import BlobExchange, BlobTooLarge, BlobUnavailable
from node.p2p.config import P2PConfig
from node.p2p.types import RequestFailed
from node.unixfs import LEAF_BYTES, Layout, digest_of, layout

Behaviour = Callable[[Any], Awaitable[list[bytes]]]  # of a peer: request -> frames
HOUR_S = 3600.0


class Frames:
    """What requests.Answer is to who asks."""

    def __init__(self, frames: list[bytes]) -> None:
        self._frames = frames

    async def next(self, size_max: int) -> bytes | None:
        await trio.lowlevel.checkpoint()
        frame = self._frames.pop(0) if self._frames else None
        assert frame is None or len(frame) <= size_max
        return frame


class Replies:
    """What requests.Replier is to who answers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        self.sent.append(frame)


class Peers:
    """A network of peers made by hand; writes down who was asked for what, when."""

    def __init__(self, **config: Any) -> None:
        self.config = P2PConfig(**config)
        self.behaviours: dict[str, Behaviour] = {}
        self.since: dict[str, float] = {}
        self.asked: list[tuple[float, str, Want | Leaves]] = []
        self.open: Counter[str] = Counter()
        self.most_open = 0

    def connect(self, peer: str, behaviour: Behaviour) -> None:
        self.behaviours[peer], self.since[peer] = behaviour, trio.current_time()

    def disconnect(self, peer: str) -> None:
        del self.since[peer]

    def sessions(self) -> dict[str, float]:
        return dict(self.since)

    def serve(self, protocol: str, handler: object) -> None:
        self.handler = handler

    @asynccontextmanager
    async def request_stream(self, peer: str, protocol: str, request: bytes, timeout_s: float) -> AsyncIterator[Frames]:
        wanted = decode_request(request)
        self.asked.append((trio.current_time(), peer, wanted))
        self.open[peer] += 1
        self.most_open = max(self.most_open, self.open[peer])
        try:
            with trio.fail_after(timeout_s):
                yield Frames(await self.behaviours[peer](wanted))
        except trio.TooSlowError:
            raise RequestFailed(peer, protocol, "too slow") from None
        finally:
            self.open[peer] -= 1

    def times(self, peer: str) -> list[float]:
        return [time for time, asked, _ in self.asked if asked == peer]


async def lacks(_wanted: object) -> list[bytes]:
    return [NOT_HERE]


async def hangs(_wanted: object) -> list[bytes]:
    await trio.sleep_forever()
    raise AssertionError


def has(*blobs: bytes, stalls: bool = False) -> Behaviour:
    """A peer that holds these blobs; one that `stalls` offers them and never delivers."""
    held = {digest_of(data): data for data in blobs}

    async def answer(wanted: Any) -> list[bytes]:
        if wanted.digest not in held:
            return [NOT_HERE]
        data = held[wanted.digest]
        if isinstance(wanted, Want):
            body = data if len(data) <= 16_384 else b"".join(layout(data).leaves)
            return [msgspec.msgpack.encode((len(data),)), body]
        if stalls:
            await trio.sleep_forever()
        first = wanted.first * LEAF_BYTES
        return [data[at : at + LEAF_BYTES] for at in range(first, first + wanted.count * LEAF_BYTES, LEAF_BYTES)]

    return answer


def digest(number: int) -> bytes:
    return hashlib.sha256(b"nobody has %d" % number).digest()


Run = Callable[[Peers], Awaitable[BlobExchange]]


@pytest.fixture
async def run(tmp_path: Path, autojump_clock: Clock, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(blob_pursuit, "_IN_THREAD_BYTES", 1 << 40)  # threads know nothing of the virtual clock

    async def start(peers: Peers) -> BlobExchange:
        store = BlobStore(tmp_path / "blobs", 1 << 30)
        exchange: BlobExchange = await nursery.start(BlobExchange.serve, store, peers)
        return exchange

    return start


# ---- how often -------------------------------------------------------------------------------------------------------
async def test_a_blob_that_nobody_has_is_asked_for_quickly_at_first_and_then_ever_less_often(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers()
    peers.connect("a", lacks)
    exchange = await run(peers)
    with pytest.raises(BlobUnavailable):
        await exchange.fetch(digest(0), 100, deadline_s=HOUR_S)
    times = peers.times("a")
    pauses = [after - before for before, after in itertools.pairwise(times)]
    young = [pause for pause, time in zip(pauses, times, strict=False) if time - times[0] < 4]
    assert len(young) > 5
    assert max(young) < 1.05
    assert max(pauses) < 30.5
    assert len(times) < HOUR_S / 15 + 40
    assert {wanted.hops for _, _, wanted in peers.asked if isinstance(wanted, Want)} == {0, 2}


@pytest.mark.parametrize("put_after_s", [0.1, 0.9, 2.5, 4.0])
async def test_a_blob_that_is_put_moments_later_is_found_within_a_second(
    autojump_clock: Clock, run: Run, put_after_s: float
) -> None:
    peers = Peers()
    peers.connect("a", lacks)
    exchange = await run(peers)

    async def put() -> None:
        await trio.sleep(put_after_s)
        peers.behaviours["a"] = has(b"late")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(put)
        began = trio.current_time()
        assert await exchange.fetch(digest_of(b"late"), 100) == b"late"
    assert trio.current_time() - began < put_after_s + 1.05


async def test_who_connects_is_asked_at_once_however_long_a_blob_has_been_missing(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers()
    peers.connect("a", lacks)
    exchange = await run(peers)

    async def come() -> None:
        await trio.sleep(HOUR_S)
        peers.connect("b", has(b"rare"))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(come)
        assert await exchange.fetch(digest_of(b"rare"), 100) == b"rare"
    assert trio.current_time() - peers.since["b"] < 0.5


async def test_who_comes_and_goes_all_the_time_is_not_asked_each_time(autojump_clock: Clock, run: Run) -> None:
    peers = Peers()
    exchange = await run(peers)

    async def flap() -> None:
        while True:
            peers.connect("a", lacks)
            await trio.sleep(0.25)
            peers.disconnect("a")
            await trio.sleep(0.25)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(flap)
        with pytest.raises(BlobUnavailable):
            await exchange.fetch(digest(0), 100, deadline_s=60)
        nursery.cancel_scope.cancel()
    assert 30 < len(peers.asked) < 100  # 120 connections


# ---- how many --------------------------------------------------------------------------------------------------------
async def test_only_so_many_fetches_ask_at_a_time_the_oldest_first_and_each_has_its_turn(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers(blob_fetches_max=3)
    for name in "ab":
        peers.connect(name, hangs)
    exchange = await run(peers)
    digests = [digest(number) for number in range(12)]
    async with trio.open_nursery() as nursery:
        for each in digests:
            nursery.start_soon(exchange.fetch, each, 100)
            await trio.testing.wait_all_tasks_blocked()
        assert [wanted.digest for _, peer, wanted in peers.asked if peer == "a"] == digests[:3]
        await trio.sleep(10)  # what a peer may take for one answer is 5 seconds
        assert peers.most_open <= 3
        nursery.cancel_scope.cancel()
    order = list(dict.fromkeys(wanted.digest for _, _, wanted in peers.asked))
    for three in range(0, 12, 3):  # which come at the same moment
        assert set(order[three : three + 3]) == set(digests[three : three + 3])


async def test_a_crowd_of_blobs_that_nobody_has_keeps_no_other_from_being_found(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers(blob_fetches_max=4)
    peers.connect("a", has(b"wanted"))
    exchange = await run(peers)
    async with trio.open_nursery() as nursery:
        for number in range(200):
            nursery.start_soon(exchange.fetch, digest(number), 100)
        await trio.sleep(HOUR_S)
        before = len(peers.asked)
        await exchange.fetch(digest_of(b"wanted"), 100, deadline_s=1)
        await trio.sleep(600)
        assert len(peers.asked) - before < 600 / 15 * 4 * 1.5 + 10  # as 4 fetches would ask
        nursery.cancel_scope.cancel()


async def test_one_peer_has_a_bounded_number_of_requests_at_a_time(autojump_clock: Clock, run: Run) -> None:
    peers = Peers()
    peers.connect("a", hangs)
    exchange = await run(peers)
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(exchange.fetch, digest(number), 100)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert peers.most_open == REQUESTS_PER_PEER_MAX


async def test_many_fetches_from_one_real_peer_are_no_fault_in_its_eyes(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        blobs = [b"%d" % number * 20_000 for number in range(150)]
        for data in blobs:
            one.store.put(data)
        async with trio.open_nursery() as nursery:
            for data in blobs:
                nursery.start_soon(two.exchange.fetch, digest_of(data), math.inf)
        assert one.network.peers()[0].refused == 0


# ---- how much --------------------------------------------------------------------------------------------------------
def blobs(count: int, size: int) -> list[bytes]:
    return [bytes([number]) + pattern(size - 1) for number in range(count)]


async def test_large_blobs_take_turns_within_the_budget_and_small_ones_pass(autojump_clock: Clock, run: Run) -> None:
    budget = 8 * MIB  # 6 of it for large blobs
    peers = Peers(blob_fetch_bytes_max=budget, blob_fetches_max=2)
    large, small = blobs(6, 3 * MIB), b"small" * 10
    peers.connect("a", has(*large, stalls=True))
    peers.connect("b", has(small))
    exchange = await run(peers)
    room = exchange._pursuit.room
    async with trio.open_nursery() as nursery:
        for data in large:
            nursery.start_soon(exchange.fetch, digest_of(data), math.inf)
        await trio.sleep(10)
        assert 3 * MIB < room.used <= 6 * MIB  # one has room, the others wait without a place
        assert await exchange.fetch(digest_of(small), 100, deadline_s=1) == small
        peers.behaviours["a"] = has(*large)
        while exchange._fetches:
            assert room.used <= 6 * MIB
            await trio.sleep(0.1)
    assert room.used == 0
    assert all(exchange.store.has(digest_of(data)) for data in large)


async def test_a_blob_that_is_offered_and_never_delivered_costs_the_others_a_while_only(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers(blob_fetch_bytes_max=8 * MIB)
    bait, honest = blobs(2, 4 * MIB)
    peers.connect("bad", has(bait, stalls=True))
    exchange = await run(peers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.fetch, digest_of(bait), math.inf)
        await trio.sleep(1)
        peers.connect("good", has(honest))
        assert await exchange.fetch(digest_of(honest), math.inf, deadline_s=LEASE_S + 20) == honest
        peers.connect("good", has(bait))
    assert exchange.store.has(digest_of(bait))


async def test_what_is_fetched_for_peers_is_smaller_and_takes_no_room_from_ours(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers(blob_fetch_bytes_max=8 * MIB, blob_relay_bytes_max=MIB // 2)
    fits, above = blobs(1, MIB // 2)[0], pattern(MIB)
    peers.connect("a", has(fits, above))
    peers.connect("asker", lacks)
    exchange = await run(peers)

    for data in (fits, above):
        reply = Replies()
        await exchange._answer("asker", msgspec.msgpack.encode(Want(digest_of(data), 1, 1 << 30)), reply)  # type: ignore[arg-type]
    assert exchange.store.has(digest_of(fits))
    assert not exchange.store.has(digest_of(above))
    assert reply.sent == [NOT_HERE]


async def test_blobs_for_peers_wait_for_each_other_and_one_that_is_wanted_here_too_waits_with_ours(
    autojump_clock: Clock, run: Run
) -> None:
    peers = Peers(blob_fetch_bytes_max=8 * MIB)
    relayed, own = blobs(3, MIB // 2), pattern(MIB // 2)
    peers.connect("bad", has(*relayed, stalls=True))
    peers.connect("good", has(own))
    exchange = await run(peers)

    def granted() -> list[bool]:
        claims = [exchange._fetches[digest_of(data), None].claim for data in relayed]
        return [claim is not None and claim.granted.is_set() for claim in claims]

    async with trio.open_nursery() as nursery:
        for number, data in enumerate(relayed):
            want = msgspec.msgpack.encode(Want(digest_of(data), 1, MIB))
            nursery.start_soon(exchange._answer, f"asker {number}", want, None)
            await trio.sleep(0.1)
        assert granted() == [True, False, False]
        nursery.start_soon(exchange.fetch, digest_of(relayed[2]), math.inf)
        await trio.sleep(0.1)
        assert granted() == [True, False, True]
        assert await exchange.fetch(digest_of(own), math.inf, deadline_s=1) == own
        nursery.cancel_scope.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert exchange._pursuit.room.used == 0


@pytest.mark.parametrize("own_first", [True, False])
async def test_a_blob_that_is_wanted_here_and_by_a_peer_is_loaded_once(
    autojump_clock: Clock, run: Run, own_first: bool
) -> None:
    peers, data, reply = Peers(), pattern(3 * MIB), Replies()

    async def slow(wanted: Any) -> list[bytes]:
        await trio.sleep(isinstance(wanted, Leaves))
        return await has(data)(wanted)

    peers.connect("a", slow)
    exchange = await run(peers)

    async def for_us() -> None:
        assert await exchange.fetch(digest_of(data), math.inf, size=len(data)) == data

    async def for_a_peer() -> None:
        want = msgspec.msgpack.encode(Want(digest_of(data), 1, len(data)))
        await exchange._answer("asker", want, reply)  # type: ignore[arg-type]

    async with trio.open_nursery() as nursery:
        for each in (for_us, for_a_peer) if own_first else (for_a_peer, for_us):
            nursery.start_soon(each)
            await trio.sleep(0.1)
    assert msgspec.msgpack.decode(reply.sent[0]) == [len(data)]
    loaded = Counter(
        index for _, _, each in peers.asked if isinstance(each, Leaves)
        for index in range(each.first, each.first + each.count)
    )  # fmt: skip
    assert loaded == Counter(range(12))


async def test_who_waits_for_a_peers_loading_goes_on_alone_when_that_peer_gives_up(
    autojump_clock: Clock, run: Run
) -> None:
    peers, data = Peers(), pattern(3 * MIB)
    peers.connect("bad", has(data, stalls=True))
    exchange = await run(peers)
    async with trio.open_nursery() as nursery, trio.open_nursery() as relay:
        want = msgspec.msgpack.encode(Want(digest_of(data), 1, len(data)))
        relay.start_soon(exchange._answer, "asker", want, None)
        await trio.sleep(0.1)
        nursery.start_soon(partial(exchange.fetch, digest_of(data), math.inf, size=len(data), deadline_s=60))
        await trio.sleep(1)
        assert sum(isinstance(each, Leaves) for _, _, each in peers.asked) == 1  # the peer's
        peers.disconnect("bad")
        peers.connect("good", has(data))
        relay.cancel_scope.cancel()
    assert exchange.store.has(digest_of(data))


async def test_a_fetch_that_waits_for_its_turn_sees_what_is_put_here(autojump_clock: Clock, run: Run) -> None:
    peers = Peers(blob_fetches_max=1)
    peers.connect("a", hangs)
    exchange = await run(peers)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(exchange.fetch, digest(0), 100)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(exchange.fetch, digest_of(b"here"), 100)
        await trio.testing.wait_all_tasks_blocked()
        exchange.store.put(b"here")
        await trio.sleep(0.5)
        assert list(exchange._fetches) == [(digest(0), None)]
        nursery.cancel_scope.cancel()


async def test_a_size_far_above_the_limit_is_proven_and_nothing_is_loaded(autojump_clock: Clock, run: Run) -> None:
    peers = Peers()
    huge = Layout(4000 * LEAF_BYTES, (bytes(32),) * 4000)

    async def offers(_wanted: object) -> list[bytes]:
        return [msgspec.msgpack.encode((huge.size,)), b"".join(huge.leaves)]

    peers.connect("a", offers)
    exchange = await run(peers)
    with pytest.raises(BlobTooLarge, match=f"{huge.size} bytes"):
        await exchange.fetch(huge.digest, MIB)
