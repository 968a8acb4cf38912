"""Queries of the genesis contracts' views: what to send to `eth_call`, and how to read the answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from eth_abi.abi import decode as abi_decode

from chain.contracts import FAUCET, FINDER, REPLICATED, VALIDATORS, compiled
from chain.contracts.calls import encode, flat_types, selector_of
from chain.contracts.events import Terms

T = TypeVar("T")

# phases of a round; 0 means that there is no such round
COMMIT: Final = 1
REVEAL: Final = 2
AUDIT: Final = 3
SETTLED: Final = 4
VOID: Final = 5
CLOSED: Final = 6
PHASES: Final = {COMMIT: "COMMIT", REVEAL: "REVEAL", AUDIT: "AUDIT", SETTLED: "SETTLED", VOID: "VOID", CLOSED: "CLOSED"}

# of an attempt's audit; 0 means that there was none
AUDIT_OPEN: Final = 1
AUDIT_RESOLVED: Final = 2
AUDIT_LAPSED: Final = 3

# why an audit was opened
DRAWN_BY_LOT: Final = 1
APPEALED: Final = 2
UNDECIDED: Final = 3

# states of a job
WAITING: Final = 1
RUNNING: Final = 2
ENDED: Final = 3

# why a job ended
FINISHED: Final = 1
STOPPED: Final = 2
CANCELLED: Final = 3
DEADLINE: Final = 4
FAILED: Final = 5
END_REASONS: Final = {
    FINISHED: "finished", STOPPED: "stopped", CANCELLED: "cancelled", DEADLINE: "deadline", FAILED: "failed",
}  # fmt: skip

PROPOSALS_PAGE_MAX: Final = 50  # proposals that one answer holds

# states of a seat; 0 means that the worker was not drawn
DRAWN: Final = 1
COMMITTED: Final = 2
REVEALED: Final = 3
SEAT_SETTLED: Final = 4
ABSENT: Final = 5  # settled, of a worker that did not commit


@dataclass(frozen=True, slots=True)
class JobView:
    """A job as it stands."""

    owner: bytes
    state: int  # WAITING, RUNNING or ENDED
    cancelled: bool
    manifest: bytes
    update_size: int
    seed: bytes
    base: bytes
    entropy: bytes
    escrow: int
    settled: int  # rounds; the open or next one is settled + 1
    attempt: int
    terms: Terms


@dataclass(frozen=True, slots=True)
class RoundView:
    """A round as it stands; phase 0 if it was never opened."""

    phase: int
    slots: int
    commits: int
    reveals: int
    base: bytes
    winner: bytes  # meaningful once grace_until is set, or of an audit once it is resolved
    deadline: int
    last_call_until: int  # 0 until expire, anew in each phase
    grace_until: int  # 0 until there is a winner
    opened_in: int  # block that opened the reveals; 0 if no audit is drawn by lot
    seed: bytes  # that block's hash, from the first reveal on
    audit: int  # 0, AUDIT_OPEN, AUDIT_RESOLVED or AUDIT_LAPSED
    appellant: bytes
    fee: int  # wei, of an audit that may still come


@dataclass(frozen=True, slots=True)
class SeatView:
    """A seat as it stands; state 0 if the worker was not drawn."""

    state: int
    ciphertext: bytes
    r_hash: bytes
    s_hash: bytes
    update: bytes


@dataclass(frozen=True, slots=True)
class EnrolmentView:
    """A worker's enrolment in a job. The locked deposit is (tail - head) stakes."""

    position: int  # 1 + place; 0 means not enrolled
    free: int
    head: int
    tail: int
    since: int  # tail when it enrolled


@dataclass(frozen=True, slots=True)
class Sponsorship:
    """Who puts a worker's deposit; all zero if it never asked and nobody offered."""

    wanted: bool  # it has asked, and nobody has offered since
    sponsor: bytes
    offered: int  # wei that wait for it to enrol
    owed: int  # wei that it has taken and not repaid


@dataclass(frozen=True, slots=True)
class Books:
    """Wei held, by purpose, and wei burned. The contract's balance is the sum of the first six."""

    escrowed: int
    reserved: int
    free: int
    locked: int
    owed: int
    offered: int
    burned: int

    @property
    def held(self) -> int:
        return self.escrowed + self.reserved + self.free + self.locked + self.owed + self.offered


@dataclass(frozen=True, slots=True)
class Listing:
    """An open job in the finder."""

    kind: int
    contract: bytes
    job: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """An open change of the validators."""

    id: int
    subject: bytes
    admit: bool
    proposer: bytes
    approvers: int  # bit n: the validator with index n has approved


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """A view to call and how to read what comes back."""

    to: bytes
    data: bytes
    decode: Callable[[bytes], T]


def job_view(job: int) -> Query[JobView]:
    """The call reverts if there is no such job."""
    return _query("job", _job, job)


def round_view(job: int, round_: int, attempt: int) -> Query[RoundView]:
    return _query("round_of", _round, job, round_, attempt)


