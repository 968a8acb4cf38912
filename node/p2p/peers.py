"""Who is dialled, when again, and how many faults a peer may commit. Pure: time and jitter are arguments."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

_HOST_KINDS = ("ip4", "ip6", "dns", "dns4", "dns6")
_PEERS_REMEMBERED_MAX = 10_000
SHORT_SESSION_S = 2.0


@dataclass(frozen=True, slots=True)
class Address:
    """A dialable TCP multiaddr: /ip4|ip6|dns|dns4|dns6/HOST/tcp/PORT[/p2p/PEER]."""

    kind: str
    host: str
    port: int
    peer: str | None = None

    def __str__(self) -> str:
        suffix = "" if self.peer is None else f"/p2p/{self.peer}"
        return f"/{self.kind}/{self.host}/tcp/{self.port}{suffix}"


def parse_address(text: str) -> Address:
    """Parse a TCP multiaddr.

    Raises:
        ValueError: names the part that is wrong.
    """
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[0] or parts[1] not in _HOST_KINDS or parts[3] != "tcp" or not parts[2]:
        raise ValueError(f"not a TCP multiaddr: {text!r} (expected /ip4/HOST/tcp/PORT/p2p/PEER)")
    if not parts[4].isdecimal() or int(parts[4]) > 65535:
        raise ValueError(f"port {parts[4]!r} in {text!r} is not 0..65535")
    if len(parts) == 7 and (parts[5] != "p2p" or not parts[6].isalnum()):
        raise ValueError(f"expected /p2p/PEER at the end of {text!r}")
    return Address(parts[1], parts[2], int(parts[4]), parts[6] if len(parts) == 7 else None)


def socket_address(host: str, port: int) -> Address:
    """The multiaddr of a socket's end; an IPv4-mapped IPv6 host is shown as IPv4."""
    host = host.removeprefix("::ffff:") if "." in host else host
    return Address("ip6" if ":" in host else "ip4", host, port)


def redial_delay_s(failures: int, jitter: float, delay_min_s: float, delay_max_s: float) -> float:
    """Seconds to wait before dial number `failures` + 1: doubles from the minimum to the maximum, times 0.5..1.

    Args:
        failures: dials in a row that failed, >= 1.
        jitter: uniform in [0, 1); spreads nodes that lost the same peer at once.
    """
    delay = min(delay_max_s, delay_min_s * 2.0 ** min(failures - 1, 32))
    return delay * (0.5 + 0.5 * jitter)


@dataclass(slots=True)
class Redial:
    """The pauses between dials of an address that is kept.

    Nobody there may be a peer that restarts, so these pauses stay short. Whoever is there but not of our network, or
    throws us out as soon as we are in, will not change soon.
    """

    min_s: float
    max_s: float
    foreign_max_s: float
    _failures: int = 0
    _rejections: int = 0

    def pause_s(self, session_s: float | None, foreign: bool, jitter: float) -> float:
        """Seconds to wait after a dial has ended.

        Args:
            session_s: how long the session lasted; None if it came to none.
            foreign: this node turned the peer away.
        """
        if foreign:
            self._rejections, self._failures = 32, 0
        elif session_s is None:
            self._failures += 1
            return redial_delay_s(self._failures, jitter, self.min_s, self.max_s)
        elif session_s < SHORT_SESSION_S:
            self._rejections, self._failures = self._rejections + 1, 0
        else:
            self._rejections = self._failures = 0
        return redial_delay_s(max(self._rejections, 1), jitter, self.min_s, self.foreign_max_s)


@dataclass(slots=True)
class TokenBucket:
    """Admits `rate` items a second on average, `burst` at once."""

    rate: float
    burst: float
    _tokens: float = -1.0
    _at: float = 0.0

    def take(self, now: float, cost: float = 1.0) -> bool:
        if self._tokens < 0:
            self._tokens, self._at = self.burst, now
        self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
        self._at = now
        if self._tokens < cost:
            return False
        self._tokens -= cost
        return True


@dataclass(slots=True)
class PeerBook:
    """Faults and bans by peer id; remembers the most recent 10,000 peers."""

    refusals_max: int  # faults within one ban period that get a peer banned
    ban_s: float
    _records: OrderedDict[str, _Record] = field(default_factory=OrderedDict)

    def refuse(self, peer: str, now: float) -> bool:
        """Count one fault; True when it makes the peer banned."""
        record = self._records.setdefault(peer, _Record())
        self._records.move_to_end(peer)
        while len(self._records) > _PEERS_REMEMBERED_MAX:
            self._records.popitem(last=False)
        if now - record.since >= self.ban_s:
            record.since, record.recent = now, 0
        record.total += 1
        record.recent += 1
        if record.recent < self.refusals_max:
            return False
        record.banned_until = now + self.ban_s
        record.recent = 0
        return True

    def refused(self, peer: str) -> int:
        record = self._records.get(peer)
        return record.total if record else 0

    def banned(self, peer: str, now: float) -> bool:
        record = self._records.get(peer)
        return record is not None and now < record.banned_until


@dataclass(slots=True)
class _Record:
    total: int = 0
    recent: int = 0
    since: float = float("-inf")
    banned_until: float = float("-inf")


@dataclass(slots=True)
class Admission:
    """Counts connections that strangers opened, in all and per address; one is admitted before its handshake."""

    inbound_max: int
    per_address_max: int
    _by_host: dict[str, int] = field(default_factory=dict)

    def admit(self, host: str) -> str | None:
        """None and counted, or the reason why not. Whoever is admitted must `leave`."""
        if sum(self._by_host.values()) >= self.inbound_max:
            return "too many inbound connections"
        if self._by_host.get(host, 0) >= self.per_address_max:
            return "too many connections from this address"
        self._by_host[host] = self._by_host.get(host, 0) + 1
        return None

    def leave(self, host: str) -> None:
        left = self._by_host[host] - 1
        if left:
            self._by_host[host] = left
        else:
            del self._by_host[host]
