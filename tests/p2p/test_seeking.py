"""Known peers over real sockets: who is found again, who is asked, who is left alone."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import trio
from p2p_kit import PATIENCE_S, Node, config, free_port, key, nodes, ordered_keys, start, stranger
from structlog.testing import capture_logs

from node.p2p.host import Network, run_network
from node.p2p.libp2p_gossip import told_addresses
from node.p2p.libp2p_noise import Identity
from node.p2p.peers import parse_address
from node.p2p.seeker import IDENTIFY
from node.p2p.streams import Reader, answer_selection
from node.p2p.types import PeerConnected, PeerLost


async def start_with(nursery: trio.Nursery, seed: bytes, known: Path | None, **changes: Any) -> Node:
    """As p2p_kit.start, with a file of known peers."""
    scope, stopped = trio.CancelScope(), trio.Event()

    async def run(*, task_status: Any) -> None:
        with scope:
            await run_network(config(**changes), seed, b"hello", known, task_status=task_status)
        stopped.set()

    network: Network = await nursery.start(run)
    return Node(network, scope, stopped)


async def meet(one: Node, other: Node) -> None:
    """Wait for each other, and both find that the other is of their network."""
    await one.until(PeerConnected, peer=other.peer)
    await other.until(PeerConnected, peer=one.peer)
    one.network.admit(other.peer, False)
    other.network.admit(one.peer, True)


async def knows(node: Node, other: Node, file: Path | None = None) -> None:
    """Wait until the book, and its file, have the other's address."""
    with trio.fail_after(PATIENCE_S):
        while other.peer not in {known.peer for known in node.network.known()}:
            await trio.lowlevel.checkpoint()
        path = None if file is None else trio.Path(file)
        while path is not None and not (await path.exists() and other.peer in await path.read_text()):
            await trio.lowlevel.checkpoint()


def dead_address() -> str:
    return f"/ip4/127.0.0.1/tcp/{free_port()}"


