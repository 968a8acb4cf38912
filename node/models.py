"""Models of settled rounds: have one here, say what is known about it, classify with it."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from learner import manifest as manifests
from learner.errors import InvalidDataset, InvalidManifest
from learner.manifest import DATASET_BYTES_MAX, MANIFEST_BYTES_MAX, Manifest
from node import unixfs
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobError, BlobExchange
from node.datasets import Datasets, read_plain
from node.jobs import JobView, RoundSummary
from node.learner_pool import Learner, LearnerError


@dataclass
class Models:
    """See the module. `learner` is None on a node that has none; `scores` is (correct, total) by update digest."""

    exchange: BlobExchange
    datasets: Datasets
    learner: Learner | None
    scores: dict[bytes, tuple[int, int]]

    async def info(self, job: JobView, number: int | None, wait_s: float) -> schema.ModelInfo:
        """Raises NotFound, BackendError."""
        settled, manifest, state = await self._have(job, number, wait_s)
        try:
            dataset = await self.datasets.info(_hex(manifest.dataset))
        except NotFound:
            dataset = None
        correct, total = self.scores.get(settled.update, (None, None))
        return schema.ModelInfo(
            job=job.job, round=settled.round, update_digest=_hex(settled.update), size=len(state),
            manifest=_hex(job.posted.manifest), dataset=_hex(manifest.dataset), correct=correct, total=total,
            dataset_info=dataset,
        )  # fmt: skip

    async def predict(self, job: JobView, number: int | None, path: str, wait_s: float) -> schema.Prediction:
        """Raises NotFound, BackendError."""
        if self.learner is None:
            raise BackendError("this node has no learner; ask a worker or a learning server")
        settled, manifest, state = await self._have(job, number, wait_s)
        content = await trio.to_thread.run_sync(read_plain, path, DATASET_BYTES_MAX)
        classes = None
        try:
            with trio.move_on_after(wait_s):
                classes = await self.learner.predict(manifest, state, content)
        except (LearnerError, InvalidDataset) as error:
            raise BackendError(str(error)) from None
        if classes is None:
            raise BackendError(f"the learner had no time for it within {wait_s:.0f} s; try again")
        return schema.Prediction(job.job, settled.round, _hex(settled.update), classes)

    async def _have(self, job: JobView, number: int | None, wait_s: float) -> tuple[RoundSummary, Manifest, bytes]:
        """A settled round, its job's manifest and its model, from here or from a peer."""
        settled = _settled(job, number)
        encoded = await self._blob("manifest", job.posted.manifest, MANIFEST_BYTES_MAX, wait_s)
        try:
            manifest = manifests.decode(encoded)
        except InvalidManifest as error:
            raise BackendError(f"job {job.job}: {error}") from None
        return settled, manifest, await self._blob("model", settled.update, manifest.update_size(), wait_s)

    async def _blob(self, what: str, digest: bytes, size_max: int, wait_s: float) -> bytes:
        try:
            content = await self.exchange.fetch(digest, size_max, deadline_s=wait_s)
            self.exchange.store.publish(digest)  # a worker's own update was private before the round was settled
            return content
        except BlobError:
            cid = unixfs.cid(digest, size_max)
            raise BackendError(f"the {what} {cid} is neither here nor at a connected peer") from None


def _settled(job: JobView, number: int | None) -> RoundSummary:
    if not job.history:
        raise NotFound(f"no round of job {job.job} is settled yet, so there is no model")
    if number is None:
        return job.history[-1]
    for settled in job.history:
        if settled.round == number:
            return settled
    last = job.history[-1].round
    raise NotFound(f"round {number} of job {job.job} is not settled; the last one that is, is {last}")


def _hex(digest: bytes) -> str:
    return "0x" + digest.hex()
