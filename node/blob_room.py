"""Memory for the blobs that are being fetched: one budget, shared out in lanes, first come first served in each.

  relay   an eighth    blobs that only peers wait for
  small   an eighth    of our own, blobs of up to an eighth of this lane: never behind a large one
  large   the rest     all others

A blob that is larger than its lane has it to itself. Who got room and does too little with it, while others wait for
theirs, may be told to come again: so a peer that offers a blob and never delivers it costs a while, not the lane.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

import trio

LEASE_S: Final = 30.0  # anybody may keep its room for so long, and
LEASE_BYTES_PER_S: Final = 256 * 1024  # as long as this slow a download would take

_PARTS: Final = 8

LaneName = Literal["relay", "small", "large"]


@dataclass(eq=False)
class Claim:
    """Room for one blob, had or waited for."""

    size: int
    lane: LaneName
    granted: trio.Event = field(default_factory=trio.Event)
    since: float = 0.0  # trio time at which it was granted


@dataclass(eq=False)
class _Lane:
    bytes_max: int
    used: int = 0
    waiting: deque[Claim] = field(default_factory=deque)

    def admit(self) -> None:
        while self.waiting and (not self.used or self.used + self.waiting[0].size <= self.bytes_max):
            claim = self.waiting.popleft()
            self.used += claim.size
            claim.since = trio.current_time()
            claim.granted.set()


class BlobRoom:
    """See the module.

    Args:
        bytes_max: of all lanes together.
    """

    def __init__(self, bytes_max: int) -> None:
        part = bytes_max // _PARTS
        self._small_max = part // _PARTS
        self._lanes: dict[LaneName, _Lane] = {
            "relay": _Lane(part),
            "small": _Lane(part),
            "large": _Lane(bytes_max - 2 * part),
        }

    @property
    def used(self) -> int:
        """Bytes that are granted."""
        return sum(lane.used for lane in self._lanes.values())

    def claim(self, size: int, relayed: bool) -> Claim:
        """Stand in line; await `granted`. Whoever claims must `release`, granted or not."""
        claim = Claim(size, "relay" if relayed else self._own_lane(size))
        self._join(claim)
        return claim

    def promote(self, claim: Claim) -> None:
        """What was fetched for peers only is now wanted here too: no-op unless it waits among the relayed."""
        lane = self._lanes[claim.lane]
        if claim.lane == "relay" and claim in lane.waiting:
            lane.waiting.remove(claim)
            lane.admit()  # it may have been the one that kept the others
            claim.lane = self._own_lane(claim.size)
            self._join(claim)

    def release(self, claim: Claim) -> None:
        lane = self._lanes[claim.lane]
        if claim.granted.is_set():
            lane.used -= claim.size
        else:
            lane.waiting.remove(claim)
        lane.admit()

    def overdue(self, claim: Claim, now: float) -> bool:
        """Whether it has had its room for so long that those who wait come first."""
        held_s = now - claim.since
        return bool(self._lanes[claim.lane].waiting) and held_s > LEASE_S + claim.size / LEASE_BYTES_PER_S

    def _own_lane(self, size: int) -> LaneName:
        return "small" if size <= self._small_max else "large"

    def _join(self, claim: Claim) -> None:
        lane = self._lanes[claim.lane]
        lane.waiting.append(claim)
        lane.admit()
