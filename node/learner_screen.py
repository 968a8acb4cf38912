"""What the learner is doing, and what status says about it."""

from __future__ import annotations

from dataclasses import dataclass

from node.api import schema
from node.api.schema import LearnerState
from node.jobs import Key
from node.learner_pool import Learner


@dataclass
class Activity:
    """What the learner is doing, for status."""

    state: LearnerState = "off"
    key: Key | None = None
    step: int = 0
    steps: int = 0


def learner_info(activity: Activity, learner: Learner | None) -> schema.LearnerInfo:
    """The learner's state, its walls, and why it does no jobs if it does none."""
    ready = None if learner is None else learner.ready
    state: LearnerState = activity.state
    if learner is not None and learner.unfit:
        state = "failed"
    elif learner is not None and ready is None:
        state = "starting"
    key = activity.key
    return schema.LearnerInfo(
        state=state,
        job=None if key is None else key.job,
        round=None if key is None else key.round,
        step=activity.step,
        steps=activity.steps,
        device="" if ready is None else ready.device,
        backend="" if ready is None else ready.backend,
        reason="" if learner is None else learner.unfit,
        walls_missing=[] if ready is None else list(ready.walls.missing),
    )
