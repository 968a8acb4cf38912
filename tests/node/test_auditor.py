"""The auditor, and what audits change for the other roles; each test is one thing that a role does or must not do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import bindings as b
from chain.types import AuditClaim
from node.jobs import AUDIT, REVEAL, Jobs, Key, fold
from node.roles import auditor, learning_server, misbehaviour, worker
from node.roles.common import (
    DEADLINE_MARGIN_S,
    Attest,
    ChainAdvanced,
    ManifestReady,
    SubmissionFailed,
    SubmitClose,
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
    committed,
    job_of,
    opened,
    reveal_opened,
    revealed,
)

ME, OTHER, THIRD = WORKERS
NOW = 1001.0
AUDITED = replace(TERMS, audit_ppm=10**6, audit_fee=7, appeal_window_s=15, appeal_bond=9)
JOB = replace(POSTED, terms=AUDITED)
NO_ONE = bytes(20)
OPENED = b.AuditOpened(*KEY, b.DRAWN_BY_LOT, NO_ONE, 1050)
WORK = auditor.Work(KEY, MANIFEST.digest(), BASE, b"\xbb" * 32, MANIFEST.update_size())
SEAT = auditor.Seated(index=sum(KEY) % 4, count=4)  # first in line for KEY
DIGEST = b"\x01" * 32


def claim(update: bytes = GOOD) -> AuditClaim:
    return AuditClaim(bytes(20), *KEY, bytes(32), WORK.manifest, WORK.base, WORK.batch_seed, WORK.size, update)


def story(*events: b.Event) -> Jobs:
    """A job with audits and appeals, whose first round has three commits and its reveals open."""
    enrolled = [b.Enrolled(1, each, 1000) for each in WORKERS]
    before = [JOB, *enrolled, opened(), *map(committed, WORKERS), reveal_opened()]
    return fold(fold(Jobs(), before, 1, 999), events, 2, 1000)


def decided(update: bytes, votes: int = 2) -> b.MajorityReached:
    """One that may be appealed against until 1015."""
    return b.MajorityReached(*KEY, update, votes, 1015 + TERMS.grace_s)


def play(step: Any, state: Any, *events: Any) -> tuple[Any, list[Any]]:
    """Feed events; the state at the end and all effects but wake-ups."""
    seen: list[Any] = []
    for event in events:
        state, effects = step(state, event)
        seen += [effect for effect in effects if not isinstance(effect, WakeAt)]
    return state, seen


def at(jobs: Jobs, now: float = NOW) -> ChainAdvanced:
    return ChainAdvanced(jobs, now)


IN_AUDIT = at(story(revealed(ME), revealed(OTHER), OPENED))


# ---- read model -----------------------------------------------------------------------------------------------------
def test_an_audit_takes_the_majority_back_until_its_verdict() -> None:
    jobs = story(revealed(ME), revealed(OTHER), decided(GOOD), replace(OPENED, cause=b.APPEALED, appellant=THIRD))
    view = jobs.round(KEY)
    assert view is not None
    assert (view.phase, view.majority, view.deadline) == (AUDIT, None, 1050)
    verdict = b.Audited(*KEY, bytes(32), WORK.manifest, BASE, WORK.batch_seed, WORK.size, GOOD)
    view = fold(jobs, [verdict, decided(GOOD)], 3, 1001).round(KEY)
    assert view is not None
    assert (view.phase, view.majority, view.truth) == (REVEAL, GOOD, GOOD)
    assert view.appeals_until(AUDITED) == 0


def test_in_a_void_round_with_a_verdict_everybody_forfeits() -> None:
    verdict = b.Audited(*KEY, bytes(32), WORK.manifest, BASE, WORK.batch_seed, WORK.size, GOOD)
    jobs = story(revealed(ME, BAD), revealed(OTHER, BAD), OPENED, verdict, reveal_opened(), b.RoundVoided(*KEY, 3, 2))
    assert {record.forfeited for record in jobs.by_id[1].records.values()} == {TERMS.stake}


def test_in_a_void_round_whose_audit_lapsed_only_who_withheld_forfeits() -> None:
    jobs = story(revealed(ME, BAD), revealed(OTHER), OPENED, b.AuditLapsed(*KEY), b.RoundVoided(*KEY, 3, 2))
    assert [jobs.by_id[1].records[each].forfeited for each in WORKERS] == [0, 0, TERMS.stake]


# ---- auditor --------------------------------------------------------------------------------------------------------
def test_an_audit_is_computed_once_and_its_verdict_submitted_by_the_first_in_line() -> None:
    state, effects = play(auditor.step, auditor.AuditorState(), SEAT, IN_AUDIT, IN_AUDIT)
    assert effects == [auditor.Recompute(WORK)]
    state, effects = play(auditor.step, state, auditor.Recomputed(WORK, GOOD), IN_AUDIT)
    assert effects == [auditor.SubmitResolve(WORK, GOOD)]
    _, effects = play(auditor.step, state, SubmissionFailed(auditor.SubmitResolve(WORK, GOOD), "reverted"))
    assert effects == [auditor.SubmitResolve(WORK, GOOD)]


def test_the_others_wait_their_turn() -> None:
    third = auditor.Seated((SEAT.index + 2) % 4, 4)
    state, effects = play(auditor.step, auditor.AuditorState(), third, IN_AUDIT, auditor.Recomputed(WORK, GOOD))
    assert effects == [auditor.Recompute(WORK)]
    _, effects = play(auditor.step, state, TimeReached(NOW + 2 * auditor.PATIENCE_S - 0.1))
    assert effects == []
    _, effects = play(auditor.step, state, TimeReached(NOW + 2 * auditor.PATIENCE_S))
    assert effects == [auditor.SubmitResolve(WORK, GOOD)]


def test_every_validator_is_first_in_line_for_some_rounds() -> None:
    keys = [Key(1, number, 1) for number in range(1, 5)]
    for key in keys:
        assert sorted(auditor._places_before(auditor.Seated(index, 4), key) for index in range(4)) == [0, 1, 2, 3]
    assert {auditor._places_before(SEAT, key) for key in keys} == {0, 1, 2, 3}


def test_others_verdicts_are_attested_once_the_round_was_computed_here() -> None:
    late = auditor.Seated((SEAT.index + 1) % 4, 4)
    found = [auditor.VerdictFound(DIGEST, claim()), auditor.VerdictFound(b"\x02" * 32, claim(BAD))]
    state, effects = play(auditor.step, auditor.AuditorState(), late, IN_AUDIT, *found)
    assert effects == [auditor.Recompute(WORK)]
    state, effects = play(auditor.step, state, auditor.Recomputed(WORK, GOOD))
    assert effects == [Attest(DIGEST, True), Attest(b"\x02" * 32, False)]
    _, effects = play(auditor.step, state, found[0])
    assert effects == [Attest(DIGEST, True)]


def test_a_verdict_on_the_tip_is_computed_before_its_audit_is_final() -> None:
    undecided = at(story(revealed(ME), revealed(OTHER)))
    state, effects = play(
        auditor.step, auditor.AuditorState(), SEAT, undecided, auditor.VerdictFound(DIGEST, claim())
    )  # fmt: skip
    assert effects == [auditor.Recompute(WORK)]
    _, effects = play(auditor.step, state, undecided, auditor.Recomputed(WORK, GOOD))
    assert effects == [Attest(DIGEST, True)]  # and nothing is submitted for a round that may not be audited at all


def test_a_verdict_on_another_base_is_another_computation() -> None:
    state, _ = play(auditor.step, auditor.AuditorState(), SEAT, IN_AUDIT, auditor.Recomputed(WORK, GOOD))
    other = replace(claim(), base=BAD)
    _, effects = play(auditor.step, state, auditor.VerdictFound(DIGEST, other))
    assert effects == [auditor.Recompute(WORK._replace(base=BAD))]


def test_what_cannot_be_computed_is_unknown_and_never_refused() -> None:
    found = auditor.VerdictFound(DIGEST, claim())
    state, _ = play(auditor.step, auditor.AuditorState(), SEAT, IN_AUDIT, found)
    failed = auditor.RecomputeFailed(WORK, False, "nobody has the dataset")
    state, effects = play(auditor.step, state, *[failed] * (auditor.FAILURES_MAX - 1))
    assert effects == [auditor.Recompute(WORK)] * (auditor.FAILURES_MAX - 1)
    _, effects = play(auditor.step, state, failed, IN_AUDIT, found)
    assert effects == []
    state, _ = play(auditor.step, auditor.AuditorState(), SEAT, IN_AUDIT, found)
    _, effects = play(auditor.step, state, auditor.RecomputeFailed(WORK, True, "too much memory"), IN_AUDIT)
    assert effects == []


def test_audits_that_pay_too_little_are_left_alone() -> None:
    poor = auditor.AuditorState(fee_min=8)
    _, effects = play(auditor.step, poor, SEAT, IN_AUDIT, auditor.VerdictFound(DIGEST, claim()))
    assert effects == []


def test_a_computation_ends_with_its_audit() -> None:
    state, _ = play(auditor.step, auditor.AuditorState(), SEAT, IN_AUDIT)
    over = at(story(revealed(ME), revealed(OTHER), OPENED, b.AuditLapsed(*KEY), decided(GOOD)))
    state, effects = play(auditor.step, state, over)
    assert effects == [auditor.CancelRecompute(KEY)]
    assert not state.works


# ---- worker ---------------------------------------------------------------------------------------------------------
READY = ManifestReady(1, MANIFEST)


def appeals(step: Any, state: worker.WorkerState, jobs: Jobs, now: float = NOW) -> list[worker.SubmitAppeal]:
    _, effects = play(step, state, READY, at(jobs, now), at(jobs, now))
    return [effect for effect in effects if isinstance(effect, worker.SubmitAppeal)]


def test_a_worker_appeals_once_against_a_majority_that_differs_from_its_own_update() -> None:
    wronged = story(revealed(ME), revealed(OTHER, BAD), revealed(THIRD, BAD), decided(BAD))
    assert appeals(worker.step, worker.WorkerState(ME), wronged) == [worker.SubmitAppeal(KEY, 9)]
    assert appeals(worker.step, worker.WorkerState(OTHER), wronged) == []
    assert appeals(worker.step, worker.WorkerState(ME, appeal_max=8), wronged) == []
    assert appeals(worker.step, worker.WorkerState(ME), wronged, now=1015.0) == []
    assert appeals(misbehaviour.step_lazy, worker.WorkerState(ME), wronged) == []


def test_nobody_appeals_where_the_terms_know_no_appeals() -> None:
    events = (opened(), *map(committed, WORKERS), reveal_opened(), revealed(ME), revealed(OTHER, BAD))
    majority = b.MajorityReached(*KEY, BAD, 2, 1000 + TERMS.grace_s)
    assert appeals(worker.step, worker.WorkerState(ME), job_of(*events, revealed(THIRD, BAD), majority)) == []


def test_a_worker_reveals_while_the_round_is_being_audited() -> None:
    jobs = story(revealed(OTHER), revealed(THIRD), OPENED)
    state, effects = play(worker.step, worker.WorkerState(ME), READY, at(jobs))
    assert [effect for effect in effects if isinstance(effect, worker.Recover)]
    _, effects = play(worker.step, state, worker.Trained(KEY, GOOD))
    assert [effect for effect in effects if isinstance(effect, worker.SubmitReveal)]


def test_an_audit_that_nobody_resolves_is_expired_and_closed() -> None:
    for step, state, patience_s in (
        (learning_server.step, learning_server.ServerState(OWNER), 0),
        (worker.step, worker.WorkerState(ME), TERMS.grace_s),
    ):
        due = 1050 + DEADLINE_MARGIN_S + patience_s
        _, effects = play(step, state, READY, at(IN_AUDIT.jobs, due - 0.1))
        assert not [effect for effect in effects if isinstance(effect, SubmitExpire)]
        _, effects = play(step, state, READY, at(IN_AUDIT.jobs, due))
        assert SubmitExpire(KEY, "AUDIT") in effects
        called = fold(IN_AUDIT.jobs, [b.LastCall(*KEY, 1060)], 3, 1055)
        _, effects = play(step, state, READY, at(called, 1061 + patience_s))
        assert SubmitClose(KEY, "AUDIT") in effects


# ---- learning server ------------------------------------------------------------------------------------------------
def test_the_server_finalises_when_nobody_may_appeal_any_more() -> None:
    jobs = story(revealed(ME), revealed(OTHER), decided(GOOD))
    state = learning_server.ServerState(OWNER, scores={GOOD: (1, 2)})
    state, effects = play(learning_server.step, state, READY, at(jobs), learning_server.ModelReady(KEY))
    assert not [effect for effect in effects if isinstance(effect, SubmitFinalise)]
    state, effects = play(learning_server.step, state, TimeReached(1015.0 + DEADLINE_MARGIN_S))
    assert effects == [SubmitFinalise(KEY, stop=False)]


def test_the_server_asks_to_be_woken_when_the_appeals_end() -> None:
    jobs = story(revealed(ME), revealed(OTHER), decided(GOOD))
    _, effects = learning_server.step(learning_server.ServerState(OWNER), at(jobs))
    assert WakeAt(1015.0 + DEADLINE_MARGIN_S) in effects


def test_the_server_publishes_and_scores_what_an_audit_has_put_in_the_majoritys_place() -> None:
    first = story(revealed(ME), revealed(OTHER, BAD), revealed(THIRD, BAD), decided(BAD))
    state = learning_server.ServerState(OWNER, scores={BAD: (1, 2), GOOD: (1, 2)})
    state, _ = play(learning_server.step, state, READY, at(first), learning_server.ModelReady(KEY))
    verdict = b.Audited(*KEY, bytes(32), WORK.manifest, BASE, WORK.batch_seed, WORK.size, GOOD)
    now = fold(first, [OPENED, verdict, b.MajorityReached(*KEY, GOOD, 1, 1040)], 3, 1010)
    state, effects = play(learning_server.step, state, at(now, 1010.0))
    assert [effect.update for effect in effects if isinstance(effect, learning_server.UnmaskModel)] == [GOOD]
    _, effects = play(learning_server.step, state, learning_server.ModelReady(KEY))
    assert effects == [SubmitFinalise(KEY, stop=False)]


# ---- in any order ---------------------------------------------------------------------------------------------------
STORIES = [
    story(revealed(ME), revealed(OTHER)),
    IN_AUDIT.jobs,
    story(revealed(ME), revealed(OTHER), OPENED, b.AuditLapsed(*KEY), decided(GOOD)),
    story(revealed(ME), b.RoundVoided(*KEY, 3, 1), opened(Key(1, 1, 2))),
]
EVENTS = st.builds(ChainAdvanced, st.sampled_from(STORIES), st.floats(1000, 2000)) | st.sampled_from(
    [SEAT, auditor.VerdictFound(DIGEST, claim()), auditor.VerdictFound(DIGEST, claim(BAD)), TimeReached(1500.0),
     auditor.Recomputed(WORK, GOOD), auditor.RecomputeFailed(WORK, False, "x"),
     auditor.RecomputeFailed(WORK, True, "x"), SubmissionFailed(auditor.SubmitResolve(WORK, GOOD), "x")]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=25))
def test_no_order_of_events_makes_an_auditor_say_what_it_has_not_computed(events: list[Any]) -> None:
    state = auditor.AuditorState()
    computed = False
    for event in events:
        computed = computed or isinstance(event, auditor.Recomputed)
        state, effects = auditor.step(state, event)
        for effect in effects:
            if isinstance(effect, Attest | auditor.SubmitResolve):
                assert computed
            if isinstance(effect, auditor.SubmitResolve):
                view = state.jobs.round(effect.work.key)
                assert view is not None
                assert view.phase == AUDIT


def test_a_verdict_that_is_refused_is_not_stated_for_ever() -> None:
    """Each refusal makes the account's next transaction dearer."""
    state = auditor.AuditorState(seat=SEAT)
    state, _ = play(auditor.step, state, ChainAdvanced(story(OPENED), NOW), auditor.Recomputed(WORK, GOOD))
    tries = 0
    while tries < 50:
        state, effects = play(auditor.step, state, SubmissionFailed(auditor.SubmitResolve(WORK, GOOD), "refused"))
        if not effects:
            break
        tries += 1
    assert 1 <= tries < auditor.FAILURES_MAX


def test_after_an_audit_the_deadline_is_the_audit_s_as_in_the_contract() -> None:
    """Else everybody would send an `expire` that reverts, again and again."""
    decided = story(OPENED, b.Audited(*KEY, bytes(32), *WORK[1:], GOOD), b.MajorityReached(*KEY, GOOD, 2, 2000))
    settled = fold(decided, [b.RoundSettled(*KEY, GOOD, 2)], 9, 1000)
    view = settled.round(KEY)
    assert view is not None
    assert view.deadline == OPENED.deadline
