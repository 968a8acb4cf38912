"""Which samples a round was assigned, without torch: what `learner.batches` draws, in plain Python.

For who wants to look; a training run takes its batches from `learner.batches`, which is faster.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterator
from typing import Final

_MASK32: Final = 0xFFFFFFFF
_MULTIPLIERS: Final = (0xD2511F53, 0xCD9E8D57)
_WEYL: Final = (0x9E3779B9, 0xBB67AE85)


def batches(batch_seed: bytes, train: int, batch_size: int, steps: int) -> Iterator[list[int]]:
    """As `learner.batches.batches`."""
    per_epoch = train // batch_size
    for step in range(steps):
        epoch, place = divmod(step, per_epoch)
        if place == 0:
            order = permutation(batch_seed, f"batches/{epoch}", train)
        yield order[place * batch_size : (place + 1) * batch_size]


def permutation(seed: bytes, label: str, count: int) -> list[int]:
    """As `learner.exact.philox.permutation`: docs/EXACT.md, "Random numbers"."""
    k0, k1, c2, c3 = struct.unpack("<4I", hashlib.sha256(b"flnode/random/1" + seed + label.encode()).digest()[:16])
    keys = []
    for index in range((count + 1) // 2):
        u0, u1, u2, u3 = _philox((index & _MASK32, index >> 32, c2, c3), k0, k1)
        keys += (u0 | u1 << 32) >> 1, (u2 | u3 << 32) >> 1
    return sorted(range(count), key=keys.__getitem__)  # stable, so equal keys stay in order


def _philox(counter: tuple[int, int, int, int], k0: int, k1: int) -> tuple[int, int, int, int]:
    c0, c1, c2, c3 = counter
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = p1 >> 32 ^ c1 ^ k0, p1 & _MASK32, p0 >> 32 ^ c3 ^ k1, p0 & _MASK32
        k0, k1 = k0 + _WEYL[0] & _MASK32, k1 + _WEYL[1] & _MASK32
    return c0, c1, c2, c3
