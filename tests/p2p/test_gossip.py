"""Gossip over real hosts, and the pure judgement of what is worth a look."""

from __future__ import annotations

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.validators import PUBSUB_SIGNING_PREFIX
from p2p_kit import PATIENCE_S, Node, Stranger, key, nodes, ordered_keys, start, stranger
from structlog.testing import capture_logs

from node.p2p import gossip
from node.p2p.libp2p_gossip import bound_control
from node.p2p.libp2p_noise import Identity
from node.p2p.streams import encode_varint
from node.p2p.types import (
    GossipReceived,
    MessageReceived,
    MessageTooLarge,
    NotRelayed,
    PeerConnected,
    PeerFault,
    PeerLost,
)

TOPIC = "transactions"
MESHSUB = "/meshsub/1.1.0"


async def meshed(*members: Node) -> None:
    """Wait until each node has a mesh peer for the topic."""
    with trio.fail_after(PATIENCE_S):
        for node in members:
            while not node.network._gossip.router.mesh.get(TOPIC):
                await trio.lowlevel.checkpoint()


async def test_gossip_reaches_a_node_two_hops_away_as_soon_as_it_has_subscribed() -> None:
    async with nodes({}, {"to": [0]}, {"to": [1]}) as (one, two, three):
        for node in (one, two, three):
            node.network.subscribe(TOPIC)
        await meshed(one, two, three)
        began = trio.current_time()
        await one.network.publish(TOPIC, b"from afar")
        event = await three.until(GossipReceived)
        assert event == GossipReceived(two.peer, TOPIC, b"from afar", one.peer)
        assert (await two.until(GossipReceived)).peer == one.peer
        assert trio.current_time() - began < 0.5  # less than a heartbeat: by mesh, not by rumour


async def test_what_was_published_just_before_a_peer_came_reaches_it() -> None:
    async with trio.open_nursery() as nursery:
        one = await start(nursery, key(1))
        one.network.subscribe(TOPIC)
        await one.network.publish(TOPIC, b"to nobody yet")
        two = await start(nursery, key(2), bootstrap=one.network.addresses)
        two.network.subscribe(TOPIC)
        assert (await two.until(GossipReceived)).payload == b"to nobody yet"
        nursery.cancel_scope.cancel()


async def test_gossip_comes_once_however_many_ways_it_takes_and_never_back() -> None:
    async with nodes({}, {"to": [0]}, {"to": [0, 1]}) as members:
        for node in members:
            node.network.subscribe(TOPIC)
        await meshed(*members)
        for number in range(5):
            await members[0].network.publish(TOPIC, bytes([number]))
        for node in members[1:]:
            got = [(await node.until(GossipReceived)).payload for _ in range(5)]
            assert sorted(got) == [bytes([n]) for n in range(5)]  # two ways: the order is not promised
        members[0].network.send(members[1].peer, "test", b"last")
        await members[1].until(MessageReceived, payload=b"last")
        assert not any(isinstance(event, GossipReceived) for node in members for event in node.passed_over)


async def test_equal_payloads_are_different_messages() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.subscribe(TOPIC)
        two.network.subscribe(TOPIC)
        await meshed(one, two)
        await one.network.publish(TOPIC, b"again")
        await one.network.publish(TOPIC, b"again")
        assert [(await two.until(GossipReceived)).payload for _ in range(2)] == [b"again", b"again"]


async def test_a_restarted_node_does_not_repeat_its_message_ids() -> None:
    async with nodes({}) as (one,), trio.open_nursery() as nursery:
        one.network.subscribe(TOPIC)
        for life in (b"first life", b"second life"):
            two = await start(nursery, key(2), bootstrap=one.network.addresses)
            two.network.subscribe(TOPIC)
            await meshed(two)
            for _ in range(30):
                assert two.network.publish_nowait(TOPIC, life)
            for _ in range(30):
                await one.until(GossipReceived, payload=life)
            await two.stop()
            await one.until(PeerLost)


