"""The shell around the pure consensus machine: signatures, execution, disk and wire of one validator.

Everything is called from the ledger, one event at a time; nothing here awaits. What the machine asks for is done in
the order in which it asks, and votes are on disk before anything that follows them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

import structlog

from chain import certificate, claims, consensus, messages
from chain.chain import Chain, FinalisedBlock
from chain.mempool import Mempool
from chain.store import Store
from chain.types import Block, Certificate, Claim, InvalidBlock, InvalidVote, Transaction, UnknownParent, VoteKind

log = structlog.get_logger()

LINGER_S: Final = 0.01  # on an idle chain: lets transactions that arrive together share a block
CLAIMS_KNOWN_MAX: Final = 8192


class ValidatorWire(Protocol):
    """The streams to the other validators."""

    def to_validator(self, index: int, kind: str, payload: bytes) -> None: ...

    def to_validators(self, kind: str, payload: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class _Evaluated:
    """What could stand in a block on `tip`, and how much was known then."""

    tip: bytes
    version: tuple[int, int]  # of the mempool; how many attestations had come in
    ready: tuple[Transaction, ...]


@dataclass(frozen=True, slots=True)
class _Claiming:
    """A transaction that logs claims without a quorum when it is executed on `tip`; on another it may log none."""

    tip: bytes
    claims: frozenset[bytes]


class Validator:
    """One validator's part in consensus.

    Args:
        key: the secp256k1 secret; `index` its place in the epoch's validator list.
        attested: what is known of claims, shared with the ledger.
        on_final: called for every block that became final, oldest first.
        on_claim: called once for each claim of an executable transaction that lacks its quorum.
        clock: wall clock, unix seconds, for block timestamps; every `now` is monotonic.
    """

    def __init__(
        self,
        chain: Chain,
        store: Store,
        mempool: Mempool,
        attested: claims.Attestations,
        key: bytes,
        index: int,
        wire: ValidatorWire,
        on_final: Callable[[list[FinalisedBlock]], None],
        on_claim: Callable[[bytes, Claim], None],
        clock: Callable[[], float],
    ) -> None:
        self._chain, self._store, self._mempool, self._attested = chain, store, mempool, attested
        self._key, self._index, self._wire = key, index, wire
        self._on_final, self._on_claim, self._clock = on_final, on_claim, clock
        network = chain.network
        self._addresses = network.validator_addresses
        self._quorum = network.quorum_size
        self._claims: dict[bytes, _Claiming] = {}  # by transaction
        self._evaluate_at: float | None = None
        self._attestations_seen = 0
        self._evaluated: _Evaluated | None = None
        self._wake: float | None = None
        self._machine = self._new_machine()

    # ---- what the ledger tells us -----------------------------------------------------------------------------------
    def start(self, now: float) -> None:
        self._step(consensus.Started(), now)

    def restart(self, now: float) -> None:
        """The finalised chain was caught up by other means: begin again above it, with the votes that are on disk."""
        self._machine = self._new_machine()
        self._evaluated = None
        self.start(now)

    def receive(self, sender: int, payload: bytes, now: float) -> None:
        """A consensus message of validator `sender`. Raises InvalidVote, InvalidBlock: malformed or wrongly signed."""
        message = messages.decode(payload)
        for block in messages.blocks_of(message):
            self._chain.check_identity(block)
        self._verify(message)
        if isinstance(message, consensus.WantBlock) and message.digest not in self._machine.blocks:
            if (found := self._chain.executed_block(message.digest)) is not None:
                self._send(sender, consensus.HaveBlock(found))
            return
        self._step(consensus.Received(sender, message), now)

    def pool_changed(self, now: float) -> None:
        """A transaction came in: there may be work now."""
        if self._evaluate_at is None and not self._machine.pending:
            self._evaluate_at = now + LINGER_S

    def attested(self, now: float) -> None:
        """A verdict came in: a transaction may be ready now."""
        self._attestations_seen += 1
        self.pool_changed(now)

    def connected(self, index: int, now: float) -> None:
        """Another validator can be reached (again)."""
        self._step(consensus.Connected(index), now)

    def tick(self, now: float) -> None:
        if self._evaluate_at is not None and now >= self._evaluate_at:
            self._evaluate_at = None
            self._step_if_changed(now)
        if self._wake is not None and now >= self._wake:
            self._wake = None
            self._step(consensus.Ticked(), now)

    @property
    def deadline(self) -> float | None:
        times = [t for t in (self._evaluate_at, self._wake) if t is not None]
        return min(times, default=None)

    @property
    def machine(self) -> consensus.Simplex:
        """For status only."""
        return self._machine

    def transactions_claiming(self, claim: bytes) -> list[bytes]:
        """The pooled transactions that are known to log a claim."""
        return [tx for tx, found in self._claims.items() if claim in found.claims]

    # ---- the machine ------------------------------------------------------------------------------------------------
    def _new_machine(self) -> consensus.Simplex:
        votes, blocks = self._store.votes_and_blocks()
        network = self._chain.network
        return consensus.Simplex(
            validators=len(self._addresses),
            me=self._index,
            epoch=self._chain.finalised.epoch,
            delta_s=network.block_delay_s,
            final=self._chain.final_block,
            final_certificate=self._chain.finalised_certificate,
            votes=votes,
            blocks=blocks,
            quorum=self._quorum,
            sign=self._sign,
        )

    def _sign(self, epoch: int, view: int, kind: VoteKind, digest: bytes) -> bytes:
        return certificate.sign_vote(
            self._key, self._chain.network.chain_id, self._chain.genesis_digest, epoch, view, kind, digest
        )

    def _verify(self, message: consensus.Message) -> None:
        chain_id, genesis = self._chain.network.chain_id, self._chain.genesis_digest
        for vote in messages.votes_of(message):
            certificate.verify_vote(vote, self._addresses, chain_id, genesis)
        for each in messages.certificates_of(message):
            certificate.verify_certificate(each, self._addresses, self._quorum, chain_id, genesis)

    def _step_if_changed(self, now: float) -> None:
        pending = self._is_pending()
        if pending != self._machine.pending:
            self._step(consensus.WorkChanged(pending), now)

    def _step(self, event: consensus.Event, now: float) -> None:
        """Feed the machine, carry out what it asks for, until it rests."""
        todo: deque[consensus.Event] = deque([event])
        while todo:
            effects = deque(self._machine.step(todo.popleft(), now))
            while effects:
                answer = self._carry_out(effects)
                if answer is not None:
                    todo.append(answer)
            if not todo and (pending := self._is_pending()) != self._machine.pending:
                todo.append(consensus.WorkChanged(pending))

    def _carry_out(self, effects: deque[consensus.Effect]) -> consensus.Event | None:
        match effects.popleft():
            case consensus.PersistVote() as first:
                batch = [(first.vote, first.block)]
                while effects and isinstance(effects[0], consensus.PersistVote):
                    follower = effects.popleft()
                    assert isinstance(follower, consensus.PersistVote)
                    batch.append((follower.vote, follower.block))
                self._store.log_votes(batch)
                for vote, _ in batch:
                    log.debug("vote.persisted", view=vote.view, kind=vote.kind)
            case consensus.Send(to=to, message=message):
                self._send(to, message)
            case consensus.BuildBlock() as wanted:
                return consensus.Built(wanted.view, self._build(wanted))
            case consensus.CheckBlock(block=block, notarised=notarised):
                return consensus.Checked(block.digest, self._check(block, notarised))
            case consensus.Finalised(blocks=blocks, certificate=proof):
                self._finalise(list(blocks), proof)
            case consensus.WakeAt(time=time):
                self._wake = time
        return None

    def _send(self, to: int | None, message: consensus.Message) -> None:
        payload = messages.encode(message)
        if to is None:
            self._wire.to_validators("consensus", payload)
        else:
            self._wire.to_validator(to, "consensus", payload)

    # ---- blocks -----------------------------------------------------------------------------------------------------
    def _build(self, wanted: consensus.BuildBlock) -> Block | None:
        if wanted.view != self._machine.view or not self._chain.has(wanted.parent.digest):
            return None
        work = self._evaluate(wanted.parent.digest)
        if not work.ready and not wanted.empty:
            return None
        now = int(self._clock())
        block = self._chain.build(
            wanted.parent.digest, wanted.view, self._machine.epoch, work.ready, now, self._key, self._attested.quorum
        )
        log.debug("block.built", number=block.height, view=block.view, transactions=len(work.ready))
        beside = self._attested.beside(self._chain.claim_digest(claim) for claim in self._chain.claims(block.digest))
        return replace(block, attestations=beside)

    def _check(self, block: Block, notarised: bool) -> bool:
        """Execute a proposal; of one that is not notarised yet every claim must be attested beside it."""
        try:
            self._chain.add(block, None if notarised else int(self._clock()))
            if not notarised:
                self._check_claims(block)
        except (InvalidBlock, UnknownParent) as error:
            log.warning("block.refused", view=block.view, reason=str(error))
            return False
        return True

    def _check_claims(self, block: Block) -> None:
        """Raises InvalidBlock unless a quorum of attestations stands beside the block for each of its claims."""
        wanted = {self._chain.claim_digest(claim) for claim in self._chain.claims(block.digest)}
        for attestation in block.attestations:
            if attestation.claim not in wanted or attestation in self._attested.of(attestation.claim):
                continue
            try:
                claims.verify_attestation(attestation, self._addresses)
            except InvalidVote as error:
                raise InvalidBlock(block.digest, str(error)) from None
            self._attested.add(attestation)
        for claim in wanted:
            if not claims.has_quorum(block.attestations, claim, self._quorum):
                raise InvalidBlock(block.digest, "a claim lacks its quorum of attestations")

    def _finalise(self, blocks: list[Block], proof: Certificate) -> None:
        finalised = self._chain.finalise(blocks, proof)
        for block in finalised:
            for transaction in block.transactions:
                self._claims.pop(transaction, None)
        self._on_final(finalised)

    # ---- work -------------------------------------------------------------------------------------------------------
    def _is_pending(self) -> bool:
        """Whether a transaction is executable on the tip with all its claims attested."""
        tip = self._machine.tip.digest
        seen = self._evaluated
        if not self._chain.has(tip):
            return self._machine.pending  # its body is on the way
        if seen is not None and seen.tip == tip and (seen.ready or self._evaluate_at is not None):
            return bool(seen.ready)  # work stays work until a proposer finds none; or we linger
        return bool(self._evaluate(tip).ready)

    def _evaluate(self, tip: bytes) -> _Evaluated:
        """What could stand in a block on `tip`; executed anew only if something changed."""
        version = (self._mempool.version, self._attestations_seen)
        if self._evaluated is None or (self._evaluated.tip, self._evaluated.version) != (tip, version):
            self._evaluated = _Evaluated(tip, version, self._ready(tip))
        return self._evaluated

    def _ready(self, parent: bytes) -> tuple[Transaction, ...]:
        """The pooled transactions that a block on `parent` may hold; asks for attestations of those that wait."""
        candidates = [tx for tx in self._mempool.candidates() if self._may_run(tx, parent)]
        if not candidates:
            return ()
        selection = self._chain.select(parent, candidates, self._attested.quorum, int(self._clock()))
        if len(self._claims) > CLAIMS_KNOWN_MAX:
            pooled = set(self._mempool.hashes())
            self._claims = {tx: found for tx, found in self._claims.items() if tx in pooled}
        for claim, transaction in selection.unattested:
            digest = self._chain.claim_digest(claim)
            known = self._claims.get(transaction)
            others = known.claims if known is not None and known.tip == parent else frozenset()
            self._claims[transaction] = _Claiming(parent, others | {digest})
            self._on_claim(digest, claim)
        return selection.ready

    def _may_run(self, transaction: Transaction, parent: bytes) -> bool:
        """Not if it is known to log a claim there that lacks its quorum."""
        known = self._claims.get(transaction.hash)
        return known is None or known.tip != parent or all(map(self._attested.quorum, known.claims))
