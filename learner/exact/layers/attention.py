"""Scaled dot-product attention (Vaswani et al. 2017) in several heads, with its projections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from learner.exact.functions import exp32
from learner.exact.integers import Arithmetic, Quantised, exact_sum
from learner.exact.layers import Gradients
from learner.exact.layers.linear import Linear, LinearTape

_GRID: Final = 2.0**23  # a softmax's weights are whole numbers up to here, so that their sum is exact
_LOWEST: Final = -3.4028234663852886e38


@dataclass(frozen=True, slots=True)
class AttentionTape:
    """Both projections' tapes; query, key and value [N * heads, T, width / heads] and the shares [N * heads, T, T]."""

    into: LinearTape
    query: Quantised
    key: Quantised
    value: Quantised
    shares: Tensor
    quantised_shares: Quantised
    out: LinearTape


@dataclass(frozen=True, slots=True)
class Attention:
    """in.weight [3 width, width] makes query, key and value, in this order; out.weight [width, width] ends it."""

    heads: int
    causal: bool

    def forward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], x: Tensor
    ) -> tuple[Tensor, AttentionTape]:
        """x [N, T, width] -> the same shape."""
        projected, into = Linear().forward(arithmetic, _part(parameters, "in."), x)
        query, key, value = (arithmetic.quantise(self._split(part)) for part in projected.chunk(3, dim=-1))
        scores = arithmetic.product(query, key.t()).mul_(self._scale(x))
        shares = softmax(scores, self._hidden(scores))
        quantised_shares = arithmetic.quantise(shares)
        mixed = self._join(arithmetic.product(quantised_shares, value))
        y, out = Linear().forward(arithmetic, _part(parameters, "out."), mixed)
        return y, AttentionTape(into, query, key, value, shares, quantised_shares, out)

    def backward(
        self, arithmetic: Arithmetic, parameters: Mapping[str, Tensor], tape: AttentionTape, gradient: Tensor,
        need_x: bool,
    ) -> Gradients:  # fmt: skip
        """Back through the output's projection, the mixing, the softmax, the scores and the input's projection."""
        out = Linear().backward(arithmetic, parameters, tape.out, gradient, True)
        assert out.x is not None
        mixed = arithmetic.quantise(self._split(out.x))
        value = arithmetic.product(tape.quantised_shares.t(), mixed)
        scores = softmax_backward(tape.shares, arithmetic.product(mixed, tape.value.t()))
        scaled = arithmetic.quantise(scores.mul_(self._scale(gradient)))
        query = arithmetic.product(scaled, tape.key)
        key = arithmetic.product(scaled.t(), tape.query)
        projected = torch.cat([self._join(part) for part in (query, key, value)], dim=-1)
        into = Linear().backward(arithmetic, parameters, tape.into, projected, need_x)
        named = {f"in.{name}": value for name, value in into.parameters.items()}
        return Gradients(into.x, named | {f"out.{name}": value for name, value in out.parameters.items()})

    def _split(self, x: Tensor) -> Tensor:
        """[N, T, width] -> [N * heads, T, width / heads]."""
        count, tokens, width = x.shape
        heads = x.reshape(count, tokens, self.heads, width // self.heads).transpose(1, 2)
        return heads.reshape(count * self.heads, tokens, width // self.heads)

    def _join(self, x: Tensor) -> Tensor:
        """[N * heads, T, width / heads] -> [N, T, width]."""
        tokens, part = x.shape[1:]
        return x.view(-1, self.heads, tokens, part).transpose(1, 2).reshape(-1, tokens, self.heads * part)

    def _scale(self, x: Tensor) -> float:
        """1 / sqrt(width of a head)."""
        return 1.0 / math.sqrt(x.shape[-1] // self.heads)

    def _hidden(self, scores: Tensor) -> Tensor | None:
        """Which keys (columns) a query (row) must not see, bool [T, T]."""
        if not self.causal:
            return None
        places = torch.arange(scores.shape[-1], device=scores.device)
        return places[None, :] > places[:, None]


def softmax(scores: Tensor, hidden: Tensor | None) -> Tensor:
    """Shares of the last dimension, float32; what is hidden has none. `scores` is overwritten."""
    if hidden is not None:
        scores.masked_fill_(hidden, _LOWEST)
    scores.sub_(scores.amax(-1, keepdim=True))
    weights = exp32(scores).mul_(_GRID).round_()
    if hidden is not None:
        weights.masked_fill_(hidden, 0.0)
    return weights.div_(weights.sum(-1, keepdim=True, dtype=torch.float64).float())


def softmax_backward(shares: Tensor, gradient: Tensor) -> Tensor:
    """shares * (gradient - sum(shares * gradient))."""
    total = exact_sum(shares * gradient, (-1,), keep=True).float()
    return gradient.sub_(total).mul_(shares)


def _part(parameters: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in parameters.items() if name.startswith(prefix)}