def votes_view(job: int, round_: int, attempt: int, update_digest: bytes) -> Query[int]:
    """How many slots revealed a digest."""
    return _query("votes_of", int, job, round_, attempt, update_digest)


def seat_view(job: int, round_: int, attempt: int, worker: bytes) -> Query[SeatView]:
    return _query("seat", lambda value: SeatView(*value), job, round_, attempt, worker)


def enrolment_view(job: int, worker: bytes) -> Query[EnrolmentView]:
    return _query("enrolment", lambda value: EnrolmentView(*value), job, worker)


def sponsorship_view(job: int, worker: bytes) -> Query[Sponsorship]:
    return _query("sponsorship", _sponsorship, job, worker)


def sponsors_view() -> Query[bool]:
    """Whether this network has sponsors."""
    return _query("sponsors", bool)


def enrolled_count_view(job: int) -> Query[int]:
    return _query("enrolled_count", int, job)


def enrolled_at_view(job: int, index: int) -> Query[bytes]:
    """Zero past the end."""
    return _query("enrolled_at", _as_bytes, job, index)


def balance_view(account: bytes) -> Query[int]:
    """Wei that an account may withdraw, over all jobs."""
    return _query("balance_of", int, account)


def jobs_count_view() -> Query[int]:
    return _query("jobs_count", int)


def books_view() -> Query[Books]:
    return _query("books", lambda value: Books(*value))


def open_count_view() -> Query[int]:
    """How many jobs of any kind are open."""
    return _query("open_count", int)


def open_at_view(index: int) -> Query[Listing]:
    """The call reverts past the end."""
    return _query("open_at", _listing, index)


def open_page_view(start: int, count: int) -> Query[tuple[Listing, ...]]:
    """At most 50 open jobs."""
    return _query("open_page", lambda rows: tuple(_listing(row) for row in rows), start, count)


def grants_left_view() -> Query[int]:
    """How many grants the faucet may still make in this period."""
    return _query("grants_left", int)


def granted_at_view(account: bytes) -> Query[int]:
    """When the faucet last made an account a grant (seconds since the epoch); 0: never."""
    return _query("granted_at", int, account)


def epoch_view() -> Query[int]:
    """The present epoch; 0 is the first."""
    return _query("epoch", int)


def validators_view() -> Query[tuple[bytes, ...]]:
    """The validators of the present epoch, by index."""
    return _query("validators", lambda value: tuple(map(_as_bytes, value)))


def approvals_needed_view() -> Query[int]:
    return _query("approvals_needed", int)


def proposals_page_view(start: int, count: int) -> Query[tuple[Proposal, ...]]:
    """At most PROPOSALS_PAGE_MAX open proposals, oldest first."""
    return _query("proposals_page", lambda rows: tuple(_proposal(*row) for row in rows), start, count)


def _as_bytes(address: str) -> bytes:
    return bytes.fromhex(address.removeprefix("0x"))


def _job(value: tuple[Any, ...]) -> JobView:
    fields = (_as_bytes(value[0]), *value[1:-1], Terms(*value[-1]))
    return JobView(*fields)


def _round(value: tuple[Any, ...]) -> RoundView:
    fields = (*value[:-2], _as_bytes(value[-2]), value[-1])
    return RoundView(*fields)


def _sponsorship(value: tuple[bool, str, int, int]) -> Sponsorship:
    wanted, sponsor, offered, owed = value
    return Sponsorship(wanted, _as_bytes(sponsor), offered, owed)


def _listing(value: tuple[Any, ...]) -> Listing:
    kind, contract, job = value
    return Listing(kind, _as_bytes(contract), job)


def _proposal(id_: int, subject: str, admit: bool, proposer: str, approvers: int) -> Proposal:
    return Proposal(id_, _as_bytes(subject), admit, _as_bytes(proposer), approvers)


def _output_type(entry: dict[str, Any]) -> str:
    kind = str(entry["type"])
    if not kind.startswith("tuple"):
        return kind
    return f"({','.join(_output_type(member) for member in entry['components'])}){kind.removeprefix('tuple')}"


_VIEWS: Final = {
    entry["name"]: (
        address,
        selector_of(entry["name"], entry["inputs"]),
        flat_types(entry["inputs"]),
        [_output_type(output) for output in entry["outputs"]],
    )
    for address, contract in (
        (REPLICATED, "replicated"),
        (FINDER, "finder"),
        (VALIDATORS, "validators"),
        (FAUCET, "faucet"),
    )
    for entry in compiled()[contract]["abi"]
    if entry["type"] == "function" and entry["stateMutability"] == "view"
}


def _query(name: str, read: Callable[[Any], T], *values: object) -> Query[T]:
    address, selector, types, outputs = _VIEWS[name]

    def decode(data: bytes) -> T:
        (value,) = abi_decode(outputs, data)
        return read(value)

    return Query(address, encode(selector, types, values), decode)
