"""One round of training: (manifest, base state, dataset, batch seed) -> the next state, the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.batches import batches
from learner.data import Dataset
from learner.errors import InvalidDataset, Stopped
from learner.exact.backends import Multiply, f64
from learner.exact.integers import Arithmetic
from learner.exact.loss import cross_entropy, cross_entropy_gradient
from learner.exact.optim import sgd_step
from learner.manifest import Manifest
from learner.models import backward, forward, initial_state
from learner.tensors import State, decode_state, encode_state


@dataclass(frozen=True, slots=True)
class Samples:
    """A dataset's values on a device: features float32 [train + test, features], labels int64 [train + test]."""

    features: Tensor
    labels: Tensor
    train: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Where and how to compute; changes the speed, never the result."""

    device: torch.device
    multiply: Multiply = f64.multiply


CPU = Machine(torch.device("cpu"))


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


def initial_bytes(manifest: Manifest) -> bytes:
    """The canonical bytes of the first base state."""
    return encode_state(initial_state(manifest), manifest.bits)


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
) -> bytes:
    """Train `manifest.steps` steps from the state `base`; returns the canonical bytes of the next state.

    Args:
        samples: of a dataset that fits the manifest (Dataset.check_fits).
        batch_seed: 32 bytes.
        should_stop: asked after every step with the number of steps done and a way to compute the loss of that
            step's batch before it; computing it costs about a third of a step.
    Raises:
        InvalidState: `base` is not a state of this manifest.
        Diverged: a number left the finite range.
        Stopped: should_stop said so.
    """
    arithmetic = Arithmetic(manifest.bits, machine.multiply)
    state = {name: tensor.to(machine.device) for name, tensor in decode_state(base, manifest).items()}
    parameters = parameters_of(state)
    rate = torch.tensor(manifest.learning_rate, dtype=torch.float32, device=machine.device)
    momentum = torch.tensor(manifest.momentum, dtype=torch.float32, device=machine.device)
    chosen = batches(batch_seed, samples.train, manifest.batch_size, manifest.steps)
    for done, indices in enumerate(chosen, start=1):
        indices = indices.to(machine.device)
        labels = samples.labels[indices]
        logits, tape = forward(manifest.model, arithmetic, parameters, samples.features[indices])
        gradients = backward(arithmetic, tape, cross_entropy_gradient(logits, labels))
        for name, parameter in parameters.items():
            sgd_step(parameter, state.get(f"velocity/{name}"), gradients[name], rate, momentum)
        if should_stop(done, lambda logits=logits, labels=labels: cross_entropy(logits, labels)):  # type: ignore[misc]
            raise Stopped
    return encode_state(state, manifest.bits)
