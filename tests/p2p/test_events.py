"""The bounded queue between the network and the node."""

from __future__ import annotations

from collections import defaultdict

import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from node.p2p.events import EventQueue
from node.p2p.types import Event, GossipReceived, MessageReceived, PeerConnected, PeerLost


def message(sender: str, size: int = 0, kind: str = "test") -> MessageReceived:
    return MessageReceived(sender, kind, bytes(size))


def connected(peer: str) -> PeerConnected:
    return PeerConnected(peer, b"hello", "/ip4/127.0.0.1/tcp/1", "inbound")


async def taken(queue: EventQueue, count: int) -> list[Event]:
    return [await queue.receive() for _ in range(count)]


async def test_the_events_of_a_peer_come_out_in_their_order_and_peers_take_turns() -> None:
    queue = EventQueue(10, 100)
    events = [connected("a"), message("a"), PeerLost("a", "gone"), message("b", 5), message("b", 6)]
    for event in events:
        await queue.put(event)
    assert await taken(queue, 5) == [events[index] for index in (0, 3, 1, 4, 2)]


@pytest.mark.parametrize(("count_max", "bytes_max", "size"), [(2, 1000, 1), (1000, 100, 50)])
async def test_a_full_queue_makes_senders_wait_for_their_turn(count_max: int, bytes_max: int, size: int) -> None:
    queue = EventQueue(count_max, bytes_max)
    async with trio.open_nursery() as nursery:
        for sender in "abcd":
            nursery.start_soon(queue.put, message(sender, size))
            await trio.testing.wait_all_tasks_blocked()
        assert len(queue) == 2
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
        assert len(queue) == 1
        assert [(await _next(queue)).peer for _ in range(2)] == ["a", "b"]


async def test_what_is_offered_leaves_the_rest_of_the_queue_free() -> None:
    queue = EventQueue(4, 1000)
    gossip = GossipReceived("a", "topic", b"x", "b")
    assert [queue.offer(gossip, 0.5) for _ in range(3)] == [True, True, False]
    for _ in range(2):
        await queue.put(message("a"))
    assert len(queue) == 4


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


# ---- peers that come first -------------------------------------------------------------------------------------------
async def test_a_vote_passes_everything_that_strangers_have_queued() -> None:
    queue = EventQueue(100, 1000)
    await queue.put(connected("validator"))
    await queue.receive()
    queue.prioritise("validator")
    for number in range(50):
        await queue.put(message(f"stranger {number % 5}"))
    await queue.put(message("validator", kind="vote"))
    assert await queue.receive() == message("validator", kind="vote")


async def test_a_full_queue_of_strangers_makes_no_validator_wait() -> None:
    queue = EventQueue(4, 1000)
    queue.prioritise("validator")
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(queue.put, message(f"stranger {number}"))
        await trio.testing.wait_all_tasks_blocked()
        assert len(queue) == 4
        with trio.fail_after(10):
            await queue.put(message("validator"))
        assert (await queue.receive()).peer == "validator"
        nursery.cancel_scope.cancel()


async def test_what_a_peer_said_before_it_was_prioritised_comes_along_in_order() -> None:
    queue = EventQueue(3, 1000)
    events = [connected("v"), message("v", 1), message("v", 2), message("v", 3), message("v", 4)]
    async with trio.open_nursery() as nursery:
        await queue.put(message("a"))
        for event in events[:2]:
            await queue.put(event)
        nursery.start_soon(queue.put, message("b"))
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(queue.put, events[2])  # waits for room in the lane that the peer is about to leave
        await trio.testing.wait_all_tasks_blocked()
        queue.prioritise("v")
        queue.prioritise("v")
        await trio.testing.wait_all_tasks_blocked()
        for event in events[3:]:
            nursery.start_soon(queue.put, event)
            await trio.testing.wait_all_tasks_blocked()
        assert [await _in_turn(queue) for _ in events] == events
        assert {event.peer for event in await taken(queue, 2)} == {"a", "b"}


