"""The p2p host: listens, keeps dialling, and gives the node one object to talk to its peers with."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
import trio

from node.bounded import BoundedDict
from node.p2p import gossip
from node.p2p.addresses import Known
from node.p2p.config import P2PConfig
from node.p2p.dialler import Dialler
from node.p2p.events import EventQueue
from node.p2p.libp2p_gossip import Gossip, describe, open_gossip
from node.p2p.libp2p_noise import Identity
from node.p2p.links import SESSION, Link, Links
from node.p2p.peers import Address, Admission, PeerBook, parse_address, socket_address
from node.p2p.requests import Answer, Handler, Replier, answer, ask, open_requested
from node.p2p.seeker import IDENTIFY, Seeker
from node.p2p.streams import Reader, encode_varint
from node.p2p.types import (
    INBOUND,
    ConnectionEnded,
    GossipReceived,
    ListenFailed,
    MessageReceived,
    MessageTooLarge,
    PeerConnected,
    PeerFault,
    PeerInfo,
    PeerLost,
    RequestFailed,
)
from node.p2p.yamux import Stream

if TYPE_CHECKING:
    from trio_typing import TaskStatus

__all__ = [
    "Answer",
    "GossipReceived",
    "MessageReceived",
    "Network",
    "PeerConnected",
    "PeerLost",
    "Replier",
    "RequestFailed",
    "run_network",
]

log = structlog.get_logger(__name__)

PING = "/ipfs/ping/1.0.0"
_PING_BYTES = 32
_FOREIGN_MAX = 1024  # peers remembered as told that they do not belong here
_GOSSIP_OUT_MAX = 1024  # publications and subscriptions that wait for the gossip task


class Network:
    """This node's place among its peers. Made by run_network; valid while that runs."""

    def __init__(
        self,
        identity: Identity,
        config: P2PConfig,
        hello: bytes,
        nursery: trio.Nursery,
        known: Path | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.peer_id = identity.peer
        self.addresses: tuple[str, ...] = ()  # full multiaddrs, with /p2p/
        self.config = config
        self._identity, self._config, self._nursery = identity, config, nursery
        self.events = EventQueue(config.events_max, config.events_bytes_max)
        self._book = PeerBook(config.refusals_max, config.ban_s)
        self._admission = Admission(config.peers_max, config.inbound_per_address_max)
        self._links = Links(identity, config, hello, self._book, self, self.events.put)
        self._dialler = Dialler(config, self._links, self.peer_id, nursery)
        self._seeker = Seeker(config, known, self._links, self._dialler, clock)
        self._foreign: BoundedDict[str, str] = BoundedDict(_FOREIGN_MAX)
        self._handlers: dict[str, Handler] = {}
        self._gossip: Gossip
        self._gossip_out, self._gossip_todo = trio.open_memory_channel[tuple[str, bytes | None]](_GOSSIP_OUT_MAX)
        self._gossip_dropped = 0

    # ---- peers ------------------------------------------------------------------------------------------------------
    def peers(self) -> list[PeerInfo]:
        """Every peer with a session."""
        now = trio.current_time()
        return [
            PeerInfo(
                peer=link.peer,
                address=str(link.address),
                direction=link.direction,
                connected_since_s=now - link.since,
                bytes_in=link.pipe.bytes_in,
                bytes_out=link.pipe.bytes_out,
                refused=self._book.refused(link.peer),
                queued_bytes=link.session.queued_bytes if link.session else 0,
            )
            for link in self._links.by_peer.values()
        ]

    def sessions(self) -> dict[str, float]:
        """Every connected peer, and the trio time since when it is."""
        return {peer: link.since for peer, link in self._links.by_peer.items()}

    def known(self) -> tuple[Known, ...]:
        """Where peers can be dialled, as far as this node knows."""
        return self._seeker.book.all()

    def admit(self, peer: str, validator: bool) -> None:
        """A connected peer is of our network, and has perhaps proved a validator's key: it is worth knowing."""
        if (link := self._links.by_peer.get(peer)) is not None:
            self._seeker.admitted(link, validator)
        if validator:
            self.prioritise(peer)

    def turn_away(self, peer: str, reason: str) -> None:
        """A connected peer is not of our network: it is dropped, and dialled again seldom."""
        if (link := self._links.by_peer.get(peer)) is None:
            return
        say = log.debug if self._foreign.get(peer) == reason else log.warning  # it may come again and again
        say("peer.turned_away", peer=peer, address=str(link.address), reason=reason)
        self._foreign[peer] = reason
        link.foreign = True
        link.end(reason)

    def prioritise(self, peer: str) -> None:
        """Have what this peer says, gossip excepted, before what others say, until it is lost; see events.py."""
        self.events.prioritise(peer)

    def is_connected(self, peer: str) -> bool:
        return peer in self._links.by_peer

    def refuse(self, peer: str, reason: str) -> None:
        """Count and log one fault of a peer; too many get it banned for a while."""
        self._links.refuse(peer, reason)

    def disconnect(self, peer: str, reason: str) -> None:
        """End a peer's session; PeerLost follows. It may come again."""
        if peer in self._links.by_peer:
            self._links.by_peer[peer].end(reason)

    def dial(self, address: str) -> None:
        """Keep a connection to this address from now on, like one of the bootstrap addresses.

        Raises:
            ValueError: not a TCP multiaddr.
        """
        self._dialler.keep(parse_address(address))

    # ---- messages ---------------------------------------------------------------------------------------------------
    def send(self, peer: str, kind: str, payload: bytes) -> bool:
        """Queue a message on the peer's persistent stream; never waits.

        Returns:
            False when the peer is not connected, or is dropped because its queue is full.
        Raises:
            MessageTooLarge: above `message_bytes_max`.
        """
        link = self._links.by_peer.get(peer)
        return link is not None and link.session is not None and link.session.send(kind, payload)

    def broadcast(self, kind: str, payload: bytes) -> None:
        """Send to every connected peer. Raises MessageTooLarge."""
        for peer in list(self._links.by_peer):
            self.send(peer, kind, payload)

    # ---- gossip -----------------------------------------------------------------------------------------------------
    def subscribe(self, topic: str, check: gossip.Check = gossip.relay_all) -> None:
        """Have GossipReceived for this topic from now on, and pass on to others what `check` lets pass; see there."""
        if len(topic) > gossip.TOPIC_CHARS_MAX:
            raise ValueError(f"topic of {len(topic)} characters, the limit is {gossip.TOPIC_CHARS_MAX}")
        self._gossip.checks[topic] = check
        self._gossip_out.send_nowait((topic, None))

    async def publish(self, topic: str, payload: bytes) -> None:
        """Gossip to everyone who subscribed, also when nobody is connected. Waits when much is under way.

        Raises:
            MessageTooLarge: above `gossip_bytes_max`.
        """
        self._check_gossip(payload)
        await self._gossip_out.send((topic, payload))

    def publish_nowait(self, topic: str, payload: bytes) -> bool:
        """As `publish`, but False, and nothing sent, when too much is under way."""
        self._check_gossip(payload)
        try:
            self._gossip_out.send_nowait((topic, payload))
        except trio.WouldBlock:
            log.warning("gossip.not_published", topic=topic)
            return False
        return True

    # ---- requests ---------------------------------------------------------------------------------------------------
    def serve(self, protocol: str, handler: Handler) -> None:
        """Answer requests of this protocol; `handler(peer, request, replier)` may raise: only that request fails."""
        if protocol in self.protocols() or protocol == SESSION:
            raise ValueError(f"{protocol} is already served")
        self._handlers[protocol] = handler

    async def request(
        self, peer: str, protocol: str, request: bytes, response_max: int, timeout_s: float | None = None
    ) -> bytes:
        """Ask a peer; all frames of its answer in one.

        Raises:
            RequestFailed: not connected, refused, broken off, too slow, or above `response_max` bytes.
        """
        frames, left = [], response_max
        async with self.request_stream(peer, protocol, request, timeout_s) as answer:
            while (frame := await answer.next(left)) is not None:
                frames.append(frame)
                left -= len(frame)
        return b"".join(frames)

    def request_stream(
        self, peer: str, protocol: str, request: bytes, timeout_s: float | None = None
    ) -> AbstractAsyncContextManager[Answer]:
        """Ask a peer and read its answer frame by frame, within the timeout for all of it.

        Raises:
            RequestFailed: also for what goes wrong inside the block.
        """
        patience_s = self._config.request_timeout_s if timeout_s is None else timeout_s
        return ask(self._links.by_peer.get(peer), peer, protocol, request, patience_s, self.refuse)

    # ---- links.Services ---------------------------------------------------------------------------------------------
    def protocols(self) -> frozenset[str]:
        return frozenset((IDENTIFY, PING, *gossip.PROTOCOLS, *self._handlers))

    async def join(self, peer: str) -> None:
        await self._gossip.join(peer)

    def part(self, peer: str) -> None:
        self._gossip.part(peer)
        self._seeker.lost(peer)

    async def serve_stream(self, link: Link, protocol: str, stream: Stream, reader: Reader) -> None:
        if protocol == IDENTIFY:
            addresses = tuple(_reachable(address, link.pipe.local_host) for address in self.addresses)
            text = describe(self._identity, addresses, tuple(sorted(self.protocols() | {SESSION})))
            await stream.send(encode_varint(len(text)) + text)
            stream.finish()
        elif protocol == PING:
            while not await reader.at_end():
                await stream.send(await reader.exactly(_PING_BYTES))
            stream.finish()
        else:
            await link.ready.wait()  # or the link's own deadline for the hello
            if protocol in gossip.PROTOCOLS:
                await self._serve_gossip(link, reader)
            else:
                size_max, patience_s = self._config.request_bytes_max, self._config.serve_timeout_s
                await answer(self._handlers[protocol], link.peer, protocol, stream, reader, size_max, patience_s)

    async def _serve_gossip(self, link: Link, reader: Reader) -> None:
        try:
            await self._gossip.serve(link.peer, reader)
        except ConnectionEnded as error:
            link.end(f"its gossip ended: {error}")
        except PeerFault as error:
            link.blame(str(error))

    # ---- tasks ------------------------------------------------------------------------------------------------------
    async def accept(self, socket: trio.SocketStream) -> None:
        """Carry one inbound connection."""
        try:
            name = socket.socket.getpeername()
        except OSError:
            return  # gone already
        address = socket_address(name[0], name[1])
        refusal = self._admission.admit(address.host)
        if refusal is not None:
            log.warning("peer.refused", peer=f"unknown at {address}", reason=refusal)
            return
        try:
            await self._links.carry(socket, address, INBOUND, lambda _peer: None)
        finally:
            self._admission.leave(address.host)

    async def _gossip_loop(self) -> None:
        async for topic, payload in self._gossip_todo:
            try:
                if payload is None:
                    await self._gossip.subscribe(topic)
                else:
                    await self._gossip.publish(topic, payload)
            except Exception:  # the library's; one message is lost
                log.exception("gossip.failed", topic=topic)

    def _take_gossip(self, peer: str, topic: str, payload: bytes, origin: str) -> None:
        # Gossip may fill half of the queue, so that a flood of it never delays votes.
        if not self.events.offer(GossipReceived(peer, topic, payload, origin), 0.5):
            self._gossip_dropped += 1
            if self._gossip_dropped.bit_count() == 1:  # the 1st, 2nd, 4th, 8th, ...
                log.warning("gossip.dropped", topic=topic, total=self._gossip_dropped)

    def _check_gossip(self, payload: bytes) -> None:
        if len(payload) > self._config.gossip_bytes_max:
            raise MessageTooLarge(len(payload), self._config.gossip_bytes_max)

    async def _open_stream(self, peer: str, protocol: str) -> Stream:
        link = self._links.by_peer.get(peer)
        if link is None:
            raise ConnectionEnded("not connected")
        stream, _ = await open_requested(link, protocol, b"")
        return stream

    async def run(self, listeners: Sequence[trio.SocketListener], *, task_status: TaskStatus[Network]) -> None:
        """Accept, gossip and dial until cancelled."""
        names = [listener.socket.getsockname() for listener in listeners]
        listening = tuple(str(socket_address(name[0], name[1])) for name in names)
        announced = tuple(str(replace(parse_address(text), peer=None)) for text in self._config.announce)
        self.addresses = tuple(f"{address}/p2p/{self.peer_id}" for address in announced or listening)
        callbacks = (self._take_gossip, self.refuse, self.disconnect)
        try:
            async with open_gossip(
                self._identity, self.addresses, self._open_stream, self._config, *callbacks
            ) as self._gossip:
                self._nursery.start_soon(self._gossip_loop)
                for address in self._config.bootstrap:
                    self._dialler.keep(parse_address(address))
                self._nursery.start_soon(self._seeker.run)
                await self._nursery.start(
                    partial(trio.serve_listeners, self.accept, listeners, handler_nursery=self._nursery)
                )
                log.info("network.listening", peer=self.peer_id, addresses=self.addresses)
                task_status.started(self)
                await trio.sleep_forever()
        finally:
            self.events.close()


def _reachable(address: str, local_host: str) -> str:
    """An address that stands for all of this machine's, as seen by a peer that reached us at `local_host`."""
    parsed = parse_address(address)
    if parsed.host in ("0.0.0.0", "::"):
        return str(socket_address(local_host, parsed.port))
    return address


async def _listen(address: Address) -> Sequence[trio.SocketListener]:
    try:
        return await trio.open_tcp_listeners(address.port, host=address.host)
    except OSError as error:
        raise ListenFailed(str(address), error.strerror or str(error)) from error


async def run_network(
    config: P2PConfig,
    key: bytes,
    hello: bytes,
    known: Path | None = None,
    *,
    clock: Callable[[], float] = time.time,
    task_status: TaskStatus[Network] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the p2p network until cancelled: `network = await nursery.start(run_network, config, key, hello)`.

    Args:
        key: 32-byte Ed25519 seed; the peer id is its public key.
        hello: what every peer is told first; at most `hello_bytes_max` bytes.
        known: the file of known peers; None: they are forgotten at the end.
        clock: unix seconds, for the ages of known peers.
    Raises:
        ListenFailed: the address is in use or not ours.
    """
    if len(hello) > config.hello_bytes_max:
        raise MessageTooLarge(len(hello), config.hello_bytes_max)
    identity = Identity(key)
    listeners = await _listen(parse_address(config.listen))  # before the nursery, so that ListenFailed comes bare
    async with trio.open_nursery() as nursery:
        network = Network(identity, config, hello, nursery, known, clock)
        await network.run(listeners, task_status=task_status)
