"""Several ledgers over real chains in one process: messages travel by a queue, time is a number."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from chain import claims
from chain.chain import Chain, FinalisedBlock
from chain.genesis import Network
from chain.header import address_of_secret
from chain.mempool import Mempool
from chain.store import Store, mark_new
from chain.types import Claim
from node.ledger import Ledger
from tests.chain.chain_kit import NOW, SYSTEM, VALIDATORS, make_network

DELAY_S = 0.01
WORK_S = 0.002
T = TypeVar("T")


class Wire:
    """One ledger's streams and workshop; also counts what it refused."""

    def __init__(self, world: World, own: str) -> None:
        self.world, self.own = world, own
        self.dropped: list[str] = []
        self.faults: list[str] = []

    @property
    def validators_connected(self) -> int:
        return sum(self.world.index_of(peer, self.own) is not None for peer in self.world.peers_of(self.own))

    def to_validator(self, index: int, kind: str, payload: bytes) -> None:
        for peer in self.world.peers_of(self.own):
            if self.world.index_of(peer, self.own) == index:
                self.world.send(self.own, peer, kind, payload)

    def to_validators(self, kind: str, payload: bytes) -> None:
        for peer in self.world.peers_of(self.own):
            if self.world.index_of(peer, self.own) is not None:
                self.world.send(self.own, peer, kind, payload)

    def to_peer(self, peer: str, kind: str, payload: bytes) -> None:
        self.world.send(self.own, peer, kind, payload)

    def to_all(self, kind: str, payload: bytes) -> None:
        for peer in self.world.peers_of(self.own):
            self.world.send(self.own, peer, kind, payload)

    def gossip(self, topic: str, payload: bytes) -> None:
        assert len(payload) <= 64 * 1024
        for peer in self.world.peers_of(self.own):
            self.world.send(self.own, peer, f"gossip:{topic}", payload)

    def epoch_began(self) -> None: ...

    def submit(self, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        """node.workshop.Workshop: done after a moment, unless the node is gone by then."""
        result = job()
        self.world.call(WORK_S, self, lambda: done(result, self.world.now))

    def drop(self, peer: str, reason: str) -> None:
        self.dropped.append(reason)

    def refuse(self, peer: str, reason: str) -> None:
        self.faults.append(reason)


@dataclass
class Member:
    """A node: its ledger, and what the ledger told it."""

    ledger: Ledger
    wire: Wire
    store: Store
    final: list[FinalisedBlock] = field(default_factory=list)
    claims: dict[bytes, Claim] = field(default_factory=dict)
    refused: list[bytes] = field(default_factory=list)

    @property
    def height(self) -> int:
        return self.ledger.chain.finalised.number


class World:
    def __init__(self, root: Path, network: Network | None = None) -> None:
        self.root, self.network = root, network or make_network()
        self.now = 0.0
        self.members: dict[str, Member] = {}
        self.lost: set[frozenset[str]] = set()  # links that carry nothing
        self.drop: Callable[[str, str, str, bytes], bool] | None = None  # of (source, target, kind, payload)
        self._queue: list[tuple[float, int, str, str, str, bytes]] = []
        self._calls: list[tuple[float, int, Wire, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, name: str, new: bool = True, checkpoint: tuple[int, bytes] | None = None) -> Member:
        """Start a node; "validator-N" has that validator's key, which has never voted if it is `new`."""
        if new:
            mark_new(self.root / name)
        store = Store(self.root / name, 1 << 28)
        chain = Chain(store, self.network, replace(SYSTEM, claim_digest=claims.claim_digest))
        wire = Wire(self, name)
        member: Member

        def on_claim(digest: bytes, claim: Claim) -> None:
            member.claims[digest] = claim

        ledger = Ledger(
            chain, store, Mempool(base_fee_wei=chain.network.base_fee_wei), wire, wire,
            lambda blocks: member.final.extend(blocks), on_claim, lambda claim: member.refused.append(claim),
            lambda: NOW + self.now, self.key_of(name), checkpoint,
        )  # fmt: skip
        member = self.members[name] = Member(ledger, wire, store)
        ledger.start(self.now)
        for other in self.members:
            if other != name:
                self.connect(name, other)
        return member

    def stop(self, name: str) -> None:
        """The node is gone, its disk stays."""
        member = self.members.pop(name)
        member.store.close()
        for other in self.members.values():
            other.ledger.peer_lost(name, self.now)

    def call(self, after_s: float, owner: Wire, call: Callable[[], None]) -> None:
        heapq.heappush(self._calls, (self.now + after_s, next(self._order), owner, call))

    def connect(self, a: str, b: str) -> None:
        self.members[a].ledger.peer_connected(b, self.index_of(b, a), self.now)
        self.members[b].ledger.peer_connected(a, self.index_of(a, b), self.now)

    @staticmethod
    def key_of(name: str) -> bytes | None:
        return VALIDATORS[int(name.removeprefix("validator-"))] if name.startswith("validator-") else None

    def index_of(self, name: str, to: str) -> int | None:
        """A member's place among the validators, as far as another member knows."""
        key, validators = self.key_of(name), self.members[to].ledger.chain.epochs.present.validators
        address = None if key is None else address_of_secret(key)
        return validators.index(address) if address in validators else None

    def peers_of(self, name: str) -> list[str]:
        return [other for other in self.members if other != name]

    def send(self, source: str, target: str, kind: str, payload: bytes) -> None:
        if self.drop is not None and self.drop(source, target, kind, payload):
            return
        if target in self.members and frozenset((source, target)) not in self.lost:
            heapq.heappush(self._queue, (self.now + DELAY_S, next(self._order), source, target, kind, payload))

    def run(self, seconds: float) -> None:
        """Let time pass: deliver messages and call what is due, in order of time."""
        end = self.now + seconds
        while True:
            ticks = [(m.ledger.deadline, name) for name, m in self.members.items() if m.ledger.deadline is not None]
            tick = min(ticks, default=(float("inf"), ""))
            message = self._queue[0][0] if self._queue else float("inf")
            call = self._calls[0][0] if self._calls else float("inf")
            if min(tick[0], message, call) > end:
                break
            self.now = max(self.now, min(tick[0], message, call))
            if call <= min(message, tick[0]):
                _, _, owner, done = heapq.heappop(self._calls)
                if self.members.get(owner.own) is not None and self.members[owner.own].wire is owner:
                    done()
            elif message <= tick[0]:
                _, _, source, target, kind, payload = heapq.heappop(self._queue)
                self._deliver(source, target, kind, payload)
            else:
                self.members[tick[1]].ledger.tick(self.now)
        self.now = end

    def _deliver(self, source: str, target: str, kind: str, payload: bytes) -> None:
        if target not in self.members:
            return
        ledger = self.members[target].ledger
        if kind.startswith("gossip:"):
            ledger.receive_gossip(source, kind.removeprefix("gossip:"), payload, self.now)
        else:
            ledger.receive(source, self.index_of(source, target), kind, payload, self.now)