async def test_only_subscribed_topics_arrive() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.subscribe(TOPIC)
        one.network.subscribe("other")
        two.network.subscribe(TOPIC)
        await meshed(one, two)
        await one.network.publish("other", b"not for two")
        await one.network.publish(TOPIC, b"for two")
        assert (await two.until(GossipReceived)).payload == b"for two"


async def test_gossip_above_the_limit_is_refused_here() -> None:
    async with nodes({}) as (one,):
        with pytest.raises(MessageTooLarge):
            await one.network.publish(TOPIC, bytes(65_537))
        with pytest.raises(MessageTooLarge):
            one.network.publish_nowait(TOPIC, bytes(65_537))
        with pytest.raises(ValueError, match="topic of 129"):
            one.network.subscribe("t" * 129)


async def test_the_largest_gossip_passes() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.subscribe(TOPIC)
        two.network.subscribe(TOPIC)
        await meshed(one, two)
        await one.network.publish(TOPIC, bytes(65_536))
        assert len((await two.until(GossipReceived)).payload) == 65_536


async def test_a_peer_that_gossips_too_fast_is_cut_down_and_counted() -> None:
    async with nodes({"gossip_per_peer_per_s_max": 2.0}, {"to": [0]}) as (one, two):
        one.network.subscribe(TOPIC)
        two.network.subscribe(TOPIC)
        await meshed(one, two)
        for number in range(20):
            await two.network.publish(TOPIC, bytes([number]))
        two.network.send(one.peer, "test", b"votes are not gossip")
        for number in range(4):
            await one.until(GossipReceived, payload=bytes([number]))
        await one.until(MessageReceived)
        with trio.fail_after(PATIENCE_S):
            while one.network.peers()[0].refused < 15:
                await trio.lowlevel.checkpoint()


async def test_gossip_that_nobody_takes_is_dropped_and_messages_are_not() -> None:
    async with nodes({"events_max": 8}, {"to": [0]}) as (one, two):
        one.network.subscribe(TOPIC)
        two.network.subscribe(TOPIC)
        await meshed(one, two)
        with capture_logs() as logs, trio.fail_after(PATIENCE_S):
            for number in range(20):
                await two.network.publish(TOPIC, bytes([number]))
            while not any(entry["event"] == "gossip.dropped" for entry in logs):
                await trio.lowlevel.checkpoint()
        two.network.send(one.peer, "test", b"a vote")
        await one.until(MessageReceived, payload=b"a vote")
        kept = [event.payload for event in one.passed_over if isinstance(event, GossipReceived)]
        assert kept[:4] == [bytes([number]) for number in range(4)]
        assert len(kept) < 20


async def test_what_its_check_refuses_goes_no_further_and_is_counted_against_whoever_handed_it_on() -> None:
    looked_at: list[bytes] = []

    def check(payload: bytes) -> None:
        looked_at.append(payload)
        if payload.startswith(b"garbage"):
            raise PeerFault("nonsense")
        if payload.startswith(b"private"):
            raise NotRelayed("of no use to others")

    async with nodes({}, {"to": [0]}, {"to": [1]}) as (one, two, three):
        one.network.subscribe(TOPIC)
        two.network.subscribe(TOPIC, check)
        three.network.subscribe(TOPIC)
        await meshed(one, two, three)
        for payload in (b"garbage 1", b"private", b"garbage 2", b"good"):
            await one.network.publish(TOPIC, payload)
        assert (await three.until(GossipReceived)).payload == b"good"  # what came before would have come before
        assert [(await two.until(GossipReceived)).payload for _ in range(2)] == [b"private", b"good"]
        faults = {info.peer: info.refused for info in two.network.peers()}
        assert faults == {one.peer: 2, three.peer: 0}
        assert looked_at == [b"garbage 1", b"private", b"garbage 2", b"good"]


