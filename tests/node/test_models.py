"""Models of settled rounds as the API hands them out, and jobs that wait for a blob on screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from chain.contracts import bindings as b
from learner import convert
from learner.errors import InvalidDataset
from node import job_screen, unixfs
from node.api.backend import BackendError, NotFound
from node.blobs import BlobStore, BlobUnavailable
from node.jobs import JobView, Key
from node.learner_pool import LearnerDied
from node.models import Models
from tests.node.jobs_kit import MANIFEST, POSTED, job_of, opened

STATE = bytes(MANIFEST.update_size())
UPDATE = unixfs.digest_of(STATE)


def settled(rounds: int) -> JobView:
    """A job whose rounds were all won by the same model."""
    jobs = job_of()
    for number in range(1, rounds + 1):
        key = Key(1, number, 1)
        won = [b.MajorityReached(*key, UPDATE, 2, 1030), b.RoundSettled(*key, UPDATE, 2)]
        jobs = job_of(opened(key), *won, b.RoundClosed(*key), start=jobs)
    return jobs.by_id[1]


class Exchange:
    """Knows what is in the store; nobody else has anything."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    async def fetch(self, digest: bytes, size_max: float, **_: Any) -> bytes:
        if not self.store.has(digest):
            raise BlobUnavailable(digest, {})
        return self.store.get(digest)


class NoDatasets:
    async def info(self, text: str) -> None:
        raise NotFound(text)


class Classifier:
    """A learner that names every sample's class 1, never comes to an end, or fails."""

    def __init__(self, fails: Exception | None = None, hangs: bool = False) -> None:
        self.fails, self.hangs = fails, hangs

    async def predict(self, manifest: object, state: bytes, dataset: bytes) -> list[int]:
        assert (manifest, state) == (MANIFEST, STATE)
        if self.hangs:
            await trio.sleep_forever()
        if self.fails is not None:
            raise self.fails
        return [1, 1]


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    blobs = BlobStore(tmp_path / "blobs", 1 << 20)
    blobs.put(MANIFEST.encode())
    blobs.put(STATE, public=False)  # a worker's own, until the round is over
    return blobs


def models(store: BlobStore, learner: object = None, **scores: tuple[int, int]) -> Models:
    known = {UPDATE: scores["score"]} if scores else {}
    return Models(Exchange(store), NoDatasets(), learner, known)  # type: ignore[arg-type]


async def test_the_last_settled_rounds_model_is_had_and_may_be_read_by_all_then(store: BlobStore) -> None:
    info = await models(store, score=(7, 9)).info(settled(3), None, 1.0)
    assert (info.job, info.round, info.update_digest, info.size) == (1, 3, "0x" + UPDATE.hex(), len(STATE))
    assert (info.manifest, info.dataset) == ("0x" + POSTED.manifest.hex(), "0x" + MANIFEST.dataset.hex())
    assert (info.correct, info.total, info.dataset_info) == (7, 9, None)
    assert store.is_public(UPDATE)
    assert (await models(store).info(settled(3), 2, 1.0)).round == 2
    assert (await models(store).info(settled(1), None, 1.0)).correct is None


async def test_a_round_without_a_model_is_not_found(store: BlobStore) -> None:
    with pytest.raises(NotFound, match="no round of job 1 is settled yet"):
        await models(store).info(settled(0), None, 1.0)
    with pytest.raises(NotFound, match="round 4 of job 1 is not settled; the last one that is, is 3"):
        await models(store).info(settled(3), 4, 1.0)


async def test_a_model_that_nobody_has_is_named_by_its_cid(store: BlobStore) -> None:
    store.delete(UPDATE)
    with pytest.raises(BackendError, match=f"the model {unixfs.cid(UPDATE, len(STATE))} is neither here nor at"):
        await models(store).info(settled(1), None, 1.0)
    store.delete(MANIFEST.digest())
    with pytest.raises(BackendError, match=f"the manifest {unixfs.cid(MANIFEST.digest(), 1)} is neither"):
        await models(store).info(settled(1), None, 1.0)


async def test_samples_are_classified_by_the_learner_if_there_is_one(
    store: BlobStore, tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    path = tmp_path / "samples"
    path.write_bytes(convert.unlabelled(bytes(2 * 4 * 4), 4, 2))
    job = settled(2)
    found = await models(store, Classifier()).predict(job, 1, str(path), 1.0)
    assert (found.round, found.classes, found.update_digest) == (1, [1, 1], "0x" + UPDATE.hex())
    for learner, message in [
        (None, "this node has no learner"),
        (Classifier(hangs=True), "had no time for it within 30 s; try again"),
        (Classifier(fails=LearnerDied("gone")), "gone"),
        (Classifier(fails=InvalidDataset("dataset: 3 features, the model takes 4")), "3 features, the model takes 4"),
    ]:
        with pytest.raises(BackendError, match=message):
            await models(store, learner).predict(job, None, str(path), 30.0)


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        ({}, "workers: 3 enrolled, 3 needed"),
        ({MANIFEST.dataset: "bafyD"}, "dataset bafyD: neither here nor at a connected peer"),
        ({POSTED.manifest: "bafyM"}, "manifest bafyM: neither here nor at a connected peer"),
        ({UPDATE: "bafyU"}, "workers: 3 enrolled, 3 needed"),
    ],
)
def test_a_job_says_which_of_its_blobs_is_looked_for_in_vain(missing: dict[bytes, str], expected: str) -> None:
    known = job_screen.Known({}, MANIFEST, missing, lambda worker: (0, 0), 0, 0, {})
    assert job_screen.detail(settled(0), known).waiting_for == expected
