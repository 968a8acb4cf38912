"""Frozen values shared by the rooms of `chain`. Digests and hashes are 32 bytes, addresses 20 bytes, amounts wei."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

VoteKind = Literal["notarise", "finalise", "timeout"]
NOTARISE: Final[VoteKind] = "notarise"
FINALISE: Final[VoteKind] = "finalise"
TIMEOUT: Final[VoteKind] = "timeout"
NO_DIGEST: Final = bytes(32)  # what a timeout vote names


@dataclass(frozen=True, slots=True)
class Attestation:
    """A validator's signed verdict on one claim; `verdict` False is a refusal."""

    claim: bytes  # claims.claim_digest
    verdict: bool
    signer: int  # index in the epoch's validator list
    signature: bytes  # 65 bytes, r || s || v


@dataclass(frozen=True, slots=True)
class Block:
    """A block as consensus sees it: the ordinary Ethereum block is `payload`, attestations travel beside it."""

    digest: bytes  # the Ethereum block hash
    epoch: int
    view: int
    parent: bytes
    height: int  # the Ethereum block number
    payload: bytes  # RLP; empty for genesis
    attestations: tuple[Attestation, ...] = ()


@dataclass(frozen=True, slots=True)
class Vote:
    """One signed vote; see certificate.vote_digest for what is signed."""

    epoch: int
    view: int
    kind: VoteKind
    digest: bytes  # NO_DIGEST for a timeout
    voter: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A quorum of equal votes."""

    epoch: int
    view: int
    kind: VoteKind
    digest: bytes
    signatures: tuple[tuple[int, bytes], ...]  # (voter, signature), ascending by voter


@dataclass(frozen=True, slots=True)
class Epoch:
    """One reign of an unchanged list of validators."""

    number: int  # the first is 0
    validators: tuple[bytes, ...]  # addresses; a validator's index is its place here
    quorum: int  # votes in a certificate
    first: int  # height of its first block


@dataclass(frozen=True, slots=True)
class Head:
    """The tip of a branch, or the finalised one."""

    number: int
    digest: bytes
    parent: bytes
    timestamp: int  # seconds since the epoch, UTC
    state_root: bytes
    epoch: int
    view: int


@dataclass(frozen=True, slots=True)
class Log:
    """One EVM log of a block that was executed."""

    address: bytes
    topics: tuple[bytes, ...]
    data: bytes
    block_number: int
    block_digest: bytes
    transaction: bytes
    index: int  # within the block


@dataclass(frozen=True, slots=True)
class RevealClaim:
    """What a `Revealed` log of the job contract states: unmasking `ciphertext` with `mask` gives `update`."""

    contract: bytes
    job: int
    round: int
    attempt: int
    worker: bytes
    ctx: bytes
    ciphertext: bytes  # blob digest of C
    size: int  # bytes of C, and of M
    mask: bytes  # S, 65 bytes
    update: bytes  # blob digest of M


@dataclass(frozen=True, slots=True)
class AuditClaim:
    """What an `Audited` log of the job contract states: the round, computed again, gives `update`."""

    contract: bytes
    job: int
    round: int
    attempt: int
    ctx: bytes
    manifest: bytes  # blob digests
    base: bytes
    batch_seed: bytes
    size: int  # bytes of the base, and of the update
    update: bytes


Claim = RevealClaim | AuditClaim


@dataclass(frozen=True, slots=True)
class Transaction:
    """A decoded, signature-checked transaction as the mempool holds it."""

    hash: bytes
    sender: bytes
    nonce: int
    gas: int
    fee: int  # max fee per gas, wei
    tip: int  # max priority fee per gas, wei
    value: int
    raw: bytes


class ChainError(Exception):
    """Base of every refusal that `chain` raises about data from outside."""


@dataclass(eq=False)
class InvalidBlock(ChainError):
    """A block from a peer breaks a rule; `reason` names it."""

    digest: bytes
    reason: str
    expected: object = None
    actual: object = None

    def __str__(self) -> str:
        detail = "" if self.expected is None else f": expected {_show(self.expected)}, got {_show(self.actual)}"
        return f"block {self.digest.hex()[:12]}: {self.reason}{detail}"


@dataclass(eq=False)
class InvalidTransaction(ChainError):
    """A transaction is refused; `reason` is shown to its sender."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class InvalidVote(ChainError):
    """A vote, certificate or attestation is malformed or wrongly signed."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class UnknownParent(ChainError):
    """A block's parent has not been executed here."""

    parent: bytes

    def __str__(self) -> str:
        return f"unknown parent {self.parent.hex()[:12]}"


def _show(value: object) -> str:
    return "0x" + value.hex() if isinstance(value, bytes) else str(value)
