"""Does one job in a folder: reads the named files, computes, writes the named file. Knows no framing."""

from __future__ import annotations

import array
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from learner import data, manifest
from learner.batch_list import BATCH_LIST_BYTES_MAX
from learner.canonical import STATE_BYTES_MAX
from learner.data import Dataset
from learner.errors import InvalidBatches, InvalidDataset, InvalidState, JobError, Stopped
from learner.evaluate import CHUNK_ROWS, evaluate, predict
from learner.machine import Machine
from learner.manifest import Manifest
from learner.protocol import Done, Evaluate, Init, Job, Predict, Scored, Train
from learner.train import Samples, initial_bytes, load_samples, train_round

Watch = Callable[[int, int, Callable[[], float]], bool]  # (step, steps, loss) -> stop?


class Workbench:
    """A folder, a machine, and the dataset used last (a job's rounds all use the same one)."""

    def __init__(self, folder: Path, machine: Machine) -> None:
        self._folder = folder
        self._machine = machine
        self._loaded: tuple[str, Dataset, Samples] | None = None

    def do(self, job: Job, watch: Watch) -> Done | Scored:
        """Do a job; `watch` is asked after every step or chunk whether to stop.

        Raises:
            JobError: the inputs do not allow it.
            Stopped: watch said so; no file was written.
            OSError: a file is missing or cannot be written.
        """
        started = time.monotonic()
        described = manifest.decode(job.manifest)
        match job:
            case Init():
                name = job.weights
                weights = None if name is None else self._read(name, STATE_BYTES_MAX, InvalidState)
                self._write(job.out, initial_bytes(described, weights))
            case Train():
                self._write(job.out, self._train(described, job, watch))
            case Evaluate():
                samples = self._samples(job.dataset, lambda dataset: dataset.check_shape(described))
                state = self._read(job.state, STATE_BYTES_MAX, InvalidState)
                score = evaluate(described, state, samples, self._machine, lambda: watch(0, 1, lambda: 0.0))
                return Scored(id=job.id, correct=score.correct, total=score.total)
            case Predict():
                self._write(job.out, self._predict(described, job, watch))
        return Done(id=job.id, elapsed_ms=(time.monotonic() - started) * 1e3)

    def _train(self, described: Manifest, job: Train, watch: Watch) -> bytes:
        samples = self._samples(job.dataset, lambda dataset: dataset.check_fits(described))
        base = self._read(job.base, STATE_BYTES_MAX, InvalidState)
        row = None if job.row is None else self._read(job.row, BATCH_LIST_BYTES_MAX, InvalidBatches)
        return train_round(
            described,
            base,
            samples,
            job.batch_seed,
            self._machine,
            lambda step, loss: watch(step, described.steps, loss),
            row,
        )

    def _predict(self, described: Manifest, job: Predict, watch: Watch) -> bytes:
        samples = self._samples(job.dataset, lambda dataset: dataset.check_shape(described))
        state = self._read(job.state, STATE_BYTES_MAX, InvalidState)
        features = samples.features[samples.train :]
        classes = array.array("H")
        for start in range(0, len(features), CHUNK_ROWS):
            classes.extend(predict(described, state, features[start : start + CHUNK_ROWS], self._machine).tolist())
            if watch(0, 1, lambda: 0.0):
                raise Stopped
        if sys.byteorder != "little":
            classes.byteswap()
        return classes.tobytes()

    def _samples(self, name: str, check: Callable[[Dataset], None]) -> Samples:
        """The named file's samples; a name always means the same bytes, so one that is loaded is not read again."""
        if self._loaded is None or self._loaded[0] != name:
            self._loaded = None  # let go of the old one before the new one is made
            dataset = data.decode(self._read(name, manifest.DATASET_BYTES_MAX, InvalidDataset))
            self._loaded = (name, dataset, load_samples(dataset, self._machine))
        _, dataset, samples = self._loaded
        check(dataset)
        return samples

    def _read(self, name: str, bytes_max: int, error: type[JobError]) -> bytes:
        path = self._folder / name
        if path.stat().st_size > bytes_max:
            raise error(f"{name}: {path.stat().st_size} bytes, at most {bytes_max}")
        return path.read_bytes()

    def _write(self, name: str, content: bytes) -> None:
        """Whole or not at all, so that a killed process leaves no half file under the name."""
        partial = self._folder / f"{name}.partial"
        partial.write_bytes(content)
        os.replace(partial, self._folder / name)
