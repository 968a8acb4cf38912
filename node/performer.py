"""Carries out what role machines ask for: blobs, training, masks, transactions.

One `perform_*` per machine; each returns the event that came of the effect, or None. A failure that the machine can
do something about becomes an event; a blob that nobody has is waited for until the round is over.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Final

import structlog
import trio
from eth_hash.auto import keccak

from chain import masking
from chain.claims import claim_digest
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.types import RevealClaim
from learner import manifest as manifests
from learner.errors import InvalidManifest, JobError
from learner.manifest import Manifest
from learner.protocol import Progress
from node import unixfs
from node.account import Account, QueueFull, TransactionFailed
from node.blobs import BlobError, BlobExchange, BlobStore, BlobTooLarge
from node.bounded import BoundedDict
from node.driver import Tasks
from node.jobs import JobView, Key
from node.learner_pool import JobFailed, Learner, LearnerDied, LearnerError, LearnerUnfit
from node.learner_screen import Activity
from node.preparation import Declined, judge, prepare, row_of
from node.roles import attestor, learning_server, membership, misbehaviour, worker
from node.roles.common import (
    Attest,
    FetchManifest,
    ManifestReady,
    ManifestRefused,
    SubmissionFailed,
    Submit,
    SubmitClose,
    SubmitEnd,
    SubmitExpire,
    SubmitFinalise,
    TimeReached,
    WakeAt,
)
from node.suitability import foretold_s

log = structlog.get_logger()

WORK_FAULTS: Final = (LearnerError, BlobError, OSError)
REST_MIN_S: Final = 1.0
REST_MAX_S: Final = 60.0
FAILURES_KEPT_MAX: Final = 4096
DECLINED_KEPT_MAX: Final = 4096


@dataclass
class Performer:
    """
    Args:
        key: this node's account secret; masks are signed with it.
        job: looks a job up in the finalised chain.
        attest: hands a verdict to the ledger.
        keep_score: puts a score on disk.
        clock: wall clock, unix seconds.
    """

    key: bytes
    chain_id: int
    genesis: bytes
    account: Account
    blobs: BlobStore
    exchange: BlobExchange
    learner: Learner | None
    job: Callable[[int], JobView]
    attest: Callable[[bytes, bool], None]
    keep_score: Callable[[bytes, int, int], None]
    clock: Callable[[], float]
    activity: Activity = field(default_factory=Activity)
    tasks: Tasks = field(default_factory=Tasks)
    declined: BoundedDict[int, str] = field(default_factory=lambda: BoundedDict(DECLINED_KEPT_MAX))  # why, by job
    _failures: BoundedDict[object, int] = field(default_factory=lambda: BoundedDict(FAILURES_KEPT_MAX))
    _resting: set[str] = field(default_factory=set)
    _held: dict[object, set[bytes]] = field(default_factory=dict)  # blobs that must not be evicted, by who needs them

    def __post_init__(self) -> None:
        self.activity.state = "off" if self.learner is None else "idle"

    # ---- worker -----------------------------------------------------------------------------------------------------
    async def perform_worker(self, effect: object) -> object | None:
        match effect:
            case FetchManifest():
                return await self._prepare(effect)
            case membership.Enrol():
                call = b.enrol(effect.job, effect.deposit)
                return await self._submit(f"enrol {effect.job}", call, effect)
            case membership.Leave():
                return await self._submit(f"leave {effect.job}", b.leave(effect.job), effect)
            case membership.Withdraw():
                return await self._submit(f"withdraw {effect.job}", b.withdraw(effect.job), effect)
            case membership.Decline():
                self.declined.pop(effect.job, None)
                if effect.reason:
                    self.declined[effect.job] = effect.reason
            case worker.Train():
                return await self.tasks.run(effect.key, lambda: self._guard(effect.key, self._train(effect)))
            case misbehaviour.Fabricate():
                return await self.tasks.run(effect.key, lambda: self._guard(effect.key, self._fabricate(effect)))
            case worker.Mask():
                return await self.tasks.run(effect.key, lambda: self._guard(effect.key, self._mask(effect)))
            case worker.Recover():
                return await self.tasks.run(effect.key, lambda: self._guard(effect.key, self._recover(effect)))
            case worker.SubmitCommit():
                _, r, mask = self._secrets(effect.key)
                call = b.commit(*effect.key, effect.ciphertext, keccak(r), keccak(mask))
                return await self._submit(f"commit {_slash(effect.key)}", call, effect)
            case worker.SubmitReveal():
                return await self._reveal(effect)
            case worker.SubmitAppeal():
                call = b.appeal(*effect.key, effect.bond)
                return await self._submit(f"appeal {_slash(effect.key)}", call, effect)
            case worker.PublishUpdate():
                self._publish(effect)
            case worker.Abandon():
                self.tasks.cancel(effect.key)
                self._release(effect.key)
            case _:
                return await self._perform_common(effect)
        return None

    async def _prepare(self, effect: FetchManifest) -> ManifestReady | ManifestRefused:
        """Who is not enrolled yet has the dataset before it enrols: a slot without it would only cost its stake."""
        enrolled = self.account.address in self.job(effect.job).records
        answer = await self._fetch_manifest(effect, None if enrolled else self._needed_learner())
        if isinstance(answer, ManifestReady) and not enrolled:
            try:
                dataset = await prepare(answer.manifest, effect.job, self.job, self.exchange)
                await judge(answer.manifest, dataset, self.job(effect.job), self._needed_learner())
            except (JobError, BlobError, Declined, LearnerError) as error:
                log.warning("job.declined", job=effect.job, reason=str(error))
                answer = ManifestRefused(effect.job, str(error))
        if isinstance(answer, ManifestRefused):
            self.declined[effect.job] = answer.reason
        elif self.learner is not None and self.learner.ready is not None:
            answer = replace(answer, round_s=foretold_s(answer.manifest, self.learner.ready))
        return answer

    async def _train(self, effect: worker.Train) -> worker.Trained:
        manifest = effect.manifest
        size = manifest.update_size()
        base = await self.exchange.fetch(effect.base, size, size=size)
        dataset = await self.exchange.fetch(manifest.dataset, manifest.dataset_size, size=manifest.dataset_size)
        row = await row_of(manifest, effect.key, self.exchange)
        self.activity.state, self.activity.key = "training", effect.key

        def progress(report: Progress) -> None:
            self.activity.step, self.activity.steps = report.step, report.steps

        try:
            update = await self._needed_learner().train(manifest, base, dataset, effect.batch_seed, progress, row)
        finally:
            self.activity.state, self.activity.key, self.activity.step = "idle", None, 0
        return worker.Trained(effect.key, await self._put(update, public=False, keep_for=effect.key))

    async def _fabricate(self, effect: misbehaviour.Fabricate) -> worker.Trained:
        size = self.job(effect.key.job).posted.update_size
        made_up = hashlib.shake_256(repr(effect).encode() + self.account.address).digest(size)
        return worker.Trained(effect.key, await self._put(made_up, public=False, keep_for=effect.key))

    async def _mask(self, effect: worker.Mask) -> worker.Masked:
        ctx, _, mask = self._secrets(effect.key)
        update = self.blobs.get(effect.update)
        ciphertext = masking.apply_mask(update, ctx, mask)
        return worker.Masked(effect.key, await self._put(ciphertext, public=True, keep_for=effect.key))

    async def _recover(self, effect: worker.Recover) -> worker.Trained:
        ctx, _, mask = self._secrets(effect.key)
        ciphertext = await self.exchange.fetch(effect.ciphertext, self.job(effect.key.job).posted.update_size)
        self._hold(effect.key, effect.ciphertext)
        update = masking.apply_mask(ciphertext, ctx, mask)
        return worker.Trained(effect.key, await self._put(update, public=False, keep_for=effect.key))

    async def _reveal(self, effect: worker.SubmitReveal) -> object | None:
        ctx, r, mask = self._secrets(effect.key)
        posted = self.job(effect.key.job).posted
        call = b.reveal(*effect.key, r, mask, effect.update, posted.terms.auto_finalise)
        address = self.account.address
        size = posted.update_size
        claim = RevealClaim(REPLICATED, *effect.key, address, ctx, effect.ciphertext, size, mask, effect.update)
        digest = claim_digest(claim, self.chain_id, self.genesis)
        return await self._submit(f"reveal {_slash(effect.key)}", call, effect, digest)

    def _secrets(self, key: Key) -> tuple[bytes, bytes, bytes]:
        """(ctx, R, S) of our slot: all three follow from the key, so a restart loses nothing."""
        ctx = masking.context(self.chain_id, REPLICATED, key.job, key.round, key.attempt, self.account.address)
        r = masking.derive_r(self.key, ctx)
        return ctx, r, masking.sign_mask(self.key, self.chain_id, REPLICATED, ctx, r)

    async def _guard(self, key: Key, work: Awaitable[object]) -> object:
        """Turn what may go wrong with one slot's work into an event."""
        try:
            return await work
        except WORK_FAULTS as error:
            log.warning("work.failed", key=str(key), reason=str(error))
            await self._rest(key)
            return worker.WorkFailed(key, str(error))

    # ---- learning server --------------------------------------------------------------------------------------------
    async def perform_server(self, effect: object) -> object | None:
        match effect:
            case learning_server.UnmaskModel():
                return await self._unmask(effect)
            case learning_server.Score():
                return await self._score(effect)
            case _:
                return await self._perform_common(effect)

    async def _unmask(self, effect: learning_server.UnmaskModel) -> object:
        try:
            ciphertext = await self.exchange.fetch(effect.ciphertext, effect.size, size=effect.size)
            model = await self._put(masking.apply_mask(ciphertext, effect.ctx, effect.mask), public=True)
        except BlobError as error:
            await self._rest(effect.key)
            return learning_server.StepFailed(effect.key, str(error))
        if model != effect.update:
            return learning_server.StepFailed(effect.key, "the majority's mask does not give its digest")
        return learning_server.ModelReady(effect.key)

    async def _score(self, effect: learning_server.Score) -> object:
        try:
            weights = await self.exchange.fetch(effect.update, effect.manifest.update_size())
            dataset = await self.exchange.fetch(effect.manifest.dataset, effect.manifest.dataset_size)
            self.activity.state, self.activity.key = "scoring", effect.key
            score = await self._needed_learner().evaluate(effect.manifest, weights, dataset)
        except WORK_FAULTS as error:
            log.warning("score.failed", key=str(effect.key), reason=str(error))
            await self._rest(effect.key)
            return learning_server.StepFailed(effect.key, str(error))
        finally:
            self.activity.state, self.activity.key = "idle", None
        self.keep_score(effect.update, score.correct, score.total)
        log.info("model.scored", key=str(effect.key), correct=score.correct, total=score.total)
        return learning_server.Scored(effect.key, effect.update, score.correct, score.total)

    # ---- attestor ---------------------------------------------------------------------------------------------------
    async def perform_attestor(self, effect: object) -> object | None:
        match effect:
            case attestor.FetchCiphertext():
                await self.tasks.run(("attest", effect.key), lambda: self._prefetch(effect))
            case attestor.CheckClaim():
                return await self.tasks.run(("attest", effect.key), lambda: self._check(effect))
            case Attest():
                self.attest(effect.digest, effect.verdict)
            case attestor.Forget():
                self.tasks.cancel(("attest", effect.key))
                self._release(("attest", effect.key))
        return None

    async def _prefetch(self, effect: attestor.FetchCiphertext) -> None:
        """Have the bytes before anybody may reveal; what cannot be had now is asked for again with the claim."""
        try:
            await self.exchange.fetch(effect.ciphertext, effect.size, size=effect.size)
            self._hold(("attest", effect.key), effect.ciphertext)
        except BlobError as error:
            log.info("ciphertext.missing", key=str(effect.key), reason=str(error))

    async def _check(self, effect: attestor.CheckClaim) -> attestor.ClaimChecked:
        """Recompute the fact: the ciphertext has the job's size and unmasks into the digest."""
        claim = effect.claim
        # the size is the job's: a blob of another size under this digest is as if it were not there
        ciphertext = await self.exchange.fetch(claim.ciphertext, claim.size, size=claim.size)
        update = masking.apply_mask(ciphertext, claim.ctx, claim.mask)
        verdict = await trio.to_thread.run_sync(unixfs.digest_of, update) == claim.update
        return attestor.ClaimChecked(effect.digest, verdict)

    # ---- all --------------------------------------------------------------------------------------------------------
    async def _perform_common(self, effect: object) -> object | None:
        match effect:
            case FetchManifest():
                return await self._fetch_manifest(effect)
            case SubmitFinalise():
                call = b.finalise(*effect.key, effect.stop)
                return await self._submit(f"finalise {_slash(effect.key)}", call, effect)
            case SubmitExpire():
                return await self._submit(f"expire {_slash(effect.key)} {effect.phase}", b.expire(*effect.key), effect)
            case SubmitClose():
                return await self._submit(f"close {_slash(effect.key)} {effect.phase}", b.close(*effect.key), effect)
            case Submit():
                return await self._submit(effect.tag, effect.call, effect)
            case SubmitEnd():
                return await self._submit(f"end {effect.job}", b.end(effect.job), effect)
            case WakeAt():
                await trio.sleep(max(0.0, effect.time - self.clock()))
                return TimeReached(self.clock())
            case _:
                raise AssertionError(f"nobody performs {effect!r}")

    async def _fetch_manifest(
        self, effect: FetchManifest, for_learner: Learner | None = None
    ) -> ManifestReady | ManifestRefused:
        """What is wrong with the manifest itself refuses it; what is wrong here is tried again.

        Args:
            for_learner: who would do its rounds, and may decline them.
        """
        posted = self.job(effect.job).posted
        while True:
            try:
                encoded = await self.exchange.fetch(effect.digest, manifests.MANIFEST_BYTES_MAX)
                manifest = manifests.decode(encoded)
                if manifest.update_size() != posted.update_size:
                    reason = f"a state of {manifest.update_size()} bytes, posted as {posted.update_size}"
                    raise InvalidManifest("model", reason)
                if for_learner is not None:
                    await judge(manifest, None, self.job(effect.job), for_learner)
                await self._check_base(manifest, posted.base)
            except (JobError, JobFailed, LearnerUnfit, BlobTooLarge, Declined) as error:
                log.warning("job.declined", job=effect.job, reason=str(error))
                return ManifestRefused(effect.job, str(error))
            except WORK_FAULTS as error:
                log.warning("manifest.unread", job=effect.job, reason=str(error))
                await self._rest(effect)
            else:
                return ManifestReady(effect.job, manifest)

    async def _check_base(self, manifest: Manifest, base: bytes) -> None:
        """The first base follows from the manifest: compute it rather than believe it."""
        if self.learner is None:
            return
        named, weights = manifest.weights, None
        if named is not None:
            weights = await self.exchange.fetch(named.digest, named.size, size=named.size)
        if await self._put(await self.learner.init(manifest, weights), public=True) != base:
            raise InvalidManifest("init_seed" if weights is None else "weights", "does not give the posted base")

    async def _submit(
        self, tag: str, call: b.Call, effect: object, claim: bytes | None = None
    ) -> SubmissionFailed | None:
        if tag in self._resting:
            return None  # asked for again while we wait to tell that it failed
        try:
            await self.account.submit(tag, call, claim)
        except (TransactionFailed, QueueFull) as error:
            log.warning("submission.failed", tag=tag, reason=str(error))
            self._resting.add(tag)
            try:
                await self._rest(tag)
            finally:
                self._resting.discard(tag)
            return SubmissionFailed(effect, str(error))
        return None

    async def _put(self, content: bytes, public: bool, keep_for: object | None = None) -> bytes:
        digest = await trio.to_thread.run_sync(lambda: self.blobs.put(content, public=public))
        if keep_for is not None:
            self._hold(keep_for, digest)
        return digest

    async def _rest(self, what: object) -> None:
        """Wait before a failure is told, longer each time, so that no machine spins."""
        count = self._failures.get(what, 0)
        self._failures[what] = count + 1
        await trio.sleep(min(REST_MIN_S * 2**count, REST_MAX_S))

    def _hold(self, key: object, digest: bytes) -> None:
        """Keep a blob while `key` needs it."""
        held = self._held.setdefault(key, set())
        if digest not in held:
            held.add(digest)
            self.blobs.pin(digest)

    def _release(self, key: object) -> None:
        """`key` needs its blobs no more; an update that was never published goes at once."""
        for digest in self._held.pop(key, ()):
            self.blobs.unpin(digest)
            if self.blobs.has(digest) and not self.blobs.is_public(digest):
                self.blobs.delete(digest)

    def _publish(self, effect: worker.PublishUpdate) -> None:
        try:
            self.blobs.publish(effect.update)
        except BlobError as error:  # others of the majority serve the same bytes
            log.warning("update.not_published", key=str(effect.key), reason=str(error))

    def _needed_learner(self) -> Learner:
        if self.learner is None:
            raise LearnerDied("this node has no learner")
        return self.learner


def _slash(key: Key) -> str:
    return "/".join(map(str, key))
