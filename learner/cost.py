"""What a model's training will need, from its sizes alone: known before any time is spent. Needs no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from learner.architecture import Attention, Conv2d, Linear, Model, Placed, every

INNER_MAX: Final = 2**26  # (2**13)**2 * 2**26 = 2**52: a float64 holds every partial sum
_PASSES: Final = 3  # products of a layer in a step: outputs, gradients of the weights, gradients of the inputs


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one step, and of the state between steps.

    Attributes:
        parameters: how many numbers are learned.
        multiplications: of all matrix products of a step.
        memory_bytes: an upper bound of what is held at once beside the dataset, whatever the backend: a step, and the
            base and the next state as bytes.
    """

    parameters: int
    multiplications: int
    memory_bytes: int


def of(model: Model, batch_size: int, tensors_per_parameter: int) -> Cost:
    """The cost of a step.

    Args:
        tensors_per_parameter: those in the state: 1, or more with an optimiser that remembers.
    """
    placed = tuple(every(model.placed()))
    parameters = sum(math.prod(field.shape) for field in model.parameters())
    kept = sum(_kept(each) for each in placed)
    passing = max(2 * (_inside(each) + math.prod(each.input) + math.prod(each.output)) for each in placed)
    samples = 8 * batch_size * (kept + passing)  # as float64: the widest that any backend uses
    state = parameters * (3 * 4 * tensors_per_parameter + 2 * 4 + 2 * 8)  # as tensors, and as bytes before and after
    multiplications = _PASSES * batch_size * sum(_multiplications(each) for each in placed)
    return Cost(parameters, multiplications, samples + state)


def inner_sizes(model: Model, batch_size: int) -> dict[str, int]:
    """The longest sum of products of each layer, by its path; at most INNER_MAX, or it would not be exact."""
    found = {}
    for each in every(model.placed()):
        match each.layer:
            case Linear():
                found[each.path] = max(each.input[-1], each.output[-1], batch_size * math.prod(each.input[:-1]))
            case Conv2d(kernel=kernel):
                window = kernel * kernel * max(each.input[0], each.output[0])
                found[each.path] = max(window, batch_size * math.prod(each.output[1:]))
            case Attention():
                found[each.path] = max(3 * each.input[1], batch_size * each.input[0])
            case _:
                found[each.path] = batch_size * math.prod(each.output[:-1])
    return found


def _inside(placed: Placed) -> int:
    """Numbers that a layer makes for one sample beside its output."""
    match placed.layer:
        case Conv2d(kernel=kernel):
            inputs, outputs = placed.input[0] * math.prod(placed.output[1:]), placed.output[0]
            return max(inputs, outputs * math.prod(placed.input[1:])) * kernel * kernel
        case Attention(heads=heads):
            return 4 * math.prod(placed.input) + 3 * heads * placed.input[0] ** 2
        case _:
            return 0


def _kept(placed: Placed) -> int:
    """Numbers of a sample that stay from the forward pass to the backward pass; float32 counts half."""
    match placed.layer:
        case Linear() | Conv2d():  # which gathers its windows again
            return math.prod(placed.input)
        case Attention():
            return math.prod(placed.input) + 2 * _inside(placed)
        case _:
            return 3 * math.prod(placed.output) // 2 + 1


def _multiplications(placed: Placed) -> int:
    match placed.layer:
        case Linear(outputs=outputs):
            return math.prod(placed.input) * outputs
        case Conv2d(kernel=kernel):
            return placed.input[0] * kernel * kernel * math.prod(placed.output)
        case Attention():
            tokens, width = placed.input
            return 4 * tokens * width * width + 2 * tokens * tokens * width
        case _:
            return 0
