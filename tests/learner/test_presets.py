"""Every layer, loss, optimiser and preset: digest for digest with the numpy version, on every backend."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from learner import data, presets
from learner.architecture import (
    Attention,
    AveragePool,
    Conv2d,
    Embedding,
    Flatten,
    Gelu,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    MeanSquaredError,
    Model,
    Position,
    Relu,
    Residual,
)
from learner.errors import InvalidDataset
from learner.evaluate import evaluate
from learner.exact.backends.choose import BACKENDS
from learner.machine import CPU, Machine
from learner.manifest import Adam, Manifest
from learner.train import Samples, initial_bytes, load_samples, train_round
from tests.learner import numpy_twin as twin
from tests.learner.examples import DIGITS, digits_manifest, sha256

SEED = bytes([3]) * 32
MACHINES = {name: Machine(torch.device("cpu"), backend) for name, backend in BACKENDS.items()}
MACHINES["auto"] = Machine(torch.device("cpu"), None)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples(data.decode(DIGITS), CPU)


def whole(samples: Samples) -> Samples:
    """The pixels as the whole numbers 0 to 16: tokens."""
    return Samples((samples.features * 16.0).round(), samples.labels, samples.train)


PRESETS: dict[str, dict[str, Any]] = {
    "linear regression": {"model": presets.linear_regression(64, 10), "learning_rate": 0.001},
    "logistic regression": {"model": presets.logistic_regression(64, 10), "momentum": 0.0},
    "mlp": {"model": presets.mlp((64, 33, 17, 10)), "weight_decay": 0.01},
    "cnn": {"model": presets.cnn((1, 8, 8), 10, (4, 6), 12)},
    "transformer": {"model": presets.transformer((8, 8), 10, 16, 2, 1), "adam": Adam(), "learning_rate": 0.003},
}
IMAGE, WORDS = (1, 8, 8), (64,)
LAYERS: dict[str, tuple[tuple[int, ...], tuple[Layer, ...]]] = {
    "a strided convolution": (IMAGE, (Conv2d(3, 3, 2, 1), Relu(), Conv2d(4, 2, 3), Flatten(), Linear(10))),
    "a wide stride that leaves pixels out": (IMAGE, (Conv2d(3, 2, 1, 1), Conv2d(4, 2, 3), Flatten(), Linear(10))),
    "overlapping max pooling": (IMAGE, (Conv2d(3, 3), MaxPool(3, 2), Flatten(), Linear(10))),
    "max pooling with gaps": (IMAGE, (Conv2d(3, 1), MaxPool(2, 3), Flatten(), Linear(10))),
    "average pooling": (IMAGE, (Conv2d(3, 3), AveragePool(2, 2), Flatten(), Linear(10))),
    "overlapping average pooling": (IMAGE, (Conv2d(2, 2), AveragePool(3, 1), Flatten(), Linear(10))),
    "a gelu": ((64,), (Linear(20), Gelu(), Linear(10))),
    "a residual that comes first": ((64,), (Residual((Linear(64), Relu(), Residual((Relu(),)))), Linear(10))),
    "a norm that comes first": ((8, 8), (LayerNorm(), Flatten(), Linear(10))),
    "attention that comes first": ((8, 8), (Attention(4), Flatten(), Linear(10))),
    "causal attention over words": (
        WORDS,
        (Embedding(17, 4), Position(), Residual((LayerNorm(), Attention(2, True))), Flatten(), Linear(10)),
    ),
}


def same(manifest: Manifest, samples: Samples, machine: Machine) -> None:
    job = twin.Job(manifest.encode())
    features, labels = samples.features.numpy(), samples.labels.numpy()
    theirs = twin.initial(job)
    assert twin.canonical(theirs, job.bits) == initial_bytes(manifest)
    theirs = twin.train(job, theirs, features[: samples.train], labels[: samples.train], SEED)
    mine = train_round(manifest, initial_bytes(manifest), samples, SEED, machine)
    assert sha256(mine) == sha256(twin.canonical(theirs, job.bits))
    score = evaluate(manifest, mine, samples, machine)
    assert (score.correct, score.total) == twin.score(job, theirs, features[samples.train :], labels[samples.train :])


@pytest.mark.parametrize("bits", [14, 7])
@pytest.mark.parametrize("name", PRESETS)
def test_twenty_steps_of_each_preset_end_in_the_bytes_of_the_numpy_version(
    name: str, bits: int, samples: Samples
) -> None:
    manifest = digits_manifest(steps=20, batch_size=16, bits=bits, goal=None, **PRESETS[name])
    same(manifest, samples, MACHINES["auto"])
    base = initial_bytes(manifest)
    reference = train_round(manifest, base, samples, SEED)
    for backend, machine in MACHINES.items():
        assert train_round(manifest, base, samples, SEED, machine) == reference, backend


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer_agrees_with_the_numpy_version(name: str, samples: Samples) -> None:
    shape, layers = LAYERS[name]
    tokens = whole(samples) if shape == WORDS else samples
    manifest = digits_manifest(model=Model(shape, layers), steps=3, batch_size=8, learning_rate=0.05)
    same(manifest, tokens, MACHINES["int8"])


@pytest.mark.parametrize(
    "change",
    [
        {"momentum": 0.0},
        {"momentum": 0.0, "weight_decay": 0.1},
        {"adam": Adam(), "momentum": 0.0},
        {"adam": Adam(0.9, 0.01), "weight_decay": 0.1},
        {"model": Model((64,), (Linear(8), Relu(), Linear(10)), MeanSquaredError())},
        {"model": Model((64,), (Linear(1),), MeanSquaredError(10, -2))},
    ],
    ids=str,
)
def test_each_optimiser_and_loss_agrees_with_the_numpy_version(change: dict[str, Any], samples: Samples) -> None:
    fields = {"model": presets.mlp((64, 9, 10)), "steps": 5, "batch_size": 16, "learning_rate": 0.02}
    same(digits_manifest(**fields | change), samples, CPU)


def test_adam_goes_on_where_the_last_round_ended(samples: Samples) -> None:
    manifest = digits_manifest(adam=Adam(), steps=2, learning_rate=0.001)
    state = initial_bytes(manifest)
    for _ in range(2):
        state = train_round(manifest, state, samples, SEED)
    job = twin.Job(manifest.encode())
    theirs = twin.initial(job)
    for _ in range(2):
        features, labels = samples.features.numpy()[: samples.train], samples.labels.numpy()[: samples.train]
        theirs = twin.train(job, theirs, features, labels, SEED)
    assert state == twin.canonical(theirs, job.bits)


@pytest.mark.parametrize("value", [17.0, -1.0, 0.5])
def test_a_token_that_is_none_is_refused_by_layer_and_value(value: float, samples: Samples) -> None:
    shape, layers = LAYERS["causal attention over words"]
    manifest = digits_manifest(model=Model(shape, layers), steps=1)
    tokens = whole(samples)
    tokens.features[5, 7] = value
    with pytest.raises(InvalidDataset, match=rf"layers\[0\] \(embedding\): token {value}: whole numbers from 0 to 16"):
        train_round(manifest, initial_bytes(manifest), tokens, SEED)
