"""Dishonest workers, for development networks, demonstrations and tests.

Both hold their slots like anybody else; what they submit was not trained.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from node.jobs import COMMIT, REVEAL, SETTLED, Key, RoundView
from node.roles import worker
from node.roles.common import Effect, held
from node.roles.worker import SubmitCommit, SubmitReveal, Task, Train, WorkerState


@dataclass(frozen=True, slots=True)
class Fabricate:
    """Make up an update of the right size: answered by worker.Trained."""

    key: Key
    base: bytes


def step_lazy(state: WorkerState, event: worker.Event) -> tuple[WorkerState, tuple[Effect, ...]]:
    """Follows the protocol to the letter, but submits weights that it made up."""
    state, effects = worker.step(replace(state, appeal_max=-1), event)  # it knows who would be found out
    return state, tuple(Fabricate(e.key, e.base) if isinstance(e, Train) else e for e in effects)


def step_copier(state: WorkerState, event: worker.Event) -> tuple[WorkerState, tuple[Effect, ...]]:
    """Commits to the first ciphertext that somebody else committed, and later claims that worker's result."""
    state = worker.observe(state, event)
    effects: list[Effect] = []
    state = worker.join_jobs(state, effects)
    for key, view in held(state.jobs, state.address):
        state = _copy(state, key, view, effects)
    return worker.leave_behind(state, effects), tuple(effects)


def _copy(state: WorkerState, key: Key, view: RoundView, effects: list[Effect]) -> WorkerState:
    task = state.tasks.get(key, Task())
    others = [w for w in view.workers if w != state.address]
    if task.failures:
        return state  # it was found out
    if state.address not in view.commits:
        seen = [view.commits[w].ciphertext for w in others if w in view.commits]
        if view.phase == COMMIT and seen and task.stage == "new":
            effects.append(SubmitCommit(key, seen[0]))
            return worker.set_task(state, key, stage="committing")
    elif state.address not in view.reveals and view.phase in (REVEAL, SETTLED) and task.stage != "revealing":
        revealed = [view.reveals[w].update_digest for w in others if w in view.reveals]
        if revealed:
            effects.append(SubmitReveal(key, view.commits[state.address].ciphertext, revealed[0]))
            return worker.set_task(state, key, stage="revealing")
    return state
