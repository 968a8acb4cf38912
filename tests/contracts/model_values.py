"""What the model of the job contract knows of jobs, rounds, seats and sponsors."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from chain.contracts import bindings as b
from chain.contracts.events import Terms

ZERO = bytes(20)


@dataclass
class Seat:
    state: int = b.DRAWN
    ciphertext: bytes = b""
    r_hash: bytes = b""
    s_hash: bytes = b""
    update: bytes = b""


@dataclass
class Round:
    base: bytes
    deadline: int
    seats: dict[bytes, Seat]
    phase: int = b.COMMIT
    winner: bytes | None = None
    last_call_until: int = 0
    grace_until: int = 0
    rewards_paid: int = 0
    opened_in: int = 0
    seed: bytes = bytes(32)
    audit: int = 0
    appellant: bytes = ZERO
    fee: int = 0

    @property
    def commits(self) -> int:
        return sum(seat.ciphertext != b"" for seat in self.seats.values())

    @property
    def reveals(self) -> int:
        return sum(seat.update != b"" for seat in self.seats.values())

    def votes(self, update: bytes | None) -> int:
        return sum(seat.update == update for seat in self.seats.values())

    @property
    def rewards_unpaid(self) -> int:
        """Rewards still reserved, counted in slots."""
        match self.phase:
            case b.VOID:
                return 0
            case b.CLOSED:
                return self.votes(self.winner) - self.rewards_paid
        return len(self.seats) - self.rewards_paid


@dataclass
class Sponsorship:
    wanted: bool = False
    sponsor: bytes = bytes(20)
    offered: int = 0
    owed: int = 0


@dataclass
class Job:
    owner: bytes
    manifest: bytes
    update_size: int
    seed: bytes
    base: bytes
    terms: Terms
    escrow: int
    state: int = b.WAITING
    cancelled: bool = False
    entropy: bytes = bytes(32)
    settled: int = 0
    attempt: int = 1
    pool: list[bytes] = field(default_factory=list)
    seated: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # where each of the pool was drawn last
    free: dict[bytes, int] = field(default_factory=lambda: defaultdict(int))
    queues: dict[bytes, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    rounds: dict[tuple[int, int], Round] = field(default_factory=dict)
    sponsorships: dict[bytes, Sponsorship] = field(default_factory=lambda: defaultdict(Sponsorship))
