"""Stochastic gradient descent with momentum, one IEEE operation at a time."""

from __future__ import annotations

from torch import Tensor


def sgd_step(parameter: Tensor, velocity: Tensor | None, gradient: Tensor, rate: Tensor, momentum: Tensor) -> None:
    """v = v * momentum; v = v + gradient; parameter = parameter - v * rate; in place, in float32.

    Args:
        velocity: same shape as the parameter, or None for plain SGD (then v is the gradient).
        rate, momentum: float32 scalars on the parameter's device.
    """
    if velocity is not None:
        velocity.mul_(momentum)
        velocity.add_(gradient)
        gradient = velocity
    parameter.sub_(gradient * rate)
