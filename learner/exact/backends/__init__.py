"""Ways to multiply integer matrices. All give the same integers, so the choice is no part of the arithmetic.

A backend cuts each integer into limbs that its hardware multiplies without rounding, q = 128 * high + low, and puts
the partial products together again. An operand is cut once and then transposed, gathered and multiplied as often as
needed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from torch import Tensor

LIMB_BASE: Final = 128


@dataclass(frozen=True, slots=True)
class Operand:
    """Integers within +-limit as one limb, or two: the high one first. Limbs have the integers' shape."""

    limbs: tuple[Tensor, ...]
    limit: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The integers' shape."""
        return tuple(self.limbs[0].shape)

    def map(self, rearrange: Callable[[Tensor], Tensor]) -> Operand:
        """The same integers in another order or shape; zeros may be added."""
        return Operand(tuple(rearrange(limb) for limb in self.limbs), self.limit)

    def t(self) -> Operand:
        """The transpose of a matrix, or of each in a batch."""
        return self.map(lambda limb: limb.transpose(-1, -2))


class Backend(Protocol):
    """What multiplies."""

    name: str

    def cut(self, integers: Tensor, limit: int) -> Operand:
        """Prepare float32 integers within +-limit, limit at most 2**13 - 1; `integers` may be overwritten."""
        ...

    def product(self, a: Operand, b: Operand, scale: int) -> Tensor:
        """float32 of (a @ b) * 2**-scale: exact integers, then one rounding.

        Args:
            a, b: of this backend, [M, K] and [K, N] or a batch [B, M, K] and [B, K, N]; K at most cost.INNER_MAX.
        """
        ...
