"""A small world for the consensus machine: its blocks, its network, and the referee that watches honest validators.

A transaction is one byte. A block's payload is an 8-byte root and the transactions; the digest commits to the root, so
a body can be forged below its header just as in the real chain.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count

from chain import consensus, messages
from chain.types import FINALISE, NOTARISE, TIMEOUT, Attestation, Block, Certificate, Vote, VoteKind

EPOCH = 0
DELTA_S = 0.1
GENESIS = Block(b"G" * 32, EPOCH, 0, bytes(32), 0, b"")
ATTESTED = (Attestation(b"c" * 32, True, 0, b"s" * 65),)  # stands for a quorum of attestations beside a block


class Violation(Exception):
    """An invariant was broken; the seed replays it."""


def _hash(*parts: object) -> bytes:
    return hashlib.sha256(repr(parts).encode()).digest()


def make_block(view: int, parent: Block, transactions: bytes, salt: str = "") -> Block:
    payload = _hash(transactions, salt)[:8] + transactions
    digest = _hash(view, parent.digest, parent.height + 1, payload[:8])
    return Block(digest, EPOCH, view, parent.digest, parent.height + 1, payload, ATTESTED)


def transactions_of(block: Block) -> frozenset[int]:
    return frozenset(block.payload[8:])


def header_is_true(block: Block) -> bool:
    """What a shell verifies on receipt: the fields are those that the digest commits to."""
    return block.digest == _hash(block.view, block.parent, block.height, block.payload[:8])


def body_is_true(block: Block) -> bool:
    """What only execution finds out (the salt is how honest and equivocating proposers differ)."""
    return any(block.payload[:8] == _hash(block.payload[8:], salt)[:8] for salt in ("", "a", "b"))


@dataclass
class Scenario:
    """What may go wrong before `calm_from_s`; afterwards nothing does but what the Byzantine validators can do."""

    validators: int = 4
    byzantine: int = 1
    crashes: bool = True
    lossy: bool = True
    transactions: int = 6
    calm_from_s: float = 12.0
    end_s: float = 60.0
    fixed_delay_s: float | None = None
    work_s: float = 0.005  # to build or to execute a block
    quorum: int | None = None  # raised
    wipes: bool = False  # a crash may take the whole disk along, once in a run
    # deliberately wrong validators, to see that the simulator can tell
    broken_quorum: int | None = None
    forgets_votes: bool = False
    forgets_bodies: bool = False
    forgets_certificates: bool = False
    votes_without_log: bool = False  # at once after its disk was wiped
    checks_vote_rules: bool = True


class Clock:
    """Simulated time: calls happen in order of their time, equal times in order of asking."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()

    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (max(time, self.now), next(self._order), call))

    def advance(self, end: float) -> bool:
        if not self._calls or self._calls[0][0] > end:
            return False
        self.now, _, call = heapq.heappop(self._calls)
        call()
        return True


@dataclass
class Referee:
    """Knows every vote that was really cast, and what honest validators made final."""

    byzantine: frozenset[int]
    checks_vote_rules: bool
    cast: set[tuple[int, int, VoteKind, bytes]] = field(default_factory=set)
    first: dict[tuple[int, int, VoteKind], bytes] = field(default_factory=dict)
    final: dict[int, bytes] = field(default_factory=dict)
    wiped: bool = False

    def may_wipe(self) -> bool:
        """Once, and not before the network's first block: there is nothing yet to tell a wiped disk from a new one."""
        if self.wiped or not self.final:
            return False
        self.wiped = True
        return True

    def voted(self, vote: Vote) -> None:
        self.cast.add((vote.voter, vote.view, vote.kind, vote.digest))
        if vote.voter in self.byzantine:
            return
        first = self.first.setdefault((vote.voter, vote.view, vote.kind), vote.digest)
        if not self.checks_vote_rules:
            return
        if first != vote.digest:
            raise Violation(f"validator {vote.voter} cast two {vote.kind} votes in one view")
        if vote.kind != NOTARISE:
            other = FINALISE if vote.kind == TIMEOUT else TIMEOUT
            if (vote.voter, vote.view, other) in self.first:
                raise Violation(f"validator {vote.voter} both finalised and timed out one view")

    def finalised(self, block: Block) -> None:
        if self.final.setdefault(block.height, block.digest) != block.digest:
            raise Violation("two final blocks at one height")

    def verify(self, message: consensus.Message, quorum: int) -> None:
        """Stands for signature checks: nobody, not even a Byzantine validator, can forge a vote of somebody else."""
        for vote in messages.votes_of(message):
            if (vote.voter, vote.view, vote.kind, vote.digest) not in self.cast:
                raise Violation("forged vote")
        for each in messages.certificates_of(message):
            self._verify_certificate(each, quorum)

    def _verify_certificate(self, each: Certificate, quorum: int) -> None:
        voters = {voter for voter, _ in each.signatures}
        if len(voters) < quorum or len(voters) != len(each.signatures):
            raise Violation("certificate without a quorum of different voters")
        if any((voter, each.view, each.kind, each.digest) not in self.cast for voter in voters):
            raise Violation("forged certificate")

    def accused(self, evidence: tuple[tuple[Vote, Vote], ...]) -> None:
        if any(first.voter not in self.byzantine for first, _ in evidence) and self.checks_vote_rules:
            raise Violation("evidence against an honest validator")


@dataclass(frozen=True)
class Partition:
    start_s: float
    end_s: float
    side: frozenset[int]

    def cuts(self, a: int, b: int, now: float) -> bool:
        return self.start_s <= now < self.end_s and (a in self.side) != (b in self.side)


class Network:
    """Delays, loses, repeats and reorders until the calm; then everything arrives within 0.6 delays."""

    def __init__(self, clock: Clock, scenario: Scenario, rng: random.Random) -> None:
        self._clock, self._scenario, self._rng = clock, scenario, rng
        self.loss = rng.choice((0.0, 0.05, 0.25)) if scenario.lossy else 0.0
        self.mean_delay_s = rng.choice((0.005, 0.05, 0.3))
        self.partitions: list[Partition] = []
        for _ in range(rng.randrange(4) if scenario.lossy else 0):
            start = rng.uniform(0, scenario.calm_from_s)
            side = frozenset(rng.sample(range(scenario.validators), rng.randrange(1, scenario.validators)))
            self.partitions.append(Partition(start, start + rng.uniform(0.2, 3), side))
        self.sent: dict[str, int] = {}
        self.deliver: Callable[[int, int, object], None] = lambda _a, _b, _m: None

    def send(self, sender: int, receiver: int, message: object) -> None:
        now, rng = self._clock.now, self._rng
        self.sent[type(message).__name__] = self.sent.get(type(message).__name__, 0) + 1
        calm = now >= self._scenario.calm_from_s
        if not calm and (
            rng.random() < self.loss or any(p.cuts(sender, receiver, now) for p in self.partitions)
        ):
            return
        if self._scenario.fixed_delay_s is not None:
            delay = self._scenario.fixed_delay_s
        else:
            delay = rng.uniform(0.001, 0.6 * DELTA_S) if calm else rng.expovariate(1 / self.mean_delay_s)
        self._clock.at(now + delay, lambda: self.deliver(sender, receiver, message))
        if not calm and rng.random() < 0.03 and self._scenario.fixed_delay_s is None:
            self._clock.at(now + 2 * delay, lambda: self.deliver(sender, receiver, message))
