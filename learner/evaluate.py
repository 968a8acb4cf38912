"""Exact scores: how many test samples a state classifies correctly, the same integer on every machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

from learner.errors import Stopped
from learner.exact.integers import Arithmetic
from learner.manifest import Manifest
from learner.models import forward
from learner.score import Score
from learner.tensors import decode_state
from learner.train import CPU, Machine, Samples, parameters_of

CHUNK_ROWS: Final = 1024  # quantisation scales depend on the rows computed together, so this is part of the result


def predict(manifest: Manifest, state: bytes, features: Tensor, machine: Machine = CPU) -> Tensor:
    """Classes of samples float32 [N, features], 1 <= N <= CHUNK_ROWS; of equal greatest logits the lowest class.

    Raises:
        InvalidState: not a state of this manifest.
        Diverged: a number left the finite range.
    """
    arithmetic = Arithmetic(manifest.bits, machine.multiply)
    parameters = parameters_of(decode_state(state, manifest))
    on_device = {name: tensor.to(machine.device) for name, tensor in parameters.items()}
    logits, _ = forward(manifest.model, arithmetic, on_device, features)
    # torch's argmax leaves open which of equal values it names.
    classes = torch.arange(logits.shape[1], device=logits.device)
    greatest = logits == logits.amax(1, keepdim=True)
    return torch.where(greatest, classes, logits.shape[1]).amin(1)


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
