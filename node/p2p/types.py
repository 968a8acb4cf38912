"""What the p2p layer tells the rest of the node: events, facts about peers, errors. Imports no network library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Direction = Literal["inbound", "outbound"]
INBOUND: Final[Direction] = "inbound"
OUTBOUND: Final[Direction] = "outbound"


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A peer's hello has arrived and ours has been sent: from now on messages flow both ways."""

    peer: str  # libp2p peer id, base58 ("12D3Koo..."): proven by the Noise handshake
    hello: bytes  # what the peer said first; opaque here
    address: str  # multiaddr of the other end, without /p2p/
    direction: Direction


@dataclass(frozen=True, slots=True)
class PeerLost:
    """A peer that was connected is gone; always preceded by its PeerConnected."""

    peer: str
    reason: str


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """One message of a peer's persistent stream, in the order in which it was sent."""

    peer: str
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class GossipReceived:
    """A gossip message, signature checked; never one of our own, never the same one twice."""

    peer: str  # who handed it to us
    topic: str
    payload: bytes
    origin: str  # who published and signed it


Event = PeerConnected | PeerLost | MessageReceived | GossipReceived


@dataclass(frozen=True, slots=True)
class PeerInfo:
    """A connected peer, as shown to operators."""

    peer: str
    address: str
    direction: Direction
    connected_since_s: float  # seconds this session has lasted
    bytes_in: int
    bytes_out: int
    refused: int  # faults counted against this peer id since the node started
    queued_bytes: int  # waiting to be sent


class P2PError(Exception):
    """Base of every fault that the p2p layer reports."""


@dataclass(eq=False)
class ListenFailed(P2PError):
    """The listen address cannot be had: local environment."""

    address: str
    reason: str

    def __str__(self) -> str:
        return f"p2p: cannot listen on {self.address}: {self.reason}"


@dataclass(eq=False)
class PeerFault(P2PError):
    """The other end broke a rule of a protocol; it is refused and counted."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class NotRelayed(P2PError):
    """Gossip that is taken in here and goes no further; nobody need be at fault."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class ConnectionEnded(P2PError):
    """A connection or stream is gone; nobody need be at fault."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(eq=False)
class RequestFailed(P2PError):
    """A request to a peer got no answer that can be used."""

    peer: str
    protocol: str
    reason: str
    at_fault: bool = False  # the peer broke a rule, which has been counted

    def __str__(self) -> str:
        return f"request {self.protocol} to {self.peer[-8:]}: {self.reason}"


@dataclass(eq=False)
class MessageTooLarge(P2PError):
    """The caller's own message exceeds a limit: nothing was sent."""

    size: int
    size_max: int

    def __str__(self) -> str:
        return f"p2p: message of {self.size} bytes, the limit is {self.size_max}"
