"""Layers as pairs of functions. `forward` hands back what `backward` needs; nothing here uses autograd.

Tensors have the batch as their first dimension and are float32. A layer holds no parameters: it is given them by
their short names ("weight"), and gives their gradients back under the same names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from learner.exact.integers import Arithmetic


@dataclass(frozen=True, slots=True)
class Gradients:
    """Of a layer's input, None where it was not asked for, and of its parameters."""

    x: Tensor | None
    parameters: Mapping[str, Tensor] = field(default_factory=dict)


class ExactLayer(Protocol):
    """What a layer of every kind can do."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Any]:
        """The output for x, and the tape. Raises Diverged for a number that is not finite."""
        ...

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: Any, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """From the gradient of the output and the parameters that `forward` had. Raises Diverged."""
        ...
