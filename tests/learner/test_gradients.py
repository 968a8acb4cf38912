"""Layers and their gradients beside torch's own in float64, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as f
from torch import Tensor

from learner import presets
from learner.architecture import (
    Attention,
    AveragePool,
    Conv2d,
    Embedding,
    Flatten,
    Gelu,
    Layer,
    LayerNorm,
    Linear,
    MaxPool,
    Model,
    Placed,
    Position,
    Relu,
    Residual,
    every,
    place,
)
from learner.errors import Diverged
from learner.exact import philox
from learner.exact.backends.choose import BACKENDS, REFERENCE
from learner.models import Network, initial_state, loss_gradient
from tests.learner.examples import digits_manifest

Parameters = Mapping[str, Tensor]
BATCH = 3


def attention(layer: Attention, p: Parameters, x: Tensor) -> Tensor:
    projected = f.linear(x, p["in.weight"], p["in.bias"])
    heads = [part.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1)]
    mixed = f.scaled_dot_product_attention(*heads, is_causal=layer.causal)
    return f.linear(mixed.transpose(1, 2).flatten(2), p["out.weight"], p["out.bias"])


def reference(placed: Placed, parameters: Parameters, x: Tensor) -> Tensor:
    """The same layer by the library."""
    p = {name.removeprefix(placed.prefix): value for name, value in parameters.items()}
    match placed.layer:
        case Linear():
            return f.linear(x, p["weight"], p["bias"])
        case Conv2d(stride=stride, padding=padding):
            return f.conv2d(x, p["weight"], p["bias"], stride, padding)
        case MaxPool(size=size, stride=stride):
            return f.max_pool2d(x, size, stride)
        case AveragePool(size=size, stride=stride):
            return f.avg_pool2d(x, size, stride)
        case Embedding():
            return f.embedding(x.long(), p["weight"])
        case Position():
            return x + p["weight"]
        case LayerNorm():
            return f.layer_norm(x, x.shape[-1:], p["weight"], p["bias"], 1e-5)
        case Attention():
            return attention(placed.layer, p, x)
        case Gelu():
            return f.gelu(x, approximate="tanh")
        case Relu():
            return f.relu(x)
        case Flatten():
            return x.flatten(1)
        case Residual():
            return x + whole(placed.inner, parameters, x)
        case _:
            raise AssertionError(placed.layer)


def whole(layers: tuple[Placed, ...], parameters: Parameters, x: Tensor) -> Tensor:
    for placed in layers:
        x = reference(placed, parameters, x)
    return x


CASES: dict[str, tuple[tuple[int, ...], tuple[Layer, ...]]] = {
    "linear": ((7,), (Linear(5), Linear(4))),
    "linear in three dimensions": ((3, 7), (Linear(5), Linear(4))),
    "conv2d": ((2, 7, 6), (Conv2d(3, 3, 1, 1), Conv2d(4, 2))),
    "conv2d with strides": ((2, 9, 8), (Conv2d(3, 3, 2, 1), Conv2d(4, 2, 2, 1))),
    "max_pool": ((2, 7, 6), (Conv2d(3, 1), MaxPool(2, 2))),
    "overlapping max_pool": ((2, 7, 6), (Conv2d(3, 1), MaxPool(3, 2))),
    "average_pool": ((2, 7, 6), (Conv2d(3, 1), AveragePool(2, 2))),
    "overlapping average_pool": ((2, 7, 6), (Conv2d(3, 1), AveragePool(3, 1))),
    "embedding and position": ((6,), (Embedding(9, 5), Position())),
    "layer_norm": ((4, 6), (Linear(6), LayerNorm())),
    "attention": ((5, 8), (Linear(8), Attention(2))),
    "causal attention": ((5, 8), (Linear(8), Attention(4, True))),
    "relu": ((7,), (Linear(9), Relu())),
    "gelu": ((7,), (Linear(9), Gelu())),
    "residual and flatten": ((3, 5), (Linear(5), Residual((LayerNorm(), Linear(5))), Flatten())),
    "a transformer": ((8, 8), presets.transformer((8, 8), 10, 16, 4, 2).layers),
    "a network of convolutions": ((1, 8, 8), presets.cnn((1, 8, 8), 10).layers),
}


def parameters_of(model: Model) -> dict[str, Tensor]:
    """Of all kinds, none zero: near the initial ones of a job."""
    state = initial_state(digits_manifest(model=Model(model.input, (*model.layers, Flatten(), Linear(10)))))
    found = {}
    for field in (field for each in every(place_freely(model)) for field in each.parameters()):
        value = state[f"parameter/{field.name}"]
        found[field.name] = value + philox.uniform(bytes(32), field.name, value.numel(), 0.1).view(value.shape)
    return found


def near(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    worst = float((found.double() - expected).abs().max() / expected.abs().max())
    assert worst < tolerance, worst


@pytest.mark.parametrize("bits", [14, 8])
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_near_those_of_float64(name: str, bits: int) -> None:
    model = Model(*CASES[name])
    placed = place_freely(model)
    parameters = parameters_of(model)
    numbers = BATCH * model.features
    x = philox.uniform(bytes(32), "x", numbers, 1.0).view(BATCH, -1)
    if name.startswith("embedding"):
        x = (philox.words(bytes(32), "x", numbers) % 9).float().view(BATCH, -1)
    network = Network(placed, bits, lambda _: REFERENCE)
    with torch.no_grad():
        y, tapes = network.forward(parameters, x)
        gradient = philox.uniform(bytes(32), "g", y.numel(), 1.0).view(y.shape)
        found = network.backward(parameters, tapes, gradient)
    wide = {key: value.double().requires_grad_() for key, value in parameters.items()}
    expected = whole(placed, wide, x.view(BATCH, *model.input).double())
    expected.backward(gradient.double())
    # Each product's error is about that of its operands' grid, 2**-bits of their largest number, some layers deep.
    near(y, expected.detach(), 24 * 2.0**-bits)
    assert found.keys() == wide.keys()
    for key, value in wide.items():
        assert value.grad is not None
        if key.endswith("in.bias"):  # that of the keys is zero but for rounding: softmax ignores what all scores share
            value.grad[value.shape[0] // 3 : value.shape[0] * 2 // 3] = 0.0
        near(found[key], value.grad, 96 * 2.0**-bits)


def place_freely(model: Model) -> tuple[Placed, ...]:
    """Without the rule that a model ends in one dimension."""
    placed = place(Model(model.input, (*model.layers, Flatten(), Linear(2))))
    return placed[: len(model.layers)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    ("poison", "message"),
    [
        ("x", r"model\.layers\[0\] \(linear\), forward: a number is"),
        ("01.weight", r"model\.layers\[2\]\.layers\[0\] \(linear\), forward: a number is"),
        ("gradient", r"model\.layers\[3\] \(linear\), backward: a number is"),
    ],
)
def test_a_number_that_is_not_finite_is_named_with_its_layer(poison: str, message: str, value: float) -> None:
    model = Model((4,), (Linear(6), Relu(), Residual((Linear(6),)), Linear(2)))
    tensors: dict[str, Any] = parameters_of(model) | {"x": torch.ones(BATCH, 4), "gradient": torch.ones(BATCH, 2)}
    tensors[poison].view(-1)[1] = value
    network = Network(model.placed(), 14, lambda _: REFERENCE)
    word = "NaN" if value != value else "infinite"

    def step() -> None:
        _, tapes = network.forward(tensors, tensors["x"])
        network.backward(tensors, tapes, tensors["gradient"])

    with pytest.raises(Diverged, match=f"{message} {word}"):
        step()


def test_a_sum_that_leaves_float32_is_divergence_in_the_next_layer() -> None:
    model = Model((4,), (Linear(6), Linear(2)))
    parameters = {name: torch.full_like(value, 1e30) for name, value in parameters_of(model).items()}
    network = Network(model.placed(), 14, lambda _: REFERENCE)
    with pytest.raises(Diverged, match=r"layers\[1\] \(linear\), forward: a number is infinite"):
        network.forward(parameters, torch.full((BATCH, 4), 1e30))


def test_small_steps_along_the_gradient_make_the_loss_smaller_on_every_backend() -> None:
    model = presets.transformer((8, 8), 10, 8, 2, 1, causal=True)
    parameters = parameters_of(model)
    x, labels = philox.uniform(bytes(32), "x", 640, 1.0).view(10, 64), torch.arange(10)
    loss: Callable[[Tensor], float] = lambda outputs: float(f.cross_entropy(outputs, labels))  # noqa: E731
    for backend in BACKENDS.values():
        network = Network(model.placed(), 14, lambda _, backend=backend: backend)  # type: ignore[misc]
        outputs, tapes = network.forward(parameters, x)
        gradients = network.backward(parameters, tapes, loss_gradient(model, outputs, labels))
        moved = {name: value - 0.01 * gradients[name] for name, value in parameters.items()}
        assert loss(network.forward(moved, x)[0]) < loss(outputs)
