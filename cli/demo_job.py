"""What the demo trains: the built-in digits, or models over IDX files of the user's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cli.blob import handed_over
from cli.client import Client
from cli.data import HAND_OVER_S, convert_file
from cli.demo_network import MEMBERS
from cli.errors import UserError
from cli.jobfile import job_spec
from learner import data as datasets
from learner.data import Dataset
from node.api import schema

WORKERS: Final = sum(member.works for member in MEMBERS)
DATASET_NAME: Final = "data"
JOB: Final = {
    "dataset": "digits",
    "sizes": [64, 64, 10],
    "batch_size": 32,
    "steps": 30,
    "learning_rate": 0.01,
    "momentum": 0.9,
}
# Every worker holds a slot in every round, so the three honest ones are a majority. A slow machine must not void a
# round, therefore the windows are far longer than anything takes; the reveal window is what the demo waits for at
# its end, because the copier never reveals.
TERMS: Final = {
    "reward": "0.01 flt",
    "stake": "0.1 flt",
    "slots": WORKERS,
    "workers_min": WORKERS,
    "attempts_max": 5,
    "commit_window_s": 120,
    "reveal_window_s": 10,
    "last_call_s": 2,
    "grace_s": 60,
    "deadline_s": 3600,
}
GOAL: Final = 0.951
LIMIT_S: Final = 300.0

# Over IDX files, such as MNIST's. With 7 bits a round takes seconds and the accuracy is that of 14 within a fifth of a
# point (docs/RESULTS.md); as many workers as there are train at once, so the windows allow for a slow machine.
MODELS: Final = ("mlp", "cnn")
IDX_BATCH_SIZE: Final = 64
IDX_JOB: Final[Mapping[str, Mapping[str, Any]]] = {
    "mlp": {"model": "mlp", "steps": 300, "learning_rate": 0.05},
    "cnn": {"model": "cnn", "steps": 100, "learning_rate": 0.02},
}
IDX_TERMS: Final = {**TERMS, "commit_window_s": 900, "reveal_window_s": 30, "deadline_s": 6 * 3600}
IDX_GOALS: Final = {"mlp": 0.97, "cnn": 0.98}
IDX_LIMIT_S: Final = 3600.0
HIDDEN: Final = 128  # of the mlp


@dataclass(frozen=True, slots=True)
class Task:
    """One job of the demo: its tables as in a job file."""

    name: str
    job: Mapping[str, Any]
    terms: Mapping[str, Any]

    @property
    def goal(self) -> float:
        """Accuracy to reach."""
        return float(self.job["goal_accuracy"])

    def spec(self, now: float) -> schema.JobSpec:
        """The job to submit; `now` is Unix time."""
        return job_spec(self.job, self.terms, now, f"the demo's job ({self.name})")


@dataclass(frozen=True, slots=True)
class Work:
    """What a demo does: its tasks in order, and the dataset that they need, unless it is built in."""

    tasks: Sequence[Task]
    dataset: bytes | None = None

    def hand_in(self, client: Client) -> None:
        """Give the dataset to the node that will own the jobs."""
        if self.dataset is None:
            return
        with handed_over(client, self.dataset) as path:
            params = {"path": path, "name": DATASET_NAME}
            client.call("fl_addDataset", schema.DatasetInfo, params, wait_s=HAND_OVER_S)


def plan(folder: Path | None, model: str | None, goal: float | None, seed: int, rounds_max: int) -> Work:
    """The built-in digits, or the models over the IDX files in `folder`, one after the other.

    Args:
        model: one of MODELS; None: all of them.
        goal: accuracy to reach; None: what fits the job.
    Raises:
        UserError: the files are no dataset of images, or a model was named without files.
    """
    if folder is None:
        if model is not None:
            raise UserError("--model is for --data; the built-in digits have a model of their own")
        job = dict(JOB, seed=seed, goal_accuracy=GOAL if goal is None else goal)
        return Work((Task("digits", job, dict(TERMS, rounds_max=rounds_max)),))
    if not folder.is_dir():
        raise UserError(f"--data {folder}: there is no such directory")
    content, _ = convert_file(folder, None, (), None, 0.2, seed, enclosed=True)
    dataset = datasets.decode(content)
    tasks = []
    for name in MODELS if model is None else (model,):
        job = {**IDX_JOB[name], **_shape(name, dataset, folder), "dataset": DATASET_NAME, "momentum": 0.9, "bits": 7}
        job |= {"batch_size": min(IDX_BATCH_SIZE, dataset.train), "seed": seed}
        job["goal_accuracy"] = IDX_GOALS[name] if goal is None else goal
        tasks.append(Task(name, job, dict(IDX_TERMS, rounds_max=rounds_max)))
    return Work(tasks, content)


def _shape(name: str, dataset: Dataset, folder: Path) -> dict[str, Any]:
    """The keys of a job that follow from its samples."""
    if name == "mlp":
        return {"sizes": [dataset.sample_features, HIDDEN, dataset.classes]}
    image = (1,) * (3 - len(dataset.shape)) + dataset.shape
    if len(dataset.shape) < 2 or len(image) > 3 or min(image[1:]) < 4:
        shape = list(dataset.shape)
        raise UserError(f"--data {folder}: samples have the shape {shape}; a cnn needs images of at least 4 x 4")
    return {"input": list(image), "classes": dataset.classes}
