"""int8 products with int32 sums.

Limbs lie within +-64, not +-128: CPUs without VNNI add pairs of products in saturating int16, after moving one factor
into 64..192, and 2 * 192 * 64 still fits there.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from learner.exact.backends import LIMB_BASE, Operand
from learner.exact.backends.f64 import Float64
from learner.exact.backends.rescale import join, rescale

_LIMB_MAX: Final = 64
_INNER_MAX: Final = 2**17  # 64 * 64 * 2**17 = 2**29: an int32 sum cannot overflow, nor can that of two products
_MIDDLE_INNER_MAX: Final = 2**10  # 128 * 2**13 * 2**10 + 2**12 * 2**10 < 2**31: middle and low sums fit together
_ROWS_MIN_CUDA: Final = 17  # cuBLAS refuses fewer rows
_MULTIPLE_CUDA: Final = 8  # and other inner and column sizes


class Int8:
    """See `learner.exact.backends.Backend`; a batch of matrices is multiplied as float64, for want of int8 kernels."""

    name = "int8"

    def cut(self, integers: Tensor, limit: int) -> Operand:
        """One limb, or two."""
        if limit < _LIMB_MAX:
            return Operand((integers.to(torch.int8),), limit)
        whole = integers.to(torch.int16)
        high = (whole + _LIMB_MAX) >> 7
        low = whole.sub_(high, alpha=LIMB_BASE)
        return Operand((high.to(torch.int8), low.to(torch.int8)), limit)

    def product(self, a: Operand, b: Operand, scale: int) -> Tensor:
        """One product of limbs, or four."""
        assert len(a.limbs) == len(b.limbs), "operands of one number format have equally many limbs"
        if len(a.shape) > 2:
            return Float64().product(_whole(a), _whole(b), scale)
        if len(a.limbs) == 1:
            return rescale(_multiply(a.limbs[0], b.limbs[0]), scale)
        (a_high, a_low), (b_high, b_low) = a.limbs, b.limbs
        middle = _multiply(a_high, b_low).add_(_multiply(a_low, b_high))
        low = _multiply(a_low, b_low)
        if a.shape[1] < _MIDDLE_INNER_MAX:
            low, middle = low.add_(middle, alpha=LIMB_BASE), None
        return join(_multiply(a_high, b_high), middle, low, scale)


def _whole(operand: Operand) -> Operand:
    total = operand.limbs[0].double()
    for limb in operand.limbs[1:]:
        total = total.mul_(float(LIMB_BASE)).add_(limb)
    return Operand((total,), operand.limit)


def _multiply(a: Tensor, b: Tensor) -> Tensor:
    """Exact product of int8 matrices: int32, or float64 where int32 could overflow."""
    if a.shape[1] <= _INNER_MAX:
        return _multiply_int8(a, b)
    total = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], _INNER_MAX):
        total.add_(_multiply_int8(a[:, start : start + _INNER_MAX], b[start : start + _INNER_MAX]))
    return total


def _multiply_int8(a: Tensor, b: Tensor) -> Tensor:
    rows, columns = a.shape[0], b.shape[1]
    if not a.is_cuda:
        return torch._int_mm(_plain(a), _plain(b))
    inner_pad = -a.shape[1] % _MULTIPLE_CUDA  # padding with zeros is exact
    a = torch.constant_pad_nd(a, (0, inner_pad, 0, max(_ROWS_MIN_CUDA - rows, 0)))
    b = torch.constant_pad_nd(b, (0, -columns % _MULTIPLE_CUDA, 0, inner_pad))
    return torch._int_mm(a.contiguous(), b.contiguous())[:rows, :columns]


def _plain(x: Tensor) -> Tensor:
    """A single row or column with the strides of a row-major matrix: with others, as good, oneDNN misreads it."""
    if 1 not in x.shape:
        return x
    return x.contiguous().as_strided(x.shape, (x.shape[1], 1))
