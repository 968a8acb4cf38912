"""Canonical datasets: labelled samples with a fixed split, as bytes that have one digest.

Layout, little-endian, nothing between or after the parts (docs/EXACT.md, "Datasets"):

    magic "fldata01", or "fldata02" with a card (8)   element u8 (1 = uint8, 2 = float32)   scale i8   classes u16
    train u32   test u32   rank u8   rank dimensions u32   with a card: its length u32, at least 1
    (train + test) labels u16   (train + test) * product(dimensions) elements   the card, if there is one

The first `train` samples are for training, the rest for testing. A feature is worth element * 2**scale: an exact
power of two, so that scaling never rounds. The card (learner.card) is no part of the arithmetic, and is read only by
who asks for it. Needs no torch.
"""

from __future__ import annotations

import array
import hashlib
import math
import struct
import sys
from dataclasses import dataclass
from importlib import resources
from typing import Final, Literal

from learner import card as cards
from learner.card import CARD_BYTES_MAX, Card
from learner.errors import InvalidDataset
from learner.manifest import DATASET_BYTES_MAX, Manifest

Element = Literal["uint8", "float32"]

RANK_MAX: Final = 4
SCALE_MIN: Final = -30
SCALE_MAX: Final = 30
CLASSES_MAX: Final = 65_535

_MAGIC: Final = b"fldata01"
_MAGIC_WITH_CARD: Final = b"fldata02"
_CARD_LENGTH: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct("<8sBbHIIB")
_CODES: Final[dict[Element, int]] = {"uint8": 1, "float32": 2}
_ELEMENTS: Final[dict[int, Element]] = {code: element for element, code in _CODES.items()}
_BYTES: Final[dict[Element, int]] = {"uint8": 1, "float32": 4}

DIGITS_DIGEST: Final = bytes.fromhex("26aabef1b9ae7d42ef364c61fcd1062b8b162570cc304a45a770bd21425d766d")


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset by its parts; see the module's layout.

    Attributes:
        shape: dimensions of one sample.
        labels: train + test raw u16.
        features: train + test samples of raw elements, row-major.
        raw_card: canonical bytes of the card; empty if it is kept elsewhere.
    """

    element: Element
    scale: int
    classes: int
    train: int
    test: int
    shape: tuple[int, ...]
    labels: memoryview
    features: memoryview
    raw_card: bytes = b""

    @property
    def sample_features(self) -> int:
        """Numbers in one sample."""
        return math.prod(self.shape)

    @property
    def card(self) -> Card | None:
        """How a person's numbers became these; None if it does not say. Raises InvalidDataset."""
        return cards.decode(self.raw_card, self.sample_features, self.classes) if self.raw_card else None

    def encode(self) -> bytes:
        """The canonical bytes.

        Raises:
            InvalidDataset: the parts do not fit together.
        """
        _check_header(self.element, self.scale, self.classes, self.train, self.test, self.shape)
        magic = _MAGIC_WITH_CARD if self.raw_card else _MAGIC
        header = _HEADER.pack(
            magic, _CODES[self.element], self.scale, self.classes, self.train, self.test, len(self.shape)
        )
        dimensions = struct.pack(f"<{len(self.shape)}I", *self.shape)
        length = _CARD_LENGTH.pack(len(self.raw_card)) if self.raw_card else b""
        data = b"".join((header, dimensions, length, self.labels, self.features, self.raw_card))
        decode(data)
        return data

    def check_fits(self, manifest: Manifest) -> None:
        """Can this manifest be trained on this dataset?

        Raises:
            InvalidDataset: says what differs.
        """
        self.check_shape(manifest)
        if self.train < manifest.batch_size:
            raise InvalidDataset(f"dataset: {self.train} training samples are less than one batch")

    def check_shape(self, manifest: Manifest) -> None:
        """Can a model of this manifest read these samples? Raises InvalidDataset."""
        if self.sample_features != manifest.model.features:
            raise InvalidDataset(f"dataset: {self.sample_features} features, the model takes {manifest.model.features}")
        if self.classes != manifest.model.classes:
            raise InvalidDataset(f"dataset: {self.classes} classes, the model has {manifest.model.classes}")


