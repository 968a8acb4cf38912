"""One node's part in jobs: the real role machines, account and read model; a model of blobs and of training.

Training is exact, so it is modelled by a hash of where it starts and what it is told to do. Blobs lie with whoever made
or fetched them; a blob is fetched from any node that has it and can be reached, or tried again.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from eth_hash.auto import keccak

from chain import masking
from chain.chain import FinalisedBlock
from chain.claims import claim_digest
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.header import address_of_secret
from chain.types import AuditClaim, Claim, InvalidTransaction, RevealClaim
from learner import manifest as manifests
from learner.errors import InvalidManifest
from node import unixfs
from node.account import Account, Entry, QueueFull, TransactionFailed
from node.feed import Feed
from node.jobs import Key
from node.roles import attestor, auditor, learning_server, membership, misbehaviour, worker
from node.roles import common as c
from node.roles.sponsors import Sponsoring
from tests.node.ledger_world import Member

if TYPE_CHECKING:
    from tests.sim.world import SimWorld

RETRY_S = 0.7
RESEND_S = 2.0
REST_S = 1.0
STEPS = {"honest": worker.step, "lazy": misbehaviour.step_lazy, "copier": misbehaviour.step_copier}


def trained(base: bytes, seed: bytes, size: int) -> bytes:
    """The exact result of a round's work."""
    return hashlib.shake_256(b"trained" + base + seed).digest(size)


class Blobs:
    """Who has which blob, over all lives."""

    def __init__(self, world: SimWorld) -> None:
        self._world = world
        self._held: dict[str, dict[bytes, bytes]] = defaultdict(dict)
        self._public: dict[str, set[bytes]] = defaultdict(set)
        self._withheld: dict[tuple[str, bytes], bool] = {}

    def put(self, name: str, content: bytes, public: bool) -> bytes:
        digest = unixfs.digest_of(content)
        self._held[name][digest] = content
        if public:
            self._public[name].add(digest)
        return digest

    def publish(self, name: str, digest: bytes) -> None:
        self._public[name].add(digest)

    def lost(self, name: str) -> None:
        self._held.pop(name, None)
        self._public.pop(name, None)

    def find(self, name: str, digest: bytes) -> bytes | None:
        """From the own disk, or from any connected node that serves it."""
        if (own := self._held[name].get(digest)) is not None:
            return own
        world = self._world
        withholding = world.scenario.withheld_blobs and not world.calm
        if withholding and self._withheld.setdefault((name, digest), world.rng.random() < 0.3):
            return None
        for peer in world.peers_of(name):
            if peer in world.members and peer not in world.liars and digest in self._public[peer]:
                self._held[name][digest] = self._held[peer][digest]
                self._public[name].add(digest)
                return self._held[peer][digest]
        return None


