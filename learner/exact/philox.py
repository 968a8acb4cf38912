"""Random integers that are the same everywhere: Philox4x32-10 (Salmon et al., SC 2011), keyed by a hash.

A stream is named by a 32-byte seed and a label; docs/EXACT.md, "Random numbers", has the mapping in full.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Final

import torch
from torch import Tensor

_DOMAIN: Final = b"flnode/random/1"
_ROUNDS: Final = 10
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)
_MASK32: Final = 0xFFFFFFFF


def words(seed: bytes, label: str, count: int) -> Tensor:
    """The first `count` words of a stream: int64 [count], each in [0, 2**32)."""
    assert len(seed) == 32, "a seed is 32 bytes"
    k0, k1, c2, c3 = struct.unpack("<4I", hashlib.sha256(_DOMAIN + seed + label.encode()).digest()[:16])
    index = torch.arange((count + 3) // 4, dtype=torch.int64)
    counter = (index & _MASK32, index >> 32, torch.full_like(index, c2), torch.full_like(index, c3))
    return torch.stack(philox(counter, (k0, k1)), dim=1).flatten()[:count]


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """The bijection itself on many counters at once: four int64 tensors of 32-bit words in, four out."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        high0, low0 = _multiply(c0, _MULTIPLIERS[0])
        high1, low1 = _multiply(c2, _MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + _WEYL[0]) & _MASK32, (k1 + _WEYL[1]) & _MASK32
    return c0, c1, c2, c3


def permutation(seed: bytes, label: str, count: int) -> Tensor:
    """A shuffled 0..count-1, int64: the stable order of 63-bit keys, each made of two words of the stream."""
    pairs = words(seed, label, 2 * count).view(count, 2)
    # The low bit goes, because int64 has no room for 64 unsigned bits and sorting must not depend on the sign.
    keys = (pairs[:, 0] >> 1) | (pairs[:, 1] << 31)
    return torch.sort(keys, stable=True).indices


def uniform(seed: bytes, label: str, count: int, bound: float) -> Tensor:
    """float32 [count] in (-bound, bound): ((u + 1/2) / 2**31 - 1) * bound in float64, rounded once to float32."""
    return ((words(seed, label, count).double() + 0.5) * 2.0**-31 - 1.0).mul_(bound).float()


def _multiply(values: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """High and low words of 32-bit products, in halves so that no int64 overflows (which C++ leaves undefined)."""
    low, high = (values & 0xFFFF) * factor, (values >> 16) * factor
    middle = high + (low >> 16)
    return middle >> 16, ((middle & 0xFFFF) << 16) | (low & 0xFFFF)
