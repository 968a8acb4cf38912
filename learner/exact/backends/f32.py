"""float32 products: exact while a sum stays within 2**24, so long sums are cut into pieces that are added in float64.

Numbers of up to 8 bits are multiplied as they are, wider ones as two limbs of 7 bits: for hardware whose float64 is
slow, and for jobs of few bits.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from learner.exact.backends import LIMB_BASE, Operand
from learner.exact.backends.rescale import join, rescale

_EXACT: Final = 2**24
_WHOLE_MAX: Final = 127  # up to here a number is its only limb
_LIMB_MAX: Final = 64


class Float32:
    """See `learner.exact.backends.Backend`."""

    name = "f32"

    def cut(self, integers: Tensor, limit: int) -> Operand:
        """One limb, or two within +-64."""
        if limit <= _WHOLE_MAX:
            return Operand((integers,), limit)
        high = (integers * (1.0 / LIMB_BASE)).round_()
        return Operand((high, integers - high * LIMB_BASE), limit)

    def product(self, a: Operand, b: Operand, scale: int) -> Tensor:
        """One product of limbs, or four."""
        assert len(a.limbs) == len(b.limbs), "operands of one number format have equally many limbs"
        if len(a.limbs) == 1:
            return rescale(_multiply(a.limbs[0], b.limbs[0], a.limit * b.limit), scale)
        (a_high, a_low), (b_high, b_low) = a.limbs, b.limbs
        limit = _LIMB_MAX**2
        middle = _multiply(a_high, b_low, limit).double().add_(_multiply(a_low, b_high, limit))
        return join(_multiply(a_high, b_high, limit), middle, _multiply(a_low, b_low, limit), scale)


def _multiply(a: Tensor, b: Tensor, limit: int) -> Tensor:
    """a @ b, exact: float32 if it fits, else float64; no product of two elements is beyond +-limit."""
    inner, piece = a.shape[-1], _EXACT // limit
    if inner <= piece:
        return a @ b
    if a.dim() == 2 and inner >= 4 * piece:
        return _in_pieces(a, b, piece)
    total = (a[..., :piece] @ b[..., :piece, :]).double()
    for start in range(piece, inner, piece):
        total.add_(a[..., start : start + piece] @ b[..., start : start + piece, :])
    return total


def _in_pieces(a: Tensor, b: Tensor, piece: int) -> Tensor:
    """Many pieces as one batch, and what is left over."""
    count = a.shape[1] // piece
    whole = count * piece
    lefts = a[:, :whole].reshape(a.shape[0], count, piece).transpose(0, 1)
    total = torch.bmm(lefts, b[:whole].reshape(count, piece, b.shape[1])).double().sum(0)
    return total if whole == a.shape[1] else total.add_(a[:, whole:] @ b[whole:])
