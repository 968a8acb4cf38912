"""Own votes and those of others. Safety rests on the two rules in `Votes.cast`, here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chain.consensus_floor import Floor
from chain.consensus_types import Sign
from chain.types import FINALISE, NO_DIGEST, TIMEOUT, Certificate, Vote, VoteKind

VIEWS_AHEAD_MAX: Final = 64  # votes are counted this far beyond the own view
_EXCLUDES: Final[dict[VoteKind, VoteKind]] = {FINALISE: TIMEOUT, TIMEOUT: FINALISE}


class Votes:
    """The votes of one epoch above its final view; the first of each voter, kind and view counts.

    Attributes:
        mine: own votes, of this run and of earlier ones, by (view, kind).
        evidence: by voter, the first pair of votes that no honest validator casts both; one pair suffices.
    """

    def __init__(
        self,
        epoch: int,
        validators: int,
        me: int | None,
        quorum: int,
        sign: Sign,
        final_view: int,
        floor: Floor,
    ) -> None:
        self.mine: dict[tuple[int, VoteKind], Vote] = {}
        self.evidence: dict[int, tuple[Vote, Vote]] = {}
        self.quorum = quorum
        self._epoch, self._validators, self._me, self._sign = epoch, validators, me, sign
        self._final_view, self._floor = final_view, floor
        self._counted: dict[tuple[int, VoteKind], dict[int, Vote]] = {}

    def remember(self, votes: Iterable[Vote]) -> None:
        """Own votes of earlier runs bind this one."""
        for vote in votes:
            if (vote.epoch, vote.voter) == (self._epoch, self._me) and vote.view > self._final_view:
                self.mine[vote.view, vote.kind] = vote

    def may_vote(self, view: int) -> bool:
        """Whether own votes in a view have any use, and are known not to contradict forgotten ones."""
        floor = self._floor.view
        return self._me is not None and floor is not None and view > max(floor, self._final_view)

    def cast(self, view: int, kind: VoteKind, digest: bytes) -> Vote | None:
        """An own vote, unless a rule forbids it. Persist it before it leaves."""
        if not self.may_vote(view) or self._me is None:
            return None
        if (view, kind) in self.mine:  # rule 1: one vote of each kind in a view
            return None
        if kind in _EXCLUDES and (view, _EXCLUDES[kind]) in self.mine:  # rule 2: never both finalise and timeout
            return None
        vote = Vote(self._epoch, view, kind, digest, self._me, self._sign(self._epoch, view, kind, digest))
        self.mine[view, kind] = vote
        return vote

    def count(self, vote: Vote, view: int) -> Certificate | None:
        """The certificate, if this vote completes it. Votes too far from `view`, the own one, are not counted.

        A voter's second, different vote is evidence only: who saw the other one first shows the certificate.
        """
        if vote.epoch != self._epoch or not 0 <= vote.voter < self._validators:
            return None
        if not self._final_view < vote.view <= view + VIEWS_AHEAD_MAX:
            return None
        if (vote.kind == TIMEOUT) != (vote.digest == NO_DIGEST):
            return None
        counted = self._counted.setdefault((vote.view, vote.kind), {})
        first = counted.setdefault(vote.voter, vote)
        if first is not vote:
            if first.digest != vote.digest:
                self.evidence.setdefault(vote.voter, (first, vote))
            return None
        if vote.kind in _EXCLUDES:
            other = self._counted.get((vote.view, _EXCLUDES[vote.kind]), {}).get(vote.voter)
            if other is not None:
                self.evidence.setdefault(vote.voter, (other, vote))
        equal = sorted((each.voter, each.signature) for each in counted.values() if each.digest == vote.digest)
        if len(equal) != self.quorum:
            return None
        return Certificate(vote.epoch, vote.view, vote.kind, vote.digest, tuple(equal))

    def voters(self, view: int, kind: VoteKind) -> set[int]:
        return set(self._counted.get((view, kind), ()))

    def finalise(self, view: int) -> None:
        """Drop everything up to and including the new final view, but not the evidence."""
        self._final_view = view
        self.mine = {key: vote for key, vote in self.mine.items() if key[0] > view}
        self._counted = {key: counted for key, counted in self._counted.items() if key[0] > view}
