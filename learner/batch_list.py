"""Batches that a job lists itself, instead of drawing them from the seed: a blob of sample indices.

Layout, little-endian, nothing between or after the parts (docs/EXACT.md, "Batches"):

    magic "flbatch1" (8)   rounds u32   steps u32   batch size u32
    rounds * steps * batch size indices u32

Round r, from 1, has row (r - 1) mod rounds, a batch for each step. Attempt a of it, from 1, begins with step a of the
row and goes round: a void round's updates are public, so the next attempt must not have the same result (with a single
step it has: the digest is the same, and who copied it is paid like who computed it).

The row wraps so that no call of the contract leads to a round without batches, which would cost its workers their
stakes; flnode itself posts no more rounds than there are rows. Needs no torch.
"""

from __future__ import annotations

import array
import struct
import sys
from typing import Final

from learner.errors import InvalidBatches

BATCH_LIST_BYTES_MAX: Final = 64 * 2**20
INDEX_MAX: Final = 2**32 - 1

_MAGIC: Final = b"flbatch1"
_HEADER: Final = struct.Struct("<8sIII")
_INDEX_BYTES: Final = 4


def rounds_in(size: int, steps: int, batch_size: int) -> int:
    """How many rounds a list of `size` bytes has; 0 if no list of these steps and batches has that size."""
    rounds, rest = divmod(size - _HEADER.size, _INDEX_BYTES * steps * batch_size)
    return 0 if rest or rounds < 0 else rounds


def encode(indices: array.array[int], steps: int, batch_size: int) -> bytes:
    """The canonical bytes of whole rounds.

    Args:
        indices: of typecode "I", row-major [rounds, steps, batch_size].
    Raises:
        InvalidBatches: not whole rounds, none, or too many.
    """
    rounds, rest = divmod(len(indices), steps * batch_size)
    if rest or not rounds:
        text = f"{len(indices)} indices are not whole rounds of {steps} steps of {batch_size} samples"
        raise InvalidBatches(f"batches: {text}")
    size = _HEADER.size + _INDEX_BYTES * len(indices)
    if size > BATCH_LIST_BYTES_MAX:
        raise InvalidBatches(f"batches: {size} bytes, at most {BATCH_LIST_BYTES_MAX}")
    return _HEADER.pack(_MAGIC, rounds, steps, batch_size) + _little_endian(indices).tobytes()


def check(data: bytes, steps: int, batch_size: int, train: int) -> None:
    """Can a job with so many training samples be given these batches? Raises InvalidBatches."""
    _check_header(data, steps, batch_size)
    indices = array.array("I", data[_HEADER.size :])
    _check_range(_little_endian(indices), steps, batch_size, train)


def row(data: bytes, steps: int, batch_size: int, number: int, attempt: int) -> bytes:
    """The batches of one attempt of one round: raw indices [steps, batch_size].

    Args:
        number, attempt: of the round and of its attempt, from 1.
    Raises:
        InvalidBatches: not a list of such batches.
    """
    rounds = _check_header(data, steps, batch_size)
    step_bytes = _INDEX_BYTES * batch_size
    start = _HEADER.size + (number - 1) % rounds * steps * step_bytes
    first = start + (attempt - 1) % steps * step_bytes
    return data[first : start + steps * step_bytes] + data[start:first]


def indices_of(row: bytes, steps: int, batch_size: int, train: int) -> array.array[int]:
    """The indices of a row, of typecode "I".

    Raises:
        InvalidBatches: of another size, or an index beyond the training samples.
    """
    if len(row) != _INDEX_BYTES * steps * batch_size:
        raise InvalidBatches(f"batches: a round of {len(row)} bytes, {steps} steps of {batch_size} indices are needed")
    indices = _little_endian(array.array("I", row))
    _check_range(indices, steps, batch_size, train)
    return indices


def _check_header(data: bytes, steps: int, batch_size: int) -> int:
    """How many rounds there are."""
    if len(data) < _HEADER.size:
        raise InvalidBatches("batches: ends inside the header")
    magic, rounds, its_steps, its_batch_size = _HEADER.unpack_from(data)
    if magic != _MAGIC:
        raise InvalidBatches("batches: not a list of batches: wrong magic")
    if (its_steps, its_batch_size) != (steps, batch_size):
        had = f"{its_steps} steps of {its_batch_size} samples"
        raise InvalidBatches(f"batches: lists {had}, the job has {steps} steps of {batch_size}")
    if not rounds or rounds_in(len(data), steps, batch_size) != rounds:
        raise InvalidBatches(f"batches: {len(data)} bytes are not the {rounds} rounds that the header says")
    return int(rounds)


def _check_range(indices: array.array[int], steps: int, batch_size: int, train: int) -> None:
    if not indices or max(indices) < train:
        return
    at = next(at for at, index in enumerate(indices) if index >= train)
    number, place = divmod(at, steps * batch_size)
    where = f"round {number + 1}, step {place // batch_size + 1}"
    raise InvalidBatches(f"batches: {where}: sample {indices[at]}, there are 0 to {train - 1} for training")


def _little_endian(indices: array.array[int]) -> array.array[int]:
    if sys.byteorder != "little":
        indices = array.array("I", indices)
        indices.byteswap()
    return indices


assert array.array("I").itemsize == _INDEX_BYTES, "an unsigned int of this machine has not 32 bits"
