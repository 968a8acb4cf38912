"""Catching up with the finalised chain of others: pure.

A follower asks as soon as a peer announces a newer finalised head; a validator, which learns of blocks by voting on
them, only when it has been behind for a while. One request is in flight at a time. Announcements are not believed,
only asked about: a peer that answers late, wrongly or with nothing new waits longer each time, and is asked for less.

    announce(peer, number) ── behind? ── RequestBlocks(peer, first, count) ── answered ── still behind? ── ...
                                                    │
                                     failed, or too late: another peer, this one later
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

REQUEST_TIMEOUT_S: Final = 5.0
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
VALIDATOR_LAG_S: Final = 1.0
PEERS_MAX: Final = 1024
BLOCKS_MAX: Final = 128  # in one request


@dataclass(frozen=True, slots=True)
class RequestBlocks:
    peer: str
    first: int
    count: int


@dataclass(slots=True)
class _Source:
    """A peer that says it has finalised blocks."""

    announced: int
    failures: int = 0
    retry_at: float = 0.0


@dataclass(slots=True)
class Sync:
    """
    Attributes:
        number: our finalised head.
        lag_s: how long to be behind before asking (0 for followers).
        asked: what is in flight, and when to give up on it.
    """

    number: int
    lag_s: float
    asked: RequestBlocks | None = None
    _give_up_at: float = 0.0
    _sources: dict[str, _Source] = field(default_factory=dict)
    _behind_since: float | None = None

    @property
    def target(self) -> int:
        """The newest finalised block that anyone connected speaks of; it may be a lie."""
        return max((source.announced for source in self._sources.values()), default=0)

    def announce(self, peer: str, number: int) -> None:
        if peer in self._sources:
            self._sources[peer].announced = number
        elif len(self._sources) < PEERS_MAX:
            self._sources[peer] = _Source(number)

    def lost(self, peer: str) -> None:
        """The peer is gone."""
        self._sources.pop(peer, None)
        if self.asked is not None and self.asked.peer == peer:
            self.asked = None

    def failed(self, now: float) -> None:
        """What is in flight came to nothing: wrong, empty or too late."""
        assert self.asked is not None
        source = self._sources.get(self.asked.peer)
        if source is not None:
            source.retry_at = now + min(RETRY_MIN_S * 2**source.failures, RETRY_MAX_S)
            source.failures += 1
        self.asked = None

    def answered(self) -> None:
        """What is in flight came and brought us further."""
        assert self.asked is not None
        if (source := self._sources.get(self.asked.peer)) is not None:
            source.failures = 0
        self.asked = None

    def advance(self, number: int, now: float) -> None:
        """Our finalised head moved, by whatever way."""
        if number > self.number:
            self.number = number
            self._behind_since = now if self.target > number else None

    def next_request(self, now: float) -> RequestBlocks | None:
        """What to ask of whom now, if anything."""
        if self.asked is not None and now >= self._give_up_at:
            self.failed(now)
        if self.target <= self.number:
            self._behind_since = None
            return None
        if self._behind_since is None:
            self._behind_since = now
        if self.asked is not None or now < self._behind_since + self.lag_s:
            return None
        ready = [(s.failures, -s.announced, peer) for peer, s in self._ahead() if s.retry_at <= now]
        if not ready:
            return None
        failures, _, peer = min(ready)
        self.asked = RequestBlocks(peer, self.number + 1, max(1, BLOCKS_MAX >> failures))
        self._give_up_at = now + REQUEST_TIMEOUT_S
        return self.asked

    @property
    def deadline(self) -> float | None:
        """When next_request should be called again although nothing happened."""
        if self.asked is not None:
            return self._give_up_at
        if self._behind_since is None:
            return None
        retries = [source.retry_at for _, source in self._ahead()]
        return max(self._behind_since + self.lag_s, min(retries, default=0.0))

    def _ahead(self) -> list[tuple[str, _Source]]:
        return [(peer, source) for peer, source in self._sources.items() if source.announced > self.number]
