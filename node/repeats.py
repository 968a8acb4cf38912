"""When what is not final is forwarded again: after a second, then after twice as long, and so on. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from chain.types import Transaction

REPEAT_S: Final = 1.0
REPEAT_MAX_S: Final = 60.0
REPEAT_BYTES_MAX: Final = 512 * 1024  # at a time; the rest is due the next time


class Repeats:
    """Remembers nothing of transactions that have left the pool."""

    def __init__(self) -> None:
        self._next: dict[bytes, tuple[float, float]] = {}  # transaction -> (when, how long after that)

    def due(self, pooled: Iterable[Transaction], now: float) -> list[Transaction]:
        """What of the pool to forward again now."""
        due: list[Transaction] = []
        size = 0
        upcoming = {}
        for transaction in pooled:
            at, interval = self._next.get(transaction.hash, (now, REPEAT_S))
            if at <= now and size < REPEAT_BYTES_MAX:
                due.append(transaction)
                size += len(transaction.raw)
                at, interval = now + interval, min(2 * interval, REPEAT_MAX_S)
            upcoming[transaction.hash] = (at, interval)
        self._next = upcoming
        return due
