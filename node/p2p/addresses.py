"""The peer book: where peers can be dialled again, over restarts. Pure: time and jitter are arguments.

Two tables, so that what is merely said never pushes out what is known:

    proven    a dial to this address led to this peer, and it was of our network
    told      a peer of our network said that this is where *it* can be dialled (nobody speaks for others)

                    told ──── dialled, of our network ────► proven
      TRIES_MAX dials in vain │                                │ FAILURES_MAX dials in vain, and not seen for FORGET_S
                              ▼                                ▼
                          forgotten                        forgotten

A dial in vain is repeated after a pause that doubles; it stays short for validators, and for a node without any peer.
Who told much gives way to who told little: each table has a bound, the told one also for each host that they come from,
the proven one for each host that they lead to; within it validators, who proved a key, stay longest.
"""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import msgspec

from node.p2p.peers import Address, parse_address, redial_delay_s

TRIES_MAX: Final = 3  # of an address that is only told
FAILURES_MAX: Final = 10  # in a row, of a proven one
FORGET_S: Final = 14 * 86_400.0
PER_PEER_MAX: Final = 4
PER_HOST_MAX: Final = 32
REDIAL_MIN_S: Final = 1.0
EAGER_REDIAL_MAX_S: Final = 5.0
FILE_VERSION: Final = 1


class InvalidBook(Exception):
    """A file is not a peer book of this version."""


@dataclass(frozen=True, slots=True)
class Known:
    """One peer at one address. Times are unix seconds."""

    peer: str
    address: Address  # without peer
    source: str  # the host from which it was told; its own if it was dialled first
    told_at: float
    proven_at: float | None = None  # when it was last connected there
    validator: bool = False
    failures: int = 0  # dials in vain since
    failed_at: float = 0.0  # the last of them
    pause_s: float = 0.0  # after it

    def retry_at(self, lonely: bool) -> float:
        """When to dial again: soon, if it is a validator that was met, or whoever was and this node is lonely."""
        eager = self.proven_at is not None and (lonely or self.validator)
        return self.failed_at + (min(self.pause_s, EAGER_REDIAL_MAX_S) if eager else self.pause_s)

    @property
    def key(self) -> tuple[str, Address]:
        return self.peer, self.address

    @property
    def dial(self) -> Address:
        return replace(self.address, peer=self.peer)


