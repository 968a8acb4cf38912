"""Slots are drawn, so many identities, and quick ones, hold no more of them than their share: played over the real
contract, beside one that takes whoever came first. And who can bias the draw, by how much, at what cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from fractions import Fraction
from itertools import permutations
from math import comb, sqrt

import pytest
from eth_hash.auto import keccak

from chain.contracts import bindings as b
from chain.economics import Crowd
from tests.adversaries.variants import FIRST_COME, JOIN_ANY_TIME
from tests.contracts.changed import place_changed
from tests.contracts.evm_harness import Reverted
from tests.contracts.world import BAD, DAY, GOOD, NOW, OWNER, REWARD, STAKE, STRANGER, WORKERS, World, reveal_call

ROUNDS = 60
IDENTITIES, ENROLLED = 3, 9
CROWD = Crowd(pool=3, evil=Fraction(IDENTITIES, ENROLLED), collude=True, workers=ENROLLED)
CHANCE = float(sum(CROWD.dishonest_slots()[CROWD.majority :]))  # of a majority by luck: 0.23
CHOSEN, SPARE = 30, 10
Z = 2.58  # standard errors of a 99 % confidence interval


def rounds_won(world: World) -> int:
    """How many rounds the identities of one machine win, which enrol first and agree on a wrong update."""
    job = world.post(rounds_max=ROUNDS, deadline=NOW + 300 * DAY)
    world.enrol(job, ENROLLED, deposit=(2 * ROUNDS + 2) * STAKE)
    machine, won = set(WORKERS[:IDENTITIES]), 0
    for number in range(1, ROUNDS + 1):
        world.commit(job, number)
        world.reveal(job, {worker: BAD if worker in machine else GOOD for worker in world.slots}, number)
        won += world.round(job, number).winner == BAD
        world.do(OWNER, b.finalise(job, number, 1, False))
    for worker in WORKERS[:ENROLLED]:
        world.do(STRANGER, b.settle(job, worker))
    return won


def test_many_identities_that_come_first_win_no_more_rounds_than_their_share_of_the_draws() -> None:
    error = sqrt(CHANCE * (1 - CHANCE) / ROUNDS)
    assert abs(rounds_won(World()) / ROUNDS - CHANCE) < Z * error


def test_where_whoever_came_first_holds_the_slots_they_win_them_all() -> None:
    world = World()
    place_changed(world.evm, *FIRST_COME.contract)
    assert rounds_won(world) == ROUNDS


# ---- the randomness of the draw ----


def next_slots(world: World, job: int, joining: Sequence[bytes]) -> list[bytes]:
    """Who will be drawn next, as anybody can compute once the round is decided; `joining` enrol before."""
    count, entropy = world.evm.query(b.enrolled_count_view(job)), world.job(job).entropy
    pool = [world.evm.query(b.enrolled_at_view(job, place)) for place in range(count)] + list(joining)
    for step in range(3):
        drawn = int.from_bytes(keccak(entropy + job.to_bytes(32, "big") + step.to_bytes(32, "big")), "big")
        place = step + drawn % (len(pool) - step)
        pool[step], pool[place] = pool[place], pool[step]
    return pool[:3]


def seats_chosen(world: World) -> tuple[int, int]:
    """Rounds in which one machine has the majority of the slots, and those for which it could have it.

    Of nine workers three are the machine's. When the next draw is known it has so many more identities join as give it
    the majority; when the slots are drawn they leave again.
    """
    job = world.post(rounds_max=CHOSEN, deadline=NOW + 300 * DAY)
    world.enrol(job, ENROLLED, deposit=100 * STAKE)
    machine, spare = set(WORKERS[:IDENTITIES]), WORKERS[ENROLLED : ENROLLED + SPARE]
    had = could = 0
    for number in range(1, CHOSEN):
        world.commit(job, number)
        world.reveal(job, dict.fromkeys(world.slots, GOOD), number)
        joining: list[bytes] = []
        for size in range(SPARE + 1):
            if len({*machine, *spare}.intersection(next_slots(world, job, spare[:size]))) > 1:
                joining, could = list(spare[:size]), could + 1
                break
        for worker in joining:
            with suppress(Reverted):
                world.do(worker, b.enrol(job, 3 * STAKE))
        world.do(OWNER, b.finalise(job, number, 1, False))
        had += len({*machine, *spare}.intersection(world.slots)) > 1
        for worker in spare:
            with suppress(Reverted):
                world.do(worker, b.leave(job))
    return had, could


def test_nobody_joins_to_be_drawn_when_the_next_draw_is_known() -> None:
    had, could = seats_chosen(World())
    assert could > 0.9 * CHOSEN
    assert had / CHOSEN < CHANCE + Z * sqrt(CHANCE * (1 - CHANCE) / CHOSEN)


def test_where_joining_is_possible_at_any_time_a_few_more_identities_choose_the_slots() -> None:
    world = World()
    place_changed(world.evm, *JOIN_ANY_TIME.contract)
    had, could = seats_chosen(world)
    assert had == could > 0.9 * CHOSEN


def draws(slots: int) -> set[bytes]:
    """All that the next draw may hang on, over the orders in which a round's reveals can come."""
    found = set()
    for order in permutations(range(slots), slots // 2 + 1):
        world = World()
        job = world.post(slots=slots, workers_min=slots, rounds_max=1)
        world.enrol(job, slots)
        world.commit(job)
        for place in order:
            world.do(WORKERS[place], reveal_call(WORKERS[place], job, 1, 1, GOOD))
        found.add(world.job(job).entropy)
    return found


@pytest.mark.parametrize("slots", [1, 3, 5])
def test_who_orders_the_reveals_chooses_among_as_many_draws_as_there_are_majorities(slots: int) -> None:
    assert len(draws(slots)) == comb(slots, slots // 2 + 1)


def test_a_reveal_that_is_held_back_until_the_round_is_decided_changes_the_draw_and_is_paid() -> None:
    entropies = []
    for order in ((0, 1, 2), (1, 2, 0)):  # the first worker reveals at once, or looks at the others first
        world = World()
        job = world.post(rounds_max=1)
        world.enrol(job, 3)
        world.commit(job)
        world.reveal(job, {WORKERS[place]: GOOD for place in order})
        entropies.append(world.job(job).entropy)
        world.do(OWNER, b.finalise(job, 1, 1, False))
        world.do(STRANGER, b.settle(job, WORKERS[0]))
        assert world.owed(WORKERS[0]) == REWARD + 4 * STAKE  # and its deposit: the job is over
    assert entropies[0] != entropies[1]