async def test_a_node_whose_bootstrap_addresses_are_all_dead_finds_its_peers_by_its_book(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    async with nodes({}) as (friend,), trio.open_nursery() as nursery:
        node = await start_with(nursery, key(2), file, bootstrap=friend.network.addresses)
        await meet(node, friend)
        await knows(node, friend, file)
        await node.stop()
        again = await start_with(nursery, key(2), file, bootstrap=(dead_address(), dead_address()))
        await again.until(PeerConnected, peer=friend.peer)
        nursery.cancel_scope.cancel()


async def test_a_node_that_was_only_ever_dialled_dials_back_after_its_restart(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    async with trio.open_nursery() as nursery:
        node = await start_with(nursery, key(1), file)
        caller = await start(nursery, key(2), bootstrap=node.network.addresses)
        await meet(node, caller)
        await knows(node, caller, file)
        (known,) = node.network.known()
        assert f"{known.address}/p2p/{caller.peer}" == caller.network.addresses[0]
        assert known.proven_at is None
        await node.stop()
        again = await start_with(nursery, key(1), file)  # on another port, where nobody looks for it
        await again.until(PeerConnected, peer=caller.peer, direction="outbound")
        again.network.admit(caller.peer, False)
        assert again.network.known()[0].proven_at is not None
        nursery.cancel_scope.cancel()


async def test_a_node_that_listens_everywhere_says_the_address_by_which_it_is_seen() -> None:
    async with nodes({}) as (one,), trio.open_nursery() as nursery:
        two = await start(nursery, key(2), listen="/ip4/0.0.0.0/tcp/0", bootstrap=one.network.addresses)
        await meet(one, two)
        await knows(one, two)
        port = parse_address(two.network.addresses[0]).port
        assert [str(known.address) for known in one.network.known()] == [f"/ip4/127.0.0.1/tcp/{port}"]
        nursery.cancel_scope.cancel()


async def test_what_a_node_is_told_to_announce_is_what_it_says() -> None:
    public = "/ip4/192.0.2.7/tcp/4001"
    async with nodes({}, {"to": [0], "announce": (public,)}) as (one, two):
        assert two.network.addresses == (f"{public}/p2p/{two.peer}",)
        one.network.admit(two.peer, False)
        await knows(one, two)
        assert [str(known.address) for known in one.network.known()] == [public]


async def test_a_peer_was_met_until_it_left_however_long_ago_it_came() -> None:
    now = 1000.0
    async with nodes({}) as (one,), trio.open_nursery() as nursery:
        run = partial(run_network, config(bootstrap=one.network.addresses), key(2), b"", clock=lambda: now)
        node = Node(await nursery.start(run), nursery.cancel_scope, trio.Event())
        await meet(node, one)
        assert [known.proven_at for known in node.network.known()] == [1000.0]
        now = 5000.0
        node.network.disconnect(one.peer, "enough")
        await node.until(PeerLost)
        assert [known.proven_at for known in node.network.known()] == [5000.0]
        nursery.cancel_scope.cancel()


async def test_no_more_peers_are_dialled_than_are_wanted(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    async with nodes({}, {}) as members, trio.open_nursery() as nursery:
        addresses = tuple(node.network.addresses[0] for node in members)
        node = await start_with(nursery, key(7), file, bootstrap=addresses)
        for member in members:
            await meet(node, member)
        for member in members:
            await knows(node, member)
        await node.stop()
        again = await start_with(nursery, key(7), file, peers_wanted=1)
        first = await again.until(PeerConnected)
        again.network.admit(first.peer, False)
        (other,) = [member for member in members if member.peer != first.peer]
        await next(member for member in members if member.peer == first.peer).stop()
        await again.until(PeerLost)
        assert again.network.peers() == []
        await again.until(PeerConnected, peer=other.peer)  # only now that one is missing again
        nursery.cancel_scope.cancel()


async def test_a_strangers_word_is_tried_a_bounded_number_of_times(tmp_path: Path) -> None:
    """The file names an address where somebody else answers, as a liar would have it."""
    file, visits = tmp_path / "peers.json", 0
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]

    async def visited(_stream: trio.SocketStream) -> None:
        nonlocal visits
        visits += 1

    line = {"address": f"/ip4/127.0.0.1/tcp/{port}/p2p/{Identity(key(9)).peer}", "source": "127.0.0.1", "told_at": 1.0}
    await trio.Path(file).write_bytes(msgspec.json.encode({"version": 1, "known": [line]}))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, visited, listeners)
        node = await start_with(nursery, key(1), file, known_redial_max_s=0.01)
        assert len(node.network.known()) == 1
        with trio.fail_after(PATIENCE_S):
            while node.network.known():
                await trio.sleep(0.001)
        assert visits == 3
        nursery.cancel_scope.cancel()


async def test_a_damaged_book_costs_a_line_in_the_log(tmp_path: Path) -> None:
    file = tmp_path / "peers.json"
    await trio.Path(file).write_text("{")
    async with trio.open_nursery() as nursery:
        with capture_logs() as logs:
            node = await start_with(nursery, key(1), file)
        assert [entry["path"] for entry in logs if entry["event"] == "peers.not_loaded"] == [str(file)]
        assert node.network.known() == ()
        nursery.cancel_scope.cancel()


async def test_a_peer_that_does_not_say_where_it_listens_stays_connected() -> None:
    theirs, ours = ordered_keys()
    async with nodes({"seed": ours}) as (node,), trio.open_nursery() as nursery:
        visitor = await stranger(nursery, node, theirs)
        await visitor.session(True)
        await node.until(PeerConnected)
        with capture_logs() as logs, trio.fail_after(PATIENCE_S):
            node.network.admit(Identity(theirs).peer, False)
            protocol = None
            while protocol != IDENTIFY:  # the other one is for gossip
                stream = await visitor.opened.receive()
                protocol = await answer_selection(stream, Reader(stream), lambda: (IDENTIFY, "/meshsub/1.1.0"))
            await stream.send(b"\x03\xff\xff\xff")
            while not any(entry["event"] == "peer.not_identified" for entry in logs):
                await trio.lowlevel.checkpoint()
        assert node.network.is_connected(Identity(theirs).peer)
        assert node.network.known() == ()
        nursery.cancel_scope.cancel()


async def test_whoever_is_turned_away_is_dialled_again_seldom_and_named_once() -> None:
    async with nodes({}) as (one,), trio.open_nursery() as nursery:
        with capture_logs() as logs:
            two = await start(nursery, key(2), bootstrap=one.network.addresses, redial_foreign_s=1000.0)
            await two.until(PeerConnected)
            two.network.turn_away(one.peer, "it follows another network")
            assert (await two.until(PeerLost)).reason == "it follows another network"
            with trio.fail_after(PATIENCE_S):
                while not (ended := [entry for entry in logs if entry["event"] == "peer.dial_ended"]):
                    await trio.lowlevel.checkpoint()
            assert ended[0]["pause_s"] >= 500
            two.network.dial(one.network.addresses[0])
            await two.until(PeerConnected)
            two.network.turn_away(one.peer, "it follows another network")
            await two.until(PeerLost)
        said = [entry["log_level"] for entry in logs if entry["event"] == "peer.turned_away"]
        assert said == ["warning", "debug"]
        nursery.cancel_scope.cancel()


def test_addresses_that_are_not_for_tcp_are_left_out_and_garbage_is_no_address() -> None:
    import multiaddr
    from libp2p.identity.identify.pb.identify_pb2 import Identify

    good = multiaddr.Multiaddr("/ip4/192.0.2.7/tcp/4001").to_bytes()
    quic = multiaddr.Multiaddr("/ip4/192.0.2.7/udp/4001/quic-v1").to_bytes()
    text = Identify(listen_addrs=[b"", b"\xff" * 9, b"\x04\x01", quic, good, *[good] * 50]).SerializeToString()
    assert {str(address) for address in told_addresses(text)} == {"/ip4/192.0.2.7/tcp/4001"}
    assert len(told_addresses(text)) <= 16
