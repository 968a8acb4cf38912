"""A person's table or arrays -> the canonical bytes of a dataset, and its card. The rules are in docs/DATA.md.

The same file and options give the same bytes on every machine: nothing here depends on the order in which a machine
adds, hashes or sorts. Needs neither torch nor numpy.
"""

from __future__ import annotations

import array
import hashlib
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from learner.card import CARD_BYTES_MAX, VALUE_MAX, Card, power_of_two, scaling
from learner.data import CLASSES_MAX, Dataset, Element
from learner.errors import InvalidDataset
from learner.table import Table

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,15}(\.0*)?")


@dataclass(frozen=True, slots=True)
class Arrays:
    """Samples from an .npz file.

    Attributes:
        shape: of one sample.
        pixels: uint8, row-major; None if the samples are `values`.
        values: float64, row-major.
        labels: one for each sample, as text.
        label: the array that they came from.
        train: the first so many are for training; None: to be split.
    """

    source: str
    shape: tuple[int, ...]
    pixels: bytes | None
    values: array.array[float]
    labels: list[str]
    label: str
    train: int | None

    def place(self, row: int, feature: int) -> str:
        """Names a number in errors."""
        return f"{self.source}: sample {row}, feature {feature}"


def from_table(table: Table, test_share: float, seed: int, enclosed: bool = True) -> tuple[bytes, Card]:
    """Convert a table that has labels.

    Args:
        test_share: which part of the samples is for testing, above 0 and below 1.
        seed: of the split, 0 to 2**63 - 1.
        enclosed: whether the dataset's bytes hold the card.
    Raises:
        InvalidDataset: one class, too few rows, a value that does not fit.
    """
    classes, labels = number_classes(table.labels, f"{table.source}: column `{table.label}`")
    train, test = split(labels, test_share, seed, table.source)
    shift, scale = scaling(table.values, len(table.columns), train)
    card = Card(
        columns=table.columns, label=table.label, classes=classes, header=table.header, width=table.width,
        shift=shift, scale=scale,
    )  # fmt: skip
    features = card.features(table.values, len(table.columns), table.place)
    shape = (len(table.columns),)
    return _encode("float32", 0, card, (train, test), labels, shape, features, 4, enclosed), card


def from_arrays(arrays: Arrays, test_share: float, seed: int, enclosed: bool = True) -> tuple[bytes, Card]:
    """As from_table. uint8 stays uint8 with one scale for all; floats of one dimension are scaled by feature."""
    classes, labels = number_classes(arrays.labels, f"{arrays.source}: array `{arrays.label}`")
    if arrays.train is None:
        train, test = split(labels, test_share, seed, arrays.source)
    else:
        train, test = list(range(arrays.train)), list(range(arrays.train, len(labels)))
    if arrays.pixels is not None:
        bits = max(arrays.pixels).bit_length()
        card = Card(label=arrays.label, classes=classes, scale=(math.ldexp(1.0, -bits),))
        return _encode("uint8", -bits, card, (train, test), labels, arrays.shape, arrays.pixels, 1, enclosed), card
    _check_range(arrays)
    width = math.prod(arrays.shape)
    if len(arrays.shape) == 1:
        shift, scale = scaling(arrays.values, width, train)
    else:
        largest = max(abs(value) for row in train for value in arrays.values[row * width : (row + 1) * width])
        shift, scale = (), (power_of_two(largest),)
    card = Card(label=arrays.label, classes=classes, shift=shift, scale=scale)
    features = card.features(arrays.values, width, arrays.place)
    return _encode("float32", 0, card, (train, test), labels, arrays.shape, features, 4, enclosed), card


