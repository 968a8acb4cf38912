"""Requests and answers between real hosts."""

from __future__ import annotations

import pytest
import trio
from p2p_kit import PATIENCE_S, Node, nodes
from structlog.testing import capture_logs

from node.p2p.host import Replier, RequestFailed

ECHO = "/test/echo/1"


async def echo(_peer: str, request: bytes, reply: Replier) -> None:
    await reply.send(request)
    await reply.send(b"!")


async def fails(asker: Node, peer: str, protocol: str, reason: str, **options: float) -> None:
    with pytest.raises(RequestFailed, match=reason):
        await asker.network.request(peer, protocol, b"?", 1000, **options)


async def test_the_frames_of_an_answer_come_as_one() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.serve(ECHO, echo)
        assert await two.network.request(one.peer, ECHO, b"abc", 4) == b"abc!"
        assert await two.network.request(one.peer, ECHO, bytes(300_000), 300_001) == bytes(300_000) + b"!"


async def test_the_asker_may_be_the_one_that_was_dialled() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        two.network.serve(ECHO, echo)
        assert await one.network.request(two.peer, ECHO, b"abc", 4) == b"abc!"


async def test_an_answer_can_be_read_frame_by_frame() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.serve(ECHO, echo)
        async with two.network.request_stream(one.peer, ECHO, b"abc") as answer:
            assert await answer.next(3) == b"abc"
            assert await answer.next(1) == b"!"
            assert await answer.next(1) is None


async def test_many_requests_run_at_once() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        arrived = trio.Event()
        waiting = 0

        async def together(_peer: str, request: bytes, reply: Replier) -> None:
            nonlocal waiting
            waiting += 1
            if waiting == 20:
                arrived.set()
            await arrived.wait()
            await reply.send(request)

        one.network.serve(ECHO, together)
        answers = []

        async def ask(number: int) -> None:
            answers.append(await two.network.request(one.peer, ECHO, bytes([number]), 1))

        with trio.fail_after(PATIENCE_S):
            async with trio.open_nursery() as nursery:
                for number in range(20):
                    nursery.start_soon(ask, number)
        assert sorted(answers) == [bytes([number]) for number in range(20)]


async def test_a_protocol_that_nobody_serves_fails_and_is_no_fault() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        await fails(two, one.peer, "/test/none/1", "does not speak /test/none/1")
        assert one.network.peers()[0].refused == two.network.peers()[0].refused == 0


async def test_a_protocol_is_served_once() -> None:
    async with nodes({}) as (one,):
        one.network.serve(ECHO, echo)
        with pytest.raises(ValueError, match="already served"):
            one.network.serve(ECHO, echo)


async def test_an_exception_in_a_handler_costs_that_request_only() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):

        async def broken(_peer: str, _request: bytes, _reply: Replier) -> None:
            raise ZeroDivisionError

        one.network.serve("/test/broken/1", broken)
        one.network.serve(ECHO, echo)
        with capture_logs() as logs:
            await fails(two, one.peer, "/test/broken/1", "reset by the peer")
        assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["request.failed"]
        assert await two.network.request(one.peer, ECHO, b"abc", 4) == b"abc!"


async def test_an_answer_above_the_limit_fails_and_is_counted() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        one.network.serve(ECHO, echo)
        with pytest.raises(RequestFailed, match="limit is 2") as caught:
            await two.network.request(one.peer, ECHO, b"abc", 2)
        assert caught.value.at_fault
        assert two.network.peers()[0].refused == 1


async def test_a_request_above_the_limit_is_refused() -> None:
    async with nodes({"request_bytes_max": 10}, {"to": [0]}) as (one, two):
        one.network.serve(ECHO, echo)
        with pytest.raises(RequestFailed, match="reset"):
            await two.network.request(one.peer, ECHO, bytes(11), 100)
        assert one.network.peers()[0].refused == 1


async def test_a_slow_answer_is_not_waited_for_and_its_handler_is_stopped() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        stopped = trio.Event()

        async def slow(_peer: str, _request: bytes, _reply: Replier) -> None:
            try:
                await trio.sleep_forever()
            finally:
                stopped.set()

        one.network.serve(ECHO, slow)
        await fails(two, one.peer, ECHO, "too slow", timeout_s=0.1)
        with trio.fail_after(PATIENCE_S):
            await stopped.wait()


async def test_a_handler_that_takes_too_long_is_stopped() -> None:
    async with nodes({"serve_timeout_s": 0.1}, {"to": [0]}) as (one, two):

        async def slow(_peer: str, _request: bytes, _reply: Replier) -> None:
            await trio.sleep_forever()

        one.network.serve(ECHO, slow)
        await fails(two, one.peer, ECHO, "reset by the peer")


async def test_a_request_fails_at_once_when_its_peer_goes() -> None:
    async with nodes({}, {"to": [0]}) as (one, two):
        begun = trio.Event()

        async def never(_peer: str, _request: bytes, reply: Replier) -> None:
            begun.set()
            while True:
                await reply.send(bytes(100_000))
                await trio.sleep(0.01)

        one.network.serve(ECHO, never)
        async with trio.open_nursery() as nursery:

            async def leave() -> None:
                await begun.wait()
                await one.stop()

            nursery.start_soon(leave)
            with trio.fail_after(PATIENCE_S), pytest.raises(RequestFailed):
                await two.network.request(one.peer, ECHO, b"", 1 << 40)


async def test_a_request_to_a_stranger_fails() -> None:
    async with nodes({}) as (one,):
        await fails(one, "12D3KooWnobody", ECHO, "not connected")
