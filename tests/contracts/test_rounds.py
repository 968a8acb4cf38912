"""The course of jobs and rounds, as the contract's own text tells it."""

from __future__ import annotations

from eth_hash.auto import keccak

from chain.contracts import FINDER, REPLICATED
from chain.contracts import bindings as b
from tests.contracts.world import (
    BAD,
    BASE,
    DAY,
    GOOD,
    OWNER,
    REWARD,
    SEED,
    STAKE,
    STRANGER,
    TERMS,
    WORKERS,
    World,
    names,
    of_type,
    reveal_call,
)


def settled_round(world: World, job: int, round_: int = 1, stop: bool = False) -> list[b.Event]:
    """All slots of the open round commit and reveal GOOD; the owner finalises."""
    world.commit(job, round_)
    world.reveal(job, dict.fromkeys(world.slots, GOOD), round_)
    return world.do(OWNER, b.finalise(job, round_, 1, stop))


def test_a_round_opens_when_the_last_needed_worker_enrols() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 2)
    assert world.job(job).state == b.WAITING
    enrolled, opened = world.do(WORKERS[2], b.enrol(job, STAKE))
    assert enrolled == b.Enrolled(job, WORKERS[2], STAKE)
    assert opened == b.RoundOpened(
        job=job,
        round=1,
        attempt=1,
        base=BASE,
        batch_seed=b.batch_seed(SEED, 1, 1),
        workers=WORKERS[:3],
        commit_deadline=world.evm.timestamp + TERMS.commit_window_s,
    )
    assert world.enrolment(job, WORKERS[2]) == b.EnrolmentView(position=3, free=0, head=0, tail=1, since=0)
    assert world.books().locked == 3 * STAKE
    assert world.books().reserved == 3 * REWARD


def test_equal_work_is_paid_and_the_next_round_starts_from_it() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    events = settled_round(world, job)
    assert names(events)[:2] == ["RoundSettled", "RoundClosed"]
    (opened,) = of_type(events, b.RoundOpened)
    assert (opened.round, opened.attempt, opened.base) == (2, 1, GOOD)
    world.commit(job, 2)
    world.reveal(job, dict.fromkeys(world.slots, BAD), 2)
    events = world.do(OWNER, b.finalise(job, 2, 1, False))
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.FINISHED, 2, BAD)]
    for worker in WORKERS[:3]:
        before = world.evm.balance(worker)
        world.do(worker, b.withdraw(job))
        assert world.evm.balance(worker) == before + 2 * REWARD + 4 * STAKE
    assert world.books() == b.Books(0, 0, 0, 0, 0, 0, 0)


def test_a_minority_digest_forfeits_and_its_reward_returns_to_the_owner() -> None:
    world = World()
    job = world.post(rounds_max=1)
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: GOOD, WORKERS[1]: BAD, WORKERS[2]: GOOD})
    world.do(OWNER, b.finalise(job, 1, 1, False))
    settled, left = world.do(STRANGER, b.settle(job, WORKERS[1]))
    assert settled == b.SeatSettled(job, 1, WORKERS[1], 1, earned=0, forfeited=STAKE)
    assert left == b.Left(job, WORKERS[1], 3 * STAKE)  # the job has ended
    assert world.books().burned == STAKE
    assert world.owed(OWNER) == REWARD
    assert world.owed(WORKERS[1]) == 3 * STAKE


def test_copies_of_a_ciphertext_digest_are_not_refused() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    for worker in world.slots:
        world.do(worker, b.commit(job, 1, 1, keccak(b"the same"), keccak(worker), keccak(worker)))
    assert world.round(job).phase == b.REVEAL


