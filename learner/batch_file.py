"""A person's list of batches -> canonical bytes (learner.batch_list).

A .csv file has a line for each step, its samples separated by commas, the steps of the first round first; a .npy file
has an array of whole numbers [rounds, steps, batch size], and is read with numpy, which is imported only then.
"""

from __future__ import annotations

import array
from pathlib import Path
from typing import Final

from learner import batch_list
from learner.batch_list import BATCH_LIST_BYTES_MAX, INDEX_MAX
from learner.errors import InvalidBatches
from learner.npz import NumpyMissing

SUFFIXES: Final = (".csv", ".npy")
FILE_BYTES_MAX: Final = 2**28  # text, and integers of 64 bits, are larger than what they become


def read(path: Path, steps: int, batch_size: int) -> bytes:
    """The batches in a file, for a job with so many steps a round.

    Raises:
        InvalidBatches: names the line, or what shape was expected.
        NumpyMissing.
        OSError.
    """
    if path.stat().st_size > FILE_BYTES_MAX:
        raise InvalidBatches(f"{path.name}: {path.stat().st_size} bytes, at most {FILE_BYTES_MAX}")
    indices = _of_array(path, steps, batch_size) if path.suffix == ".npy" else _of_lines(path, batch_size)
    try:
        return batch_list.encode(indices, steps, batch_size)
    except InvalidBatches as error:
        raise InvalidBatches(f"{path.name}: {str(error).removeprefix('batches: ')}") from None


def _of_lines(path: Path, batch_size: int) -> array.array[int]:
    indices = array.array("I")
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                cells = line.split(",")
                if len(cells) != batch_size:
                    text = f"{path.name}: line {number} has {len(cells)} samples, a batch has {batch_size}"
                    raise InvalidBatches(text)
                indices.extend(_index(cell.strip(), f"{path.name}: line {number}") for cell in cells)
                if 4 * len(indices) > BATCH_LIST_BYTES_MAX:
                    raise InvalidBatches(f"{path.name}: more than {BATCH_LIST_BYTES_MAX} bytes as a list of batches")
    except UnicodeDecodeError as error:
        raise InvalidBatches(f"{path.name}: is not UTF-8 text ({error.reason})") from None
    return indices


def _index(text: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10) or int(text) > INDEX_MAX:
        raise InvalidBatches(f"{where}: {text[:40]!r} is not the number of a sample")
    return int(text)


def _of_array(path: Path, steps: int, batch_size: int) -> array.array[int]:
    try:
        import numpy
    except ImportError:
        raise NumpyMissing from None
    try:
        found = numpy.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, EOFError, SyntaxError) as error:
        raise InvalidBatches(f"{path.name}: {' '.join(str(error).split())}") from None
    if getattr(found, "ndim", 0) != 3 or found.shape[1:] != (steps, batch_size) or found.dtype.kind not in "iu":
        had = f"an array of {found.dtype} {list(found.shape)}" if hasattr(found, "shape") else "no array"
        wanted = f"whole numbers [rounds, steps = {steps}, batch_size = {batch_size}] are needed"
        raise InvalidBatches(f"{path.name}: has {had}; {wanted}")
    if found.size and (found.min() < 0 or found.max() > INDEX_MAX):
        raise InvalidBatches(f"{path.name}: a sample has a number from 0 on, of at most 32 bits")
    return array.array("I", found.astype("=u4").tobytes())
