"""The whole network in one process: real ledgers over real chains and disks, and everything that can go wrong.

Time, order and chance come from one seed, so a seed is a run. See tests/sim/run.py for what is run and checked.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from chain import messages
from chain.chain import FinalisedBlock
from chain.genesis import Joining
from chain.store import Store
from chain.system import genesis_system
from chain.types import Claim
from node import wire
from tests.chain.chain_kit import ADDRESSES, NOW, RICH, make_network
from tests.node.ledger_world import ADDRESS_OF, Member, Wire, World
from tests.sim.byzantine import Liar
from tests.sim.checks import Referee, Violation
from tests.sim.disk import Crashed, CrashingStore
from tests.sim.network import Streams
from tests.sim.scenario import Scenario

T = TypeVar("T")
LATE = "late"  # joins after everything
DOWN_S = (0.05, 1.5)
WORK_S = (0.001, 0.01)
FEES = 10**10  # what a newcomer has: a hundred calls, and no deposit
WRONG_S = 60.0  # how far a wrong clock is off; the bound is 15


class Trace:
    """Every event of a run, as a digest and, if asked, as lines to read."""

    def __init__(self, tell: Callable[[str], None] | None = None) -> None:
        self._hash, self._tell = hashlib.sha256(), tell

    def note(self, now: float, *words: object) -> None:
        line = f"{now:10.6f} {' '.join(map(str, words))}"
        self._hash.update(line.encode())
        if self._tell is not None:
            self._tell(line)

    @property
    def verbose(self) -> bool:
        return self._tell is not None

    def digest(self) -> str:
        return self._hash.hexdigest()


class SimWire(Wire):
    """What an honest node says is looked at before it leaves."""

    world: SimWorld

    def _say(self, kind: str, payload: bytes) -> None:
        if kind == wire.CONSENSUS and self.own not in self.world.liars:
            self.world.referee.said(self.own, messages.decode(payload))

    def to_validator(self, index: int, kind: str, payload: bytes) -> None:
        self._say(kind, payload)
        super().to_validator(index, kind, payload)

    def to_validators(self, kind: str, payload: bytes) -> None:
        self._say(kind, payload)
        super().to_validators(kind, payload)

    def gossip(self, topic: str, payload: bytes) -> None:
        for peer in self.world.up():
            if peer != self.own:
                self.world.send(self.own, peer, f"gossip:{topic}", payload)

    def drop(self, peer: str, reason: str) -> None:
        self.world.dropped(self.own, peer, reason)

    def refuse(self, peer: str, reason: str) -> None:
        self.world.refused(self.own, peer, reason)


class SimWorld(World):
    """
    Attributes:
        names: all nodes, up or down.
        crashes, fuse: how many there were; counts down to the write to die at, if set.
        on_claim, on_refused, on_final: what the actors of this run do about it.
    """

    def __init__(self, root: Path, seed: int, scenario: Scenario, trace: Trace | None = None) -> None:
        balances = dict.fromkeys([*ADDRESSES, *ADDRESS_OF.values()], RICH)
        balances |= dict.fromkeys(ADDRESSES[1 : 1 + scenario.newcomers], FEES)
        network = make_network(
            scenario.validators, quorum=scenario.ratio, balances=balances, joining=Joining(sponsors=True)
        )
        super().__init__(root, network, genesis_system() if scenario.jobs else None)
        self.scenario, self.trace = scenario, trace or Trace()
        self.rng = random.Random(f"world {seed}")
        self.issued = sum(balances.values())
        self.names: list[str] = []
        validators = [f"validator-{index}" for index in range(scenario.validators)]
        liars = self.rng.sample(validators, scenario.byzantine)
        self.liars = {name: Liar(name, self, random.Random(f"{name} {seed}")) for name in sorted(liars)}
        self.referee = Referee(self, scenario, frozenset(liars))
        self.streams = Streams(self, scenario, self.rng)
        self.offsets: dict[str, float] = {}
        self.wiped: set[str] = set()
        self.crashes = self.writes = self.refusals = 0
        self.fuses: dict[str, int] = {}  # the write of a node before which, or after which, it dies
        self.genesis_digest = b""
        self.on_claim: Callable[[str, bytes, Claim], None] = lambda _name, _digest, _claim: None
        self.on_refused: Callable[[str, bytes], None] = lambda _name, _claim: None
        self.on_final: Callable[[str, list[FinalisedBlock]], None] = lambda _name, _blocks: None
        self.on_boot: Callable[[str], None] = lambda _name: None
        self.on_wiped: Callable[[str], None] = lambda _name: None
        self._ticks: dict[str, float] = {}
        self._doing: str | None = None

    # ---- nodes ------------------------------------------------------------------------------------------------------
    @property
    def honest(self) -> list[str]:
        return [name for name in self.names if name not in self.liars]

    @property
    def calm(self) -> bool:
        return self.streams.calm

    def up(self) -> list[str]:
        return list(self.members)

    def start(self, name: str) -> None:
        """A node's life begins: the first one, or another on what its disk holds."""
        if name in self.members:
            return
        if name not in self.names:
            self.names.append(name)
            self.offsets[name] = self.rng.uniform(-self.scenario.skew_s, self.scenario.skew_s)
        self.trace.note(self.now, name, "boots")
        self.do(name, lambda: self._boot(name))

    def _boot(self, name: str) -> None:
        new = not (self.root / name).exists() and name not in self.wiped
        member = self.boot(name, new)
        self.genesis_digest = member.ledger.chain.genesis_digest
        if name not in self.liars:
            self.referee.booted(name, member)
        self.streams.booted(name)
        self.on_boot(name)

    def kill(self, name: str) -> None:
        """Its life ends at once. Its disk stays, or is lost."""
        self.crashes += 1
        self.trace.note(self.now, name, "dies")
        self._ticks.pop(name, None)
        member = self.members.pop(name, None)
        if member is not None:
            member.store.close()
        self.streams.died(name)
        if self._may_wipe(name):
            self.trace.note(self.now, name, "loses its disk")
            shutil.rmtree(self.root / name)
            self.wiped.add(name)
            self.referee.lost_disk(name)
            self.on_wiped(name)
        self.at(self.now + self.rng.uniform(*DOWN_S), lambda: self.start(name))

    def _may_wipe(self, name: str) -> bool:
        """Once, a validator's, and not before the first block: until then a wiped disk looks like a new one."""
        possible = self.scenario.wipes and not self.wiped and not self.calm and self.referee.height > 0
        return possible and name in ADDRESS_OF and self.rng.random() < 0.4

    def do(self, name: str, call: Callable[[], None]) -> None:
        before, self._doing = self._doing, name
        try:
            call()
        except Crashed:
            self.kill(name)
        except Violation:
            raise
        except Exception as error:
            if name not in self.liars:
                raise Violation(f"{name}: {type(error).__name__}: {error}") from error
            self.kill(name)  # it lied itself into a contradiction
        finally:
            self._doing = before
        if name in self.members:
            deadline = self.members[name].ledger.deadline
            self._ticks[name] = float("inf") if deadline is None else deadline

    def next_tick(self) -> tuple[float, str]:
        if not self._ticks:
            return float("inf"), ""
        name = min(self._ticks, key=self._ticks.__getitem__)
        return self._ticks[name], name

    def _fuse(self, name: str) -> None:
        """Called before and after each write."""
        self.writes += 1
        if name in self.fuses:
            self.fuses[name] -= 1
            if self.fuses[name] == 0:
                raise Crashed
        if not self.calm and self.rng.random() < self.scenario.crash_chance:
            raise Crashed

    # ---- a node's surroundings --------------------------------------------------------------------------------------
    def open_store(self, name: str) -> Store:
        if name in self.liars:
            return Store(self.root / name, 1 << 27)
        return CrashingStore(self.root / name, name, lambda: self._fuse(name), self.referee)

    def make_wire(self, name: str) -> Wire:
        return SimWire(self, name)

    def wall_clock(self, name: str) -> float:
        return NOW + self.now + self.offsets[name]

    def became_final(self, member: Member, blocks: list[FinalisedBlock]) -> None:
        name = member.wire.own
        self.trace.note(self.now, name, "has final", blocks[-1].head.number, blocks[-1].head.digest.hex()[:8])
        if name not in self.liars:
            self.referee.told(name, blocks)
        self.on_final(name, blocks)

    def claim_found(self, member: Member, digest: bytes, claim: Claim) -> None:
        self.on_claim(member.wire.own, digest, claim)

    def claim_refused(self, member: Member, claim: bytes) -> None:
        self.on_refused(member.wire.own, claim)

    def attest(self, name: str, claim: bytes, verdict: bool) -> None:
        if verdict and name not in self.liars:
            self.referee.found_true(name, claim)
        self.members[name].ledger.attest(claim, verdict, self.now)

    def work(self, owner: Wire, job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        """A job may be done at any time until its outcome is told: what it reads must not change."""
        delay = self.rng.uniform(*WORK_S)
        if self.rng.random() < 0.5:
            result = job()
            self.call(delay, owner, lambda: done(result, self.now))
        else:
            self.call(delay, owner, lambda: done(job(), self.now))

    # ---- the network ------------------------------------------------------------------------------------------------
    def peers_of(self, name: str) -> list[str]:
        return self.streams.sees(name)

    def send(self, source: str, target: str, kind: str, payload: bytes) -> None:
        liar = self.liars.get(source)
        for leaving in [payload] if liar is None else liar.twist(target, kind, payload):
            self.streams.send(source, target, kind, leaving)

    def met(self, name: str, peer: str) -> None:
        self.trace.note(self.now, name, "meets", peer)
        self.do(name, lambda: self.members[name].ledger.peer_connected(peer, self.index_of(peer, name), self.now))

    def missed(self, name: str, peer: str) -> None:
        self.trace.note(self.now, name, "misses", peer)
        self.do(name, lambda: self.members[name].ledger.peer_lost(peer, self.now))

    def arrived(self, source: str, target: str, kind: str, payload: bytes) -> None:
        if target not in self.members:
            return
        self._note(source, target, kind, payload)
        self.do(target, lambda: self.deliver(source, target, kind, payload))
        if target in self.liars and target in self.members:
            self.do(target, lambda: self._lie(target, source, kind, payload))

    def _note(self, source: str, target: str, kind: str, payload: bytes) -> None:
        words = hashlib.blake2b(payload, digest_size=4).hexdigest()
        if self.trace.verbose and kind == wire.CONSENSUS:
            message = messages.decode(payload)
            votes = [f"{vote.kind} {vote.view} {vote.digest.hex()[:6]}" for vote in messages.votes_of(message)]
            words += f" {type(message).__name__} {', '.join(votes)}"
        self.trace.note(self.now, source, ">", target, kind, words)

    def _lie(self, liar: str, source: str, kind: str, payload: bytes) -> None:
        for target, leaving in self.liars[liar].heard(source, kind, payload):
            self.streams.send(liar, target, wire.CONSENSUS, leaving)

    def dropped(self, name: str, peer: str, reason: str) -> None:
        self.trace.note(self.now, name, "drops", peer, reason)
        if name not in self.liars and peer not in self.liars:
            raise Violation(f"{name} drops {peer}, which is honest: {reason}")
        self.streams.lose(name, peer, 1.0)

    def refused(self, name: str, peer: str, reason: str) -> None:
        self.refusals += 1
        self.trace.note(self.now, name, "refuses", peer, reason)
        if self.referee.epoch == 0 and name not in self.liars and peer not in self.liars:
            raise Violation(f"{name} refuses what {peer} says, which is honest: {reason}")

    # ---- what goes wrong --------------------------------------------------------------------------------------------
    def plan_faults(self) -> None:
        """Draw the storm, and the calm after it."""
        rng, scenario = self.rng, self.scenario
        end = scenario.calm_from_s
        for _ in range(scenario.blackouts):
            self.at(rng.uniform(1, end), self.black_out)
        for _ in range(scenario.partitions):
            self.at(rng.uniform(0, end), self._partition)
        if scenario.breaks_rate:
            self.at(0.0, self._break)
        if scenario.wrong_clock:
            self.at(rng.uniform(end / 10, end / 2), self._set_clock_wrong)
        self.at(end, self._calm_down)

    def black_out(self) -> None:
        for name in self.honest:
            if name in self.members:
                self.kill(name)

    def _partition(self) -> None:
        if len(self.names) < 2:
            return
        side = set(self.rng.sample(self.names, self.rng.randrange(1, len(self.names))))
        both = self.rng.random() < 0.5
        pairs = {(a, b) for a in self.names for b in self.names if a in side and b not in side}
        pairs |= {(b, a) for a, b in pairs} if both else set()
        self.trace.note(self.now, "cut", sorted(side), "both ways" if both else "one way")
        self.streams.cut(pairs, min(self.now + self.rng.uniform(0.3, 5.0), self.scenario.calm_from_s))

    def _break(self) -> None:
        if self.calm:
            return
        if len(self.names) > 1:
            a, b = self.rng.sample(self.names, 2)
            self.trace.note(self.now, "breaks", a, b)
            self.streams.lose(a, b, self.rng.uniform(0.0, 1.0))
        pairs = max(1, len(self.names) * (len(self.names) - 1) // 2)
        self.at(self.now + self.rng.expovariate(self.scenario.breaks_rate * pairs), self._break)

    def _set_clock_wrong(self) -> None:
        name = self.rng.choice(self.honest)
        self.offsets[name] += self.rng.choice((-WRONG_S, WRONG_S))
        self.trace.note(self.now, name, "has a wrong clock")

    def _calm_down(self) -> None:
        self.trace.note(self.now, "calm")
        for name, offset in self.offsets.items():
            if abs(offset) > self.scenario.skew_s:
                self.offsets[name] = 0.0
        self.streams.heal()