def test_late_equal_reveals_are_paid_until_the_round_is_closed() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 4)
    first = world.slots
    world.commit(job)
    world.reveal(job, dict.fromkeys(first[:2], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    assert world.round(job).phase == b.SETTLED
    events = world.reveal(job, {first[2]: GOOD})
    assert names(events) == ["Revealed", "RoundClosed", "SeatSettled"]
    assert events[-1].earned == REWARD
    assert world.round(job).phase == b.CLOSED


def test_a_withheld_reveal_forfeits_when_the_settled_round_is_closed() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    silent = world.slots[2]
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots[:2], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.do(STRANGER, b.settle(job, silent)) == [b.Left(job, silent, 3 * STAKE)]  # the job has ended
    world.expire_and_close(job)
    (settled,) = world.do(STRANGER, b.settle(job, silent))
    assert (settled.earned, settled.forfeited) == (0, STAKE)
    assert world.owed(OWNER) == REWARD * TERMS.slots * TERMS.rounds_max - 2 * REWARD


def test_absent_commits_count_against_the_majority() -> None:
    world = World()
    job = world.post(slots=5, workers_min=5)
    world.enrol(job, 5)
    world.commit(job, workers=world.slots[:3])
    assert names(world.expire_and_close(job)) == ["RevealOpened"]
    events = world.reveal(job, dict.fromkeys(world.slots[:2], GOOD))
    assert "MajorityReached" not in names(events)
    events = world.reveal(job, {world.slots[2]: GOOD})
    (majority,) = of_type(events, b.MajorityReached)
    assert (majority.votes, majority.update_digest) == (3, GOOD)


def test_half_of_an_even_number_of_slots_is_no_majority() -> None:
    world = World()
    job = world.post(slots=5, workers_min=1)
    world.enrol(job, 1)
    assert world.slots == WORKERS[:1]
    world.do(WORKERS[1], b.enrol(job, 4 * STAKE))
    settled_round(world, job)
    assert len(world.slots) == 2
    world.commit(job, 2)
    events = world.reveal(job, dict(zip(world.slots, (GOOD, BAD), strict=True)), 2)
    assert "MajorityReached" not in names(events)


def test_a_round_without_enough_commits_is_void_and_only_committers_keep_their_stake() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job, workers=WORKERS[:1])
    events = world.expire_and_close(job)
    assert events[0] == b.RoundVoided(job, 1, 1, commits=1, reveals=0)
    forfeits = {event.worker: event.forfeited for event in of_type(events, b.SeatSettled)}
    assert forfeits == {WORKERS[0]: 0, WORKERS[1]: STAKE, WORKERS[2]: STAKE}
    (opened,) = of_type(events, b.RoundOpened)
    assert (opened.round, opened.attempt, opened.base) == (1, 2, BASE)
    assert opened.batch_seed == keccak(SEED + (1).to_bytes(32, "big") + (2).to_bytes(32, "big"))


def test_a_round_without_a_winner_is_void_and_only_revealers_keep_their_stake() -> None:
    world = World()
    job = world.post(attempts_max=1)
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: GOOD, WORKERS[1]: BAD})
    events = world.expire_and_close(job)
    assert events[0] == b.RoundVoided(job, 1, 1, commits=3, reveals=2)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.FAILED, 0, BASE)]
    for worker, kept in zip(WORKERS, (True, True, False), strict=False):
        settled, _ = world.do(STRANGER, b.settle(job, worker))
        assert settled.forfeited == (0 if kept else STAKE)
    assert world.owed(OWNER) == TERMS.escrow


def test_the_grace_keeps_others_from_finalising_and_then_lets_anyone() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots, GOOD))
    world.wait(TERMS.grace_s)
    assert names(world.do(STRANGER, b.finalise(job, 1, 1, False)))[0] == "RoundSettled"


def test_auto_finalise_settles_in_the_deciding_reveal_and_opens_the_next_round() -> None:
    world = World()
    job = world.post(auto_finalise=True)
    world.enrol(job, 3)
    first = world.slots
    world.commit(job)
    assert names(world.reveal(job, {first[0]: GOOD})) == ["Revealed"]
    events = world.reveal(job, {first[1]: GOOD})
    assert names(events)[:3] == ["Revealed", "MajorityReached", "RoundSettled"]
    assert "RoundOpened" in names(events)
    assert world.round(job).phase == b.SETTLED
    assert names(world.reveal(job, {first[2]: GOOD})) == ["Revealed", "RoundClosed", "SeatSettled"]


def test_only_the_owner_stops_a_job_and_gets_the_rest_of_the_escrow() -> None:
    world = World()
    job = world.post(rounds_max=5)
    world.enrol(job, 3)
    events = settled_round(world, job, stop=True)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.STOPPED, 1, GOOD)]
    before = world.evm.balance(OWNER)
    world.do(OWNER, b.withdraw(job))
    assert world.evm.balance(OWNER) == before + 4 * 3 * REWARD


def test_a_cancelled_job_pays_its_open_round_and_then_ends() -> None:
    world = World()
    job = world.post(rounds_max=5)
    world.enrol(job, 3)
    assert world.do(OWNER, b.cancel(job)) == [b.JobCancelled(job)]
    events = settled_round(world, job)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.CANCELLED, 1, GOOD)]
    assert world.owed(OWNER) == 4 * 3 * REWARD


def test_a_cancelled_job_ends_with_its_void_round() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.do(OWNER, b.cancel(job))
    events = world.expire_and_close(job)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.CANCELLED, 0, BASE)]


def test_a_waiting_job_is_cancelled_at_once_and_leaves_the_finder() -> None:
    world = World()
    job = world.post()
    assert world.evm.query(b.open_page_view(0, 50)) == (b.Listing(b.REPLICATED_KIND, REPLICATED, job),)
    events = world.do(OWNER, b.cancel(job))
    assert events[0] == b.JobCancelled(job)
    assert events[1] == b.JobEnded(job, b.CANCELLED, 0, BASE)
    assert events[2] == b.JobDelisted(b.REPLICATED_KIND, REPLICATED, job)
    assert world.evm.query(b.open_count_view()) == 0
    assert world.evm.balance(FINDER) == 0


