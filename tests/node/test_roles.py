"""The role machines, fed by hand: each test is one thing that a role does or must not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import bindings as b
from chain.types import RevealClaim
from node.jobs import Jobs, Key
from node.roles import attestor, learning_server, membership, misbehaviour, worker
from node.roles.common import (
    ChainAdvanced,
    FetchManifest,
    ManifestReady,
    ManifestRefused,
    SubmissionFailed,
    SubmitClose,
    SubmitEnd,
    SubmitExpire,
    SubmitFinalise,
    TimeReached,
    WakeAt,
)
from tests.node.jobs_kit import (
    BAD,
    BASE,
    GOOD,
    KEY,
    MANIFEST,
    OWNER,
    POSTED,
    TERMS,
    WORKERS,
    ciphertext,
    committed,
    job_of,
    majority,
    opened,
    reveal_opened,
    revealed,
)

ME, OTHER, THIRD = WORKERS
NEWCOMER = b"\x09" * 20
COMMITS = [committed(w) for w in WORKERS]


def play(step: Any, state: Any, *events: Any) -> tuple[Any, list[Any]]:
    """Feed events; the state at the end and all effects but wake-ups."""
    seen: list[Any] = []
    for event in events:
        state, effects = step(state, event)
        seen += [effect for effect in effects if not isinstance(effect, WakeAt)]
    return state, seen


def at(jobs: Jobs, now: float = 1001.0) -> ChainAdvanced:
    return ChainAdvanced(jobs, now, balance=10**30)


READY = ManifestReady(1, MANIFEST)


# ---- worker ---------------------------------------------------------------------------------------------------------
def test_a_worker_enrols_once_it_has_read_the_manifest() -> None:
    state, effects = play(worker.step, worker.WorkerState(NEWCOMER, deposit_stakes=4), at(job_of()))
    assert effects == [FetchManifest(1, MANIFEST.digest())]
    state, effects = play(worker.step, state, READY, at(job_of()))
    assert effects == [membership.Enrol(1, 4 * TERMS.stake)]


def test_a_worker_stays_away_from_a_job_whose_manifest_it_refuses() -> None:
    _, effects = play(worker.step, worker.WorkerState(NEWCOMER), at(job_of()), ManifestRefused(1, "no"), at(job_of()))
    assert not [e for e in effects if isinstance(e, membership.Enrol)]


def test_a_worker_stays_away_from_jobs_that_are_past_their_deadline_or_ask_for_too_much() -> None:
    late = ChainAdvanced(job_of(), TERMS.deadline + 1)
    _, effects = play(worker.step, worker.WorkerState(NEWCOMER), late, READY)
    assert not [e for e in effects if isinstance(e, membership.Enrol)]
    poor = worker.WorkerState(NEWCOMER, deposit_stakes=4, deposit_max=4 * TERMS.stake - 1)
    _, effects = play(worker.step, poor, at(job_of()), READY)
    assert not [e for e in effects if isinstance(e, membership.Enrol)]


def test_a_worker_stays_away_from_a_job_whose_owner_could_lock_its_stake_for_longer_than_it_bears() -> None:
    """Terms may have windows and a grace of a year each; a job that locks a stake just as long as allowed is taken."""
    locked_s = TERMS.commit_window_s + TERMS.reveal_window_s + 2 * TERMS.last_call_s + TERMS.grace_s
    for limit_s, enrols in ((locked_s, True), (locked_s - 1, False)):
        state = worker.WorkerState(NEWCOMER, locked_s_max=limit_s)
        _, effects = play(worker.step, state, at(job_of()), READY, at(job_of()))
        assert bool([e for e in effects if isinstance(e, membership.Enrol)]) == enrols


def test_a_worker_waits_with_joining_while_a_round_that_has_a_winner_waits_to_be_finalised() -> None:
    reveals = [opened(), *map(committed, WORKERS), reveal_opened(), revealed(WORKERS[0]), revealed(WORKERS[1])]
    for events, enrols in ((reveals, True), ([*reveals, majority()], False)):
        _, effects = play(worker.step, worker.WorkerState(NEWCOMER), at(job_of(*events)), READY)
        assert bool([e for e in effects if isinstance(e, membership.Enrol)]) == enrols


def test_a_worker_has_a_manned_job_that_waits_draw_again() -> None:
    _, effects = play(worker.step, worker.WorkerState(ME), at(job_of(b.JobWaiting(1, 3))), READY, at(job_of()))
    assert effects.count(membership.Enrol(1, 0)) == 1


def test_a_job_that_waits_past_its_deadline_is_ended_by_its_owner_and_later_by_anybody_in_it() -> None:
    step, owner = learning_server.step, learning_server.ServerState(OWNER)
    _, effects = play(step, owner, READY, ChainAdvanced(job_of(), TERMS.deadline + 2))
    assert SubmitEnd(1) in effects
    _, effects = play(worker.step, worker.WorkerState(ME), ChainAdvanced(job_of(), TERMS.deadline + 2))
    assert SubmitEnd(1) not in effects
    _, effects = play(worker.step, worker.WorkerState(ME), ChainAdvanced(job_of(), TERMS.deadline + TERMS.grace_s + 2))
    assert SubmitEnd(1) in effects


def test_a_failed_finalise_is_repeated_as_it_was() -> None:
    state = learning_server.ServerState(OWNER, scores={GOOD: (95, 100)})
    state, _ = play(learning_server.step, state, at(job_of(*DECIDED)), READY, learning_server.ModelReady(KEY))
    failed = SubmissionFailed(SubmitFinalise(KEY, stop=True), "pool full")
    _, effects = play(learning_server.step, state, failed, failed)
    assert effects == [SubmitFinalise(KEY, stop=True)] * 2


def test_a_worker_that_was_evicted_does_not_come_back_by_itself() -> None:
    jobs = job_of(b.Evicted(1, ME, False))
    _, effects = play(worker.step, worker.WorkerState(ME), at(jobs), READY)
    assert not [e for e in effects if isinstance(e, membership.Enrol)]


def test_a_slot_is_trained_masked_committed_and_revealed() -> None:
    state, effects = play(worker.step, worker.WorkerState(ME), at(job_of(opened())), READY)
    assert effects[-1] == worker.Train(KEY, MANIFEST, BASE, b"\xbb" * 32)
    state, effects = play(worker.step, state, worker.Trained(KEY, GOOD))
    assert effects == [worker.Mask(KEY, GOOD)]
    state, effects = play(worker.step, state, worker.Masked(KEY, ciphertext(ME)))
    assert effects == [worker.SubmitCommit(KEY, ciphertext(ME))]
    state, effects = play(worker.step, state, at(job_of(opened(), committed(ME))))
    assert effects == []  # nothing is revealed before RevealOpened is final
    jobs = job_of(opened(), *COMMITS, reveal_opened())
    state, effects = play(worker.step, state, at(jobs))
    assert effects == [worker.SubmitReveal(KEY, ciphertext(ME), GOOD)]
    state, effects = play(worker.step, state, at(job_of(revealed(ME), start=jobs)))
    assert effects == [worker.PublishUpdate(KEY, GOOD)]


def test_a_worker_restarted_before_the_reveal_recovers_its_update_from_its_ciphertext() -> None:
    jobs = job_of(opened(), *COMMITS, reveal_opened())
    state, effects = play(worker.step, worker.WorkerState(ME), at(jobs), READY)
    assert effects[-1] == worker.Recover(KEY, ciphertext(ME))
    _, effects = play(worker.step, state, worker.Trained(KEY, GOOD))
    assert effects == [worker.SubmitReveal(KEY, ciphertext(ME), GOOD)]


def test_a_worker_without_a_slot_does_nothing() -> None:
    _, effects = play(worker.step, worker.WorkerState(ME), at(job_of(opened(workers=(OTHER, THIRD)))), READY)
    assert [type(e) for e in effects] == [FetchManifest]


def test_training_that_came_too_late_is_abandoned() -> None:
    state, _ = play(worker.step, worker.WorkerState(ME), at(job_of(opened())), READY)
    others = [committed(OTHER), committed(THIRD)]
    _, effects = play(worker.step, state, at(job_of(opened(), *others, reveal_opened(commits=2))))
    assert effects == [worker.Abandon(KEY)]


def test_a_slot_is_given_up_after_a_few_failures() -> None:
    state, effects = play(worker.step, worker.WorkerState(ME), at(job_of(opened())), READY)
    _, effects = play(worker.step, state, *[worker.WorkFailed(KEY, "boom")] * 10)
    assert len([e for e in effects if isinstance(e, worker.Train)]) == worker.FAILURES_MAX - 1


def test_slot_holders_finalise_when_the_owner_does_not() -> None:
    jobs = job_of(opened(), *COMMITS, reveal_opened(), revealed(ME), revealed(OTHER), majority())
    state = worker.WorkerState(ME)
    _, effects = play(worker.step, state, at(jobs, 1000 + TERMS.grace_s))
    assert not [e for e in effects if isinstance(e, SubmitFinalise)]
    _, effects = play(worker.step, state, at(jobs, 1000 + TERMS.grace_s + 2))
    assert SubmitFinalise(KEY, stop=False) in effects


# ---- misbehaviour ---------------------------------------------------------------------------------------------------
def test_the_lazy_worker_makes_its_update_up() -> None:
    _, effects = play(misbehaviour.step_lazy, worker.WorkerState(ME), at(job_of(opened())), READY)
    assert effects[-1] == misbehaviour.Fabricate(KEY, BASE)


def test_the_copier_commits_to_anothers_ciphertext_and_claims_its_result() -> None:
    state = worker.WorkerState(ME)
    state, effects = play(misbehaviour.step_copier, state, at(job_of(opened())), READY)
    assert not [e for e in effects if isinstance(e, worker.SubmitCommit)]
    state, effects = play(misbehaviour.step_copier, state, at(job_of(opened(), committed(OTHER))))
    assert effects == [worker.SubmitCommit(KEY, ciphertext(OTHER))]
    jobs = job_of(opened(), *COMMITS, reveal_opened(), revealed(OTHER))
    state, effects = play(misbehaviour.step_copier, state, at(jobs))
    assert effects == [worker.SubmitReveal(KEY, ciphertext(ME), GOOD)]
    state, effects = play(misbehaviour.step_copier, state, SubmissionFailed(effects[0], "refused"), at(jobs))
    assert effects == []


# ---- learning server ------------------------------------------------------------------------------------------------
DECIDED = (opened(), *COMMITS, reveal_opened(), revealed(ME), revealed(OTHER), majority())


@pytest.mark.parametrize(("correct", "stop"), [(90, True), (89, False)])
def test_the_server_publishes_scores_and_finalises(correct: int, stop: bool) -> None:
    state = learning_server.ServerState(OWNER)
    state, effects = play(learning_server.step, state, at(job_of(*DECIDED)), READY)
    assert isinstance(effects[-1], learning_server.UnmaskModel)
    assert effects[-1].update == GOOD
    state, effects = play(learning_server.step, state, learning_server.ModelReady(KEY))
    assert effects == [learning_server.Score(KEY, MANIFEST, GOOD)]
    state, effects = play(learning_server.step, state, learning_server.Scored(KEY, GOOD, correct, 100))
    assert effects == [SubmitFinalise(KEY, stop=stop)]
    state, effects = play(learning_server.step, state, at(job_of(*DECIDED)))
    assert effects == []


def test_the_server_ignores_jobs_of_others() -> None:
    _, effects = play(learning_server.step, learning_server.ServerState(ME), at(job_of(*DECIDED)), READY)
    assert effects == []


def test_the_server_finalises_without_a_score_rather_than_never() -> None:
    state, _ = play(learning_server.step, learning_server.ServerState(OWNER), at(job_of(*DECIDED)), READY)
    failures = [learning_server.StepFailed(KEY, "no learner")] * learning_server.FAILURES_MAX
    _, effects = play(learning_server.step, state, *failures)
    assert effects[-1] == SubmitFinalise(KEY, stop=False)


def test_the_server_expires_and_closes_what_is_overdue() -> None:
    jobs = job_of(opened(), committed(ME))
    state = learning_server.ServerState(OWNER)
    _, effects = play(learning_server.step, state, READY, at(jobs, 1000 + TERMS.commit_window_s))
    assert not [e for e in effects if isinstance(e, SubmitExpire)]
    state, effects = play(learning_server.step, state, at(jobs, 1000 + TERMS.commit_window_s + 1))
    assert SubmitExpire(KEY, "COMMIT") in effects
    jobs = job_of(b.LastCall(*KEY, 1030), start=jobs)
    _, effects = play(learning_server.step, state, at(jobs, 1031))
    assert SubmitClose(KEY, "COMMIT") in effects


def test_the_server_asks_to_be_woken_at_the_next_deadline() -> None:
    state, effects = learning_server.step(learning_server.ServerState(OWNER), at(job_of(opened())))
    assert WakeAt(1000 + TERMS.commit_window_s + 1) in effects
    _, effects = learning_server.step(state, TimeReached(1021.5))
    assert SubmitExpire(KEY, "COMMIT") in effects


# ---- attestor -------------------------------------------------------------------------------------------------------
CLAIM = RevealClaim(bytes(20), 1, 1, 1, ME, bytes(32), ciphertext(ME), 10, bytes(65), GOOD)


def test_an_attestor_fetches_committed_ciphertexts_once() -> None:
    state, effects = play(attestor.step, attestor.AttestorState(), at(job_of(opened(), committed(ME))))
    assert effects == [attestor.FetchCiphertext(KEY, ciphertext(ME), POSTED.update_size)]
    _, effects = play(attestor.step, state, at(job_of(opened(), committed(ME))))
    assert effects == []


def test_a_claim_is_checked_once_and_attested() -> None:
    state, _ = play(attestor.step, attestor.AttestorState(), at(job_of(*DECIDED)))
    found = attestor.ClaimFound(b"\x01" * 32, CLAIM)
    state, effects = play(attestor.step, state, found, found)
    assert effects == [attestor.CheckClaim(b"\x01" * 32, CLAIM, KEY)]
    state, effects = play(attestor.step, state, attestor.ClaimChecked(b"\x01" * 32, False))
    assert effects == [attestor.Attest(b"\x01" * 32, False)]


def test_a_claim_that_is_found_again_is_attested_again_without_checking_it_again() -> None:
    """Seed 2357 of the simulator: a validator that was removed and admitted again kept its verdict to itself."""
    found = attestor.ClaimFound(b"\x01" * 32, CLAIM)
    checked = attestor.ClaimChecked(b"\x01" * 32, True)
    state, _ = play(attestor.step, attestor.AttestorState(), at(job_of(*DECIDED)), found, checked)
    _, effects = play(attestor.step, state, found)
    assert effects == [attestor.Attest(b"\x01" * 32, True)]


def test_an_attestor_forgets_rounds_that_are_over() -> None:
    state, _ = play(attestor.step, attestor.AttestorState(), at(job_of(opened(), committed(ME))))
    state, effects = play(attestor.step, state, at(job_of(opened(), committed(ME), b.RoundVoided(*KEY, 1, 0))))
    assert effects == [attestor.Forget(KEY)]
    assert not state.fetched


# ---- all of them, in any order --------------------------------------------------------------------------------------
STORIES = [
    job_of(),
    job_of(opened()),
    job_of(opened(), committed(ME)),
    job_of(opened(), *COMMITS, reveal_opened()),
    job_of(*DECIDED),
    job_of(*DECIDED, b.RoundSettled(*KEY, GOOD, 2), opened(Key(1, 2, 1), GOOD)),
    job_of(opened(), b.RoundVoided(*KEY, 0, 0), opened(Key(1, 1, 2))),
    job_of(*DECIDED, b.RoundSettled(*KEY, GOOD, 2), b.RoundClosed(*KEY), b.JobEnded(1, 2, 1, GOOD)),
]
CHAIN = st.builds(ChainAdvanced, st.sampled_from(STORIES), st.floats(1000, 2000))
WORKER_EVENTS = CHAIN | st.sampled_from(
    [READY, worker.Trained(KEY, GOOD), worker.Masked(KEY, BAD), worker.WorkFailed(KEY, "x"), TimeReached(1500.0)]
)
SERVER_EVENTS = CHAIN | st.sampled_from(
    [READY, learning_server.ModelReady(KEY), learning_server.Scored(KEY, GOOD, 1, 2), TimeReached(1500.0),
     learning_server.StepFailed(KEY, "x")]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(WORKER_EVENTS, max_size=25), st.sampled_from([worker.step, misbehaviour.step_copier]))
def test_no_order_of_events_makes_a_worker_reveal_early_or_twice_without_cause(events: list[Any], step: Any) -> None:
    state = worker.WorkerState(ME)
    for event in events:
        state, effects = step(state, event)
        for effect in effects:
            if isinstance(effect, worker.SubmitReveal):
                view = state.jobs.round(effect.key)
                assert view is not None
                assert view.phase in ("REVEAL", "SETTLED")
            if isinstance(effect, worker.SubmitCommit):
                view = state.jobs.round(effect.key)
                assert view is not None
                assert view.phase == "COMMIT"
    assert all(task.failures <= worker.FAILURES_MAX for task in state.tasks.values())


@settings(max_examples=150, deadline=None)
@given(st.lists(SERVER_EVENTS, max_size=25))
def test_no_order_of_events_makes_a_server_finalise_an_undecided_round(events: list[Any]) -> None:
    state = learning_server.ServerState(OWNER)
    for event in events:
        state, effects = learning_server.step(state, event)
        for effect in effects:
            if isinstance(effect, SubmitFinalise):
                view = state.jobs.round(effect.key)
                assert view is not None
                assert view.majority is not None


def test_states_are_frozen() -> None:
    state = worker.WorkerState(ME)
    assert replace(state, now=1.0) is not state
