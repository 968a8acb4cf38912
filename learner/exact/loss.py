"""Losses and their gradients. Probabilities live on a grid of 2**-30, so that their sum is exact in any order."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

from learner.exact.functions import exp, log
from learner.exact.integers import exact_sum

_GRID: Final = 2.0**30
_LOSS_GRID: Final = 2.0**32


def cross_entropy_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the mean cross-entropy: (softmax - one_hot) / N in float64, rounded once to float32.

    Args:
        logits: float32 [N, classes].
        labels: int64 [N].
    """
    weights, total, _ = _softmax_parts(logits)
    one_hot = torch.zeros_like(weights).scatter_(1, labels[:, None], 1.0)
    # The divisor is a tensor: some devices turn division by a Python number into a multiplication.
    count = torch.full((), logits.shape[0], dtype=torch.float64, device=logits.device)
    return ((weights / total - one_hot) / count).float()


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """The mean cross-entropy in nats, each sample's rounded to 2**-32; equal on every machine.

    fsum rounds the exact sum once: of outputs in the millions it has more than 53 bits, and torch's depends on the
    order.
    """
    _, total, shifted = _softmax_parts(logits)
    losses = log(total[:, 0] * (1 / _GRID)) - shifted.gather(1, labels[:, None])[:, 0]
    return math.fsum(torch.round(losses * _LOSS_GRID).tolist()) / _LOSS_GRID / logits.shape[0]


def _softmax_parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integer weights [N, C] whose row sums [N, 1] are exact, and the logits less their row maximum [N, C]."""
    z = logits.double()
    shifted = z - z.amax(1, keepdim=True)
    weights = torch.round(exp(shifted) * _GRID)
    return weights, weights.sum(1, keepdim=True), shifted


def squared_error_gradient(outputs: Tensor, targets: Tensor) -> Tensor:
    """Gradient of the mean of (outputs - targets)**2: in float64, rounded once to float32.

    Args:
        outputs, targets: float32 [N, M].
    """
    count = torch.full((), float(outputs.numel()), dtype=torch.float64, device=outputs.device)
    return (outputs.double() - targets.double()).mul_(2.0).div_(count).float()


def squared_error(outputs: Tensor, targets: Tensor) -> float:
    """The mean of (outputs - targets)**2; equal on every machine."""
    difference = outputs - targets
    total = exact_sum(difference * difference, tuple(range(outputs.dim())))
    return float(total.item()) / outputs.numel()
