"""Many streams over one secured connection: yamux, https://github.com/hashicorp/yamux/blob/master/spec.md.

Our own because the library's keeps no window (a stranger fills the memory), breaks the connection when a write is
cancelled half-way, and gives up on a stream after 5 s without credit.

Rules kept here:
- Whoever runs the connection owns two tasks: one reads frames and never writes, one writes what it queued (answers,
  credit). So two ends that both write cannot block each other.
- A frame is written whole or the connection dies: writes are shielded from cancellation and bounded by `stall_s`.
- Each side may send 256 KiB per stream beyond what the other has consumed; more is a fault, and so are more streams
  than `streams_max`, unknown frames and long frames. Memory per connection <= streams * 256 KiB + one frame.

Header: version 0, kind, flags, stream id, length; big-endian; 12 bytes. Initiator's streams are odd.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

import trio

from node.p2p.types import ConnectionEnded, PeerFault

WINDOW: Final = 256 * 1024
PAYLOAD_MAX: Final = 65_535 - 16 - 12  # one frame fits one Noise message
_QUEUED_MAX: Final = 4096  # answers waiting to be written; a flood of pings ends here
_HEADER: Final = struct.Struct(">BBHII")
_DATA, _CREDIT, _PING, _GO_AWAY = 0, 1, 2, 3
_SYN, _ACK, _FIN, _RST = 1, 2, 4, 8


class Pipe(Protocol):
    """A secured byte pipe."""

    async def receive(self) -> bytes:
        """Some bytes; b"" at the end. Raises ConnectionEnded, PeerFault."""

    async def send(self, data: bytes) -> None:
        """All of `data`. Raises ConnectionEnded."""

    def abort(self) -> None:
        """Close at once, without a farewell."""


class Stream:
    """One stream; at most one task reads it and one writes it."""

    def __init__(self, muxer: Muxer, number: int, opening: int) -> None:
        self._muxer, self._number = muxer, number
        self._opening = opening  # SYN or ACK, goes out with the first frame
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._consumed = 0  # not yet given back as credit
        self._credit = WINDOW
        self._ended: str | None = None  # reset, or the connection is gone
        self._finished_in = self._finished_out = False
        self._readable, self._writable = trio.Event(), trio.Event()
        self.broken = trio.Event()  # reset by either side, or the connection is gone

    async def receive(self) -> bytes:
        """The next chunk (at most 64 KiB); b"" when the other side has finished.

        Raises:
            ConnectionEnded: the stream was reset or the connection is gone.
        """
        while not self._chunks:
            if self._finished_in:
                return b""
            if self._ended is not None:
                raise ConnectionEnded(self._ended)
            self._readable = trio.Event()
            await self._readable.wait()
        chunk = self._chunks.popleft()
        self._buffered -= len(chunk)
        self._consumed += len(chunk)
        if self._consumed >= WINDOW // 2 and not self._finished_in:
            self._muxer.queue(_CREDIT, self._take_opening(), self._number, self._consumed)
            self._consumed = 0
        return chunk

    async def send(self, data: bytes) -> None:
        """Send all of `data`; waits for credit.

        Raises:
            ConnectionEnded: reset, gone, or no credit for `stall_s`.
        """
        at = 0
        while at < len(data):
            await self._wait_for_credit()
            size = min(self._credit, PAYLOAD_MAX, len(data) - at)
            self._credit -= size
            header = _HEADER.pack(0, _DATA, self._take_opening(), self._number, size)
            await self._muxer.write(header + data[at : at + size])
            at += size

    def finish(self) -> None:
        """Nothing more to send; reading goes on."""
        if self._ended is None and not self._finished_out:
            self._finished_out = True
            self._muxer.queue(_CREDIT, self._take_opening() | _FIN, self._number, 0)
            self._forget_if_done()

    def reset(self) -> None:
        """Give the stream up in both directions; unread data is dropped. No-op on a finished stream."""
        if self._ended is None and not (self._finished_in and self._finished_out):
            self._muxer.queue(_CREDIT, self._take_opening() | _RST, self._number, 0)
        self.end("stream reset here")
        self._muxer.forget(self._number)

    # ---- called by the muxer ------------------------------------------------------------------------------------
    def feed(self, chunk: bytes) -> None:
        if self._finished_in:
            raise PeerFault("data after the end of a stream")
        self._buffered += len(chunk)
        if self._buffered + self._consumed > WINDOW:
            raise PeerFault("more data than the window allows")
        self._chunks.append(chunk)
        self._readable.set()

    def grant(self, amount: int) -> None:
        self._credit += amount
        self._writable.set()

    def finish_in(self) -> None:
        self._finished_in = True
        self._readable.set()
        self._forget_if_done()

    def end(self, reason: str) -> None:
        if self._ended is None:
            self._ended = reason
        if not self._finished_in:  # a whole answer stays readable after the connection is gone
            self._chunks.clear()
        self._readable.set()
        self._writable.set()
        self.broken.set()

    async def _wait_for_credit(self) -> None:
        if self._credit <= 0 and self._ended is None:
            with trio.move_on_after(self._muxer.stall_s):
                while self._credit <= 0 and self._ended is None:
                    self._writable = trio.Event()
                    await self._writable.wait()
        if self._ended is not None:
            raise ConnectionEnded(self._ended)
        if self._finished_out:
            raise ConnectionEnded("stream already finished")
        if self._credit <= 0:
            self.reset()
            raise ConnectionEnded("the peer does not read")

    def _take_opening(self) -> int:
        flags, self._opening = self._opening, 0
        return flags

    def _forget_if_done(self) -> None:
        if self._finished_in and self._finished_out:
            self._muxer.forget(self._number)


class Muxer:
    """The streams of one connection.

    Args:
        leftover: bytes of the pipe that the handshake read too many.
        accept: called with each stream that the peer opens; must not block.
        refuse: called with the reason when one stream is refused while the connection goes on.
    """

    def __init__(
        self,
        pipe: Pipe,
        *,
        initiator: bool,
        leftover: bytes,
        streams_max: int,
        stall_s: float,
        accept: Callable[[Stream], None],
        refuse: Callable[[str], None],
    ) -> None:
        self.stall_s = stall_s
        self._pipe, self._leftover = pipe, leftover
        self._next, self._theirs = (1, 0) if initiator else (2, 1)  # their stream ids modulo 2
        self._streams_max, self._accept, self._refuse = streams_max, accept, refuse
        self._streams: dict[int, Stream] = {}
        self._queue: deque[bytes] = deque()
        self._queued = trio.Event()
        self._lock = trio.Lock()
        self._ended: str | None = None

    async def run(self) -> str:
        """Serve the connection until it ends; why it ended.

        Raises:
            PeerFault: the peer broke the protocol; the connection is closed.
        """
        fault: PeerFault | None = None
        reason = ""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write_queued)
                try:
                    reason = await self._read()
                except ConnectionEnded as error:
                    reason = self._ended or str(error)
                except PeerFault as error:
                    fault, reason = error, str(error)
                nursery.cancel_scope.cancel()
        finally:
            self.abort(reason or "connection closed here")
        if fault is not None:
            raise fault
        return reason

    def open(self) -> Stream:
        """A new stream; the peer hears of it with the first bytes sent."""
        if self._ended is not None:
            raise ConnectionEnded(self._ended)
        stream = Stream(self, self._next, _SYN)
        self._streams[self._next] = stream
        self._next += 2
        return stream

    def abort(self, reason: str) -> None:
        """End the connection and every stream at once."""
        if self._ended is None:
            self._ended = reason
        self._pipe.abort()
        for stream in list(self._streams.values()):
            stream.end(self._ended)
        self._streams.clear()

    # ---- for streams --------------------------------------------------------------------------------------------
    def queue(self, kind: int, flags: int, number: int, length: int) -> None:
        """Have the writing task send a frame without payload."""
        if len(self._queue) >= _QUEUED_MAX:
            self.abort("the peer takes no answers")
            return
        self._queue.append(_HEADER.pack(0, kind, flags, number, length))
        self._queued.set()

    async def write(self, frame: bytes) -> None:
        """Write queued frames and then this one, whole.

        Raises:
            ConnectionEnded.
        """
        async with self._lock:
            if self._ended is not None:
                raise ConnectionEnded(self._ended)
            if self._queue:
                frame = b"".join((*self._queue, frame))
                self._queue.clear()
            if not frame:
                return
            with trio.move_on_after(self.stall_s) as patience:
                patience.shield = True
                await self._pipe.send(frame)
            if patience.cancelled_caught:
                self.abort("the peer takes no bytes")
                raise ConnectionEnded("the peer takes no bytes")

    def forget(self, number: int) -> None:
        self._streams.pop(number, None)

    async def _write_queued(self) -> None:
        while True:
            await self._queued.wait()
            self._queued = trio.Event()
            try:
                await self.write(b"")
            except ConnectionEnded as error:
                self.abort(str(error))  # wakes the reading task
                return

    # ---- reading ------------------------------------------------------------------------------------------------
    async def _read(self) -> str:
        buffer = bytearray(self._leftover)
        while True:
            at = 0
            while len(buffer) - at >= _HEADER.size:
                version, kind, flags, number, length = _HEADER.unpack_from(buffer, at)
                payload_size = self._payload_size(version, kind, length)
                if len(buffer) - at < _HEADER.size + payload_size:
                    break
                at += _HEADER.size
                if kind == _GO_AWAY:
                    return "closed by the peer"
                self._handle(kind, flags, number, length, bytes(buffer[at : at + payload_size]))
                at += payload_size
            del buffer[:at]
            chunk = await self._pipe.receive()
            if not chunk:
                return "closed by the peer"
            buffer += chunk

    def _payload_size(self, version: int, kind: int, length: int) -> int:
        if version != 0 or kind > _GO_AWAY:
            raise PeerFault("not a yamux frame")
        if kind != _DATA:
            return 0
        if length > WINDOW:
            raise PeerFault(f"a frame of {length} bytes")
        return length

    def _handle(self, kind: int, flags: int, number: int, length: int, payload: bytes) -> None:
        if kind == _PING:
            if flags & _SYN:
                self.queue(_PING, _ACK, 0, length)
            return
        stream = self._streams.get(number)
        if flags & _SYN:
            stream = self._open_theirs(number, stream)
        if stream is None:  # finished or reset here; what was under way is dropped
            return
        if kind == _CREDIT and length:
            stream.grant(length)
        elif payload:
            stream.feed(payload)
        if flags & _RST:
            stream.end("stream reset by the peer")
            self.forget(number)
        elif flags & _FIN:
            stream.finish_in()

    def _open_theirs(self, number: int, existing: Stream | None) -> Stream | None:
        if existing is not None or number % 2 != self._theirs or number == 0:
            raise PeerFault(f"opens stream {number}, which is not its to open")
        if sum(1 for number in self._streams if number % 2 == self._theirs) >= self._streams_max:
            self.queue(_CREDIT, _RST, number, 0)
            self._refuse("too many streams")
            return None
        stream = Stream(self, number, _ACK)
        self._streams[number] = stream
        self._accept(stream)
        return stream
