"""Events and effects that more than one role machine knows.

A role is `step(state, event) -> (state, effects)`: pure, no clock, no randomness, no I/O. The driver carries effects
out and feeds what came of them back. A machine that starts from nothing reads the same finalised chain and reaches
the same decisions, so no role keeps a diary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from learner.manifest import Manifest
from node.jobs import AUDIT, COMMIT, REVEAL, SETTLED, Jobs, Key, RoundView

DEADLINE_MARGIN_S = 1  # block timestamps are whole seconds and may lag behind this clock by one


@dataclass(frozen=True, slots=True)
class ChainAdvanced:
    """A block became final; `now` is the wall clock in unix seconds."""

    jobs: Jobs
    now: float


@dataclass(frozen=True, slots=True)
class TimeReached:
    """A time that a `WakeAt` asked for has come."""

    now: float


@dataclass(frozen=True, slots=True)
class ManifestReady:
    job: int
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ManifestRefused:
    """The manifest is malformed, or asks for more than this node gives; `reason` is shown by `flnode status`."""

    job: int
    reason: str


@dataclass(frozen=True, slots=True)
class SubmissionFailed:
    """A transaction of ours was refused, or was included and reverted."""

    effect: Effect
    reason: str


@dataclass(frozen=True, slots=True)
class FetchManifest:
    job: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class SubmitFinalise:
    key: Key
    stop: bool


@dataclass(frozen=True, slots=True)
class SubmitExpire:
    key: Key
    phase: str  # each phase may be expired once


@dataclass(frozen=True, slots=True)
class SubmitClose:
    key: Key
    phase: str


@dataclass(frozen=True, slots=True)
class SubmitEnd:
    """End a job that waits past its deadline, so that its escrow and deposits come free."""

    job: int


@dataclass(frozen=True, slots=True)
class Attest:
    """Sign what this validator found out about a claim."""

    digest: bytes
    verdict: bool


@dataclass(frozen=True, slots=True)
class WakeAt:
    time: float


Effect = object


def overdue(view: RoundView, now: float, patience_s: float) -> SubmitExpire | SubmitClose | WakeAt | None:
    """What moves a round whose deadline has passed, or when to look again.

    Args:
        patience_s: how long to leave it to others (0 for the learning server).
    """
    if view.phase == REVEAL and view.majority is not None:
        return None  # to be finalised, not expired
    if view.phase not in (COMMIT, REVEAL, AUDIT, SETTLED):
        return None
    due = (view.last_call_until or view.deadline) + DEADLINE_MARGIN_S + patience_s
    if now < due:
        return WakeAt(due)
    return SubmitClose(view.key, view.phase) if view.last_call_until else SubmitExpire(view.key, view.phase)


def held(jobs: Jobs, address: bytes) -> Iterator[tuple[Key, RoundView]]:
    """The open round attempts in which `address` holds a slot, oldest first."""
    for job in jobs.by_id.values():
        for key, view in sorted(job.open.items()):
            if address in view.workers:
                yield key, view
