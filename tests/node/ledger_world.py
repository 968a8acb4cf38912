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
from chain.mempool import Mempool
from chain.store import Store, mark_new
from chain.types import Claim
from node.ledger import Ledger
from tests.chain.chain_kit import NOW, SYSTEM, VALIDATORS, make_network

DELAY_S = 0.01
WORK_S = 0.002
T = TypeVar("T")


class Wire:
    """One ledger's streams; also counts what it refused."""

    def __init__(self, world: World, own: str) -> None:
        self.world, self.own = world, own
        self.dropped: list[str] = []
        self.faults: list[str] = []

    @property
    def validators_connected(self) -> int:
        return sum(self.world.index_of(peer) is not None for peer in self.world.peers_of(self.own))

    def to_validator(self, index: int, kind: str, payload: bytes) -> None:
        self.world.send(self.own, f"validator-{index}", kind, payload)

    def to_validators(self, kind: str, payload: bytes) -> None:
        for peer in self.world.peers_of(self.own):
            if self.world.index_of(peer) is not None:
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

    def drop(self, peer: str, reason: str) -> None:
        self.dropped.append(reason)

    def refuse(self, peer: str, reason: str) -> None:
        self.faults.append(reason)


@dataclass
class Member:
    """A node: its ledger, and what the ledger told it."""

    ledger: Ledger
    wire: Wire
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
        self._queue: list[tuple[float, int, str, str, str, bytes]] = []
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, name: str, new: bool = True) -> Member:
        """Start a node; "validator-N" has that validator's key, which has never voted if it is `new`."""
        index = self.index_of(name)
        if new:
            mark_new(self.root / name)
        store = Store(self.root / name, 1 << 28)
        chain = Chain(store, self.network, replace(SYSTEM, claim_digest=claims.claim_digest))
        wire = Wire(self, name)
        member: Member

        def on_claim(digest: bytes, claim: Claim) -> None:
            member.claims[digest] = claim

        ledger = Ledger(
            chain, store, Mempool(base_fee_wei=chain.network.base_fee_wei), wire, self,
            lambda blocks: member.final.extend(blocks), on_claim, lambda claim: member.refused.append(claim),
            lambda: NOW + self.now, None if index is None else VALIDATORS[index],
        )  # fmt: skip
        member = self.members[name] = Member(ledger, wire)
        ledger.start(self.now)
        for other in self.members:
            if other != name:
                self.connect(name, other)
        return member

    def submit(self, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        """node.workshop.Workshop: done after a moment."""
        result = job()
        heapq.heappush(self._calls, (self.now + WORK_S, next(self._order), lambda: done(result, self.now)))

    def connect(self, a: str, b: str) -> None:
        self.members[a].ledger.peer_connected(b, self.index_of(b), self.now)
        self.members[b].ledger.peer_connected(a, self.index_of(a), self.now)

    @staticmethod
    def index_of(name: str) -> int | None:
        return int(name.removeprefix("validator-")) if name.startswith("validator-") else None

    def peers_of(self, name: str) -> list[str]:
        return [other for other in self.members if other != name]

    def send(self, source: str, target: str, kind: str, payload: bytes) -> None:
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
                heapq.heappop(self._calls)[2]()
            elif message <= tick[0]:
                _, _, source, target, kind, payload = heapq.heappop(self._queue)
                self._deliver(source, self.members[target], kind, payload)
            else:
                self.members[tick[1]].ledger.tick(self.now)
        self.now = end

    def _deliver(self, source: str, target: Member, kind: str, payload: bytes) -> None:
        if kind.startswith("gossip:"):
            target.ledger.receive_gossip(source, kind.removeprefix("gossip:"), payload, self.now)
        else:
            target.ledger.receive(source, self.index_of(source), kind, payload, self.now)
