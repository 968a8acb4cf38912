"""Samples in IDX files, as MNIST's: a directory of images and labels, for training and perhaps for testing, or gzip.

A file is two zero bytes, a type (8 = uint8, 9 = int8, 11 = int16, 12 = int32, 13 = float32, 14 = float64), the number
of dimensions, each of them as u32, and the elements, row-major, all big-endian. Source: http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import array
import gzip
import math
import re
import struct
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, cast

from learner.convert import Arrays
from learner.data import RANK_MAX
from learner.errors import InvalidDataset
from learner.manifest import DATASET_BYTES_MAX

VALUES_MAX: Final = 2**25  # numbers that are not bytes: each takes 8 bytes here, and as much again when scaled
_NAME: Final = re.compile(r"(train|t10k|test)[-_](images|labels)[-_.]idx([1-4])[-_]ubyte(\.gz)?")
_TYPES: Final = {8: "B", 9: "b", 11: "h", 12: "i", 13: "f", 14: "d"}


@dataclass(frozen=True, slots=True)
class _File:
    """What a file holds; `elements` in this machine's byte order."""

    name: str
    kind: str
    shape: tuple[int, ...]
    elements: bytes

    def numbers(self) -> array.array[float]:
        return array.array(self.kind, self.elements)


def read_idx(folder: Path) -> Arrays:
    """The samples of a directory with `train-images-idx3-ubyte` and the like; `.gz` files are read as they are.

    Raises:
        InvalidDataset: names the file.
        OSError.
    """
    found = _files(folder)
    parts = []
    for part in ("train", "test"):
        if (part, "images") in found or (part, "labels") in found:
            parts.append(_part(folder, found, part))
    if not parts or ("train", "images") not in found:
        raise InvalidDataset(f"{folder.name}: no train-images-idx3-ubyte and train-labels-idx1-ubyte, nor with .gz")
    images, labels = [part[0] for part in parts], [part[1] for part in parts]
    shape, kind = images[0].shape[1:] or (1,), images[0].kind
    for other in images[1:]:
        if (other.shape[1:] or (1,)) != shape or other.kind != kind:
            raise InvalidDataset(f"{other.name}: samples of another shape or type than in {images[0].name}")
    texts = [str(int(number)) for each in labels for number in each.numbers()]
    train = images[0].shape[0] if len(images) > 1 else None
    if kind == "B":
        return Arrays(
            folder.name, shape, b"".join(each.elements for each in images), array.array("d"), texts, "labels", train
        )
    values = array.array("d")
    for each in images:
        values.extend(map(float, each.numbers()))
    if len(values) > VALUES_MAX:
        raise InvalidDataset(f"{folder.name}: {len(values)} numbers that are not bytes, at most {VALUES_MAX}")
    return Arrays(folder.name, shape, None, values, texts, "labels", train)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """(part, images or labels) -> file; refuses two for one."""
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir()):
        if (match := _NAME.fullmatch(path.name)) is not None:
            key = ("train" if match[1] == "train" else "test", match[2])
            if key in found:
                raise InvalidDataset(f"{folder.name}: both {found[key].name} and {path.name}; leave one of them")
            found[key] = path
    return found


def _part(folder: Path, found: dict[tuple[str, str], Path], part: str) -> tuple[_File, _File]:
    for what in ("images", "labels"):
        if (part, what) not in found:
            raise InvalidDataset(f"{folder.name}: has {part} files, but none with the {what}")
    images, labels = _read(found[part, "images"]), _read(found[part, "labels"])
    if not images.elements or not 1 <= len(images.shape) <= RANK_MAX + 1:
        raise InvalidDataset(
            f"{images.name}: has the shape {images.shape}; samples of 1 to {RANK_MAX} dimensions are needed"
        )
    if len(labels.shape) != 1 or labels.kind in "fd":
        raise InvalidDataset(f"{labels.name}: has the shape {labels.shape}; one whole number for each sample is needed")
    if labels.shape[0] != images.shape[0]:
        raise InvalidDataset(
            f"{labels.name}: {labels.shape[0]} labels for the {images.shape[0]} samples of {images.name}"
        )
    return images, labels


def _read(path: Path) -> _File:
    """One file, whose header says how much of it is read: a small .gz cannot become a large array."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _parse(path.name, cast(BinaryIO, file))
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidDataset(f"{path.name}: not a whole gzip file: {error}") from None


def _parse(name: str, file: BinaryIO) -> _File:
    magic = file.read(4)
    if len(magic) < 4 or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not 1 <= magic[3] <= RANK_MAX + 1:
        raise InvalidDataset(f"{name}: not an IDX file")
    kind, rank = _TYPES[magic[2]], magic[3]
    header = file.read(4 * rank)
    if len(header) < 4 * rank:
        raise InvalidDataset(f"{name}: ends in its header")
    shape = struct.unpack(f">{rank}I", header)
    size = math.prod(shape) * struct.calcsize(f">{kind}")
    if size > DATASET_BYTES_MAX or (kind != "B" and math.prod(shape) > VALUES_MAX):
        raise InvalidDataset(
            f"{name}: announces {size} bytes; at most {DATASET_BYTES_MAX}, or {VALUES_MAX} numbers of more than a byte"
        )
    elements = file.read(size)
    if len(elements) != size or file.read(1):
        found = "more" if len(elements) == size else f"only {len(elements)} of them"
        raise InvalidDataset(f"{name}: announces {size} bytes of elements and has {found}")
    if kind not in "Bb" and sys.byteorder == "little":
        numbers = array.array(kind, elements)
        numbers.byteswap()
        elements = numbers.tobytes()
    return _File(name, kind, shape, elements)
