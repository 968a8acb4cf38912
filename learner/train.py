"""One round of training: (manifest, base state, dataset, batch seed) -> the next state, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.batches import chosen
from learner.data import Dataset
from learner.errors import InvalidDataset, InvalidState, Stopped
from learner.exact.guard import Guard
from learner.exact.optim import optimiser
from learner.machine import CPU, Machine
from learner.manifest import Manifest
from learner.models import check_tokens, initial_state, loss_gradient, loss_value
from learner.tensors import State, decode_parameters, decode_state, encode_state

GUARD_INTERVAL_STEPS: Final = 16  # the guard doubles the time of a small step; all steps do the same operations


@dataclass(frozen=True, slots=True)
class Samples:
    """A dataset's values on a device: features float32 [train + test, features], labels int64 [train + test]."""

    features: Tensor
    labels: Tensor
    train: int


def load_samples(dataset: Dataset, machine: Machine) -> Samples:
    """Put a dataset's values on the device.

    Raises:
        InvalidDataset: a float feature is NaN, infinite or minus zero.
    """
    rows = dataset.train + dataset.test
    raw = torch.frombuffer(bytearray(dataset.features), dtype=getattr(torch, dataset.element))
    if dataset.element == "float32":
        if not bool(torch.isfinite(raw).all()):
            raise InvalidDataset("dataset: a feature is not finite")
        if bool(((raw == 0) & torch.signbit(raw)).any()):
            raise InvalidDataset("dataset: a feature is minus zero")
    features = raw.view(rows, dataset.sample_features).to(machine.device, torch.float32) * 2.0**dataset.scale
    labels = torch.frombuffer(bytearray(dataset.labels), dtype=torch.uint16).to(machine.device, torch.int64)
    return Samples(features, labels, dataset.train)


def initial_bytes(manifest: Manifest, weights: bytes | None = None) -> bytes:
    """The canonical bytes of the first base state.

    Args:
        weights: the blob that the manifest names, if it names one.
    Raises:
        InvalidState: the blob is missing or unasked for, no state, or does not have the model's parameters.
    """
    state = initial_state(manifest)
    if (weights is None) != (manifest.weights is None):
        raise InvalidState("state: initial weights " + ("are missing" if weights is None else "were not asked for"))
    if weights is not None:
        state |= decode_parameters(weights, manifest)
    return encode_state(state, manifest.bits)


def parameters_of(state: State) -> State:
    """The tensors that the model computes with, under their names in the model."""
    return {name.removeprefix("parameter/"): tensor for name, tensor in state.items() if name.startswith("parameter/")}


def train_round(
    manifest: Manifest,
    base: bytes,
    samples: Samples,
    batch_seed: bytes,
    machine: Machine = CPU,
    should_stop: Callable[[int, Callable[[], float]], bool] = lambda step, loss: False,
    row: bytes | None = None,
) -> bytes:
    """Train `manifest.steps` steps from the state `base`; returns the canonical bytes of the next state.

    Args:
        samples: of a dataset that fits the manifest (Dataset.check_fits).
        batch_seed: 32 bytes.
        should_stop: asked after every step with the number of steps done and a way to compute the loss of that
            step's batch before it; computing it costs about a third of a step.
        row: of the round in the list of batches that the manifest names, if it names one.
    Raises:
        InvalidState: `base` is not a state of this manifest.
        InvalidBatches: the row does not fit.
        Diverged: a number left the finite range.
        Stopped: should_stop said so.
    """
    rounds_batches = chosen(manifest, samples.train, batch_seed, row)
    network, model = machine.network(manifest), manifest.model
    state = {name: tensor.to(machine.device) for name, tensor in decode_state(base, manifest).items()}
    check_tokens(model, samples.features[: samples.train])
    parameters = parameters_of(state)
    optimise = optimiser(manifest, state, machine.device)
    for done, indices in enumerate(rounds_batches, start=1):
        indices = indices.to(machine.device)
        labels = samples.labels[indices]
        with Guard() if done % GUARD_INTERVAL_STEPS == 1 else nullcontext():
            outputs, tapes = network.forward(parameters, samples.features[indices])
            gradients = network.backward(parameters, tapes, loss_gradient(model, outputs, labels))
            optimise.step(gradients)
        if should_stop(done, lambda outputs=outputs, labels=labels: loss_value(model, outputs, labels)):  # type: ignore[misc]
            raise Stopped
    return encode_state(state, manifest.bits)