async def test_a_message_that_was_refused_is_not_looked_at_again() -> None:
    theirs, ours = ordered_keys()
    looked_at: list[bytes] = []

    def check(payload: bytes) -> None:
        looked_at.append(payload)
        if payload != b"good":
            raise PeerFault("nonsense")

    bad, good = signed(key(5), 1, b"bad"), signed(key(5), 2, b"good")
    async with nodes({"seed": ours}) as (node,), trio.open_nursery() as nursery:
        node.network.subscribe(TOPIC, check)
        await gossiping(node, nursery, theirs, rpc_pb2.RPC(publish=[bad, bad, bad, good]))
        await node.until(GossipReceived)
        assert looked_at == [b"bad", b"good"]
        assert node.network.peers()[0].refused == 1
        nursery.cancel_scope.cancel()


# ---- forged gossip, byte by byte -----------------------------------------------------------------------------------
def signed(seed: bytes, number: int, payload: bytes) -> rpc_pb2.Message:
    keys = create_new_key_pair(seed)
    origin = ID.from_pubkey(keys.public_key).to_bytes()
    message = rpc_pb2.Message(data=payload, topicIDs=[TOPIC], from_id=origin, seqno=number.to_bytes(8, "big"))
    message.signature = keys.private_key.sign(PUBSUB_SIGNING_PREFIX.encode() + message.SerializeToString())
    return message


async def gossiping(node: Node, nursery: trio.Nursery, seed: bytes, *rpcs: rpc_pb2.RPC) -> Stranger:
    """A stranger with a session that has sent these RPCs."""
    visitor = await stranger(nursery, node, seed)
    await visitor.session(True)
    await node.until(PeerConnected)
    texts = [rpc.SerializeToString() for rpc in rpcs]
    await visitor.open(MESHSUB, b"".join(encode_varint(len(text)) + text for text in texts))
    return visitor


async def test_only_messages_with_their_origins_signature_are_delivered() -> None:
    theirs, ours = ordered_keys()
    forged = signed(key(5), 1, b"forged")
    forged.data = b"changed"
    stolen = signed(key(5), 2, b"stolen")
    stolen.from_id = ID.from_base58(Identity(key(6)).peer).to_bytes()
    unsigned = rpc_pb2.Message(data=b"unsigned", topicIDs=[TOPIC], from_id=b"\x00" * 38, seqno=b"\x01")
    own = signed(ours, 3, b"from a former life")
    good = signed(key(5), 4, b"good")
    async with nodes({"seed": ours}) as (node,), trio.open_nursery() as nursery:
        node.network.subscribe(TOPIC)
        await gossiping(node, nursery, theirs, rpc_pb2.RPC(publish=[forged, stolen, unsigned, own, good, good]))
        event = await node.until(GossipReceived)
        assert (event.payload, event.origin) == (b"good", Identity(key(5)).peer)
        assert node.network.peers()[0].refused == 3
        nursery.cancel_scope.cancel()


async def test_excessive_gossip_costs_the_session() -> None:
    theirs, ours = ordered_keys()
    subscription = rpc_pb2.RPC.SubOpts(subscribe=True, topicid="x")
    long_name = rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="x" * 129)])
    for rpc in (rpc_pb2.RPC(subscriptions=[subscription] * 65), long_name):
        async with nodes({"seed": ours}) as (node,), trio.open_nursery() as nursery:
            await gossiping(node, nursery, theirs, rpc)
            assert (await node.until(PeerLost)).reason.startswith("fault: ")
            nursery.cancel_scope.cancel()


