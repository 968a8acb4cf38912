"""What decides which samples a round is trained on, and jobs that list their batches themselves."""

from __future__ import annotations

import array
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.contracts import bindings as b
from learner import batch_list, data
from learner.errors import InvalidBatches
from learner.manifest import Batches, Manifest
from learner.presets import mlp
from node import job_manifest, unixfs
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobStore, BlobUnavailable
from node.jobs import JobView, Key
from node.learner_pool import JobFailed
from node.preparation import prepare, row_of
from node.round_batches import RoundBatches
from tests.node.jobs_kit import MANIFEST, POSTED, SEED, job_of, opened

LIST = batch_list.encode(array.array("I", range(12)), MANIFEST.steps, MANIFEST.batch_size)  # two rounds
LISTED = msgspec.structs.replace(MANIFEST, batches=Batches(unixfs.digest_of(LIST), len(LIST)))


class Exchange:
    """Knows what is in the store; nobody else has anything."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store

    async def fetch(self, digest: bytes, size_max: float, **_: Any) -> bytes:
        if not self.store.has(digest):
            raise BlobUnavailable(digest, {})
        return self.store.get(digest)


class Digits:
    """A node's datasets: the digits under any name."""

    async def find(self, text: str) -> tuple[bytes, int, data.Dataset]:
        content = data.digits()
        return data.DIGITS_DIGEST, len(content), data.decode(content)


@pytest.fixture
def exchange(tmp_path: Path) -> Any:
    return Exchange(BlobStore(tmp_path / "blobs", 1 << 22))


def job(manifest: Manifest, exchange: Any) -> JobView:
    """Posted, with its manifest in the store."""
    digest = exchange.store.put(manifest.encode())
    posted = b.JobPosted(1, POSTED.owner, digest, POSTED.base, POSTED.update_size, SEED, POSTED.terms)
    return JobView(posted, 1, 5, POSTED.base)


async def test_a_rounds_batches_follow_from_the_jobs_seed_before_it_opens_and_after(exchange: Any) -> None:
    view = job(MANIFEST, exchange)
    found = await RoundBatches(exchange, Digits()).of(view, 2, 3)  # type: ignore[arg-type]
    seed = "0x" + b.batch_seed(SEED, 2, 3).hex()
    assert found == schema.RoundBatches(1, 2, 3, seed, 1437, MANIFEST.steps, MANIFEST.batch_size)
    with pytest.raises(NotFound, match="job 1 has 5 rounds"):
        await RoundBatches(exchange, Digits()).of(view, 6, 1)  # type: ignore[arg-type]


async def test_of_a_job_with_a_list_the_node_has_the_list(exchange: Any, tmp_path: Path) -> None:
    desk = RoundBatches(exchange, Digits())  # type: ignore[arg-type]
    view = job(LISTED, exchange)
    with pytest.raises(NotFound, match=f"the list of batches {unixfs.cid(unixfs.digest_of(LIST), len(LIST))} is neith"):
        await desk.of(view, 1, 1)
    (tmp_path / "list").write_bytes(LIST)
    info = await desk.add(str(tmp_path / "list"))
    found = await desk.of(view, 1, 1)
    assert (found.train, found.listed, info.size) == (None, info, len(LIST))
    assert exchange.store.is_public(unixfs.digest_of(LIST))


async def test_a_worker_gets_the_row_of_its_round_and_attempt(exchange: Any) -> None:
    assert await row_of(MANIFEST, Key(1, 1, 1), exchange) is None
    with pytest.raises(BlobUnavailable):
        await row_of(LISTED, Key(1, 1, 1), exchange)
    exchange.store.put(LIST)
    rows = [await row_of(LISTED, Key(1, number, attempt), exchange) for number, attempt in ((1, 1), (2, 1), (2, 2))]
    assert [array.array("I", row or b"").tolist() for row in rows] == [
        [0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11], [8, 9, 10, 11, 6, 7],
    ]  # fmt: skip
    other = b"y" + LIST[1:]
    exchange.store.put(other)
    wrong = msgspec.structs.replace(LISTED, batches=Batches(unixfs.digest_of(other), len(other)))
    with pytest.raises(JobFailed, match="wrong magic"):
        await row_of(wrong, Key(1, 1, 1), exchange)


async def test_a_worker_enrols_only_if_every_listed_sample_exists(exchange: Any) -> None:
    beyond = batch_list.encode(array.array("I", [1437] * 6), 3, 2)
    for content in (data.digits(), LIST, beyond):
        exchange.store.put(content)
    fields = {"model": mlp((64, 10)), "dataset": data.DIGITS_DIGEST, "dataset_size": len(data.digits())}
    view = job_of(opened()).by_id[1]
    good = msgspec.structs.replace(LISTED, **fields)
    assert (await prepare(good, 1, lambda number: view, exchange)).train == 1437
    bad = msgspec.structs.replace(good, batches=Batches(unixfs.digest_of(beyond), len(beyond)))
    with pytest.raises(InvalidBatches, match="sample 1437, there are 0 to 1436"):
        await prepare(bad, 1, lambda number: view, exchange)


async def test_no_job_is_posted_for_more_rounds_than_its_list_has(exchange: Any) -> None:
    job_manifest.check_rounds(LISTED, 2)
    job_manifest.check_rounds(MANIFEST, 2000)
    with pytest.raises(BackendError, match="the job lists batches for 2 rounds, not for 3"):
        job_manifest.check_rounds(LISTED, 3)


@pytest.mark.parametrize(
    ("rounds", "content", "words"),
    [
        (2, None, ""),
        (3, None, "for 2 rounds, not for 3"),
        (1, b"no list of batches at all", "batches.size: no list of rounds of 3 steps of 2 samples has this size"),
        (1, LIST[:-4] + b"\xff" * 4, "round 2, step 3: sample 4294967295"),
    ],
)
async def test_a_job_with_a_list_is_described_or_refused(
    exchange: Any, rounds: int, content: bytes | None, words: str
) -> None:
    digest = exchange.store.put(LIST if content is None else content)
    terms = schema.Terms(
        reward_wei="1", stake_wei="1", slots=1, workers_min=1, rounds_max=rounds, attempts_max=1, commit_window_s=1,
        reveal_window_s=1, last_call_s=1, grace_s=1, deadline=1 << 32,
    )  # fmt: skip
    spec = schema.JobSpec(
        dataset="digits", model=mlp((64, 10)), batch_size=2, steps=3, learning_rate=0.1, momentum=0.0, seed=1,
        terms=terms, batches="0x" + digest.hex(),
    )  # fmt: skip
    describe = job_manifest.describe(spec, Digits(), exchange.store, exchange)  # type: ignore[arg-type]
    if words:
        with pytest.raises(BackendError, match=words):
            await describe
    else:
        assert (await describe).manifest.listed == LISTED.listed


async def test_a_list_that_nobody_has_is_named(exchange: Any) -> None:
    with pytest.raises(NotFound, match=r"the batches 0x00.* are neither here nor at a connected peer"):
        await job_manifest._blob("batches", "0x" + "00" * 32, 10, exchange.store, exchange)
    with pytest.raises(BackendError, match="batches: "):
        await job_manifest._blob("batches", "nonsense", 10, exchange.store, exchange)
