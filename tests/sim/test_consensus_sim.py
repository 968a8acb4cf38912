from __future__ import annotations

from dataclasses import replace

import pytest

from tests.sim.consensus_sim import VARIANTS, Outcome, Simulation, first_caught, verdict
from tests.sim.consensus_world import DELTA_S, Scenario

CALM = Scenario(byzantine=0, crashes=False, lossy=False, transactions=0, calm_from_s=0.0, work_s=0.0)


def failures(scenario: Scenario, seeds: range) -> dict[int, str]:
    found = {seed: verdict(seed, scenario) for seed in seeds}
    return {seed: each for seed, each in found.items() if isinstance(each, str)}


def test_four_validators_with_one_liar_crashes_loss_and_partitions_stay_safe_and_finish() -> None:
    assert failures(VARIANTS["correct"], range(200)) == {}


def test_seven_validators_with_two_liars_do_too() -> None:
    assert failures(VARIANTS["seven"], range(30)) == {}


@pytest.mark.parametrize("validators", [1, 2, 3])
def test_one_two_and_three_validators_work_without_a_fault(validators: int) -> None:
    scenario = Scenario(validators=validators, byzantine=0, lossy=validators > 1)
    assert failures(scenario, range(25)) == {}


def test_a_validator_whose_disk_is_wiped_votes_again_without_contradicting_itself() -> None:
    assert failures(VARIANTS["wiped"], range(50)) == {}


def test_a_raised_quorum_works_while_nobody_is_faulty() -> None:
    assert failures(Scenario(byzantine=0, quorum=4), range(25)) == {}


@pytest.mark.parametrize(("validators", "victim"), [(1, 0), (4, 1), (4, 2)], ids=["alone", "proposer", "replica"])
def test_a_crash_right_before_any_one_effect_is_survived(validators: int, victim: int) -> None:
    effect, crashed = 0, True
    while crashed:
        effect += 1
        simulation = Simulation(effect, replace(CALM, validators=validators, fixed_delay_s=0.02))
        simulation.validators[victim].crash_before = effect
        simulation.submit_at(0.1, 0, list(range(validators)))
        simulation.run(until_s=0.5)  # nothing but heartbeats is left by now, if nobody crashed
        crashed = simulation.validators[victim].crashes > 0
        outcome = simulation.run(until_s=20.0) if crashed else None
        assert outcome is None or {v.final_transactions for v in simulation.validators} == {frozenset({0})}
    assert effect > 6


@pytest.mark.parametrize(
    ("variant", "seeds"),
    [("quorum", 60), ("votes", 30), ("bodies", 100), ("certificates", 200), ("amnesia", 60)],
    ids=lambda value: str(value),
)
def test_the_simulator_can_tell_a_broken_validator(variant: str, seeds: int) -> None:
    assert first_caught(VARIANTS[variant], range(seeds)) is not None


def test_two_final_blocks_are_seen_even_without_watching_the_vote_rules() -> None:
    assert first_caught(replace(VARIANTS["quorum"], checks_vote_rules=False), range(60)) is not None


def test_a_seed_replays_exactly() -> None:
    first, second = verdict(11, VARIANTS["correct"]), verdict(11, VARIANTS["correct"])
    assert isinstance(first, Outcome)
    assert first == second


@pytest.mark.parametrize("validators", [2, 4, 7])
def test_in_a_calm_network_a_transaction_is_final_after_three_delays(validators: int) -> None:
    delay = 0.02
    simulation = Simulation(1, replace(CALM, validators=validators, fixed_delay_s=delay))
    for transaction, at in enumerate((1.0, 2.0, 3.5)):
        simulation.submit_at(at, transaction, list(range(validators)))
    outcome = simulation.run(until_s=5.0)
    latencies = [simulation.final_at[i] - at for i, at in enumerate((1.0, 2.0, 3.5))]
    assert latencies == pytest.approx([3 * delay] * 3)
    assert outcome.height == 3


def test_an_idle_network_makes_no_blocks_and_only_tells_its_status() -> None:
    simulation = Simulation(1, replace(CALM, fixed_delay_s=0.02))
    simulation.submit_at(1.0, 0, [0, 1, 2, 3])
    simulation.run(until_s=2.0)
    before = dict(simulation.network.sent)
    outcome = simulation.run(until_s=62.0)
    assert outcome.height == 1
    after = {name: n - before.get(name, 0) for name, n in simulation.network.sent.items() if n != before.get(name)}
    heartbeats = 60 / (10 * DELTA_S)
    assert set(after) == {"Status"}
    assert after["Status"] == pytest.approx(4 * 3 * heartbeats, rel=0.02)


def test_a_network_slower_than_the_view_timer_is_adapted_to() -> None:
    simulation = Simulation(1, replace(CALM, fixed_delay_s=7 * DELTA_S))
    simulation.submit_at(1.0, 0, [0, 1, 2, 3])
    simulation.run(until_s=40.0)
    assert 0 in simulation.final_at


def test_one_dead_validator_costs_a_timeout_but_not_progress() -> None:
    simulation = Simulation(1, replace(CALM, fixed_delay_s=0.02))
    dead = simulation.validators[2]
    for transaction in range(8):
        simulation.submit_at(1.0 + transaction, transaction, [0, 1, 3])
    simulation.run(until_s=0.01)
    dead.up = False
    simulation.run(until_s=12.0)
    finals = [validator.final_transactions for validator in simulation.validators if validator is not dead]
    assert finals == [frozenset(range(8))] * 3
