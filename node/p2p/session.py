"""The persistent stream between two peers: hello first, then messages in order, signs of life when idle.

One per pair of peers and connection. The peer with the smaller id opens it (see links.py), so two nodes that dial
each other at the same moment agree on one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from node.p2p.config import P2PConfig
from node.p2p.streams import (
    ALIVE,
    ARE_YOU_THERE,
    HELLO,
    I_AM,
    Reader,
    decode_message,
    encode_message,
)
from node.p2p.types import ConnectionEnded, MessageTooLarge, PeerFault
from node.p2p.yamux import Stream

_BATCH_BYTES = 64 * 1024  # messages that wait together leave together, about this many bytes at a time


async def exchange_hello(stream: Stream, reader: Reader, hello: bytes, hello_max: int) -> bytes:
    """Send our hello, return the peer's.

    Raises:
        PeerFault: the peer's first frame is not a hello.
        ConnectionEnded.
    """
    await stream.send(encode_message(HELLO, hello))
    kind, payload = decode_message(await reader.frame(hello_max + 64))
    if kind != HELLO:
        raise PeerFault(f"said {kind[:20]!r} before hello")
    return payload


class Session:
    """One persistent stream after its hello.

    Args:
        deliver: called with (kind, payload) of each message; may wait, which slows the peer down.
    """

    def __init__(
        self,
        stream: Stream,
        reader: Reader,
        config: P2PConfig,
        deliver: Callable[[str, bytes], Awaitable[None]],
    ) -> None:
        self._stream, self._reader, self._config, self._deliver = stream, reader, config, deliver
        self._queue: deque[bytes] = deque()
        self._queued = trio.Event()
        self.queued_bytes = 0
        self._silent_ticks = 0
        self._delivering = False
        self._heard = trio.Event()
        self._scope = trio.CancelScope()
        self._reason: str | None = None

    async def run(self) -> str:
        """Carry messages until the session ends; why it ended.

        Raises:
            PeerFault: the peer broke the protocol.
        """
        fault: PeerFault | None = None
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                nursery.start_soon(self._keep_alive)
                try:
                    await self._read()
                except PeerFault as error:
                    fault = error
                except ConnectionEnded as error:
                    self.end(str(error))
                nursery.cancel_scope.cancel()
        if fault is not None:
            raise fault
        return self._reason or "closed"

    def end(self, reason: str) -> None:
        """End the session from here; the first reason given counts."""
        if self._reason is None:
            self._reason = reason
        self._scope.cancel()

    @property
    def ended(self) -> bool:
        return self._reason is not None

    def send(self, kind: str, payload: bytes) -> bool:
        """Queue a message; False when the session is over, which a full queue makes it.

        Raises:
            MessageTooLarge.
        """
        if len(payload) > self._config.message_bytes_max:
            raise MessageTooLarge(len(payload), self._config.message_bytes_max)
        if self.ended:
            return False
        if (
            len(self._queue) >= self._config.send_queue_max
            or self.queued_bytes + len(payload) > self._config.send_queue_bytes_max
        ):
            self.end("too slow: its queue is full")
            return False
        self._push(encode_message(kind, payload))
        return True

    async def probe(self, patience_s: float) -> bool:
        """Ask for a sign of life; whether anything was heard in time."""
        if self.ended:
            return False
        self._heard = trio.Event()
        self._push(encode_message(ALIVE, ARE_YOU_THERE))
        with trio.move_on_after(patience_s):
            await self._heard.wait()
            return not self.ended
        return False

    def _push(self, frame: bytes) -> None:
        self._queue.append(frame)
        self.queued_bytes += len(frame)
        self._queued.set()

    async def _write(self) -> None:
        while True:
            if not self._queue:
                self._queued = trio.Event()
                await self._queued.wait()
            batch, size = [], 0
            while self._queue and size < _BATCH_BYTES:
                batch.append(self._queue.popleft())
                size += len(batch[-1])
            try:
                await self._stream.send(b"".join(batch))
            except ConnectionEnded as error:
                self.end(str(error))
                return
            self.queued_bytes -= size

    async def _read(self) -> None:
        frame_max = self._config.message_bytes_max + 256
        while True:
            kind, payload = decode_message(await self._reader.frame(frame_max))
            self._silent_ticks = 0
            self._heard.set()
            if kind == ALIVE:
                if payload == ARE_YOU_THERE:
                    self._answer()
            elif kind == HELLO:
                raise PeerFault("said hello twice")
            else:
                self._delivering = True
                await self._deliver(kind, payload)
                self._delivering = False

    def _answer(self) -> None:
        # A flood of questions must not fill the queue: one answer waiting is enough.
        answer = encode_message(ALIVE, I_AM)
        if not self._queue or self._queue[-1] != answer:
            self._push(answer)

    async def _keep_alive(self) -> None:
        # Silence is counted in ticks, not on the clock: a node that computed for long must not blame its peers.
        tick_s = self._config.keepalive_s / 2
        while True:
            await trio.sleep(tick_s)
            if self._delivering:  # it is us who keeps the peer waiting, and it must not take us for dead
                self._answer()
                continue
            self._silent_ticks += 1
            if self._silent_ticks * tick_s >= self._config.silence_max_s:
                self.end("silent for too long")
                return
            if self._silent_ticks >= 2:
                self._push(encode_message(ALIVE, ARE_YOU_THERE))
