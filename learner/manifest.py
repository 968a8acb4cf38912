"""The job manifest: everything that determines a round's result, apart from the base state and the batch seed.

A manifest is canonical msgpack: one manifest has one encoding, and any other encoding of it is refused, so its digest
is its identity. Validators and the command line read manifests too, therefore this module imports neither torch nor
numpy.
"""

from __future__ import annotations

import hashlib
import math
import struct
from typing import Annotated, Final, Literal

import msgspec

from learner import batch_list, cost
from learner.architecture import Model
from learner.batch_list import BATCH_LIST_BYTES_MAX
from learner.canonical import STATE_BYTES_MAX, TENSORS_MAX, Field, encoded_size
from learner.cost import INNER_MAX, Cost
from learner.errors import InvalidManifest

MANIFEST_BYTES_MAX: Final = 16 * 1024
DATASET_BYTES_MAX: Final = 2**30
BITS_MIN: Final = 4
BITS_MAX: Final = 14  # two 7-bit limbs: what int8 hardware can multiply exactly
BITS_DEFAULT: Final = 14
BATCH_SIZE_MAX: Final = 65_536
STEPS_MAX: Final = 100_000
LEARNING_RATE_MAX: Final = 100.0
WEIGHT_DECAY_MAX: Final = 1.0
MEMORY_BYTES_MAX: Final = 64 * 2**30  # of one step; a worker may well have less, and decline
MULTIPLICATIONS_MAX: Final = 10**16  # of one round: a day of a good machine
ADAM_POWERS: Final = "adam/powers"

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class Adam(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Steps divided by the root of the mean square gradient (Kingma and Ba 2015); `momentum` is then its beta 1."""

    beta2: Annotated[float, msgspec.Meta(gt=0, lt=1)] = 0.999
    epsilon: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1e-8


class Weights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A blob that is a state: its parameters, which must be those of the model, are where the job begins."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=STATE_BYTES_MAX)]


class Batches(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A blob that lists the samples of every step (learner.batch_list)."""

    digest: Digest
    size: Annotated[int, msgspec.Meta(ge=1, le=BATCH_LIST_BYTES_MAX)]


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the job's owner stops: the metric on the test set reaches `at_least`."""

    at_least: Annotated[float, msgspec.Meta(gt=0, le=1)]
    metric: Literal["accuracy"] = "accuracy"

    def reached(self, correct: int, total: int) -> bool:
        """Is `correct` of `total` good enough?"""
        return correct >= self.at_least * total


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One job's training, per round: `steps` batches from the base state, SGD unless `adam` says otherwise.

    Attributes:
        model: the layers and the loss.
        dataset: blob digest of the canonical dataset; `dataset_size` is its length in bytes.
        batch_size: samples per step; the quantisation scales depend on it, so it is part of the result.
        steps: optimiser steps per round.
        learning_rate, momentum, weight_decay: rounded once to float32 before use; momentum 0 means no such state.
        bits: b of the arithmetic, the width of a quantised number.
        init_seed: 32 bytes that determine the first base state and every batch.
        weights: where the parameters of the first base state come from instead of the seed.
        goal: tells the owner when to stop; no part of the arithmetic.
        batches: where the batches come from instead of the seed. Left out of the bytes of a job that has none, so that
            its digest is what it was before there were any.
    """

    version: Literal[1] = 1
    model: Model
    dataset: Digest
    dataset_size: Annotated[int, msgspec.Meta(ge=1, le=DATASET_BYTES_MAX)]
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=BATCH_SIZE_MAX)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=STEPS_MAX)]
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=LEARNING_RATE_MAX)]
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    weight_decay: Annotated[float, msgspec.Meta(ge=0, le=WEIGHT_DECAY_MAX)] = 0.0
    adam: Adam | None = None
    bits: Annotated[int, msgspec.Meta(ge=BITS_MIN, le=BITS_MAX)] = BITS_DEFAULT
    init_seed: Digest
    weights: Weights | None = None
    goal: Goal | None = None
    batches: Batches | msgspec.UnsetType = msgspec.UNSET

    @property
    def listed(self) -> Batches | None:
        """The list of batches, if it has one."""
        return None if isinstance(self.batches, msgspec.UnsetType) else self.batches

    @property
    def rounds_listed(self) -> int | None:
        """For how many rounds there are batches; None: for any number."""
        return None if self.listed is None else batch_list.rounds_in(self.listed.size, self.steps, self.batch_size)

    def state_fields(self) -> tuple[Field, ...]:
        """The tensors of a state: `parameter/<name>`, then what the optimiser remembers about each."""
        parameters = self.model.parameters()
        fields = [Field(f"{group}/{each.name}", each.shape) for group in self._groups() for each in parameters]
        return (*fields, Field(ADAM_POWERS, (2,))) if self.adam else tuple(fields)

    def _groups(self) -> tuple[str, ...]:
        if self.adam:
            return "parameter", "velocity", "square"
        return ("parameter", "velocity") if self.momentum else ("parameter",)

    def cost(self) -> Cost:
        """What one step needs."""
        return cost.of(self.model, self.batch_size, len(self._groups()))

    def update_size(self) -> int:
        """Length in bytes of every state of this job, hence of every update, masked or not."""
        return encoded_size(self.state_fields())

    def encode(self) -> bytes:
        """The canonical bytes."""
        return msgspec.msgpack.encode(self)

    def digest(self) -> bytes:
        """sha2-256 of the canonical bytes; equals the blob digest, because a manifest is always one raw leaf."""
        return hashlib.sha256(self.encode()).digest()


def decode(data: bytes) -> Manifest:
    """Parse and validate a manifest.

    Raises:
        InvalidManifest: names the field.
    """
    manifest = _parse(data)
    if manifest.encode() != data:
        raise InvalidManifest("", "not in canonical form")
    return manifest


def validated(manifest: Manifest) -> Manifest:
    """Check a manifest built in code (msgspec validates only what it decodes); the result is in canonical form.

    Raises:
        InvalidManifest: names the field.
    """
    return _parse(manifest.encode())


def _parse(data: bytes) -> Manifest:
    if len(data) > MANIFEST_BYTES_MAX:
        raise InvalidManifest("", f"{len(data)} bytes, at most {MANIFEST_BYTES_MAX}")
    try:
        manifest = msgspec.msgpack.decode(data, type=Manifest)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise InvalidManifest(path.rstrip("`").lstrip("."), reason) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidManifest("", f"not msgpack: {error}") from None
    _check(manifest)
    return manifest


def _check(manifest: Manifest) -> None:
    """The rules that span fields, and those that msgspec's bounds cannot say (NaN passes them)."""
    for name in ("learning_rate", "momentum", "weight_decay"):
        value = getattr(manifest, name)
        if not math.isfinite(value):
            raise InvalidManifest(name, "must be finite")
        if math.copysign(1.0, value) < 0:
            raise InvalidManifest(name, "must not be minus zero")
    if manifest.goal is not None and not math.isfinite(manifest.goal.at_least):
        raise InvalidManifest("goal.at_least", "must be finite")
    if manifest.adam is not None:
        _check_adam(manifest.adam, manifest.momentum)
    _check_size(manifest)


def _check_adam(adam: Adam, momentum: float) -> None:
    for name, value in (("adam.beta2", adam.beta2), ("adam.epsilon", adam.epsilon), ("momentum", momentum)):
        if not math.isfinite(value):
            raise InvalidManifest(name, "must be finite")
        rounded = struct.unpack("<f", struct.pack("<f", value))[0]
        if name != "adam.epsilon" and rounded == 1.0:
            raise InvalidManifest(name, "is 1 as a float32: with Adam it must be less")
        if name == "adam.epsilon" and rounded == 0.0:
            raise InvalidManifest(name, "is 0 as a float32")


def _check_size(manifest: Manifest) -> None:
    """Everything that would be too much, from sizes alone."""
    if manifest.rounds_listed == 0:
        text = f"no list of rounds of {manifest.steps} steps of {manifest.batch_size} samples has this size"
        raise InvalidManifest("batches.size", text)
    tensors = len(manifest.state_fields())
    if tensors > TENSORS_MAX:
        raise InvalidManifest("model", f"a state of {tensors} tensors, at most {TENSORS_MAX}")
    if manifest.update_size() > STATE_BYTES_MAX:
        raise InvalidManifest("model", f"a state of {manifest.update_size()} bytes, at most {STATE_BYTES_MAX}")
    for path, inner in cost.inner_sizes(manifest.model, manifest.batch_size).items():
        if inner > INNER_MAX:
            raise InvalidManifest(path, f"sums of {inner} products, at most {INNER_MAX} are exact")
    needed = manifest.cost()
    if needed.memory_bytes > MEMORY_BYTES_MAX:
        text = f"a step needs up to {needed.memory_bytes} bytes, at most {MEMORY_BYTES_MAX}"
        raise InvalidManifest("batch_size", text)
    multiplications = needed.multiplications * manifest.steps
    if multiplications > MULTIPLICATIONS_MAX:
        raise InvalidManifest("steps", f"{multiplications} multiplications a round, at most {MULTIPLICATIONS_MAX}")
