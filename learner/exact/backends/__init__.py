"""Ways to multiply integer matrices. All give the same integers, so the choice is no part of the arithmetic.

A backend is a function (a, b) -> product: `a` float32 [M, K] and `b` float32 [K, N] hold integers of magnitude at most
2**13 - 1 (b = 14), K is at most `integers.INNER_MAX`; the product is float64 [M, N] and holds the exact integers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from torch import Tensor

from learner.exact.backends import f64, int8

Multiply = Callable[[Tensor, Tensor], Tensor]

BACKENDS: Final[dict[str, Multiply]] = {"f64": f64.multiply, "int8": int8.multiply}