async def test_control_messages_about_unknown_topics_leave_no_trace() -> None:
    theirs, ours = ordered_keys()
    control = rpc_pb2.ControlMessage(
        prune=[rpc_pb2.ControlPrune(topicID=f"t{n}", backoff=1 << 40) for n in range(100)]
        + [rpc_pb2.ControlPrune(topicID=TOPIC, peers=[rpc_pb2.PeerInfo(peerID=b"\x00" * 38)])],
        graft=[rpc_pb2.ControlGraft(topicID="unknown")],
        ihave=[rpc_pb2.ControlIHave(topicID="unknown", messageIDs=[b"x"])],
    )
    async with nodes({"seed": ours}) as (node,), trio.open_nursery() as nursery:
        node.network.subscribe(TOPIC)
        with trio.fail_after(PATIENCE_S):
            while TOPIC not in node.network._gossip.router.mesh:
                await trio.lowlevel.checkpoint()
        message = signed(key(5), 1, b"after")
        await gossiping(node, nursery, theirs, rpc_pb2.RPC(control=control), rpc_pb2.RPC(publish=[message]))
        await node.until(GossipReceived)
        assert set(node.network._gossip.router.back_off) == {TOPIC}
        nursery.cancel_scope.cancel()


async def test_an_exception_in_the_heartbeat_does_not_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip, "HEARTBEAT_S", 0.01)
    async with nodes({}) as (one,):
        router = one.network._gossip.router
        beats = trio.Event()
        failures = 0

        def fail() -> object:
            nonlocal failures
            failures += 1
            if failures == 3:
                beats.set()
            raise ZeroDivisionError

        with capture_logs():
            monkeypatch.setattr(router, "mesh_heartbeat", fail)
            with trio.fail_after(PATIENCE_S):
                await beats.wait()


# ---- pure -------------------------------------------------------------------------------------------------------
def test_control_messages_are_cut_to_what_is_known_and_bounded_and_never_suggest_peers() -> None:
    control = rpc_pb2.ControlMessage(
        prune=[rpc_pb2.ControlPrune(topicID=TOPIC, peers=[rpc_pb2.PeerInfo(peerID=b"\x00" * 38)])],
        graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in ("a", TOPIC, "b")],
        ihave=[rpc_pb2.ControlIHave(topicID="a"), rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"x"] * 2000)],
        iwant=[rpc_pb2.ControlIWant(messageIDs=[b"x"] * 2000)],
    )
    bound_control(control, {TOPIC})
    assert [graft.topicID for graft in control.graft] == [TOPIC]
    assert len(control.prune) == 1
    assert not control.prune[0].peers
    assert [len(ihave.messageIDs) for ihave in control.ihave] == [gossip.MESSAGE_IDS_MAX]
    assert len(control.iwant[0].messageIDs) == gossip.MESSAGE_IDS_MAX


def test_intake_names_the_reason() -> None:
    intake = gossip.Intake(payload_max=100, per_s_max=10.0)
    assert intake.refusal(b"a" * 38, b"1", 1, 100, 0.0) is None
    assert intake.refusal(b"a" * 38, b"1", 1, 101, 0.0) == "gossip of 101 bytes, the limit is 100"
    assert intake.refusal(b"a" * 38, b"1", 2, 1, 0.0) == "gossip on 2 topics"
    assert intake.refusal(b"", b"1", 1, 1, 0.0) == "gossip without a proper sender"
    assert intake.refusal(b"a" * 38, b"1" * 17, 1, 1, 0.0) == "gossip without a proper sender"
    for _ in range(15):
        intake.refusal(b"a" * 38, b"1", 1, 1, 0.0)
    assert intake.refusal(b"a" * 38, b"1", 1, 1, 0.0) == "gossips too fast"
    assert intake.refusal(b"a" * 38, b"1", 1, 1, 1.0) is None


def test_seen_forgets_the_oldest_first_and_after_two_minutes() -> None:
    seen = gossip.Seen()
    seen.add(b"a", 0.0)
    seen.add(b"b", gossip.SEEN_S)
    assert seen.has(b"a")
    seen.add(b"c", gossip.SEEN_S + 1)
    assert not seen.has(b"a")
    for number in range(gossip.SEEN_MAX):
        seen.add(number.to_bytes(4, "big"), gossip.SEEN_S + 1)
    assert not seen.has(b"b")
    assert seen.has((0).to_bytes(4, "big"))
