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
from chain.system import System
from chain.types import Claim
from node.ledger import Ledger
from tests.chain.chain_kit import NOW, SYSTEM, VALIDATORS, make_network

DELAY_S = 0.01
WORK_S = 0.002
ADDRESS_OF = {f"validator-{index}": address_of_secret(key) for index, key in enumerate(VALIDATORS)}
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
        self.world.work(self, job, done)

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
    """No faults but those that a test asks for; tests/sim/world.py is this world with all of them."""

    def __init__(self, root: Path, network: Network | None = None, system: System | None = None) -> None:
        self.root, self.network = root, network or make_network()
        self.system = system or replace(SYSTEM, claim_digest=claims.claim_digest)
        self.now = 0.0
        self.members: dict[str, Member] = {}
        self.lost: set[frozenset[str]] = set()  # links that carry nothing
        self.drop: Callable[[str, str, str, bytes], bool] | None = None  # of (source, target, kind, payload)
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()

    def add(self, name: str, new: bool = True, checkpoint: tuple[int, bytes] | None = None) -> Member:
        """Start a node; "validator-N" has that validator's key, which has never voted if it is `new`."""
        member = self.boot(name, new, checkpoint)
        for other in self.members:
            if other != name:
                self.connect(name, other)
        return member

    def boot(self, name: str, new: bool, checkpoint: tuple[int, bytes] | None = None) -> Member:
        if new:
            mark_new(self.root / name)
        store = self.open_store(name)
        try:
            chain = Chain(store, self.network, self.system)
            wire = self.make_wire(name)
            ledger = Ledger(
                chain, store, Mempool(base_fee_wei=chain.network.base_fee_wei), wire, wire,
                lambda blocks: self.became_final(member, blocks),
                lambda digest, claim: self.claim_found(member, digest, claim),
                lambda claim: self.claim_refused(member, claim),
                lambda: self.wall_clock(name), self.key_of(name), checkpoint,
            )  # fmt: skip
        except BaseException:
            store.close()
            raise
        member = self.members[name] = Member(ledger, wire, store)
        ledger.start(self.now)
        return member

    def stop(self, name: str) -> None:
        """The node is gone, its disk stays."""
        member = self.members.pop(name)
        member.store.close()
        for other in self.members.values():
            other.ledger.peer_lost(name, self.now)

    # ---- what a world with faults does otherwise --------------------------------------------------------------------
    def open_store(self, name: str) -> Store:
        return Store(self.root / name, 1 << 28)

    def make_wire(self, name: str) -> Wire:
        return Wire(self, name)

    def wall_clock(self, name: str) -> float:
        return NOW + self.now

    def became_final(self, member: Member, blocks: list[FinalisedBlock]) -> None:
        member.final.extend(blocks)

    def claim_found(self, member: Member, digest: bytes, claim: Claim) -> None:
        member.claims[digest] = claim

    def claim_refused(self, member: Member, claim: bytes) -> None:
        member.refused.append(claim)

    def do(self, name: str, call: Callable[[], None]) -> None:
        """Whatever a node does is done by this."""
        call()

    def work(self, owner: Wire, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        result = job()
        self.call(WORK_S, owner, lambda: done(result, self.now))

    def send(self, source: str, target: str, kind: str, payload: bytes) -> None:
        if self.drop is not None and self.drop(source, target, kind, payload):
            return
        if target in self.members and frozenset((source, target)) not in self.lost:
            self.at(self.now + DELAY_S, lambda: self.deliver(source, target, kind, payload))

    # ---- who is who -------------------------------------------------------------------------------------------------
    def connect(self, a: str, b: str) -> None:
        self.members[a].ledger.peer_connected(b, self.index_of(b, a), self.now)
        self.members[b].ledger.peer_connected(a, self.index_of(a, b), self.now)

    @staticmethod
    def key_of(name: str) -> bytes | None:
        return VALIDATORS[int(name.removeprefix("validator-"))] if name.startswith("validator-") else None

    def index_of(self, name: str, to: str) -> int | None:
        """A member's place among the validators, as far as another member knows."""
        validators = self.members[to].ledger.chain.epochs.present.validators
        address = None if self.key_of(name) is None else ADDRESS_OF[name]
        return validators.index(address) if address in validators else None

    def peers_of(self, name: str) -> list[str]:
        return [other for other in self.members if other != name]

    # ---- time -------------------------------------------------------------------------------------------------------
    def at(self, time: float, call: Callable[[], None]) -> None:
        heapq.heappush(self._queue, (max(time, self.now), next(self._order), call))

    def call(self, after_s: float, owner: Wire, call: Callable[[], None]) -> None:
        """Do something of a node's later, unless that node, in this life, is gone by then."""
        self.at(self.now + after_s, lambda: self.do(owner.own, call) if self.is_alive(owner) else None)

    def is_alive(self, owner: Wire) -> bool:
        return owner.own in self.members and self.members[owner.own].wire is owner

    def next_tick(self) -> tuple[float, str]:
        """When a ledger has something due, and whose."""
        ticks = [(m.ledger.deadline, name) for name, m in self.members.items() if m.ledger.deadline is not None]
        return min(ticks, default=(float("inf"), ""))

    def run(self, seconds: float) -> None:
        """Let time pass: deliver messages and call what is due, in order of time."""
        end = self.now + seconds
        while self.step(end):
            pass

    def step(self, end: float) -> bool:
        """Do the next thing before `end`, if there is one."""
        tick, name = self.next_tick()
        call = self._queue[0][0] if self._queue else float("inf")
        if min(tick, call) > end:
            self.now = end
            return False
        self.now = max(self.now, min(tick, call))
        if call <= tick:
            heapq.heappop(self._queue)[2]()
        else:
            self.do(name, lambda: self.members[name].ledger.tick(self.now))
        return True

    def deliver(self, source: str, target: str, kind: str, payload: bytes) -> None:
        if target not in self.members:
            return
        ledger = self.members[target].ledger
        if kind.startswith("gossip:"):
            ledger.receive_gossip(source, kind.removeprefix("gossip:"), payload, self.now)
        else:
            ledger.receive(source, self.index_of(source, target), kind, payload, self.now)
