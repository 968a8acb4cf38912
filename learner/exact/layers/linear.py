"""Matrix products with a bias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from learner.exact.integers import Arithmetic, Quantised
from learner.exact.layers import Gradients


@dataclass(frozen=True, slots=True)
class LinearTape:
    """The quantised operands: x [rows, in] and weight [out, in]; and the shape that x came in."""

    x: Quantised
    weight: Quantised
    shape: tuple[int, ...]


class Linear:
    """x @ weight.T + bias over the last dimension; weight [out, in], bias [out]."""

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, LinearTape]:
        """x [..., in] -> [..., out]."""
        rows = x.reshape(-1, x.shape[-1])
        tape = LinearTape(arithmetic.quantise(rows), arithmetic.quantise(parameters["weight"]), tuple(x.shape))
        y = arithmetic.product(tape.x, tape.weight.t()).add_(parameters["bias"])
        return y.view(*x.shape[:-1], -1), tape

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: LinearTape, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """The output's gradient is quantised once for all three results."""
        g = arithmetic.quantise(gradient.reshape(-1, gradient.shape[-1]))
        return Gradients(
            arithmetic.product(g, tape.weight).view(tape.shape) if need_x else None,
            {"weight": arithmetic.product(g.t(), tape.x), "bias": arithmetic.column_sums(g)},
        )
