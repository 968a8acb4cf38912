"""Runs whole simulated networks from seeds, and judges them.

    python -m tests.sim.run --seed 17               replay one; --verbose tells every event
    python -m tests.sim.run --seeds 1000 --jobs 2   a campaign

Before the calm anything in tests/sim/scenario.py may go wrong; after it only what Byzantine validators can do. Checked
throughout: what tests/sim/checks.py says. In the end: everything that was submitted is final everywhere, all nodes are
at one head with nothing left to do, and all money adds up.
"""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import structlog

from tests.sim.checks import Violation
from tests.sim.jobs import Jobs
from tests.sim.plain import Plain
from tests.sim.scenario import Scenario, draw
from tests.sim.world import LATE, SimWorld, Trace

MEMORY = Path("/dev/shm")
LOOK_S = 0.25
LATE_S = 60.0  # for one that joins after everything
JOB_SHARE = 20  # one seed of so many runs the real contracts and roles


@dataclass(frozen=True)
class Outcome:
    digest: str  # of the trace
    height: int
    epochs: int
    crashes: int
    writes: int
    messages: int
    refusals: int
    calm_to_done_s: float


class Simulation:
    """One network of one seed."""

    def __init__(self, seed: int, scenario: Scenario, root: Path, trace: Trace | None = None) -> None:
        self.scenario = scenario
        self.world = SimWorld(root, seed, scenario, trace)
        self.actors: Plain | Jobs = Jobs(self.world) if scenario.jobs else Plain(self.world)

    def run(self) -> Outcome:
        """Until everything is settled.

        Raises:
            Violation: an invariant is broken, or nothing was settled in time.
        """
        world, scenario = self.world, self.scenario
        self.actors.begin()
        world.plan_faults()
        world.run(scenario.calm_from_s)
        self._settle(scenario.end_s)
        done = world.now
        if scenario.late_joiner:
            world.start(LATE)
            self._settle(world.now + LATE_S)
        self._judge()
        height, epoch = world.referee.height, world.referee.epoch
        return Outcome(
            world.trace.digest(), height, epoch, world.crashes, world.writes, world.streams.sent, world.refusals,
            done - scenario.calm_from_s,
        )  # fmt: skip

    def _settle(self, end_s: float) -> None:
        while not self._is_settled():
            if self.world.now > end_s:
                raise Violation(f"not settled: {self.actors.unsettled()}")
            self.world.run(LOOK_S)

    def _is_settled(self) -> bool:
        world = self.world
        if any(name not in world.members for name in world.honest):
            return False
        ledgers = [world.members[name].ledger for name in world.honest]
        if {ledger.chain.finalised.number for ledger in ledgers} != {world.referee.height}:
            return False
        machines = [ledger.validator.machine for ledger in ledgers if ledger.validator is not None]
        return all(each.tip.digest == each.final.digest for each in machines) and not self.actors.unsettled()

    def _judge(self) -> None:
        world = self.world
        heads = {world.members[name].ledger.chain.finalised for name in world.honest}
        if len(heads) != 1:
            raise Violation(f"{len(heads)} different heads in the end")
        self.actors.judge()


@contextmanager
def directory() -> Iterator[Path]:
    """Somewhere for the disks, in memory if possible: only the process is killed here, so nothing need be synced."""
    path = Path(tempfile.mkdtemp(prefix="flnode-sim-", dir=MEMORY if MEMORY.is_dir() else None))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    try:
        yield
    finally:
        structlog.configure(**before)


def scenario_of(seed: int) -> Scenario:
    return draw(seed, jobs=seed % JOB_SHARE == JOB_SHARE - 1)


def verdict(
    seed: int,
    scenario: Scenario | None = None,
    prepare: Callable[[Simulation], None] = lambda _: None,
    tell: Callable[[str], None] | None = None,
) -> Outcome | str:
    """The outcome of one seed, or what went wrong.

    Args:
        prepare: called with the simulation before it runs.
        tell: takes each line of the trace.
    """
    with directory() as root, quiet():
        simulation = Simulation(seed, scenario or scenario_of(seed), root, Trace(tell))
        prepare(simulation)
        try:
            return simulation.run()
        except Violation as error:
            return f"{error} (at {simulation.world.now:.3f} s)"
        finally:
            for member in simulation.world.members.values():
                member.store.close()


def first_caught(seeds: range, **arguments: object) -> tuple[int, str] | None:
    """The first seed that exposes a broken network, and how."""
    for seed in seeds:
        if isinstance(found := verdict(seed, **arguments), str):  # type: ignore[arg-type]
            return seed, found
    return None


def _timed(seed: int) -> tuple[int, Outcome | str, float]:
    began = time.process_time()
    try:
        found = verdict(seed)
    except Exception as error:  # a fault of the simulator is a failure of the seed, too
        found = f"{type(error).__name__}: {error}"
    return seed, found, time.process_time() - began


def campaign(seeds: range, jobs: int, say: Callable[[str], None]) -> int:
    """Run many; the number of failures."""
    failed, good, cpu_s = 0, [], 0.0
    with ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.get_context("spawn").Pool(jobs)) if jobs > 1 else None
        for seed, found, seconds in map(_timed, seeds) if pool is None else pool.imap_unordered(_timed, seeds):
            cpu_s += seconds
            if isinstance(found, str):
                failed += 1
                say(f"seed {seed}: {found}")
            else:
                good.append(found)
    say(
        f"{len(seeds)} seeds from {seeds.start}, {failed} failed; {sum(o.height for o in good)} blocks,"
        f" {sum(o.epochs for o in good)} epochs ended, {sum(o.crashes for o in good)} crashes,"
        f" {sum(o.messages for o in good)} messages, {sum(o.refusals for o in good)} of them refused;"
        f" settled {max((o.calm_to_done_s for o in good), default=0.0):.2f} s after the calm at most;"
        f" {cpu_s:.1f} s of CPU"
    )
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description="Simulate whole networks from seeds.")
    parser.add_argument("--seeds", type=int, default=50, help="how many seeds")
    parser.add_argument("--first", type=int, default=0, help="first seed of the campaign")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, help="replay this one only")
    parser.add_argument("--verbose", action="store_true", help="tell every event of the replay")
    options = parser.parse_args()
    if options.seed is None:
        seeds = range(options.first, options.first + options.seeds)
        return int(campaign(seeds, options.jobs, partial(print, flush=True)) > 0)
    print(f"seed {options.seed}: {scenario_of(options.seed)}")
    found = verdict(options.seed, tell=print if options.verbose else None)
    print(f"seed {options.seed}: {found}")
    return int(isinstance(found, str))


if __name__ == "__main__":
    sys.exit(main())
