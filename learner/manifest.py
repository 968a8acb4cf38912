"""The job manifest: everything that determines a round's result, apart from the base state and the batch seed.

A manifest is canonical msgpack: one manifest has one encoding, and any other encoding of it is refused, so its digest
is its identity. Validators and the command line read manifests too, therefore this module imports neither torch nor
numpy.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Final, Literal

import msgspec

from learner.canonical import STATE_BYTES_MAX, TENSORS_MAX, Field, encoded_size
from learner.errors import InvalidManifest

MANIFEST_BYTES_MAX: Final = 16 * 1024
DATASET_BYTES_MAX: Final = 2**30
BITS_MIN: Final = 4
BITS_MAX: Final = 14  # two 7-bit limbs: what int8 hardware can multiply exactly
BITS_DEFAULT: Final = 14
LAYERS_MAX: Final = 64
WIDTH_MAX: Final = 65_536
BATCH_SIZE_MAX: Final = 65_536
STEPS_MAX: Final = 100_000
LEARNING_RATE_MAX: Final = 100.0

Digest = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Width = Annotated[int, msgspec.Meta(ge=1, le=WIDTH_MAX)]


class Mlp(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="mlp"):
    """Linear layers with ReLU between them; `sizes` runs from the features of a sample to the number of classes."""

    sizes: Annotated[tuple[Width, ...], msgspec.Meta(min_length=2, max_length=LAYERS_MAX + 1)]

    def parameters(self) -> tuple[Field, ...]:
        """Weights `<layer>.weight` of shape [out, in] and biases `<layer>.bias` of shape [out], first layer first."""
        pairs = zip(self.sizes[:-1], self.sizes[1:], strict=True)
        return tuple(
            field
            for layer, (inputs, outputs) in enumerate(pairs)
            for field in (Field(f"{layer:02}.weight", (outputs, inputs)), Field(f"{layer:02}.bias", (outputs,)))
        )

    @property
    def features(self) -> int:
        """Numbers in one sample."""
        return self.sizes[0]

    @property
    def classes(self) -> int:
        """Numbers in one output."""
        return self.sizes[-1]


class Goal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When the job's owner stops: the metric on the test set reaches `at_least`."""

    at_least: Annotated[float, msgspec.Meta(gt=0, le=1)]
    metric: Literal["accuracy"] = "accuracy"

    def reached(self, correct: int, total: int) -> bool:
        """Is `correct` of `total` good enough?"""
        return correct >= self.at_least * total


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One job's training, per round: `steps` batches of SGD with momentum from the base state.

    Attributes:
        model: the architecture.
        dataset: blob digest of the canonical dataset; `dataset_size` is its length in bytes.
        batch_size: samples per step; the quantisation scales depend on it, so it is part of the result.
        steps: SGD steps per round.
        learning_rate, momentum: rounded once to float32 before use; momentum 0 means plain SGD without that state.
        bits: b of the arithmetic, the width of a quantised number.
        init_seed: 32 bytes that determine the first base state.
        goal: tells the owner when to stop; no part of the arithmetic.
    """

    version: Literal[1] = 1
    model: Mlp
    dataset: Digest
    dataset_size: Annotated[int, msgspec.Meta(ge=1, le=DATASET_BYTES_MAX)]
    batch_size: Annotated[int, msgspec.Meta(ge=1, le=BATCH_SIZE_MAX)]
    steps: Annotated[int, msgspec.Meta(ge=1, le=STEPS_MAX)]
    learning_rate: Annotated[float, msgspec.Meta(gt=0, le=LEARNING_RATE_MAX)]
    momentum: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.0
    bits: Annotated[int, msgspec.Meta(ge=BITS_MIN, le=BITS_MAX)] = BITS_DEFAULT
    init_seed: Digest
    goal: Goal | None = None

    def state_fields(self) -> tuple[Field, ...]:
        """The tensors of a state: `parameter/<name>` and, with momentum, `velocity/<name>`."""
        groups = ("parameter", "velocity") if self.momentum else ("parameter",)
        return tuple(Field(f"{group}/{p.name}", p.shape) for group in groups for p in self.model.parameters())

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
    for name in ("learning_rate", "momentum"):
        if not math.isfinite(getattr(manifest, name)):
            raise InvalidManifest(name, "must be finite")
    if manifest.goal is not None and not math.isfinite(manifest.goal.at_least):
        raise InvalidManifest("goal.at_least", "must be finite")
    if math.copysign(1.0, manifest.momentum) < 0:
        raise InvalidManifest("momentum", "must not be minus zero")
    if manifest.model.classes < 2:
        raise InvalidManifest(f"model.sizes[{len(manifest.model.sizes) - 1}]", "must be at least 2: the classes")
    if len(manifest.state_fields()) > TENSORS_MAX or manifest.update_size() > STATE_BYTES_MAX:
        raise InvalidManifest("model.sizes", f"a state of {manifest.update_size()} bytes, at most {STATE_BYTES_MAX}")
