"""exp and log as polynomials in single operations; float64 for losses, float32 inside layers."""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

_LOG2_E: Final = 1.4426950408889634
_LN2_HIGH: Final = 0.693147180369123816490  # ln 2 in two parts, as in fdlibm's e_exp.c: n * high is exact
_LN2_LOW: Final = 1.90821492927058770002e-10
_EXP_MIN: Final = -700.0
_EXP_COEFFICIENTS: Final = tuple(1.0 / math.factorial(i) for i in range(12, -1, -1))
_LOG_ODD_MAX: Final = 21
_SQRT2: Final = 1.4142135623730951

_LN2_HIGH_32: Final = 0.693359375  # in two parts, as in Cephes' expf.c
_LN2_LOW_32: Final = -2.12194440e-4
_EXP_MAX_32: Final = 80.0
_EXP_COEFFICIENTS_32: Final = tuple(1.0 / math.factorial(i) for i in range(6, -1, -1))


def exp(x: Tensor) -> Tensor:
    """e**x for float64 x <= 0, about 1e-15 relative; below -700 it is e**-700."""
    x = x.clamp(min=_EXP_MIN)
    n = torch.round(x * _LOG2_E)
    r = x.sub_(n * _LN2_HIGH)
    r.sub_(n * _LN2_LOW)
    p = torch.full_like(r, _EXP_COEFFICIENTS[0])
    for coefficient in _EXP_COEFFICIENTS[1:]:
        p.mul_(r).add_(coefficient)
    return p.mul_(((n.to(torch.int64) + 1023) << 52).view(torch.float64))


def log(x: Tensor) -> Tensor:
    """Natural logarithm of normal, positive float64 x: exponent plus an atanh series of the mantissa."""
    raw = x.view(torch.int64)
    mantissa = ((raw & ((1 << 52) - 1)) | (1023 << 52)).view(torch.float64)
    large = mantissa > _SQRT2
    mantissa = torch.where(large, mantissa * 0.5, mantissa)
    exponent = ((raw >> 52) - 1023 + large.to(torch.int64)).double()
    t = (mantissa - 1.0) / (mantissa + 1.0)
    t2 = t * t
    p = torch.full_like(t, 1.0 / _LOG_ODD_MAX)
    for odd in range(_LOG_ODD_MAX - 2, 0, -2):
        p = p * t2
        p = p + 1.0 / odd
    tail = t * 2.0
    tail = tail * p
    return exponent * _LN2_HIGH + (exponent * _LN2_LOW + tail)


def exp32(x: Tensor) -> Tensor:
    """e**x for float32 x, about 2e-7 relative; beyond +-80 it is e**+-80. `x` is overwritten, a NaN stays one."""
    x.clamp_(-_EXP_MAX_32, _EXP_MAX_32)
    n = (x * _LOG2_E).round_()
    x.sub_(n * _LN2_HIGH_32).sub_(n * _LN2_LOW_32)
    p = torch.full_like(x, _EXP_COEFFICIENTS_32[0])
    for coefficient in _EXP_COEFFICIENTS_32[1:]:
        p.mul_(x).add_(coefficient)
    return p.mul_(n.to(torch.int32).add_(127).bitwise_left_shift_(23).view(torch.float32))


def sqrt32(x: Tensor) -> Tensor:
    """The correctly rounded root of float32 x >= 0.

    Torch's root is none on CPUs: MKL's is off by a unit in the last place for one number in two hundred. But no root
    of a float32 is nearer than 2**-52 (relative) to the middle between two float32, so rounding a float64 root that
    is off by less than its unit in the last place gives the right float32.
    """
    return x.double().sqrt_().float()
