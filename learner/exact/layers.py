"""Layers as pairs of functions. `forward` hands back what `backward` needs; nothing here uses autograd."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from learner.exact.integers import Arithmetic, Quantised, column_sums


@dataclass(frozen=True, slots=True)
class LinearTape:
    """The quantised operands of a linear layer's forward pass: x [N, in] and weight [out, in]."""

    x: Quantised
    weight: Quantised


def linear_forward(arithmetic: Arithmetic, x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, LinearTape]:
    """x @ weight.T + bias: x [N, in], weight [out, in], bias [out], all float32; gives [N, out]."""
    tape = LinearTape(arithmetic.quantise(x), arithmetic.quantise(weight))
    return arithmetic.product(tape.x, tape.weight.t()) + bias, tape


@dataclass(frozen=True, slots=True)
class LinearGradients:
    """Gradients of a linear layer; `x` is None where it was not asked for."""

    x: Tensor | None
    weight: Tensor
    bias: Tensor


def linear_backward(arithmetic: Arithmetic, tape: LinearTape, gradient: Tensor, need_x: bool) -> LinearGradients:
    """From the output's gradient [N, out], quantised once for all three results."""
    g = arithmetic.quantise(gradient)
    return LinearGradients(
        x=arithmetic.product(g, tape.weight) if need_x else None,
        weight=arithmetic.product(g.t(), tape.x),
        bias=column_sums(g),
    )


def relu_forward(x: Tensor) -> tuple[Tensor, Tensor]:
    """max(x, 0) and the mask x > 0 for the backward pass."""
    mask = x > 0
    return torch.where(mask, x, 0.0), mask


def relu_backward(mask: Tensor, gradient: Tensor) -> Tensor:
    """The gradient where x was above zero, else zero (also at zero)."""
    return torch.where(mask, gradient, 0.0)
