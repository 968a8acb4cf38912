"""Jobs as the API shows them: the read model's frozen values in, schema structs out. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from chain.contracts import bindings as b
from learner.manifest import Manifest
from node.api import schema
from node.jobs import AUDIT, COMMIT, REVEAL, SETTLED, JobView, RoundView

NOWHERE: Final = "neither here nor at a connected peer"


@dataclass(frozen=True, slots=True)
class Known:
    """What this node knows of a job besides its logs.

    Attributes:
        scores: (correct, total) by update digest.
        missing: CIDs of blobs that this node looks for in vain, by digest.
        deposit: (free, locked) wei of a worker.
        seen_at: round -> this node's clock when it saw the round settled.
        declined: why this node will not work on it.
    """

    scores: Mapping[bytes, tuple[int, int]]
    manifest: Manifest | None
    missing: Mapping[bytes, str]
    deposit: Callable[[bytes], tuple[int, int]]
    escrow: int
    posted_at: int
    seen_at: Mapping[int, float]
    declined: str | None = None


def summary(job: JobView, scores: Mapping[bytes, tuple[int, int]]) -> schema.JobSummary:
    """One line about a job."""
    phase, number, attempt = _place(job)
    accuracy = _accuracies(job, scores)
    terms = job.posted.terms
    return schema.JobSummary(
        id=job.job, kind="replicated", owner=_hex(job.owner), state=job.state, phase=phase, round=number,
        attempt=attempt, rounds_settled=len(job.history), rounds_max=job.rounds_max, enrolled=job.enrolled(),
        accuracy=accuracy[-1][1] if accuracy else None, reward_wei=str(terms.reward), deadline=terms.deadline,
        end_reason=job.ended,
    )  # fmt: skip


def detail(job: JobView, known: Known) -> schema.JobDetail:
    """Everything about a job."""
    phase, number, attempt = _place(job)
    current = None if job.current is None else job.open.get(job.current)
    goal = None if known.manifest is None else known.manifest.goal
    score = known.scores.get(job.base)
    return schema.JobDetail(
        id=job.job, kind="replicated", owner=_hex(job.owner), manifest=_hex(job.posted.manifest), terms=_terms(job),
        state=job.state, phase=phase, round=number, attempt=attempt, base=_hex(job.base),
        rounds_settled=len(job.history), rounds_unclosed=len(job.open), void_rounds=job.void_rounds,
        enrolled=job.enrolled(), slots=[] if current is None else _slots(current),
        workers=[_worker(job, address, known.deposit(address)) for address in job.records],
        rounds=_rounds(job, known), accuracy=_accuracies(job, known.scores), escrow_wei=str(known.escrow),
        posted_at=known.posted_at, goal_accuracy=None if goal is None else goal.at_least,
        goal_reached=goal is not None and score is not None and goal.reached(*score), end_reason=job.ended,
        phase_deadline_at=None if current is None else current.deadline,
        dataset=None if known.manifest is None else _hex(known.manifest.dataset),
        waiting_for=_waits_for(job, current, known), declined=known.declined,
    )  # fmt: skip


def _accuracies(job: JobView, scores: Mapping[bytes, tuple[int, int]]) -> list[tuple[int, float]]:
    return [(s.round, scores[s.update][0] / scores[s.update][1]) for s in job.history if s.update in scores]


def _rounds(job: JobView, known: Known) -> list[schema.RoundInfo]:
    accuracy = dict(_accuracies(job, known.scores))
    unclosed = {(key.round, key.attempt) for key in job.open}
    rounds = [
        schema.RoundInfo(
            round=s.round, attempt=s.attempt, phase="SETTLED" if (s.round, s.attempt) in unclosed else "CLOSED",
            opened_at=s.opened_at, slots=s.slots, commits=s.commits, reveals=s.reveals, update_digest=_hex(s.update),
            votes=s.votes, settled_number=s.block_number, settled_at=s.settled_at,
            settled_seen_at=known.seen_at.get(s.round), accuracy=accuracy.get(s.round),
        )
        for s in job.history
    ]  # fmt: skip
    if job.current is not None and (view := job.open.get(job.current)) is not None:
        rounds.append(
            schema.RoundInfo(
                round=view.key.round, attempt=view.key.attempt, phase=view.phase, opened_at=view.opened_at,
                slots=len(view.workers), commits=len(view.commits), reveals=len(view.reveals),
            )
        )  # fmt: skip
    return rounds


def _worker(job: JobView, address: bytes, deposit: tuple[int, int]) -> schema.WorkerInfo:
    record, (free, locked) = job.records[address], deposit
    return schema.WorkerInfo(
        address=_hex(address), enrolled=record.enrolled, slots_held=record.slots,
        rounds_in_majority=record.rounds_in_majority, earned_wei=str(record.earned),
        forfeited_wei=str(record.forfeited), deposit_wei=str(free), locked_wei=str(locked),
    )  # fmt: skip


def _place(job: JobView) -> tuple[schema.Phase, int, int]:
    """(phase, round, attempt) of the open attempt, else of the last one settled."""
    if job.current is not None and (view := job.open.get(job.current)) is not None:
        return view.phase, view.key.round, view.key.attempt
    if job.history:
        last = job.history[-1]
        unclosed = any(key[1:] == (last.round, last.attempt) for key in job.open)
        return "SETTLED" if unclosed else "CLOSED", last.round, last.attempt
    return "WAITING", 0, 0


def _slots(view: RoundView) -> list[schema.Slot]:
    slots = []
    for worker in view.workers:
        reveal = view.reveals.get(worker)
        state: schema.SlotState = "drawn"
        if reveal is not None:
            state = "revealed"
            if view.majority is not None:
                state = "majority" if reveal.update_digest == view.majority else "minority"
        elif worker in view.commits:
            state = "committed"
        elif view.phase in (REVEAL, AUDIT, SETTLED):
            state = "absent"
        slots.append(schema.Slot(_hex(worker), state, None if reveal is None else _hex(reveal.update_digest)))
    return slots


def _waits_for(job: JobView, current: RoundView | None, known: Known) -> str | None:
    if job.ended is not None:
        return "late reveals of its last rounds" if job.open else None
    if job.posted.manifest in known.missing:
        return f"manifest {known.missing[job.posted.manifest]}: {NOWHERE}"
    if known.manifest is not None and known.manifest.dataset in known.missing:
        return f"dataset {known.missing[known.manifest.dataset]}: {NOWHERE}"
    if current is None:
        return f"workers: {job.enrolled()} enrolled, {job.posted.terms.workers_min} needed"
    if current.phase == COMMIT:
        return f"commits: {len(current.commits)} of {len(current.workers)}"
    if current.phase == AUDIT:
        return "validators, to compute the round again"
    if current.majority is None:
        return f"reveals: {len(current.reveals)} of {len(current.commits)}"
    if current.appeals_until(job.posted.terms):
        return "appeals, and then its owner, to finalise the round"
    return "its owner, to finalise the round"


def _terms(job: JobView) -> schema.Terms:
    p = job.posted.terms
    return schema.Terms(
        reward_wei=str(p.reward), stake_wei=str(p.stake), slots=p.slots, workers_min=p.workers_min,
        rounds_max=job.rounds_max, attempts_max=p.attempts_max, commit_window_s=p.commit_window_s,
        reveal_window_s=p.reveal_window_s, last_call_s=p.last_call_s, grace_s=p.grace_s, deadline=p.deadline,
        auto_finalise=p.auto_finalise, audit_ppm=p.audit_ppm, audit_window_s=p.audit_window_s,
        audit_fee_wei=str(p.audit_fee), appeal_window_s=p.appeal_window_s, appeal_bond_wei=str(p.appeal_bond),
    )  # fmt: skip


def contract_terms(terms: schema.Terms) -> b.Terms:
    """What `post` is sent for a job as it was submitted."""
    return b.Terms(
        reward=int(terms.reward_wei), stake=int(terms.stake_wei), slots=terms.slots, workers_min=terms.workers_min,
        rounds_max=terms.rounds_max, attempts_max=terms.attempts_max, commit_window_s=terms.commit_window_s,
        reveal_window_s=terms.reveal_window_s, last_call_s=terms.last_call_s, grace_s=terms.grace_s,
        deadline=terms.deadline, auto_finalise=terms.auto_finalise, audit_ppm=terms.audit_ppm,
        audit_window_s=terms.audit_window_s, audit_fee=int(terms.audit_fee_wei),
        appeal_window_s=terms.appeal_window_s, appeal_bond=int(terms.appeal_bond_wei),
    )  # fmt: skip


def _hex(data: bytes) -> str:
    return "0x" + data.hex()
