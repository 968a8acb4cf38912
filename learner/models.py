"""A manifest's model as exact layers: initial values, outputs, gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from learner import architecture as a
from learner.architecture import Layer, Model, Placed
from learner.errors import Diverged, InvalidDataset
from learner.exact import loss, philox
from learner.exact.backends import Backend
from learner.exact.integers import Arithmetic
from learner.exact.layers import ExactLayer
from learner.exact.layers.activation import Flatten, Gelu, Relu
from learner.exact.layers.attention import Attention
from learner.exact.layers.conv2d import Conv2d
from learner.exact.layers.linear import Linear
from learner.exact.layers.norm import LayerNorm
from learner.exact.layers.pool import AveragePool, MaxPool
from learner.exact.layers.tokens import Embedding, Position
from learner.manifest import ADAM_POWERS, Manifest
from learner.tensors import State

BackendOf = Callable[[Placed], Backend]


def initial_state(manifest: Manifest) -> State:
    """The first base state, on the CPU, from the seed: docs/EXACT.md, "Initial values"."""
    norms = {
        field.name
        for placed in a.every(manifest.model.placed())
        if isinstance(placed.layer, a.LayerNorm)
        for field in placed.parameters()
    }
    state: State = {}
    for field in manifest.state_fields():
        group, _, name = field.name.partition("/")
        state[field.name] = torch.zeros(field.shape)
        if field.name == ADAM_POWERS or (group == "parameter" and name in norms and name.endswith("weight")):
            state[field.name] = torch.ones(field.shape)
        elif group == "parameter" and len(field.shape) > 1:
            bound = math.sqrt(6.0 / math.prod(field.shape[1:]))  # He et al. 2015
            values = philox.uniform(manifest.init_seed, f"init/{name}", math.prod(field.shape), bound)
            state[field.name] = values.view(field.shape)
    return state


def exact_layer(layer: Layer) -> ExactLayer:
    """What computes a layer of any kind but residual."""
    match layer:
        case a.Linear():
            return Linear()
        case a.Conv2d(kernel=kernel, stride=stride, padding=padding):
            return Conv2d(kernel, stride, padding)
        case a.MaxPool(size=size, stride=stride):
            return MaxPool(size, stride)
        case a.AveragePool(size=size, stride=stride):
            return AveragePool(size, stride)
        case a.Embedding(entries=entries):
            return Embedding(entries)
        case a.Position():
            return Position()
        case a.LayerNorm():
            return LayerNorm()
        case a.Attention(heads=heads, causal=causal):
            return Attention(heads, causal)
        case a.Relu():
            return Relu()
        case a.Gelu():
            return Gelu()
        case a.Flatten():
            return Flatten()
        case _:
            raise AssertionError(f"{layer.kind} is no single layer")


@dataclass(frozen=True, slots=True)
class Network:
    """A model ready to compute with parameters that are named as in Model.parameters.

    Attributes:
        backend_of: which backend multiplies in a layer.
    """

    placed: tuple[Placed, ...]
    bits: int
    backend_of: BackendOf

    def forward(self, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, list[Any]]:
        """Outputs [N, M] for samples x [N, features], both float32, and what `backward` needs.

        Raises:
            Diverged: names the layer and what the number is.
        """
        return self._forward(self.placed, parameters, x.reshape(x.shape[0], *self.placed[0].input))

    def backward(self, parameters: Mapping[str, Tensor], tapes: list[Any], gradient: Tensor) -> dict[str, Tensor]:
        """Gradients of all parameters, by name, from the gradient of the outputs; `tapes` is emptied.

        Raises:
            Diverged: names the layer and what the number is.
        """
        gradients: dict[str, Tensor] = {}
        self._backward(self.placed, parameters, tapes, gradient, False, gradients)
        return gradients

    def _forward(
        self, layers: tuple[Placed, ...], parameters: Mapping[str, Tensor], x: Tensor
    ) -> tuple[Tensor, list[Any]]:
        tapes: list[Any] = []
        for placed in layers:
            if placed.inner:
                inner, tape = self._forward(placed.inner, parameters, x)
                x = x + inner
            else:
                with _named(placed, "forward"):
                    mine = _own(placed, parameters)
                    x, tape = exact_layer(placed.layer).forward(self._arithmetic(placed), mine, x)
            tapes.append(tape)
        return x, tapes

    def _backward(
        self, layers: tuple[Placed, ...], parameters: Mapping[str, Tensor], tapes: list[Any], gradient: Tensor,
        need_x: bool, gradients: dict[str, Tensor],
    ) -> Tensor | None:  # fmt: skip
        """The gradient of the input if it is needed; fills `gradients`."""
        needs = _needs(layers, need_x)
        x: Tensor | None = gradient
        for placed, need in zip(reversed(layers), reversed(needs), strict=True):
            assert x is not None, "a layer's gradient was not asked for"
            if placed.inner:
                inner = self._backward(placed.inner, parameters, tapes.pop(), x, need, gradients)
                x = None if inner is None else x + inner
            elif need or placed.number is not None:
                with _named(placed, "backward"):
                    own = _own(placed, parameters)
                    found = exact_layer(placed.layer).backward(self._arithmetic(placed), own, tapes.pop(), x, need)
                gradients.update({placed.prefix + name: value for name, value in found.parameters.items()})
                x = found.x
            else:
                break  # nothing below has parameters
        return x if need_x else None

    def _arithmetic(self, placed: Placed) -> Arithmetic:
        return Arithmetic(self.bits, self.backend_of(placed))


def _needs(layers: tuple[Placed, ...], need_x: bool) -> list[bool]:
    """For each layer: has anything before it parameters, so that its input needs a gradient?"""
    needs = []
    for placed in layers:
        needs.append(need_x)
        need_x = need_x or any(each.number is not None for each in a.every((placed,)))
    return needs


def _own(placed: Placed, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {field.name.removeprefix(placed.prefix): parameters[field.name] for field in placed.parameters()}


@contextmanager
def _named(placed: Placed, direction: str) -> Iterator[None]:
    """Say in which layer a number left the finite range."""
    try:
        yield
    except Diverged as error:
        raise Diverged(f"{placed}, {direction}: {error}") from None


def check_tokens(model: Model, features: Tensor) -> None:
    """An embedding takes whole numbers below its entries and nothing else.

    Raises:
        InvalidDataset: names the layer and the value.
    """
    first = model.placed()[0]
    if not isinstance(first.layer, a.Embedding):
        return
    wrong = (features < 0.0) | (features >= float(first.layer.entries)) | (features != features.round())
    if bool(wrong.any()):
        value = features[wrong][0].item()
        raise InvalidDataset(f"dataset: {first}: token {value}: whole numbers from 0 to {first.layer.entries - 1}")


def targets(model: Model, labels: Tensor) -> Tensor:
    """What the outputs should be for a mean squared error: float32 [N, M] from labels int64 [N]."""
    assert isinstance(model.loss, a.MeanSquaredError)
    if model.loss.levels:
        return labels.float()[:, None] * 2.0**model.loss.scale
    zeros = torch.zeros((labels.shape[0], model.outputs), dtype=torch.float32, device=labels.device)
    return zeros.scatter_(1, labels[:, None], 1.0)


def loss_gradient(model: Model, outputs: Tensor, labels: Tensor) -> Tensor:
    """Of the outputs, float32."""
    if isinstance(model.loss, a.CrossEntropy):
        return loss.cross_entropy_gradient(outputs, labels)
    return loss.squared_error_gradient(outputs, targets(model, labels))


def loss_value(model: Model, outputs: Tensor, labels: Tensor) -> float:
    """For display; raises Diverged."""
    if isinstance(model.loss, a.CrossEntropy):
        return loss.cross_entropy(outputs, labels)
    return loss.squared_error(outputs, targets(model, labels))


def classes_of(model: Model, outputs: Tensor) -> Tensor:
    """The predicted label of each sample, int64 [N]: the lowest with the greatest output, or the nearest level."""
    if isinstance(model.loss, a.MeanSquaredError) and model.loss.levels:
        levels = (outputs[:, 0] * 2.0**-model.loss.scale).round_()
        return levels.clamp_(0.0, float(model.loss.levels - 1)).to(torch.int64)
    # torch's argmax leaves open which of equal values it names.
    classes = torch.arange(outputs.shape[1], device=outputs.device)
    greatest = outputs == outputs.amax(1, keepdim=True)
    return torch.where(greatest, classes, outputs.shape[1] - 1).amin(1)
