"""Logs of the genesis contracts as frozen values, named and ordered as in the .vy files.

Addresses are 20 bytes, digests and hashes 32 bytes, amounts wei, times seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from eth_hash.auto import keccak

from chain.contracts import FAUCET, FINDER, REPLICATED, VALIDATORS, compiled
from chain.contracts.joining import DebtRepaid, Granted, Sponsored, SponsorWanted, Unsponsored
from chain.types import Log


@dataclass(frozen=True, slots=True)
class Terms:
    """What owner and workers agree on when a job is posted; see terms.vy for the limits."""

    reward: int  # wei, to each slot that reveals the winning update
    stake: int  # wei, locked by each slot
    slots: int  # odd, 1 .. 31; fewer are drawn when fewer are enrolled
    workers_min: int  # 1 .. slots
    rounds_max: int
    attempts_max: int  # 1 .. 255, of one round
    commit_window_s: int
    reveal_window_s: int
    last_call_s: int
    grace_s: int
    deadline: int  # seconds since the epoch
    auto_finalise: bool
    audit_ppm: int = 0  # parts per million
    audit_window_s: int = 600
    audit_fee: int = 0  # wei
    appeal_window_s: int = 0  # 0: no appeals
    appeal_bond: int = 0  # wei

    @property
    def escrow(self) -> int:
        """Wei that `post` must carry."""
        return self.price_of(self.rounds_max)

    def price_of(self, rounds: int) -> int:
        """Wei that are escrowed for so many rounds: every slot's reward, and one audit each."""
        return (self.reward * self.slots + self.audit_fee) * rounds

    @property
    def audits(self) -> bool:
        """Whether a round may be audited."""
        return self.audit_ppm > 0 or self.appeal_window_s > 0


@dataclass(frozen=True, slots=True)
class JobPosted:
    job: int
    owner: bytes
    manifest: bytes
    base: bytes
    update_size: int
    seed: bytes
    terms: Terms


def batch_seed(seed: bytes, round: int, attempt: int) -> bytes:
    """The seed of a round attempt's batches, from that of its job (JobPosted): what RoundOpened says."""
    return keccak(seed + round.to_bytes(32, "big") + attempt.to_bytes(32, "big"))


@dataclass(frozen=True, slots=True)
class JobToppedUp:
    job: int
    rounds_max: int


@dataclass(frozen=True, slots=True)
class JobCancelled:
    job: int


@dataclass(frozen=True, slots=True)
class JobWaiting:
    job: int
    enrolled: int


@dataclass(frozen=True, slots=True)
class JobEnded:
    job: int
    reason: int  # FINISHED .. FAILED
    rounds: int  # settled
    base: bytes  # the last winner


@dataclass(frozen=True, slots=True)
class Enrolled:
    job: int
    worker: bytes
    free: int


@dataclass(frozen=True, slots=True)
class Left:
    job: int
    worker: bytes
    released: int


@dataclass(frozen=True, slots=True)
class Evicted:
    job: int
    worker: bytes
    absent: bool  # it did not commit when it was drawn last; else its deposit is below one stake


@dataclass(frozen=True, slots=True)
class RoundOpened:
    job: int
    round: int
    attempt: int
    base: bytes
    batch_seed: bytes
    workers: tuple[bytes, ...]
    commit_deadline: int


@dataclass(frozen=True, slots=True)
class Committed:
    job: int
    round: int
    worker: bytes
    attempt: int
    ciphertext: bytes
    r_hash: bytes
    s_hash: bytes


@dataclass(frozen=True, slots=True)
class RevealOpened:
    job: int
    round: int
    attempt: int
    commits: int
    reveal_deadline: int


@dataclass(frozen=True, slots=True)
class Revealed:
    """A claim: unmasking `ciphertext` with `mask` gives `update_digest`."""

    job: int
    round: int
    worker: bytes
    attempt: int
    ctx: bytes
    ciphertext: bytes
    size: int
    r: bytes
    mask: bytes
    update_digest: bytes


@dataclass(frozen=True, slots=True)
class AuditOpened:
    job: int
    round: int
    attempt: int
    cause: int  # DRAWN_BY_LOT, APPEALED or UNDECIDED
    appellant: bytes  # zero unless appealed
    deadline: int


@dataclass(frozen=True, slots=True)
class Audited:
    """A claim: one round of training from `base` with `batch_seed` gives `update_digest`."""

    job: int
    round: int
    attempt: int
    ctx: bytes
    manifest: bytes
    base: bytes
    batch_seed: bytes
    size: int
    update_digest: bytes


@dataclass(frozen=True, slots=True)
class AuditLapsed:
    job: int
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class MajorityReached:
    job: int
    round: int
    attempt: int
    update_digest: bytes
    votes: int
    grace_until: int


@dataclass(frozen=True, slots=True)
class LastCall:
    job: int
    round: int
    attempt: int
    until: int


@dataclass(frozen=True, slots=True)
class RoundSettled:
    job: int
    round: int
    attempt: int
    update_digest: bytes
    votes: int


@dataclass(frozen=True, slots=True)
class RoundVoided:
    job: int
    round: int
    attempt: int
    commits: int
    reveals: int


@dataclass(frozen=True, slots=True)
class RoundClosed:
    job: int
    round: int
    attempt: int


@dataclass(frozen=True, slots=True)
class SeatSettled:
    job: int
    round: int
    worker: bytes
    attempt: int
    earned: int
    forfeited: int


