"""From exact integers to float32: one product by a power of two, one rounding."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from learner.exact.backends import LIMB_BASE

BLOCK: Final = 2**16  # numbers that are worked on at once: few enough to stay in a core's cache

# Where 2**-scale times an integer from 1 to 2**31 is a normal float32, rounding to float32 first changes nothing.
_SCALE_MIN: Final = -96
_SCALE_MAX: Final = 126


def rescale(integers: Tensor, scale: int) -> Tensor:
    """integers * 2**-scale as float32; `integers` may be overwritten.

    Args:
        integers: float64; or float32 or int32, each holding them exactly.
    """
    if integers.dtype != torch.float64:
        if _SCALE_MIN <= scale <= _SCALE_MAX:
            return integers.float().mul_(2.0**-scale)
        integers = integers.double()
    if integers.dim() != 2 or integers.numel() <= BLOCK:
        return integers.mul_(2.0**-scale).float()
    out = torch.empty(integers.shape, dtype=torch.float32, device=integers.device)
    rows = max(1, BLOCK // integers.shape[1])
    for block, part in zip(out.split(rows), integers.split(rows), strict=True):
        block.copy_(part.mul_(2.0**-scale))
    return out


def join(high: Tensor, middle: Tensor | None, low: Tensor, scale: int) -> Tensor:
    """(high * 2**14 + middle * 2**7 + low) * 2**-scale as float32.

    Every product below is by a power of two and every sum fits its type, so neither rounds, fused or not.

    Args:
        high, middle, low: float64, float32 or int32; middle None is zero.
    """
    if high.dim() != 2 or high.numel() <= BLOCK:
        return _join(high, middle, low, scale)
    out = torch.empty(high.shape, dtype=torch.float32, device=high.device)
    rows = max(1, BLOCK // high.shape[1])
    for start in range(0, high.shape[0], rows):
        part = slice(start, start + rows)
        out[part] = _join(high[part], None if middle is None else middle[part], low[part], scale)
    return out


def _join(high: Tensor, middle: Tensor | None, low: Tensor, scale: int) -> Tensor:
    total = high.double()
    total.mul_(float(LIMB_BASE**2) * 2.0**-scale)
    if middle is not None:
        total.add_(middle, alpha=LIMB_BASE * 2.0**-scale)
    total.add_(low, alpha=2.0**-scale)
    return total.float()
