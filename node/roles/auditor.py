"""The auditor: the side job of a validator that has a learner. It computes audited rounds again and says what came out.

    audit opened, final      Recompute -> Recomputed
    recomputed, and it is this validator's turn
                             SubmitResolve: whoever is first in line at once, the others after a patience each
    somebody's verdict found in a transaction that is executable on our tip
                             Attest(verdict), once recomputed here
    audit over               CancelRecompute

What cannot be computed here (no blob, a job that this machine declines, a fee below the operator's least) is "unknown":
nothing is said, and the audit may lapse. A validator without a learner has no auditor, and says nothing either.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from chain.types import AuditClaim
from node.frozen import put
from node.jobs import AUDIT, NO_JOBS, Jobs, JobView, Key, RoundView
from node.roles.common import Attest, ChainAdvanced, Effect, SubmissionFailed, TimeReached, WakeAt

PATIENCE_S: Final = 3.0  # with each validator that comes before this one
PATIENCE_BLOCKS: Final = 32  # for an audit that is found on the tip to become final
FAILURES_MAX: Final = 12  # of a computation, each after a longer pause, seven minutes in all; then it is unknown
WORKS_MAX: Final = 1024  # rounds remembered; more are left to the other validators


class Work(NamedTuple):
    """All that it takes to compute a round again; two forks may have a round of one key that differ in it."""

    key: Key
    manifest: bytes
    base: bytes
    batch_seed: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Seated:
    """This validator is number `index` of `count`, in a new epoch."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class VerdictFound:
    digest: bytes  # claims.claim_digest
    claim: AuditClaim


@dataclass(frozen=True, slots=True)
class Recomputed:
    work: Work
    update: bytes  # blob digest


@dataclass(frozen=True, slots=True)
class RecomputeFailed:
    """It could not be computed now; `final`: nor ever here."""

    work: Work
    final: bool
    reason: str


Event = ChainAdvanced | TimeReached | Seated | VerdictFound | Recomputed | RecomputeFailed | SubmissionFailed


@dataclass(frozen=True, slots=True)
class Recompute:
    work: Work


@dataclass(frozen=True, slots=True)
class CancelRecompute:
    key: Key


@dataclass(frozen=True, slots=True)
class SubmitResolve:
    work: Work
    update: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a round has been computed again.

    Attributes:
        number: the block that was final when it was first heard of.
        seen: whether its audit was open on the finalised chain.
        asked: whether a computation or a submission runs.
        update: what it gave, and `at`, when (unix seconds).
        claims: others' verdicts on it, by claim digest; None while it is not known whether they are true.
    """

    number: int
    seen: bool = False
    asked: bool = False
    failures: int = 0
    update: bytes | None = None
    at: float = 0.0
    submitted: bool = False
    claims: Mapping[bytes, bytes] = field(default_factory=dict)  # claim digest -> the update that it states


@dataclass(frozen=True, slots=True)
class AuditorState:
    """
    Attributes:
        fee_min: wei; audits that pay less are left alone.
    """

    fee_min: int = 0
    seat: Seated | None = None
    jobs: Jobs = NO_JOBS
    now: float = 0.0
    works: Mapping[Work, Progress] = field(default_factory=dict)
    wake: float | None = None


def step(state: AuditorState, event: Event) -> tuple[AuditorState, tuple[Effect, ...]]:
    """Take in one event and decide what to do about it."""
    effects: list[Effect] = []
    state = _observe(state, event, effects)
    state = _take_up(state)
    state = _forget(state, effects)
    return _go_on(state, effects), tuple(effects)


def _observe(state: AuditorState, event: Event, effects: list[Effect]) -> AuditorState:
    match event:
        case ChainAdvanced():
            return replace(state, jobs=event.jobs, now=event.now)
        case TimeReached():
            return replace(state, now=event.now, wake=None)
        case Seated():
            return replace(state, seat=event)
        case VerdictFound():
            return _found(state, event, effects)
        case Recomputed(work=work) if work in state.works:
            for digest, stated in state.works[work].claims.items():
                effects.append(Attest(digest, stated == event.update))
            return _put(state, work, replace(state.works[work], asked=False, update=event.update, at=state.now))
        case RecomputeFailed(work=work) if work in state.works:
            known = state.works[work]
            failures = FAILURES_MAX if event.final else known.failures + 1
            return _put(state, work, replace(known, asked=False, failures=failures))
        case SubmissionFailed(effect=SubmitResolve(work=work)) if work in state.works:
            known = state.works[work]  # others may differ, and each refusal makes this account's next call dearer
            return _put(state, work, replace(known, submitted=False, at=state.now, failures=known.failures + 1))
    return state


def _found(state: AuditorState, event: VerdictFound, effects: list[Effect]) -> AuditorState:
    """Somebody's verdict: say whether it is true, now or once that is known."""
    claim = event.claim
    key = Key(claim.job, claim.round, claim.attempt)
    work = Work(key, claim.manifest, claim.base, claim.batch_seed, claim.size)
    known = state.works.get(work)
    if known is None:
        job = state.jobs.by_id.get(key.job)
        if job is None or not _wanted(state, job):
            return state
        known = Progress(state.jobs.number)
    if known.update is not None:
        effects.append(Attest(event.digest, claim.update == known.update))
    return _put(state, work, replace(known, claims=put(known.claims, event.digest, claim.update)))


