"""The simulator's stage for adversaries: a whole network from a seed, honest people, and programs among them.

Validators (real ledgers, consensus, attestors), one node with the honest owner and the honest workers, and the
adversary on the last validator: it reads that node's pool, and its transactions pay to come first, as they would if
that validator ordered them so. One validator is enough where only the contract is in question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from chain.chain import FinalisedBlock
from chain.claims import claim_digest
from chain.contracts import FINDER, REPLICATED, VALIDATORS
from chain.contracts import bindings as b
from chain.transaction import sign_transaction
from chain.types import Claim
from node import unixfs
from node.jobs import RoundView
from tests.adversaries.program import Program, Scene, Send, Serve
from tests.chain.chain_kit import ADDRESSES, RICH, USERS
from tests.node.ledger_world import ADDRESS_OF
from tests.sim.checks import Violation
from tests.sim.jobs import MANIFEST, SIZE
from tests.sim.jobs import TERMS as SIM_TERMS
from tests.sim.run import directory, quiet
from tests.sim.scenario import Scenario
from tests.sim.work import Blobs, SimAccount, Worksite, trained
from tests.sim.world import SimWorld

HONEST_NODE = "follower-0"
LOOK_S, PEEK_S = 0.5, 0.005
AGAIN_S = 2.0
LIMIT_S = 300.0
REWARD, STAKE = 10**12, 3 * 10**12  # far above what gas costs
GAS_MAX = 10**9  # wei: more than anybody here spends on gas
BASE = bytes(SIZE)
TERMS = replace(SIM_TERMS, reward=REWARD, stake=STAKE, rounds_max=1, attempts_max=2)


class BiddingAccount(SimAccount):
    """Pays more to come first."""

    def _sign(self, nonce: int, call: b.Call, fee: int) -> bytes:
        arguments: dict[str, Any] = {"to": call.to, "value": call.value, "data": call.data, "gas": call.gas}
        return sign_transaction(self._key, self._chain_id, nonce, fee=fee + 10, tip=10, **arguments)


@dataclass
class Foe(Worksite):
    """One identity of an adversary, and the program that it runs."""

    program: Program = field(kw_only=True)
    elsewhere: Sequence[b.Revealed] = field(kw_only=True)
    friends: frozenset[bytes] = field(kw_only=True)
    job_of: Callable[[Foe], int] = field(kw_only=True)
    reveals: list[b.Revealed] = field(init=False, default_factory=list)
    done: set[str] = field(init=False, default_factory=set)
    failed: dict[str, str] = field(init=False, default_factory=dict)
    resting: set[str] = field(init=False, default_factory=set)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._roles.clear()
        self.account.__class__ = BiddingAccount
        self.reveals.extend(self.elsewhere)
        self._seen_pool, self._looked = -1, 0.0
        self._later(PEEK_S, self._look)

    def _look(self) -> None:
        """At the pool, whenever it has changed, and at the clock now and then."""
        version, now = self.member.ledger.mempool.version, self.world.now
        if version != self._seen_pool or now - self._looked > LOOK_S:
            self._seen_pool, self._looked = version, now
            self._act()
        self._later(PEEK_S, self._look)

    def on_final(self, blocks: list[FinalisedBlock]) -> None:
        events = [event for block in blocks for log in block.logs if (event := b.decode(log)) is not None]
        self.reveals += [event for event in events if isinstance(event, b.Revealed)]
        super().on_final(blocks)

    def _advance(self) -> None:
        self._later(0.001, self._act)

    def _act(self) -> None:
        pool = self.member.ledger.mempool
        pending = [tx for digest in sorted(pool.hashes()) if (tx := pool.get(digest)) is not None]
        scene = Scene(
            self.feed.jobs, self.job_of(self), self.world.network.chain_id, self.key, self.address, self.reveals,
            [tx for tx in pending if tx.sender not in self.friends],
            lambda digest: self.blobs.find(self.name, digest), self._work,
        )  # fmt: skip
        for act in self.program(scene):
            match act:
                case Serve(content):
                    self.blobs.put(self.name, content, public=True)
                case Send() if act.tag not in self.done | self.resting and not self.account.hash_of(act.tag):
                    self._send_act(act)

    def _send_act(self, act: Send) -> None:
        claim = act.claim and claim_digest(act.claim, self.world.network.chain_id, self.world.genesis_digest)
        if not act.again:
            self.done.add(act.tag)

        def told(failure: str | None) -> None:
            self.world.trace.note(self.world.now, self.name, act.tag, failure or "is final")
            if failure is None:
                self.done.add(act.tag)
            else:
                self.failed[act.tag] = failure
                self.resting.add(act.tag)
                self._later(AGAIN_S, lambda: self.resting.discard(act.tag))

        self.account.ask(act.tag, act.call, told, claim)

    def _work(self, view: RoundView, steps: int | None) -> bytes | None:
        if steps is None:
            return trained(view.base, view.batch_seed, SIZE)
        return hashlib.shake_256(b"steps %d" % steps + view.base + view.batch_seed).digest(SIZE)


@dataclass(frozen=True)
class Cast:
    """Who plays.

    Attributes:
        foes: their programs; they own no job.
        owner: a dishonest owner's program, or None: then the honest one posts `jobs` jobs.
        terms: of the last job, which is the one attacked; those before have TERMS.
        elsewhere: what was revealed in other places.
        lies: of the adversary's validator; empty: it says nothing but what honest ones say.
    """

    foes: Sequence[Program] = ()
    owner: Program | None = None
    honest: int = 3
    jobs: int = 1
    terms: b.Terms = TERMS
    elsewhere: Sequence[b.Revealed] = ()
    lies: frozenset[str] = frozenset()
    validators: int = 1


@dataclass(frozen=True)
class Played:
    """What became of it.

    Attributes:
        gained: wei that all identities of the adversary have more than before, gas paid.
        honest: likewise of each honest worker.
        owner: likewise of the honest owner.
        settled, void: how many rounds.
        unpaid: (round, worker) of honest slots in settled rounds that earned nothing.
        forfeited: stakes that honest workers lost.
        locked: wei that is still in the contract.
        wrong: how many rounds were won by what is not the work's result.
        declined: by how many honest workers a job was.
        failed: the adversary's acts that came to nothing, and why.
    """

    gained: int
    honest: tuple[int, ...]
    owner: int
    settled: int
    void: int
    unpaid: tuple[tuple[int, bytes], ...]
    forfeited: int
    locked: int
    wrong: int
    declined: int
    failed: dict[str, str]


class Arena:
    def __init__(self, root: Path, seed: int, cast: Cast) -> None:
        scenario = Scenario(
            validators=cast.validators, jobs=True, followers=0, calm_from_s=0.0, byzantine=int(bool(cast.lies))
        )  # fmt: skip
        self.cast, self.foes_node = cast, f"validator-{cast.validators - 1}"
        self.world = world = SimWorld(root, seed, scenario)
        if cast.lies:
            self._corrupt(seed)
        self.blobs = Blobs(world)
        self.validators: dict[str, Worksite] = {}
        self.owner: Worksite | None = None
        self.workers: list[Worksite] = []
        self.foes: list[Foe] = []
        self._withdrawn: dict[bytes, set[int]] = {}
        self._posted: set[int] = set()
        world.on_claim, world.on_refused = self._on_claim, self._on_refused
        world.on_final, world.on_boot = self._on_final, self._on_boot

    def _corrupt(self, seed: int) -> None:
        """Have the adversary's validator be the liar, with the lies that were asked for."""
        (liar,) = self.world.liars.values()
        assert liar.name == self.foes_node, f"choose another seed than {seed}"
        liar.lies = self.cast.lies

    # ---- what the nodes tell ----------------------------------------------------------------------------------------
    def _sites(self, name: str) -> list[Worksite]:
        here = [self.validators[name]] if name in self.validators else []
        return here + [each for each in (self.owner, *self.workers, *self.foes) if each and each.name == name]

    def _on_boot(self, name: str) -> None:
        world, member = self.world, self.world.members[name]

        def site(key: bytes, kind: str | None, serves: bool) -> Worksite:
            return Worksite(world, name, key, self.blobs, member, kind, serves)

        if name == HONEST_NODE:
            self.owner = site(USERS[0], None, True)
            self.workers = [site(USERS[1 + each], "honest", False) for each in range(self.cast.honest)]
            return
        self.validators[name] = site(bytes([77]) * 32, None, False)  # it attests, and sends no transactions
        if name in world.liars:
            member.ledger.attested.refused = lambda _claim: False  # type: ignore[method-assign]  # it listens to nobody
        if name == self.foes_node:
            programs = [*self.cast.foes, *([] if self.cast.owner is None else [self.cast.owner])]
            keys = list(reversed(USERS))[: len(programs)]
            friends = frozenset(ADDRESSES[USERS.index(key)] for key in keys)
            self.foes = [
                Foe(
                    world, name, key, self.blobs, member, None, False, program=program, job_of=self._job_of,
                    elsewhere=self.cast.elsewhere, friends=friends,
                )
                for key, program in zip(keys, programs, strict=True)
            ]  # fmt: skip

    def _job_of(self, foe: Foe) -> int:
        """An owner's own job; for the others the one that is attacked, which was posted last."""
        jobs = foe.feed.jobs.by_id
        own = [number for number, job in jobs.items() if job.owner == foe.address]
        wanted = self.cast.jobs if self.cast.owner is None else 1
        return own[0] if own else max((number for number in jobs if number >= wanted), default=0)

    def _on_final(self, name: str, blocks: list[FinalisedBlock]) -> None:
        for site in self._sites(name):
            site.on_final(blocks)

    def _on_claim(self, name: str, digest: bytes, claim: Claim) -> None:
        if name in self.world.liars:
            self.world.call(0.05, self.world.members[name].wire, lambda: self.world.attest(name, digest, True))
        else:
            self.validators[name].on_claim(digest, claim)

    def _on_refused(self, name: str, claim: bytes) -> None:
        for site in self._sites(name):
            site.account.on_refused(claim)

    # ---- the run ----------------------------------------------------------------------------------------------------
    def play(self) -> Played:
        for name in (*(f"validator-{index}" for index in range(self.cast.validators)), HONEST_NODE):
            self.world.start(name)
        while not self._is_over():
            if self.world.now > LIMIT_S:
                raise Violation(f"not over: {[(job.job, job.state) for job in self._jobs()]}")
            self.world.run(LOOK_S)
            for site in self._sites(HONEST_NODE) + list(self.foes):
                self.world.do(site.name, lambda site=site: self._ask(site))
        return self._judge()

    def _jobs(self) -> list[Any]:
        assert self.owner is not None
        return list(self.owner.feed.jobs.by_id.values())

    def _ask(self, site: Worksite) -> None:
        """The honest owner posts; whoever has a job that ended withdraws."""
        if site is self.owner and self.cast.owner is None:
            for number in range(1, self.cast.jobs + 1):
                if number not in self._posted and len(self._jobs()) == number - 1:
                    self._posted.add(number)
                    self.blobs.put(site.name, MANIFEST.encode(), public=True)
                    base = self.blobs.put(site.name, BASE, public=True)
                    call = b.post(
                        MANIFEST.digest(), base, SIZE, bytes(range(32)),
                        self.cast.terms if number == self.cast.jobs else TERMS,
                    )  # fmt: skip
                    site.account.ask(f"post {number}", call, lambda _failure: None)
        for job in self._jobs():
            due = job.end_due
            if site is self.owner and due is not None and self.world.wall_clock(site.name) > due + 2:
                site.account.ask(f"end {job.job}", b.end(job.job), lambda _failure: None)  # a stranger's job, even
            if job.state == "ended" and self._takes_part(site, job) and job.job not in self._withdrawn_by(site):
                self._withdrawn_by(site).add(job.job)
                site.account.ask(f"last withdrawal {job.job}", b.withdraw(job.job), lambda _failure: None)

    def _takes_part(self, site: Worksite, job: Any) -> bool:
        return site.address == job.owner or site.address in job.records

    def _withdrawn_by(self, site: Worksite) -> set[int]:
        return self._withdrawn.setdefault(site.address, set())

    def _is_over(self) -> bool:
        if self.owner is None or len(self._jobs()) < self.cast.jobs:
            return False
        if self.world.members[HONEST_NODE].ledger.chain.finalised.number < self.world.referee.height:
            return False
        for site in self._sites(HONEST_NODE) + list(self.foes):
            if site.account.pending:
                return False
            for job in self._jobs():
                if job.state != "ended" or (self._takes_part(site, job) and job.job not in self._withdrawn_by(site)):
                    return False
        return True

    def _judge(self) -> Played:
        world = self.world
        member = world.members[HONEST_NODE]
        chain = member.ledger.chain
        books = b.books_view()
        held = books.decode(chain.call(books.to, books.data)).held
        if held != chain.balance(REPLICATED):
            raise Violation(f"the books say {held}, the contract has {chain.balance(REPLICATED)}")
        contracts = [REPLICATED, FINDER, VALIDATORS, bytes(20)]
        world.referee.conserved(member, [*ADDRESSES, *ADDRESS_OF.values(), *contracts], world.issued)
        events = [e for _, logs in sorted(world.referee.logs.items()) for log in logs if (e := b.decode(log))]
        honest = [site.address for site in self.workers]
        opened = {(e.job, e.round, e.attempt): e for e in events if isinstance(e, b.RoundOpened)}
        seats = {
            (e.job, e.round, e.attempt, e.worker): e for e in events if isinstance(e, b.SeatSettled)
        }  # fmt: skip
        settled = [e for e in events if isinstance(e, b.RoundSettled)]
        unpaid, wrong = [], 0
        for each in settled:
            key = (each.job, each.round, each.attempt)
            right = unixfs.digest_of(trained(opened[key].base, opened[key].batch_seed, SIZE))
            wrong += each.update_digest != right
            for worker in opened[key].workers:
                seat = seats.get((*key, worker))
                if worker in honest and (seat is None or seat.earned == 0):
                    unpaid.append((each.round, worker))
        return Played(
            gained=sum(chain.balance(foe.address) - RICH for foe in self.foes),
            honest=tuple(chain.balance(address) - RICH for address in honest),
            owner=chain.balance(ADDRESSES[0]) - RICH,
            settled=len(settled),
            void=sum(isinstance(e, b.RoundVoided) for e in events),
            unpaid=tuple(unpaid),
            forfeited=sum(e.forfeited for e in seats.values() if e.worker in honest),
            locked=held,
            wrong=wrong,
            declined=sum(isinstance(x, str) for s in self.workers for x in s._roles["worker"].state.manifests.values()),
            failed={tag: why for foe in self.foes for tag, why in foe.failed.items()},
        )


def play(cast: Cast, seed: int = 0) -> Played:
    """Play one cast from one seed, to the end of all books."""
    with directory() as root, quiet():
        arena = Arena(root, seed, cast)
        try:
            return arena.play()
        finally:
            for member in arena.world.members.values():
                member.store.close()
