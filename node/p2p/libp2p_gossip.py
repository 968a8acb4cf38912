"""Gossipsub of py-libp2p 0.8.1, guarded: it sees a small stand-in for a host and never dials.

Guards: every entry point is ours and bounded (read loop, push_msg, subscriptions, control messages), since any
exception in the library's own ends the host; the heartbeat survives its exceptions; no peer exchange, hence no dials on
a stranger's word; sequence numbers start at the clock's nanoseconds, or a restarted node repeats ids that its peers
have seen; collections that would grow for ever are emptied. Speed: buffered reads, the sender's signed record is
ignored on receipt and encoded once for sending.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, cast

import multiaddr
import structlog
import trio
from google.protobuf.message import DecodeError
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.stream.exceptions import StreamClosed
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore, issue_and_cache_local_record
from libp2p.pubsub import gossipsub as _gossipsub_module
from libp2p.pubsub import pubsub as _pubsub_module
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.tools.anyio_service import background_trio_service

from node.p2p import gossip
from node.p2p.config import P2PConfig
from node.p2p.libp2p_noise import Identity
from node.p2p.peers import Address, parse_address
from node.p2p.streams import Reader
from node.p2p.types import ConnectionEnded, NotRelayed, PeerFault
from node.p2p.yamux import Stream

log = structlog.get_logger(__name__)
logging.getLogger("libp2p").setLevel(logging.CRITICAL)  # what matters is logged here, with the peer's id

ADDRESSES_TOLD_MAX: Final = 16  # looked at in one identity
OpenStream = Callable[[str, str], Awaitable[Stream]]  # (peer, protocol) -> a stream that speaks it


class _GossipStream:
    """Our stream as the library writes to it; two tasks may write, a message stays whole."""

    metric_send_channel = None

    def __init__(self, stream: Stream, peer_id: ID, protocol: str) -> None:
        self._stream, self._protocol = stream, protocol
        self._lock = trio.Lock()
        self.muxed_conn = self
        self.peer_id = peer_id

    def get_protocol(self) -> str:
        return self._protocol

    async def write(self, data: bytes) -> None:
        try:
            async with self._lock:
                await self._stream.send(data)
        except ConnectionEnded as error:
            raise StreamClosed(str(error)) from error

    async def reset(self) -> None:
        self._stream.reset()

    close = reset


class _HostForGossip:
    """As much of a libp2p host as gossipsub asks for. It never dials."""

    def __init__(self, identity: Identity, addresses: tuple[str, ...], open_stream: OpenStream) -> None:
        self._identity, self._open_stream = identity, open_stream
        self._addresses = [multiaddr.Multiaddr(address) for address in addresses]
        self._peerstore = PeerStore()
        self.signed_record: bytes = issue_and_cache_local_record(cast(Any, self))

    def get_id(self) -> ID:
        return self._identity.id

    def get_public_key(self) -> Any:
        return self._identity.keys.public_key

    def get_private_key(self) -> Any:
        return self._identity.keys.private_key

    def get_peerstore(self) -> PeerStore:
        return self._peerstore

    def get_addrs(self) -> list[multiaddr.Multiaddr]:
        return self._addresses

    def get_network(self) -> _HostForGossip:
        return self

    def get_connections(self, _peer_id: ID) -> list[Any]:
        return []  # so that the library starts no retries of its own

    def register_notifee(self, _notifee: object) -> None:
        """Peers are announced by Gossip.join."""

    def set_stream_handler(self, _protocol: str, _handler: object) -> None:
        """Streams are handed over by Gossip.serve."""

    async def new_stream(self, peer_id: ID, protocols: tuple[str, ...]) -> _GossipStream:
        protocol = protocols[0]
        return _GossipStream(await self._open_stream(peer_id.to_base58(), protocol), peer_id, protocol)


def _signed_record(host: _HostForGossip) -> tuple[bytes, bool]:
    return host.signed_record, False


# Both modules would otherwise compare addresses and encode the record again for every message.
for _module in (_pubsub_module, _gossipsub_module):
    setattr(_module, "env_to_send_in_RPC", _signed_record)  # noqa: B010


class _Router(GossipSub):
    async def heartbeat(self) -> None:
        while True:
            try:
                await super().heartbeat()
            except Exception:
                log.exception("gossip.heartbeat_failed")
                await trio.sleep(gossip.HEARTBEAT_S)

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        await super().publish(msg_forwarder, pubsub_msg)
        self.recent_message_deliveries.clear()

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True  # would keep 1000 whole messages; who signed twice is not ours to judge


class Gossip(Pubsub):
    """Gossipsub behind a narrow door.

    Args:
        deliver: (peer, topic, payload, origin) of each new message of others; must not block.
        refuse: (peer, reason), a fault that does not end the connection.
        broken: (peer, reason), the gossip stream towards a peer failed.
    """

    def __init__(
        self,
        host: _HostForGossip,
        config: P2PConfig,
        deliver: Callable[[str, str, bytes, str], None],
        refuse: Callable[[str, str], None],
        broken: Callable[[str, str], None],
    ) -> None:
        router = _Router(
            protocols=cast(Any, gossip.PROTOCOLS),
            degree=gossip.DEGREE,
            degree_low=gossip.DEGREE_MIN,
            degree_high=gossip.DEGREE_MAX,
            heartbeat_interval=gossip.HEARTBEAT_S,
            spam_protection_enabled=False,  # 10 messages a second and topic; ours is gossip.Intake
            eclipse_protection_enabled=False,
            adaptive_gossip_enabled=False,
        )
        super().__init__(
            cast(Any, host), router, strict_signing=True, max_subscriptions_per_peer=config.gossip_topics_max
        )
        self.seen_messages.stop()  # the library's own cache keeps a thread and knows no bound
        self._seen = gossip.Seen()
        self.seen_messages = cast(Any, self._seen)
        self.counter = time.time_ns()
        self._config, self._deliver_event, self._refuse, self._broken = config, deliver, refuse, broken
        self._intakes: dict[ID, gossip.Intake] = {}
        self.checks: dict[str, gossip.Check] = {}  # by topic

    async def join(self, peer: str) -> None:
        """Start gossiping to a connected peer. Raises ConnectionEnded, PeerFault when it does not gossip."""
        peer_id = ID.from_base58(peer)
        await self._handle_new_peer(peer_id)
        if peer_id in self.peer_queues:
            self.peer_queues[peer_id]._queue.max_size = gossip.SEND_QUEUE_MAX

    def part(self, peer: str) -> None:
        """The peer's session is over. No-op when it never joined."""
        peer_id = ID.from_base58(peer)
        self._intakes.pop(peer_id, None)
        super()._handle_dead_peer(peer_id)

    async def serve(self, peer: str, reader: Reader) -> None:
        """Take in what a peer gossips until its stream ends.

        Raises:
            ConnectionEnded, PeerFault.
        """
        peer_id = ID.from_base58(peer)
        intake = gossip.Intake(self._config.gossip_bytes_max, self._config.gossip_per_peer_per_s_max)
        self._intakes[peer_id] = intake
        while True:
            rpc = rpc_pb2.RPC()
            try:
                rpc.ParseFromString(await reader.sized(gossip.RPC_BYTES_MAX))
            except DecodeError as error:
                raise PeerFault("gossip that is not protobuf") from error
            await self._take_in(peer_id, rpc)

    async def _take_in(self, peer_id: ID, rpc: rpc_pb2.RPC) -> None:
        rpc.ClearField("senderRecord")
        if len(rpc.publish) > gossip.MESSAGES_PER_RPC_MAX or len(rpc.subscriptions) > gossip.SUBSCRIPTIONS_PER_RPC_MAX:
            raise PeerFault("too much gossip at once")
        for message in rpc.publish:
            if self._is_subscribed_to_msg(message):
                await self.push_msg(peer_id, message)
        for subscription in rpc.subscriptions:
            if len(subscription.topicid) > gossip.TOPIC_CHARS_MAX:
                raise PeerFault("a topic name that is too long")
            self.handle_subscription(peer_id, subscription)
        if rpc.HasField("control"):
            bound_control(rpc.control, set(self.topic_ids))
            await self.router.handle_rpc(rpc, peer_id)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Check, deliver and pass on one message, ours or a peer's. Between seen and added nothing is awaited.

        A message whose signature is wrong is not remembered, or a forgery would keep the true one out; what its topic's
        check refuses is: the origin has signed it, and looking again would cost as much again.
        """
        message_id = msg.from_id + msg.seqno
        if self._seen.has(message_id):
            return
        ours = msg_forwarder == self.my_id
        if not ours:
            refusal = self._refusal(msg_forwarder, msg)
            if refusal is not None:
                self._refuse(msg_forwarder.to_base58(), refusal)
                return
        self._seen.add(message_id, trio.current_time())
        if not ours:
            if msg.from_id == self.my_id.to_bytes():
                return  # of ours, from before a restart
            if not self._take(msg_forwarder.to_base58(), msg):
                return
        await self.router.publish(msg_forwarder, msg)

    def _take(self, forwarder: str, msg: rpc_pb2.Message) -> bool:
        """Deliver a peer's message unless its topic's check refuses it; whether it may be passed on."""
        topic, relayed = msg.topicIDs[0], True
        try:
            self.checks.get(topic, gossip.relay_all)(msg.data)
        except NotRelayed:
            relayed = False
        except PeerFault as error:
            self._refuse(forwarder, f"gossip: {error}")
            return False
        self._deliver_event(forwarder, topic, bytes(msg.data), ID(msg.from_id).to_base58())
        return relayed

    def _refusal(self, forwarder: ID, msg: rpc_pb2.Message) -> str | None:
        refusal = self._intakes[forwarder].refusal(
            msg.from_id, msg.seqno, len(msg.topicIDs), len(msg.data), trio.current_time()
        )
        if refusal is not None:
            return refusal
        try:
            return None if signature_validator(msg) else "gossip with a wrong signature"
        except Exception:  # the library raises what the stranger's key provokes
            return "gossip with a malformed key"

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """Called by the library when a write fails: the whole session starts anew."""
        super()._handle_dead_peer(peer_id)
        self._broken(peer_id.to_base58(), "its gossip stream broke")


def bound_control(control: rpc_pb2.ControlMessage, topics: set[str]) -> None:
    """Drop what names topics that we do not know, cut long lists, and peer exchange altogether."""
    for name in ("ihave", "graft", "prune"):
        entries = getattr(control, name)
        for index in reversed(range(len(entries))):
            if entries[index].topicID not in topics:
                del entries[index]
    for name in ("ihave", "iwant", "idontwant"):
        for entry in getattr(control, name):
            del entry.messageIDs[gossip.MESSAGE_IDS_MAX :]
    for prune in control.prune:
        del prune.peers[:]
    control.ClearField("extensions")
    control.ClearField("observe")
    control.ClearField("unobserve")


@asynccontextmanager
async def open_gossip(
    identity: Identity,
    addresses: tuple[str, ...],
    open_stream: OpenStream,
    config: P2PConfig,
    deliver: Callable[[str, str, bytes, str], None],
    refuse: Callable[[str, str], None],
    broken: Callable[[str, str], None],
) -> AsyncIterator[Gossip]:
    """Run gossipsub for as long as the block lasts; see Gossip for the callbacks."""
    pubsub = Gossip(_HostForGossip(identity, addresses, open_stream), config, deliver, refuse, broken)
    async with background_trio_service(pubsub), background_trio_service(cast(Any, pubsub.router)):
        await pubsub.wait_until_ready()
        yield pubsub


def told_addresses(text: bytes) -> list[Address]:
    """The TCP addresses in an answer to /ipfs/id/1.0.0; what is none of ours to dial is left out. Raises PeerFault."""
    try:
        listed = Identify.FromString(text).listen_addrs
    except DecodeError:
        raise PeerFault("an identity that is not protobuf") from None
    found = []
    for data in listed[:ADDRESSES_TOLD_MAX]:
        with suppress(Exception):  # whichever a stranger's bytes provoke in the library
            found.append(parse_address(str(multiaddr.Multiaddr(data))))
    return found


def describe(identity: Identity, addresses: tuple[str, ...], protocols: tuple[str, ...]) -> bytes:
    """The answer to /ipfs/id/1.0.0 of other libp2p implementations."""
    return Identify(
        protocol_version="flnode/1",
        agent_version="flnode",
        public_key=identity.keys.public_key.serialize(),
        listen_addrs=[multiaddr.Multiaddr(address.split("/p2p/")[0]).to_bytes() for address in addresses],
        protocols=protocols,
    ).SerializeToString()
