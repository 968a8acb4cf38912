"""The node as its API sees it (node.api.backend.Backend): frozen facts in, schema structs out."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeVar

import trio

from chain.chain import Chain
from chain.contracts import bindings as b
from learner import manifest as manifests
from learner.card import Card
from learner.errors import InvalidManifest
from learner.manifest import Manifest
from node import job_manifest, job_screen, peer_screen
from node.account import Account, QueueFull, Receipt, TransactionFailed
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.blobs import BlobError, BlobStore, BlobStoreFull
from node.config import Config
from node.datasets import Datasets
from node.feed import Feed
from node.jobs import JobView
from node.journal import Journal, JournalFull
from node.learner_pool import LearnerError
from node.learner_screen import learner_info
from node.ledger import Ledger
from node.link import Link
from node.memory import resident_bytes
from node.models import Models
from node.outcome import submitted
from node.p2p.host import Network
from node.performer import Performer
from node.validator_set import ValidatorSet
from node.version import VERSION

T = TypeVar("T")

GAS_SEND: Final = 21_000


@dataclass
class NodeBackend:
    """Implements Backend; see there for what each method promises."""

    config: Config
    chain: Chain
    ledger: Ledger
    link: Link
    feed: Feed
    network: Network
    account_queue: Account
    journal: Journal
    blobs: BlobStore
    performer: Performer
    named: Datasets
    scores: dict[bytes, tuple[int, int]]
    request_stop: Callable[[], None]
    clock: Callable[[], float]
    started_at: float
    _waiting: tuple[str, float] | None = None
    _asked_at: int = -1
    _answers: dict[bytes, bytes] = field(default_factory=dict)

    # ---- reads ------------------------------------------------------------------------------------------------------
    def pending_nonce(self, address: bytes) -> int:
        return self.ledger.mempool.next_nonce(address, self.chain.nonce(address))

    async def submit_transaction(self, raw: bytes) -> bytes:
        try:
            return self.journal.submit(raw)
        except JournalFull as error:
            raise BackendError(str(error)) from None
        except OSError as error:
            raise BackendError(f"it is on its way, but cannot be kept: {error.strerror or error}") from None

    async def status(self) -> schema.Status:
        chain, ledger = self.chain, self.ledger
        final = chain.finalised
        machine = None if ledger.validator is None else ledger.validator.machine
        head = final if machine is None or not chain.has(machine.tip.digest) else chain.head(machine.tip.digest)
        address = self.account_queue.address
        jobs = self.feed.jobs.by_id.values()
        waiting = self._waits_for()
        return schema.Status(
            version=VERSION,
            network=chain.network.name,
            chain_id=chain.network.chain_id,
            genesis=_hex(chain.genesis_digest),
            address=_hex(address),
            peer_id=self.network.peer_id,
            addresses=list(self.network.addresses),
            roles=list(self.config.node.roles),
            uptime_s=round(self.clock() - self.started_at, 3),
            head=schema.HeadInfo(head.number, _hex(head.digest), head.timestamp),
            finalised_head=schema.HeadInfo(final.number, _hex(final.digest), final.timestamp),
            epoch=chain.epochs.present.number,
            view=final.view if machine is None else machine.view,
            validators=len(chain.epochs.present.validators),
            peers=self.link.members,
            validators_connected=self.link.validators_connected + (machine is not None),
            pending_transactions=len(ledger.mempool),
            jobs=schema.JobsInfo(
                open=sum(job.ended is None for job in jobs),
                ended=sum(job.ended is not None for job in jobs),
                owned=sum(job.owner == address for job in jobs),
                enrolled=sum(address in job.records and job.records[address].enrolled for job in jobs),
            ),
            balance_wei=str(chain.balance(address)),
            learner=learner_info(self.performer.activity, self.performer.learner),
            memory=schema.MemoryInfo(resident_bytes(os.getpid()), resident_bytes(self._learner_pid())),
            waiting_for=None if waiting is None else waiting[0],
            waiting_since_s=None if waiting is None else round(self.clock() - waiting[1], 1),
            refused=dict(ledger.refused),
            declined={str(job.job): why for job in jobs if job.ended is None and (why := self._declined(job))},
        )

    async def peers(self) -> list[schema.Peer]:
        return peer_screen.peers(self.network, self.link, self.chain.epochs.present.validators)

    async def known_peers(self) -> list[schema.KnownPeer]:
        return peer_screen.known_peers(self.network, self.clock())

    def _validators_connected(self) -> dict[str, bytes]:
        """The accounts of the peers that proved a validator's key, by peer."""
        addresses = self.chain.epochs.present.validators
        indices = {info.peer: self.link.index_of(info.peer) for info in self.network.peers()}
        return {peer: addresses[index] for peer, index in indices.items() if index is not None}

    async def jobs(self) -> list[schema.JobSummary]:
        return [job_screen.summary(job, self.scores) for _, job in sorted(self.feed.jobs.by_id.items(), reverse=True)]

    async def job(self, job: int) -> schema.JobDetail:
        found = self._find(job)
        return job_screen.detail(found, self._known(found))

    async def job_events(self, job: int, after: int, wait_s: float) -> schema.JobEvents:
        self._find(job)
        events = self.feed.events(job, after)
        with trio.move_on_after(wait_s):
            while not events:
                await self.feed.changed()
                events = self.feed.events(job, after)
        return schema.JobEvents(events, events[-1].sequence if events else after)

    async def account(self) -> schema.Account:
        address = self.account_queue.address
        deposits = []
        for job in self.feed.jobs.by_id.values():
            if address in job.records:
                free, locked = self._deposit(job, address)
                deposits.append(schema.Deposit(job.job, job.records[address].enrolled, str(free), str(locked)))
        owed = self._view(b.balance_view(address))
        return schema.Account(
            address=_hex(address),
            nonce=self.chain.nonce(address),
            balance_wei=str(self.chain.balance(address)),
            withdrawable_wei=str(owed),
            deposits=deposits,
            pending_transactions=self.account_queue.pending,
        )

    async def datasets(self) -> list[schema.DatasetInfo]:
        return self.named.list()

    async def dataset(self, dataset: str) -> schema.DatasetInfo:
        return await self.named.info(dataset)

    async def blob_part(self, digest: bytes, index: int) -> schema.BlobPart:
        if not self.blobs.is_public(digest):
            raise NotFound(f"blob {digest.hex()} is not here")
        try:
            leaf = await trio.to_thread.run_sync(self.blobs.leaf, digest, index)
            return schema.BlobPart(self.blobs.size(digest), leaf)
        except (BlobError, IndexError) as error:
            raise BackendError(str(error) or "no such part") from None

    async def validators(self) -> schema.Validators:
        return self._validator_set(0).show()

    # ---- changes ----------------------------------------------------------------------------------------------------
    async def submit_job(self, spec: schema.JobSpec, wait_s: float) -> schema.Submitted:
        learner = self.performer.learner
        if learner is None:
            raise BackendError("this node has no learner; post the job at a learning server")
        found = await job_manifest.describe(spec, self.named, self.blobs, self.performer.exchange)
        manifest = found.manifest
        terms = job_screen.contract_terms(spec.terms)
        if terms.auto_finalise and manifest.goal is not None:
            raise BackendError("with auto_finalise no round can be scored before it ends: leave one of the two out")
        if (balance := self.chain.balance(self.account_queue.address)) < terms.escrow:
            raise BackendError(
                f"the escrow, (reward x slots + audit_fee) x rounds_max, is {terms.escrow} wei, and the account has "
                f"{balance} wei: lower one of these in the job file, or send coins to the account"
            )
        try:
            base = self.blobs.put(await learner.init(manifest, found.weights), public=True)
            digest = self.blobs.put(manifest.encode(), public=True)
        except (LearnerError, BlobStoreFull) as error:
            raise BackendError(str(error)) from None
        seed = hashlib.sha256(b"flnode/batches/1" + manifest.init_seed).digest()
        call = b.post(digest, base, manifest.update_size(), seed, terms)
        return await self._send(f"post {digest.hex()} {time.time_ns()}", call, wait_s)

    async def cancel_job(self, job: int, wait_s: float) -> schema.Submitted:
        if self._find_open(job).owner != self.account_queue.address:
            raise BackendError(f"job {job} belongs to another account; only its owner may cancel it")
        return await self._send(f"cancel {job}", b.cancel(job), wait_s)

    async def appeal_job(self, job: int, wait_s: float) -> schema.Submitted:
        found = self._find_open(job)
        view = None if found.current is None else found.open.get(found.current)
        if view is None or self.clock() >= view.appeals_until(found.posted.terms):
            raise BackendError(f"no majority of job {job} may be appealed against now")
        call = b.appeal(*view.key, found.posted.terms.appeal_bond)
        return await self._send("appeal " + "/".join(map(str, view.key)), call, wait_s)

    async def top_up_job(self, job: int, rounds: int, wait_s: float) -> schema.Submitted:
        call = b.top_up(job, rounds, self._find_open(job).posted.terms)
        return await self._send(f"top up {job} {time.time_ns()}", call, wait_s)

    async def withdraw(self, wait_s: float) -> schema.Submitted:
        address = self.account_queue.address
        mine = [job for job in self.feed.jobs.by_id.values() if address in job.records or job.owner == address]
        if not mine:
            raise BackendError("this account has taken part in no job, so the contract owes it nothing")
        result: schema.Submitted | None = None
        for job in sorted(mine, key=lambda each: each.ended is None):
            if result is None or address in job.records:
                result = await self._send(f"withdraw {job.job} {time.time_ns()}", b.withdraw(job.job), wait_s)
        assert result is not None
        return result

    async def send(self, to: bytes, value: int, wait_s: float) -> schema.Submitted:
        return await self._send(f"send {time.time_ns()}", b.Call(to, value, b"", GAS_SEND), wait_s)

    async def propose_validator(self, subject: bytes, admit: bool, wait_s: float) -> schema.Submitted:
        return await self._validator_set(wait_s).propose(subject, admit)

    async def approve_validator(self, proposal: int, wait_s: float) -> schema.Submitted:
        return await self._validator_set(wait_s).approve(proposal)

    def _validator_set(self, wait_s: float) -> ValidatorSet:
        connected = self._validators_connected().values()
        return ValidatorSet(
            self.chain, self.account_queue.address, connected, lambda tag, call: self._send(tag, call, wait_s)
        )

    async def add_dataset(self, path: str, name: str, card: Card, replace: bool) -> schema.DatasetInfo:
        return await self.named.add(path, name, card, replace)

    async def model(self, job: int, round: int | None, wait_s: float) -> schema.ModelInfo:
        return await self._models().info(self._find(job), round, wait_s)

    async def predict(self, job: int, round: int | None, path: str, wait_s: float) -> schema.Prediction:
        return await self._models().predict(self._find(job), round, path, wait_s)

    def _models(self) -> Models:
        return Models(self.performer.exchange, self.named, self.performer.learner, self.scores)

    async def stop(self) -> schema.Stopping:
        self.request_stop()
        return schema.Stopping(os.getpid())

    async def _send(self, tag: str, call: b.Call, wait_s: float) -> schema.Submitted:
        """Queue a transaction and wait for it up to wait_s; it goes on by itself after that."""
        receipt: Receipt | None = None
        try:
            with trio.move_on_after(wait_s):
                receipt = await self.account_queue.submit(tag, call)
        except (TransactionFailed, QueueFull) as error:
            raise BackendError(f"the transaction failed: {error}") from None
        if receipt is None:
            return schema.Submitted(_hex(self.account_queue.hash_of(tag) or b""), final=False)
        done = self.chain.receipt(receipt.transaction)
        return submitted(receipt.transaction, () if done is None else done.logs)

    # ---- jobs -------------------------------------------------------------------------------------------------------
    def _find(self, job: int) -> JobView:
        found = self.feed.jobs.by_id.get(job)
        if found is None:
            raise NotFound(f"there is no job {job}; `flnode job list` shows those that are known")
        return found

    def _find_open(self, job: int) -> JobView:
        found = self._find(job)
        if found.ended is not None:
            raise BackendError(f"job {job} has ended ({found.ended})")
        return found

    def _known(self, job: JobView) -> job_screen.Known:
        return job_screen.Known(
            scores=self.scores,
            manifest=self._manifest_of(job),
            missing=self._missing(),
            deposit=lambda worker: self._deposit(job, worker),
            escrow=self._view(b.job_view(job.job)).escrow,
            posted_at=self.chain.timestamp(job.posted_in),
            declined=self._declined(job),
            seen_at={number: at for (its_job, number), at in self.feed.seen_at.items() if its_job == job.job},
        )

    def _declined(self, job: JobView) -> str | None:
        return self.performer.declined.get(job.job)

    def _manifest_of(self, job: JobView) -> Manifest | None:
        """None while it is not here."""
        try:
            return manifests.decode(self.blobs.get(job.posted.manifest))
        except (BlobError, InvalidManifest):
            return None

    def _missing(self) -> dict[bytes, str]:
        """The CIDs of blobs that are wanted here and no connected peer has, by digest."""
        return self.performer.exchange.waiting_cids() if self.link.members else {}

    def _deposit(self, job: JobView, worker: bytes) -> tuple[int, int]:
        """(free, locked) wei of a worker's standing deposit."""
        held = self._view(b.enrolment_view(job.job, worker))
        return held.free, (held.tail - held.head) * job.posted.terms.stake

    def _view(self, query: b.Query[T]) -> T:
        """Ask the contract; the same question twice at one height is answered from memory."""
        if self._asked_at != self.chain.finalised.number:
            self._asked_at, self._answers = self.chain.finalised.number, {}
        if query.data not in self._answers:
            self._answers[query.data] = self.chain.call(query.to, query.data)
        return query.decode(self._answers[query.data])

    # ---- status -----------------------------------------------------------------------------------------------------
    def _waits_for(self) -> tuple[str, float] | None:
        """What the node needs from others before it can go on, and since when (unix seconds)."""
        epoch = self.chain.epochs.present
        connected = self.link.validators_connected + (self.ledger.validator is not None)
        what = None
        if connected < epoch.quorum:
            what = f"validators: {connected} of {len(epoch.validators)} reached, {epoch.quorum} needed"
        elif self.ledger.target > self.chain.finalised.number + 1:
            what = f"catching up: block {self.chain.finalised.number} of {self.ledger.target}"
        elif self.ledger.validator is not None and not self.ledger.validator.machine.remembers:
            what = "vote log: it was lost; this validator votes again when a quorum of others has said where they are"
        elif self.config.has_role("validator") and self.ledger.validator is None:
            what = "validators: this node's account is not among them; `flnode validator propose` on one that is"
        elif missing := self._missing():
            what = self._missing_in_words(missing)
        if what is None:
            self._waiting = None
        elif self._waiting is None or self._waiting[0].split(":")[0] != what.split(":")[0]:
            self._waiting = (what, self.clock())
        else:
            self._waiting = (what, self._waiting[1])
        return self._waiting

    def _missing_in_words(self, missing: dict[bytes, str]) -> str:
        """The blob that is waited for longest; a dataset before it, because a person can do something about that."""
        known = [self._manifest_of(job) for job in self.feed.jobs.by_id.values() if job.ended is None]
        for manifest in known:
            if manifest is not None and manifest.dataset in missing:
                return f"dataset {missing[manifest.dataset]}: {job_screen.NOWHERE}"
        return f"blob {next(iter(missing.values()))}: {job_screen.NOWHERE}"

    def _learner_pid(self) -> int | None:
        return None if self.performer.learner is None else self.performer.learner.pid




def _hex(data: bytes) -> str:
    return "0x" + data.hex()
