"""The learning server: looks after the jobs that this node's account owns.

    majority reached   UnmaskModel -> ModelReady -> Score -> Scored -> SubmitFinalise(stop = goal reached), as soon as
                       nobody may appeal against it any more
    deadline passed    SubmitExpire, and after the last call SubmitClose

The contract judges; the server only publishes the model, measures it and moves the phases on. Anybody else may do the
latter after the job's grace period, so a dead server delays its job and cannot kill it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from learner.manifest import Manifest
from node.frozen import put
from node.jobs import NO_JOBS, REVEAL, Jobs, JobView, Key, RoundView
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
    overdue,
)

FAILURES_MAX: Final = 5  # of a round's steps, each after a longer pause; then it is finalised without a score


@dataclass(frozen=True, slots=True)
class ModelReady:
    """The round's model is in the blob store and served."""

    key: Key


@dataclass(frozen=True, slots=True)
class Scored:
    """`correct` of `total` test samples; exact integers."""

    key: Key
    update: bytes
    correct: int
    total: int


@dataclass(frozen=True, slots=True)
class StepFailed:
    key: Key
    reason: str


Event = (
    ChainAdvanced | TimeReached | ManifestReady | ManifestRefused | ModelReady | Scored | StepFailed | SubmissionFailed
)


@dataclass(frozen=True, slots=True)
class UnmaskModel:
    key: Key
    ciphertext: bytes
    ctx: bytes
    mask: bytes
    update: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Score:
    key: Key
    manifest: Manifest
    update: bytes


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the open round's settlement has come here."""

    stage: str = "new"
    failures: int = 0
    update: bytes | None = None  # the majority that it is about; an audit may bring another


@dataclass(frozen=True, slots=True)
class ServerState:
    """`scores` are (correct, total) by update digest; they may be handed in again after a restart."""

    address: bytes
    jobs: Jobs = NO_JOBS
    now: float = 0.0
    manifests: Mapping[int, Manifest | str | None] = field(default_factory=dict)
    progress: Mapping[Key, Progress] = field(default_factory=dict)
    scores: Mapping[bytes, tuple[int, int]] = field(default_factory=dict)
    wake: float | None = None


def step(state: ServerState, event: Event) -> tuple[ServerState, tuple[Effect, ...]]:
    """Take in one event and decide what to do about it."""
    state = _observe(state, event)
    effects: list[Effect] = []
    wake: float | None = None
    for job in state.jobs.by_id.values():
        if job.owner != state.address:
            continue
        if job.job not in state.manifests:
            state = replace(state, manifests=put(state.manifests, job.job, None))
            effects.append(FetchManifest(job.job, job.posted.manifest))
        if (due := job.end_due) is not None:
            if state.now >= due + DEADLINE_MARGIN_S:
                effects.append(SubmitEnd(job.job))
            else:
                wake = due + DEADLINE_MARGIN_S if wake is None else min(wake, due + DEADLINE_MARGIN_S)
        for key, view in sorted(job.open.items()):
            if view.phase == REVEAL and view.majority is not None:
                state = _settle(state, job, key, view, effects)
                due = view.appeals_until(job.posted.terms) + DEADLINE_MARGIN_S
                if state.now < due:
                    wake = due if wake is None else min(wake, due)
            elif isinstance(action := overdue(view, state.now, patience_s=0), WakeAt):
                wake = action.time if wake is None else min(wake, action.time)
            elif action is not None:
                effects.append(action)
    if wake is not None and wake != state.wake:
        effects.append(WakeAt(wake))
        state = replace(state, wake=wake)
    return state, tuple(effects)


def _observe(state: ServerState, event: Event) -> ServerState:
    match event:
        case ChainAdvanced():
            kept = {key: p for key, p in state.progress.items() if event.jobs.round(key) is not None}
            return replace(state, jobs=event.jobs, now=event.now, progress=kept)
        case TimeReached():
            return replace(state, now=event.now, wake=None)
        case ManifestReady():
            return replace(state, manifests=put(state.manifests, event.job, event.manifest))
        case ManifestRefused():
            return replace(state, manifests=put(state.manifests, event.job, event.reason))
        case ModelReady():
            return _progress(state, event.key, "ready")
        case Scored():
            scores = put(state.scores, event.update, (event.correct, event.total))
            return _progress(replace(state, scores=scores), event.key, "ready")
        case StepFailed(key=key):
            return _progress(state, key, "new", failed=True)
        case SubmissionFailed(effect=SubmitFinalise(key=key)):
            return _progress(state, key, "ready")
    return state


def _settle(state: ServerState, job: JobView, key: Key, view: RoundView, effects: list[Effect]) -> ServerState:
    """Publish the model of a decided round, measure it, finalise the round."""
    progress = state.progress.get(key, Progress())
    if progress.update != view.majority:
        progress = Progress(update=view.majority)
        state = replace(state, progress=put(state.progress, key, progress))
    manifest = state.manifests.get(key.job)
    assert view.majority is not None
    appealable = state.now < view.appeals_until(job.posted.terms) + DEADLINE_MARGIN_S
    unscored = (manifest is not None and not isinstance(manifest, Manifest)) or progress.failures >= FAILURES_MAX
    if unscored and progress.stage in ("new", "ready"):
        if appealable:
            return state
        effects.append(SubmitFinalise(key, stop=False))
        return _progress(state, key, "finalising")
    if not isinstance(manifest, Manifest):
        return state
    if progress.stage == "new":
        reveal = next(r for r in view.reveals.values() if r.update_digest == view.majority)
        effects.append(
            UnmaskModel(key, reveal.ciphertext, reveal.ctx, reveal.mask, view.majority, job.posted.update_size)
        )
        return _progress(state, key, "unmasking")
    if progress.stage == "ready":
        score = state.scores.get(view.majority)
        if score is None:
            effects.append(Score(key, manifest, view.majority))
            return _progress(state, key, "scoring")
        if appealable:
            return state
        effects.append(SubmitFinalise(key, stop=manifest.goal is not None and manifest.goal.reached(*score)))
        return _progress(state, key, "finalising")
    return state


def _progress(state: ServerState, key: Key, stage: str, failed: bool = False) -> ServerState:
    if state.jobs.round(key) is None:
        return state
    known = state.progress.get(key, Progress())
    return replace(state, progress=put(state.progress, key, Progress(stage, known.failures + failed, known.update)))
