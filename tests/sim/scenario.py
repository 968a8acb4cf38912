"""What one seed of the whole-network simulation is about: who takes part, what goes wrong, and until when."""

from __future__ import annotations

import random
from dataclasses import dataclass

from chain.certificate import quorum

RATIOS = (None, None, 0.67, 0.8, 1.0)
SIZES = (4, 4, 4, 4, 4, 1, 2, 3, 5, 7)


@dataclass(frozen=True)
class Scenario:
    """Before `calm_from_s` everything here may happen; afterwards the Byzantine ones go on, and nothing else does.

    Rates are per second, chances per opportunity, times virtual.
    """

    validators: int = 4
    ratio: float | None = None  # of the quorum; None: the least one
    byzantine: int = 0
    followers: int = 1
    jobs: bool = False  # the real contracts and roles, instead of small ones in bytecode
    transactions: int = 6
    epochs: int = 0  # changes of the validator set
    calm_from_s: float = 8.0
    end_s: float = 150.0
    latency_s: float = 0.01  # mean
    crash_chance: float = 0.0  # before, and after, each write to a disk
    blackouts: int = 0  # all nodes at once
    wipes: bool = False  # a crash may take a validator's disk along, once
    breaks_rate: float = 0.0  # of each connection
    partitions: int = 0
    gossip_loss: float = 0.0
    repeats: float = 0.0  # chance that a message arrives twice
    keeps_order: bool = True  # of messages of one connection
    skew_s: float = 0.0  # of wall clocks, each way
    wrong_clock: bool = False  # one clock is beyond the drift bound until the calm
    withheld_blobs: bool = False  # some validators cannot see some blobs until the calm
    lazy: int = 0  # workers that make their updates up
    copiers: int = 0
    newcomers: int = 0  # honest workers that have coins for fees only
    audit_ppm: int = 0  # of rounds
    alone: bool = False  # rounds have one slot
    late_joiner: bool = False  # after everything, a fresh node follows it all

    @property
    def quorum(self) -> int:
        return quorum(self.validators, self.ratio or 0.0)

    @property
    def faults_max(self) -> int:
        """Validators that may be faulty for good while the others stay safe and go on."""
        return min((self.validators - 1) // 3, self.validators - self.quorum)


CALM = Scenario(followers=0, calm_from_s=0.0)


def draw(seed: int, jobs: bool) -> Scenario:
    """The scenario of a seed."""
    rng = random.Random(f"scenario {seed} {jobs}")
    n = rng.choice((4, 4, 4, 1, 5) if jobs else SIZES)
    ratio = rng.choice(RATIOS)
    least = Scenario(validators=n, ratio=ratio)
    byzantine = rng.choice((0, least.faults_max, least.faults_max))
    spare = least.faults_max - byzantine
    wipes = n > 1 and byzantine == 0 and (spare > 0 or least.quorum == n) and rng.random() < 0.5
    cheaters = rng.choice(("", "", "lazy", "copier")) if jobs else ""
    audits = random.Random(f"audits {seed}")
    alone = jobs and audits.random() < 0.4
    return Scenario(
        audit_ppm=10**6 if alone else audits.choice((0, 500_000)) if jobs else 0,
        alone=alone,
        validators=n,
        ratio=ratio,
        byzantine=byzantine,
        followers=rng.choice((0, 1)) if jobs else rng.choice((0, 1, 1, 2)),
        jobs=jobs,
        transactions=0 if jobs else rng.randrange(3, 8),
        epochs=0 if jobs else rng.choice((0, 1, 2)),
        calm_from_s=rng.choice((5.0, 10.0)),
        end_s=400.0 if jobs else 60.0,  # audits that void a lie begin the round again, each attempt with its windows
        latency_s=rng.choice((0.005, 0.05, 0.2)),
        crash_chance=rng.choice((0.0, 0.003, 0.02)),
        blackouts=rng.choice((0, 0, 1, 2)),
        wipes=wipes,
        breaks_rate=rng.choice((0.0, 0.02, 0.2)),
        partitions=rng.randrange(3),
        gossip_loss=rng.choice((0.0, 0.3)),
        repeats=rng.choice((0.0, 0.05)),
        keeps_order=rng.random() < 0.8,
        skew_s=rng.choice((0.0, 6.0)),
        wrong_clock=rng.random() < 0.2,
        withheld_blobs=rng.random() < 0.4,
        lazy=int(cheaters == "lazy"),
        copiers=int(cheaters == "copier"),
        late_joiner=rng.random() < 0.2,
        newcomers=rng.choice((0, 1, 2)) if jobs else 0,
    )
