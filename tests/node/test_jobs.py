from __future__ import annotations

from chain.contracts import bindings as b
from node.jobs import COMMIT, REVEAL, SETTLED, Key
from tests.node.jobs_kit import (
    BAD,
    GOOD,
    KEY,
    TERMS,
    WORKERS,
    committed,
    job_of,
    majority,
    opened,
    reveal_opened,
    revealed,
)

ONE, TWO, THREE = WORKERS


def whole_round(*more: b.Event) -> object:
    commits = [committed(w) for w in WORKERS]
    reveals = [revealed(ONE), revealed(TWO), revealed(THREE, BAD)]
    settled = [majority(), b.RoundSettled(*KEY, GOOD, 2)]
    return job_of(opened(), *commits, reveal_opened(), *reveals, *settled, *more).by_id[1]


def test_a_job_waits_runs_and_ends() -> None:
    assert job_of().by_id[1].state == "waiting"
    assert job_of(opened()).by_id[1].state == "running"
    assert job_of(b.JobEnded(1, 3, 0, bytes(32))).by_id[1].state == "ended"
    assert job_of(b.JobEnded(1, 3, 0, bytes(32))).by_id[1].ended == "cancelled"


def test_a_round_goes_through_its_phases() -> None:
    assert job_of(opened()).by_id[1].open[KEY].phase == COMMIT
    assert job_of(opened(), reveal_opened()).by_id[1].open[KEY].phase == REVEAL
    assert whole_round().open[KEY].phase == SETTLED
    assert KEY not in whole_round(b.RoundClosed(*KEY)).open


def test_the_majority_is_paid_and_the_others_forfeit() -> None:
    records = whole_round(b.RoundClosed(*KEY)).records
    assert [records[w].earned for w in WORKERS] == [TERMS.reward, TERMS.reward, 0]
    assert [records[w].forfeited for w in WORKERS] == [0, 0, TERMS.stake]
    assert [records[w].rounds_in_majority for w in WORKERS] == [1, 1, 0]
    assert [records[w].slots for w in WORKERS] == [1, 1, 1]


def test_a_late_reveal_of_a_settled_round_is_paid() -> None:
    job = job_of(
        opened(), *[committed(w) for w in WORKERS], reveal_opened(), revealed(ONE), revealed(TWO), majority(),
        b.RoundSettled(*KEY, GOOD, 2), revealed(THREE), b.RoundClosed(*KEY),
    ).by_id[1]  # fmt: skip
    assert job.records[THREE].earned == TERMS.reward
    assert job.records[THREE].forfeited == 0


def test_who_withholds_forfeits_when_the_round_is_closed_and_not_before() -> None:
    events = [
        opened(), *[committed(w) for w in WORKERS], reveal_opened(), revealed(ONE), revealed(TWO), majority(),
        b.RoundSettled(*KEY, GOOD, 2),
    ]  # fmt: skip
    assert job_of(*events).by_id[1].records[THREE].forfeited == 0
    assert job_of(*events, b.RoundClosed(*KEY)).by_id[1].records[THREE].forfeited == TERMS.stake


def test_a_round_void_in_commit_costs_those_who_did_not_commit() -> None:
    job = job_of(opened(), committed(ONE), b.RoundVoided(*KEY, 1, 0)).by_id[1]
    assert [job.records[w].forfeited for w in WORKERS] == [0, TERMS.stake, TERMS.stake]
    assert job.void_rounds == 1
    assert job.current is None


def test_a_round_void_in_reveal_costs_those_who_did_not_reveal() -> None:
    commits = [committed(w) for w in WORKERS]
    job = job_of(opened(), *commits, reveal_opened(), revealed(ONE, BAD), b.RoundVoided(*KEY, 3, 1)).by_id[1]
    assert [job.records[w].forfeited for w in WORKERS] == [0, TERMS.stake, TERMS.stake]


def test_a_settled_round_needs_a_last_call_of_its_own() -> None:
    call = b.LastCall(*KEY, 1040)
    commits = [committed(w) for w in WORKERS]
    events = [opened(), *commits, reveal_opened(), revealed(ONE), call, revealed(TWO), majority()]
    assert job_of(*events).by_id[1].open[KEY].last_call_until == 1040
    assert job_of(*events, b.RoundSettled(*KEY, GOOD, 2)).by_id[1].open[KEY].last_call_until == 0


def test_the_next_round_builds_on_the_winner() -> None:
    job = whole_round(opened(Key(1, 2, 1), base=GOOD))
    assert job.current == Key(1, 2, 1)
    assert job.base == GOOD
    assert job.history[0].update == GOOD
    assert job.history[0].votes == 2


def test_events_of_unknown_jobs_and_rounds_change_nothing() -> None:
    before = job_of(opened())
    after = job_of(b.RoundClosed(9, 1, 1), b.RoundClosed(1, 7, 7), b.Enrolled(8, ONE, 5), start=before)
    assert after.by_id == before.by_id
