"""Where and how to compute; changes the speed, never the result."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

import torch

from learner.architecture import Attention, Conv2d, Linear, Placed
from learner.exact.backends import Backend
from learner.exact.backends.choose import REFERENCE, fastest
from learner.exact.integers import Arithmetic
from learner.manifest import Manifest
from learner.models import Network, exact_layer


@dataclass(frozen=True, slots=True)
class Machine:
    """A device, and the backend that multiplies; None: for each layer the one that is fastest here."""

    device: torch.device
    backend: Backend | None = REFERENCE

    def network(self, manifest: Manifest) -> Network:
        """The manifest's model on this machine."""

        def backend_of(placed: Placed) -> Backend:
            if self.backend is not None:
                return self.backend
            if not isinstance(placed.layer, Linear | Conv2d | Attention):
                return REFERENCE
            return _fastest(placed, manifest.batch_size, manifest.bits, self.device)

        return Network(manifest.model.placed(), manifest.bits, backend_of)


@functools.lru_cache(maxsize=1024)
def _fastest(placed: Placed, batch_size: int, bits: int, device: torch.device) -> Backend:
    """By a step through the layer alone, with made-up numbers."""

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, device=device)

    x, gradient = ones(batch_size, *placed.input), ones(batch_size, *placed.output)
    parameters = {field.name.removeprefix(placed.prefix): ones(*field.shape) for field in placed.parameters()}
    layer = exact_layer(placed.layer)

    def step(backend: Backend) -> None:
        arithmetic = Arithmetic(bits, backend)
        _, tape = layer.forward(arithmetic, parameters, x)
        layer.backward(arithmetic, parameters, tape, gradient, True)

    return fastest(step, device)


CPU: Final = Machine(torch.device("cpu"))
