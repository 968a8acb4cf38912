"""The node's side of the learner's process: start it when there is a job, cancel it, replace it when it dies.

One process, one job at a time; further callers wait their turn in order. The process is started by the first call
and stays for the next ones. Leaving `open_learner` kills it and its whole session, whatever it is doing.
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from learner.manifest import Manifest
from learner.protocol import (
    SPEAKS_FIRST,
    AnyReply,
    Describe,
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

_JOB_FILES: Final = (".base", ".fldata", ".out", ".partial", ".state")


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

    @property
    def pid(self) -> int | None:
        """The running process, if there is one."""
        return None if self._child is None or self._child.dead else self._child.pid

    async def describe(self) -> Ready:
        """What the process says about itself; starts it when it does not run."""
        async with self._turn:
            reply = await self._ask(Describe(id=self._next_id()), None)
        assert isinstance(reply, Ready)
        return reply

    async def init(self, manifest: Manifest) -> bytes:
        """The first base state."""
        async with self._turn:
            with self._files({}, "init.out") as out:
                return await self._run(Init(id=self._next_id(), manifest=manifest.encode(), out=out), out, None)

    async def train(
        self,
        manifest: Manifest,
        base: bytes,
        dataset: bytes,
        batch_seed: bytes,
        progress: Callable[[Progress], None] | None = None,
    ) -> bytes:
        """One round from the state `base`: the next state.

        Args:
            dataset: canonical dataset bytes, already checked against manifest.dataset.
            batch_seed: 32 bytes.
            progress: called at most every 100 ms.
        """
        async with self._turn:
            data = await self._keep_dataset(dataset)
            with self._files({"train.base": base}, "train.out") as out:
                job = Train(
                    id=self._next_id(),
                    manifest=manifest.encode(),
                    base="train.base",
                    dataset=data,
                    batch_seed=batch_seed,
                    out=out,
                )
                return await self._run(job, out, progress)

    async def evaluate(self, manifest: Manifest, state: bytes, dataset: bytes) -> Score:
        """Score a state on the dataset's test samples."""
        async with self._turn:
            data = await self._keep_dataset(dataset)
            with self._files({"evaluate.state": state}, "evaluate.out"):
                job = Evaluate(id=self._next_id(), manifest=manifest.encode(), state="evaluate.state", dataset=data)
                reply = await self._ask(job, None)
        assert isinstance(reply, Scored)
        return Score(reply.correct, reply.total)

    async def predict(self, manifest: Manifest, state: bytes, dataset: bytes) -> list[int]:
        """The classes of a dataset's test samples, in order."""
        async with self._turn:
            data = await self._keep_dataset(dataset)
            with self._files({"predict.state": state}, "predict.out") as out:
                job = Predict(
                    id=self._next_id(), manifest=manifest.encode(), state="predict.state", dataset=data, out=out
                )
                raw = await self._run(job, out, None)
        classes = array.array("H", raw)
        if sys.byteorder != "little":
            classes.byteswap()
        return classes.tolist()

    def close(self) -> None:
        """Kill the process, if there is one; open_learner waits for its end."""
        if self._child is not None:
            self._child.kill()

    def _next_id(self) -> int:
        self._last_id += 1
        return self._last_id

    async def _run(self, job: Job, out: str, progress: Callable[[Progress], None] | None) -> bytes:
        await self._ask(job, progress)
        return (self._config.folder / out).read_bytes()

    async def _ask(self, request: Job | Describe, progress: Callable[[Progress], None] | None) -> AnyReply:
        """Send one request and await its final reply; holds the turn, so nobody else's reply can come between."""
        child = await self._living_child()
        if not child.ready.conforms:
            raise LearnerUnfit(child.ready.reason)
        try:
            with trio.fail_after(self._config.job_timeout_s):
                reply = await child.converse(request, progress)
        except trio.TooSlowError:
            raise LearnerDied(f"killed: a job took longer than {self._config.job_timeout_s} s") from None
        if isinstance(reply, Failed):
            raise JobFailed(reply.kind, reply.message)
        return reply

    async def _living_child(self) -> Child:
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
