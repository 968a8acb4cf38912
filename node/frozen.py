"""Changing what is not changed: new mappings from old ones. Values typed `Mapping` are never written to in place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def put(mapping: Mapping[K, V], key: K, value: V) -> Mapping[K, V]:
    """`mapping` with `key` set to `value`."""
    return {**mapping, key: value}


def without(mapping: Mapping[K, V], key: K) -> Mapping[K, V]:
    """`mapping` less `key`."""
    return {k: v for k, v in mapping.items() if k != key}
