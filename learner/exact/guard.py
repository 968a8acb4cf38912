"""While a job runs, torch may do only what docs/EXACT.md allows: everything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Moves, creates or reinterprets numbers.
_MOVES: Final = """
    _copy_from _local_scalar_dense _reshape_alias _to_copy _unsafe_view alias arange as_strided bitwise_left_shift_ cat
    clone constant_pad_nd copy_ detach empty empty_like empty_strided expand fill_ flip full full_like gather index
    index_select item lift_fresh masked_fill masked_fill_ new_empty new_empty_strided ones ones_like permute reshape
    scalar_tensor scatter_ select set_ slice split squeeze stack t transpose unbind unfold unsqueeze view where zero_
    zeros zeros_like
"""
# One IEEE operation, or none, for each number of the result.
_SINGLE: Final = """
    abs add add_ clamp clamp_ clamp_min div div_ maximum mul mul_ neg neg_ round round_ sqrt_ sub sub_
    threshold_backward
"""
# Integers, bits and truth values.
_INTEGERS: Final = """
    __and__ __lshift__ __or__ __rshift__ all any bitwise_and bitwise_or bitwise_xor eq ge gt isfinite isnan le lt ne
    remainder signbit sort argsort bitwise_not logical_not bitwise_right_shift bitwise_left_shift
"""
# The same in any order: greatest and least, and sums and products of integers that are never rounded.
_ORDER_FREE: Final = "amax amin aminmax sum _int_mm mm bmm index_add_"
ALLOWED: Final = frozenset(f"aten::{name}" for name in " ".join((_MOVES, _SINGLE, _INTEGERS, _ORDER_FREE)).split())


class OperationRefused(Exception):
    """Our own bug: an operation whose result may depend on the machine. No job can cause it."""


class Guard(TorchDispatchMode):
    """`with Guard():` refuses every operation that is not on the list."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """No: hiding from a compiler that is not used would import it, 3 seconds and a folder that walls forbid."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Called by torch for every operation."""
        name = func._schema.name
        if name not in ALLOWED:
            raise OperationRefused(f"{name} is not exact on every machine")
        if name == "aten::sqrt_" and args[0].dtype != torch.float64:
            raise OperationRefused(f"{name} of {args[0].dtype} is not correctly rounded (functions.sqrt32)")
        alpha = (kwargs or {}).get("alpha", 1)
        if alpha != 1 and not _rounds_nothing(alpha):
            raise OperationRefused(f"{name} with alpha={alpha} may be fused, and round once or twice")
        call: Callable[..., Any] = func
        return call(*args, **(kwargs or {}))


def _rounds_nothing(alpha: float) -> bool:
    """A power of two: the product is exact, so one rounding is left whether or not it is fused."""
    mantissa, _ = float(alpha).hex().removeprefix("-").split("p")
    return mantissa == "0x1.0000000000000"
