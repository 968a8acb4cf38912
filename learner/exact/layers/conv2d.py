"""Convolution as a gather and a matrix product.

Images are [N, C, H, W] in the order that a reader expects and channels last in memory, so that a window is a few long
runs. What is gathered are limbs, which are smaller than the numbers that they stand for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.exact.integers import Arithmetic, Quantised
from learner.exact.layers import Gradients


@dataclass(frozen=True, slots=True)
class ConvTape:
    """x [N, H, W, C] and weight [O, C, k, k], quantised."""

    x: Quantised
    weight: Quantised


@dataclass(frozen=True, slots=True)
class Conv2d:
    """weight [O, C, k, k], bias [O]; padding < k."""

    kernel: int
    stride: int
    padding: int

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, ConvTape]:
        """x [N, C, H, W] -> [N, O, H', W']."""
        weight = parameters["weight"]
        tape = ConvTape(arithmetic.quantise(x.permute(0, 2, 3, 1)), arithmetic.quantise(weight))
        kernels = tape.weight.map(lambda limb: limb.permute(0, 2, 3, 1).reshape(limb.shape[0], -1))
        y = arithmetic.product(self._columns(tape.x), kernels.t()).add_(parameters["bias"])
        height, width = (self._output_side(side) for side in x.shape[2:])
        return y.view(x.shape[0], height, width, weight.shape[0]).permute(0, 3, 1, 2), tape

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: ConvTape, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """The gradient of x is a convolution of the output's gradient, spread out, with the kernel turned around."""
        outputs, channels, size, _ = tape.weight.values.shape
        g = arithmetic.quantise(gradient.permute(0, 2, 3, 1))
        rows = g.map(lambda limb: limb.reshape(-1, outputs))
        weight = arithmetic.product(rows.t(), self._columns(tape.x)).view(outputs, size, size, channels)
        return Gradients(
            self._input_gradient(arithmetic, tape, g) if need_x else None,
            {"weight": weight.permute(0, 3, 1, 2).contiguous(), "bias": arithmetic.column_sums(rows)},
        )

    def _columns(self, x: Quantised) -> Quantised:
        return x.map(lambda limb: windows(_pad(limb, self.padding), self.kernel, self.stride))

    def _input_gradient(self, arithmetic: Arithmetic, tape: ConvTape, g: Quantised) -> Tensor:
        count, height, width, channels = tape.x.values.shape
        turned = tape.weight.map(lambda limb: limb.flip(2, 3).permute(2, 3, 0, 1).reshape(-1, channels))
        spread = g.map(lambda limb: windows(self._spread(limb, height, width), self.kernel, 1))
        return arithmetic.product(spread, turned).view(count, height, width, channels).permute(0, 3, 1, 2)

    def _spread(self, g: Tensor, height: int, width: int) -> Tensor:
        """g [N, H', W', O] with zeros between its pixels and around them, so that k x k windows give H x W."""
        first = self.kernel - 1 - self.padding
        if self.stride == 1:
            return _pad(g, first)
        shape = (g.shape[0], height + self.kernel - 1, width + self.kernel - 1, g.shape[3])
        out = torch.zeros(shape, dtype=g.dtype, device=g.device)
        rows, columns = (first + self.stride * (side - 1) + 1 for side in g.shape[1:3])
        out[:, first : rows : self.stride, first : columns : self.stride] = g
        return out

    def _output_side(self, side: int) -> int:
        return (side + 2 * self.padding - self.kernel) // self.stride + 1


def windows(x: Tensor, size: int, stride: int) -> Tensor:
    """All windows of x [N, H, W, C] as rows [N * H' * W', size * size * C]."""
    unfolded = x.unfold(1, size, stride).unfold(2, size, stride)  # [N, H', W', C, size, size]
    return unfolded.permute(0, 1, 2, 4, 5, 3).reshape(-1, size * size * x.shape[3])


def _pad(x: Tensor, padding: int) -> Tensor:
    return torch.constant_pad_nd(x, (0, 0, padding, padding, padding, padding)) if padding else x
