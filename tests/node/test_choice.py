"""A worker's deposits are where a second of training is paid best, and never in more than it can keep up with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from chain.contracts import bindings as b
from node.jobs import Jobs, Key, fold
from node.performer import Performer
from node.roles import membership, worker
from node.roles.choice import LOYALTY, WINDOW_SHARE, Limits, Offer, choose
from node.roles.common import ManifestReady, ManifestRefused
from tests.node.jobs_kit import MANIFEST, POSTED, TERMS, opened
from tests.node.test_roles import NEWCOMER, at, play

ANY = Limits()


def offer(job: int, reward: int = 100, round_s: float = 1.0, window_s: float = 60.0, taken: bool = False) -> Offer:
    return Offer(job, reward, round_s, window_s, taken)


def chosen(*offers: Offer, limits: Limits = ANY) -> list[int]:
    return sorted(job for job, reason in choose(offers, limits).items() if not reason)


def test_what_pays_best_for_a_second_of_training_comes_first() -> None:
    one = replace(ANY, jobs_max=1)
    assert chosen(offer(1, 100, 10.0), offer(2, 50, 1.0), limits=one) == [2]
    assert chosen(offer(1, 100), offer(2, 100), limits=one) == [1]


def test_a_job_that_the_worker_is_in_is_left_only_for_much_more() -> None:
    one = replace(ANY, jobs_max=1)
    assert chosen(offer(1, 100, taken=True), offer(2, int(100 * LOYALTY) - 1), limits=one) == [1]
    assert chosen(offer(1, 100, taken=True), offer(2, int(100 * LOYALTY) + 1), limits=one) == [2]


def test_what_pays_less_than_the_operator_wants_is_left_alone_and_the_reason_names_the_key() -> None:
    verdicts = choose([offer(1, 10**9, 2.0)], Limits(pay_min=1e9))
    assert verdicts == {
        1: "it pays 0.5 gwei for a second of training; `reward_gwei_per_s_min` in [worker] is 1"
    }


def test_a_single_job_needs_no_room_because_the_window_was_judged_before() -> None:
    assert chosen(offer(1, round_s=59.0)) == [1]


@given(
    st.lists(
        st.tuples(st.integers(0, 1000), st.floats(0, 100), st.floats(1, 300), st.booleans()), min_size=1, max_size=12
    ),
    st.integers(1, 5),
)
def test_all_chosen_rounds_together_fit_into_the_shortest_window_and_the_best_is_among_them(
    drawn: list[tuple[int, float, float, bool]], jobs_max: int
) -> None:
    offers = {number: Offer(number, *each) for number, each in enumerate(drawn)}
    limits = Limits(jobs_max=jobs_max)
    taken = [offers[job] for job in chosen(*offers.values(), limits=limits)]
    assert 1 <= len(taken) <= jobs_max

    def fits(several: list[Offer]) -> bool:
        return sum(o.round_s for o in several) <= WINDOW_SHARE * min(o.window_s for o in several) + 1e-9

    assert len(taken) == 1 or fits(taken)
    best = max(offers.values(), key=lambda o: (o.pay * (LOYALTY if o.taken else 1), -o.job))
    assert best in taken


def two_jobs(*events: b.Event) -> Jobs:
    """Job 1 pays 10, job 2 pays 30; NEWCOMER is in neither."""
    second = replace(POSTED, job=2, terms=replace(TERMS, reward=30))
    return fold(fold(Jobs(), [POSTED, second], 1, 999), events, 2, 1000)


READY = (ManifestReady(1, MANIFEST, 1.0), ManifestReady(2, MANIFEST, 1.0))
ONE = worker.WorkerState(NEWCOMER, deposit_stakes=1, limits=Limits(jobs_max=1))


def test_a_worker_enrols_in_the_better_job_alone_and_says_why_not_in_the_other() -> None:
    _, effects = play(worker.step, ONE, at(two_jobs()), *READY[::-1])
    assert membership.Enrol(2, TERMS.stake) in effects
    assert membership.Enrol(1, TERMS.stake) not in effects
    assert membership.Decline(1, "others pay better; `jobs_max` in [worker] is 1") in effects


def test_a_worker_leaves_a_job_for_a_better_one_and_enters_that_when_it_is_free_of_the_first() -> None:
    first = b.Enrolled(1, NEWCOMER, TERMS.stake)
    holding = opened(workers=(NEWCOMER,))
    state, effects = play(worker.step, ONE, at(two_jobs(first, holding)), *READY)
    assert membership.Leave(1) in effects
    gone = two_jobs(first, holding, b.Left(1, NEWCOMER, 0))
    state, effects = play(worker.step, state, at(gone))
    assert membership.Withdraw(1) in effects
    assert not [each for each in effects if isinstance(each, membership.Enrol)]  # it still has a commit to make there
    voided = fold(gone, [b.RoundVoided(*Key(1, 1, 1), 0, 0)], 3, 1000)
    state, effects = play(worker.step, state, at(voided))
    assert membership.Enrol(2, TERMS.stake) in effects


def test_a_worker_comes_back_to_a_job_that_it_left_when_the_better_one_is_over() -> None:
    left = [b.Enrolled(1, NEWCOMER, 100), b.Left(1, NEWCOMER, 100), b.Enrolled(2, NEWCOMER, 100)]
    state, _ = play(worker.step, ONE, at(two_jobs(*left)), *READY)
    ended = [b.JobEnded(2, b.FINISHED, 1, bytes(32)), b.Left(2, NEWCOMER, 100)]
    _, effects = play(worker.step, state, at(two_jobs(*left, *ended)))
    assert membership.Enrol(1, TERMS.stake) in effects


def test_the_deposit_of_a_job_that_has_ended_is_fetched_once() -> None:
    over = two_jobs(b.Enrolled(1, NEWCOMER, 100), b.JobEnded(1, b.FINISHED, 1, bytes(32)))
    state, effects = play(worker.step, ONE, at(over), *READY, at(over))
    assert effects.count(membership.Withdraw(1)) == 1
    _, effects = play(worker.step, state, at(fold(over, [b.Left(1, NEWCOMER, 100)], 3, 1000)))
    assert not [each for each in effects if isinstance(each, membership.Withdraw)]


def test_a_job_that_can_no_longer_be_done_here_is_left() -> None:
    inside = two_jobs(b.Enrolled(1, NEWCOMER, 100))
    _, effects = play(worker.step, ONE, at(inside), ManifestRefused(1, "too much memory"), at(inside))
    assert membership.Leave(1) in effects


def test_nothing_is_chosen_before_the_jobs_that_the_worker_is_in_are_known() -> None:
    """Else it would enter whatever it has read first after a restart, and leave it again."""
    inside = two_jobs(b.Enrolled(2, NEWCOMER, 100))
    _, effects = play(worker.step, ONE, at(inside), READY[0], at(inside), READY[1])
    assert not [each for each in effects if isinstance(each, membership.Enrol | membership.Leave)]


def test_the_deposit_of_an_absent_worker_is_fetched_and_it_comes_back_three_times() -> None:
    jobs = two_jobs(b.Enrolled(2, NEWCOMER, 100))
    state, _ = play(worker.step, replace(ONE, deposit_stakes=1), at(jobs), *READY)
    entries = 0
    for _ in range(6):
        jobs = fold(jobs, [b.Evicted(2, NEWCOMER, True)], jobs.number + 1, 1000)
        state, effects = play(worker.step, state, at(jobs))
        assert membership.Withdraw(2) in effects
        if membership.Enrol(2, TERMS.stake) not in effects:
            break
        entries += 1
        jobs = fold(jobs, [b.Enrolled(2, NEWCOMER, 100)], jobs.number + 1, 1000)
        state, _ = play(worker.step, state, at(jobs))
    assert entries == 3


def test_a_worker_that_left_a_job_that_waits_comes_back_to_it() -> None:
    state, effects = play(worker.step, ONE, at(fold(Jobs(), [POSTED], 1, 999)), READY[0])
    assert membership.Enrol(1, TERMS.stake) in effects
    waiting = two_jobs(b.Enrolled(1, NEWCOMER, 100))
    state, effects = play(worker.step, state, at(waiting), READY[1])
    assert membership.Leave(1) in effects
    events = [b.Left(1, NEWCOMER, 100), b.JobCancelled(2), b.JobEnded(2, b.CANCELLED, 0, bytes(32))]
    gone = fold(waiting, events, 3, 1000)
    _, effects = play(worker.step, state, at(gone))
    assert membership.Enrol(1, TERMS.stake) in effects


def test_terms_whose_audits_or_appeals_may_lock_a_stake_for_years_are_left_alone() -> None:
    year = 365 * 86_400
    for change in ({"audit_ppm": 1, "audit_window_s": year}, {"appeal_window_s": year}):
        job = replace(POSTED, terms=replace(TERMS, **change))
        _, effects = play(worker.step, ONE, at(fold(Jobs(), [job], 1, 999)), READY[0])
        assert not [each for each in effects if isinstance(each, membership.Enrol)]


async def test_a_job_that_is_worth_it_again_is_no_longer_told_as_declined() -> None:
    """An empty reason left behind would show in `flnode job show`, and hide that the deposit is lacking."""
    nothing: Any = None
    parts = dict.fromkeys(("account", "blobs", "exchange", "learner", "job", "attest", "keep_score", "clock"), nothing)
    performer = Performer(key=b"", chain_id=1, genesis=b"", **parts)
    await performer.perform_worker(membership.Decline(1, "others pay better"))
    assert performer.declined == {1: "others pay better"}
    await performer.perform_worker(membership.Decline(1, ""))
    assert performer.declined == {}
