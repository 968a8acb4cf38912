"""The blob exchange between real nodes on loopback."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import msgspec
import pytest
import trio
from blob_kit import MIB, PATIENCE_S, Holder, connected, holders, pattern, start

from node.blob_fetch import Leaves, Want, decode_request
from node.blobs import PROTOCOL, BlobMissing, BlobTooLarge, BlobUnavailable
from node.p2p.host import Replier
from node.p2p.types import PeerFault, RequestFailed
from node.unixfs import LEAF_BYTES, digest_of, layout

SIZES = [0, 1, 16_384, 16_385, LEAF_BYTES, LEAF_BYTES + 1, 5 * MIB + 3]


async def fetched(holder: Holder, digest: bytes, size_max: float = math.inf, **options: int) -> bytes:
    with trio.fail_after(PATIENCE_S):
        return await holder.exchange.fetch(digest, size_max, **options)


@pytest.mark.parametrize("size", SIZES)
async def test_a_blob_comes_from_the_peer_that_has_it_and_stays(tmp_path: Path, size: int) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        data = pattern(size)
        digest = one.store.put(data)
        assert await fetched(two, digest, size) == data
        assert two.store.is_public(digest)
        one.store.delete(digest)
        assert await fetched(two, digest) == data
        assert one.network.peers()[0].refused == two.network.peers()[0].refused == 0


async def test_a_blob_that_is_here_needs_no_peers_private_or_not(tmp_path: Path) -> None:
    async with holders(tmp_path, {}) as (one,):
        assert await fetched(one, one.store.put(b"mine", public=False)) == b"mine"
        assert not one.store.is_public(digest_of(b"mine"))


async def test_a_private_blob_is_not_served_until_it_is_published(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        digest = one.store.put(pattern(MIB), public=False)
        with pytest.raises(BlobUnavailable, match="does not have it"):
            await two.exchange.fetch(digest, MIB, deadline_s=0.3)
        for request in (Want(digest, 2, MIB), Leaves(digest, 0, 1)):
            raw = msgspec.msgpack.encode(request)
            if isinstance(request, Want):
                assert await two.network.request(one.peer, PROTOCOL, raw, 1000) == b"\x91\xc0"
            else:
                with pytest.raises(RequestFailed):
                    await two.network.request(one.peer, PROTOCOL, raw, 1000)
        one.store.publish(digest)
        assert await fetched(two, digest) == pattern(MIB)


async def test_a_blob_travels_over_nodes_that_do_not_have_it(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}, {"to": [1]}, {"to": [2]}) as line:
        data = pattern(600_000)
        digest = line[0].store.put(data)
        assert await fetched(line[3], digest, hops=2) == data
        assert all(holder.store.is_public(digest) for holder in line)


async def test_a_blob_does_not_travel_further_than_its_hops(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}, {"to": [1]}) as (one, two, three):
        digest = one.store.put(b"far away")
        with pytest.raises(BlobUnavailable):
            await three.exchange.fetch(digest, 100, hops=0, deadline_s=0.3)
        assert not two.store.has(digest)
        assert await fetched(three, digest, hops=1) == b"far away"


async def test_a_missing_blob_is_waited_for_and_the_deadline_tells_who_was_asked(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}, {"to": [0, 1]}) as (one, two, three):
        with pytest.raises(BlobUnavailable) as caught:
            await one.exchange.fetch(bytes(32), 100, deadline_s=0.5)
        assert caught.value.asked.keys() == {two.peer, three.peer}
        assert "does not have it" in str(caught.value)


async def test_a_node_without_peers_says_so(tmp_path: Path) -> None:
    async with holders(tmp_path, {}) as (one,):
        with pytest.raises(BlobUnavailable, match="no peer to ask"):
            await one.exchange.fetch(bytes(32), 100, deadline_s=0.05)


async def test_a_running_fetch_finds_what_appears_later_at_a_peer_here_or_with_a_newcomer(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two), trio.open_nursery() as nursery:
        got: list[bytes] = []

        async def fetch(data: bytes) -> None:
            got.append(await fetched(two, digest_of(data)))

        for data in (b"at the peer", b"here", b"newcomer's"):
            nursery.start_soon(fetch, data)
        with trio.fail_after(PATIENCE_S):
            while len(two.exchange.waiting()) < 3:
                await trio.lowlevel.checkpoint()
        assert set(two.exchange.waiting()) == {digest_of(data) for data in (b"at the peer", b"here", b"newcomer's")}
        one.store.put(b"at the peer")
        two.store.put(b"here", public=False)
        three = await start(nursery, tmp_path, 3, (two.network.addresses[0],))
        three.store.put(b"newcomer's")
        with trio.fail_after(PATIENCE_S):
            while len(got) < 3:
                await trio.lowlevel.checkpoint()
        assert sorted(got) == [b"at the peer", b"here", b"newcomer's"]
        assert two.exchange.waiting() == ()
        assert not two.store.is_public(digest_of(b"here"))
        nursery.cancel_scope.cancel()


async def test_fetches_of_one_blob_share_the_work(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        data = pattern(2 * MIB)
        digest = one.store.put(data)
        before = one.network.peers()[0].bytes_out
        got: list[bytes] = []

        async def fetch() -> None:
            got.append(await fetched(two, digest))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(fetch)
        assert got == [data] * 10
        assert one.network.peers()[0].bytes_out - before < 1.1 * len(data)


async def test_a_fetch_that_is_given_up_leaves_nothing_behind(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (_, two):
        with trio.move_on_after(0.1):
            await two.exchange.fetch(bytes(32), 100)
        assert two.exchange._fetches == {}
        assert two.exchange.waiting() == ()


@pytest.mark.parametrize("size", [100, 20_000, MIB])
async def test_a_blob_above_the_callers_limit_is_refused_with_its_size(tmp_path: Path, size: int) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        digest = one.store.put(pattern(size))
        with pytest.raises(BlobTooLarge, match=f"has {size} bytes, the limit is {size - 1}"):
            await fetched(two, digest, size - 1)
        if size > LEAF_BYTES:
            assert one.network.peers()[0].bytes_out < 10_000
        with pytest.raises(BlobTooLarge):
            await fetched(one, digest, size - 1)


async def test_only_a_blob_of_the_wanted_size_will_do(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        digest = one.store.put(pattern(1000))
        with pytest.raises(BlobUnavailable, match="another blob of this digest, 1000 bytes"):
            await two.exchange.fetch(digest, math.inf, size=300_000, deadline_s=0.3)
        assert await fetched(two, digest, size=1000) == pattern(1000)


async def test_a_damaged_blob_counts_as_missing_and_is_fetched_again(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        data = pattern(3 * MIB)
        digest = one.store.put(data)
        assert await fetched(two, digest) == data
        (path,) = one.store.path.glob(f"public/*/{digest.hex()}")
        path.write_bytes(data[:-1] + b"!")
        assert await fetched(one, digest) == data
        assert path.read_bytes() == data


async def test_strangers_to_the_network_are_neither_asked_nor_answered(tmp_path: Path) -> None:
    async with holders(tmp_path, {"is_member": lambda _peer: False}, {"to": [0]}) as (one, two):
        digest = one.store.put(b"not for you")
        for holder, wanted in ((two, digest), (one, two.store.put(b"not asked"))):
            with pytest.raises(BlobUnavailable):
                await holder.exchange.fetch(wanted, 100, deadline_s=0.3)


async def test_what_finds_no_room_is_handed_over_all_the_same(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0], "bytes_max": 1000}) as (one, two):
        digest = one.store.put(pattern(2000))
        assert await fetched(two, digest) == pattern(2000)
        with pytest.raises(BlobMissing):
            two.store.get(digest)


# ---- several holders, and bad ones -----------------------------------------------------------------------------------
async def test_several_holders_share_the_download(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {}, {}, {"to": [0, 1, 2]}) as (*sources, sink):
        data = pattern(24 * MIB)
        for source in sources:
            source.store.put(data)
        assert await fetched(sink, digest_of(data)) == data
        assert sum(source.network.peers()[0].bytes_out > 4 * MIB for source in sources) >= 2


async def test_when_a_holder_goes_half_way_another_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    async with holders(tmp_path, {"honest": False}, {}, {"to": [0, 1]}) as (quitter, steady, sink):
        data = pattern(3 * MIB)
        digest = digest_of(data)
        quitter.store.put(data)
        gone = trio.Event()

        async def serve_a_little(_peer: str, request: bytes, reply: Replier) -> None:
            wanted = decode_request(request)
            if isinstance(wanted, Want):
                await offer(reply, data)
                return
            for index in range(5):
                await reply.send(quitter.store.leaf(digest, index))
            gone.set()
            quitter.network.disconnect(sink.peer, "has had enough")

        quitter.network.serve(PROTOCOL, serve_a_little)
        async with trio.open_nursery() as nursery:

            async def join_late() -> None:
                await gone.wait()
                steady.store.put(data)

            nursery.start_soon(join_late)
            assert await fetched(sink, digest) == data
        assert steady.network.peers()[0].bytes_out < len(data) - 4 * LEAF_BYTES


async def offer(reply: Replier, data: bytes) -> None:
    await reply.send(msgspec.msgpack.encode((len(data),)))
    await reply.send(b"".join(layout(data).leaves))


async def lie_about_leaves(_peer: str, request: bytes, reply: Replier) -> None:
    wanted = decode_request(request)
    if isinstance(wanted, Want):
        await offer(reply, pattern(3 * MIB))
    else:
        await reply.send(pattern(3 * MIB)[:LEAF_BYTES])
        for _ in range(wanted.count - 1):
            await reply.send(bytes(LEAF_BYTES))


async def lie_about_the_layout(_peer: str, _request: bytes, reply: Replier) -> None:
    await offer(reply, bytes(3 * MIB))


async def lie_about_the_size(_peer: str, _request: bytes, reply: Replier) -> None:
    await reply.send(msgspec.msgpack.encode((1 << 39,)))
    await reply.send(bytes(32))


async def talk_nonsense(_peer: str, _request: bytes, reply: Replier) -> None:
    await reply.send(b"\xc1 what blob?")


async def send_too_much(_peer: str, _request: bytes, reply: Replier) -> None:
    await reply.send(bytes(1 << 20))


@pytest.mark.parametrize(
    "lie", [lie_about_leaves, lie_about_the_layout, lie_about_the_size, talk_nonsense, send_too_much]
)
async def test_a_liar_is_asked_no_more_and_the_blob_comes_from_elsewhere(tmp_path: Path, lie: object) -> None:
    async with holders(tmp_path, {"honest": False}, {}, {"to": [0, 1]}) as (liar, honest, sink):
        data = pattern(3 * MIB)
        liar.network.serve(PROTOCOL, lie)  # type: ignore[arg-type]
        async with trio.open_nursery() as nursery:

            async def let_the_liar_go_first() -> None:
                with trio.fail_after(PATIENCE_S):
                    while not {info.peer: info.refused for info in sink.network.peers()}[liar.peer]:
                        await trio.lowlevel.checkpoint()
                honest.store.put(data)

            nursery.start_soon(let_the_liar_go_first)
            assert await fetched(sink, digest_of(data), len(data)) == data
        assert {info.peer: info.refused for info in sink.network.peers()} == {liar.peer: 1, honest.peer: 0}


async def test_a_false_size_of_a_small_blob_changes_nothing(tmp_path: Path) -> None:
    async with holders(tmp_path, {"honest": False}, {"to": [0]}) as (liar, sink):
        data = pattern(100_000)

        async def exaggerate(_peer: str, request: bytes, reply: Replier) -> None:
            if isinstance(decode_request(request), Want):
                await reply.send(msgspec.msgpack.encode((200_000,)))
                await reply.send(hashlib.sha256(data).digest())
            else:
                await reply.send(data)

        liar.network.serve(PROTOCOL, exaggerate)
        assert await fetched(sink, digest_of(data), 150_000) == data


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode((0, bytes(31), 0, 1)),
        msgspec.msgpack.encode((0, bytes(32), 0)),
        msgspec.msgpack.encode((7, bytes(32), 0, 1)),
        msgspec.msgpack.encode((0, bytes(32), "x", 1)),
    ],
)
async def test_a_request_that_is_none_is_refused(tmp_path: Path, request_bytes: bytes) -> None:
    with pytest.raises(PeerFault, match="blob request"):
        decode_request(request_bytes)
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        with pytest.raises(RequestFailed):
            await two.network.request(one.peer, PROTOCOL, request_bytes, 1000)
        assert one.network.peers()[0].refused == 1


@pytest.mark.parametrize(("first", "count"), [(0, 17), (0, 0), (-1, 1), (3, 2), (0, 5), (1 << 70, 1)])
async def test_leaves_that_do_not_exist_are_a_fault(tmp_path: Path, first: int, count: int) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (one, two):
        digest = one.store.put(pattern(4 * LEAF_BYTES))
        try:
            request = msgspec.msgpack.encode(Leaves(digest, first, count))
        except OverflowError:
            request = b"\x94\x01\xc4\x20" + digest + b"\xcb" + bytes(8) + b"\x01"
        with pytest.raises(RequestFailed):
            await two.network.request(one.peer, PROTOCOL, request, MIB)
        assert one.network.peers()[0].refused == 1


async def test_relays_are_limited_in_all_and_per_peer(tmp_path: Path) -> None:
    async with holders(tmp_path, {"blob_relays_max": 3}, {"to": [0]}, {"to": [0]}) as (relay, two, three):
        async with trio.open_nursery() as nursery:
            for holder in (two, three):
                for number in range(5):
                    wanted = hashlib.sha256(bytes([number])).digest()
                    nursery.start_soon(holder.exchange.fetch, wanted, 100)
            with trio.fail_after(PATIENCE_S):
                while relay.exchange._relays.total() < 3:
                    await trio.lowlevel.checkpoint()
            for _ in range(200):
                await trio.lowlevel.checkpoint()
                assert relay.exchange._relays.total() <= 3
                assert max(relay.exchange._relays.values(), default=0) <= 2
            nursery.cancel_scope.cancel()
        with trio.fail_after(PATIENCE_S):
            while relay.exchange._fetches:
                await trio.lowlevel.checkpoint()


async def test_a_relay_stops_when_the_asker_gives_up(tmp_path: Path) -> None:
    async with holders(tmp_path, {}, {"to": [0]}) as (relay, asker):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(asker.exchange.fetch, bytes(32), 100)
                with trio.fail_after(PATIENCE_S):
                    while not relay.exchange._fetches:
                        await trio.lowlevel.checkpoint()
                scope.cancel()
        await connected(relay, asker)
        with trio.fail_after(PATIENCE_S):
            while relay.exchange._fetches:
                await trio.lowlevel.checkpoint()
