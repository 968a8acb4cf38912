"""Cross-entropy of a softmax. Probabilities live on a grid of 2**-30, so that their sum is exact in any order."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 0.693147180369123816490  # ln 2 in two parts, as in fdlibm's e_exp.c: n * high is exact
_LN2_LOW: Final = 1.90821492927058770002e-10
_EXP_MIN: Final = -700.0
_EXP_COEFFICIENTS: Final = tuple(1.0 / math.factorial(i) for i in range(12, -1, -1))
_LOG_ODD_MAX: Final = 21
_SQRT2: Final = 1.4142135623730951
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
    """The mean cross-entropy in nats, each sample's rounded to 2**-32; equal on every machine."""
    _, total, shifted = _softmax_parts(logits)
    losses = log(total[:, 0] * (1 / _GRID)) - shifted.gather(1, labels[:, None])[:, 0]
    return float(torch.round(losses * _LOSS_GRID).sum().item()) / _LOSS_GRID / logits.shape[0]


def exp(x: Tensor) -> Tensor:
    """e**x for float64 x <= 0, about 1e-15 relative; below -700 it is e**-700. A polynomial, in single operations."""
    x = x.clamp(min=_EXP_MIN)
    n = torch.round(x * _LOG2_E)
    r = x - n * _LN2_HIGH
    r = r - n * _LN2_LOW
    p = torch.full_like(r, _EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        p = p * r
        p = p + coefficient
    return p * ((n.to(torch.int64) + 1023) << 52).view(torch.float64)


def log(x: Tensor) -> Tensor:
    """Natural logarithm of normal, positive float64 x: exponent plus an atanh series of the mantissa."""
    raw = x.view(torch.int64)
    mantissa = ((raw & ((1 << 52) - 1)) | (1023 << 52)).view(torch.float64)
    large = mantissa > _SQRT2
    mantissa = torch.where(large, mantissa * 0.5, mantissa)
    exponent = ((raw >> 52) - 1023 + large.to(torch.int64)).double()
    t = (mantissa - 1.0) / (mantissa + 1.0)
    t2 = t * t
    p = torch.full_like(t, 1.0 / _LOG_ODD_MAX)
    for odd in range(_LOG_ODD_MAX - 2, 0, -2):
        p = p * t2
        p = p + 1.0 / odd
    tail = t * 2.0
    tail = tail * p
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + tail)


def _softmax_parts(logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Integer weights [N, C] whose row sums [N, 1] are exact, and the logits less their row maximum [N, C]."""
    z = logits.double()
    shifted = z - z.amax(1, keepdim=True)
    weights = torch.round(exp(shifted) * _GRID)
    return weights, weights.sum(1, keepdim=True), shifted
