"""Architectures built from exact layers: initial values, outputs, gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from learner.exact import philox
from learner.exact.integers import Arithmetic
from learner.exact.layers import LinearTape, linear_backward, linear_forward, relu_backward, relu_forward
from learner.manifest import Manifest, Mlp
from learner.tensors import State


def initial_state(manifest: Manifest) -> State:
    """The first base state, on the CPU: weights uniform in +-sqrt(6 / inputs) (He et al. 2015), all else zero."""
    state: State = {}
    for field in manifest.state_fields():
        group, _, name = field.name.partition("/")
        if group == "parameter" and name.endswith(".weight"):
            bound = math.sqrt(6.0 / field.shape[1])
            values = philox.uniform(manifest.init_seed, f"init/{name}", math.prod(field.shape), bound)
            state[field.name] = values.view(field.shape)
        else:
            state[field.name] = torch.zeros(field.shape)
    return state


@dataclass(frozen=True, slots=True)
class MlpTape:
    """What an Mlp's backward pass needs: one linear tape per layer, one ReLU mask between each two."""

    linears: tuple[LinearTape, ...]
    masks: tuple[Tensor, ...]


def forward(model: Mlp, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor) -> tuple[Tensor, MlpTape]:
    """Logits [N, classes] of samples x [N, features], both float32; `parameters` are named as in Mlp.parameters."""
    layers = len(model.sizes) - 1
    linears: list[LinearTape] = []
    masks: list[Tensor] = []
    for layer in range(layers):
        x, tape = linear_forward(arithmetic, x, parameters[f"{layer:02}.weight"], parameters[f"{layer:02}.bias"])
        linears.append(tape)
        if layer < layers - 1:
            x, mask = relu_forward(x)
            masks.append(mask)
    return x, MlpTape(tuple(linears), tuple(masks))


def backward(arithmetic: Arithmetic, tape: MlpTape, gradient: Tensor) -> dict[str, Tensor]:
    """Gradients of all parameters, by name, from the gradient of the logits."""
    gradients: dict[str, Tensor] = {}
    for layer in reversed(range(len(tape.linears))):
        result = linear_backward(arithmetic, tape.linears[layer], gradient, need_x=layer > 0)
        gradients[f"{layer:02}.weight"] = result.weight
        gradients[f"{layer:02}.bias"] = result.bias
        if result.x is not None:
            gradient = relu_backward(tape.masks[layer - 1], result.x)
    return gradients
