from __future__ import annotations

import hashlib

import msgspec
import numpy as np
import pytest
import torch

from learner import data
from learner.batches import batches
from learner.errors import Diverged, InvalidState, Stopped
from learner.evaluate import evaluate, predict
from learner.exact.backends.choose import BACKENDS
from learner.machine import CPU, Machine
from learner.manifest import Manifest
from learner.models import initial_state
from learner.presets import mlp
from learner.tensors import decode_state, encode_state
from learner.train import Samples, initial_bytes, load_samples, train_round
from tests.learner import numpy_twin as twin
from tests.learner.examples import DIGITS, digits_manifest, sha256

INT8 = Machine(torch.device("cpu"), BACKENDS["int8"])


@pytest.fixture(scope="module")
def samples() -> Samples:
    return load_samples(data.decode(DIGITS), CPU)


@pytest.mark.parametrize("matmul", [twin.by_blas, twin.by_integers, twin.by_blas_backwards])
@pytest.mark.parametrize(
    "manifest",
    [
        digits_manifest(steps=20),
        digits_manifest(steps=20, momentum=0.0, learning_rate=0.1, bits=7, init_seed=bytes([7]) * 32),
        digits_manifest(steps=20, model=mlp((64, 33, 17, 10)), batch_size=130, learning_rate=0.05),
    ],
    ids=["demo", "plain-sgd-7-bits", "three-layers-two-epochs"],
)
def test_an_independent_numpy_version_ends_in_the_same_bytes_after_twenty_steps(
    manifest: Manifest, matmul: object, samples: Samples
) -> None:
    job = twin.Job(manifest.encode(), matmul)  # type: ignore[arg-type]
    features, labels, train = twin.dataset(DIGITS)
    theirs = twin.initial(job)
    assert twin.canonical(theirs, job.bits) == initial_bytes(manifest)
    theirs = twin.train(job, theirs, features[:train], labels[:train], bytes([3]) * 32)
    mine = train_round(manifest, initial_bytes(manifest), samples, bytes([3]) * 32)
    assert sha256(mine) == sha256(twin.canonical(theirs, job.bits))
    score = evaluate(manifest, mine, samples)
    assert (score.correct, score.total) == twin.score(job, theirs, features[train:], labels[train:])


def test_the_int8_backend_ends_in_the_same_bytes(samples: Samples) -> None:
    manifest = digits_manifest(steps=10)
    base = initial_bytes(manifest)
    assert train_round(manifest, base, samples, bytes(32), INT8) == train_round(manifest, base, samples, bytes(32))


def test_the_demonstration_reaches_its_goal_in_ten_to_fifteen_rounds(samples: Samples) -> None:
    manifest = digits_manifest()
    assert manifest.goal is not None
    state = initial_bytes(manifest)
    for number in range(1, 16):
        state = train_round(manifest, state, samples, hashlib.sha256(bytes([number])).digest())
        score = evaluate(manifest, state, samples)
        if manifest.goal.reached(score.correct, score.total):
            break
    assert score.accuracy >= 0.95
    assert 8 <= number <= 15


def test_batches_are_whole_distinct_within_an_epoch_and_fixed_by_the_seed() -> None:
    chosen = [batch.tolist() for batch in batches(bytes(32), 10, 3, 7)]
    assert [len(batch) for batch in chosen] == [3] * 7
    for epoch in (chosen[:3], chosen[3:6]):
        assert len({index for batch in epoch for index in batch}) == 9
    assert chosen == [batch.tolist() for batch in batches(bytes(32), 10, 3, 9)][:7]
    assert chosen != [batch.tolist() for batch in batches(bytes([1]) * 32, 10, 3, 7)]


def test_another_batch_seed_gives_another_state(samples: Samples) -> None:
    manifest = digits_manifest(steps=2)
    base = initial_bytes(manifest)
    assert train_round(manifest, base, samples, bytes(32)) != train_round(manifest, base, samples, bytes([1]) * 32)


def test_the_first_state_has_the_size_that_the_manifest_foretells() -> None:
    for manifest in (digits_manifest(), digits_manifest(momentum=0.0), digits_manifest(model=mlp((64, 3, 3, 10)))):
        assert len(initial_bytes(manifest)) == manifest.update_size()


def test_training_stops_when_asked_and_offers_the_loss(samples: Samples) -> None:
    losses: list[float] = []

    def should_stop(step: int, loss: object) -> bool:
        losses.append(loss())  # type: ignore[operator]
        return step == 3

    manifest = digits_manifest()
    with pytest.raises(Stopped):
        train_round(manifest, initial_bytes(manifest), samples, bytes(32), CPU, should_stop)
    assert len(losses) == 3
    assert all(0 < value < 10 for value in losses)


def test_a_learning_rate_that_is_too_high_is_divergence_and_not_a_strange_state(samples: Samples) -> None:
    manifest = digits_manifest(learning_rate=100.0, momentum=0.999, steps=500, bits=4)
    state = initial_state(manifest)
    state["parameter/00.weight"] *= 1e38
    state["parameter/01.weight"] *= 1e38
    with pytest.raises(Diverged):
        train_round(manifest, encode_state(state, 4), samples, bytes(32))


def test_the_lowest_of_equally_likely_classes_is_predicted() -> None:
    manifest = digits_manifest(model=mlp((64, 10)))
    state = {field.name: torch.zeros(field.shape) for field in manifest.state_fields()}
    state["parameter/00.bias"][3] = state["parameter/00.bias"][7] = 1.0
    assert predict(manifest, encode_state(state, 14), torch.ones(2, 64)).tolist() == [3, 3]


def test_a_state_survives_its_bytes_and_loses_only_the_sign_of_zero() -> None:
    manifest = digits_manifest(model=mlp((64, 10)))
    state = initial_state(manifest)
    state["parameter/00.bias"][0] = -0.0
    raw = encode_state(state, 14)
    back = decode_state(raw, manifest)
    assert all(np.array_equal(back[name].numpy(), state[name].numpy()) for name in state)
    assert not bool(torch.signbit(back["parameter/00.bias"]).any())
    assert encode_state(back, 14) == raw


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -0.0])
def test_a_state_with_a_number_that_is_not_canonical_is_refused(bad: float) -> None:
    manifest = digits_manifest(model=mlp((64, 10)))
    raw = bytearray(initial_bytes(manifest))
    raw[-4:] = np.array([bad], "<f4").tobytes()
    with pytest.raises(InvalidState, match=r"velocity/00\.weight"):
        decode_state(bytes(raw), manifest)


def test_a_tensor_that_is_not_finite_is_not_encoded() -> None:
    with pytest.raises(Diverged, match="parameter/x"):
        encode_state({"parameter/x": torch.tensor([1.0, float("inf")])}, 14)


def test_a_state_of_another_manifest_is_refused() -> None:
    raw = initial_bytes(digits_manifest(model=mlp((64, 10))))
    with pytest.raises(InvalidState, match="not the tensors"):
        decode_state(raw, digits_manifest())
    with pytest.raises(InvalidState, match="14 bits"):
        decode_state(raw, msgspec.structs.replace(digits_manifest(model=mlp((64, 10))), bits=8))
