"""A state's result on a test set; by itself, because the node reads scores and imports no torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Score:
    """`correct` of `total` test samples."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """For display; compare the integers."""
        return self.correct / self.total
