"""Sponsors of deposits: what a worker may do with one, when the sponsor is repaid, and what it can lose."""

from __future__ import annotations

from chain.contracts import REPLICATED, genesis_contracts
from chain.contracts import bindings as b
from tests.contracts.evm_harness import WEALTH
from tests.contracts.world import BAD, GOOD, OWNER, REWARD, STAKE, STRANGER, WORKERS, World, of_type

NEWCOMER, SECOND, THIRD = WORKERS[:3]
NOBODY = bytes(20)


def joined(world: World, amount: int = 2 * STAKE, **terms: object) -> int:
    """A job with two workers that paid for themselves, and one with a sponsor."""
    job = world.post(**terms)
    world.sponsor(job, NEWCOMER, amount)
    world.enrol(job, [SECOND, THIRD])
    assert of_type(world.do(NEWCOMER, b.enrol(job, 0)), b.Enrolled) == [b.Enrolled(job, NEWCOMER, amount)]
    return job


def play(world: World, job: int, round_: int, updates: dict[bytes, bytes]) -> None:
    world.commit(job, round_)
    world.reveal(job, updates, round_)
    world.do(OWNER, b.finalise(job, round_, 1, False))


def test_nobody_is_enrolled_by_another_and_the_debt_begins_when_the_worker_enrols() -> None:
    world = World()
    job = world.post()
    assert world.do(NEWCOMER, b.ask_sponsor(job)) == [b.SponsorWanted(job, NEWCOMER)]
    assert world.debt(job, NEWCOMER) == b.Sponsorship(True, NOBODY, 0, 0)
    offered = world.do(STRANGER, b.sponsor(job, NEWCOMER, 700))
    assert offered == [b.Sponsored(job, NEWCOMER, STRANGER, 700)]
    assert world.enrolment(job, NEWCOMER).position == 0
    assert world.debt(job, NEWCOMER) == b.Sponsorship(False, STRANGER, 700, 0)
    assert world.books().offered == 700
    world.do(NEWCOMER, b.enrol(job, 50))
    assert world.debt(job, NEWCOMER) == b.Sponsorship(False, STRANGER, 0, 700)
    assert world.enrolment(job, NEWCOMER).free == 750
    assert (world.books().offered, world.books().free) == (0, 750)


def test_the_first_rewards_repay_the_sponsor_and_the_deposit_is_the_workers_then() -> None:
    world = World()
    job = joined(world, amount=4 * STAKE)
    play(world, job, 1, dict.fromkeys(WORKERS[:3], GOOD))
    repaid = of_type(world.do(STRANGER, b.settle(job, NEWCOMER)), b.DebtRepaid)
    assert repaid == []  # drawing the next slots settled it already
    assert world.debt(job, NEWCOMER) == b.Sponsorship(False, OWNER, 0, 4 * STAKE - REWARD)
    assert (world.owed(NEWCOMER), world.owed(OWNER)) == (0, REWARD)
    play(world, job, 2, dict.fromkeys(WORKERS[:3], BAD))
    world.do(NEWCOMER, b.withdraw(job))
    assert world.debt(job, NEWCOMER).owed == 0
    before = world.evm.balance(OWNER)
    world.do(OWNER, b.withdraw(job))
    assert world.evm.balance(OWNER) == before + 4 * STAKE
    assert world.evm.balance(NEWCOMER) == WEALTH + 2 * REWARD  # and no deposit of its own was ever in it


def test_a_worker_that_leaves_leaves_the_deposit_to_its_sponsor_locked_stakes_too() -> None:
    world = World()
    job = joined(world, reward=0)
    world.do(NEWCOMER, b.leave(job))
    assert (world.owed(OWNER), world.owed(NEWCOMER)) == (STAKE, 0)
    play(world, job, 1, dict.fromkeys(WORKERS[:3], GOOD))
    world.do(STRANGER, b.settle(job, NEWCOMER))
    assert (world.owed(OWNER), world.owed(NEWCOMER)) == (2 * STAKE, 0)
    assert world.debt(job, NEWCOMER).owed == 0


