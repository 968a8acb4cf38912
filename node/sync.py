"""Catching up with the finalised chain of others: whom to ask, for what, and when: pure.

A follower asks as soon as a peer announces a newer finalised head; a validator, which learns of blocks by voting on
them, only when it has been behind for a while. One request is in flight at a time, and none while what came is being
worked on. Announcements are not believed, only asked about: a peer that answers late, wrongly or with nothing new waits
longer each time, and is asked for less.

    announce(peer, number) ── behind? ── RequestBlocks(peer, first, count) ── came ── worked on ── still behind? ── ...
                                                    │
                                     failed, or too late: another peer, this one later

With a trusted checkpoint above our head, the digests below it are asked for first, from the checkpoint backwards
(`anchor`): then no history but the one that leads there can be taken in.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

REQUEST_TIMEOUT_S: Final = 5.0
RETRY_MIN_S: Final = 1.0
RETRY_MAX_S: Final = 60.0
RUN_TIMEOUT_S: Final = 30.0  # for the certificate of blocks that are held without one
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
    delivered: bool = False


@dataclass(slots=True)
class Sync:
    """
    Attributes:
        number: our finalised head.
        lag_s: how long to be behind before asking (0 for followers).
        anchor: the lowest height whose digest a trusted checkpoint proves; None without one, or once it is reached.
        asked: what is in flight or being worked on.
        ahead: blocks above our head that one peer has sent without a certificate yet, and that peer.
        anchor_count: blocks asked for at once below the checkpoint; where they are large an answer holds fewer.
    """

    number: int
    lag_s: float
    anchor: int | None = None
    asked: RequestBlocks | None = None
    ahead: tuple[str, int] | None = None
    anchor_count: int = BLOCKS_MAX
    _ahead_since: float = 0.0
    _give_up_at: float | None = None  # None while what came is being worked on
    _sources: dict[str, _Source] = field(default_factory=dict)
    _gone: OrderedDict[str, _Source] = field(default_factory=OrderedDict)  # so that nobody comes back unblamed
    _behind_since: float | None = None

    @property
    def target(self) -> int:
        """The newest finalised block that anyone connected speaks of; it may be a lie."""
        return max((source.announced for source in self._sources.values()), default=0)

    def announce(self, peer: str, number: int) -> None:
        if peer in self._sources:  # a head never goes back, but an older word of it may come later
            self._sources[peer].announced = max(number, self._sources[peer].announced)
        elif len(self._sources) < PEERS_MAX:
            self._sources[peer] = self._gone.pop(peer, _Source(number))
            self._sources[peer].announced = number

    def lost(self, peer: str) -> None:
        """The peer is gone."""
        if (source := self._sources.pop(peer, None)) is not None:
            self._gone[peer] = source
            while len(self._gone) > PEERS_MAX:
                self._gone.popitem(last=False)
        if self.ahead is not None and self.ahead[0] == peer:
            self.ahead = None
        if self.asked is not None and self.asked.peer == peer and self._give_up_at is not None:
            self.asked = None

    def came(self) -> None:
        """What is in flight has arrived and is being worked on: `failed` or `answered` follows."""
        self._give_up_at = None

    def failed(self, now: float) -> None:
        """What was asked for came to nothing: wrong, empty or too late."""
        assert self.asked is not None
        self._blame(self.asked.peer, now)
        self.asked, self.ahead = None, None

    def _blame(self, peer: str, now: float) -> None:
        source = self._sources.get(peer)
        if source is not None:
            source.retry_at = now + min(RETRY_MIN_S * 2 ** min(source.failures, 16), RETRY_MAX_S)
            source.failures += 1

    def answered(self, unproven: int, now: float) -> None:
        """What was asked for brought us further, or `unproven` blocks above our head, of which we need more."""
        assert self.asked is not None
        if not unproven and (source := self._sources.get(self.asked.peer)) is not None:
            source.failures, source.delivered = 0, True
        if self.ahead is None:
            self._ahead_since = now
        self.ahead = (self.asked.peer, unproven) if unproven else None
        self.asked = None

    def shorten(self) -> bool:
        """An answer did not reach up to the anchor: ask for less at once. False if it was a single block's already."""
        self.anchor_count //= 2
        self.asked = None
        return self.anchor_count > 0

    def advance(self, number: int, now: float) -> None:
        """Our finalised head moved, by whatever way."""
        if number > self.number:
            self.number = number
            self._behind_since = now if self.target > number else None
            if self.anchor is not None and self.anchor <= number:
                self.anchor = None

    @property
    def waiting(self) -> bool:
        """Whether something is in flight, and not here yet."""
        return self.asked is not None and self._give_up_at is not None

    def follow_anchor(self, anchor: int | None) -> bool:
        """The checkpoint proves digests down to `anchor`; whether that is new."""
        lower = anchor is not None and self.anchor is not None and anchor < self.anchor
        self.anchor = anchor
        if lower:  # one short answer shall not slow down all that follow
            self.anchor_count = min(2 * max(1, self.anchor_count), BLOCKS_MAX)
        return lower

    @property
    def anchoring(self) -> bool:
        return self.anchor is not None and self.anchor > self.number + 1

    def next_request(self, now: float) -> RequestBlocks | None:
        """What to ask of whom now, if anything."""
        if self.asked is not None and self._give_up_at is not None and now >= self._give_up_at:
            self.failed(now)
        if self.target <= self.number:
            self._behind_since = None
            return None
        if self._behind_since is None:
            self._behind_since = now
        if self.asked is not None or now < self._behind_since + self.lag_s:
            return None
        if self.ahead is not None and now >= self._ahead_since + RUN_TIMEOUT_S:
            self._blame(self.ahead[0], now)
            self.ahead = None
        if self.ahead is not None:
            peer, unproven = self.ahead
            return self._ask(RequestBlocks(peer, self.number + 1 + unproven, BLOCKS_MAX), now)
        ready = [(s.failures, not s.delivered, -s.announced, peer) for peer, s in self._ahead() if s.retry_at <= now]
        if not ready:
            return None
        failures, _, _, peer = min(ready)
        if not self.anchoring:
            return self._ask(RequestBlocks(peer, self.number + 1, max(1, BLOCKS_MAX >> failures)), now)
        assert self.anchor is not None
        first = max(self.number + 1, self.anchor + 1 - max(1, self.anchor_count))
        return self._ask(RequestBlocks(peer, first, self.anchor + 1 - first), now)

    def _ask(self, request: RequestBlocks, now: float) -> RequestBlocks:
        self.asked, self._give_up_at = request, now + REQUEST_TIMEOUT_S
        return request

    @property
    def deadline(self) -> float | None:
        """When next_request should be called again although nothing happened."""
        if self.asked is not None:
            return self._give_up_at
        if self._behind_since is None:
            return None
        retries = [source.retry_at for _, source in self._ahead()]
        return max(self._behind_since + self.lag_s, min(retries)) if retries else None

    def _ahead(self) -> list[tuple[str, _Source]]:
        """Who can have what we need next."""
        least = self.anchor - 1 if self.anchoring and self.anchor is not None else self.number
        return [(peer, source) for peer, source in self._sources.items() if source.announced > least]
