"""The queue between the network and the node, bounded by number and by bytes.

Two lanes, each with these bounds. Peers that the node prioritises have their connections and messages in the first,
which is emptied before the second is looked at; only after every 32 of them one of the others is taken, so that a
validator gone mad does not cut a node off from the rest. Within a lane the peers take turns, one event each: whoever
sends much delays itself. The events of one peer stay in their order, also when it changes lanes, which takes along
what is queued. Gossip of a prioritised peer stays in the second, where it may come after what the peer said later.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final

import trio

from node.p2p.types import Event, GossipReceived, MessageReceived, PeerLost

_IN_A_ROW_MAX: Final = 32


@dataclass(eq=False)
class _Waiting:
    event: Event
    admitted: trio.Event = field(default_factory=trio.Event)


class _Lane:
    """The events of some peers, and who waits to add one."""

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._count_max, self._bytes_max = count_max, bytes_max
        self._events: OrderedDict[str, deque[Event]] = OrderedDict()  # by peer; whose turn it is first
        self.waiting: deque[_Waiting] = deque()
        self.count = self._bytes = 0

    def has_room(self, share: float) -> bool:
        full = self.count >= self._count_max * share or self._bytes >= self._bytes_max * share
        return not self.count or not full

    def add(self, event: Event) -> None:
        self._events.setdefault(event.peer, deque()).append(event)
        self.count += 1
        self._bytes += _size(event)

    def take(self) -> Event:
        peer, events = next(iter(self._events.items()))
        event = events.popleft()
        if events:
            self._events.move_to_end(peer)
        else:
            del self._events[peer]
        self.count -= 1
        self._bytes -= _size(event)
        self.admit()
        return event

    def admit(self) -> None:
        while self.waiting and self.has_room(1.0):
            waiting = self.waiting.popleft()
            self.add(waiting.event)
            waiting.admitted.set()

    def move(self, peer: str, other: _Lane) -> None:
        """Hand over what a peer has here, queued or waiting; what is queued fits by exception."""
        for event in self._events.pop(peer, ()):
            self.count -= 1
            self._bytes -= _size(event)
            other.add(event)
        for waiting in [waiting for waiting in self.waiting if waiting.event.peer == peer]:
            self.waiting.remove(waiting)
            other.waiting.append(waiting)
        self.admit()
        other.admit()


class EventQueue:
    """Many senders, one receiver: `async for event in queue`.

    Whoever finds its lane full waits for its turn, which is how a peer is slowed down; one message always fits.
    """

    def __init__(self, count_max: int, bytes_max: int) -> None:
        self._first, self._second = _Lane(count_max, bytes_max), _Lane(count_max, bytes_max)
        self._prioritised: set[str] = set()
        self._in_a_row = 0  # taken from the first lane while the second had something
        self._arrived = trio.Event()
        self._closed = False

    def __len__(self) -> int:
        return self._first.count + self._second.count

    def prioritise(self, peer: str) -> None:
        """Take this peer's events before others, until its PeerLost has been received."""
        if peer not in self._prioritised:
            self._prioritised.add(peer)
            self._second.move(peer, self._first)

    async def put(self, event: Event) -> None:
        """Add an event; waits for room."""
        lane = self._first if event.peer in self._prioritised else self._second
        if lane.waiting or not lane.has_room(1.0):
            waiting = _Waiting(event)
            lane.waiting.append(waiting)
            try:
                await waiting.admitted.wait()
            except trio.Cancelled:
                (self._first if waiting in self._first.waiting else self._second).waiting.remove(waiting)
                raise
        else:
            lane.add(event)
        self._arrived.set()

    def offer(self, event: GossipReceived, share: float) -> bool:
        """Add gossip if its lane is filled to less than `share` of its limits."""
        if not self._second.has_room(share):
            return False
        self._second.add(event)
        self._arrived.set()
        return True

    async def receive(self) -> Event:
        """The next event. Raises trio.EndOfChannel when the network is gone and all has been received."""
        while not len(self):
            if self._closed:
                raise trio.EndOfChannel
            self._arrived = trio.Event()
            await self._arrived.wait()
        event = self._take()
        if isinstance(event, PeerLost) and event.peer in self._prioritised:
            self._prioritised.discard(event.peer)
            self._first.move(event.peer, self._second)
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

    def _take(self) -> Event:
        first = self._first.count and (self._in_a_row < _IN_A_ROW_MAX or not self._second.count)
        self._in_a_row = self._in_a_row + 1 if first and self._second.count else 0
        return (self._first if first else self._second).take()


def _size(event: Event) -> int:
    return len(event.payload) if isinstance(event, MessageReceived | GossipReceived) else 0