@dataclass(frozen=True, slots=True)
class Withdrawn:
    account: bytes
    amount: int


@dataclass(frozen=True, slots=True)
class JobListed:
    kind: int
    contract: bytes
    job: int


@dataclass(frozen=True, slots=True)
class JobDelisted:
    kind: int
    contract: bytes
    job: int


@dataclass(frozen=True, slots=True)
class Proposed:
    id: int
    subject: bytes
    proposer: bytes
    admit: bool


@dataclass(frozen=True, slots=True)
class Approved:
    id: int
    validator: bytes
    approvals: int


@dataclass(frozen=True, slots=True)
class ValidatorsChanged:
    epoch: int  # the new one
    validators: tuple[bytes, ...]  # of the new epoch, by index


RoundEvent = (
    RoundOpened | Committed | RevealOpened | Revealed | MajorityReached | LastCall
    | AuditOpened | Audited | AuditLapsed | RoundSettled | RoundVoided | RoundClosed | SeatSettled
)  # fmt: skip
JobEvent = JobPosted | JobToppedUp | JobCancelled | JobWaiting | JobEnded | Enrolled | Left | Evicted
SponsorEvent = SponsorWanted | Sponsored | Unsponsored | DebtRepaid
ReplicatedEvent = JobEvent | RoundEvent | SponsorEvent | Withdrawn
FinderEvent = JobListed | JobDelisted
ValidatorsEvent = Proposed | Approved | ValidatorsChanged
Event = ReplicatedEvent | FinderEvent | ValidatorsEvent | Granted


def decode(log: Log) -> Event | None:
    """The event that a log states, or None if no genesis contract logged it.

    Raises:
        ValueError: a genesis contract's log that is cut short; execution never gives one.
    """
    layout = _LAYOUTS.get((log.address, log.topics[0])) if log.topics else None
    return layout(log) if layout is not None else None


def topic_of(event: type[Event]) -> bytes:
    """First topic of an event's logs, for filters."""
    return _TOPICS[event]


def _uint(data: bytes, word: bytes) -> int:
    return int.from_bytes(word, "big")


def _address(data: bytes, word: bytes) -> bytes:
    return word[12:]


def _bytes32(data: bytes, word: bytes) -> bytes:
    return word


def _bool(data: bytes, word: bytes) -> bool:
    return word[31] != 0


def _dynamic_bytes(data: bytes, word: bytes) -> bytes:
    at = int.from_bytes(word, "big") + 32
    return data[at : at + int.from_bytes(data[at - 32 : at], "big")]


def _addresses(data: bytes, word: bytes) -> tuple[bytes, ...]:
    at = int.from_bytes(word, "big") + 32
    end = at + 32 * int.from_bytes(data[at - 32 : at], "big")
    return tuple(data[start + 12 : start + 32] for start in range(at, end, 32))


_READERS: Final[dict[str, Callable[[bytes, bytes], object]]] = {
    "uint256": _uint,
    "address": _address,
    "bytes32": _bytes32,
    "bool": _bool,
    "bytes": _dynamic_bytes,
    "address[]": _addresses,
}


def _job_posted(
    job: int, owner: bytes, manifest: bytes, base: bytes, update_size: int, seed: bytes, *terms: Any
) -> JobPosted:
    return JobPosted(job, owner, manifest, base, update_size, seed, Terms(*terms))


def _layout(make: Callable[..., Event], inputs: list[dict[str, Any]]) -> Callable[[Log], Event]:
    """A decoder for one event. Its indexed fields come first in the declaration, so values come out in its order."""
    readers = tuple(_READERS[entry["type"]] for entry in inputs)
    indexed = sum(entry["indexed"] for entry in inputs)
    head = 32 * (len(inputs) - indexed)

    def read(log: Log) -> Event:
        data = log.data
        if len(log.topics) != 1 + indexed or len(data) < head:
            raise ValueError(f"log {log.index} of block {log.block_number} is cut short")
        words = (*log.topics[1:], *(data[at : at + 32] for at in range(0, head, 32)))
        return make(*(reader(data, word) for reader, word in zip(readers, words, strict=True)))

    return read


def _tables(
    address: bytes, abi: Iterable[dict[str, Any]], events: Iterable[type[Event]]
) -> Iterable[tuple[type[Event], bytes, tuple[bytes, bytes], Callable[[Log], Event]]]:
    by_name = {entry["name"]: entry["inputs"] for entry in abi if entry["type"] == "event"}
    for event in events:
        inputs = by_name[event.__name__]
        topic = keccak(f"{event.__name__}({','.join(entry['type'] for entry in inputs)})".encode())
        make: Callable[..., Event] = _job_posted if event is JobPosted else event
        yield event, topic, (address, topic), _layout(make, inputs)


_ALL: Final = (
    *_tables(REPLICATED, compiled()["replicated"]["abi"], ReplicatedEvent.__args__),
    *_tables(FINDER, compiled()["finder"]["abi"], FinderEvent.__args__),
    *_tables(VALIDATORS, compiled()["validators"]["abi"], ValidatorsEvent.__args__),
    *_tables(FAUCET, compiled()["faucet"]["abi"], (Granted,)),
)
_TOPICS: Final = {event: topic for event, topic, _, _ in _ALL}
_LAYOUTS: Final = {key: layout for _, _, key, layout in _ALL}
