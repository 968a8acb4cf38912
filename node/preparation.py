"""What a worker does before it enrols in a job: sees whether the machine can, and has what every round needs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from learner import batch_list, data
from learner.errors import InvalidBatches
from learner.manifest import Manifest
from node.blobs import BlobError, BlobExchange, BlobUnavailable
from node.jobs import JobView, Key
from node.learner_pool import JobFailed, Learner
from node.suitability import unsuitable

LOOK_S: Final = 5.0  # how often to see whether a job whose dataset nobody has is still open


class Declined(Exception):
    """The job asks for more than this machine gives."""


async def judge(manifest: Manifest, dataset: data.Dataset | None, job: JobView, learner: Learner) -> None:
    """See whether this machine can do a job's rounds.

    Args:
        dataset: None while it is not here.
    Raises:
        Declined: it cannot, or the operator does not want it to.
        LearnerError: the learner does no jobs at all, or died.
    """
    ready = await learner.describe()
    if reason := unsuitable(manifest, dataset, learner.config, ready, job.posted.terms.commit_window_s):
        raise Declined(reason)


async def prepare(
    manifest: Manifest, number: int, job: Callable[[int], JobView], exchange: BlobExchange
) -> data.Dataset:
    """Have the dataset that a job's rounds need, and the list of batches if it has one.

    Args:
        job: looks a job up in the finalised chain.
    Raises:
        BlobError: nobody had it as long as the job was open.
        JobError: it does not fit the manifest.
    """
    content = await _wait_for(manifest.dataset, manifest.dataset_size, number, job, exchange)
    contents = await trio.to_thread.run_sync(data.decode, content)
    contents.check_fits(manifest)
    if (listed := manifest.listed) is not None:
        indices = await _wait_for(listed.digest, listed.size, number, job, exchange)
        check = (indices, manifest.steps, manifest.batch_size, contents.train)
        await trio.to_thread.run_sync(batch_list.check, *check)
    return contents


async def row_of(manifest: Manifest, key: Key, exchange: BlobExchange) -> bytes | None:
    """The batches of a round attempt, if the job lists them.

    Raises:
        BlobError: nobody has the list.
        JobFailed: it is none.
    """
    if (listed := manifest.listed) is None:
        return None
    content = await exchange.fetch(listed.digest, listed.size, size=listed.size)
    try:
        return batch_list.row(content, manifest.steps, manifest.batch_size, key.round, key.attempt)
    except InvalidBatches as error:
        raise JobFailed(error.kind, str(error)) from None


async def _wait_for(
    digest: bytes, size: int, number: int, job: Callable[[int], JobView], exchange: BlobExchange
) -> bytes:
    """Look for a blob as long as the job is open. Raises BlobError."""
    found: bytes | BlobError = BlobUnavailable(digest, {})

    async def give_up() -> None:
        while job(number).ended is None:
            await trio.sleep(LOOK_S)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(give_up)
        try:
            found = await exchange.fetch(digest, size, size=size)
        except BlobError as error:
            found = error
        nursery.cancel_scope.cancel()
    if isinstance(found, BlobError):
        raise found
    return found
