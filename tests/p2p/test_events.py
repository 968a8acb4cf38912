"""The bounded queue between the network and the node."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from node.p2p.events import EventQueue
from node.p2p.types import GossipReceived, MessageReceived, PeerLost


def message(sender: str, size: int = 0) -> MessageReceived:
    return MessageReceived(sender, "test", bytes(size))


async def test_events_come_out_in_their_order() -> None:
    queue = EventQueue(10, 100)
    events = [message("a"), PeerLost("a", "gone"), message("b", 5)]
    for event in events:
        await queue.put(event)
    assert [await queue.receive() for _ in events] == events


@pytest.mark.parametrize(("count_max", "bytes_max", "size"), [(2, 1000, 1), (1000, 100, 50)])
async def test_a_full_queue_makes_senders_wait_for_their_turn(count_max: int, bytes_max: int, size: int) -> None:
    queue = EventQueue(count_max, bytes_max)
    async with trio.open_nursery() as nursery:
        for sender in "abcd":
            nursery.start_soon(queue.put, message(sender, size))
            await trio.testing.wait_all_tasks_blocked()
        assert len(queue._events) == 2
        assert [(await _next(queue)).peer for _ in range(4)] == ["a", "b", "c", "d"]


async def _next(queue: EventQueue) -> MessageReceived:
    event = await queue.receive()
    await trio.testing.wait_all_tasks_blocked()
    assert isinstance(event, MessageReceived)
    return event


async def test_a_message_above_the_limit_passes_alone() -> None:
    queue = EventQueue(10, 100)
    await queue.put(message("a", 1000))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(queue.put, message("b", 1000))
        await trio.testing.wait_all_tasks_blocked()
        assert len(queue._events) == 1
        assert [(await _next(queue)).peer for _ in range(2)] == ["a", "b"]


async def test_what_is_offered_leaves_the_rest_of_the_queue_free() -> None:
    queue = EventQueue(4, 1000)
    gossip = GossipReceived("a", "topic", b"x", "b")
    assert [queue.offer(gossip, 0.5) for _ in range(3)] == [True, True, False]
    for _ in range(2):
        await queue.put(message("a"))
    assert len(queue._events) == 4


async def test_a_closed_queue_is_emptied_and_then_ends() -> None:
    queue = EventQueue(10, 100)
    await queue.put(message("a"))
    queue.close()
    assert [event async for event in queue] == [message("a")]
    with pytest.raises(trio.EndOfChannel):
        await queue.receive()


async def test_a_waiting_receiver_hears_of_the_end() -> None:
    queue = EventQueue(10, 100)
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert [event async for event in queue] == []

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        queue.close()
