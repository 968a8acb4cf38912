"""The muxer over pipes in memory: data, credit, ends, faults; and against the library's own muxer."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux

from node.p2p.types import ConnectionEnded, PeerFault
from node.p2p.yamux import PAYLOAD_MAX, WINDOW, Muxer, Stream

PATIENCE_S = 60.0
HEADER = struct.Struct(">BBHII")
DATA, CREDIT, PING, GO_AWAY = 0, 1, 2, 3
SYN, ACK, FIN, RST = 1, 2, 4, 8


class MemoryPipe:
    """One end of a pipe in memory; `hold` makes writes wait."""

    def __init__(self, stream: trio.StapledStream[Any, Any]) -> None:
        self._stream = stream
        self.hold: trio.Event | None = None

    async def receive(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some(65_536))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("broken") from error

    async def send(self, data: bytes) -> None:
        if self.hold is not None:
            await self.hold.wait()
        try:
            # In pieces, so that a cancellation could fall between them.
            for at in range(0, len(data), 10_000):
                await self._stream.send_all(data[at : at + 10_000])
                await trio.lowlevel.checkpoint()
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionEnded("broken") from error

    def abort(self) -> None:
        if self.hold is not None:
            self.hold.set()
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class End:
    """A muxer that keeps the streams opened towards it."""

    def __init__(self, pipe: MemoryPipe, initiator: bool, streams_max: int = 16, leftover: bytes = b"") -> None:
        send, self.opened = trio.open_memory_channel[Stream](100)
        self.refused: list[str] = []
        self.pipe = pipe
        self.muxer = Muxer(
            pipe,
            initiator=initiator,
            leftover=leftover,
            streams_max=streams_max,
            stall_s=20.0,
            accept=send.send_nowait,
            refuse=self.refused.append,
        )
        self.outcome: str | PeerFault | None = None

    async def run(self) -> None:
        try:
            self.outcome = await self.muxer.run()
        except PeerFault as fault:
            self.outcome = fault


@asynccontextmanager
async def pair(**options: Any) -> AsyncIterator[tuple[End, End]]:
    left, right = trio.testing.memory_stream_pair()
    one, two = End(MemoryPipe(left), True, **options), End(MemoryPipe(right), False, **options)
    with trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(one.run)
            nursery.start_soon(two.run)
            yield one, two
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def against(frames: bytes, **options: Any) -> AsyncIterator[tuple[End, MemoryPipe]]:
    """A responding muxer whose peer writes bytes by hand."""
    left, right = trio.testing.memory_stream_pair()
    end, hand = End(MemoryPipe(right), False, **options), MemoryPipe(left)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.run)
        await hand.send(frames)
        yield end, hand
        nursery.cancel_scope.cancel()


async def read_all(stream: Stream) -> bytes:
    data = b""
    while chunk := await stream.receive():
        data += chunk
    return data


def pattern(size: int) -> bytes:
    return bytes(range(251)) * (size // 251) + bytes(size % 251)


@pytest.mark.parametrize("size", [0, 1, PAYLOAD_MAX, PAYLOAD_MAX + 1, WINDOW, WINDOW + 1, 3_000_000])
async def test_what_is_sent_arrives_both_ways(size: int, autojump_clock: object) -> None:
    async with pair() as (one, two), trio.open_nursery() as nursery:
        ours = one.muxer.open()

        async def echo() -> None:
            theirs = await two.opened.receive()
            while chunk := await theirs.receive():
                await theirs.send(chunk)
            theirs.finish()

        async def write() -> None:
            await ours.send(b"!" + pattern(size))
            ours.finish()

        nursery.start_soon(echo)
        nursery.start_soon(write)
        assert await read_all(ours) == b"!" + pattern(size)
        assert not one.muxer._streams
        assert not two.muxer._streams


async def test_a_writer_waits_for_credit_and_memory_stays_within_the_window(autojump_clock: object) -> None:
    async with pair() as (one, two), trio.open_nursery() as nursery:
        ours = one.muxer.open()
        nursery.start_soon(ours.send, pattern(2 * WINDOW))
        theirs = await two.opened.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert theirs._buffered == WINDOW
        got = 0
        while got < 2 * WINDOW:
            got += len(await theirs.receive())


async def test_a_reader_that_never_reads_is_given_up(autojump_clock: object) -> None:
    async with pair() as (one, two):
        ours = one.muxer.open()
        began = trio.current_time()
        with pytest.raises(ConnectionEnded, match="does not read"):
            await ours.send(pattern(WINDOW + 1))
        assert trio.current_time() - began == pytest.approx(20.0)
        other = one.muxer.open()
        await other.send(b"the connection lives")
        await two.opened.receive()
        assert await (await two.opened.receive()).receive() == b"the connection lives"


async def test_a_peer_that_takes_no_bytes_loses_the_connection(autojump_clock: object) -> None:
    async with pair() as (one, _):
        one.pipe.hold = trio.Event()
        with pytest.raises(ConnectionEnded, match="takes no bytes"):
            await one.muxer.open().send(b"x")
        with pytest.raises(ConnectionEnded):
            one.muxer.open()


async def test_a_cancelled_write_leaves_the_connection_whole(autojump_clock: object) -> None:
    async with pair() as (one, two), trio.open_nursery() as nursery:
        doomed = one.muxer.open()
        with trio.CancelScope() as scope:
            nursery.start_soon(lambda: _cancel_soon(scope))
            await doomed.send(pattern(WINDOW))
        doomed.reset()
        ours = one.muxer.open()
        await ours.send(b"intact")
        await two.opened.receive()
        assert await (await two.opened.receive()).receive() == b"intact"


async def _cancel_soon(scope: trio.CancelScope) -> None:
    for _ in range(3):
        await trio.lowlevel.checkpoint()
    scope.cancel()


async def test_a_reset_ends_both_directions_and_spares_the_other_streams() -> None:
    async with pair() as (one, two):
        ours, spared = one.muxer.open(), one.muxer.open()
        await ours.send(b"x")
        await spared.send(b"y")
        theirs, _ = await two.opened.receive(), await two.opened.receive()
        ours.reset()
        await theirs.broken.wait()
        with pytest.raises(ConnectionEnded, match="reset by the peer"):
            await theirs.receive()
        with pytest.raises(ConnectionEnded, match="reset by the peer"):
            await theirs.send(b"z")
        with pytest.raises(ConnectionEnded, match="reset here"):
            await ours.receive()
        await spared.send(b"still")


async def test_a_finished_answer_stays_readable_after_the_connection_is_gone() -> None:
    async with pair() as (one, two):
        ours = one.muxer.open()
        await ours.send(b"?")
        theirs = await two.opened.receive()
        await theirs.send(b"the answer")
        theirs.finish()
        await trio.testing.wait_all_tasks_blocked()
        one.muxer.abort("gone")
        assert await read_all(ours) == b"the answer"


async def test_the_end_of_the_connection_ends_every_stream() -> None:
    async with pair() as (one, two):
        ours = one.muxer.open()
        await ours.send(b"x")
        two.muxer.abort("tired of it")
        with pytest.raises(ConnectionEnded):
            await ours.receive()
        await trio.testing.wait_all_tasks_blocked()
        assert two.outcome == "tired of it"
        assert isinstance(one.outcome, str)


async def test_more_streams_than_allowed_are_reset_and_reported() -> None:
    async with pair(streams_max=2) as (one, two):
        streams = [one.muxer.open() for _ in range(3)]
        for stream in streams:
            await stream.send(b"x")
        with pytest.raises(ConnectionEnded, match="reset by the peer"):
            await streams[2].receive()
        assert two.refused == ["too many streams"]
        await streams[0].send(b"y")


def frame(kind: int, flags: int, number: int, length: int, payload: bytes = b"") -> bytes:
    return HEADER.pack(0, kind, flags, number, length) + payload


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        (b"\x01" + bytes(11), "not a yamux frame"),
        (frame(9, 0, 0, 0), "not a yamux frame"),
        (frame(DATA, SYN, 1, WINDOW + 1), "a frame of 262145 bytes"),
        (frame(DATA, SYN, 1, 0xFFFFFFFF), "a frame of 4294967295 bytes"),
        (frame(DATA, SYN, 1, WINDOW, bytes(WINDOW)) + frame(DATA, 0, 1, 1, b"x"), "than the window allows"),
        (frame(DATA, SYN | FIN, 1, 1, b"x") + frame(DATA, 0, 1, 1, b"x"), "after the end"),
        (frame(DATA, SYN, 2, 0), "opens stream 2"),
        (frame(DATA, SYN, 1, 0) * 2, "opens stream 1"),
    ],
    ids=["version", "kind", "long", "longest", "window", "finished", "parity", "twice"],
)
async def test_a_peer_that_breaks_the_protocol_is_at_fault(frames: bytes, reason: str) -> None:
    async with against(frames) as (end, _):
        await trio.testing.wait_all_tasks_blocked()
        assert isinstance(end.outcome, PeerFault)
        assert reason in str(end.outcome)


async def test_pings_are_answered_and_frames_of_unknown_streams_ignored() -> None:
    async with against(frame(DATA, 0, 77, 1, b"x") + frame(CREDIT, RST, 9, 0) + frame(PING, SYN, 0, 42)) as (_, hand):
        assert await hand.receive() == frame(PING, ACK, 0, 42)


async def test_a_flood_of_pings_that_takes_no_answers_is_cut_off() -> None:
    async with against(b"") as (end, hand):
        end.pipe.hold = trio.Event()
        with pytest.raises(ConnectionEnded):
            await hand.send(frame(PING, SYN, 0, 1) * 100_000)
        await trio.testing.wait_all_tasks_blocked()
        assert end.outcome == "the peer takes no answers"


async def test_a_farewell_ends_the_connection() -> None:
    async with against(frame(GO_AWAY, 0, 0, 0)) as (end, _):
        await trio.testing.wait_all_tasks_blocked()
        assert end.outcome == "closed by the peer"


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
@settings(max_examples=60, deadline=None)
def test_no_bytes_raise_anything_but_a_fault(data: bytes, cut: int) -> None:
    async def check() -> None:
        async with against(data[:cut], leftover=data[cut:]) as (end, hand):
            await trio.testing.wait_all_tasks_blocked()
            hand.abort()
            await trio.testing.wait_all_tasks_blocked()
            assert end.outcome is not None

    trio.run(check)


# ---- against another implementation ----------------------------------------------------------------------------------
class LibrarySecured:
    """What the library's muxer takes for a secured connection."""

    def __init__(self, pipe: MemoryPipe, initiator: bool) -> None:
        self._pipe, self.is_initiator, self._rest = pipe, initiator, b""

    async def read(self, size: int) -> bytes:
        if not self._rest:
            self._rest = await self._pipe.receive()
        data, self._rest = self._rest[:size], self._rest[size:]
        return data

    async def write(self, data: bytes) -> None:
        await self._pipe.send(data)

    async def close(self) -> None:
        self._pipe.abort()

    def get_remote_address(self) -> None:
        return None