def test_a_stake_that_the_worker_forfeits_is_lost_to_its_sponsor() -> None:
    world = World()
    job = joined(world)
    play(world, job, 1, {NEWCOMER: BAD, SECOND: GOOD, THIRD: GOOD})
    world.do(NEWCOMER, b.leave(job))
    assert world.books().burned == STAKE
    world.commit(job, 2)
    world.expire_and_close(job, 2)
    world.do(STRANGER, b.settle(job, NEWCOMER))
    assert world.debt(job, NEWCOMER).owed == 2 * STAKE - world.owed(OWNER) > 0
    assert world.owed(NEWCOMER) == 0


def test_money_of_the_workers_own_answers_for_the_debt_as_well() -> None:
    world = World()
    job = world.post()
    world.sponsor(job, NEWCOMER, STAKE)
    world.do(NEWCOMER, b.enrol(job, 2 * STAKE))
    world.enrol(job, [SECOND, THIRD])
    play(world, job, 1, {NEWCOMER: BAD, SECOND: GOOD, THIRD: GOOD})
    world.do(NEWCOMER, b.leave(job))
    assert (world.owed(OWNER), world.debt(job, NEWCOMER).owed) == (STAKE, 0)


def test_an_evicted_worker_repays_what_is_left() -> None:
    world = World()
    job = joined(world, amount=STAKE + STAKE // 2, rounds_max=3)
    play(world, job, 1, {NEWCOMER: BAD, SECOND: GOOD, THIRD: GOOD})
    assert world.enrolment(job, NEWCOMER).position == 0  # the draw of round 2 found half a stake
    assert world.debt(job, NEWCOMER) == b.Sponsorship(False, OWNER, 0, STAKE)
    assert world.owed(OWNER) == STAKE // 2


def test_the_sponsor_of_an_ended_job_need_not_wait_for_the_worker() -> None:
    world = World()
    job = world.post()
    world.sponsor(job, NEWCOMER, 3 * STAKE, sponsor=STRANGER)
    world.do(NEWCOMER, b.enrol(job, 0))
    world.sponsor(job, SECOND, STAKE, sponsor=STRANGER)
    before = world.evm.balance(STRANGER)
    world.do(OWNER, b.cancel(job))
    world.do(STRANGER, b.unsponsor(job, SECOND))
    released = world.do(STRANGER, b.settle(job, NEWCOMER))
    assert released == [b.Left(job, NEWCOMER, 3 * STAKE), b.DebtRepaid(job, NEWCOMER, STRANGER, 3 * STAKE)]
    world.do(STRANGER, b.withdraw(job))
    assert world.evm.balance(STRANGER) == before + 4 * STAKE
    world.do(OWNER, b.withdraw(job))
    assert world.books() == b.Books(0, 0, 0, 0, 0, 0, 0)


def test_a_debt_in_one_job_is_no_debt_in_another() -> None:
    world = World()
    job = joined(world, rounds_max=1)
    other = joined(world, rounds_max=1)
    play(world, job, 1, dict.fromkeys(WORKERS[:3], GOOD))
    world.do(STRANGER, b.settle(job, NEWCOMER))
    assert (world.debt(job, NEWCOMER).owed, world.debt(other, NEWCOMER).owed) == (0, 2 * STAKE)
    assert world.owed(NEWCOMER) == REWARD - 2 * STAKE + 2 * STAKE  # the deposit was released with the job


def test_once_repaid_a_worker_may_have_another_sponsor() -> None:
    world = World()
    job = joined(world)
    world.do(NEWCOMER, b.leave(job))
    world.expire_and_close(job)
    play_again = world.job(job)
    assert play_again.state == b.WAITING
    world.do(STRANGER, b.settle(job, NEWCOMER))
    owed = world.debt(job, NEWCOMER).owed
    assert owed == STAKE  # it did not commit: burned, and the debt stays
    world.do(THIRD, b.ask_sponsor(job))
    world.do(STRANGER, b.sponsor(job, THIRD, STAKE))
    world.do(THIRD, b.enrol(job, 0))
    world.do(THIRD, b.leave(job))
    assert world.debt(job, THIRD).owed == 0
    world.sponsor(job, THIRD, STAKE)
    assert world.debt(job, THIRD).offered == STAKE


def test_sponsors_are_switched_on_by_the_network_file_alone() -> None:
    assert genesis_contracts()[REPLICATED][1] == {}
    assert World(sponsors=True).evm.query(b.sponsors_view()) is True
    assert World(sponsors=False).evm.query(b.sponsors_view()) is False
