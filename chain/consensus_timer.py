"""When a view times out, when a Status is due, and how long the network is thought to take.

view timer   three delays after there is work in a view; then again at growing intervals, until the view ends
heartbeat    every ten least delays, idle or not
estimate     doubles after a view that this node voted to skip, halves whenever blocks become final
"""

from __future__ import annotations

from typing import Final

TIMEOUT_DELAYS: Final = 3  # a proposal, the votes, and what they carry
HEARTBEAT_DELAYS: Final = 10
DELAY_FACTOR_MAX: Final = 32  # of a delay of 0.1 s: three exceed the time of the slowest full block
REPEAT_FACTOR_MAX: Final = 8  # how far the intervals within one view stretch


class Timer:
    """Bookkeeping in seconds of the caller's clock; `now` always comes from outside."""

    def __init__(self, delta_s: float) -> None:
        self.deadline: float | None = None  # when the view times out; None while there is no work
        self._delta_s = delta_s
        self._factor = 1.0
        self._entered, self._beat_at, self._fired = 0.0, 0.0, 0
        self._woken: float | None = None

    @property
    def delay_s(self) -> float:
        """The present estimate of one network delay."""
        return self._delta_s * self._factor

    def start(self, now: float) -> None:
        self._entered, self._beat_at = now, now + HEARTBEAT_DELAYS * self._delta_s

    def enter_view(self, now: float, timed_out: bool) -> None:
        """A new view begins; `timed_out`: this node had voted to skip the last one."""
        if timed_out:
            self._factor = min(self._factor * 2, DELAY_FACTOR_MAX)
        self.deadline, self._entered, self._fired = None, now, 0

    def finalised(self) -> None:
        self._factor = max(1.0, self._factor / 2)

    def ticked(self, now: float) -> tuple[bool, bool]:
        """Whether the view timed out (again), and whether a Status is due."""
        self._woken = None
        timed_out, beat = self.deadline is not None and now >= self.deadline, now >= self._beat_at
        if timed_out:
            self._fired += 1
            stretch = max(self._factor, min(2**self._fired, REPEAT_FACTOR_MAX))
            self.deadline = now + TIMEOUT_DELAYS * self._delta_s * stretch
        if beat:
            self._beat_at = now + HEARTBEAT_DELAYS * self._delta_s
        return timed_out, beat

    def run(self, now: float, work: bool) -> None:
        """The view timer runs while there is work, from when there first is some."""
        if not work:
            self.deadline = None
        elif self.deadline is None:
            self.deadline = now + TIMEOUT_DELAYS * self.delay_s

    def lingered(self, now: float) -> bool:
        """Whether votes of the last view had one delay to make its block final."""
        return now >= self._entered + self._delta_s

    def wake_at(self, linger: bool, retry_at: float | None) -> float | None:
        """When to be called next, if that changed; `linger`: the caller waits for `lingered`."""
        times = (self.deadline, retry_at, self._entered + self._delta_s if linger else None)
        at = min([self._beat_at, *(time for time in times if time is not None)])
        if at == self._woken:
            return None
        self._woken = at
        return at