def test_after_the_deadline_no_round_opens() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.wait(DAY)
    events = settled_round(world, job)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.DEADLINE, 1, GOOD)]


def test_after_the_deadline_a_void_round_ends_the_job() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.wait(DAY)
    events = world.expire_and_close(job)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.DEADLINE, 0, BASE)]


def test_anyone_ends_a_waiting_job_after_its_deadline() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 2)
    world.wait(DAY)
    ended, _ = world.do(STRANGER, b.end(job))
    assert ended == b.JobEnded(job, b.DEADLINE, 0, BASE)
    assert world.owed(OWNER) == TERMS.escrow
    left, withdrawn = world.do(WORKERS[0], b.withdraw(job))
    assert left == b.Left(job, WORKERS[0], 4 * STAKE)
    assert withdrawn == b.Withdrawn(WORKERS[0], 4 * STAKE)


def test_topped_up_rounds_are_played() -> None:
    world = World()
    job = world.post(rounds_max=1)
    world.enrol(job, 3)
    assert world.do(STRANGER, b.top_up(job, 2, TERMS)) == [b.JobToppedUp(job, 3)]
    for round_ in (1, 2):
        assert "RoundOpened" in names(settled_round(world, job, round_))
    assert "JobEnded" in names(settled_round(world, job, 3))


def test_a_worker_that_cannot_cover_a_stake_is_evicted_and_its_deposit_released() -> None:
    world = World()
    job = world.post(workers_min=2, rounds_max=3)
    world.enrol(job, 2)
    loser = WORKERS[2]
    world.enrol(job, [loser], deposit=2 * STAKE - 1)
    settled_round(world, job)
    assert loser in world.slots
    world.commit(job, 2)
    world.reveal(job, {worker: BAD if worker == loser else GOOD for worker in world.slots}, 2)
    events = world.do(OWNER, b.finalise(job, 2, 1, False))
    assert of_type(events, b.Evicted) == [b.Evicted(job, loser, False)]
    assert set(world.slots) == set(WORKERS[:2])
    assert world.enrolment(job, loser).position == 0
    assert world.owed(loser) == STAKE - 1


def test_too_few_eligible_workers_make_the_job_wait() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3, deposit=STAKE)
    loser, *winners = world.slots
    world.commit(job)
    world.reveal(job, {loser: BAD, **dict.fromkeys(winners, GOOD)})
    events = world.do(OWNER, b.finalise(job, 1, 1, False))
    assert of_type(events, b.Evicted) == [b.Evicted(job, loser, False)]
    assert events[-1] == b.JobWaiting(job, 2)
    assert world.job(job).state == b.WAITING
    assert world.enrolment(job, loser).position == 0
    assert "RoundOpened" in names(world.do(loser, b.enrol(job, STAKE)))


def test_who_did_not_commit_is_not_drawn_again_before_it_enrols_again() -> None:
    world = World()
    job = world.post(workers_min=2, rounds_max=4)
    world.enrol(job, 3, deposit=9 * STAKE)
    settled_round(world, job)
    absent, *others = world.slots
    assert len(others) == 2
    world.commit(job, 2, workers=others)
    world.expire_and_close(job, 2)
    world.reveal(job, dict.fromkeys(others, GOOD), 2)
    events = world.do(OWNER, b.finalise(job, 2, 1, False))
    assert of_type(events, b.Evicted) == [b.Evicted(job, absent, True)]
    assert set(world.slots) == set(others)
    free = world.owed(absent)
    assert free >= 8 * STAKE
    assert isinstance(world.do(absent, b.enrol(job, 2 * STAKE))[-1], b.Enrolled)
    world.commit(job, 3)
    world.reveal(job, dict.fromkeys(others, GOOD), 3)
    world.do(OWNER, b.finalise(job, 3, 1, False))
    assert absent in world.slots


def test_an_absent_worker_is_drawn_again_where_it_is_needed() -> None:
    """Else a pool of just enough workers would wait for one that is dead, instead of going on without it."""
    world = World()
    job = world.post(rounds_max=4)
    world.enrol(job, 3, deposit=9 * STAKE)
    absent, *others = world.slots
    world.commit(job, workers=others)
    world.expire_and_close(job)
    world.reveal(job, dict.fromkeys(others, GOOD))
    events = world.do(OWNER, b.finalise(job, 1, 1, False))
    assert of_type(events, b.Evicted) == []
    assert absent in world.slots


