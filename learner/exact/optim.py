"""Optimisers, one IEEE operation at a time, in float32."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from learner.exact.backends.rescale import BLOCK
from learner.exact.functions import sqrt32
from learner.manifest import ADAM_POWERS, Manifest


class Optimiser(Protocol):
    """Takes one step at a time."""

    def step(self, gradients: MutableMapping[str, Tensor]) -> None:
        """Change the parameters, and what is remembered about them, in place; `gradients` is emptied."""
        ...


@dataclass(frozen=True, slots=True)
class Sgd:
    """g = d + p * decay; v = v * momentum; v = v + g; p = p - v * rate. Without momentum v is g.

    Attributes:
        state: `parameter/<name>` and, with momentum, `velocity/<name>`.
        rate, momentum, decay: float32 scalars on the parameters' device.
    """

    state: MutableMapping[str, Tensor]
    rate: Tensor
    momentum: Tensor
    decay: Tensor | None

    def step(self, gradients: MutableMapping[str, Tensor]) -> None:
        """See Optimiser."""
        while gradients:
            name, gradient = gradients.popitem()
            parameter, velocity = self.state[f"parameter/{name}"], self.state.get(f"velocity/{name}")
            for p, d, v in _blocks(parameter, gradient, velocity):
                if self.decay is not None:
                    d = d + p * self.decay
                if v is not None:
                    d = v.mul_(self.momentum).add_(d)
                p.sub_(d * self.rate)


@dataclass(frozen=True, slots=True)
class Adam:
    """Kingma and Ba 2015, Algorithm 1; the powers of the betas are part of the state, float32 like all else.

    Attributes:
        state: `parameter/<name>`, `velocity/<name>`, `square/<name>` and ADAM_POWERS: beta1**t, beta2**t.
        betas: float32 [2].
    """

    state: MutableMapping[str, Tensor]
    rate: Tensor
    betas: Tensor
    epsilon: Tensor
    decay: Tensor | None

    def step(self, gradients: MutableMapping[str, Tensor]) -> None:
        """See Optimiser."""
        powers = self.state[ADAM_POWERS].mul_(self.betas)
        ones = torch.ones_like(powers)
        left, rest = ones - powers, ones - self.betas
        rate = self.rate / left[0]
        while gradients:
            name, gradient = gradients.popitem()
            parameter, mean, square = (self.state[f"{group}/{name}"] for group in ("parameter", "velocity", "square"))
            for p, d, v, s in _blocks(parameter, gradient, mean, square):
                if self.decay is not None:
                    d = d + p * self.decay
                v.mul_(self.betas[0]).add_(d * rest[0])
                s.mul_(self.betas[1]).add_((d * d).mul_(rest[1]))
                root = sqrt32(s / left[1]).add_(self.epsilon)
                p.sub_((v * rate).div_(root))


def _blocks(*tensors: Tensor | None) -> Iterator[tuple[Any, ...]]:
    """Equal parts of tensors of one shape, small enough for a core's cache; parameters and state are contiguous."""
    flat = [None if each is None else each.reshape(-1) for each in tensors]
    for start in range(0, flat[0].numel() if flat[0] is not None else 0, BLOCK):
        yield tuple(None if each is None else each[start : start + BLOCK] for each in flat)


def optimiser(manifest: Manifest, state: MutableMapping[str, Tensor], device: torch.device) -> Optimiser:
    """What the manifest asks for, working on `state`."""

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32, device=device)

    rate = scalar(manifest.learning_rate)
    decay = scalar(manifest.weight_decay) if manifest.weight_decay else None
    if manifest.adam is None:
        return Sgd(state, rate, scalar(manifest.momentum), decay)
    betas = torch.tensor([manifest.momentum, manifest.adam.beta2], dtype=torch.float32, device=device)
    return Adam(state, rate, betas, scalar(manifest.adam.epsilon), decay)
