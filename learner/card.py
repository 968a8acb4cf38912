"""The card of a dataset: how a person's numbers and class names became features and labels.

Datasets and models know only features 0, 1, ... and classes 0, 1, ...; the card is what turns a row of the person's
file into a sample, and a predicted class into a name. It is no part of the arithmetic, and no digest covers it.
"""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from learner.errors import InvalidDataset

VALUE_MAX: Final = 3.4028234663852886e38  # the largest float32
_MINUS_ZERO: Final = 1 << 31  # its bits, read as uint32


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A feature is f32((x - shift) * scale), the subtraction and the product in f64.

    Attributes:
        columns: names of the features, in order; empty if they came from an array.
        label: the column or array with the classes.
        classes: their names, class 0 first.
        header: whether the file names its columns; else `columns` are their numbers, from 1.
        width: columns of the file, those included that are no features; 0 for an array.
        shift: float32 values, one for each feature, or none: nothing is subtracted.
        scale: a power of two, or 0 (a feature that says nothing), for each feature, or a single one for all.
    """

    columns: tuple[str, ...] = ()
    label: str
    classes: tuple[str, ...]
    header: bool = False
    width: int = 0
    shift: tuple[float, ...] = ()
    scale: tuple[float, ...] = (1.0,)

    def features(self, values: array.array[float], width: int, place: Callable[[int, int], str]) -> bytes:
        """Samples as float32, little-endian, without minus zeros.

        Args:
            values: float64, row-major, `width` in a row.
            place: names a (row, feature) in errors.
        Raises:
            InvalidDataset: a value that float32 cannot hold.
        """
        shift, scale = self._for_each(width)
        out = array.array("f", bytes(4 * len(values)))
        for feature in range(width):
            minus, times = shift[feature], scale[feature]
            column = array.array("f", [(value - minus) * times for value in values[feature::width]])
            if column.count(math.inf) or column.count(-math.inf):
                row = next(index for index, value in enumerate(column) if math.isinf(value))
                raise InvalidDataset(f"{place(row, feature)}: {values[row * width + feature]} is too far off the rest")
            out[feature::width] = column
        return _plus_zeros(out)

    def shift_and_scale(self, width: int) -> tuple[bytes, bytes]:
        """Both for each of `width` features, as float32, little-endian."""
        shift, scale = self._for_each(width)
        return _plus_zeros(array.array("f", shift)), _plus_zeros(array.array("f", scale))

    def _for_each(self, width: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return self.shift or (0.0,) * width, self.scale if len(self.scale) == width else self.scale * width


def scaling(values: array.array[float], width: int, rows: Sequence[int]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """(shift, scale) of each feature, from the given rows of row-major float64 values.

    shift = f32(correctly rounded sum / rows); scale = the power of two that brings the largest |x - shift| into
    [0.5, 1), or 0 if all x are equal.
    """
    shifts, scales = [], []
    for feature in range(width):
        whole = values[feature::width]
        column = [whole[row] for row in rows]
        shift = float32(math.fsum(column) / len(rows))
        equal = min(column) == max(column)  # which rounding the mean to float32 would hide
        shifts.append(shift)
        scales.append(0.0 if equal else power_of_two(max(abs(value - shift) for value in column)))
    return tuple(shifts), tuple(scales)


def power_of_two(magnitude: float) -> float:
    """2**-e with 2**(e - 1) <= magnitude < 2**e, e clamped to -100..100; 0 for 0."""
    if magnitude == 0:
        return 0.0
    return math.ldexp(1.0, -max(-100, min(100, math.frexp(magnitude)[1])))


def float32(value: float) -> float:
    """The nearest float32, never minus zero."""
    return array.array("f", [value])[0] + 0.0


def _plus_zeros(values: array.array[float]) -> bytes:
    bits = array.array("I", values.tobytes())
    if bits.count(_MINUS_ZERO):
        bits = array.array("I", [0 if each == _MINUS_ZERO else each for each in bits])
    if sys.byteorder != "little":
        bits.byteswap()
    return bits.tobytes()
