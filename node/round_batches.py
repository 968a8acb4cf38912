"""Which samples rounds are trained on: lists of batches that jobs name, and what decides the batches of a round."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from chain.contracts import bindings as b
from learner import manifest as manifests
from learner.batch_list import BATCH_LIST_BYTES_MAX
from learner.errors import InvalidManifest
from learner.manifest import MANIFEST_BYTES_MAX, Batches, Manifest
from node import unixfs
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobError, BlobExchange
from node.datasets import FETCH_S, Datasets, read_plain
from node.jobs import JobView


@dataclass
class RoundBatches:
    """See the module."""

    exchange: BlobExchange
    datasets: Datasets

    async def add(self, path: str) -> schema.BlobInfo:
        """Keep the list in a file, for a job to name. Whether it fits one is seen when that is submitted.

        Raises:
            BackendError: no ordinary file, or no room.
        """
        content = await trio.to_thread.run_sync(read_plain, path, BATCH_LIST_BYTES_MAX)
        try:
            digest = await trio.to_thread.run_sync(lambda: self.exchange.store.put(content, public=True))
        except BlobError as error:
            raise BackendError(str(error)) from None
        return _info(digest, len(content))

    async def of(self, job: JobView, number: int, attempt: int) -> schema.RoundBatches:
        """What decides the batches of a round attempt, whether it was or ever will be opened.

        Raises:
            NotFound: the job has no such round, or neither this node nor a connected peer has what it takes.
            BackendError: the job's manifest is none.
        """
        if number > job.rounds_max:
            raise NotFound(f"job {job.job} has {job.rounds_max} rounds")
        manifest = await self._manifest(job)
        if (listed := manifest.listed) is not None:
            await self._have("list of batches", listed.digest, listed.size)
            self.exchange.store.publish(listed.digest)
        return schema.RoundBatches(
            job=job.job, round=number, attempt=attempt,
            batch_seed=_hex(b.batch_seed(job.posted.seed, number, attempt)), steps=manifest.steps,
            batch_size=manifest.batch_size, train=None if listed else await self._train(manifest),
            listed=_listed(listed),
        )  # fmt: skip

    async def _manifest(self, job: JobView) -> Manifest:
        try:
            return manifests.decode(await self._have("manifest", job.posted.manifest, MANIFEST_BYTES_MAX))
        except InvalidManifest as error:
            raise BackendError(f"job {job.job}: {error}") from None

    async def _train(self, manifest: Manifest) -> int:
        """How many training samples there are; 0 where there are too few for one batch is an error of the job."""
        _, _, contents = await self.datasets.find(_hex(manifest.dataset))
        if contents.train < manifest.batch_size:
            raise BackendError(f"the dataset has {contents.train} samples for training, which are no batch")
        return contents.train

    async def _have(self, what: str, digest: bytes, size_max: int) -> bytes:
        try:
            return await self.exchange.fetch(digest, size_max, deadline_s=FETCH_S)
        except BlobError:
            cid = unixfs.cid(digest, size_max)
            raise NotFound(f"the {what} {cid} is neither here nor at a connected peer") from None


def _listed(listed: Batches | None) -> schema.BlobInfo | None:
    return None if listed is None else _info(listed.digest, listed.size)


def _info(digest: bytes, size: int) -> schema.BlobInfo:
    return schema.BlobInfo(_hex(digest), unixfs.cid(digest, size), size)


def _hex(digest: bytes) -> str:
    return "0x" + digest.hex()
