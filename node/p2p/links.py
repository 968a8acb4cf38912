"""Links: secured connections to peers, and which one of them counts.

From a TCP connection to its end, in one task each:
  secure (Noise, yamux)  ->  session: hello both ways  ->  PeerConnected  ->  messages, gossip, requests  ->  PeerLost

- Of two peers, the one with the smaller peer id opens the session's stream, on whichever connection is there first.
  So when both dial at the same moment, both see the same session; the opener closes the second connection.
- When a peer comes a second time, its first connection may be dead without our knowing (kill -9, a cut cable): the
  opener asks the first for a sign of life and keeps it only if one comes; the other side lets the newer one replace it.
- Whatever goes wrong inside a link ends that link at most: a stranger's fault is counted and logged, and so is an
  exception that its bytes provoke in a library.
"""

from __future__ import annotations

import weakref
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog
import trio

from node.p2p.config import P2PConfig
from node.p2p.libp2p_noise import Identity, NoisePipe, secure
from node.p2p.peers import Address, PeerBook, TokenBucket
from node.p2p.session import Session, exchange_hello
from node.p2p.streams import Reader, answer_selection, confirm_selection, encode_selection
from node.p2p.types import (
    OUTBOUND,
    ConnectionEnded,
    Direction,
    Event,
    MessageReceived,
    PeerConnected,
    PeerFault,
    PeerLost,
)
from node.p2p.yamux import Muxer, Stream

log = structlog.get_logger(__name__)

SESSION: Final = "/flnode/session/1"
_FAULT: Final = "fault: "  # how the reason of a link begins that the peer is to blame for


@dataclass(frozen=True, slots=True)
class Ended:
    """How a connection ended."""

    reason: str
    session_s: float | None = None  # None: it came to no session
    foreign: bool = False  # we turned the peer away


class Services(Protocol):
    """What is spoken on a peer's other streams; see host.py."""

    def protocols(self) -> frozenset[str]:
        """Everything that is answered, apart from the session."""

    async def serve_stream(self, link: Link, protocol: str, stream: Stream, reader: Reader) -> None:
        """Answer one stream. Raises ConnectionEnded, PeerFault."""

    async def join(self, peer: str) -> None:
        """A session has begun. Raises ConnectionEnded, PeerFault."""

    def part(self, peer: str) -> None:
        """A session is over."""


