"""A set that forgets its oldest members."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

T = TypeVar("T")


class BoundedSet(Generic[T]):
    """Remembers the newest `size_max` members."""

    def __init__(self, size_max: int) -> None:
        self._size_max = size_max
        self._members: OrderedDict[T, None] = OrderedDict()

    def add(self, member: T) -> None:
        self._members[member] = None
        if len(self._members) > self._size_max:
            self._members.popitem(last=False)

    def __contains__(self, member: T) -> bool:
        return member in self._members