def test_a_drawing_looks_at_47_workers_at_most_and_an_enrolled_one_calls_for_another() -> None:
    """Nobody commits: all that were drawn forfeit their only stake, and stay in the pool until a drawing finds them."""
    world = World()
    job = world.post(slots=31, workers_min=31, attempts_max=9)
    world.enrol(job, 100, deposit=STAKE)
    events: list[b.Event] = []
    while world.job(job).state == b.RUNNING:
        events = world.expire_and_close(job, 1, world.job(job).attempt)
    evicted = len(of_type(events, b.Evicted))
    assert 16 <= evicted < 47
    able = [worker for worker in WORKERS if world.enrolment(job, worker).free == STAKE]
    assert len(able) >= 31
    events = world.do(able[0], b.enrol(job, 0))
    assert events[0] == b.Enrolled(job, able[0], STAKE)
    assert isinstance(events[-1], b.RoundOpened)
    assert set(world.slots) <= set(able)
    world.books()


def test_an_enrolled_worker_adds_to_its_deposit() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 1, deposit=STAKE)
    assert world.do(WORKERS[0], b.enrol(job, 0)) == [b.Enrolled(job, WORKERS[0], STAKE)]
    assert world.do(WORKERS[0], b.enrol(job, 7)) == [b.Enrolled(job, WORKERS[0], STAKE + 7)]
    assert world.evm.query(b.enrolled_count_view(job)) == 1


def test_whoever_left_still_earns_and_gets_stake_and_reward_in_the_balance() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    gone = world.slots[0]
    (left,) = world.do(gone, b.leave(job))
    assert left.released == 3 * STAKE
    settled_round(world, job)
    world.do(STRANGER, b.settle(job, gone))
    assert world.owed(gone) == 4 * STAKE + REWARD
    world.books()


def test_a_worker_that_returns_finds_its_settled_stake_in_the_deposit() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    back = world.slots[0]
    world.do(back, b.leave(job))
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots, GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    settled, enrolled = world.do(back, b.enrol(job, 0))[:2]
    assert settled.earned == REWARD
    assert enrolled.free == STAKE


def test_one_withdrawal_settles_eight_seats_and_the_next_one_the_rest() -> None:
    world = World()
    job = world.post(slots=1, workers_min=1, rounds_max=10)
    world.enrol(job, 1, deposit=20 * STAKE)
    for round_ in range(1, 11):
        settled_round(world, job, round_)
    events = world.do(WORKERS[0], b.withdraw(job))
    assert len(of_type(events, b.SeatSettled)) <= 8
    world.do(WORKERS[0], b.withdraw(job))
    assert world.books() == b.Books(0, 0, 0, 0, 0, 0, 0)


def test_an_empty_withdrawal_is_no_error() -> None:
    world = World()
    job = world.post()
    assert world.do(STRANGER, b.withdraw(job)) == []


def test_a_late_reveal_of_an_ended_job_is_paid_and_returns_nothing_of_it_to_the_owner() -> None:
    world = World()
    job = world.post(rounds_max=1)
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots[:2], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    assert world.job(job).state == b.ENDED
    world.do(world.slots[2], reveal_call(world.slots[2], job, 1, 1, GOOD))
    assert world.owed(OWNER) == 0
    assert world.owed(world.slots[2]) == REWARD


def test_settled_rounds_get_a_last_call_of_their_own() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    world.wait(TERMS.reveal_window_s)
    world.do(STRANGER, b.expire(job, 1, 1))
    world.reveal(job, dict.fromkeys(world.slots[:2], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    assert world.round(job).last_call_until == 0
    (call,) = world.do(STRANGER, b.expire(job, 1, 1))
    assert call.until == world.evm.timestamp + TERMS.last_call_s


def test_a_last_commit_during_the_last_call_gives_the_reveals_a_fresh_one() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.wait(TERMS.commit_window_s)
    world.do(STRANGER, b.expire(job, 1, 1))
    world.commit(job)
    view = world.round(job)
    assert (view.phase, view.last_call_until) == (b.REVEAL, 0)
    assert view.deadline == world.evm.timestamp + TERMS.reveal_window_s


def test_a_seat_shows_what_became_of_it() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    worker = world.slots[0]

    def state() -> int:
        return world.evm.query(b.seat_view(job, 1, 1, worker)).state

    assert state() == b.DRAWN
    world.commit(job)
    assert state() == b.COMMITTED
    world.reveal(job, dict.fromkeys(world.slots, GOOD))
    assert state() == b.REVEALED
    world.do(OWNER, b.finalise(job, 1, 1, True))
    world.do(STRANGER, b.settle(job, worker))
    assert state() == b.SEAT_SETTLED
    assert world.evm.query(b.seat_view(job, 1, 1, STRANGER)).state == 0
