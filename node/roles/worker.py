"""The worker: enrols, trains for the slots it is drawn into, commits masked, reveals.

    slot held, COMMIT      Train -> Trained -> Mask -> Masked -> SubmitCommit
    own commit, REVEAL     SubmitReveal (after a restart first Recover, which unmasks the own ciphertext)
    own reveal final       PublishUpdate: M may be served now, anyone could unmask it
    majority is another    SubmitAppeal, where the terms allow it: somebody is wrong, and it is not us
    round left behind      Abandon

What was asked for and has not come back is in `Task.stage`, so that nothing is asked for twice; whether it *worked*
is read from the chain alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from learner.manifest import Manifest
from node.frozen import put
from node.jobs import AUDIT, COMMIT, NO_JOBS, REVEAL, SETTLED, Jobs, JobView, Key, RoundView
from node.roles.common import (
    DEADLINE_MARGIN_S,
    ChainAdvanced,
    Effect,
    FetchManifest,
    ManifestReady,
    ManifestRefused,
    SubmissionFailed,
    SubmitEnd,
    SubmitFinalise,
    TimeReached,
    WakeAt,
    held,
    overdue,
)

FAILURES_MAX: Final = 7  # per task, each after a longer pause; then the slot is given up and its stake with it


@dataclass(frozen=True, slots=True)
class Trained:
    key: Key
    update: bytes  # blob digest of M, kept private


@dataclass(frozen=True, slots=True)
class Masked:
    key: Key
    ciphertext: bytes  # blob digest of C, public


@dataclass(frozen=True, slots=True)
class WorkFailed:
    key: Key
    reason: str


Event = ChainAdvanced | TimeReached | ManifestReady | ManifestRefused | Trained | Masked | WorkFailed | SubmissionFailed


@dataclass(frozen=True, slots=True)
class Enrol:
    job: int
    deposit: int  # wei


@dataclass(frozen=True, slots=True)
class Train:
    key: Key
    manifest: Manifest
    base: bytes
    batch_seed: bytes


@dataclass(frozen=True, slots=True)
class Mask:
    key: Key
    update: bytes


@dataclass(frozen=True, slots=True)
class SubmitCommit:
    key: Key
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class Recover:
    """Unmask the own ciphertext: answered by Trained."""

    key: Key
    ciphertext: bytes


@dataclass(frozen=True, slots=True)
class SubmitReveal:
    key: Key
    ciphertext: bytes
    update: bytes


@dataclass(frozen=True, slots=True)
class SubmitAppeal:
    key: Key
    bond: int  # wei


@dataclass(frozen=True, slots=True)
class PublishUpdate:
    key: Key
    update: bytes


@dataclass(frozen=True, slots=True)
class Abandon:
    """Cancel whatever runs for this round attempt."""

    key: Key


@dataclass(frozen=True, slots=True)
class Task:
    """One slot's work: `stage` is the last effect asked for."""

    stage: str = "new"
    update: bytes | None = None
    failures: int = 0
    published: bool = False
    appealed: bool = False


@dataclass(frozen=True, slots=True)
class WorkerState:
    """
    Attributes:
        deposit_stakes: the standing deposit, as a multiple of a job's stake.
        deposit_max: wei; a job that asks for more is left alone.
        enrol: whether to enrol in every open job that can be done here.
        appeal_max: wei; the largest bond to put on an update of our own against a majority.
    """

    address: bytes
    enrol: bool = True
    deposit_stakes: int = 16
    deposit_max: int = 10**30
    appeal_max: int = 10**18
    jobs: Jobs = NO_JOBS
    now: float = 0.0
    manifests: Mapping[int, Manifest | str | None] = field(default_factory=dict)  # asked for: None; refused: why
    enrolling: frozenset[int] = frozenset()
    tasks: Mapping[Key, Task] = field(default_factory=dict)
    wake: float | None = None