class Link:
    """One secured connection."""

    def __init__(self, peer: str, pipe: NoisePipe, address: Address, direction: Direction) -> None:
        self.peer, self.pipe, self.address, self.direction = peer, pipe, address, direction
        self.muxer: Muxer
        self.nursery: trio.Nursery
        self.session: Session | None = None
        self.since = 0.0  # trio time of the session's begin
        self.greeted = trio.Event()  # the peer opened the session and both hellos are through
        self.ready = trio.Event()  # the session has begun
        self.closed = trio.Event()
        self.reason: str | None = None
        self.foreign = False  # its peer has turned out not to be of our network
        self._scope = trio.CancelScope()

    def blame(self, reason: str) -> None:
        """End the link because of a fault of the peer, which is counted."""
        self.end(_FAULT + reason)

    def end(self, reason: str) -> None:
        """End the link; the first reason given counts."""
        if self.reason is None:
            self.reason = reason
        self._scope.cancel()

    async def run(self, body: Callable[[Link], Awaitable[None]]) -> None:
        """Run `body` beside the muxer until either is through or `end` is called."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                self.nursery = nursery
                nursery.start_soon(self._run_muxer)
                await body(self)
                self.end("closed")

    async def _run_muxer(self) -> None:
        try:
            self.end(await self.muxer.run())
        except PeerFault as error:
            self.blame(str(error))


class Links:
    """All links; at most one per peer has a session.

    Args:
        hello: what this node says first.
        emit: delivers an event; may wait.
    """

    def __init__(
        self,
        identity: Identity,
        config: P2PConfig,
        hello: bytes,
        book: PeerBook,
        services: Services,
        emit: Callable[[Event], Awaitable[None]],
    ) -> None:
        self._identity, self._config, self._hello = identity, config, hello
        self._book, self._services, self._emit = book, services, emit
        self.by_peer: dict[str, Link] = {}  # those with a session
        self._log_bucket, self._not_logged = TokenBucket(rate=5.0, burst=50.0), 0  # strangers must not fill the disk
        self._locks: weakref.WeakValueDictionary[str, trio.Lock] = weakref.WeakValueDictionary()

    def refuse(self, peer: str, reason: str) -> None:
        """Count one fault of a peer, and end its link when that was one too many."""
        if self._log_bucket.take(trio.current_time()):
            log.warning("peer.refused", peer=peer, reason=reason, not_logged=self._not_logged)
            self._not_logged = 0
        else:
            self._not_logged += 1
        if self._book.refuse(peer, trio.current_time()):
            log.warning("peer.banned", peer=peer, ban_s=self._config.ban_s)
            if peer in self.by_peer:
                self.by_peer[peer].end("banned")

    async def carry(
        self, socket: trio.SocketStream, address: Address, direction: Direction, on_peer: Callable[[str], None]
    ) -> Ended:
        """Carry a connection from its first byte to its end. Never raises for what a peer does.

        Args:
            on_peer: told the proven peer id as soon as it is known.
        """
        peer = None
        try:
            with trio.move_on_after(self._config.handshake_timeout_s):
                peer, pipe, leftover = await secure(
                    socket, self._identity, initiator=direction == OUTBOUND, expected=address.peer
                )
            if peer is None:
                raise PeerFault("too slow in its handshake")
            on_peer(peer)
            self._check_welcome(peer)
            link = Link(peer, pipe, replace(address, peer=None), direction)
            link.muxer = self._new_muxer(link, leftover)
            return await self._run_link(link)
        except ConnectionEnded as error:
            return Ended(str(error))
        except PeerFault as error:
            self.refuse(peer or f"unknown at {address}", str(error))
            return Ended(str(error))
        except Exception:
            log.exception("peer.failed", peer=peer, address=str(address))
            return Ended("internal error")
        finally:
            socket.socket.close()

    def _check_welcome(self, peer: str) -> None:
        if peer == self._identity.peer:
            raise ConnectionEnded("it is this node itself")
        if self._book.banned(peer, trio.current_time()):
            raise ConnectionEnded("banned")

    def _new_muxer(self, link: Link, leftover: bytes) -> Muxer:
        return Muxer(
            link.pipe,
            initiator=link.direction == OUTBOUND,
            leftover=leftover,
            streams_max=self._config.streams_per_peer_max,
            stall_s=self._config.stall_s,
            accept=lambda stream: link.nursery.start_soon(self._serve_stream, link, stream),
            refuse=lambda reason: self.refuse(link.peer, reason),
        )

    # ---- the session ------------------------------------------------------------------------------------------------
    async def _run_link(self, link: Link) -> Ended:
        try:
            try:
                await link.run(self._hold_session)
            finally:
                link.muxer.abort("link closed")
                if self.by_peer.get(link.peer) is link:
                    del self.by_peer[link.peer]
                    self._services.part(link.peer)
            reason = link.reason or "closed"
            if reason.startswith(_FAULT):
                self.refuse(link.peer, reason.removeprefix(_FAULT))
            if link.session is None:
                return Ended(reason)
            ended = Ended(reason, trio.current_time() - link.since, link.foreign)
            log.info("peer.lost", peer=link.peer, address=str(link.address), reason=reason)
            await self._emit(PeerLost(link.peer, reason))
            return ended
        finally:
            link.closed.set()

    async def _hold_session(self, link: Link) -> None:
        try:
            if self._is_opener(link.peer):
                await self._open_session(link)
            else:
                with trio.move_on_after(self._config.handshake_timeout_s):
                    await link.greeted.wait()  # by _accept_session
                if link.greeted.is_set():
                    await link.ready.wait()
            if link.session is None:
                link.blame("no hello in time")
            else:
                link.end(await link.session.run())
        except ConnectionEnded as error:
            link.end(str(error))
        except PeerFault as error:
            link.blame(str(error))

    def _is_opener(self, peer: str) -> bool:
        return self._identity.peer < peer

    async def _open_session(self, link: Link) -> None:
        async with self._lock(link.peer):
            other = self.by_peer.get(link.peer)
            if other is not None:
                if other.session is not None and await other.session.probe(self._config.probe_s):
                    link.end("a second connection to the same peer")
                    return
                await self._replace(other)
            stream = link.muxer.open()
            reader, hello = Reader(stream), None
            with trio.move_on_after(self._config.handshake_timeout_s):
                await stream.send(encode_selection(SESSION))
                await confirm_selection(reader, SESSION)
                hello = await exchange_hello(stream, reader, self._hello, self._config.hello_bytes_max)
            if hello is not None:
                await self._begin(link, stream, reader, hello)

    async def _accept_session(self, link: Link, stream: Stream, reader: Reader) -> None:
        if self._is_opener(link.peer) or link.greeted.is_set():
            raise PeerFault("opens a session that is not its to open")
        hello = await exchange_hello(stream, reader, self._hello, self._config.hello_bytes_max)
        link.greeted.set()
        async with self._lock(link.peer):
            other = self.by_peer.get(link.peer)
            if other is not None:
                await self._replace(other)
            await self._begin(link, stream, reader, hello)

    async def _replace(self, other: Link) -> None:
        other.end("replaced by a newer connection")
        await other.closed.wait()

    async def _begin(self, link: Link, stream: Stream, reader: Reader, hello: bytes) -> None:
        async def deliver(kind: str, payload: bytes) -> None:
            await self._emit(MessageReceived(link.peer, kind, payload))

        link.session, link.since = Session(stream, reader, self._config, deliver), trio.current_time()
        self.by_peer[link.peer] = link
        log.info("peer.connected", peer=link.peer, address=str(link.address), direction=link.direction)
        await self._emit(PeerConnected(link.peer, hello, str(link.address), link.direction))
        link.ready.set()
        link.nursery.start_soon(self._join, link)

    async def _join(self, link: Link) -> None:
        try:
            await self._services.join(link.peer)
        except (ConnectionEnded, PeerFault) as error:
            link.end(f"no gossip: {error}")
        except Exception:
            log.exception("peer.failed", peer=link.peer)
            link.end("internal error")

    def _lock(self, peer: str) -> trio.Lock:
        lock = self._locks.get(peer)
        if lock is None:
            lock = self._locks[peer] = trio.Lock()
        return lock

    # ---- streams that the peer opens --------------------------------------------------------------------------------
    async def _serve_stream(self, link: Link, stream: Stream) -> None:
        try:
            await self._serve_selected(link, stream)
        except ConnectionEnded:
            pass
        except PeerFault as error:
            self.refuse(link.peer, str(error))
            if link.session is None:
                link.end("refused")
        except Exception:
            log.exception("peer.failed", peer=link.peer)
        finally:
            stream.reset()

    async def _serve_selected(self, link: Link, stream: Stream) -> None:
        reader = Reader(stream)
        protocol = None
        with trio.move_on_after(self._config.handshake_timeout_s):
            protocol = await answer_selection(stream, reader, lambda: self._services.protocols() | {SESSION})
        if protocol is None:
            raise PeerFault("opens a stream and says nothing")
        if protocol != SESSION:
            await self._services.serve_stream(link, protocol, stream, reader)
            return
        await self._accept_session(link, stream, reader)
        await link.closed.wait()  # the session reads the stream from here on
