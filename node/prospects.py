"""What of the pool could stand in the next block on a tip, as far as is known; and which claims that takes.

An evaluation executes the pool's candidates in the workshop. It is good for one tip, and until the pool or the
attestations change; closed within a second, it becomes the block itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Final

from chain.chain import Chain, Evaluation
from chain.claims import Attestations
from chain.mempool import Mempool
from chain.types import Claim, Transaction

AGE_MAX_S: Final = 1.0  # of an evaluation that becomes a block, whose time it gives
CLAIMS_KNOWN_MAX: Final = 8192

Version = tuple[int, int]  # of the mempool; how many attestations had come in


@dataclass(frozen=True, slots=True)
class Prospect:
    """What was found out about a tip; `evaluation` until a block is made of it."""

    tip: bytes
    version: Version
    at: float  # wall clock, unix seconds
    ready: bool  # whether some transaction is executable there, with all its claims attested
    evaluation: Evaluation | None


@dataclass(frozen=True, slots=True)
class _Claiming:
    """A transaction that logs claims without a quorum when it is executed on `tip`; on another it may log none."""

    tip: bytes
    claims: frozenset[bytes]


class Prospects:
    """
    Args:
        coinbase: this validator's address.
        on_claim: called for each claim of an executable transaction that lacks its quorum.
        clock: wall clock, unix seconds.
    """

    def __init__(
        self,
        chain: Chain,
        mempool: Mempool,
        attested: Attestations,
        coinbase: bytes,
        on_claim: Callable[[bytes, Claim], None],
        clock: Callable[[], float],
    ) -> None:
        self._chain, self._mempool, self._attested = chain, mempool, attested
        self._coinbase, self._on_claim, self._clock = coinbase, on_claim, clock
        self._claiming: dict[bytes, _Claiming] = {}  # by transaction
        self._attestations_seen = 0
        self.latest: Prospect | None = None

    @property
    def version(self) -> Version:
        return self._mempool.version, self._attestations_seen

    def attested(self) -> None:
        """A verdict came in."""
        self._attestations_seen += 1

    def known(self, tip: bytes) -> Prospect | None:
        """What is known of this tip; it may have changed since."""
        return self.latest if self.latest is not None and self.latest.tip == tip else None

    def closable(self, tip: bytes) -> Evaluation | None:
        """An evaluation that can become a block on this tip now."""
        seen = self.known(tip)
        fresh = seen is not None and seen.version == self.version and self._clock() - seen.at <= AGE_MAX_S
        return seen.evaluation if seen is not None and fresh else None

    def candidates(self, tip: bytes) -> list[Transaction]:
        """The pool's candidates without those that are known to log a claim there that lacks its quorum."""
        return [transaction for transaction in self._mempool.candidates() if self._may_run(transaction.hash, tip)]

    def evaluating(self, tip: bytes, candidates: Iterable[Transaction]) -> Callable[[], Evaluation]:
        """The job of evaluating them. Raises UnknownParent."""
        return self._chain.evaluating(
            tip, candidates, int(self._clock()), self._coinbase, self._attested.with_quorum()
        )

    def nothing(self, tip: bytes) -> Prospect:
        """There is no candidate."""
        self.latest = Prospect(tip, self.version, self._clock(), False, None)
        return self.latest

    def take(self, evaluation: Evaluation, version: Version, at: float, closed: bool) -> Prospect:
        """An evaluation that began at this version and time is done; `closed`: a block was made of it."""
        tip = evaluation.parent
        self.latest = Prospect(tip, version, at, bool(evaluation.ready), None if closed else evaluation)
        if len(self._claiming) > CLAIMS_KNOWN_MAX:
            pooled = set(self._mempool.hashes())
            self._claiming = {tx: found for tx, found in self._claiming.items() if tx in pooled}
        for claim, transaction in evaluation.unattested:
            digest = self._chain.claim_digest(claim)
            known = self._claiming.get(transaction)
            others = known.claims if known is not None and known.tip == tip else frozenset()
            self._claiming[transaction] = _Claiming(tip, others | {digest})
            self._on_claim(digest, claim)
        return self.latest

    def found_none(self) -> None:
        """No block came of what seemed ready."""
        if self.latest is not None:
            self.latest = replace(self.latest, ready=False, evaluation=None)

    def claiming(self, claim: bytes) -> list[bytes]:
        """The pooled transactions that are known to log a claim."""
        return [tx for tx, found in self._claiming.items() if claim in found.claims]

    def finalised(self, transactions: Iterable[bytes]) -> None:
        for transaction in transactions:
            self._claiming.pop(transaction, None)

    def _may_run(self, transaction: bytes, tip: bytes) -> bool:
        known = self._claiming.get(transaction)
        return known is None or known.tip != tip or all(map(self._attested.quorum, known.claims))
