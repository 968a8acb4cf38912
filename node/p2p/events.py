"""The queue between the network and the node, bounded by number and by bytes."""

from __future__ import annotations

from collections import deque

import trio

from node.p2p.types import Event, GossipReceived, MessageReceived


class EventQueue:
    """Many senders, one receiver: `async for event in queue`.

    Whoever finds it full waits for its turn, which is how a peer is slowed down; one message always fits.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._events: deque[Event] = deque()
        self._bytes = 0
        self._turn = trio.Lock()  # first come, first served among those who wait
        self._room, self._arrived = trio.Event(), trio.Event()
        self._closed = False

    async def put(self, event: Event) -> None:
        """Add an event; waits for room."""
        if self._turn.locked() or not self._has_room(1.0):
            async with self._turn:
                while not self._has_room(1.0):
                    self._room = trio.Event()
                    await self._room.wait()
                self._add(event)
        else:
            self._add(event)

    def offer(self, event: Event, share: float) -> bool:
        """Add an event if the queue is filled to less than `share` of its limits."""
        if not self._has_room(share):
            return False
        self._add(event)
        return True

    async def receive(self) -> Event:
        """The next event. Raises trio.EndOfChannel when the network is gone and all has been received."""
        while not self._events:
            if self._closed:
                raise trio.EndOfChannel
            self._arrived = trio.Event()
            await self._arrived.wait()
        event = self._events.popleft()
        self._bytes -= _size(event)
        self._room.set()
        return event

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> EventQueue:
        return self

    async def __anext__(self) -> Event:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def _has_room(self, share: float) -> bool:
        full = len(self._events) >= self._count_max * share or self._bytes >= self._bytes_max * share
        return not self._events or not full

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._bytes += _size(event)
        self._arrived.set()


def _size(event: Event) -> int:
    return len(event.payload) if isinstance(event, MessageReceived | GossipReceived) else 0
