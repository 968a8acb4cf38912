"""What the `fl_*` methods take and return: the only thing that the command line knows about a node.

Conventions: digests, hashes and addresses are 0x-prefixed hex; amounts are decimal strings of wei, because JSON's
numbers end at 2**53; `*_at` is Unix time in seconds; `*_s` a duration in seconds. Unknown fields are ignored when
reading, so that an older command line understands a newer node.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from learner.architecture import Model
from learner.card import Card
from learner.manifest import BITS_DEFAULT, Adam
from node.api.schema_network import Equivocation, Hex, KnownPeer, Peer, Proposal, ValidatorInfo, Validators

__all__ = [
    "Equivocation", "KnownPeer", "Peer", "Proposal", "ValidatorInfo", "Validators",
]  # fmt: skip # what is handed on; the rest is here

Wei = str
JobState = Literal["waiting", "running", "closing", "ended"]  # closing: ended, but its last rounds take late reveals
Phase = Literal["WAITING", "COMMIT", "REVEAL", "AUDIT", "SETTLED", "VOID", "CLOSED"]
EndReason = Literal["finished", "goal reached", "cancelled", "deadline", "failed"]
SlotState = Literal["drawn", "committed", "revealed", "majority", "minority", "absent"]
LearnerState = Literal["off", "starting", "idle", "training", "scoring", "auditing", "failed"]

SLOTS_MAX: Final = 31
ATTEMPTS_MAX: Final = 255
WAIT_S_MAX: Final = 60.0
DATASET_NAME: Final = r"(?!0x)[a-z0-9][a-z0-9._-]{0,39}"
DATASET_NAME_RULE: Final = "1 to 40 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, and not with 0x"


class HeadInfo(msgspec.Struct, frozen=True):
    """The tip of a chain."""

    number: int
    digest: Hex
    timestamp: int


class LearnerInfo(msgspec.Struct, frozen=True):
    """The trainer's subprocess: `step` of `steps` of (`job`, `round`) while training.

    `reason` says why one that failed does no jobs, `walls_missing` which walls of its sandbox do not stand, and why.
    """

    state: LearnerState
    job: int | None = None
    round: int | None = None
    step: int = 0
    steps: int = 0
    device: str = ""
    backend: str = ""
    reason: str = ""
    walls_missing: list[str] = []


class MemoryInfo(msgspec.Struct, frozen=True):
    """Resident set sizes; `learner_bytes` is 0 without a learner."""

    node_bytes: int
    learner_bytes: int = 0


class JobsInfo(msgspec.Struct, frozen=True):
    """How many jobs the chain lists, and how many of those this node owns or is enrolled in."""

    open: int
    ended: int
    owned: int
    enrolled: int


class Status(msgspec.Struct, frozen=True):
    """fl_status: one screen about this node.

    `waiting_for` says in words what the node needs before it can go on ("peers: 0 of 3 validators connected", "a
    worker's commit"), `waiting_since_s` for how long; both None when it waits for nothing.
    """

    version: str
    network: str
    chain_id: int
    genesis: Hex
    address: Hex
    peer_id: str
    addresses: list[str]  # multiaddrs that peers may dial
    roles: list[str]
    uptime_s: float
    head: HeadInfo
    finalised_head: HeadInfo
    epoch: int
    view: int
    validators: int
    peers: int
    validators_connected: int  # counts this node if it is one
    pending_transactions: int
    jobs: JobsInfo
    balance_wei: Wei
    learner: LearnerInfo
    memory: MemoryInfo
    waiting_for: str | None = None
    waiting_since_s: float | None = None
    refused: dict[str, int] = msgspec.field(default_factory=dict)  # malformed or invalid input, by kind
    declined: dict[str, str] = msgspec.field(default_factory=dict)  # open jobs that this node will not work on: why


class Terms(msgspec.Struct, frozen=True):
    """What a replicated job promises and demands; the contract checks it again."""

    reward_wei: Wei  # per slot and round
    stake_wei: Wei  # per slot
    slots: Annotated[int, Meta(ge=1, le=SLOTS_MAX)]  # odd
    workers_min: Annotated[int, Meta(ge=1, le=SLOTS_MAX)]
    rounds_max: Annotated[int, Meta(ge=1)]
    attempts_max: Annotated[int, Meta(ge=1, le=ATTEMPTS_MAX)]
    commit_window_s: Annotated[int, Meta(ge=1)]
    reveal_window_s: Annotated[int, Meta(ge=1)]
    last_call_s: Annotated[int, Meta(ge=1)]
    grace_s: Annotated[int, Meta(ge=0)]
    deadline: Annotated[int, Meta(ge=1)]  # Unix time
    auto_finalise: bool = False
    audit_ppm: Annotated[int, Meta(ge=0, le=10**6)] = 0  # probability that a round is audited, in parts per million
    audit_window_s: Annotated[int, Meta(ge=1)] = 600
    audit_fee_wei: Wei = "0"  # per round
    appeal_window_s: Annotated[int, Meta(ge=0)] = 0  # 0: no appeals
    appeal_bond_wei: Wei = "0"


class JobSpec(msgspec.Struct, frozen=True):
    """fl_submitJob: a job before it has a manifest. `seed` decides initial weights and every batch.

    `dataset` is a name that the node knows ("digits" is built in), or the 0x digest or CID of a dataset blob that is
    here or at a connected peer. `weights`, the digest or CID of a state with the same layers, replaces the seed's.
    """

    dataset: str
    model: Model
    batch_size: int
    steps: int  # per round
    learning_rate: float
    momentum: float
    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
    terms: Terms
    goal_accuracy: float | None = None
    weight_decay: float = 0.0
    adam: Adam | None = None
    bits: int = BITS_DEFAULT
    weights: str | None = None


class Submitted(msgspec.Struct, frozen=True):
    """A transaction that this node signed; `final` once its block is finalised, and then what it brought about.

    A transaction that ran and failed is an error of the call, never a `Submitted`.
    """

    transaction: Hex
    final: bool
    job: int | None = None  # posted
    proposal: int | None = None  # made or approved
    epoch: int | None = None  # the new one, if this was the deciding approval of a change of the validators


class JobSummary(msgspec.Struct, frozen=True):
    """fl_jobs: one line about a job."""

    id: int
    kind: str  # "replicated"
    owner: Hex
    state: JobState
    phase: Phase
    round: int  # the open one, else the last; 0 before the first
    attempt: int
    rounds_settled: int
    rounds_max: int
    enrolled: int
    accuracy: float | None  # newest score that this node knows: only its learning server scores
    reward_wei: Wei
    deadline: int
    end_reason: EndReason | None = None


class Slot(msgspec.Struct, frozen=True):
    """One drawn place of the current round attempt."""

    worker: Hex
    state: SlotState
    update_digest: Hex | None = None


class RoundInfo(msgspec.Struct, frozen=True):
    """One round's newest attempt. Times ending in `_seen_at` are this node's clock when the block became final."""

    round: int
    attempt: int
    phase: Phase
    opened_at: int  # the block's timestamp
    slots: int
    commits: int
    reveals: int
    update_digest: Hex | None = None
    votes: int = 0
    settled_number: int | None = None  # the block's number
    settled_at: int | None = None  # the block's timestamp
    settled_seen_at: float | None = None  # None if learnt in catch-up
    accuracy: float | None = None


class WorkerInfo(msgspec.Struct, frozen=True):
    """One worker's account with a job, from finalised logs."""

    address: Hex
    enrolled: bool
    slots_held: int  # round attempts in which it was drawn
    rounds_in_majority: int
    earned_wei: Wei  # rewards credited so far, and those decided but not yet settled
    forfeited_wei: Wei  # likewise
    deposit_wei: Wei  # free deposit
    locked_wei: Wei  # stakes of undecided slots


class JobDetail(msgspec.Struct, frozen=True):
    """fl_job: everything about one job."""

    id: int
    kind: str
    owner: Hex
    manifest: Hex
    terms: Terms
    state: JobState
    phase: Phase
    round: int
    attempt: int
    base: Hex  # digest of the newest model
    rounds_settled: int
    rounds_unclosed: int  # rounds whose books are still open (late reveals, an open round)
    void_rounds: int  # round attempts that ended without a majority
    enrolled: int
    slots: list[Slot]
    workers: list[WorkerInfo]
    rounds: list[RoundInfo]
    accuracy: list[tuple[int, float]]  # (round, accuracy), ascending
    escrow_wei: Wei
    posted_at: int
    goal_accuracy: float | None = None
    goal_reached: bool = False
    end_reason: EndReason | None = None
    phase_deadline_at: int | None = None
    dataset: Hex | None = None  # None while the manifest is not here yet
    waiting_for: str | None = None
    declined: str | None = None  # why this node will not work on it, if it would and has judged it


class JobEvent(msgspec.Struct, frozen=True):
    """One finalised log of a job; `sequence` counts from 1 per job and node, `name` is the contract's event."""

    sequence: int
    name: str
    number: int
    timestamp: int
    round: int = 0
    attempt: int = 0
    worker: Hex | None = None
    detail: dict[str, str] = msgspec.field(default_factory=dict)


class JobEvents(msgspec.Struct, frozen=True):
    """fl_jobEvents: events after the one asked for, at most EVENTS_MAX; pass `next` as the next `after`."""

    events: list[JobEvent]
    next: int


EVENTS_MAX: Final = 500


class Deposit(msgspec.Struct, frozen=True):
    """What this account has standing in one job."""

    job: int
    enrolled: bool
    free_wei: Wei
    locked_wei: Wei


class Account(msgspec.Struct, frozen=True):
    """fl_account: this node's account at the finalised head."""

    address: Hex
    nonce: int
    balance_wei: Wei
    withdrawable_wei: Wei  # owed by the contract: `flnode account withdraw` fetches it
    deposits: list[Deposit]
    pending_transactions: int


class DatasetInfo(msgspec.Struct, frozen=True):
    """fl_dataset, fl_datasets, fl_addDataset: a dataset that this node holds.

    A feature is element * 2**scale; `card` says how a person's numbers became elements, if this node knows.
    """

    digest: Hex
    cid: str
    size: int  # bytes
    element: Literal["uint8", "float32"]
    scale: int
    shape: list[int]  # of one sample
    features: int
    classes: int
    train: int  # samples
    test: int
    name: str | None = None
    built_in: bool = False
    card: Card | None = None


class ModelInfo(msgspec.Struct, frozen=True):
    """fl_model: a settled round's model; its blob and its manifest's are here now, for fl_blobPart.

    `correct` of `total` test samples is what this node's learning server found; None elsewhere.
    """

    job: int
    round: int
    update_digest: Hex
    size: int  # bytes of the state: weights, and the optimiser's velocities
    manifest: Hex
    dataset: Hex
    correct: int | None = None
    total: int | None = None
    dataset_info: DatasetInfo | None = None  # None if the dataset is not here


class BlobPart(msgspec.Struct, frozen=True):
    """fl_blobPart: the `index`-th 256 KiB of a public blob (base64 in JSON), and the size of the whole."""

    size: int
    data: bytes


class Prediction(msgspec.Struct, frozen=True):
    """fl_predict: the class of each sample, as its number."""

    job: int
    round: int
    update_digest: Hex
    classes: list[int]


class Stopping(msgspec.Struct, frozen=True):
    """fl_stop: the node has begun to stop."""

    pid: int
