"""What gossip may cost, and which of a peer's gossip is worth the router's time. Pure.

Gossipsub 1.1, https://github.com/libp2p/specs/tree/master/pubsub/gossipsub, strictly signed. A message costs each node
4-6 ms of CPU, so whatever can be refused is refused before a signature is checked.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from node.p2p.peers import TokenBucket

PROTOCOLS: Final = ("/meshsub/1.1.0",)
HEARTBEAT_S: Final = 1
DEGREE, DEGREE_MIN, DEGREE_MAX = 6, 4, 12  # mesh peers per topic
SEND_QUEUE_MAX: Final = 1024  # messages waiting for one peer (the library's 32 drop at the first burst)
RPC_BYTES_MAX: Final = 1024 * 1024 + 4096  # a peer may pack several messages into one RPC
TOPIC_CHARS_MAX: Final = 128
SUBSCRIPTIONS_PER_RPC_MAX: Final = 64
MESSAGES_PER_RPC_MAX: Final = 256
MESSAGE_IDS_MAX: Final = 1024  # per control message
SEEN_S: Final = 120.0
SEEN_MAX: Final = 50_000
_SENDER_MAX, _SEQUENCE_MAX = 64, 16

# Looks at a payload before it is passed on, once for each message. Returns: it is relayed. Raises PeerFault: it is
# dropped and counted against whoever handed it to us. Raises NotRelayed: it is delivered, and goes no further.
Check = Callable[[bytes], None]


def relay_all(_payload: bytes) -> None:
    """The check of a topic that has none."""


@dataclass(slots=True)
class Seen:
    """Message ids of the last 120 s, at most 50,000; the oldest go first."""

    _ids: OrderedDict[bytes, float] = field(default_factory=OrderedDict)

    def has(self, message_id: bytes) -> bool:
        return message_id in self._ids

    def add(self, message_id: bytes, now: float) -> None:
        self._ids[message_id] = now
        while self._ids and (len(self._ids) > SEEN_MAX or next(iter(self._ids.values())) < now - SEEN_S):
            self._ids.popitem(last=False)


@dataclass(slots=True)
class Intake:
    """Judges one peer's gossip.

    Args:
        payload_max: bytes of one message's payload.
        per_s_max: messages a second; twice as many may come at once.
    """

    payload_max: int
    per_s_max: float
    _bucket: TokenBucket = field(init=False)

    def __post_init__(self) -> None:
        self._bucket = TokenBucket(self.per_s_max, 2 * self.per_s_max)

    def refusal(self, sender: bytes, sequence: bytes, topics: int, payload: int, now: float) -> str | None:
        """Why a message is not looked at, or None."""
        if not self._bucket.take(now):
            return "gossips too fast"
        if payload > self.payload_max:
            return f"gossip of {payload} bytes, the limit is {self.payload_max}"
        if topics != 1:
            return f"gossip on {topics} topics"
        if not 0 < len(sender) <= _SENDER_MAX or not 0 < len(sequence) <= _SEQUENCE_MAX:
            return "gossip without a proper sender"
        return None
