"""What makes vectors of tokens: look-up and place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.exact.backends.rescale import rescale
from learner.exact.integers import Arithmetic
from learner.exact.layers import Gradients


@dataclass(frozen=True, slots=True)
class Embedding:
    """The rows of weight [entries, width] that the tokens name; the tape is the tokens, int64."""

    entries: int

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """x [N, T], whole numbers below `entries` (learner.models checks them) -> [N, T, width]."""
        tokens = x.to(torch.int64)
        return parameters["weight"][tokens], tokens

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: Tensor, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """Exact sums of integers, so the order of the additions, which torch leaves open, does not matter."""
        g = arithmetic.integers(gradient.reshape(-1, gradient.shape[-1]))
        total = torch.zeros((self.entries, gradient.shape[-1]), dtype=torch.float64, device=gradient.device)
        total.index_add_(0, tape.reshape(-1), g.values.double())
        return Gradients(None, {"weight": rescale(total, g.scale)})


class Position:
    """x [N, T, width] + weight [T, width]."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, None]:
        """Same shape."""
        return x + parameters["weight"], None

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: None, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """That of x as it is, that of the weight summed over the batch."""
        weight = arithmetic.column_sums(arithmetic.quantise(gradient.reshape(gradient.shape[0], -1)))
        return Gradients(gradient, {"weight": weight.view(parameters["weight"].shape)})
