"""Whole networks of the consensus machine in one process, from one seed.

    python -m tests.sim.consensus_sim --seeds 200            a campaign over seeds 0..199
    python -m tests.sim.consensus_sim --seed 17              replay one of them
    python -m tests.sim.consensus_sim --seeds 100 --variant quorum    how many seeds catch a broken validator

Before the calm: delays, loss, repetition, partitions, crashes before any effect, a blackout of all validators at once,
and f Byzantine validators. After it only the last. Checked: no two final blocks at one height, no gap, the two vote
rules for each honest validator over all its lives, no evidence against an honest one, and everything submitted final
everywhere with nothing left to do.
"""

from __future__ import annotations

import argparse
import random
import time
from dataclasses import dataclass, replace

from chain import consensus
from tests.sim.consensus_cast import Byzantine, Transaction, Validator
from tests.sim.consensus_world import DELTA_S, Clock, Network, Referee, Scenario, Violation

VARIANTS = {
    "correct": Scenario(),
    "seven": Scenario(validators=7, byzantine=2),
    "quorum": Scenario(broken_quorum=2),
    "votes": Scenario(forgets_votes=True),
    "bodies": Scenario(forgets_bodies=True),
    "certificates": Scenario(forgets_certificates=True),
    "wiped": Scenario(wipes=True, byzantine=0),
    "amnesia": Scenario(wipes=True, votes_without_log=True),
}


@dataclass(frozen=True)
class Outcome:
    height: int
    views: int
    crashes: int
    messages: int
    evidence: int
    calm_to_done_s: float


class Simulation:
    """One network of one seed."""

    def __init__(self, seed: int, scenario: Scenario) -> None:
        self.scenario, self.clock, self.rng = scenario, Clock(), random.Random(seed)
        rng, n = self.rng, scenario.validators
        self.network = Network(self.clock, scenario, rng)
        byzantine = frozenset(rng.sample(range(n), scenario.byzantine))
        self.referee = Referee(byzantine, scenario.checks_vote_rules)
        self.validators = [
            (Byzantine if i in byzantine else Validator)(i, scenario, self.clock, self.network, self.referee, rng)
            for i in range(n)
        ]
        self.network.deliver = lambda sender, receiver, message: self.validators[receiver].receive(sender, message)
        self.submitted: set[int] = set()
        self.final_at: dict[int, float] = {}  # transaction -> when the last honest validator had it final
        crash_chance = rng.choice((0.0, 0.003, 0.015)) if scenario.crashes else 0.0
        for validator in self.validators:
            validator.crash_chance = crash_chance if validator.honest else 0.0
            validator.on_boot = self._connect
            self.clock.at(0.0 if scenario.fixed_delay_s is not None else rng.uniform(0, 0.2), validator.boot)
        for _ in range(rng.choice((0, 1, 2)) if scenario.crashes else 0):
            self.clock.at(rng.uniform(1, scenario.calm_from_s), self._black_out)
        for partition in self.network.partitions:
            self.clock.at(partition.end_s, self._connect_all)
        for transaction in range(scenario.transactions):
            holders = rng.sample(range(n), rng.randrange(1, n + 1))
            self.submit_at(rng.uniform(0.3, scenario.calm_from_s * 0.9), transaction, holders)

    @property
    def honest(self) -> list[Validator]:
        return [validator for validator in self.validators if validator.honest]

    def submit_at(self, at: float, transaction: int, holders: list[int]) -> None:
        def submit() -> None:
            self.submitted.add(transaction)
            for holder in holders:
                self.validators[holder].disk.pool.add(transaction)
                self.validators[holder].receive(holder, Transaction(transaction))
            self._forward(transaction)

        self.clock.at(at, submit)

    def _forward(self, transaction: int) -> None:
        for holder in self.validators:
            if holder.up and transaction in holder.disk.pool - holder.final_transactions:
                for other in range(self.scenario.validators):
                    if other != holder.index:
                        self.network.send(holder.index, other, Transaction(transaction))
        if any(transaction not in validator.final_transactions for validator in self.honest):
            self.clock.at(self.clock.now + 3 * DELTA_S, lambda: self._forward(transaction))

    def _connect(self, validator: Validator) -> None:
        for other in self.validators:
            if other is not validator and other.up and validator.up:
                validator.later(self.clock.now + 0.01, consensus.Connected(other.index))
                other.later(self.clock.now + 0.01, consensus.Connected(validator.index))

    def _connect_all(self) -> None:
        for validator in self.validators:
            self._connect(validator)

    def _black_out(self) -> None:
        for validator in self.honest:
            validator.crash_now()

    def _done(self) -> bool:
        return bool(self.submitted) and all(
            each.up
            and self.submitted <= each.final_transactions
            and each.machine.tip.digest == each.machine.final.digest
            for each in self.honest
        )

    def _note_finality(self) -> None:
        everywhere = frozenset.intersection(*(each.final_transactions for each in self.honest))
        for transaction in everywhere - self.final_at.keys():
            self.final_at[transaction] = self.clock.now

    def run(self, until_s: float | None = None) -> Outcome:
        """Up to `until_s`; by default until everything is final and settled, which must happen before the end.

        Raises:
            Violation, ForkedFinality: an invariant is broken. AssertionError: the machine's own.
        """
        calm = self.scenario.calm_from_s
        while self.clock.advance(self.scenario.end_s if until_s is None else until_s):
            self._note_finality()
            if until_s is None and self.clock.now > calm and self._done():
                break
        else:
            if until_s is None:
                raise Violation("not everything became final")
        started = [validator.machine for validator in self.validators if validator.chain]
        return Outcome(
            max(len(validator.chain) for validator in self.validators) - 1,
            max(machine.view for machine in started),
            sum(validator.crashes for validator in self.validators),
            sum(self.network.sent.values()),
            len({first.voter for machine in started for first, _ in machine.evidence}),
            self.clock.now - calm,
        )


