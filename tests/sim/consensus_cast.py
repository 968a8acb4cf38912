"""Who acts in the simulation: an honest validator's shell with its disk, and the Byzantine one."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from chain import consensus
from chain.consensus import Simplex
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, Certificate, Vote, VoteKind
from tests.sim.consensus_world import (
    DELTA_S,
    EPOCH,
    GENESIS,
    Clock,
    Network,
    Referee,
    Scenario,
    Violation,
    body_is_true,
    header_is_true,
    make_block,
    transactions_of,
)


@dataclass(frozen=True)
class Transaction:
    """Forwarded to every validator, again and again until it is final."""

    id: int


@dataclass
class Disk:
    """What survives a crash. Finality reaches it late, votes and bodies at once."""

    votes: list[Vote] = field(default_factory=list)
    bodies: dict[bytes, Block] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    floor: int | None = 0
    chain: list[tuple[Block, Certificate | None]] = field(default_factory=lambda: [(GENESIS, None)])
    pool: set[int] = field(default_factory=set)


class Validator:
    """An honest shell: carries out effects in order, and may crash before any of them."""

    honest = True

    def __init__(
        self, index: int, scenario: Scenario, clock: Clock, network: Network, referee: Referee, rng: random.Random
    ) -> None:
        self.index, self.scenario, self.clock, self.network, self.referee = index, scenario, clock, network, referee
        self.rng = rng
        self.disk = Disk()
        self.up, self.crashes, self.crash_chance = False, 0, 0.0
        self.wiped = False
        self.effects = 0  # met so far, over all lives
        self.crash_before: int | None = None  # the effect to die before
        self.chain: list[tuple[Block, Certificate | None]] = []
        self.final_transactions: frozenset[int] = frozenset()
        self.machine: Simplex
        self.on_boot: Callable[[Validator], None] = lambda _: None
        self._life, self._alarm = 0, 0

    # ---- life and death ---------------------------------------------------------------------------------------------
    def boot(self) -> None:
        self.up, self._life, self.chain = True, self._life + 1, list(self.disk.chain)
        self.final_transactions = frozenset().union(*(transactions_of(block) for block, _ in self.chain))
        final, certificate = self.chain[-1]
        self.machine = Simplex(
            self.scenario.validators, self.index, EPOCH, DELTA_S, final, lambda *_: b"", certificate,
            votes=() if self.scenario.forgets_votes else self.disk.votes,
            blocks=self.disk.bodies.values(), quorum=self.scenario.quorum, certificates=self.disk.certificates,
            vote_floor=0 if self.scenario.votes_without_log else self.disk.floor,
        )  # fmt: skip
        if self.scenario.broken_quorum is not None:
            self.machine._votes.quorum = self.scenario.broken_quorum
        self.feed(consensus.Started())
        if self.up:
            self.on_boot(self)

    def crash(self) -> None:
        self.up, self.crashes = False, self.crashes + 1
        if self.scenario.wipes and self.referee.may_wipe() and self.rng.random() < 0.3:
            self.disk = Disk(floor=None)
            self.wiped = True
        self.clock.at(self.clock.now + self.rng.uniform(0.05, 1.5), self.boot)

    def crash_now(self) -> None:
        if self.up:
            self.crash()

    def later(self, time: float, event: consensus.Event) -> None:
        life = self._life
        self.clock.at(time, lambda: self.feed(event) if self.up and self._life == life else None)

    # ---- the loop ---------------------------------------------------------------------------------------------------
    def feed(self, event: consensus.Event) -> None:
        events = deque([event])
        while events and self.up:
            for effect in self.machine.step(events.popleft(), self.clock.now):
                if self._crashes_before(effect):
                    self.crash()
                    return
                events.extend(self.carry_out(effect))
            self.referee.accused(self.machine.evidence)
            pending = bool(self.disk.pool - self.included(self.machine.tip.digest))
            if not events and pending != self.machine.pending:
                events.append(consensus.WorkChanged(pending))

    def _crashes_before(self, effect: consensus.Effect) -> bool:
        self.effects += 1
        if self.effects == self.crash_before:
            return True
        calm = not self.scenario.crashes or self.clock.now >= self.scenario.calm_from_s
        # Right before or after a vote reaches the disk is where a protocol breaks, if it does.
        weight = 4 if isinstance(effect, consensus.PersistVote | consensus.Send | consensus.Finalised) else 1
        return not calm and self.rng.random() < self.crash_chance * weight / 4

    def carry_out(self, effect: consensus.Effect) -> Iterable[consensus.Event]:
        match effect:
            case consensus.PersistVote(vote, block):
                self.referee.voted(vote)
                self.disk.votes.append(vote)
                if block is not None and not self.scenario.forgets_bodies:
                    self.disk.bodies[block.digest] = block
            case consensus.PersistCertificate(certificate):
                if not self.scenario.forgets_certificates:
                    self.disk.certificates.append(certificate)
            case consensus.PersistFloor(view):
                self.disk.floor = view
            case consensus.Send(to, message):
                for other in range(self.scenario.validators) if to is None else (to,):
                    if other != self.index:
                        self.network.send(self.index, other, message)
            case consensus.BuildBlock(view, parent, empty):
                transactions = bytes(sorted(self.disk.pool - self.included(parent.digest))[:2])
                if not transactions and not empty:
                    return (consensus.Built(view, None),)
                return self._work(consensus.Built(view, make_block(view, parent, transactions)))
            case consensus.CheckBlock(block, notarised):
                return self._work(consensus.Checked(block.digest, self._valid(block, notarised)))
            case consensus.Finalised(blocks, certificate):
                self._finalise(blocks, certificate)
            case consensus.WakeAt(time):
                self._set_alarm(time)
        return ()

    def _work(self, answer: consensus.Event) -> Iterable[consensus.Event]:
        if self.scenario.work_s == 0:
            return (answer,)
        self.later(self.clock.now + self.scenario.work_s, answer)
        return ()

    def _set_alarm(self, time: float) -> None:
        self._alarm += 1
        alarm, life = self._alarm, self._life

        def ring() -> None:
            if self.up and (self._alarm, self._life) == (alarm, life):
                self.feed(consensus.Ticked())

        self.clock.at(time, ring)

    # ---- the chain --------------------------------------------------------------------------------------------------
    def included(self, digest: bytes) -> frozenset[int]:
        """The transactions on the branch that ends with a block."""
        found = self.final_transactions
        while digest != self.machine.final.digest:
            block = self.machine.known(digest)
            if block is None:
                raise Violation("a notarised block that does not descend from the final one")
            found, digest = found | transactions_of(block), block.parent
        return found

    def _valid(self, block: Block, notarised: bool) -> bool:
        parent = self.machine.known(block.parent)
        assert parent is not None, "the machine asks only when the parent was executed"
        fresh = not transactions_of(block) & self.included(block.parent)
        attested = notarised or bool(block.attestations)
        return body_is_true(block) and attested and fresh and block.height == parent.height + 1

    def _finalise(self, blocks: tuple[Block, ...], certificate: Certificate) -> None:
        for block in blocks:
            if block.parent != self.chain[-1][0].digest:
                raise Violation("a gap in the final chain")
            self.chain.append((block, certificate if block is blocks[-1] else None))
            self.final_transactions |= transactions_of(block)
            if self.honest:
                self.referee.finalised(block)
        chain, life = list(self.chain), self._life

        def persist() -> None:
            if self._life == life and self.up:
                self.disk.chain = chain

        if self.rng.random() < 0.5:
            persist()
        else:
            self.clock.at(self.clock.now + self.rng.uniform(0, 0.1), persist)

    # ---- the network ------------------------------------------------------------------------------------------------
    def receive(self, sender: int, message: object) -> None:
        if not self.up:
            return
        if isinstance(message, Transaction):
            self.disk.pool.add(message.id)
            pending = bool(self.disk.pool - self.included(self.machine.tip.digest))
            if pending != self.machine.pending:
                self.feed(consensus.WorkChanged(pending))
            return
        assert isinstance(message, consensus.Message)
        self.referee.verify(message, self.machine.quorum)
        if isinstance(message, consensus.Proposal | consensus.HaveBlock) and not header_is_true(message.block):
            return
        if isinstance(message, consensus.WantBlock) and self.machine.known(message.digest) is None:
            stored = {block.digest: block for block, _ in self.chain} | self.disk.bodies
            if (block := stored.get(message.digest)) is not None:
                self.network.send(self.index, sender, consensus.HaveBlock(block))
            return
        self.feed(consensus.Received(sender, message))


class Byzantine(Validator):
    """Runs the honest code, and lies beside it: equivocates, votes for everything, forges bodies, keeps silent."""

    honest = False

    def __init__(
        self, index: int, scenario: Scenario, clock: Clock, network: Network, referee: Referee, rng: random.Random
    ) -> None:
        super().__init__(index, scenario, clock, network, referee, rng)
        self._mood = rng.choice(("equivocates", "equivocates", "silent", "selective"))
        self._done: set[object] = set()

    def carry_out(self, effect: consensus.Effect) -> Iterable[consensus.Event]:
        match effect:
            case consensus.PersistVote(vote):
                self.referee.cast.add((vote.voter, vote.view, vote.kind, vote.digest))
            case consensus.Send() if self._mood == "silent":
                pass
            case consensus.Send(to, message) if self._mood == "selective":
                for other in self._some() if to is None else [to]:
                    self.network.send(self.index, other, message)
            case _:
                return super().carry_out(effect)
        return ()

    def receive(self, sender: int, message: object) -> None:
        if self.up and self._mood == "equivocates":
            match message:
                case consensus.Proposal(vote=vote) | consensus.VoteMessage(vote=vote):
                    self._echo(vote)
                case consensus.WantBlock(digest):
                    self._forge(sender, digest)
            self._equivocate()
        super().receive(sender, message)

    def _some(self) -> list[int]:
        return [i for i in range(self.scenario.validators) if i != self.index and self.rng.random() < 0.6]

    def _cast(self, view: int, kind: VoteKind, digest: bytes) -> Vote:
        self.referee.cast.add((self.index, view, kind, digest))
        return Vote(EPOCH, view, kind, digest, self.index, b"")

    def _echo(self, vote: Vote) -> None:
        """Vote for whatever is voted on, of every kind, each to some only."""
        if vote.kind == TIMEOUT or (vote.view, vote.digest) in self._done:
            return
        self._done.add((vote.view, vote.digest))
        for kind in (NOTARISE, FINALISE, TIMEOUT):
            mine = self._cast(vote.view, kind, NO_DIGEST if kind == TIMEOUT else vote.digest)
            for other in self._some():
                self.network.send(self.index, other, consensus.VoteMessage(mine))

    def _forge(self, asker: int, digest: bytes) -> None:
        """The right header over wrong transactions."""
        block = self.machine.known(digest)
        if block is not None and block.height > 0:
            forged = replace(block, payload=block.payload[:8] + bytes([self.rng.randrange(200, 256)]))
            self.network.send(self.index, asker, consensus.HaveBlock(forged))

    def _equivocate(self) -> None:
        """In an own view: two blocks, on parents of any age, one without its attestations, each to some."""
        view = self.machine.view
        if self.machine.proposer(view) != self.index or ("view", view) in self._done:
            return
        self._done.add(("view", view))
        parents = [self.machine.tip, self.machine.tip, *self.machine.blocks.values()]
        half = set(self._some())
        for salt in ("a", "b"):
            parent = self.rng.choice(parents)
            fresh = bytes(sorted(self.disk.pool - self.included(parent.digest))[:1]) if self._on_branch(parent) else b""
            block = make_block(view, parent, fresh, salt)
            vote = self._cast(view, NOTARISE, block.digest)
            reasons = self.machine.certificates_above(0, 0)[-60:]
            for other in range(self.scenario.validators):
                if other != self.index and ((other in half) == (salt == "a") or self.rng.random() < 0.2):
                    shown = block if self.rng.random() < 0.8 else replace(block, attestations=())
                    self.network.send(self.index, other, consensus.Proposal(shown, vote, reasons))

    def _on_branch(self, block: Block) -> bool:
        digest = block.digest
        while digest != self.machine.final.digest:
            known = self.machine.known(digest)
            if known is None:
                return False
            digest = known.parent
        return True
