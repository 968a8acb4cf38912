"""int8 products with int32 sums: each number is split into two limbs, q = 128 * high + low, both within +-64.

Limbs of 7 bits, not 8: CPUs without VNNI add pairs of products in saturating int16, and 2 * 64 * 64 still fits there.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

_BASE: Final = 128.0
_INNER_MAX: Final = 2**17  # 64 * 64 * 2**17 = 2**29: an int32 sum cannot overflow
_ROWS_MIN_CUDA: Final = 17  # cuBLAS refuses fewer rows
_MULTIPLE_CUDA: Final = 8  # and other inner and column sizes


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """Exact product of integer matrices; see `learner.exact.backends`."""
    total = torch.zeros((a.shape[0], b.shape[1]), dtype=torch.float64, device=a.device)
    for start in range(0, a.shape[1], _INNER_MAX):
        total += _product(a[:, start : start + _INNER_MAX], b[start : start + _INNER_MAX])
    return total


def _product(a: Tensor, b: Tensor) -> Tensor:
    a_high, a_low = _limbs(a)
    b_high, b_low = _limbs(b)
    middle = _multiply_int8(a_high, b_low) + _multiply_int8(a_low, b_high)
    return _multiply_int8(a_high, b_high) * _BASE**2 + middle * _BASE + _multiply_int8(a_low, b_low)


def _limbs(q: Tensor) -> tuple[Tensor, Tensor]:
    high = torch.round(q * (1 / _BASE))
    return high.to(torch.int8), (q - high * _BASE).to(torch.int8)


def _multiply_int8(a: Tensor, b: Tensor) -> Tensor:
    rows, columns = a.shape[0], b.shape[1]
    if a.is_cuda:  # padding with zeros is exact
        inner_pad = -a.shape[1] % _MULTIPLE_CUDA
        a = torch.nn.functional.pad(a, (0, inner_pad, 0, max(_ROWS_MIN_CUDA - rows, 0)))
        b = torch.nn.functional.pad(b, (0, -columns % _MULTIPLE_CUDA, 0, inner_pad))
    return torch._int_mm(a.contiguous(), b.contiguous())[:rows, :columns].double()
