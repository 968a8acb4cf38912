"""Runs a role machine: carries out its effects, feeds what came of them back.

Every effect runs as a task of its own inside `drive`, so a slow one holds up nobody, and none outlives the role.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog
import trio

log = structlog.get_logger()

State = TypeVar("State")
Step = Callable[[State, Any], tuple[State, tuple[Any, ...]]]
Perform = Callable[[Any], Awaitable[object | None]]


class Tasks:
    """Cancel scopes of running effects, by the round attempt that they work for."""

    def __init__(self) -> None:
        self._scopes: dict[object, set[trio.CancelScope]] = {}

    async def run(self, key: object, work: Callable[[], Awaitable[object | None]]) -> object | None:
        """Run `work` until it ends or `cancel(key)`; None when it was cancelled."""
        with trio.CancelScope() as scope:
            scopes = self._scopes.setdefault(key, set())
            scopes.add(scope)
            try:
                return await work()
            finally:
                scopes.discard(scope)
                if not scopes:
                    self._scopes.pop(key, None)
        return None

    def cancel(self, key: object) -> None:
        for scope in self._scopes.get(key, ()):
            scope.cancel()


async def drive(
    name: str,
    step: Step[State],
    state: State,
    events: trio.MemoryReceiveChannel[Any],
    feed: trio.MemorySendChannel[Any],
    perform: Perform,
) -> None:
    """Drive one machine for as long as events come.

    Args:
        feed: the sending end of `events`; what an effect answers goes there.
        perform: carries out one effect and returns the event that it caused, or None.
    """

    async def carry_out(effect: object) -> None:
        answer = await perform(effect)
        if answer is not None:
            await feed.send(answer)

    async with trio.open_nursery() as effects_nursery:
        async for event in events:
            state, effects = step(state, event)
            for effect in effects:
                log.debug("effect.requested", role=name, effect=type(effect).__name__)
                effects_nursery.start_soon(carry_out, effect)
