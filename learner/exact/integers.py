"""Block fixed point: a tensor as integers and one power of two, and products of such tensors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.errors import Diverged
from learner.exact.backends import Multiply, f64

EXPONENT_MAX: Final = 90
INNER_MAX: Final = 2**26  # (2**13)**2 * 2**26 = 2**52: a float64 holds every partial sum


@dataclass(frozen=True, slots=True)
class Quantised:
    """values * 2**-scale; `values` is a float32 tensor that holds integers."""

    values: Tensor
    scale: int

    def t(self) -> Quantised:
        """The transpose of a matrix."""
        return Quantised(self.values.t(), self.scale)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The number format of a job and the backend that multiplies in it.

    Attributes:
        bits: b, a quantised number is within +-(2**(b-1) - 1).
        multiply: any of `backends.BACKENDS`; cannot change a result.
    """

    bits: int
    multiply: Multiply = f64.multiply

    def quantise(self, x: Tensor) -> Quantised:
        """clamp(rint(x * 2**scale)), scale = b - 1 - e, 2**e the smallest power of two above max|x|, |e| <= 90.

        Args:
            x: float32, not empty.
        Raises:
            Diverged: x has a NaN or an infinity.
        """
        largest = x.abs().amax().item()
        if not math.isfinite(largest):
            raise Diverged("a number is not finite")
        exponent = max(-EXPONENT_MAX, min(EXPONENT_MAX, math.frexp(largest)[1]))
        scale = self.bits - 1 - exponent
        limit = float(2 ** (self.bits - 1) - 1)
        return Quantised((x * 2.0**scale).round_().clamp_(-limit, limit), scale)

    def product(self, a: Quantised, b: Quantised) -> Tensor:
        """a [M, K] times b [K, N] as float32 [M, N]: an exact integer product, then one rounding."""
        assert a.values.shape[1] <= INNER_MAX, "the sum would leave float64's exact range"
        return rescale(self.multiply(a.values, b.values), a.scale + b.scale)


def column_sums(q: Quantised) -> Tensor:
    """Sums over the rows of q [N, M] as float32 [M]: an exact integer sum, then one rounding."""
    return rescale(q.values.sum(0, dtype=torch.float64), q.scale)


def rescale(integers: Tensor, scale: int) -> Tensor:
    """integers * 2**-scale, rounded once to float32; `integers` is float64 and may be overwritten."""
    return integers.mul_(2.0**-scale).float()
