"""Pooling of [N, C, H, W]: comparisons, or additions in a fixed order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.exact.integers import Arithmetic
from learner.exact.layers import Gradients


@dataclass(frozen=True, slots=True)
class MaxTape:
    """Which place of its window each output came from, uint8 like the output; and the input's shape."""

    place: Tensor
    shape: torch.Size


@dataclass(frozen=True, slots=True)
class MaxPool:
    """The greatest of each window; of equal ones the first, row by row."""

    size: int
    stride: int

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, MaxTape]:
        """[N, C, H, W] -> [N, C, H', W']."""
        views = list(_places(x, self.size, self.stride))
        greatest = views[0]
        place = torch.zeros_like(greatest, dtype=torch.uint8)
        for index, view in enumerate(views[1:], start=1):
            place.masked_fill_(view > greatest, index)
            greatest = torch.maximum(greatest, view)
        return greatest, MaxTape(place, x.shape)

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: MaxTape, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """Each gradient goes to its place; where windows overlap they are added, first place first."""
        dx = _zeros(tape.shape, gradient)
        for index, view in enumerate(_places(dx, self.size, self.stride)):
            part = gradient.masked_fill(tape.place != index, 0.0)
            if self.stride >= self.size:
                view.copy_(part)
            else:
                view.add_(part)
        return Gradients(dx)


@dataclass(frozen=True, slots=True)
class AveragePool:
    """The sum of each window, row by row, divided by its size."""

    size: int
    stride: int

    def forward(self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, torch.Size]:
        """[N, C, H, W] -> [N, C, H', W']."""
        first, *rest = _places(x, self.size, self.stride)
        total = first.clone()
        for view in rest:
            total.add_(view)
        return total / _count(self.size, x), x.shape

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: torch.Size, gradient: Tensor, need_x: bool
    ) -> Gradients:
        """Each gradient's share goes to all its places; where windows overlap they are added, first place first."""
        dx = _zeros(tape, gradient)
        share = gradient / _count(self.size, gradient)
        for view in _places(dx, self.size, self.stride):
            view.add_(share)
        return Gradients(dx)


def _count(size: int, like: Tensor) -> Tensor:
    """A tensor: some devices turn division by a Python number into a multiplication."""
    return torch.full((), float(size * size), dtype=like.dtype, device=like.device)


def _places(x: Tensor, size: int, stride: int) -> Iterator[Tensor]:
    """For each place in a window, row by row: what stands there in every window, as a view [N, C, H', W']."""
    rows, columns = ((side - size) // stride * stride + 1 for side in x.shape[2:])
    for i in range(size):
        for j in range(size):
            yield x[:, :, i : i + rows : stride, j : j + columns : stride]


def _zeros(shape: torch.Size, like: Tensor) -> Tensor:
    """Channels last in memory, as the convolutions have it."""
    count, channels, height, width = shape
    return torch.zeros((count, height, width, channels), dtype=like.dtype, device=like.device).permute(0, 3, 1, 2)
