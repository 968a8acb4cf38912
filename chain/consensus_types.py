"""The words of the consensus machine: what happens to it (events), what it says (messages), what it asks for (effects).

Times are seconds of one monotonic clock, as floats. Validators are named by their index in the epoch's list. The rules
of the protocol are in chain/consensus.py, the bytes of the messages in chain/messages.py.

What the shell owes the machine: it verifies the signatures of what it feeds in (chain/certificate.py), and that a
received block's digest, epoch, view, parent and height are those of its payload; carries out effects in order; answers
BuildBlock and CheckBlock; serves WantBlock for bodies that are not in `blocks` from its disk; keeps votes, bodies and
certificates above the *durable* final block and hands them to the next instance. Everything else may be late, lost or
repeated.

Memory: bodies, wants, messages and votes ahead of the view are bounded by constants, evidence by n. Votes and
certificates of views above the final one are kept, since without them nobody can prove that a view was skipped: a few
hundred bytes for each view that a quorum ended without anything becoming final.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

from chain.types import Block, Certificate, Vote, VoteKind

CERTIFICATES_MAX: Final = 64  # in one message; a longer list travels in several
CERTIFICATES_ANSWERED_MAX: Final = 256  # to one Status, or said again at a timeout

Sign: TypeAlias = Callable[[int, int, VoteKind, bytes], bytes]  # (epoch, view, kind, block digest) -> signature


# ---- messages between validators ------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Proposal:
    """A block, its proposer's vote for it, and the certificates that show why it may stand in its view."""

    block: Block
    vote: Vote
    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class VoteMessage:
    """One vote; a finalise vote brings the notarisation of the block that it names."""

    vote: Vote
    certificate: Certificate | None = None


@dataclass(frozen=True, slots=True)
class Certificates:
    """Certificates that the receiver may lack."""

    certificates: tuple[Certificate, ...]


@dataclass(frozen=True, slots=True)
class Status:
    """Where the sender is: `view` is the first view of which it holds no certificate that ends it.

    `entered` is the view that it is in: it has cast no vote in a later one.
    """

    view: int
    final_view: int
    epoch: int
    entered: int


@dataclass(frozen=True, slots=True)
class WantBlock:
    """The sender needs the body of this block."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class HaveBlock:
    """The answer to WantBlock."""

    block: Block


Message: TypeAlias = Proposal | VoteMessage | Certificates | Status | WantBlock | HaveBlock


# ---- events ---------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Started:
    """The machine was just made, fresh or after a restart. Comes first, once."""


@dataclass(frozen=True, slots=True)
class Ticked:
    """The time asked for by the latest WakeAt has come. A tick too early or too many does no harm."""


@dataclass(frozen=True, slots=True)
class WorkChanged:
    """Whether a transaction is executable on the tip with all its claims attested."""

    pending: bool


@dataclass(frozen=True, slots=True)
class Built:
    """The answer to BuildBlock; None if there was nothing to put into a block."""

    view: int
    block: Block | None


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer to CheckBlock."""

    digest: bytes
    ok: bool


@dataclass(frozen=True, slots=True)
class Connected:
    """Another validator can be reached (again)."""

    validator: int


@dataclass(frozen=True, slots=True)
class Received:
    """A message whose signatures and block fields the shell has verified; sender None is not a validator."""

    sender: int | None
    message: Message


Event: TypeAlias = Started | Ticked | WorkChanged | Built | Checked | Connected | Received


# ---- effects --------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class PersistVote:
    """Make an own vote, and the body of the block it names, durable before any later effect is carried out."""

    vote: Vote
    block: Block | None


@dataclass(frozen=True, slots=True)
class PersistCertificate:
    """Make a certificate durable, as a vote: votes rest on it, and its signers may not be there to sign it again."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class PersistFloor:
    """Make durable, as a vote, that this validator casts votes in views above `view` only, in this epoch."""

    view: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send to one validator; to None: to all others. May be lost."""

    to: int | None
    message: Message


@dataclass(frozen=True, slots=True)
class BuildBlock:
    """Build a block of `view` on `parent`, answer with Built; `empty`: one is wanted even with nothing to put in."""

    view: int
    parent: Block
    empty: bool


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """Execute a block whose parent was executed, answer with Checked.

    `notarised`: a quorum found its stamp and attested claims good, so only well-formedness and execution count.
    """

    block: Block
    notarised: bool


@dataclass(frozen=True, slots=True)
class Finalised:
    """These blocks, oldest first, can never be reverted; the certificate names the last of them."""

    blocks: tuple[Block, ...]
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send Ticked at this time; replaces any earlier WakeAt."""

    time: float


Effect: TypeAlias = (
    PersistVote | PersistCertificate | PersistFloor | Send | BuildBlock | CheckBlock | Finalised | WakeAt
)


# ---- what the operator sees -----------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Snapshot:
    """The machine's state in the operator's words."""

    epoch: int
    view: int
    final_view: int
    proposer: int
    tip: Block
    final: Block
    pending: bool
    waiting_for: tuple[int, ...]  # validators without a vote in this view, if it is under way
    missing_bodies: int
    refused: tuple[bytes, ...]  # notarised blocks that do not execute here: our rules differ from a quorum's
    delay_s: float  # the present estimate of one network delay
    deadline: float | None  # when this view times out here
    evidence: tuple[tuple[Vote, Vote], ...]  # pairs of votes that no honest validator casts both


class ForkedFinality(Exception):
    """A certified block contradicts the final one: a third of the validators or more is faulty. The node must stop."""

    def __init__(self, final: Block, other: Block) -> None:
        super().__init__(
            f"block {other.digest.hex()[:12]} of view {other.view} at height {other.height} was certified, but does not"
            f" descend from the final block {final.digest.hex()[:12]} at height {final.height}"
        )
        self.final, self.other = final, other
