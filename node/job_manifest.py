"""From what a person asks for (schema.JobSpec) to a manifest: names become blobs that are here."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

import trio
from msgspec import UNSET

from learner import batch_list, canonical
from learner import manifest as manifests
from learner.batch_list import BATCH_LIST_BYTES_MAX
from learner.canonical import STATE_BYTES_MAX
from learner.errors import InvalidBatches, InvalidDataset, InvalidManifest, InvalidState
from learner.manifest import Batches, Manifest, Weights
from node import unixfs
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobError, BlobExchange, BlobStore
from node.datasets import FETCH_S, Datasets, read_plain

_DIGEST: Final = re.compile(r"0x[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Described:
    """A manifest that fits its terms, and the state that its `weights` name, if it names one."""

    manifest: Manifest
    weights: bytes | None


async def describe(spec: schema.JobSpec, named: Datasets, blobs: BlobStore, exchange: BlobExchange) -> Described:
    """Look up what the job names, and put it together.

    Raises:
        NotFound: the dataset, the weights or the batches are neither here nor at a connected peer.
        BackendError: the parts do not fit; says which.
    """
    dataset, size, contents = await named.find(spec.dataset)
    weights = None if spec.weights is None else await _weights(spec.weights, blobs, exchange)
    listed = None
    if spec.batches is not None:
        listed = await _blob("batches", spec.batches, BATCH_LIST_BYTES_MAX, blobs, exchange)
    seed = hashlib.sha256(b"flnode/job/1" + spec.seed.to_bytes(8, "big", signed=True)).digest()
    try:
        manifest = manifests.validated(
            Manifest(
                model=spec.model,
                dataset=dataset,
                dataset_size=size,
                batch_size=spec.batch_size,
                steps=spec.steps,
                learning_rate=spec.learning_rate,
                momentum=spec.momentum,
                weight_decay=spec.weight_decay,
                adam=spec.adam,
                bits=spec.bits,
                init_seed=seed,
                weights=None if weights is None else Weights(unixfs.digest_of(weights), len(weights)),
                goal=None if spec.goal_accuracy is None else manifests.Goal(spec.goal_accuracy),
                batches=UNSET if listed is None else Batches(unixfs.digest_of(listed), len(listed)),
            )
        )
        contents.check_fits(manifest)
        if listed is not None:
            check = (listed, spec.steps, spec.batch_size, contents.train)
            await trio.to_thread.run_sync(batch_list.check, *check)  # up to 16 million numbers
    except (InvalidManifest, InvalidDataset, InvalidBatches) as error:
        raise BackendError(str(error)) from None
    check_rounds(manifest, spec.terms.rounds_max)
    return Described(manifest, weights)


async def add_weights(path: str, blobs: BlobStore) -> schema.WeightsInfo:
    """Keep the state in a file, for a job that is about to name it; nothing pins it.

    Raises:
        BackendError: the file cannot be read, is no state, or has no room here.
    """
    content = await trio.to_thread.run_sync(read_plain, path, STATE_BYTES_MAX)
    try:
        canonical.split(content)
        digest = await trio.to_thread.run_sync(lambda: blobs.put(content, public=True))
    except (InvalidState, BlobError) as error:
        raise BackendError(f"{path}: {error}") from None
    return schema.WeightsInfo("0x" + digest.hex(), unixfs.cid(digest, len(content)), len(content))


def check_rounds(manifest: Manifest, rounds: int) -> None:
    """Are there batches for so many rounds? Raises BackendError."""
    if manifest.rounds_listed is not None and rounds > manifest.rounds_listed:
        raise BackendError(f"the job lists batches for {manifest.rounds_listed} rounds, not for {rounds}")


async def _weights(text: str, blobs: BlobStore, exchange: BlobExchange) -> bytes:
    """A state by its CID or 0x digest; whether it fits the model is the learner's to say."""
    content = await _blob("weights", text, STATE_BYTES_MAX, blobs, exchange)
    try:
        canonical.split(content)
    except InvalidState as error:
        raise BackendError(f"weights {text}: {error}") from None
    return content


async def _blob(what: str, text: str, bytes_max: int, blobs: BlobStore, exchange: BlobExchange) -> bytes:
    """A blob by its CID or 0x digest, for the workers to fetch from here."""
    try:
        digest = bytes.fromhex(text[2:]) if _DIGEST.fullmatch(text) else unixfs.parse_cid(text)
    except ValueError as error:
        raise BackendError(f"{what}: {error}") from None
    try:
        content = await exchange.fetch(digest, bytes_max, deadline_s=FETCH_S)
    except BlobError:
        raise NotFound(f"the {what} {text} are neither here nor at a connected peer") from None
    blobs.publish(digest)
    return content
