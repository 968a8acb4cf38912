"""Exact scores: how many test samples a state classifies correctly, the same integer on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor

from learner.errors import Stopped
from learner.exact.guard import Guard
from learner.machine import CPU, Machine
from learner.manifest import Manifest
from learner.models import check_tokens, classes_of
from learner.score import Score
from learner.tensors import decode_state
from learner.train import Samples, parameters_of

CHUNK_ROWS: Final = 1024  # quantisation scales depend on the rows computed together, so this is part of the result


def predict(manifest: Manifest, state: bytes, features: Tensor, machine: Machine = CPU) -> Tensor:
    """Classes of samples float32 [N, features], 1 <= N <= CHUNK_ROWS; see models.classes_of.

    Raises:
        InvalidState: not a state of this manifest.
        InvalidDataset: a token that the model's embedding does not have.
        Diverged: a number left the finite range.
    """
    parameters = parameters_of(decode_state(state, manifest))
    on_device = {name: tensor.to(machine.device) for name, tensor in parameters.items()}
    check_tokens(manifest.model, features)
    with Guard():
        outputs, _ = machine.network(manifest).forward(on_device, features)
        return classes_of(manifest.model, outputs)


def evaluate(
    manifest: Manifest,
    state: bytes,
    samples: Samples,
    machine: Machine = CPU,
    should_stop: Callable[[], bool] = lambda: False,
) -> Score:
    """Score a state on the test samples, CHUNK_ROWS at a time in order.

    Raises:
        InvalidState: not a state of this manifest.
        InvalidDataset: a token that the model's embedding does not have.
        Diverged: a number left the finite range.
        Stopped: should_stop said so.
    """
    features, labels = samples.features[samples.train :], samples.labels[samples.train :]
    correct = 0
    for start in range(0, len(labels), CHUNK_ROWS):
        rows = slice(start, start + CHUNK_ROWS)
        correct += int((predict(manifest, state, features[rows], machine) == labels[rows]).sum())
        if should_stop():
            raise Stopped
    return Score(correct, len(labels))
