"""What strangers may try: every one of these must cost them their connection and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from p2p_kit import (
    PATIENCE_S,
    Node,
    Stranger,
    key,
    nodes,
    ordered_keys,
    raw_tcp,
    read_to_end,
    start,
    stranger,
)
from structlog.testing import capture_logs

from node.p2p.libp2p_noise import NOISE, Identity
from node.p2p.links import SESSION
from node.p2p.streams import (
    HELLO,
    encode_frame,
    encode_line,
    encode_message,
    encode_selection,
    encode_varint,
)
from node.p2p.types import ConnectionEnded, MessageReceived, PeerConnected, PeerLost

MESHSUB = "/meshsub/1.1.0"
# Our own id is the larger one in these tests, so that strangers open the sessions.
THEIRS, OURS = ordered_keys()


@asynccontextmanager
async def besieged(**changes: Any) -> AsyncIterator[tuple[Node, trio.Nursery]]:
    """A node; afterwards it must still serve an honest newcomer."""
    async with trio.open_nursery() as nursery:
        node = await start(nursery, OURS, **changes)
        yield node, nursery
        friend = await start(nursery, key(7), bootstrap=node.network.addresses)
        await node.until(PeerConnected, peer=friend.peer)
        friend.network.send(node.peer, "test", b"all is well")
        await friend.until(PeerConnected)
        friend.network.send(node.peer, "test", b"all is well")
        await node.until(MessageReceived, peer=friend.peer, payload=b"all is well")
        nursery.cancel_scope.cancel()


async def admitted(node: Node, nursery: trio.Nursery) -> Stranger:
    """A stranger whose session has begun."""
    visitor = await stranger(nursery, node, THEIRS)
    await visitor.session(True)
    await node.until(PeerConnected)
    return visitor


async def ends(visitor: Stranger) -> None:
    with trio.fail_after(PATIENCE_S):
        await visitor.closed.wait()


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(range(256)) * 20,
        b"\xff" * 64,
        encode_line("/multistream/2.0.0"),
        encode_selection(NOISE) + b"\x00\x20" + bytes(range(32)) + b"\xff\xff" + bytes(70_000),
        encode_varint(1 << 40) + b"x",
        encode_varint(3) + b"\xff\xfe\n",
    ],
    ids=["http", "bytes", "varint", "version", "noise", "length", "not-text"],
)
async def test_garbage_instead_of_a_handshake_is_refused(garbage: bytes) -> None:
    async with besieged(handshake_timeout_s=0.3) as (node, _):
        tcp = await raw_tcp(node)
        with capture_logs() as logs:
            await tcp.send_all(garbage)
            await read_to_end(tcp)
        assert [entry["event"] for entry in logs if entry["log_level"] == "warning"] == ["peer.refused"]


@pytest.mark.parametrize("protocol", ["/plaintext/2.0.0", "/tls/1.0.0", "/secio/1.0.0"])
async def test_no_security_but_noise_is_spoken(protocol: str) -> None:
    async with besieged(handshake_timeout_s=0.3) as (node, _):
        tcp = await raw_tcp(node)
        await tcp.send_all(encode_selection(protocol))
        assert (await read_to_end(tcp)).endswith(encode_line("na"))


@pytest.mark.parametrize("drip", [b"", encode_selection(NOISE)[:9]], ids=["silent", "slow-loris"])
async def test_a_connection_that_does_not_get_on_with_its_handshake_is_closed(drip: bytes) -> None:
    async with besieged(handshake_timeout_s=0.3) as (node, _):
        tcp = await raw_tcp(node)
        for byte in drip:
            await tcp.send_all(bytes([byte]))
        began = trio.current_time()
        await read_to_end(tcp)
        assert trio.current_time() - began < 5


async def test_a_secured_connection_that_never_says_hello_is_closed() -> None:
    async with besieged(handshake_timeout_s=0.3) as (node, nursery):
        mute = await stranger(nursery, node, THEIRS)
        await ends(mute)
        assert node.network._book.refused(Identity(THEIRS).peer) == 1


async def test_connections_from_one_address_are_limited() -> None:
    async with trio.open_nursery() as nursery:
        node = await start(nursery, OURS, inbound_per_address_max=2)
        kept = [await raw_tcp(node), await raw_tcp(node)]
        for tcp in kept:
            await tcp.receive_some()  # it is greeted
        assert await read_to_end(await raw_tcp(node)) == b""
        await kept[0].aclose()
        newcomer = await start(nursery, key(7), bootstrap=node.network.addresses)
        await newcomer.until(PeerConnected)
        nursery.cancel_scope.cancel()


async def test_a_hello_above_the_limit_is_refused() -> None:
    async with besieged(hello_bytes_max=100) as (node, nursery):
        visitor = await stranger(nursery, node, THEIRS)
        stream, _ = await visitor.open(SESSION)
        await stream.send(encode_message(HELLO, bytes(1000)))
        await ends(visitor)


async def test_whoever_speaks_before_hello_is_refused() -> None:
    async with besieged() as (node, nursery):
        visitor = await stranger(nursery, node, THEIRS)
        await visitor.open(SESSION, encode_message("vote", b"for me"))
        await ends(visitor)


@pytest.mark.parametrize(
    "frame",
    [b"\xff\xff\xff\xff", encode_frame(b""), encode_frame(b"\x09vote"), encode_frame(b"\x02\xff\xfe"),
     encode_message(HELLO, b"again")],
    ids=["length", "empty", "kind", "not-text", "hello-twice"],
)  # fmt: skip
async def test_a_malformed_frame_ends_the_session(frame: bytes) -> None:
    async with besieged() as (node, nursery):
        visitor = await stranger(nursery, node, THEIRS)
        stream, _ = await visitor.session(True)
        await stream.send(frame)
        assert (await node.until(PeerLost)).reason.startswith("fault: ")
        assert node.network._book.refused(Identity(THEIRS).peer) == 1


async def test_a_second_session_on_one_connection_is_refused() -> None:
    async with besieged() as (node, nursery):
        visitor = await admitted(node, nursery)
        stream, _ = await visitor.open(SESSION)
        with pytest.raises(ConnectionEnded):
            await stream.receive()
        assert node.network.peers()[0].refused == 1


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (encode_varint(17) + b"\x10" + bytes(range(200, 216)), "gossip that is not protobuf"),
        (encode_varint(100 << 20), "announces 104857600 bytes"),
        (b"\xff" * 12, "a varint longer"),
    ],
    ids=["protobuf", "length", "varint"],
)
async def test_garbage_on_a_gossip_stream_costs_the_session(first: bytes, reason: str) -> None:
    async with besieged() as (node, nursery):
        visitor = await admitted(node, nursery)
        await visitor.open(MESHSUB, first)
        assert reason in (await node.until(PeerLost)).reason


async def test_a_gossip_stream_that_breaks_off_ends_the_session() -> None:
    async with besieged() as (node, nursery):
        visitor = await admitted(node, nursery)
        stream, _ = await visitor.open(MESHSUB, encode_varint(127) + b"abc")
        stream.finish()
        assert "its gossip ended" in (await node.until(PeerLost)).reason


async def test_streams_of_one_peer_are_limited() -> None:
    async with besieged(streams_per_peer_max=4) as (node, nursery):
        visitor = await admitted(node, nursery)
        for _ in range(3):  # beside the session's
            await visitor.open("/ipfs/ping/1.0.0")
        with pytest.raises(ConnectionEnded, match="reset by the peer"):
            await visitor.open("/ipfs/ping/1.0.0")


async def test_after_too_many_faults_a_peer_is_kept_out_for_a_while() -> None:
    async with besieged(refusals_max=3, ban_s=1000.0) as (node, nursery):
        await admitted(node, nursery)
        for _ in range(3):
            node.network.refuse(Identity(THEIRS).peer, "talks nonsense")
        assert (await node.until(PeerLost)).reason == "banned"
        again = await stranger(nursery, node, THEIRS)
        await ends(again)


async def test_what_a_stranger_may_ask_before_hello_is_answered() -> None:
    async with besieged() as (node, nursery):
        visitor = await stranger(nursery, node, THEIRS)
        stream, reader = await visitor.open("/ipfs/ping/1.0.0", bytes(range(32)))
        assert await reader.exactly(32) == bytes(range(32))
        stream.finish()
        assert await reader.at_end()
        _, reader = await visitor.open("/ipfs/id/1.0.0")
        text = await reader.sized(4096)
        assert b"/flnode/session/1" in text
        assert b"flnode" in text


async def test_frames_that_are_not_yamux_end_the_connection() -> None:
    async with besieged() as (node, nursery):
        visitor = await admitted(node, nursery)
        await visitor.muxer.write(b"\x07" * 12)
        assert "not a yamux frame" in (await node.until(PeerLost)).reason


async def test_an_unexpected_exception_in_serving_a_peer_does_not_reach_the_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with besieged() as (node, nursery):

        async def broken(*_: object) -> None:
            raise ZeroDivisionError

        with monkeypatch.context() as patch, capture_logs() as logs:
            patch.setattr(node.network._links, "_hold_session", broken)
            visitor = await stranger(nursery, node, THEIRS)
            await ends(visitor)
        assert "peer.failed" in [entry["event"] for entry in logs]


async def test_another_peer_id_than_the_one_dialled_is_not_talked_to() -> None:
    async with nodes({}) as (one,):
        wrong = one.network.addresses[0].replace(one.peer, Identity(key(9)).peer)
        async with trio.open_nursery() as nursery:
            with capture_logs() as logs:
                two = await start(nursery, key(2), bootstrap=(wrong,))
                with trio.fail_after(PATIENCE_S):
                    while not any("handshake" in entry.get("reason", "") for entry in logs):
                        await trio.lowlevel.checkpoint()
            assert two.network.peers() == []
            nursery.cancel_scope.cancel()


def test_a_key_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="the key is 31 bytes"):
        Identity(bytes(31))


async def test_the_stranger_of_these_tests_gets_in_when_it_behaves() -> None:
    async with besieged() as (node, nursery):
        visitor = await stranger(nursery, node, THEIRS)
        stream, reader = await visitor.session(True, b"well met")
        await node.until(PeerConnected, hello=b"well met")
        node.network.send(Identity(THEIRS).peer, "test", b"for you")
        assert await reader.frame(1000) == b"\x04testfor you"
        await stream.send(encode_message("test", b"for you too"))
        await node.until(MessageReceived, payload=b"for you too")
