"""Whole networks of real ledgers, chains, disks and roles, from seeds; and that the simulator can tell a broken one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.sim.run import JOB_SHARE, Outcome, Simulation, verdict
from tests.sim.scenario import CALM

SEEDS = range(120)


def test_whole_networks_stay_safe_and_settle_whatever_goes_wrong() -> None:
    """One in twenty with the real contracts and roles; there, everybody is paid what is due, to the wei."""
    failures = {seed: found for seed in SEEDS if isinstance(found := verdict(seed), str)}
    assert failures == {}


@pytest.mark.parametrize("victim", ["validator-0", "validator-1"], ids=["replica", "proposer"])
@pytest.mark.parametrize("validators", [1, 4])
def test_a_crash_before_or_after_any_one_write_is_survived(validators: int, victim: str) -> None:
    scenario = replace(CALM, validators=validators, transactions=1, followers=1)
    name = "follower-0" if validators == 1 and victim == "validator-1" else victim
    write, crashed = 0, True
    while crashed:
        write += 1

        def light(simulation: Simulation, write: int = write) -> None:
            simulation.world.fuses[name] = write

        outcome = verdict(3, scenario, light)
        assert isinstance(outcome, Outcome), outcome
        crashed = outcome.crashes > 0
    assert write > 4


def test_a_seed_replays_byte_for_byte_in_any_process() -> None:
    """Also where strings and bytes hash otherwise."""
    for seed in (4, JOB_SHARE - 1):
        first = verdict(seed)
        assert isinstance(first, Outcome)
        command = [sys.executable, "-m", "tests.sim.run", "--seed", str(seed)]
        environment = os.environ | {"PYTHONHASHSEED": "1"}
        root = Path(__file__).parent.parent.parent
        told = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, env=environment).stdout
        assert f"digest='{first.digest}'" in told


def test_a_trace_tells_what_happened() -> None:
    lines: list[str] = []
    assert isinstance(verdict(0, replace(CALM, validators=4, transactions=1), tell=lines.append), Outcome)
    assert any("Proposal" in line for line in lines)
    assert any("has final 1" in line for line in lines)
