"""Real hosts on loopback: who finds whom, what is carried, and what ends a connection."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from p2p_kit import PATIENCE_S, Node, config, free_port, key, nodes, ordered_keys, start, stranger

from node.p2p.host import run_network
from node.p2p.libp2p_noise import Identity
from node.p2p.peers import parse_address
from node.p2p.types import ListenFailed, MessageReceived, MessageTooLarge, PeerConnected, PeerLost


async def talks(one: Node, other: Node, word: bytes = b"word") -> None:
    """Assert that messages pass both ways."""
    assert one.network.send(other.peer, "test", word)
    assert other.network.send(one.peer, "test", word)
    await other.until(MessageReceived, peer=one.peer, payload=word)
    await one.until(MessageReceived, peer=other.peer, payload=word)


async def test_peers_hear_each_others_hello_before_anything_else() -> None:
    async with trio.open_nursery() as nursery:
        one = await start(nursery, key(1), b"I am one")
        two = await start(nursery, key(2), b"I am two", bootstrap=one.network.addresses)
        with trio.fail_after(PATIENCE_S):
            first = await one.network.events.receive()
            second = await two.network.events.receive()
        assert isinstance(first, PeerConnected)
        assert (first.peer, first.hello, first.direction) == (two.peer, b"I am two", "inbound")
        assert isinstance(second, PeerConnected)
        assert (second.peer, second.hello, second.direction) == (one.peer, b"I am one", "outbound")
        assert one.network.addresses[0] == f"{second.address}/p2p/{one.peer}"
        nursery.cancel_scope.cancel()


async def test_messages_arrive_whole_and_in_order() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        sizes = [0, 1, 200, 65_000, 70_000, 300_000, 4 * 1024 * 1024, 3]
        for index, size in enumerate(sizes):
            assert two.network.send(one.peer, "test", bytes([index]) * size)
        got = [await one.until(MessageReceived) for _ in sizes]
        assert [(event.payload[:1], len(event.payload)) for event in got] == [
            (bytes([index])[: min(1, size)], size) for index, size in enumerate(sizes)
        ]


async def test_a_broadcast_reaches_every_peer() -> None:
    async with nodes({}, {"to": [0]}, {"to": [0]}) as (one, two, three):
        one.network.broadcast("news", b"to all")
        await two.until(MessageReceived, kind="news", payload=b"to all")
        await three.until(MessageReceived, kind="news", payload=b"to all")


async def test_a_message_above_the_limit_is_refused_here_and_nobody_else_gets_one() -> None:
    async with nodes({"message_bytes_max": 1000}, {"to": [0]}) as (one, two):
        with pytest.raises(MessageTooLarge, match="1001 bytes, the limit is 1000"):
            one.network.send(two.peer, "test", bytes(1001))
        await talks(one, two)


async def test_sending_to_a_stranger_says_no() -> None:
    async with nodes({}) as (one,):
        assert one.network.send(Identity(key(9)).peer, "test", b"") is False


async def test_a_disconnected_peer_comes_back_by_itself() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.disconnect(two.peer, "on a whim")
        assert (await one.until(PeerLost)).reason == "on a whim"
        await two.until(PeerLost, peer=one.peer)
        await two.until(PeerConnected, peer=one.peer)
        await one.until(PeerConnected, peer=two.peer)
        await talks(one, two)


async def test_a_node_keeps_dialling_an_address_where_nobody_is_yet() -> None:
    port = free_port()
    async with trio.open_nursery() as nursery:
        early = await start(nursery, key(1), bootstrap=(f"/ip4/127.0.0.1/tcp/{port}",))
        with trio.move_on_after(0.3):  # some dials fail meanwhile; nothing may happen
            raise AssertionError(await early.network.events.receive())
        late = await start(nursery, key(2), listen=f"/ip4/127.0.0.1/tcp/{port}")
        await early.until(PeerConnected, peer=late.peer)
        nursery.cancel_scope.cancel()


async def test_an_address_that_turns_out_to_be_this_node_is_given_up() -> None:
    async with nodes({}) as (one,):
        own = one.network.addresses[0].split("/p2p/")[0]
        with trio.fail_after(PATIENCE_S):
            await one.network._dialler.keep_dialling(parse_address(own))
            await one.network._dialler.keep_dialling(parse_address(one.network.addresses[0]))
        assert one.network.peers() == []


@pytest.mark.parametrize("swap", [False, True])
async def test_two_nodes_that_dial_each_other_at_once_settle_on_one_session(swap: bool) -> None:
    ports = free_port(), free_port()
    seeds = ordered_keys()[::-1] if swap else ordered_keys()
    async with trio.open_nursery() as nursery:
        made: list[Node] = []

        async def begin(own: int, other: int) -> None:
            address = f"/ip4/127.0.0.1/tcp/{ports[other]}/p2p/{Identity(seeds[other]).peer}"
            listen = f"/ip4/127.0.0.1/tcp/{ports[own]}"
            made.append(await start(nursery, seeds[own], listen=listen, bootstrap=(address,)))

        async with trio.open_nursery() as starting:
            starting.start_soon(begin, 0, 1)
            starting.start_soon(begin, 1, 0)
        one, two = made
        await one.until(PeerConnected, peer=two.peer)
        await two.until(PeerConnected, peer=one.peer)
        await talks(one, two)
        # Every further dial ends as a second connection; the session must outlive them.
        await one.network._dialler.dial(parse_address(two.network.addresses[0]), lambda _peer: None)
        await two.network._dialler.dial(parse_address(one.network.addresses[0]), lambda _peer: None)
        await talks(one, two, b"still there")
        assert len(one.network.peers()) == len(two.network.peers()) == 1
        assert not any(isinstance(event, PeerLost) for event in one.passed_over + two.passed_over)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("swap", [False, True])
async def test_a_peer_whose_first_connection_is_dead_gets_in_with_a_second_one(swap: bool) -> None:
    ours, theirs = ordered_keys()[::-1] if swap else ordered_keys()
    async with nodes({"seed": ours, "probe_s": 0.2}) as (one,), trio.open_nursery() as nursery:
        dead = await stranger(nursery, one, theirs)
        await dead.session(swap, b"first")  # and says nothing ever after, as if its machine had lost power
        await one.until(PeerConnected, hello=b"first")
        again = await stranger(nursery, one, theirs)
        await again.session(swap, b"second")
        assert "replaced" in (await one.until(PeerLost)).reason
        await one.until(PeerConnected, hello=b"second")
        nursery.cancel_scope.cancel()


NODE_PROGRAM = """
import sys, trio
from node.p2p.config import P2PConfig
from node.p2p.host import run_network
async def main():
    async with trio.open_nursery() as nursery:
        config = P2PConfig(listen=sys.argv[1], bootstrap=(sys.argv[2],))
        network = await nursery.start(run_network, config, bytes.fromhex(sys.argv[3]), b"from a process")
        async for _ in network.events:
            pass