class SimAccount(Account):
    """The real queue; who waits for an outcome is called back instead of woken."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._asked: dict[str, list[Callable[[str | None], None]]] = {}

    def ask(self, tag: str, call: b.Call, done: Callable[[str | None], None], claim: bytes | None = None) -> None:
        """`done` is called with what went wrong, or None."""
        if tag not in self._asked and self._queue.find(tag) is None:
            try:
                self._append(tag, call, claim)
            except (TransactionFailed, QueueFull, InvalidTransaction) as error:
                done(str(error))
                return
        self._asked.setdefault(tag, []).append(done)

    def _finish(self, entry: Entry, failure: str | None) -> None:
        super()._finish(entry, failure)
        for done in self._asked.pop(entry.tag, ()):
            done(failure)


@dataclass
class _Role:
    step: Any
    state: Any
    perform: Callable[[Any], None]


@dataclass
class Worksite:
    """One life of a node with roles."""

    world: SimWorld
    name: str
    key: bytes
    blobs: Blobs
    member: Member
    kind: str | None  # of worker; None for none
    serves: bool  # owns the job
    account: SimAccount = field(init=False)
    feed: Feed = field(init=False)

    def __post_init__(self) -> None:
        chain, store, ledger = self.member.ledger.chain, self.member.store, self.member.ledger
        self.address = address_of_secret(self.key)
        self._cancelled: dict[object, int] = defaultdict(int)
        self._resting: set[str] = set()
        self._behind = False
        self._roles: dict[str, _Role] = {}
        self.feed = Feed(chain)
        self.feed.replay()
        self.account = SimAccount(
            self.key, self.address, chain.network.chain_id, chain.network.base_fee_wei,
            lambda: store.kv_get("account", self.address), lambda queue: store.kv_put("account", self.address, queue),
            ledger.check, self._send, self._outcome,
        )  # fmt: skip
        self.account.on_finalised(chain.nonce(self.address))
        if self.kind is not None:
            state = worker.WorkerState(self.address, deposit_stakes=8, sponsors=True, fee=self.account.fee)
            self._roles["worker"] = _Role(STEPS[self.kind], state, self._perform_worker)
        if self.serves:
            server = learning_server.ServerState(self.address, Sponsoring(8, 8, self.account.fee))
            self._roles["server"] = _Role(learning_server.step, server, self._perform_server)
        if self.name.startswith("validator-"):
            self._roles["attestor"] = _Role(attestor.step, attestor.AttestorState(), self._perform_attestor)
        validators = chain.epochs.present.validators
        if self.address in validators:  # an adversary may have another account than the validator it uses
            seat = auditor.Seated(validators.index(self.address), len(validators))
            self._roles["auditor"] = _Role(auditor.step, auditor.AuditorState(seat=seat), self._perform_auditor)
        self._later(0.01, self._advance)
        self._later(RESEND_S, self._resend)

    def _send(self, raws: list[bytes]) -> None:
        for raw in raws:
            self.member.ledger.submit(raw, self.world.now)

    def _outcome(self, transaction: bytes) -> bool | None:
        receipt = self.member.ledger.chain.receipt(transaction)
        return None if receipt is None else receipt.succeeded

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self.world.call(seconds, self.member.wire, call)

    def _resend(self) -> None:
        self.account.resend()
        self._later(RESEND_S, self._resend)

    # ---- what the ledger tells --------------------------------------------------------------------------------------
    def on_final(self, blocks: list[FinalisedBlock]) -> None:
        self.feed.apply(blocks, self.world.wall_clock(self.name))
        self.account.on_finalised(self.member.ledger.chain.nonce(self.address))
        self._advance()

    def on_claim(self, digest: bytes, claim: Claim) -> None:
        if isinstance(claim, AuditClaim):
            self._feed("auditor", auditor.VerdictFound(digest, claim))
        else:
            self._feed("attestor", attestor.ClaimFound(digest, claim))

    def _advance(self) -> None:
        """Show the roles the newest state, unless more is on its way."""
        if self.member.ledger.catching_up:
            if not self._behind:
                self._behind = True
                self._later(0.3, self._look_again)
            return
        for role in self._roles:
            self._feed(role, c.ChainAdvanced(self.feed.jobs, self.world.wall_clock(self.name), self._balance()))
        if self.kind == "lazy":
            self._lie_about_audits()

    def _lie_about_audits(self) -> None:
        """Anyone may state what an audited round gives: one who made it up says that it was right."""
        for job in self.feed.jobs.by_id.values():
            for key, view in job.open.items():
                if view.phase == "AUDIT" and (mine := view.reveals.get(self.address)) is not None:
                    work = auditor.Work(key, job.posted.manifest, view.base, view.batch_seed, job.posted.update_size)
                    self._resolve("worker", auditor.SubmitResolve(work, mine.update_digest))

    def _look_again(self) -> None:
        self._behind = False
        self._advance()

    def _feed(self, role: str, event: object, after_s: float = 0.0) -> None:
        """As the driver does, but never at once."""

        def step() -> None:
            each = self._roles[role]
            each.state, effects = each.step(each.state, event)
            for effect in effects:
                each.perform(effect)

        if role in self._roles:
            self._later(after_s, step)

    # ---- effects ----------------------------------------------------------------------------------------------------
    def _perform_worker(self, effect: Any) -> None:
        match effect:
            case membership.Enrol():
                self._submit("worker", f"enrol {effect.job}", b.enrol(effect.job, effect.deposit), effect)
            case membership.Leave():
                self._submit("worker", f"leave {effect.job}", b.leave(effect.job), effect)
            case membership.Withdraw():
                self._submit("worker", f"withdraw {effect.job}", b.withdraw(effect.job), effect)
            case membership.Decline():
                pass  # words for an operator, and there is none
            case worker.Train():
                self._fetch(effect.key, effect.base, lambda _base: self._trained(effect))
            case misbehaviour.Fabricate():
                size = self._size(effect.key)
                made_up = hashlib.shake_256(repr(effect).encode() + self.address).digest(size)
                self._answer_trained(effect.key, made_up, 0.1)
            case worker.Mask():
                ctx, _, mask = self._secrets(effect.key)
                update = self.blobs.find(self.name, effect.update)
                assert update is not None
                ciphertext = self.blobs.put(self.name, masking.apply_mask(update, ctx, mask), public=True)
                self._feed("worker", worker.Masked(effect.key, ciphertext), 0.01)
            case worker.Recover():
                ctx, _, mask = self._secrets(effect.key)
                self._fetch(
                    effect.key, effect.ciphertext,
                    lambda blob: self._answer_trained(effect.key, masking.apply_mask(blob, ctx, mask), 0.01),
                )  # fmt: skip
            case worker.SubmitCommit():
                _, r, mask = self._secrets(effect.key)
                call = b.commit(*effect.key, effect.ciphertext, keccak(r), keccak(mask))
                self._submit("worker", f"commit {effect.key}", call, effect)
            case worker.SubmitReveal():
                self._reveal(effect)
            case worker.PublishUpdate():
                self.blobs.publish(self.name, effect.update)
            case worker.Abandon():
                self._cancelled[effect.key] += 1
            case _:
                self._perform_common("worker", effect)

    def _trained(self, effect: worker.Train) -> None:
        update = trained(effect.base, effect.batch_seed, self._size(effect.key))
        self._answer_trained(effect.key, update, self.world.rng.uniform(0.1, 2.0))

    def _answer_trained(self, key: Key, update: bytes, after_s: float) -> None:
        digest = self.blobs.put(self.name, update, public=False)
        self._feed("worker", worker.Trained(key, digest), after_s)

    def _reveal(self, effect: worker.SubmitReveal) -> None:
        ctx, r, mask = self._secrets(effect.key)
        posted = self.feed.jobs.by_id[effect.key.job].posted
        call = b.reveal(*effect.key, r, mask, effect.update, posted.terms.auto_finalise)
        claim = RevealClaim(
            REPLICATED, *effect.key, self.address, ctx, effect.ciphertext, posted.update_size, mask, effect.update
        )
        digest = claim_digest(claim, self.world.network.chain_id, self.world.genesis_digest)
        self._submit("worker", f"reveal {effect.key}", call, effect, digest)

    def _perform_server(self, effect: Any) -> None:
        match effect:
            case learning_server.UnmaskModel():
                self._fetch(effect.key, effect.ciphertext, lambda blob: self._unmasked(effect, blob))
            case learning_server.Score():
                self._feed("server", learning_server.Scored(effect.key, effect.update, 1, 2), 0.2)
            case _:
                self._perform_common("server", effect)

    def _unmasked(self, effect: learning_server.UnmaskModel, ciphertext: bytes) -> None:
        model = self.blobs.put(self.name, masking.apply_mask(ciphertext, effect.ctx, effect.mask), public=True)
        if model == effect.update:
            self._feed("server", learning_server.ModelReady(effect.key))
        else:
            self._feed("server", learning_server.StepFailed(effect.key, "another digest"), REST_S)

    def _perform_attestor(self, effect: Any) -> None:
        match effect:
            case attestor.FetchCiphertext():
                self._fetch(("attest", effect.key), effect.ciphertext, lambda _blob: None)
            case attestor.CheckClaim():
                self._fetch(
                    ("attest", effect.key), effect.claim.ciphertext, lambda blob: self._checked(effect, blob)
                )  # fmt: skip
            case c.Attest():
                self.world.attest(self.name, effect.digest, effect.verdict)
            case attestor.Forget():
                self._cancelled["attest", effect.key] += 1

    def _checked(self, effect: attestor.CheckClaim, ciphertext: bytes) -> None:
        claim = effect.claim
        update = masking.apply_mask(ciphertext, claim.ctx, claim.mask)
        verdict = len(ciphertext) == claim.size and unixfs.digest_of(update) == claim.update
        self._feed("attestor", attestor.ClaimChecked(effect.digest, verdict), 0.02)

    def _perform_auditor(self, effect: Any) -> None:
        match effect:
            case auditor.Recompute(work=work):
                self._fetch(("audit", work.key), work.base, lambda base: self._recomputed(work, base))
            case auditor.CancelRecompute():
                self._cancelled["audit", effect.key] += 1
            case auditor.SubmitResolve():
                self._resolve("auditor", effect)
            case c.Attest():
                self.world.attest(self.name, effect.digest, effect.verdict)
            case _:
                self._perform_common("auditor", effect)

    def _recomputed(self, work: auditor.Work, base: bytes) -> None:
        update = unixfs.digest_of(trained(unixfs.digest_of(base), work.batch_seed, work.size))
        self._feed("auditor", auditor.Recomputed(work, update), self.world.rng.uniform(0.1, 2.0))

    def _resolve(self, role: str, effect: auditor.SubmitResolve) -> None:
        work, key = effect.work, effect.work.key
        ctx = masking.audit_context(self.world.network.chain_id, REPLICATED, *key)
        claim = AuditClaim(REPLICATED, *key, ctx, work.manifest, work.base, work.batch_seed, work.size, effect.update)
        digest = claim_digest(claim, self.world.network.chain_id, self.world.genesis_digest)
        self._submit(role, f"resolve {key}", b.resolve(*key, effect.update, auto_finalise=False), effect, digest)

    def _perform_common(self, role: str, effect: Any) -> None:
        match effect:
            case c.FetchManifest():
                self._fetch(effect, effect.digest, lambda blob: self._feed(role, self._judged(effect, blob)))
            case c.SubmitFinalise():
                self._submit(role, f"finalise {effect.key}", b.finalise(*effect.key, effect.stop), effect)
            case c.SubmitExpire():
                self._submit(role, f"expire {effect.key} {effect.phase}", b.expire(*effect.key), effect)
            case c.SubmitClose():
                self._submit(role, f"close {effect.key} {effect.phase}", b.close(*effect.key), effect)
            case c.Submit():
                self._submit(role, effect.tag, effect.call, effect)
            case c.SubmitEnd():
                self._submit(role, f"end {effect.job}", b.end(effect.job), effect)
            case c.WakeAt():
                after = max(0.0, effect.time - self.world.wall_clock(self.name))
                self._later(after, lambda: self._feed(role, c.TimeReached(self.world.wall_clock(self.name))))
            case _:
                raise AssertionError(f"nobody performs {effect!r}")

    def _judged(self, effect: c.FetchManifest, blob: bytes) -> c.ManifestReady | c.ManifestRefused:
        """As the performer does: a job that cannot be done is declined. All first bases here are zeros."""
        posted = self.feed.jobs.by_id[effect.job].posted
        try:
            manifest = manifests.decode(blob)
        except InvalidManifest as error:
            return c.ManifestRefused(effect.job, str(error))
        size = manifest.update_size()
        self.blobs.put(self.name, bytes(size), public=True)
        if posted.update_size != size or posted.base != unixfs.digest_of(bytes(size)):
            return c.ManifestRefused(effect.job, "not the manifest's size, or not its base")
        return c.ManifestReady(effect.job, manifest)

    def _submit(self, role: str, tag: str, call: b.Call, effect: object, claim: bytes | None = None) -> None:
        if tag in self._resting:
            return

        def told(failure: str | None) -> None:
            if failure is not None:
                self.world.trace.note(self.world.now, self.name, tag, "failed:", failure)
                self._resting.add(tag)
                self._later(REST_S, rested)

        def rested() -> None:
            self._resting.discard(tag)
            self._feed(role, c.SubmissionFailed(effect, "failed"))

        self.account.ask(tag, call, told, claim)

    def _fetch(self, key: object, digest: bytes, done: Callable[[bytes], None]) -> None:
        """Look for a blob until it is found or `key` is cancelled."""
        begun = self._cancelled[key]

        def look() -> None:
            if self._cancelled[key] != begun:
                return
            if (found := self.blobs.find(self.name, digest)) is None:
                self._later(RETRY_S, look)
            else:
                done(found)

        self._later(self.world.rng.uniform(0.001, 0.05), look)

    def _balance(self) -> int:
        return self.member.ledger.chain.balance(self.address)

    def _size(self, key: Key) -> int:
        return self.feed.jobs.by_id[key.job].posted.update_size

    def _secrets(self, key: Key) -> tuple[bytes, bytes, bytes]:
        chain_id = self.world.network.chain_id
        ctx = masking.context(chain_id, REPLICATED, key.job, key.round, key.attempt, self.address)
        r = masking.derive_r(self.key, ctx)
        return ctx, r, masking.sign_mask(self.key, chain_id, REPLICATED, ctx, r)
