"""Rounds of the real contract among workers of whom some cheat: what became of every slot, counted.

Who is drawn is the contract's own choice among those enrolled; where slots are dishonest independently of each other,
a seeded coin for each slot of each round says so. What is counted comes from the contract's logs alone.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from random import Random

from eth_hash.auto import keccak

from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.economics import NO_AUDIT, Audit, Crowd, Kind
from tests.contracts.evm_harness import Done
from tests.contracts.world import BAD, DAY, GOOD, NOW, OWNER, STAKE, STRANGER, WORKERS, World

PROBE = WORKERS[0]  # plays the kind that is asked about
DEPOSIT = 10_000 * STAKE

Place = tuple[int, int]  # round, attempt


@dataclass
class Share:
    """Of all slots of one kind, how many ended in one way: pairs (such slots, slots) of each round."""

    rounds: list[tuple[float, int]] = field(default_factory=list)

    @property
    def slots(self) -> int:
        return sum(slots for _, slots in self.rounds)

    @property
    def mean(self) -> float:
        return sum(hits for hits, _ in self.rounds) / self.slots

    def error(self, about: float) -> float:
        """Standard error of the mean, were `about` the true one. Slots of one round share its luck, so rounds are what
        is counted (the ratio estimator of cluster sampling; Cochran, Sampling Techniques, 1977, eq. 6.13).
        """
        return math.sqrt(sum((hits - about * slots) ** 2 for hits, slots in self.rounds)) / self.slots

    def deviation(self, value: Fraction) -> float:
        """How far the mean is from a value that is claimed for it, in standard errors."""
        difference = abs(self.mean - float(value))
        return 0.0 if difference < 1e-9 else difference / self.error(float(value))

    def holds(self, value: Fraction, z: float) -> bool:
        """Whether a value lies within the confidence interval of z standard errors (a score interval)."""
        return self.deviation(value) <= z


@dataclass
class Played:
    """What happened in all rounds, by kind of worker."""

    paid: dict[Kind, Share] = field(default_factory=lambda: defaultdict(Share))
    refunded: dict[Kind, Share] = field(default_factory=lambda: defaultdict(Share))
    forfeited: dict[Kind, Share] = field(default_factory=lambda: defaultdict(Share))
    money: dict[Kind, Share] = field(default_factory=lambda: defaultdict(Share))  # reward earned less stake forfeited
    void: Share = field(default_factory=Share)


class Witness(World):
    """A world in which the outcome of every slot and round is written down."""

    def __init__(self) -> None:
        super().__init__()
        self.settled: dict[tuple[Place, bytes], b.SeatSettled] = {}
        self.voided: set[Place] = set()

    def run(self, sender: bytes, call: Call) -> Done:
        done = super().run(sender, call)
        for event in done.events:
            if isinstance(event, b.SeatSettled):
                self.settled[(event.round, event.attempt), event.worker] = event
            elif isinstance(event, b.RoundVoided):
                self.voided.add((event.round, event.attempt))
        return done


class Table:
    """One job and its workers."""

    def __init__(self, crowd: Crowd, probe: Kind | None, seed: int, audit: Audit) -> None:
        self.crowd, self.probe, self.random = crowd, probe, Random(seed)
        self.world = Witness()
        self.workers = WORKERS[: crowd.workers or crowd.pool]
        self.kinds: dict[Place, dict[bytes, Kind]] = {}
        assert audit.void == (audit.decided > 0), "the contract audits every undecided round, or none"
        terms = {"slots": crowd.pool, "workers_min": crowd.pool, "rounds_max": 2**20, "attempts_max": 255}
        terms["audit_ppm"] = int(audit.decided * 10**6)
        self.job = self.world.post(**terms, deadline=NOW + 3_000 * DAY)
        self.world.enrol(self.job, self.workers, deposit=DEPOSIT)

    def roles(self, slots: tuple[bytes, ...]) -> dict[bytes, Kind]:
        crowd = self.crowd
        cheat = Kind.COLLUDER if crowd.collude else Kind.RANDOM
        if crowd.workers is None:
            coins = [self.random.random() < crowd.evil for _ in slots]
            kinds = {worker: cheat if coin else Kind.HONEST for worker, coin in zip(slots, coins, strict=True)}
        else:
            evil = set(self.workers[: crowd.evil_workers])
            kinds = {worker: cheat if worker in evil else Kind.HONEST for worker in slots}
        if self.probe is not None and PROBE in kinds:
            kinds[PROBE] = self.probe
        return kinds

    def play(self) -> None:
        """One attempt of one round, to the end of its books."""
        world, job = self.world, self.job
        now = world.job(job)
        place = (now.settled + 1, now.attempt)
        slots = world.slots
        kinds = self.kinds[place] = self.roles(slots)
        world.commit(job, *place)
        world.wait(1)  # the lot is drawn from the hash of this block
        updates = {worker: update for worker in self.shuffled(slots) if (update := self.update(worker, kinds[worker]))}
        world.reveal(job, updates, *place)
        shown = world.round(job, *place)
        if shown.phase == b.REVEAL and not shown.grace_until and world.job(job).terms.audit_ppm:
            world.expire_and_close(job, *place)
        if world.round(job, *place).phase == b.AUDIT:
            world.do(STRANGER, b.resolve(job, *place, GOOD))
        if world.round(job, *place).grace_until:
            world.do(OWNER, b.finalise(job, *place, False))
        if world.round(job, *place).phase not in (b.CLOSED, b.VOID):
            world.expire_and_close(job, *place)

    def update(self, worker: bytes, kind: Kind) -> bytes | None:
        """What a worker reveals. What a copier would like to, validators do not attest: it reveals nothing."""
        match kind:
            case Kind.HONEST:
                return GOOD
            case Kind.RANDOM:
                return keccak(b"random" + worker)
            case Kind.COLLUDER:
                return BAD
            case Kind.COPIER:
                return None

    def shuffled(self, slots: tuple[bytes, ...]) -> list[bytes]:
        return self.random.sample(slots, len(slots))

    def settle(self) -> None:
        """What was not settled on the way."""
        for worker in self.workers:
            self.world.do(STRANGER, b.settle(self.job, worker))

    def count(self) -> Played:
        played = Played()
        for place, kinds in self.kinds.items():
            played.void.rounds.append((place in self.world.voided, 1))
            for kind in set(kinds.values()):
                seats = [self.world.settled[place, worker] for worker, each in kinds.items() if each is kind]
                number = len(seats)
                paid = sum(seat.earned > 0 for seat in seats)
                forfeited = sum(seat.forfeited > 0 for seat in seats)
                played.paid[kind].rounds.append((paid, number))
                played.forfeited[kind].rounds.append((forfeited, number))
                played.refunded[kind].rounds.append((number - paid - forfeited, number))
                played.money[kind].rounds.append((sum(seat.earned - seat.forfeited for seat in seats), number))
        return played


def play(
    crowd: Crowd, rounds: int, seed: int, probe: Kind | None = None, audit: Audit = NO_AUDIT
) -> Played:
    """Play attempts of rounds over the contract.

    Args:
        probe: what PROBE does whenever it is drawn, None: what the crowd says of it.
    """
    table = Table(crowd, probe, seed, audit)
    for _ in range(rounds):
        table.play()
    table.settle()
    table.world.books()
    return table.count()
