"""Where long work is done, away from the event loop: one job after another, in one other thread.

A job is a function that touches nothing that others change (chain.chain makes such). Its outcome is told by a call on
the event loop; what a job may fail with it returns, anything that it raises stops the node.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeVar

import trio

T = TypeVar("T")
JOBS_MAX: Final = 64  # each who asks has a few under way at most


class Workshop(Protocol):
    def submit(self, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        """Do a job some time, never at once; then call `done` with what it returned and the (monotonic) time."""
        ...


class ThreadWorkshop:
    """The one of a real node; `poke` is called after each `done`."""

    def __init__(self, poke: Callable[[], None]) -> None:
        self._poke = poke
        self._send, self._jobs = trio.open_memory_channel[tuple[Callable[[], Any], Callable[[Any, float], None]]](
            JOBS_MAX
        )

    def submit(self, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        self._send.send_nowait((job, done))

    async def run(self) -> None:
        async for job, done in self._jobs:
            result = await trio.to_thread.run_sync(job, abandon_on_cancel=True)  # type: ignore[call-arg]
            done(result, trio.current_time())
            self._poke()
