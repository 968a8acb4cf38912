"""The reference backend: float64 products, whose 53 bits hold every partial sum."""

from __future__ import annotations

from torch import Tensor

from learner.exact.backends import Operand
from learner.exact.backends.rescale import rescale


class Float64:
    """See `learner.exact.backends.Backend`."""

    name = "f64"

    def cut(self, integers: Tensor, limit: int) -> Operand:
        """One limb."""
        return Operand((integers.double(),), limit)

    def product(self, a: Operand, b: Operand, scale: int) -> Tensor:
        """One product."""
        return rescale(a.limbs[0] @ b.limbs[0], scale)