def _take_up(state: AuditorState) -> AuditorState:
    """Whatever is being audited on the finalised chain."""
    for job in state.jobs.by_id.values():
        if not _wanted(state, job):
            continue
        for key, view in job.open.items():
            if view.phase == AUDIT:
                work = Work(key, job.posted.manifest, view.base, view.batch_seed, job.posted.update_size)
                known = state.works.get(work, Progress(state.jobs.number))
                if not known.seen:
                    state = _put(state, work, replace(known, seen=True))
    return state


def _wanted(state: AuditorState, job: JobView) -> bool:
    return job.posted.terms.audits and job.posted.terms.audit_fee >= state.fee_min


def _forget(state: AuditorState, effects: list[Effect]) -> AuditorState:
    """Audits that are over, and those that were found on a tip which did not become final."""
    kept = {}
    for work, known in state.works.items():
        open_now = _audit(state.jobs, work.key) is not None
        if open_now or (not known.seen and state.jobs.number <= known.number + PATIENCE_BLOCKS):
            kept[work] = known
        elif known.asked:
            effects.append(CancelRecompute(work.key))
    return state if len(kept) == len(state.works) else replace(state, works=kept)


def _go_on(state: AuditorState, effects: list[Effect]) -> AuditorState:
    """Compute what was not computed yet, and state what was, when it is this validator's turn."""
    wake: float | None = None
    for work, known in state.works.items():
        if known.update is None:
            if not known.asked and known.failures < FAILURES_MAX:
                effects.append(Recompute(work))
                state = _put(state, work, replace(known, asked=True))
        elif known.seen and not known.submitted and known.failures < FAILURES_MAX and state.seat is not None:
            due = known.at + PATIENCE_S * _places_before(state.seat, work.key)
            if state.now >= due:
                effects.append(SubmitResolve(work, known.update))
                state = _put(state, work, replace(known, submitted=True))
            else:
                wake = due if wake is None else min(wake, due)
    if wake is not None and wake != state.wake:
        effects.append(WakeAt(wake))
        return replace(state, wake=wake)
    return state


def _places_before(seat: Seated, key: Key) -> int:
    """How many validators are before this one in the line for an audit; the line begins with another each round."""
    return (seat.index - sum(key)) % seat.count


def _audit(jobs: Jobs, key: Key) -> RoundView | None:
    """The round, while it is being audited."""
    view = jobs.round(key)
    return view if view is not None and view.phase == AUDIT else None


def _put(state: AuditorState, work: Work, known: Progress) -> AuditorState:
    if work not in state.works and len(state.works) >= WORKS_MAX:
        return state
    return replace(state, works=put(state.works, work, known))
