"""The part of the schema that is about other nodes: peers and validators. node/api/schema.py hands it on."""

from __future__ import annotations

from typing import Literal

import msgspec

Hex = str


class Peer(msgspec.Struct, frozen=True):
    """fl_peers: one connected peer. `account` and `validator`, its index, are set when it proved a validator's key."""

    peer_id: str
    address: str
    direction: Literal["in", "out"]
    connected_s: float
    bytes_in: int
    bytes_out: int
    refused: int = 0  # faults since the node started
    account: Hex | None = None
    validator: int | None = None


class KnownPeer(msgspec.Struct, frozen=True):
    """fl_knownPeers: an entry of the peer book. `met_s` ago a dial of this address led to the peer; None: never."""

    peer_id: str
    address: str
    validator: bool  # it proved a validator's key there
    connected: bool
    met_s: float | None
    told_s: float
    failures: int = 0  # dials in vain since
    retry_in_s: float = 0.0


class ValidatorInfo(msgspec.Struct, frozen=True):
    """One validator of the present epoch; `me` if it is this node, which is then `connected` too."""

    address: Hex
    connected: bool
    me: bool


class Proposal(msgspec.Struct, frozen=True):
    """An open change of the validators. It is made as soon as `needed` of them have approved it."""

    id: int
    subject: Hex
    admit: bool  # else it removes `subject`
    proposer: Hex
    approvals: list[Hex]  # by whom, the proposer's included
    needed: int
    approved: bool  # by this node


class Equivocation(msgspec.Struct, frozen=True):
    """Two votes of one validator and view that no honest one casts both; docs/PROTOCOL.md says what they sign."""

    epoch: int
    view: int
    validator: Hex
    kinds: list[str]  # notarise, finalise or timeout
    digests: list[Hex]  # of blocks; zeros for a timeout
    signatures: list[Hex]


class Validators(msgspec.Struct, frozen=True):
    """fl_validators: who proposes and votes in the present epoch, by index, and the open proposals, oldest first.

    `evidence` is what this node has seen itself: one pair for each validator that lied, and epoch.
    """

    epoch: int
    quorum: int  # votes in a certificate
    validators: list[ValidatorInfo]
    proposals: list[Proposal]
    evidence: list[Equivocation]
