"""Layer normalisation over the last dimension (Ba et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.exact.functions import sqrt32
from learner.exact.integers import Arithmetic, exact_sum
from learner.exact.layers import Gradients

EPSILON: Final = 1e-5


@dataclass(frozen=True, slots=True)
class NormTape:
    """The normalised x, like x, and the reciprocal of the deviation, [..., 1]."""

    normal: Tensor
    reciprocal: Tensor


class LayerNorm:
    """weight [width], bias [width]."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, NormTape]:
        """Same shape."""
        centred = x - _mean(x).float()
        deviation = sqrt32(_mean(centred * centred).add_(EPSILON).float())
        reciprocal = torch.ones_like(deviation).div_(deviation)
        normal = centred.mul_(reciprocal)
        return (normal * parameters["weight"]).add_(parameters["bias"]), NormTape(normal, reciprocal)

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: NormTape, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """(u - mean(u) - normal * mean(u * normal)) * reciprocal, u = gradient * weight."""
        weight = parameters["weight"]
        batch = tuple(range(gradient.dim() - 1))
        product = gradient * tape.normal
        gradients = {"weight": exact_sum(product, batch).float(), "bias": exact_sum(gradient, batch).float()}
        if not need_x:
            return Gradients(None, gradients)
        u = gradient * weight
        along = _mean(product.mul_(weight)).float()
        u.sub_(_mean(u).float()).sub_(tape.normal * along)
        return Gradients(u.mul_(tape.reciprocal), gradients)


def _mean(x: Tensor) -> Tensor:
    """Over the last dimension, kept; float64: an exact sum and one division."""
    total = exact_sum(x, (-1,), keep=True)
    return total.div_(torch.full((), float(x.shape[-1]), dtype=total.dtype, device=total.device))
