"""The card of a dataset: how a person's numbers and class names became features and labels.

The arithmetic knows only features 0, 1, ... and classes 0, 1, ...; the card is what turns a row of the person's file
into a sample, and a predicted class into a name. It lies in the dataset's own bytes (learner.data), so whoever has a
dataset by its digest has its card; a person may keep it back, and then only the node where it was added has it.
"""

from __future__ import annotations

import array
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from learner.errors import InvalidDataset

CARD_BYTES_MAX: Final = 8 * 2**20
NAME_MAX: Final = 200  # characters of a column's or a class's name
VALUE_MAX: Final = 3.4028234663852886e38  # the largest float32
_MINUS_ZERO: Final = 1 << 31  # its bits, read as uint32
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # what a terminal would obey; a card may be a stranger's


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

    def encode(self) -> bytes:
        """The canonical bytes: msgpack, the keys in this order."""
        return msgspec.msgpack.encode(self)

    def check(self, features: int, classes: int) -> None:
        """Is this the card of a dataset with so many features and classes? Raises InvalidDataset."""
        fits = (
            len(self.classes) == classes
            and len(self.columns) in (0, features)
            and len(self.shift) in (0, features)
            and len(self.scale) in (1, features)
        )
        if not fits:
            raise InvalidDataset("the card does not fit the dataset: other numbers of features or classes")
        for name in (self.label, *self.columns, *self.classes):
            if len(name) > NAME_MAX or _CONTROL.search(name):
                rule = f"at most {NAME_MAX} characters, none of control"
                raise InvalidDataset(f"the card has the name {name[:40]!r}: {rule}")
        if not all(abs(value) <= VALUE_MAX for value in (*self.shift, *self.scale)):  # false for NaN too
            raise InvalidDataset("the card has a number that is not finite")

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


def decode(data: bytes, features: int, classes: int) -> Card:
    """Read the card of a dataset with so many features and classes.

    Raises:
        InvalidDataset: malformed, not canonical, or of another dataset.
    """
    try:
        card = msgspec.msgpack.decode(data, type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidDataset(f"the dataset's card cannot be read: {error}") from None
    if card.encode() != data:
        raise InvalidDataset("the dataset's card is not in canonical form")
    card.check(features, classes)
    return card


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