def number_classes(texts: Sequence[str], where: str) -> tuple[tuple[str, ...], list[int]]:
    """(names in the order of their numbers, the number of each text).

    Whole numbers are sorted as numbers, anything else as text, by code point.

    Raises:
        InvalidDataset: one class or too many, or measurements rather than classes.
    """
    names = set(texts)
    if all(map(_WHOLE.fullmatch, names)):
        values = {name: int(float(name)) for name in names}
        ordered = tuple(str(value) for value in sorted(set(values.values())))
        place = {name: index for index, name in enumerate(ordered)}
        number = {name: place[str(value)] for name, value in values.items()}
    else:
        measured = next((name for name in sorted(names) if _is_fraction(name)), None)
        if measured is not None and all(map(_is_number, names)):
            raise InvalidDataset(f"{where} holds measurements such as {measured}, not classes; name the label's column")
        ordered = tuple(sorted(names))
        number = {name: index for index, name in enumerate(ordered)}
    if not 2 <= len(ordered) <= CLASSES_MAX:
        found = f"the single class {ordered[0]!r}" if len(ordered) == 1 else f"{len(ordered)} classes"
        raise InvalidDataset(f"{where} has {found}; at least 2 and at most {CLASSES_MAX} are needed")
    return ordered, [number[text] for text in texts]


def split(labels: Sequence[int], test_share: float, seed: int, source: str) -> tuple[list[int], list[int]]:
    """(rows for training, rows for testing), the same share of each class; see docs/DATA.md.

    Raises:
        InvalidDataset: not a row for each of the two.
    """
    prefix = b"flnode/split/1" + seed.to_bytes(8, "big")
    key = [hashlib.sha256(prefix + row.to_bytes(8, "big")).digest() for row in range(len(labels))]
    of_class: dict[int, list[int]] = {}
    for row in sorted(range(len(labels)), key=key.__getitem__):
        of_class.setdefault(labels[row], []).append(row)
    tests = {row for rows in of_class.values() for row in rows[: _tests(len(rows), test_share)]}
    ordered = sorted(range(len(labels)), key=key.__getitem__)
    train, test = [row for row in ordered if row not in tests], [row for row in ordered if row in tests]
    if not train or not test:
        what = "training" if not train else "testing"
        raise InvalidDataset(f"{source}: {len(labels)} rows and a test share of {test_share} leave none for {what}")
    return train, test


def _tests(rows: int, test_share: float) -> int:
    """How many rows of a class are for testing: rounded to the nearest, half up, and never all."""
    return min(rows - 1, math.floor(rows * test_share + 0.5))


def unlabelled(values: bytes, features: int, classes: int) -> bytes:
    """The canonical bytes of samples to be classified: they are the test samples, beside one of zeros for training.

    Args:
        values: float32, little-endian, row-major.
    """
    rows = len(values) // (4 * features)
    labels, samples = memoryview(bytes(2 * (rows + 1))), memoryview(bytes(4 * features) + values)
    return Dataset("float32", 0, classes, 1, rows, (features,), labels, samples).encode()


def _encode(
    element: Element, scale: int, card: Card, parts: tuple[list[int], list[int]], labels: Sequence[int],
    shape: tuple[int, ...], elements: bytes, element_bytes: int, enclosed: bool,
) -> bytes:  # fmt: skip
    """Lay the samples out, those for training first."""
    raw_card = card.encode() if enclosed else b""
    if len(raw_card) > CARD_BYTES_MAX:
        raise InvalidDataset(f"the card has {len(raw_card)} bytes, at most {CARD_BYTES_MAX}; use --private-card")
    card.check(math.prod(shape), len(card.classes))
    train, test = parts
    size = math.prod(shape) * element_bytes
    numbers = array.array("H", [labels[row] for row in (*train, *test)])
    if sys.byteorder != "little":
        numbers.byteswap()
    samples = b"".join(elements[row * size : (row + 1) * size] for row in (*train, *test))
    raw_labels, raw_samples = memoryview(numbers.tobytes()), memoryview(samples)
    return Dataset(
        element, scale, len(card.classes), len(train), len(test), shape, raw_labels, raw_samples, raw_card
    ).encode()


def _check_range(arrays: Arrays) -> None:
    if all(-VALUE_MAX <= value <= VALUE_MAX for value in arrays.values):
        return
    bad = next(at for at, value in enumerate(arrays.values) if not -VALUE_MAX <= value <= VALUE_MAX)
    row, feature = divmod(bad, math.prod(arrays.shape))
    raise InvalidDataset(f"{arrays.place(row, feature)}: {arrays.values[bad]} is not a number that can be used")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_fraction(text: str) -> bool:
    return _is_number(text) and not _WHOLE.fullmatch(text)