trio.run(main)
"""


@contextmanager
def process(listen: str, bootstrap: str, seed: bytes) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", NODE_PROGRAM, listen, bootstrap, seed.hex()]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


async def test_a_peer_killed_with_signal_9_is_noticed_and_comes_back_on_its_port_with_its_key() -> None:
    port = free_port()
    listen = f"/ip4/127.0.0.1/tcp/{port}"
    async with nodes({}) as (one,):
        with process(listen, one.network.addresses[0], key(2)) as child:
            await one.until(PeerConnected, hello=b"from a process")
            os.kill(child.pid, signal.SIGKILL)
            await one.until(PeerLost)
        with process(listen, one.network.addresses[0], key(2)):
            await one.until(PeerConnected, peer=Identity(key(2)).peer)


async def test_a_peer_that_stops_reading_is_dropped_when_its_queue_is_full() -> None:
    ours, theirs = ordered_keys()
    async with nodes({"seed": ours, "send_queue_bytes_max": 100_000}) as (one,), trio.open_nursery() as nursery:
        sluggish = await stranger(nursery, one, theirs)
        await sluggish.session(False)  # nobody reads the session's stream after this
        peer = (await one.until(PeerConnected)).peer
        with trio.fail_after(PATIENCE_S):
            while one.network.send(peer, "test", bytes(10_000)):
                await trio.lowlevel.checkpoint()
        assert "too slow" in (await one.until(PeerLost)).reason
        nursery.cancel_scope.cancel()


async def test_a_peer_that_falls_silent_is_lost() -> None:
    ours, theirs = ordered_keys()
    async with (
        nodes({"seed": ours, "keepalive_s": 0.1, "silence_max_s": 0.4}) as (one,),
        trio.open_nursery() as nursery,
    ):
        mute = await stranger(nursery, one, theirs)
        await mute.session(False)
        assert (await one.until(PeerLost)).reason == "silent for too long"
        nursery.cancel_scope.cancel()


async def test_idle_peers_stay_connected_by_signs_of_life() -> None:
    quick = {"keepalive_s": 0.05, "silence_max_s": 0.2}
    async with nodes(quick, {"to": [0], **quick}) as (one, two):
        with trio.move_on_after(0.6):
            raise AssertionError(await one.network.events.receive())
        await talks(one, two)


async def test_a_node_that_is_slow_to_take_its_events_neither_blames_its_peers_nor_is_blamed() -> None:
    quick = {"keepalive_s": 0.05, "silence_max_s": 0.2}
    async with nodes({"events_max": 1, **quick}, {"to": [0], **quick}) as (one, two):
        for number in range(5):
            two.network.send(one.peer, "test", bytes([number]))
        with trio.move_on_after(0.6):  # one takes nothing meanwhile
            raise AssertionError(await two.network.events.receive())
        assert [(await one.until(MessageReceived)).payload for _ in range(5)] == [bytes([n]) for n in range(5)]
        assert one.passed_over == []


async def test_a_taken_port_is_a_clear_error() -> None:
    async with nodes({}) as (one,):
        taken = one.network.addresses[0].split("/p2p/")[0]
        with pytest.raises(ListenFailed, match=f"cannot listen on {taken}: Address already in use"):
            await run_network(config(listen=taken), key(2), b"")


async def test_peers_are_listed_with_their_traffic() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        await talks(one, two, bytes(100_000))
        (info,) = one.network.peers()
        assert (info.peer, info.direction, info.refused) == (two.peer, "inbound", 0)
        assert info.bytes_in > 100_000
        assert info.bytes_out > 100_000
        assert info.connected_since_s > 0


async def test_a_prioritised_peer_is_heard_before_all_that_another_has_sent() -> None:
    async with nodes({}, {"to": [0]}, {"to": [0]}) as (one, validator, stranger):
        one.network.prioritise(validator.peer)
        for number in range(50):
            assert stranger.network.send(one.peer, "noise", b"%d" % number)
        with trio.fail_after(PATIENCE_S):
            while len(one.network.events) < 50:
                await trio.lowlevel.checkpoint()
            assert validator.network.send(one.peer, "vote", b"")
            while len(one.network.events) < 51:
                await trio.lowlevel.checkpoint()
            assert await one.network.events.receive() == MessageReceived(validator.peer, "vote", b"")


async def test_when_the_network_ends_so_do_its_events() -> None:
    async with trio.open_nursery() as nursery:
        one = await start(nursery, key(1))
        await one.stop()
        with trio.fail_after(PATIENCE_S):
            assert [event async for event in one.network.events] == []
