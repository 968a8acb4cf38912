"""Logs that are about newcomers, as frozen values: sponsors of deposits, and the faucet. See events.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SponsorWanted:
    job: int
    worker: bytes


@dataclass(frozen=True, slots=True)
class Sponsored:
    """An offer; the worker takes it, and owes it, with its next `Enrolled`."""

    job: int
    worker: bytes
    sponsor: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Unsponsored:
    """The offer was taken back."""

    job: int
    worker: bytes
    sponsor: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class DebtRepaid:
    job: int
    worker: bytes
    sponsor: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class Granted:
    account: bytes
    validator: bytes
    amount: int