class _Line(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Known as it stands in the file."""

    address: str  # with /p2p/PEER
    source: str
    told_at: float
    proven_at: float | None = None
    validator: bool = False
    failures: int = 0


class _File(msgspec.Struct, frozen=True):
    version: int
    known: list[_Line]


@dataclass(slots=True)
class AddressBook:
    """
    Args:
        table_max: addresses in each table.
        redial_max_s: the longest pause between dials of one address.
    """

    table_max: int
    redial_max_s: float
    _known: dict[tuple[str, Address], Known] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._known)

    def all(self) -> tuple[Known, ...]:
        """Proven ones first, then those seen or told of last."""
        return tuple(sorted(self._known.values(), key=lambda each: (each.proven_at is None, -_latest(each))))

    # ---- what happens ---------------------------------------------------------------------------------------------
    def tell(self, peer: str, addresses: Sequence[Address], source: str, now: float) -> None:
        """A peer of our network, connected from `source`, says where it can be dialled."""
        for address in [replace(each, peer=None) for each in addresses][:PER_PEER_MAX]:
            known = self._known.get((peer, address))
            if known is not None:
                if known.proven_at is None:
                    self._known[known.key] = replace(known, told_at=now)
            elif is_plausible(address, source):
                self._make_room(
                    Known(peer, address, source, now),
                    told=True, own=lambda each: each.source == source, own_max=PER_HOST_MAX,
                )  # fmt: skip

    def prove(self, peer: str, address: Address, validator: bool, now: float) -> None:
        """A dial of this address led to this peer, which is of our network."""
        address = replace(address, peer=None)
        old = self._known.pop((peer, address), None)
        source = address.host if old is None else old.source
        known = Known(peer, address, source, now if old is None else old.told_at, now, validator)
        self._make_room(known, told=False, own=lambda each: each.address.host == address.host, own_max=PER_HOST_MAX)

    def fail(self, peer: str, address: Address, jitter: float, now: float) -> None:
        """A dial was in vain: nobody there, somebody else, or not of our network."""
        known = self._known.get((peer, replace(address, peer=None)))
        if known is None:
            return
        failures = known.failures + 1
        if failures >= TRIES_MAX if known.proven_at is None else failures >= FAILURES_MAX and _is_old(known, now):
            del self._known[known.key]
            return
        pause_s = redial_delay_s(failures, jitter, REDIAL_MIN_S, self.redial_max_s)
        self._known[known.key] = replace(known, failures=failures, failed_at=now, pause_s=pause_s)

    # ---- whom to dial -----------------------------------------------------------------------------------------------
    def due(self, busy: Collection[str], kept: Collection[Address], count: int, now: float) -> list[Known]:
        """Whom to dial now, the most promising first, one address of a peer at a time.

        Args:
            busy: peers that are connected or being dialled; with none the node is lonely.
            kept: addresses that somebody else keeps dialling.
        """
        found: dict[str, Known] = {}
        for known in sorted(self._dialable(busy, kept), key=_promise):
            # A clock that was set back must not make a pause longer than pauses are.
            if known.retry_at(not busy) <= now or known.failed_at > now:
                found.setdefault(known.peer, known)
        return list(found.values())[: max(count, 0)]

    def next_at(self, busy: Collection[str], kept: Collection[Address]) -> float | None:
        """When `due` will name somebody, if nothing else happens."""
        return min((known.retry_at(not busy) for known in self._dialable(busy, kept)), default=None)

    def _dialable(self, busy: Collection[str], kept: Collection[Address]) -> Iterable[Known]:
        return (each for each in self._known.values() if each.peer not in busy and each.address not in kept)

    # ---- bounds -----------------------------------------------------------------------------------------------------
    def _make_room(self, newcomer: Known, told: bool, own: Callable[[Known], bool], own_max: int) -> None:
        """Add an entry to its table; whoever has to go for it is of its own kind first.

        Args:
            own: whether an entry counts against the same share as the newcomer.
        """
        table = [each for each in self._known.values() if (each.proven_at is None) == told]
        same_peer = [each for each in table if each.peer == newcomer.peer]
        same_share = [each for each in table if own(each)]
        if len(same_peer) >= PER_PEER_MAX:
            self._forget_worst(same_peer)
        elif len(same_share) >= own_max:
            self._forget_worst(same_share)
        elif len(table) >= self.table_max:
            self._forget_worst(table, Counter(_share(each, told) for each in table))
        self._known[newcomer.key] = newcomer

    def _forget_worst(self, entries: Iterable[Known], shares: Counter[str] | None = None) -> None:
        def merit(each: Known) -> tuple[bool, int, int, float]:
            share = 0 if shares is None else shares[_share(each, each.proven_at is None)]
            return each.validator, -share, -each.failures, _latest(each)

        worst = min(entries, key=merit)
        del self._known[worst.key]

    # ---- the file ---------------------------------------------------------------------------------------------------
    def encode(self) -> bytes:
        lines = [
            _Line(str(each.dial), each.source, each.told_at, each.proven_at, each.validator, each.failures)
            for each in self.all()
        ]
        return msgspec.json.format(msgspec.json.encode(_File(FILE_VERSION, lines)))

    def load(self, text: bytes) -> None:
        """Take in what `encode` gave; pauses begin anew. Raises InvalidBook, and is as it was then."""
        try:
            file = msgspec.json.decode(text, type=_File)
            if file.version != FILE_VERSION:
                raise InvalidBook(f"it has version {file.version}, this is version {FILE_VERSION}")
            loaded = [_known(line) for line in file.known]
        except (msgspec.MsgspecError, UnicodeDecodeError, ValueError) as error:
            raise InvalidBook(str(error)) from None
        for told in (False, True):
            table = [each for each in loaded if (each.proven_at is None) == told]
            self._known |= {each.key: each for each in table[: self.table_max]}


def is_plausible(address: Address, source: str) -> bool:
    """Whether somebody who connected from `source` may be dialled at `address`.

    Names are not resolved on a stranger's word, and nobody outside sends us to this machine or into our own network.
    """
    try:
        host, origin = ipaddress.ip_address(address.host), ipaddress.ip_address(source)
    except ValueError:
        return False
    if host.is_unspecified or host.is_multicast or not address.port:
        return False
    if host.is_loopback:
        return origin.is_loopback
    return host.is_global or not origin.is_global


def _known(line: _Line) -> Known:
    address = parse_address(line.address)
    if address.peer is None:
        raise InvalidBook(f"{line.address} names no peer")
    bare = replace(address, peer=None)
    return Known(address.peer, bare, line.source, line.told_at, line.proven_at, line.validator, line.failures)


def _share(each: Known, told: bool) -> str:
    return each.source if told else each.address.host


def _latest(each: Known) -> float:
    return each.told_at if each.proven_at is None else each.proven_at


def _is_old(known: Known, now: float) -> bool:
    return known.proven_at is not None and now - known.proven_at > FORGET_S


def _promise(each: Known) -> tuple[bool, int, bool, float]:
    return each.proven_at is None, each.failures, not each.validator, -_latest(each)