def step(state: WorkerState, event: Event) -> tuple[WorkerState, tuple[Effect, ...]]:
    """Take in one event and decide what to do about it."""
    state = observe(state, event)
    effects: list[Effect] = []
    state = join_jobs(state, effects)
    for key, view in held(state.jobs, state.address):
        state = _work(state, key, view, effects)
    state = leave_behind(state, effects)
    return _keep_rounds_moving(state, effects), tuple(effects)


def observe(state: WorkerState, event: Event) -> WorkerState:
    """Take in one event, without consequences."""
    match event:
        case ChainAdvanced():
            return replace(state, jobs=event.jobs, now=event.now)
        case TimeReached():
            return replace(state, now=event.now, wake=None)
        case ManifestReady():
            return replace(state, manifests=put(state.manifests, event.job, event.manifest))
        case ManifestRefused():
            return replace(state, manifests=put(state.manifests, event.job, event.reason))
        case Trained() if event.key in state.tasks:
            return set_task(state, event.key, stage="trained", update=event.update)
        case Masked() if event.key in state.tasks:
            return set_task(state, event.key, stage="masked:" + event.ciphertext.hex())
        case WorkFailed() if event.key in state.tasks:  # from the start: what it made so far may be what is wrong
            task = state.tasks[event.key]
            return set_task(state, event.key, stage="new", update=None, failures=task.failures + 1)
        case SubmissionFailed(effect=SubmitCommit() | SubmitReveal() as effect) if effect.key in state.tasks:
            return _refused(state, effect.key)
        case SubmissionFailed(effect=Enrol() as effect):
            return replace(state, enrolling=state.enrolling - {effect.job})
    return state


def join_jobs(state: WorkerState, effects: list[Effect]) -> WorkerState:
    """Enrol once in each open job; a worker that was evicted or left does not come back by itself."""
    for job in state.jobs.by_id.values():
        known = state.address in job.records
        if job.ended or not (known or state.enrol):
            continue
        if job.job not in state.manifests:
            state = replace(state, manifests=put(state.manifests, job.job, None))
            effects.append(FetchManifest(job.job, job.posted.manifest))
        elif job.job not in state.enrolling and _accepts(state, job):
            if not known:
                deposit = job.posted.terms.stake * state.deposit_stakes
            elif job.records[state.address].enrolled and job.state == "waiting" and job.is_manned:
                deposit = 0  # enough are enrolled, yet the last draw found too few: have it draw again
            else:
                continue
            state = replace(state, enrolling=state.enrolling | {job.job})
            effects.append(Enrol(job.job, deposit))
    return state


def _accepts(state: WorkerState, job: JobView) -> bool:
    """Whether to have a deposit in a job: it can be done here, it is still open, and it does not ask for too much."""
    terms = job.posted.terms
    lively = not job.cancelled and state.now < terms.deadline
    return lively and terms.stake * state.deposit_stakes <= state.deposit_max and _is_doable(state, job)


def _is_doable(state: WorkerState, job: JobView) -> bool:
    return isinstance(state.manifests.get(job.job), Manifest)