def verdict(seed: int, scenario: Scenario) -> Outcome | str:
    """The outcome of one seed, or what went wrong."""
    try:
        return Simulation(seed, scenario).run()
    except (Violation, consensus.ForkedFinality, AssertionError) as error:
        return f"{type(error).__name__}: {error}"


def first_caught(scenario: Scenario, seeds: range) -> int | None:
    """The first seed that exposes a broken validator."""
    return next((seed for seed in seeds if isinstance(verdict(seed, scenario), str)), None)


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate consensus networks from seeds.")
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds, from 0")
    parser.add_argument("--seed", type=int, help="replay this one only")
    parser.add_argument("--first", type=int, default=0, help="first seed of the campaign")
    parser.add_argument("--variant", choices=VARIANTS, default="correct")
    parser.add_argument("--validators", type=int, help="how many, a third of them Byzantine")
    options = parser.parse_args()
    scenario = VARIANTS[options.variant]
    if options.validators:
        scenario = replace(scenario, validators=options.validators, byzantine=(options.validators - 1) // 3)
    if options.seed is not None:
        found = verdict(options.seed, scenario)
        print(f"seed {options.seed}: {found}")
        return int(isinstance(found, str))
    started = time.process_time()
    verdicts = {seed: verdict(seed, scenario) for seed in range(options.first, options.first + options.seeds)}
    good = [found for found in verdicts.values() if isinstance(found, Outcome)]
    for seed, found in verdicts.items():
        if isinstance(found, str):
            print(f"seed {seed}: {found}")
    print(
        f"{options.variant}: {len(verdicts)} seeds, {len(verdicts) - len(good)} failed;"
        f" {sum(o.height for o in good)} blocks, {sum(o.views for o in good)} views,"
        f" {sum(o.crashes for o in good)} crashes, {sum(o.messages for o in good)} messages,"
        f" {sum(o.evidence for o in good)} liars with evidence;"
        f" done {max((o.calm_to_done_s for o in good), default=0.0):.2f} s after the calm at most;"
        f" {time.process_time() - started:.1f} s of CPU"
    )
    return int(len(good) < len(verdicts))


if __name__ == "__main__":
    raise SystemExit(main())
