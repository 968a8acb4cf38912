"""Real networks on loopback inside one trio run, and a stranger who speaks the wire by hand."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import trio

from node.p2p.config import P2PConfig
from node.p2p.host import Network, run_network
from node.p2p.libp2p_noise import Identity, secure
from node.p2p.links import SESSION
from node.p2p.peers import parse_address
from node.p2p.session import exchange_hello
from node.p2p.streams import Reader, answer_selection, confirm_selection, encode_selection
from node.p2p.types import Event, PeerConnected
from node.p2p.yamux import Muxer, Stream

PATIENCE_S = 20.0
E = TypeVar("E", bound=Event)


def key(number: int) -> bytes:
    return bytes([number]) * 32


def ordered_keys() -> tuple[bytes, bytes]:
    """Two keys; the first one's peer id is the smaller, so it opens sessions."""
    first, second = sorted((key(1), key(2)), key=lambda seed: Identity(seed).peer)
    return first, second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def config(**changes: Any) -> P2PConfig:
    return P2PConfig(**{"redial_min_s": 0.02, "redial_max_s": 0.1, **changes})


class Node:
    """A running network whose events are looked through as they come."""

    def __init__(self, network: Network, scope: trio.CancelScope, stopped: trio.Event) -> None:
        self.network = network
        self.passed_over: list[Event] = []
        self._scope, self._stopped = scope, stopped

    @property
    def peer(self) -> str:
        return self.network.peer_id

    async def until(self, event_type: type[E], /, **fields: object) -> E:
        """The next event of a type with these fields; others are kept in `passed_over`."""

        def fits(event: Event) -> bool:
            return isinstance(event, event_type) and all(
                getattr(event, name) == value for name, value in fields.items()
            )

        for index, event in enumerate(self.passed_over):
            if fits(event):
                return self.passed_over.pop(index)  # type: ignore[return-value]
        with trio.fail_after(PATIENCE_S):
            async for event in self.network.events:
                if fits(event):
                    return event  # type: ignore[return-value]
                self.passed_over.append(event)
        raise AssertionError("the network is gone")

    async def stop(self) -> None:
        self._scope.cancel()
        await self._stopped.wait()


async def start(nursery: trio.Nursery, seed: bytes, hello: bytes = b"hello", **changes: Any) -> Node:
    """Start a network in the nursery."""
    scope, stopped = trio.CancelScope(), trio.Event()

    async def run(*, task_status: Any) -> None:
        with scope:
            await run_network(config(**changes), seed, hello, task_status=task_status)
        stopped.set()

    return Node(await nursery.start(run), scope, stopped)


@asynccontextmanager
async def nodes(*specs: dict[str, Any]) -> AsyncIterator[list[Node]]:
    """Networks with keys 1, 2, ...; each spec may give `seed`, `hello` and configuration; `to`: whom it dials."""
    async with trio.open_nursery() as nursery:
        made: list[Node] = []
        for number, spec in enumerate(specs, 1):
            changes = dict(spec)
            bootstrap = tuple(made[index].network.addresses[0] for index in changes.pop("to", ()))
            made.append(await start(nursery, changes.pop("seed", key(number)), bootstrap=bootstrap, **changes))
        for node, spec in zip(made, specs, strict=True):
            for index in spec.get("to", ()):
                await node.until(PeerConnected, peer=made[index].peer)
                await made[index].until(PeerConnected, peer=node.peer)
        yield made
        nursery.cancel_scope.cancel()


class Stranger:
    """Speaks Noise and yamux to a node; everything above by hand."""

    def __init__(self, muxer: Muxer, opened: trio.MemoryReceiveChannel[Stream]) -> None:
        self.muxer, self.opened = muxer, opened
        self.closed = trio.Event()

    async def open(self, protocol: str, first: bytes = b"") -> tuple[Stream, Reader]:
        stream = self.muxer.open()
        reader = Reader(stream)
        await stream.send(encode_selection(protocol) + first)
        await confirm_selection(reader, protocol)
        return stream, reader

    async def session(self, we_open: bool, hello: bytes = b"stranger") -> tuple[Stream, Reader]:
        """Go through the hellos; `we_open`: our id is the smaller one."""
        with trio.fail_after(PATIENCE_S):
            stream, reader = await (self.open(SESSION) if we_open else self.accept(SESSION))
            await exchange_hello(stream, reader, hello, 1 << 16)
        return stream, reader

    async def accept(self, protocol: str) -> tuple[Stream, Reader]:
        """Wait for the node to open a stream of this protocol; others are refused."""
        while True:
            stream = await self.opened.receive()
            reader = Reader(stream)
            if await answer_selection(stream, reader, lambda: (protocol,)) == protocol:
                return stream, reader


async def stranger(nursery: trio.Nursery, node: Node, seed: bytes) -> Stranger:
    """Connect by hand to a node."""
    address = parse_address(node.network.addresses[0])
    tcp = await trio.open_tcp_stream(address.host, address.port)
    _, pipe, leftover = await secure(tcp, Identity(seed), initiator=True, expected=node.peer)
    send, receive = trio.open_memory_channel[Stream](64)
    muxer = Muxer(
        pipe,
        initiator=True,
        leftover=leftover,
        streams_max=64,
        stall_s=20.0,
        accept=send.send_nowait,
        refuse=lambda _reason: None,
    )
    made = Stranger(muxer, receive)

    async def run() -> None:
        await muxer.run()
        made.closed.set()

    nursery.start_soon(run)
    return made


async def raw_tcp(node: Node) -> trio.SocketStream:
    address = parse_address(node.network.addresses[0])
    return await trio.open_tcp_stream(address.host, address.port)


async def read_to_end(tcp: trio.SocketStream) -> bytes:
    """Everything until the other side closes."""
    data = b""
    with trio.fail_after(PATIENCE_S):
        try:
            while chunk := await tcp.receive_some():
                data += chunk
        except trio.BrokenResourceError:
            pass
    return data
