"""What has to hold whatever the contract's rules are, checked from its logs and from the money that went in, alone.

It knows nothing of the model beside the contract: where both are wrong in the same way, these promises still catch it.

* What came in is held, withdrawn or burned, to the wei; what was forfeited is burned.
* A seat is settled once. Nobody outside the majority is paid; who revealed the majority's update in a settled round is.
* In a void round who did what was asked is made whole, who withheld forfeits.
* A sponsor is repaid before the worker, never more than it put; what a worker holds of a sponsor's is the sponsor's.
* Once all is withdrawn, everybody has what it put in, with what it earned, without what it forfeited or paid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from chain.contracts import bindings as b
from chain.contracts.events import Event, Terms

Place = tuple[int, int, int]  # job, round, attempt


@dataclass
class Seen:
    """A round, as its logs told."""

    slots: tuple[bytes, ...]
    committed: set[bytes] = field(default_factory=set)
    revealed: dict[bytes, bytes] = field(default_factory=dict)
    asked: bool = False  # to reveal
    winner: bytes | None = None  # once settled
    void: bool = False
    closed: bool = False

    @property
    def majority(self) -> bytes | None:
        """The digest that more than half of the slots have revealed."""
        digest, votes = max(Counter(self.revealed.values()).items(), key=lambda item: item[1], default=(None, 0))
        return digest if 2 * votes > len(self.slots) else None

    @property
    def over(self) -> bool:
        return self.void or self.closed


class Bookkeeper:
    """Sees every call that took effect, in order."""

    def __init__(self) -> None:
        self.came_in = self.withdrawn = self.burned = 0
        self.terms: dict[int, Terms] = {}
        self.owners: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.rounds: dict[Place, Seen] = {}
        self.settled: set[tuple[Place, bytes]] = set()
        self.due: dict[bytes, int] = defaultdict(int)  # put in + earned - forfeited - paid, not yet withdrawn
        self.offers: dict[tuple[int, bytes], tuple[bytes, int]] = {}  # (job, worker) -> sponsor, wei
        self.debts: dict[tuple[int, bytes], tuple[bytes, int]] = {}  # likewise, once taken: what is not repaid

    @property
    def held(self) -> int:
        return self.came_in - self.withdrawn - self.burned

    def see(self, sender: bytes, value: int, events: list[Event]) -> None:
        self.came_in += value
        # what is topped up and not spent is the owner's
        topped_up = [self.owners[event.job] for event in events if isinstance(event, b.JobToppedUp)]
        self.due[topped_up[0] if topped_up else sender] += value
        for event in events:
            self._see(event)

    def _see(self, event: Event) -> None:
        match event:
            case b.JobPosted():
                self.terms[event.job], self.owners[event.job] = event.terms, event.owner
            case b.JobEnded():
                assert event.job not in self.ended, "a job ended twice"
                self.ended.add(event.job)
            case b.RoundOpened():
                assert len(set(event.workers)) == len(event.workers), "a worker holds two slots of a round"
                assert (event.job, event.round, event.attempt) not in self.rounds, "a round was opened twice"
                self.rounds[event.job, event.round, event.attempt] = Seen(event.workers)
            case b.Committed():
                seen = self.rounds[event.job, event.round, event.attempt]
                assert event.worker in seen.slots, "a commit without a slot"
                assert event.worker not in seen.committed, "a second commit"
                seen.committed.add(event.worker)
            case b.RevealOpened():
                self.rounds[event.job, event.round, event.attempt].asked = True
            case b.Revealed():
                seen = self.rounds[event.job, event.round, event.attempt]
                assert seen.asked, "a reveal while others may still commit"
                assert event.worker in seen.committed, "a reveal without a commit"
                assert event.worker not in seen.revealed, "a second reveal"
                assert not seen.over, "a reveal in a round that is over"
                seen.revealed[event.worker] = event.update_digest
            case b.RoundSettled():
                seen = self.rounds[event.job, event.round, event.attempt]
                assert event.update_digest == seen.majority, "settled without a majority"
                assert seen.winner is None, "settled twice"
                seen.winner = event.update_digest
            case b.RoundVoided():
                seen = self.rounds[event.job, event.round, event.attempt]
                assert seen.majority is None, "void with a majority"
                seen.void = True
            case b.RoundClosed():
                self.rounds[event.job, event.round, event.attempt].closed = True
            case b.SeatSettled():
                self._seat(event)
            case b.Sponsored() | b.Unsponsored() | b.Enrolled() | b.DebtRepaid():
                self._sponsor(event)
            case b.Withdrawn():
                self.withdrawn += event.amount
                self.due[event.account] -= event.amount
                assert self.due[event.account] >= 0, "withdrew what is not its own"

    def _sponsor(self, event: Event) -> None:
        """A sponsor's wei are the worker's from when it enrols until they are repaid."""
        place = (event.job, event.worker)
        match event:
            case b.Sponsored():
                assert place not in self.offers, "a second offer"
                assert self.debts.get(place, (b"", 0))[1] == 0, "a second debt"
                self.offers[place] = (event.sponsor, event.amount)
            case b.Unsponsored():
                assert self.offers.pop(place) == (event.sponsor, event.amount), "took back what it had not offered"
            case b.Enrolled() if place in self.offers:
                sponsor, amount = self.debts[place] = self.offers.pop(place)
                self.due[sponsor] -= amount
                self.due[event.worker] += amount
            case b.DebtRepaid():
                sponsor, owed = self.debts[place]
                assert event.sponsor == sponsor, "repaid to another"
                assert 0 < event.amount <= owed, "repaid what was not owed"
                self.debts[place] = (sponsor, owed - event.amount)
                self.due[sponsor] += event.amount
                self.due[event.worker] -= event.amount

    def _seat(self, event: b.SeatSettled) -> None:
        place = (event.job, event.round, event.attempt)
        terms, seen = self.terms[event.job], self.rounds[place]
        assert (place, event.worker) not in self.settled, "a seat settled twice"
        self.settled.add((place, event.worker))
        assert event.worker in seen.slots, "a seat that nobody held"
        if seen.void:
            asked = seen.revealed if 2 * len(seen.committed) > len(seen.slots) else seen.committed
            expected = (0, 0 if event.worker in asked else terms.stake)
            assert (event.earned, event.forfeited) == expected, "a void round makes whole who did its part, only"
        else:
            assert seen.winner is not None, "settled before it was decided"
            won = seen.revealed.get(event.worker) == seen.winner
            assert won or seen.closed or event.worker in seen.revealed, "settled while it may still reveal"
            expected = (terms.reward, 0) if won else (0, terms.stake)
            assert (event.earned, event.forfeited) == expected, "the majority is paid, only"
        self.burned += event.forfeited
        self.due[event.worker] += event.earned - event.forfeited
        self.due[self.owners[event.job]] -= event.earned

    def check(self, balance: int, burned: int) -> None:
        """Against what the chain says: the contract's balance, and that of the address where money is burned."""
        assert balance == self.held, "held is not what came in less what left"
        assert burned == self.burned, "what was forfeited is not what was burned"

    def check_all_is_over(self, *stubborn: bytes) -> None:
        """After everybody has settled and withdrawn; the stubborn refuse their money."""
        assert self.ended == self.terms.keys(), "a job that never ends"
        assert all(seen.over for seen in self.rounds.values()), "a round that is never over"
        seats = {(place, worker) for place, seen in self.rounds.items() for worker in seen.slots}
        assert self.settled == seats, "a seat that is never settled"
        kept = {account: wei for account, wei in self.due.items() if wei}
        assert kept.keys() <= set(stubborn), "money that is locked for ever, or not its owner's"
        assert self.held == sum(kept.values())
