"""Counting votes: a quorum of equal ones is a certificate, two that exclude each other are evidence."""

from __future__ import annotations

from typing import Final

from chain.types import FINALISE, NOTARISE, TIMEOUT, Certificate, Vote, VoteKind

EXCLUDES: Final[dict[VoteKind, VoteKind]] = {FINALISE: TIMEOUT, TIMEOUT: FINALISE}  # never both in one view
KINDS: Final[tuple[VoteKind, ...]] = (NOTARISE, FINALISE, TIMEOUT)


class Tally:
    """The first vote of each voter, kind and view. One pair of evidence is kept for each voter: it suffices.

    The caller bounds the views; then memory is at most views x kinds x validators.
    """

    def __init__(self, quorum: int) -> None:
        self.quorum = quorum
        self.evidence: dict[int, tuple[Vote, Vote]] = {}
        self._cast: dict[tuple[int, VoteKind], dict[int, Vote]] = {}

    def count(self, vote: Vote) -> Certificate | None:
        """The certificate, if this vote completes it. A voter's second, different vote only counts as evidence."""
        cast = self._cast.setdefault((vote.view, vote.kind), {})
        first = cast.setdefault(vote.voter, vote)
        if first is not vote:
            if first.digest != vote.digest:
                self.evidence.setdefault(vote.voter, (first, vote))
            return None
        opposite = EXCLUDES.get(vote.kind)
        if opposite is not None and (other := self._cast.get((vote.view, opposite), {}).get(vote.voter)) is not None:
            self.evidence.setdefault(vote.voter, (other, vote))
        equal = sorted((each.voter, each.signature) for each in cast.values() if each.digest == vote.digest)
        if len(equal) != self.quorum:
            return None
        return Certificate(vote.epoch, vote.view, vote.kind, vote.digest, tuple(equal))

    def voters(self, view: int, kind: VoteKind) -> set[int]:
        return set(self._cast.get((view, kind), ()))

    def forget(self, view: int) -> None:
        """Drop everything up to and including a view, but not the evidence."""
        self._cast = {key: cast for key, cast in self._cast.items() if key[0] > view}
