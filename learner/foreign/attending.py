"""Attention from its parts: scores, mask, softmax, weighted sum; the rules that `rules` leaves to this file."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Final

import numpy as np

from learner import architecture as a
from learner.foreign.graph import Array, Shape
from learner.foreign.rules import Rules
from learner.foreign.values import Activation, Heads, Misplaced, Projection, Scores, Unsupported, View, projection

_MASKED: Final = -1e4  # added to a score, this or less leaves a token out


def matmul(rules: Rules, left: Any, right: Any) -> View | Scores:
    """Queries times keys, or weights times values."""
    if isinstance(left, Scores) and isinstance(right, View):
        return attended(rules, left, right)
    if not isinstance(left, View) or not isinstance(right, View):
        raise Misplaced("a product of values that no layer forms")
    lead = left.shape[:-2]
    if len(left.shape) < 3 or right.shape[:-2] != lead:
        raise Misplaced("a product of two activations that is not attention's")
    keys = right.moved(lambda places: np.swapaxes(places, -1, -2))
    return Scores(projection(left), projection(keys), lead, left.factor * right.factor)


def scaled(value: Any, factor: float) -> View | Scores:
    """An activation or scores times a number; what does not end in attention is refused where it goes on."""
    if not isinstance(value, View | Scores) or (isinstance(value, Scores) and value.softmaxed):
        raise Misplaced("a product by a number")
    return dataclasses.replace(value, factor=value.factor * factor)


def masked(scores: Scores, mask: Array) -> Scores:
    """Scores plus a mask: nothing, or nothing right of the diagonal."""
    allowed = mask == 0
    if not bool((allowed | (mask <= _MASKED)).all()):
        raise Unsupported("a mask of other numbers than 0 and minus infinity")
    return kept(scores, allowed)


def kept(scores: Scores, allowed: Array) -> Scores:
    """Scores where `allowed`, else minus infinity."""
    if scores.softmaxed:
        raise Misplaced("a mask after the softmax")
    tokens = scores.shape[-1]
    rows = np.broadcast_to(allowed, np.broadcast_shapes(allowed.shape, (tokens, tokens)))
    if rows.shape[-2:] != (tokens, tokens):
        raise Unsupported(f"a mask of {list(allowed.shape)} over {tokens} tokens")
    if bool(rows.all()):
        return scores
    if bool((rows == np.tri(tokens, dtype=bool)).all()):
        return dataclasses.replace(scores, causal=True)
    raise Unsupported("a mask that is not the causal one: every token sees itself and what is before it")


def softmax(value: Any, axis: int) -> Scores:
    """Over the tokens that are seen."""
    if not isinstance(value, Scores) or value.softmaxed:
        raise Unsupported("only inside attention; after the last layer leave it out: the loss contains it")
    if axis not in (-1, len(value.shape) - 1):
        raise Unsupported(f"over dimension {axis}: only the last")
    return dataclasses.replace(value, softmaxed=True)


def attended(rules: Rules, scores: Scores, values: View) -> View:
    """Weights times values: attention up to its output projection."""
    if not scores.softmaxed or values.factor != 1.0:
        raise Misplaced("attention without a softmax")
    parts = (scores.queries, scores.keys, projection(values))
    parent = parts[0].source.parent
    count, size = parts[0].columns.shape
    if any(part.columns.shape != (count, size) for part in parts) or values.shape[:-2] != scores.lead:
        raise Unsupported("queries, keys and values of different sizes")
    if parent is None or any(not isinstance(part.source.layer, a.Linear) for part in parts):
        raise Misplaced("attention without projections of queries, keys and values")
    if any(part.source.parent is not parent for part in parts) or parent.shape[-1] != count * size:
        raise Unsupported(f"attention over another input, or with a width that is not {count} x {size}")
    if not math.isclose(scores.factor, 1 / math.sqrt(size), rel_tol=1e-5):
        raise Unsupported(f"scores times {scores.factor:g}: only 1 / sqrt({size})")
    weight = np.concatenate([part.source.parameters["weight"][part.columns.ravel()] for part in parts])
    bias = np.concatenate([_bias(part) for part in parts])
    heads = Heads(parent, (count, parent.shape[0], size), scores.causal, weight, bias)
    whole = View(heads, rules.batch).places()
    return View(heads, rules.batch, whole.reshape(values.shape))


def scaled_dot_product(
    rules: Rules, queries: Any, keys: Any, values: Any, mask: Any, dropout: float, causal: bool, scale: float | None
) -> View:  # fmt: skip
    """All of it in one operation."""
    if dropout:
        raise Unsupported(f"dropout_p={dropout:g}: export the model after model.eval()")
    if not isinstance(queries, View) or not isinstance(keys, View) or not isinstance(values, View):
        raise Misplaced("attention of what is no activation")
    scores = matmul(rules, queries, keys.moved(lambda places: np.swapaxes(places, -1, -2)))
    assert isinstance(scores, Scores)
    scores = dataclasses.replace(
        scores, factor=scores.factor * (1 / math.sqrt(queries.shape[-1]) if scale is None else scale)
    )
    if mask is not None:
        if not isinstance(mask, np.ndarray):
            raise Unsupported("a mask that is computed")
        scores = kept(scores, mask) if mask.dtype == bool else masked(scores, mask)
    if causal:
        scores = dataclasses.replace(scores, causal=True)
    return attended(rules, softmax(scores, -1), values)


def _bias(part: Projection) -> Array:
    bias = part.source.parameters.get("bias")
    return np.zeros(part.columns.size, np.float32) if bias is None else bias[part.columns.ravel()]


def opaque(value: Any, batch: int, shape: Shape | None) -> View | None:
    """What stands for the result of an operation that is not supported, so that those behind it are looked at too."""
    if shape is None or len(shape) < 2 or shape[0] != batch:
        return None
    source = value.source if isinstance(value, View) else None
    parent = source if isinstance(source, Activation) else None
    return View(Activation(parent, None, tuple(shape[1:]), known=False), batch)