def decode(data: bytes) -> Dataset:
    """Parse a dataset; its parts are views of `data`. Float values are checked when they become tensors.

    Raises:
        InvalidDataset: malformed, truncated, too long, a label out of range.
    """
    if len(data) > DATASET_BYTES_MAX:
        raise InvalidDataset(f"dataset: {len(data)} bytes, at most {DATASET_BYTES_MAX}")
    if len(data) < _HEADER.size:
        raise InvalidDataset("dataset: ends inside the header")
    magic, code, scale, classes, train, test, rank = _HEADER.unpack_from(data)
    if magic not in (_MAGIC, _MAGIC_WITH_CARD):
        raise InvalidDataset("dataset: not a dataset: wrong magic")
    if code not in _ELEMENTS:
        raise InvalidDataset(f"dataset: unknown element {code}")
    if rank > RANK_MAX or len(data) < _HEADER.size + 4 * rank:
        raise InvalidDataset(f"dataset: rank {rank}, at most {RANK_MAX} and within the data")
    shape = struct.unpack_from(f"<{rank}I", data, _HEADER.size)
    element = _ELEMENTS[code]
    _check_header(element, scale, classes, train, test, shape)
    labels_at = _HEADER.size + 4 * rank
    card_bytes = 0
    if magic == _MAGIC_WITH_CARD:
        card_bytes = _card_length(data, labels_at)
        labels_at += _CARD_LENGTH.size
    features_at = labels_at + 2 * (train + test)
    card_at = features_at + (train + test) * math.prod(shape) * _BYTES[element]
    end = card_at + card_bytes
    if len(data) != end:
        raise InvalidDataset(f"dataset: {len(data)} bytes, the header says {end}")
    view = memoryview(data)
    labels = view[labels_at:features_at]
    if largest_label(labels) >= classes:
        raise InvalidDataset(f"dataset: label {largest_label(labels)}, classes are 0 to {classes - 1}")
    features = view[features_at:card_at]
    return Dataset(element, scale, classes, train, test, shape, labels, features, bytes(view[card_at:]))


def _card_length(data: bytes, at: int) -> int:
    if len(data) < at + _CARD_LENGTH.size:
        raise InvalidDataset("dataset: ends inside the header")
    length: int = _CARD_LENGTH.unpack_from(data, at)[0]
    if not 1 <= length <= CARD_BYTES_MAX:
        raise InvalidDataset(f"dataset: a card of {length} bytes, at least 1 and at most {CARD_BYTES_MAX}")
    return length


def largest_label(labels: memoryview) -> int:
    """The greatest of raw u16 labels."""
    values = array.array("H", bytes(labels))
    if sys.byteorder != "little":
        values.byteswap()
    return max(values)


def _check_header(element: Element, scale: int, classes: int, train: int, test: int, shape: tuple[int, ...]) -> None:
    if not SCALE_MIN <= scale <= SCALE_MAX or (element == "float32" and scale):
        raise InvalidDataset(f"dataset: scale {scale}: within {SCALE_MIN} to {SCALE_MAX}, and 0 for float32")
    if not 2 <= classes <= CLASSES_MAX:
        raise InvalidDataset(f"dataset: {classes} classes, at least 2 and at most {CLASSES_MAX}")
    if train < 1 or test < 1:
        raise InvalidDataset("dataset: needs a training sample and a test sample")
    if not 1 <= len(shape) <= RANK_MAX or 0 in shape:
        raise InvalidDataset(f"dataset: sample shape {shape}: 1 to {RANK_MAX} dimensions, none empty")


def digits() -> bytes:
    """The built-in dataset: 1,797 handwritten digits of 8x8 pixels (see data_files/README.md), canonical bytes."""
    data = resources.files("learner").joinpath("data_files/digits.fldata").read_bytes()
    if hashlib.sha256(data).digest() != DIGITS_DIGEST:
        raise InvalidDataset("dataset: the built-in digits are damaged: reinstall flnode")
    return data
