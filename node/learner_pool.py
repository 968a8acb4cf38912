"""The node's side of the learner's process: start it when there is a job, cancel it, replace it when it dies.

One process, one job at a time; further callers wait their turn in order. The process is started by the first call
and stays for the next ones. Leaving `open_learner` kills it and its whole session, whatever it is doing.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, TypeVar

import trio

from learner import data
from learner.manifest import Manifest
from learner.protocol import (
    SPEAKS_FIRST,
    Describe,
    Done,
    Evaluate,
    Failed,
    Init,
    Job,
    Predict,
    Progress,
    Ready,
    Scored,
    Train,
)
from learner.score import Score
from node.learner_child import Child, JobFailed, LearnerConfig, LearnerDied, LearnerError, LearnerUnfit

__all__ = [
    "JobFailed",
    "Learner",
    "LearnerConfig",
    "LearnerDied",
    "LearnerError",
    "LearnerUnfit",
    "Score",
    "open_learner",
]

DATASETS_MAX: Final = 4  # files kept in the folder, so that rounds of one job do not write theirs again

R = TypeVar("R", Ready, Done, Scored)

_JOB_FILES: Final = (".base", ".fldata", ".out", ".partial", ".row", ".state")


class Learner:
    """A learner to give jobs to; made by open_learner.

    All methods raise JobFailed, LearnerDied or LearnerUnfit. Cancelling the task that awaits one cancels the job; the
    process is asked first and killed when it has not stopped after CANCEL_GRACE_S.
    """

    def __init__(self, config: LearnerConfig, log: Callable[[str], None], nursery: trio.Nursery) -> None:
        self._config = config
        self._log = log
        self._nursery = nursery
        self._turn = trio.StrictFIFOLock()
        self._child: Child | None = None
        self._last_id = SPEAKS_FIRST
        self._datasets: list[str] = []
        self._closed = False
        self.ready: Ready | None = None  # what the process last said of itself
        self.unfit = ""  # why it does no jobs, as far as is known

    @property
    def config(self) -> LearnerConfig:
        """How its process is run."""
        return self._config

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return None if self._child is None or self._child.dead else self._child.pid

    async def describe(self) -> Ready:
        """What the process says about itself; starts it when it does not run."""
        async with self._turn:
            return await self._ask(Describe(id=self._next_id()), Ready)

    async def init(self, manifest: Manifest, weights: bytes | None = None) -> bytes:
        """The first base state; `weights` is the blob that the manifest names, if it names one."""
        files = {} if weights is None else {"init.weights": weights}
        async with self._turn:
            with self._files(files, "init.out") as out:
                job = Init(id=self._next_id(), manifest=manifest.encode(), out=out, weights=next(iter(files), None))
                return await self._run(job, out, manifest.update_size())

    async def train(
        self,
        manifest: Manifest,
        base: bytes,
        dataset: bytes,
        batch_seed: bytes,
        progress: Callable[[Progress], None] | None = None,
        row: bytes | None = None,
    ) -> bytes:
        """One round from the state `base`: the next state.

        Args:
            dataset: canonical dataset bytes, already checked against manifest.dataset.
            batch_seed: 32 bytes.
            progress: called at most every 100 ms.
            row: the round's, of the manifest's list of batches (learner.batch_list.row).
        """
        async with self._turn:
            name = await self._keep_dataset(dataset)
            files = {"train.base": base} if row is None else {"train.base": base, "train.row": row}
            with self._files(files, "train.out") as out:
                job = Train(
                    id=self._next_id(),
                    manifest=manifest.encode(),
                    base="train.base",
                    dataset=name,
                    batch_seed=batch_seed,
                    out=out,
                    row=None if row is None else "train.row",
                )
                return await self._run(job, out, manifest.update_size(), progress)

    async def evaluate(self, manifest: Manifest, state: bytes, dataset: bytes) -> Score:
        """Score a state on the dataset's test samples."""
        async with self._turn:
            name = await self._keep_dataset(dataset)
            with self._files({"evaluate.state": state}, "evaluate.out"):
                job = Evaluate(id=self._next_id(), manifest=manifest.encode(), state="evaluate.state", dataset=name)
                reply = await self._ask(job, Scored)
        return Score(reply.correct, reply.total)

    async def predict(self, manifest: Manifest, state: bytes, dataset: bytes) -> list[int]:
        """The classes of a dataset's test samples, in order; raises learner.errors.InvalidDataset before it starts."""
        result_bytes = 2 * data.decode(dataset).test
        async with self._turn:
            name = await self._keep_dataset(dataset)
            with self._files({"predict.state": state}, "predict.out") as out:
                job = Predict(
                    id=self._next_id(), manifest=manifest.encode(), state="predict.state", dataset=name, out=out
                )
                raw = await self._run(job, out, result_bytes)
        classes = array.array("H", raw)
        if sys.byteorder != "little":
            classes.byteswap()
        return classes.tolist()

    def close(self) -> None:
        """Kill the process, if there is one, and start no other; open_learner waits for its end."""
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        if self._child is not None:
            self._child.kill()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _run(
        self, job: Job, out: str, result_bytes: int, progress: Callable[[Progress], None] | None = None
    ) -> bytes:
        """Do a job whose result is a file. The process is walled off because it might be taken over: look closely."""
        await self._ask(job, Done, progress)
        try:
            result = _read_plain(self._config.folder / out, result_bytes + 1)
        except OSError as error:
            raise self._distrust(f"left no result: {error}") from None
        if len(result) != result_bytes:
            raise self._distrust(f"left a result that is not of {result_bytes} bytes")
        return result

    async def _ask(
        self, request: Job | Describe, expected: type[R], progress: Callable[[Progress], None] | None = None
    ) -> R:
        """Send one request and await its final reply; holds the turn, so nobody else's reply can come between."""
        try:
            child = await self._living_child()
            self.ready = child.ready
            if not child.ready.conforms:
                raise LearnerUnfit(child.ready.reason)
        except LearnerUnfit as error:
            self.unfit = str(error)
            raise
        self.unfit = ""
        limit_s = self._config.start_timeout_s if isinstance(request, Describe) else self._config.job_timeout_s
        try:
            with trio.fail_after(limit_s):
                reply = await child.converse(request, progress)
        except trio.TooSlowError:
            raise JobFailed("timeout", f"ended: took longer than {limit_s} s") from None
        if isinstance(reply, Failed):
            raise JobFailed(reply.kind, reply.message)
        if not isinstance(reply, expected):
            raise self._distrust(f"answered {type(request).__name__} with {type(reply).__name__}")
        return reply

    def _distrust(self, reason: str) -> LearnerDied:
        self._kill()
        return LearnerDied(f"killed: {reason}")

    async def _living_child(self) -> Child:
        if self._closed:
            raise LearnerDied("closed")
        if self._child is None or self._child.dead:
            self._child = None
            self._child = await Child.start(self._config, self._log, self._nursery)
        return self._child

    @contextmanager
    def _files(self, inputs: dict[str, bytes], out: str) -> Iterator[str]:
        """Put a job's files into the folder, and take all of them away afterwards."""
        folder = self._config.folder
        try:
            for name, content in inputs.items():
                (folder / name).write_bytes(content)
            yield out
        finally:
            for name in (*inputs, out, f"{out}.partial"):
                (folder / name).unlink(missing_ok=True)

    async def _keep_dataset(self, dataset: bytes) -> str:
        """Have the dataset in the folder under a name that says its content; forgets the least recently used."""
        digest = await trio.to_thread.run_sync(hashlib.sha256, dataset)
        name = f"{digest.hexdigest()}.fldata"
        if name in self._datasets:
            self._datasets.remove(name)
        else:
            partial = self._config.folder / f"{name}.partial"
            await trio.to_thread.run_sync(partial.write_bytes, dataset)
            partial.replace(self._config.folder / name)
        self._datasets.append(name)
        while len(self._datasets) > DATASETS_MAX:
            (self._config.folder / self._datasets.pop(0)).unlink(missing_ok=True)
        return name


@asynccontextmanager
async def open_learner(config: LearnerConfig, log: Callable[[str], None]) -> AsyncIterator[Learner]:
    """A learner for the length of a block; after it no process is left.

    Args:
        log: called with each line that the process writes to stderr, at most LOG_LINE_MAX characters.
    """
    config.folder.mkdir(parents=True, exist_ok=True)
    config = dataclasses.replace(config, folder=config.folder.resolve())
    for old in config.folder.iterdir():  # of a node that was killed
        if old.suffix in _JOB_FILES:
            old.unlink()
    try:
        async with trio.open_nursery() as nursery:
            learner = Learner(config, log, nursery)
            try:
                yield learner
            finally:
                learner.close()
                nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        # The block's own exception comes out of the nursery wrapped; callers catch it by its type.
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


def _read_plain(path: Path, bytes_max: int) -> bytes:
    """At most bytes_max of a file that is not a link (to a key of ours, say)."""
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        return file.read(bytes_max)
