"""Who acts in a run with a job: its owner, workers of whom one may cheat, attestors; and who adds up the money."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from chain.chain import FinalisedBlock
from chain.contracts import FAUCET, FINDER, REPLICATED, VALIDATORS
from chain.contracts import bindings as b
from chain.header import address_of_secret
from chain.types import Claim
from learner.manifest import Manifest
from learner.presets import mlp
from node import unixfs
from node.jobs import Key
from node.roles import sponsors
from tests.chain.chain_kit import ADDRESSES, NOW, USERS
from tests.chain.chain_kit import VALIDATORS as VALIDATOR_KEYS
from tests.node.ledger_world import ADDRESS_OF
from tests.sim.checks import Violation
from tests.sim.work import Blobs, Worksite, trained
from tests.sim.world import FEES, LATE, SimWorld

JOB = 1
HONEST_WORKERS = 3
SERVER = "follower-0"
MANIFEST = Manifest(
    model=mlp((2, 2)), dataset=b"\xda" * 32, dataset_size=100, batch_size=2, steps=3, learning_rate=0.5,
    init_seed=bytes(32),
)  # fmt: skip
SIZE = MANIFEST.update_size()
TERMS = b.Terms(
    reward=10**12, stake=3 * 10**12, slots=3, workers_min=3, rounds_max=2, attempts_max=5, commit_window_s=10,
    reveal_window_s=10, last_call_s=5, grace_s=5, deadline=NOW + 10_000, auto_finalise=False,
    audit_window_s=60,
)  # fmt: skip
AUDIT_FEE = 500_000


def key_of(name: str) -> bytes:
    role, _, number = name.partition("-")
    return (VALIDATOR_KEYS if role == "validator" else USERS)[int(number)]


class Jobs:
    def __init__(self, world: SimWorld) -> None:
        self.world = world
        self.blobs = Blobs(world)
        self._sites: dict[str, Worksite] = {}
        self._kinds: dict[str, str] = {}
        self._base = bytes(SIZE)
        self.terms = TERMS
        if world.scenario.audit_ppm:
            self.terms = replace(TERMS, audit_ppm=world.scenario.audit_ppm, audit_fee=AUDIT_FEE)
        if world.scenario.alone:
            self.terms = replace(self.terms, slots=1, workers_min=1, attempts_max=20, rounds_max=6)
        self._events: dict[int, list[b.Event]] = {}  # by height, of the job contract
        self._withdrawing: set[str] = set()
        self._withdrawn: set[str] = set()
        world.on_claim, world.on_refused, world.on_boot = self._on_claim, self._on_refused, self._on_boot
        world.on_final, world.on_wiped = self._on_final, self.blobs.lost

    def begin(self) -> None:
        world, scenario = self.world, self.world.scenario
        validators = [f"validator-{index}" for index in range(scenario.validators)]
        able = [name for name in validators if name not in world.liars]
        cheaters = ["lazy"] * scenario.lazy + ["copier"] * scenario.copiers
        count = HONEST_WORKERS + len(cheaters)
        lacking = max(scenario.newcomers, count - len(able))
        followers = [f"follower-{index + 1}" for index in range(lacking)]  # the first of them are the newcomers
        workers = [*able[: count - lacking], *followers]
        self._kinds = dict(zip(workers, [*cheaters, *["honest"] * HONEST_WORKERS], strict=True))
        for name in [*validators, SERVER, *followers]:
            at = world.rng.uniform(0, 0.2) if scenario.calm_from_s else 0.0
            world.at(at, lambda name=name: world.start(name))
        world.at(0.3, self._look)

    # ---- what the nodes tell ----------------------------------------------------------------------------------------
    def _on_boot(self, name: str) -> None:
        if name in self.world.liars or name == LATE:
            return
        self._sites[name] = Worksite(
            self.world, name, key_of(name), self.blobs, self.world.members[name], self._kinds.get(name), name == SERVER
        )
        self._withdrawing.discard(name)

    def _site(self, name: str) -> Worksite | None:
        """Of the present life, once it is complete."""
        site = self._sites.get(name)
        return site if site is not None and self.world.is_alive(site.member.wire) else None

    def _on_final(self, name: str, blocks: list[FinalisedBlock]) -> None:
        if (site := self._site(name)) is not None:
            site.on_final(blocks)

    def _on_claim(self, name: str, digest: bytes, claim: Claim) -> None:
        if (site := self._site(name)) is not None:
            site.on_claim(digest, claim)
        elif name in self.world.liars:
            self.world.call(0.05, self.world.members[name].wire, lambda: self.world.attest(name, digest, True))

    def _on_refused(self, name: str, claim: bytes) -> None:
        if (site := self._site(name)) is not None:
            site.account.on_refused(claim)

    # ---- what the people at the nodes ask for -----------------------------------------------------------------------
    def _look(self) -> None:
        """The owner posts the job until it is posted; when it has ended everybody withdraws."""
        for name in sorted(self._sites):
            if (site := self._site(name)) is not None:
                self.world.do(name, lambda site=site: self._ask(site))
        self.world.at(self.world.now + 0.5, self._look)

    def _ask(self, site: Worksite) -> None:
        job = site.feed.jobs.by_id.get(JOB)
        if job is None and site.serves and not site.member.ledger.catching_up:
            self.blobs.put(site.name, MANIFEST.encode(), public=True)
            base = self.blobs.put(site.name, self._base, public=True)
            call = b.post(MANIFEST.digest(), base, SIZE, bytes(range(32)), self.terms)
            if site.account.hash_of("post") is None:
                site.account.ask("post", call, lambda _failure: None)
        ended = job is not None and job.state == "ended"
        if job is not None and site.serves and any(sponsors.fetched_back(site.address, job)):
            return
        if ended and (site.serves or site.kind is not None) and site.name not in self._withdrawing | self._withdrawn:
            self._withdrawing.add(site.name)
            site.account.ask("withdraw", b.withdraw(JOB), lambda failure: self._withdrew(site.name, failure))

    def _withdrew(self, name: str, failure: str | None) -> None:
        (self._withdrawing.discard if failure else self._withdrawn.add)(name)

    def _withdrawals(self, address: bytes) -> list[int]:
        return [each.amount for each in self._log() if isinstance(each, b.Withdrawn) and each.account == address]

    def _log(self) -> list[b.Event]:
        """All events of the contracts so far, as the referee has them."""
        for number, logs in self.world.referee.logs.items():
            if number not in self._events:
                self._events[number] = [event for log in logs if (event := b.decode(log)) is not None]
        return [event for number in sorted(self._events) for event in self._events[number]]

    # ---- the end ----------------------------------------------------------------------------------------------------
    def unsettled(self) -> str:
        for name in self.world.honest:
            if name == LATE:
                continue
            site = self._site(name)
            if site is None:
                return f"{name} is down"
            job = site.feed.jobs.by_id.get(JOB)
            if job is None or job.state != "ended":
                return f"the job is {'not posted' if job is None else job.state} for {name}"
            if site.account.pending:
                return f"{site.account.pending} transactions of {name} are not final"
            if (site.serves or site.kind is not None) and name not in self._withdrawn:
                return f"{name} has not withdrawn"
        return ""

    def judge(self) -> None:
        world = self.world
        member = world.members[SERVER]
        chain = member.ledger.chain
        query = b.books_view()
        books = query.decode(chain.call(query.to, query.data))
        if books.held != chain.balance(REPLICATED) or books.burned != chain.balance(bytes(20)):
            raise Violation(f"the contract's books {books} differ from its balance {chain.balance(REPLICATED)}")
        contracts = [REPLICATED, FINDER, VALIDATORS, FAUCET, bytes(20)]
        world.referee.conserved(member, [*ADDRESSES, *ADDRESS_OF.values(), *contracts], world.issued)
        self._judge_rounds()

    def _judge_rounds(self) -> None:
        """Who is owed what, told from the events alone."""
        wins, forfeits, settled = Counter[bytes](), Counter[bytes](), 0
        events = self._log()
        opened = {Key(e.job, e.round, e.attempt): e for e in events if isinstance(e, b.RoundOpened)}
        for key, event in opened.items():
            mine = [e for e in events if (getattr(e, "round", 0), getattr(e, "attempt", 0)) == key[1:]]
            commits = {e.worker for e in mine if isinstance(e, b.Committed)}
            reveals = {e.worker: e.update_digest for e in mine if isinstance(e, b.Revealed)}
            if len(reveals) != sum(isinstance(e, b.Revealed) for e in mine):
                raise Violation(f"somebody revealed twice in {key}")
            if any(isinstance(e, b.RoundSettled) for e in mine):
                settled += 1
                right = unixfs.digest_of(trained(event.base, event.batch_seed, SIZE))
                self._check_winner(key, right, mine, reveals)
                kept = {who for who, update in reveals.items() if update == right}
                wins.update(kept)
            elif any(isinstance(e, b.Audited) for e in mine):
                kept = set()  # nobody has revealed the true update
            else:
                kept = set(reveals) if 2 * len(commits) > len(event.workers) else commits
            forfeits.update(set(event.workers) - kept)
        put, repaid, lost = self._sponsored(events), 0, 0
        for event in events:
            repaid += event.amount if isinstance(event, b.DebtRepaid) else 0
        for name, kind in self._kinds.items():
            address = address_of_secret(key_of(name))
            due = self.terms.reward * wins[address] - self.terms.stake * forfeits[address]
            if address in put:  # the sponsor is repaid from all there is
                lost += max(0, -due)
                due = max(0, due)
            elif self.world.network.balances[address] != FEES:
                due += 8 * self.terms.stake * self._entries(events, address)
            due += self._fees()[address]
            if sum(self._withdrawals(address)) != due:
                raise Violation(f"{name}, {kind}, got {self._withdrawals(address)}, {due} are due")
        if repaid != sum(put.values()) - lost:
            raise Violation(f"{repaid} were repaid of {put}, of which {lost} were lost")
        rest = self.terms.escrow - self.terms.reward * sum(wins.values()) - sum(self._fees().values())
        back = sum(e.amount for e in events if isinstance(e, b.Unsponsored))
        if sum(self._withdrawals(address_of_secret(key_of(SERVER)))) != rest + repaid + back:
            raise Violation(f"the owner got another amount back than {rest} that nobody earned and {repaid + back} put")
        lies = sum(isinstance(e, b.Audited) for e in events) - self._settled_audits(events)
        if settled != self.terms.rounds_max and not (lies and rest < self.terms.price_of(1)):
            raise Violation(f"{settled} of {self.terms.rounds_max} rounds were settled")

    @staticmethod
    def _entries(events: list[b.Event], worker: bytes) -> int:
        """How often a worker came into the job, each time with a deposit: one that was absent comes back."""
        count, inside = 0, False
        for event in events:
            match event:
                case b.Enrolled() if event.worker == worker:
                    count, inside = count + (not inside), True
                case b.Left() | b.Evicted() if event.worker == worker:
                    inside = False
        return count

    @staticmethod
    def _settled_audits(events: list[b.Event]) -> int:
        """How many rounds were audited and settled; the fees of the others are lost to the job."""
        audited = {(e.round, e.attempt) for e in events if isinstance(e, b.Audited)}
        return sum((e.round, e.attempt) in audited for e in events if isinstance(e, b.RoundSettled))

    def _fees(self) -> Counter[bytes]:
        """What audits have paid, by proposer of the blocks with their verdicts."""
        fees = Counter[bytes]()
        chain = self.world.members[SERVER].ledger.chain
        for number, found in self._events.items():
            for event in found:
                if isinstance(event, b.Audited):
                    fees[chain.block(number).proposer] += self.terms.audit_fee
        return fees

    @staticmethod
    def _sponsored(events: list[b.Event]) -> dict[bytes, int]:
        """What each worker owed its sponsor when it enrolled."""
        offered: dict[bytes, int] = {}
        put: dict[bytes, int] = {}
        for event in events:
            match event:
                case b.Sponsored():
                    offered[event.worker] = event.amount
                case b.Unsponsored():
                    del offered[event.worker]
                case b.Enrolled() if event.worker in offered:
                    put[event.worker] = offered.pop(event.worker)
        return put

    def _check_winner(self, key: Key, right: bytes, mine: list[b.Event], reveals: dict[bytes, bytes]) -> None:
        for event in mine:
            if isinstance(event, b.RoundSettled) and event.update_digest != right:
                raise Violation(f"{key} was won by an update that is not the work's result")
        for name, kind in self._kinds.items():
            revealed = reveals.get(address_of_secret(key_of(name)))
            if revealed is not None and (revealed == right) != (kind == "honest"):
                which = "the right" if revealed == right else "a wrong"
                raise Violation(f"{name}, which is {kind}, revealed {which} update")