@pytest.mark.parametrize("we_open", [True, False])
async def test_the_librarys_muxer_is_understood(we_open: bool, autojump_clock: object) -> None:
    left, right = trio.testing.memory_stream_pair()
    end = End(MemoryPipe(left), we_open)
    library = Yamux(LibrarySecured(MemoryPipe(right), not we_open), ID(b"\x00" * 38), is_initiator=not we_open)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.run)
        nursery.start_soon(library.start)
        await library.event_started.wait()
        if we_open:
            ours = end.muxer.open()
            await ours.send(b"!")
            theirs: Any = await library.accept_stream()
            assert await theirs.read(1) == b"!"
        else:
            theirs = await library.open_stream()
            await theirs.write(b"!")
            ours = await end.opened.receive()
            assert await ours.receive() == b"!"
        data = pattern(1_000_000)
        for write, read in ((ours.send, theirs.read), (theirs.write, _reading(ours))):
            nursery.start_soon(write, data)
            got = b""
            while len(got) < len(data):
                got += await read(65_536)
            assert got == data
        ours.finish()
        await theirs.close()
        assert await ours.receive() == b""
        nursery.cancel_scope.cancel()


def _reading(stream: Stream) -> Callable[[int], Any]:
    async def read(_size: int) -> bytes:
        return await stream.receive()

    return read
