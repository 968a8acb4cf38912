"""Element by element."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.exact.functions import exp32
from learner.exact.integers import Arithmetic
from learner.exact.layers import Gradients

_CUBIC: Final = 0.044715
_CUBIC_SLOPE: Final = 0.134145  # three times as much
_SLOPE: Final = 1.5957691216057308  # 2 sqrt(2 / pi)


class Relu:
    """max(x, 0); the tape is the output."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """A NaN stays one."""
        y = x.clamp_min(0.0)
        return y, y

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: Tensor, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """The gradient where the output is above zero, else zero: a comparison and a choice, despite its name."""
        return Gradients(torch.ops.aten.threshold_backward(gradient, tape, 0.0))


@dataclass(frozen=True, slots=True)
class GeluTape:
    """x, its square, and the logistic function's value."""

    x: Tensor
    square: Tensor
    share: Tensor


class Gelu:
    """x * s, s = 1 / (1 + exp(-u)), u = 1.59577 (x + 0.044715 x^3): the usual approximation with a tanh, rewritten."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, GeluTape]:
        """Same shape."""
        square = x * x
        u = (square * _CUBIC).add_(1.0).mul_(x).mul_(_SLOPE)
        denominator = exp32(u.neg_()).add_(1.0)
        share = torch.ones_like(denominator).div_(denominator)
        return x * share, GeluTape(x, square, share)

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: GeluTape, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """s + x * s * (1 - s) * u'."""
        slope = (tape.square * _CUBIC_SLOPE).add_(1.0).mul_(_SLOPE)
        rest = torch.ones_like(tape.share).sub_(tape.share).mul_(tape.share)
        total = rest.mul_(slope).mul_(tape.x).add_(tape.share)
        return Gradients(total.mul_(gradient))


class Flatten:
    """[N, ...] -> [N, numbers]."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, torch.Size]:
        """In the order of the dimensions."""
        return x.reshape(x.shape[0], -1), x.shape

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: torch.Size, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """Back into shape."""
        return Gradients(gradient.reshape(tape))
