"""Catching up with the finalised chain of others: pure.

A follower asks as soon as a peer announces a newer finalised head; a validator, which learns of blocks by voting on
them, only when it has been behind for a while. One request is in flight at a time; a peer that answers wrongly or not
at all is not asked again until it announces something newer.

    Announced(peer, number) ── behind? ── RequestBlocks(peer, first) ── Imported ── still behind? ── RequestBlocks ...
                                                │
                                    timeout, lie or loss: next peer
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

REQUEST_TIMEOUT_S: Final = 5.0
VALIDATOR_LAG_S: Final = 1.0
PEERS_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    peer: str
    first: int


@dataclass(slots=True)
class Sync:
    """
    Attributes:
        number: our finalised head.
        lag_s: how long to be behind before asking (0 for followers).
    """

    number: int
    lag_s: float
    announced: dict[str, int] = field(default_factory=dict)
    asked: tuple[str, float] | None = None  # (peer, when to give up on it)
    behind_since: float | None = None

    @property
    def target(self) -> int:
        """The newest finalised block that anyone connected speaks of."""
        return max(self.announced.values(), default=0)

    def announce(self, peer: str, number: int) -> None:
        if peer in self.announced or len(self.announced) < PEERS_MAX:
            self.announced[peer] = max(number, self.announced.get(peer, 0))

    def lost(self, peer: str) -> None:
        """The peer is gone, lied or fell silent."""
        self.announced.pop(peer, None)
        if self.asked is not None and self.asked[0] == peer:
            self.asked = None

    def expects(self, peer: str) -> bool:
        return self.asked is not None and self.asked[0] == peer

    def answered(self) -> None:
        """The answer came and was imported as far as it went."""
        self.asked = None

    def advance(self, number: int, now: float) -> None:
        """Our finalised head moved, by whatever way."""
        if number > self.number:
            self.number = number
            self.behind_since = now if self.target > number else None

    def next_request(self, now: float) -> RequestBlocks | None:
        """What to ask of whom now, if anything."""
        if self.asked is not None and now >= self.asked[1]:
            self.lost(self.asked[0])
        if self.target <= self.number:
            self.behind_since = None
            return None
        if self.behind_since is None:
            self.behind_since = now
        if self.asked is not None or now < self.behind_since + self.lag_s:
            return None
        peer = max(self.announced, key=lambda each: (self.announced[each], each))
        self.asked = (peer, now + REQUEST_TIMEOUT_S)
        return RequestBlocks(peer, self.number + 1)

    @property
    def deadline(self) -> float | None:
        """When next_request should be called again although nothing happened."""
        if self.asked is not None:
            return self.asked[1]
        return None if self.behind_since is None else self.behind_since + self.lag_s
