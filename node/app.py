"""The composition root: reads the configuration, opens the one root nursery and starts every part in it.

    p2p events ──> ledger ──> (final blocks) ──> feed ──> roles ──> performer ──> blobs, learner, account ──> ledger

Nothing here decides anything. A part that fails for a reason of the local environment stops the node with one line;
a part that fails because of us crashes it.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import trio

from chain.chain import Chain, FinalisedBlock
from chain.genesis import Network as NetworkFile
from chain.genesis import load_network
from chain.mempool import Mempool
from chain.store import Store
from chain.types import AuditClaim, Claim
from node import link as links
from node.account import Account
from node.api.backend import Backend
from node.api.http import serve_api
from node.backend import NodeBackend
from node.blobs import BlobExchange, BlobStore
from node.config import Config, load_config, require_development
from node.datasets import Datasets
from node.driver import drive
from node.faults import FAULTS, explain
from node.feed import Feed
from node.importer import parse_checkpoint
from node.journal import NAME as JOURNAL_NAME
from node.journal import Journal
from node.keys import account_address, load_account_key, load_p2p_key, peer_id
from node.learner_pool import Learner, LearnerConfig, LearnerError, open_learner
from node.ledger import TOPIC_REFUSALS, TOPIC_TRANSACTIONS, Ledger
from node.logs import configure_logging, say
from node.p2p.host import Network, run_network
from node.p2p.types import GossipReceived, MessageReceived, PeerConnected, PeerLost
from node.performer_audits import AuditingPerformer
from node.roles import attestor, auditor, learning_server, misbehaviour, worker
from node.roles.common import ChainAdvanced
from node.screen import Screen
from node.version import VERSION
from node.wire import InvalidMessage
from node.workshop import ThreadWorkshop

if TYPE_CHECKING:
    from trio_typing import TaskStatus

log = structlog.get_logger()

ROLE_EVENTS_MAX: Final = 4096
RESEND_S: Final = 2.0
WATCH_S: Final = 1.0
KNOWN_PEERS_NAME: Final = "peers.json"


def main(config_path: Path) -> int:
    """Run a node until SIGINT or SIGTERM; the process's exit code (0, 1 for a local fault, 2 for the operator's)."""
    config = load_config(config_path, os.environ)
    configure_logging(config.log)
    code = 0
    try:
        trio.run(run, config)
    except* FAULTS as group:
        if os.environ.get("FLNODE_DEBUG") and group.subgroup(OSError) is not None:
            log.error("node.failed", exc_info=group)  # the system's errors do not say which of our calls met them
        line, code = explain(group, config)
        say(f"flnode: {line}")
    return code


async def run(config: Config) -> None:
    """Run one node until it is told to stop."""
    network_file = load_network(config.network_path)
    require_development(config, network_file.name, network_file.development)
    key, p2p_seed = load_account_key(config.account_key_path), load_p2p_key(config.p2p_key_path)
    address = account_address(key)
    store = Store(config.chain_path, config.node.chain_bytes_max)
    try:
        chain = Chain(store, network_file)
        node = Node(config, store, chain, key, address)
        hello = links.hello(chain, peer_id(p2p_seed), key if config.has_role("validator") else None)
        p2p = msgspec.structs.replace(config.p2p, bootstrap=_bootstrap(config, network_file, peer_id(p2p_seed)))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
            network = await nursery.start(run_network, p2p, p2p_seed, hello, config.directory / KNOWN_PEERS_NAME)
            await node.start(nursery, network)
    finally:
        store.close()
    log.info("node.stopped")


def _bootstrap(config: Config, network: NetworkFile, own: str) -> tuple[str, ...]:
    """Whom to dial: the operator's list, the network's, and its validators; never ourselves."""
    validators = [v.p2p for v in network.validators if v.p2p is not None]
    addresses = dict.fromkeys((*config.p2p.bootstrap, *network.bootstrap, *validators))
    return tuple(address for address in addresses if not address.endswith(own))


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for number in signals:
            log.info("node.stopping", signal=signal.Signals(number).name)
            scope.cancel()


class Node:
    """One node's parts and the wires between them. Built before anything runs; `start` sets it going."""

    def __init__(self, config: Config, store: Store, chain: Chain, key: bytes, address: bytes) -> None:
        self._config, self._store, self._chain = config, store, chain
        self._key, self._address = key, address
        self._poked = trio.Event()
        self._behind = False  # the roles were not shown the newest state, since more of it was on its way
        self._roles: list[trio.MemorySendChannel[Any]] = []
        self._attestor: trio.MemorySendChannel[Any] | None = None
        self._auditor: trio.MemorySendChannel[Any] | None = None  # of a validator with a learner
        self._seat: auditor.Seated | None = None
        self._link = links.Link(chain, address)
        self._workshop = ThreadWorkshop(self._poke)
        self._feed = Feed(chain)
        self._scores = _load_scores(store)
        self._ledger = Ledger(
            chain, store, Mempool(base_fee_wei=chain.network.base_fee_wei), self._link, self._workshop, self._on_final,
            self._on_claim, self._on_refused, time.time, key if config.has_role("validator") else None,
            parse_checkpoint(config.node.checkpoint),
        )  # fmt: skip
        self._screen = Screen(self._ledger, lambda: self._feed.jobs)
        self._journal = Journal(config.directory / JOURNAL_NAME, self._ledger, self._submit, time.time)
        self._account = Account(
            key, address, chain.network.chain_id, chain.network.base_fee_wei,
            load=lambda: store.kv_get("account", address),
            store=lambda queue: store.kv_put("account", address, queue),
            check=self._ledger.check,
            send=self._submit,
            outcome=self._outcome,
        )  # fmt: skip

    async def start(self, nursery: trio.Nursery, network: Network) -> None:
        """Start every part; returns when the API is open."""
        config = self._config
        blobs = await trio.to_thread.run_sync(lambda: BlobStore(config.blobs_path, config.node.blobs_bytes_max))
        exchange: BlobExchange = await nursery.start(BlobExchange.serve, blobs, network, self._link.is_member)
        learner = await nursery.start(self._run_learner) if config.needs_learner else None
        performer = AuditingPerformer(
            self._key, self._chain.network.chain_id, self._chain.genesis_digest, self._account, blobs, exchange,
            learner,
            job=lambda job: self._feed.jobs.by_id[job],
            attest=self._attest, keep_score=self._keep_score, clock=time.time,
        )  # fmt: skip
        self._feed.replay()
        self._account.on_finalised(self._chain.nonce(self._address))
        self._start_roles(nursery, performer)
        checks = {TOPIC_TRANSACTIONS: self._screen.transactions, TOPIC_REFUSALS: self._screen.refusals}
        self._link.attach(network, checks)
        self._ledger.start(trio.current_time())
        nursery.start_soon(self._workshop.run)
        self._journal.tick()
        nursery.start_soon(self._pump, network)
        nursery.start_soon(self._keep_time)
        nursery.start_soon(self._resend)
        backend: Backend = NodeBackend(
            config, self._chain, self._ledger, self._link, self._feed, network, self._account, self._journal, blobs,
            performer, Datasets(self._store, blobs, exchange), self._scores, nursery.cancel_scope.cancel, time.time,
            time.time(),
        )  # fmt: skip
        await nursery.start(serve_api, config, backend)
        nursery.start_soon(_watch, backend)
        log.info("node.started", version=VERSION, address="0x" + self._address.hex(), roles=list(config.node.roles))
        self._advance_roles()

    # ---- roles ------------------------------------------------------------------------------------------------------
    def _start_roles(self, nursery: trio.Nursery, performer: AuditingPerformer) -> None:
        config = self._config
        if config.has_role("worker"):
            steps = {"none": worker.step, "lazy": misbehaviour.step_lazy, "copier": misbehaviour.step_copier}
            state = worker.WorkerState(
                self._address,
                config.worker.enrol,
                config.worker.deposit_stakes,
                config.worker.deposit_gwei_max * 10**9,
                config.audit.appeal_gwei_max * 10**9,
            )
            step = steps[config.misbehaviour.behaviour]
            self._start_role(nursery, "worker", step, state, performer.perform_worker)
        if config.has_role("learning_server"):
            server = learning_server.ServerState(self._address, scores=dict(self._scores))
            self._start_role(nursery, "learning_server", learning_server.step, server, performer.perform_server)
        if config.has_role("validator"):
            self._attestor = self._start_role(
                nursery, "attestor", attestor.step, attestor.AttestorState(), performer.perform_attestor
            )
            if performer.learner is not None:
                auditing = auditor.AuditorState(config.audit.fee_gwei_min * 10**9)
                self._auditor = self._start_role(
                    nursery, "auditor", auditor.step, auditing, performer.perform_auditor
                )

    def _start_role(self, nursery: trio.Nursery, name: str, step: Any, state: Any, perform: Any) -> Any:
        send, receive = trio.open_memory_channel[Any](ROLE_EVENTS_MAX)
        self._roles.append(send)
        nursery.start_soon(drive, name, step, state, receive, send, perform)
        return send

    def _advance_roles(self) -> None:
        """Show the roles the newest state, unless we know that it is an old one."""
        self._behind = self._ledger.catching_up
        if self._behind:
            return
        event = ChainAdvanced(self._feed.jobs, time.time())
        validators = self._chain.epochs.present.validators
        if self._auditor is not None and self._address in validators:
            seat = auditor.Seated(validators.index(self._address), len(validators))
            if seat != self._seat:
                self._seat = seat
                _offer(self._auditor, seat)
        for role in self._roles:
            _offer(role, event)

    async def _run_learner(self, *, task_status: TaskStatus[Learner] = trio.TASK_STATUS_IGNORED) -> None:
        config = LearnerConfig(self._config.learner_path, **msgspec.structs.asdict(self._config.learner))
        async with open_learner(config, lambda line: log.info("learner.said", line=line)) as learner:
            task_status.started(learner)
            try:
                ready = await learner.describe()  # starts the process now, so that the first round need not wait
                log.info("learner.ready", device=ready.device, torch=ready.torch, walls=ready.walls)
                if ready.walls.missing:
                    log.warning("walls.missing", sandbox=config.sandbox, missing=ready.walls.missing)
            except LearnerError as error:
                log.error("learner.failed", reason=str(error))
            await trio.sleep_forever()

    # ---- the ledger's surroundings ----------------------------------------------------------------------------------
    async def _pump(self, network: Network) -> None:
        """Everything that the network tells goes to the ledger, one thing at a time."""
        async for event in network.events:
            now = trio.current_time()
            match event:
                case PeerConnected(peer=peer, hello=greeting):
                    try:
                        self._ledger.peer_connected(peer, self._link.admit(peer, greeting), now)
                    except InvalidMessage as error:
                        network.turn_away(peer, str(error))
                case PeerLost(peer=peer):
                    if self._link.lose(peer):
                        self._ledger.peer_lost(peer, now)
                case MessageReceived(peer=peer) if self._link.is_member(peer):
                    self._ledger.receive(peer, self._link.index_of(peer), event.kind, event.payload, now)
                case GossipReceived(peer=peer):
                    self._ledger.receive_gossip(peer, self._link.topic_of(event.topic), event.payload, now)
            self._poke()

    async def _keep_time(self) -> None:
        """Call the ledger when it has something due."""
        while True:
            deadline = self._ledger.deadline
            with trio.move_on_at(trio.current_time() + 3600 if deadline is None else deadline):
                await self._poked.wait()
            self._poked = trio.Event()
            if (deadline := self._ledger.deadline) is not None and trio.current_time() >= deadline:
                self._ledger.tick(trio.current_time())
                self._poke()

    async def _resend(self) -> None:
        while True:
            await trio.sleep(RESEND_S)
            self._account.resend()
            self._journal.tick()

    def _poke(self) -> None:
        """The ledger was called: it may have other deadlines now, or have caught up."""
        self._poked.set()
        if self._behind and not self._ledger.catching_up:
            self._advance_roles()

    def _submit(self, raws: list[bytes]) -> None:
        for raw in raws:
            self._ledger.submit(raw, trio.current_time())
        self._poke()

    def _attest(self, claim: bytes, verdict: bool) -> None:
        self._ledger.attest(claim, verdict, trio.current_time())
        self._poke()

    # ---- what the ledger tells --------------------------------------------------------------------------------------
    def _on_final(self, blocks: list[FinalisedBlock]) -> None:
        self._feed.apply(blocks, time.time())
        self._account.on_finalised(self._chain.nonce(self._address))
        self._advance_roles()

    def _on_claim(self, digest: bytes, claim: Claim) -> None:
        if isinstance(claim, AuditClaim):
            if self._auditor is not None:
                _offer(self._auditor, auditor.VerdictFound(digest, claim))
        elif self._attestor is not None:
            _offer(self._attestor, attestor.ClaimFound(digest, claim))

    def _on_refused(self, claim: bytes) -> None:
        self._screen.forget_claiming(claim)
        self._account.on_refused(claim)

    def _outcome(self, transaction: bytes) -> bool | None:
        receipt = self._chain.receipt(transaction)
        return None if receipt is None else receipt.succeeded

    def _keep_score(self, update: bytes, correct: int, total: int) -> None:
        self._scores[update] = (correct, total)
        self._store.kv_put("scores", update, msgspec.msgpack.encode((correct, total)))


async def _watch(backend: Backend) -> None:
    """Log what the node waits for. Asking also sets the time from which the backend counts the wait."""
    known = None
    while True:
        waiting = (await backend.status()).waiting_for
        kind = None if waiting is None else waiting.partition(":")[0]
        if kind != known:
            log.info("node.waiting", reason=waiting or "nothing any more")
            known = kind
        await trio.sleep(WATCH_S)


def _offer(role: trio.MemorySendChannel[Any], event: object) -> None:
    """Feed a role without waiting; one that is so far behind will see the next block."""
    try:
        role.send_nowait(event)
    except trio.WouldBlock:
        log.warning("role.behind", event=type(event).__name__)


def _load_scores(store: Store) -> dict[bytes, tuple[int, int]]:
    return {key: msgspec.msgpack.decode(value, type=tuple[int, int]) for key, value in store.kv_items("scores")}