def _work(state: WorkerState, key: Key, view: RoundView, effects: list[Effect]) -> WorkerState:
    """Push one held slot a step further."""
    task = state.tasks.get(key, Task())
    manifest = state.manifests.get(key.job)
    commit = view.commits.get(state.address)
    if task.failures >= FAILURES_MAX or not isinstance(manifest, Manifest):
        return state
    if commit is None:
        if view.phase != COMMIT:
            return state
        match task.stage.partition(":"):
            case ("new", _, _):
                effects.append(Train(key, manifest, view.base, view.batch_seed))
                return set_task(state, key, stage="training")
            case ("trained", _, _) if task.update is not None:
                effects.append(Mask(key, task.update))
                return set_task(state, key, stage="masking")
            case ("masked", _, ciphertext):
                effects.append(SubmitCommit(key, bytes.fromhex(ciphertext)))
                return set_task(state, key, stage="committing")
    elif state.address not in view.reveals:
        if view.phase not in (REVEAL, AUDIT, SETTLED):
            return state
        if task.update is None and task.stage != "recovering":
            effects.append(Recover(key, commit.ciphertext))
            return set_task(state, key, stage="recovering")
        if task.update is not None and task.stage != "revealing":
            effects.append(SubmitReveal(key, commit.ciphertext, task.update))
            return set_task(state, key, stage="revealing")
    else:
        if task.update is not None and not task.published:
            effects.append(PublishUpdate(key, task.update))
            state = set_task(state, key, published=True)
        if not task.appealed and _is_wronged(state, key, view):
            effects.append(SubmitAppeal(key, state.jobs.by_id[key.job].posted.terms.appeal_bond))
            state = set_task(state, key, appealed=True)
    return state


def _is_wronged(state: WorkerState, key: Key, view: RoundView) -> bool:
    """Whether a majority that may be appealed against, at a price we pay, is not what we have computed."""
    terms = state.jobs.by_id[key.job].posted.terms
    differs = view.reveals[state.address].update_digest != view.majority
    return differs and terms.appeal_bond <= state.appeal_max and state.now < view.appeals_until(terms)


def leave_behind(state: WorkerState, effects: list[Effect]) -> WorkerState:
    """Forget tasks of attempts that are over, and stop training that can no longer be committed."""
    kept = dict(state.tasks)
    for key, task in state.tasks.items():
        view = state.jobs.round(key)
        if view is None:
            if task.update is not None and not task.published and _won(state.jobs, key, task.update):
                effects.append(PublishUpdate(key, task.update))
            effects.append(Abandon(key))
            del kept[key]
        elif task.stage in ("training", "masking", "committing") and view.phase != COMMIT:
            if state.address not in view.commits:
                effects.append(Abandon(key))
                kept[key] = replace(task, stage="late")
            elif task.stage != "committing":
                kept[key] = replace(task, stage="new")
    return replace(state, tasks=kept)


def _won(jobs: Jobs, key: Key, update: bytes) -> bool:
    job = jobs.by_id.get(key.job)
    return job is not None and any((s.round, s.attempt, s.update) == (*key[1:], update) for s in job.history)


def _keep_rounds_moving(state: WorkerState, effects: list[Effect]) -> WorkerState:
    """When the owner does not act, a slot holder does, after the job's grace period."""
    wake: float | None = None
    for key, view in held(state.jobs, state.address):
        grace = state.jobs.by_id[key.job].posted.terms.grace_s
        action: Effect | None = overdue(view, state.now, patience_s=grace)
        if view.phase == REVEAL and view.majority is not None:
            due = view.grace_until + DEADLINE_MARGIN_S
            action = SubmitFinalise(key, stop=False) if state.now >= due else WakeAt(due)
        if isinstance(action, WakeAt):
            wake = action.time if wake is None else min(wake, action.time)
        elif action is not None:
            effects.append(action)
    for job in state.jobs.by_id.values():
        if state.address in job.records and job.end_due is not None:
            due = job.end_due + DEADLINE_MARGIN_S + job.posted.terms.grace_s
            if state.now >= due:
                effects.append(SubmitEnd(job.job))
            else:
                wake = due if wake is None else min(wake, due)
    if wake is not None and wake != state.wake:
        effects.append(WakeAt(wake))
        return replace(state, wake=wake)
    return state


def _refused(state: WorkerState, key: Key) -> WorkerState:
    """A submission failed: what was to be submitted stands."""
    task = state.tasks[key]
    return set_task(state, key, stage="new" if task.update is None else "trained", failures=task.failures + 1)


def set_task(state: WorkerState, key: Key, **change: Any) -> WorkerState:
    return replace(state, tasks=put(state.tasks, key, replace(state.tasks.get(key, Task()), **change)))
