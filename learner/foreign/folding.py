"""Operations over constants alone, and rearrangements of constants and activations alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from learner.foreign.graph import Array, check_room
from learner.foreign.values import Misplaced, Unsupported, View

Constant = Array | int | float | bool


def is_constant(value: Any) -> bool:
    """An array, a number, or a list of numbers."""
    if isinstance(value, list | tuple):
        return all(is_constant(each) for each in value)
    return isinstance(value, np.ndarray | np.generic | int | float)


def array(value: Any) -> Array:
    """A constant as an array."""
    if not is_constant(value):
        raise Misplaced("a constant is expected where the file computes one from the samples")
    return np.asarray(value)


def whole(value: Any) -> int:
    """A constant as one whole number."""
    found = array(value)
    if found.size != 1:
        raise ValueError(f"one number expected, got {found.size}")
    return int(found.reshape(()))


def wholes(value: Any) -> list[int]:
    """A constant as a list of whole numbers."""
    return [int(each) for each in array(value).ravel()]


def number(value: Any) -> float | None:
    """A constant as one real number; None if it is none."""
    if not is_constant(value) or array(value).size != 1:
        return None
    return float(array(value).reshape(()))


def elementwise(function: Callable[..., Array], *values: Any) -> Array:
    """Of constants that broadcast."""
    arrays = [array(each) for each in values]
    check_room(np.broadcast_shapes(*(each.shape for each in arrays)))
    with np.errstate(all="ignore"):
        return np.asarray(function(*arrays))


def moved(value: Any, change: Callable[[Array], Array]) -> View | Array:
    """A constant or an activation, rearranged."""
    if isinstance(value, View):
        return value.moved(change)
    if not is_constant(value):
        raise Misplaced("rearranged")
    found = change(array(value))
    check_room(found.shape)
    return found


def reshaped(value: Any, sizes: list[int]) -> View | Array:
    """With one size of -1 left open."""
    shape = list(value.shape) if isinstance(value, View) else list(array(value).shape)
    if sizes == shape:
        return value  # type: ignore[no-any-return]
    return moved(value, lambda places: places.reshape(sizes))


def flattened(value: Any, start: int, end: int) -> View | Array:
    """Dimensions start to end, both included, as one."""
    if not isinstance(value, View):
        value = array(value)
    shape = value.shape
    rank = len(shape)
    start, end = (each + rank if each < 0 else each for each in (start, end))
    if not 0 <= start <= end < rank:
        raise ValueError(f"dimensions {start} to {end} of {rank}")
    return reshaped(value, [*shape[:start], -1, *shape[end + 1 :]])


def part(value: Any, axis: int, start: int, end: int, step: int = 1) -> View | Array:
    """A slice along one dimension."""

    def change(places: Array) -> Array:
        cut = [slice(None)] * places.ndim
        cut[axis] = slice(start, end, step)
        return places[tuple(cut)]

    return moved(value, change)


def expanded(value: Any, sizes: list[int]) -> View | Array:
    """Broadcast; -1 keeps a size."""

    def change(places: Array) -> Array:
        own = [1] * (len(sizes) - places.ndim) + list(places.shape)
        shape = tuple(have if want == -1 else want for have, want in zip(own, sizes, strict=True))
        check_room(shape)
        return np.broadcast_to(places, shape)

    return moved(value, change)


def split(value: Any, sizes: list[int], axis: int) -> tuple[Any, ...]:
    """Pieces of the given sizes along one dimension."""
    length = value.shape[axis] if isinstance(value, View) else array(value).shape[axis]
    if sum(sizes) != length or min(sizes, default=0) < 0 or len(sizes) > 64:
        raise Unsupported(f"{length} numbers in pieces of {sizes}")
    ends = np.cumsum(sizes).tolist()
    return tuple(part(value, axis, end - size, end) for size, end in zip(sizes, ends, strict=True))


def triangle(value: Any, diagonal: int, upper: bool) -> Array:
    """The rest as zero."""
    return np.asarray((np.triu if upper else np.tril)(array(value), diagonal))
