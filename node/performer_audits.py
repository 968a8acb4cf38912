"""Carries out what the auditor asks for, beside all that other roles ask for."""

from __future__ import annotations

from typing import Final

import structlog
import trio

from chain.claims import claim_digest
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.masking import audit_context
from chain.types import AuditClaim
from learner import data
from learner import manifest as manifests
from learner.errors import InvalidManifest, JobError
from learner.manifest import Manifest
from node import unixfs
from node.blobs import BlobTooLarge
from node.learner_pool import JobFailed, LearnerUnfit
from node.performer import WORK_FAULTS, Performer
from node.preparation import Declined, judge, row_of
from node.roles import auditor
from node.roles.common import Attest
from node.suitability import foretold_s

log = structlog.get_logger()

# What another attempt would not change.
_HOPELESS: Final = (JobError, JobFailed, LearnerUnfit, BlobTooLarge, Declined)


class AuditingPerformer(Performer):
    """A performer whose learner also computes audited rounds again."""

    async def perform_auditor(self, effect: object) -> object | None:
        match effect:
            case auditor.Recompute():
                return await self.tasks.run(("audit", effect.work.key), lambda: self._recompute(effect.work))
            case auditor.CancelRecompute():
                self.tasks.cancel(("audit", effect.key))
            case auditor.SubmitResolve():
                return await self._resolve(effect)
            case Attest():
                self.attest(effect.digest, effect.verdict)
            case _:
                return await self._perform_common(effect)
        return None

    async def _recompute(self, work: auditor.Work) -> auditor.Recomputed | auditor.RecomputeFailed:
        try:
            update = await self._train_again(work)
        except _HOPELESS as error:
            log.warning("audit.unknown", key=str(work.key), reason=str(error))
            return auditor.RecomputeFailed(work, True, str(error))
        except WORK_FAULTS as error:
            log.warning("audit.failed", key=str(work.key), reason=str(error))
            await self._rest(work)
            return auditor.RecomputeFailed(work, False, str(error))
        log.info("audit.recomputed", key=str(work.key), update=update.hex())
        return auditor.Recomputed(work, update)

    async def _train_again(self, work: auditor.Work) -> bytes:
        """One round of training, as the claim states it: nothing is taken from what any worker said.

        Raises:
            WORK_FAULTS, JobError, Declined
        """
        learner = self._needed_learner()
        manifest = manifests.decode(await self.exchange.fetch(work.manifest, manifests.MANIFEST_BYTES_MAX))
        if manifest.update_size() != work.size:
            raise InvalidManifest("model", f"a state of {manifest.update_size()} bytes, posted as {work.size}")
        job = self.job(work.key.job)
        takes_s, window_s = foretold_s(manifest, await learner.describe()), job.posted.terms.audit_window_s
        if takes_s > window_s:  # nobody would be paid for it
            raise Declined(f"an audit takes about {takes_s:.3g} s here; its window is {window_s} s")
        base = await self.exchange.fetch(work.base, work.size, size=work.size)
        dataset = await self._dataset(manifest)
        await judge(manifest, await trio.to_thread.run_sync(data.decode, dataset), job, learner)
        row = await row_of(manifest, work.key, self.exchange)
        self.activity.state, self.activity.key = "auditing", work.key
        try:
            update = await learner.train(manifest, base, dataset, work.batch_seed, row=row)
        finally:
            self.activity.state, self.activity.key = "idle", None
        return await trio.to_thread.run_sync(unixfs.digest_of, update)

    async def _dataset(self, manifest: Manifest) -> bytes:
        return await self.exchange.fetch(manifest.dataset, manifest.dataset_size, size=manifest.dataset_size)

    async def _resolve(self, effect: auditor.SubmitResolve) -> object | None:
        work, key = effect.work, effect.work.key
        call = b.resolve(*key, effect.update, self.job(key.job).posted.terms.auto_finalise)
        ctx = audit_context(self.chain_id, REPLICATED, *key)
        claim = AuditClaim(
            REPLICATED, *key, ctx, work.manifest, work.base, work.batch_seed, work.size, effect.update
        )  # fmt: skip
        digest = claim_digest(claim, self.chain_id, self.genesis)
        return await self._submit(f"resolve {'/'.join(map(str, key))}", call, effect, digest)