async def _in_turn(queue: EventQueue) -> Event:
    event = await queue.receive()
    await trio.testing.wait_all_tasks_blocked()
    return event


async def test_priority_ends_with_the_connection_and_the_next_one_follows_in_order() -> None:
    queue = EventQueue(100, 1000)
    queue.prioritise("v")
    first = [message("v"), PeerLost("v", "gone"), connected("v")]
    for event in first:
        await queue.put(event)
    await queue.put(message("a"))
    assert await taken(queue, 2) == first[:2]
    await queue.put(message("v", 9))
    assert await taken(queue, 3) == [message("a"), connected("v"), message("v", 9)]


async def test_the_lane_of_prioritised_peers_is_bounded_too() -> None:
    queue = EventQueue(3, 1000)
    queue.prioritise("v")
    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(queue.put, message("v", number))
            await trio.testing.wait_all_tasks_blocked()
        assert len(queue) == 3
        assert [await _in_turn(queue) for _ in range(5)] == [message("v", number) for number in range(5)]


async def test_a_validator_gone_mad_delays_neither_another_nor_strangers_for_long() -> None:
    queue = EventQueue(1000, 100_000)
    for peer in ("mad", "sane"):
        queue.prioritise(peer)
    for _ in range(500):
        await queue.put(message("mad"))
    await queue.put(message("sane"))
    await queue.put(message("stranger"))
    order = [event.peer for event in await taken(queue, 502)]
    assert order.index("sane") == 1
    assert order.index("stranger") == 32


async def test_who_gives_up_waiting_leaves_nothing_behind_also_when_it_was_moved() -> None:
    queue = EventQueue(1, 1000)
    queue.prioritise("u")
    await queue.put(message("a"))
    await queue.put(message("u"))
    async with trio.open_nursery() as nursery:
        for peer in ("b", "v"):
            nursery.start_soon(queue.put, message(peer))
        await trio.testing.wait_all_tasks_blocked()
        queue.prioritise("v")
        nursery.cancel_scope.cancel()
    assert [event.peer for event in await taken(queue, 2)] == ["u", "a"]
    assert len(queue) == 0


async def test_gossip_never_takes_the_room_of_prioritised_peers() -> None:
    queue = EventQueue(4, 1000)
    queue.prioritise("v")
    assert [queue.offer(GossipReceived("v", "topic", b"x", "b"), 0.5) for _ in range(3)] == [True, True, False]
    await queue.put(message("v"))
    assert isinstance(await queue.receive(), MessageReceived)


STEPS = st.lists(st.tuples(st.sampled_from(["say", "lose", "first", "take", "take"]), st.sampled_from("abc")))


@settings(max_examples=300, deadline=None)
@given(STEPS, st.integers(1, 6))
def test_whatever_happens_nothing_is_lost_and_each_peer_is_heard_in_order(
    steps: list[tuple[str, str]], count_max: int
) -> None:
    async def run() -> None:
        queue = EventQueue(count_max, 1000)
        said, heard, busy = defaultdict[str, list[Event]](list), defaultdict[str, list[Event]](list), set[str]()

        async def put(event: Event) -> None:
            await queue.put(event)
            busy.discard(event.peer)

        async def take() -> None:
            event = await queue.receive()
            heard[event.peer].append(event)
            await trio.testing.wait_all_tasks_blocked()

        async with trio.open_nursery() as nursery:
            for number, (action, peer) in enumerate(steps):
                if action == "first":
                    queue.prioritise(peer)
                elif action == "take":
                    if len(queue):
                        await take()
                elif peer not in busy:  # a peer's session says one thing after the other
                    busy.add(peer)
                    said[peer].append(message(peer, kind=str(number)) if action == "say" else PeerLost(peer, ""))
                    nursery.start_soon(put, said[peer][-1])
                    await trio.testing.wait_all_tasks_blocked()
            while len(queue):
                await take()
        assert heard == said

    trio.run(run)
