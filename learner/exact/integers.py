"""Block fixed point: a tensor as integers and one power of two, products of such tensors, and exact sums."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.errors import Diverged
from learner.exact.backends import Backend, Operand
from learner.exact.backends.rescale import BLOCK

EXPONENT_MAX: Final = 90
SUM_BITS: Final = 20  # a sum's terms lie within +-2**20: float64 holds the sum of 2**33 of them


@dataclass(frozen=True, slots=True)
class Integers:
    """values * 2**-scale; `values` is a float32 tensor that holds integers."""

    values: Tensor
    scale: int


@dataclass(frozen=True, slots=True)
class Quantised:
    """values * 2**-scale, ready to be multiplied."""

    values: Operand
    scale: int

    def t(self) -> Quantised:
        """The transpose of a matrix, or of each in a batch."""
        return Quantised(self.values.t(), self.scale)

    def map(self, rearrange: Callable[[Tensor], Tensor]) -> Quantised:
        """The same numbers in another order or shape; zeros may be added."""
        return Quantised(self.values.map(rearrange), self.scale)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The number format of a job and the backend that multiplies in it.

    Attributes:
        bits: b, a quantised number is within +-(2**(b-1) - 1).
        backend: any; cannot change a result.
    """

    bits: int
    backend: Backend

    @property
    def limit(self) -> int:
        """The greatest quantised number."""
        return 2 ** (self.bits - 1) - 1

    def integers(self, x: Tensor) -> Integers:
        """clamp(rint(x * 2**scale)), scale = b - 1 - e, 2**e the smallest power of two above max|x|, |e| <= 90.

        Args:
            x: float32, not empty; left as it is.
        Raises:
            Diverged: x has a NaN or an infinity.
        """
        return self._rounded(x, magnitude(x))

    def _rounded(self, x: Tensor, largest: float) -> Integers:
        scale = self.bits - 1 - exponent_of(largest)
        values = (x * 2.0**scale).round_()
        if largest * 2.0**scale >= self.limit + 0.5:  # else nothing rounds beyond the limit
            values.clamp_(-self.limit, self.limit)
        return Integers(values, scale)

    def quantise(self, x: Tensor) -> Quantised:
        """The same, cut for the backend. Raises Diverged."""
        largest = magnitude(x)
        if x.numel() <= BLOCK:
            found = self._rounded(x, largest)
            return Quantised(self.backend.cut(found.values, self.limit), found.scale)
        limbs: tuple[Tensor, ...] = ()
        flat = x.reshape(-1)
        for start in range(0, x.numel(), BLOCK):
            found = self._rounded(flat[start : start + BLOCK], largest)
            part = self.backend.cut(found.values, self.limit).limbs
            limbs = limbs or tuple(torch.empty(x.shape, dtype=limb.dtype, device=x.device) for limb in part)
            for whole, limb in zip(limbs, part, strict=True):
                whole.view(-1)[start : start + BLOCK] = limb
        return Quantised(Operand(limbs, self.limit), found.scale)

    def product(self, a: Quantised, b: Quantised) -> Tensor:
        """a [M, K] times b [K, N] as float32 [M, N], or a batch: an exact integer product, then one rounding."""
        return self.backend.product(a.values, b.values, a.scale + b.scale)

    def column_sums(self, q: Quantised) -> Tensor:
        """Sums over the rows of q [N, M] as float32 [M]: an exact integer sum, then one rounding."""
        rows, device = q.values.shape[0], q.values.limbs[0].device
        ones = self.backend.cut(torch.ones((1, rows), dtype=torch.float32, device=device), self.limit)
        return self.backend.product(ones, q.values, q.scale)[0]


def magnitude(x: Tensor) -> float:
    """max|x|.

    Raises:
        Diverged: x has a NaN or an infinity.
    """
    low, high = torch.aminmax(x)
    largest = max(-low.item(), high.item()) if not x.is_cuda else torch.maximum(-low, high).item()
    if not math.isfinite(largest):
        raise Diverged("a number is " + ("NaN" if bool(torch.isnan(x).any()) else "infinite"))
    return largest


def exponent_of(largest: float) -> int:
    """e with 2**(e-1) <= largest < 2**e, within +-EXPONENT_MAX; 0 for 0."""
    return max(-EXPONENT_MAX, min(EXPONENT_MAX, math.frexp(largest)[1]))


def exact_sum(x: Tensor, dimensions: Sequence[int], keep: bool = False) -> Tensor:
    """Sums of float32 x as float64, its terms rounded to 2**-20 of the smallest power of two above max|x|.

    Raises:
        Diverged: x has a NaN or an infinity.
    """
    largest = magnitude(x)
    scale = SUM_BITS - exponent_of(largest)
    integers = (x * 2.0**scale).round_()
    if largest >= 2.0**EXPONENT_MAX:
        integers.clamp_(-(2.0**SUM_BITS), 2.0**SUM_BITS)
    return integers.sum(tuple(dimensions), keepdim=keep, dtype=torch.float64).mul_(2.0**-scale)
