"""Named people and whole steps of a round, so that a test reads as what happens and not as calldata."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from coincurve import PrivateKey
from eth_hash.auto import keccak

from chain import masking
from chain.contracts import REPLICATED, FaucetTerms
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Event, Terms
from tests.contracts.evm_harness import CHAIN_ID, Done, Evm

E = TypeVar("E", bound=Event)

NOW = 1_000_000
DAY = 86_400

BASE = keccak(b"base")
MANIFEST = keccak(b"manifest")
SEED = keccak(b"seed")
GOOD = keccak(b"the right update")
BAD = keccak(b"another update")
UPDATE_SIZE = 1_000

REWARD = 1_000
STAKE = 300
TERMS = Terms(
    reward=REWARD,
    stake=STAKE,
    slots=3,
    workers_min=3,
    rounds_max=2,
    attempts_max=2,
    commit_window_s=60,
    reveal_window_s=40,
    last_call_s=20,
    grace_s=10,
    deadline=NOW + DAY,
    auto_finalise=False,
)


def address_of(key: bytes) -> bytes:
    return keccak(PrivateKey(key).public_key.format(compressed=False)[1:])[12:]


OWNER_KEY = keccak(b"owner")
OWNER = address_of(OWNER_KEY)
STRANGER_KEY = keccak(b"stranger")
STRANGER = address_of(STRANGER_KEY)
WORKER_KEYS = tuple(keccak(b"worker %d" % number) for number in range(100))
WORKERS = tuple(address_of(key) for key in WORKER_KEYS)
KEYS = {OWNER: OWNER_KEY, STRANGER: STRANGER_KEY, **dict(zip(WORKERS, WORKER_KEYS, strict=True))}


def secrets(worker: bytes, job: int, round_: int, attempt: int) -> tuple[bytes, bytes]:
    """R and S of an honest worker's seat."""
    ctx = masking.context(CHAIN_ID, REPLICATED, job, round_, attempt, worker)
    r = masking.derive_r(KEYS[worker], ctx)
    return r, masking.sign_mask(KEYS[worker], CHAIN_ID, REPLICATED, ctx, r)


def commit_call(worker: bytes, job: int, round_: int, attempt: int) -> Call:
    r, mask = secrets(worker, job, round_, attempt)
    return b.commit(job, round_, attempt, keccak(b"C" + worker), keccak(r), keccak(mask))


def reveal_call(worker: bytes, job: int, round_: int, attempt: int, update: bytes) -> Call:
    return b.reveal(job, round_, attempt, *secrets(worker, job, round_, attempt), update)


class World:
    """One state of the machine, one job that most tests need, everybody rich."""

    def __init__(
        self, validators: Sequence[bytes] = (), sponsors: bool = True, faucet: FaucetTerms | None = None
    ) -> None:
        self.evm = Evm(timestamp=NOW, validators=validators, sponsors=sponsors, faucet=faucet)
        for person in KEYS:
            self.evm.fund(person)
        self.slots: tuple[bytes, ...] = ()  # of the round that was opened last

    def do(self, sender: bytes, call: Call) -> list[Event]:
        """Transact; what happened, in order."""
        return self.run(sender, call).events

    def run(self, sender: bytes, call: Call) -> Done:
        done = self.evm.transact(sender, call)
        for event in done.events:
            if isinstance(event, b.RoundOpened):
                self.slots = event.workers
        return done

    def wait(self, seconds: int) -> None:
        self.evm.timestamp += seconds
        self.evm.number += 1

    def post(self, **changes: object) -> int:
        terms = replace(TERMS, **changes)
        posted, listed = self.do(OWNER, b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, terms))
        assert isinstance(posted, b.JobPosted)
        assert isinstance(listed, b.JobListed)
        return posted.job

    def enrol(self, job: int, workers: int | Iterable[bytes], deposit: int = 4 * STAKE) -> None:
        for worker in WORKERS[:workers] if isinstance(workers, int) else workers:
            self.do(worker, b.enrol(job, deposit))

    def commit(self, job: int, round_: int = 1, attempt: int = 1, workers: Iterable[bytes] | None = None) -> None:
        for worker in self.slots if workers is None else workers:
            self.do(worker, commit_call(worker, job, round_, attempt))

    def reveal(self, job: int, updates: dict[bytes, bytes], round_: int = 1, attempt: int = 1) -> list[Event]:
        """Workers reveal updates, in order."""
        events: list[Event] = []
        for worker, update in updates.items():
            events += self.do(worker, reveal_call(worker, job, round_, attempt, update))
        return events

    def expire_and_close(self, job: int, round_: int = 1, attempt: int = 1) -> list[Event]:
        """Wait for the phase's deadline, then for its last call, then close it."""
        view = self.round(job, round_, attempt)
        self.wait(max(0, view.deadline - self.evm.timestamp))
        self.do(STRANGER, b.expire(job, round_, attempt))
        self.wait(TERMS.last_call_s)
        return self.do(STRANGER, b.close(job, round_, attempt))

    def sponsor(self, job: int, worker: bytes, amount: int, sponsor: bytes = OWNER) -> None:
        """A worker asks, somebody offers."""
        self.do(worker, b.ask_sponsor(job))
        self.do(sponsor, b.sponsor(job, worker, amount))

    def debt(self, job: int, worker: bytes) -> b.Sponsorship:
        return self.evm.query(b.sponsorship_view(job, worker))

    def job(self, job: int) -> b.JobView:
        return self.evm.query(b.job_view(job))

    def round(self, job: int, round_: int = 1, attempt: int = 1) -> b.RoundView:
        return self.evm.query(b.round_view(job, round_, attempt))

    def enrolment(self, job: int, worker: bytes) -> b.EnrolmentView:
        return self.evm.query(b.enrolment_view(job, worker))

    def owed(self, account: bytes) -> int:
        return self.evm.query(b.balance_view(account))

    def books(self) -> b.Books:
        """The contract's books, which must be its balance to the wei."""
        books = self.evm.query(b.books_view())
        assert books.held == self.evm.balance(REPLICATED)
        assert books.burned == self.evm.balance(bytes(20))
        return books


def of_type(events: Iterable[Event], kind: type[E]) -> list[E]:
    return [event for event in events if isinstance(event, kind)]


def names(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]
