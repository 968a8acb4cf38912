"""The shell around the pure consensus machine: signatures, execution, disk and wire of one validator in one epoch.

Everything is called from the ledger, one event at a time; nothing here awaits. What the machine asks for is done in the
order in which it asks, but what is to be kept is on disk before anything else is done; blocks are executed in the
workshop, and the machine is told the outcome when it comes.

    tip or pool changed ── evaluate (what of the pool can run on the tip?) ──> WorkChanged, claims to attest
    BuildBlock ── close the evaluation of this tip; or evaluate and close ──> Built
    CheckBlock ── execute ── attestations of its claims ──> Checked
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Final, Protocol

import structlog

from chain import certificate, claims, consensus, messages
from chain.chain import Chain, Evaluation, FinalisedBlock
from chain.mempool import Mempool
from chain.overlay import Executed
from chain.store import Store
from chain.types import (
    Block,
    Certificate,
    Claim,
    Epoch,
    InvalidBlock,
    InvalidVote,
    UnknownParent,
    Vote,
    VoteKind,
)
from node.prospects import Prospects, Version
from node.workshop import Workshop

log = structlog.get_logger()

LINGER_S: Final = 0.01  # on an idle chain: lets transactions that arrive together share a block


class ValidatorWire(Protocol):
    """The streams to the other validators."""

    def to_validator(self, index: int, kind: str, payload: bytes) -> None: ...

    def to_validators(self, kind: str, payload: bytes) -> None: ...


class Validator:
    """One validator's part in the consensus of one epoch.

    Args:
        key: the secp256k1 secret; `index` its place in the epoch's validator list.
        attested: what is known of claims, shared with the ledger.
        on_final: called for every block that became final, oldest first. If that ended the epoch, this validator does
            nothing any more.
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
        workshop: Workshop,
        on_final: Callable[[list[FinalisedBlock]], None],
        on_claim: Callable[[bytes, Claim], None],
        clock: Callable[[], float],
    ) -> None:
        self.epoch: Epoch = chain.epochs.present
        self._chain, self._store, self._attested = chain, store, attested
        self._key, self._index, self._wire, self._workshop = key, index, wire, workshop
        self._on_final, self._clock = on_final, clock
        self._prospects = Prospects(chain, mempool, attested, self.epoch.validators[index], on_claim, clock)
        self._evaluate_at: float | None = None
        self._evaluating = False  # or building: one at a time
        self._wake: float | None = None
        self._evidence: set[int] = set()  # voters of whom it is kept
        self._machine = self._new_machine()

    # ---- what the ledger tells us -----------------------------------------------------------------------------------
    def start(self, now: float) -> None:
        self._step(consensus.Started(), now)

    def restart(self, now: float) -> None:
        """The finalised chain was caught up by other means: begin again above it, with the votes that are on disk."""
        self._machine = self._new_machine()
        self._prospects.latest, self._evaluating = None, False
        self._evidence.clear()
        self.start(now)

    def receive(self, sender: int, message: consensus.Message, now: float) -> None:
        """A message of this epoch. Raises InvalidVote, InvalidBlock: wrongly signed, or not what it says it is."""
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
        self._prospects.attested()
        self.pool_changed(now)

    def connected(self, index: int, now: float) -> None:
        """Another validator can be reached (again)."""
        self._step(consensus.Connected(index), now)

    def tick(self, now: float) -> None:
        if self._evaluate_at is not None and now >= self._evaluate_at:
            self._evaluate_at = None
            self._look_for_work(now)
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
        return self._prospects.claiming(claim)

    # ---- the machine ------------------------------------------------------------------------------------------------
    def _new_machine(self) -> consensus.Simplex:
        kept = self._store.vote_log()
        begun, floor = (None, None) if kept.floor is None else kept.floor
        return consensus.Simplex(
            validators=len(self.epoch.validators),
            me=self._index,
            epoch=self.epoch.number,
            delta_s=self._chain.network.block_delay_s,
            final=self._chain.final_block,
            final_certificate=self._chain.finalised_certificate,
            votes=kept.votes,
            blocks=kept.blocks,
            certificates=kept.certificates,
            quorum=self.epoch.quorum,
            vote_floor=floor if begun in (None, self.epoch.number) else 0,
            sign=self._sign,
        )

    def _sign(self, epoch: int, view: int, kind: VoteKind, digest: bytes) -> bytes:
        return certificate.sign_vote(
            self._key, self._chain.network.chain_id, self._chain.genesis_digest, epoch, view, kind, digest
        )

    def _verify(self, message: consensus.Message) -> None:
        chain_id, genesis = self._chain.network.chain_id, self._chain.genesis_digest
        validators = self.epoch.validators
        for vote in messages.votes_of(message):
            certificate.verify_vote(vote, validators, chain_id, genesis)
        for each in messages.certificates_of(message):
            certificate.verify_certificate(each, validators, self.epoch.quorum, chain_id, genesis)

    def _step(self, event: consensus.Event, now: float) -> None:
        """Feed the machine, carry out what it asks for, until it rests."""
        todo: deque[consensus.Event] = deque([event])
        while todo:
            machine = self._machine
            effects = machine.step(todo.popleft(), now)
            self._persist(effects)
            self._keep_evidence()
            for effect in effects:
                answer = self._carry_out(effect)
                if self._epoch_is_over:
                    return
                if answer is not None:
                    todo.append(answer)
        self._look_for_work(now)

    @property
    def _epoch_is_over(self) -> bool:
        return self._chain.epochs.present.number != self.epoch.number

    def _persist(self, effects: list[consensus.Effect]) -> None:
        """Early is as good as in time: so all that one step wants kept is one transaction."""
        votes: list[tuple[Vote, Block | None]] = []
        certificates: list[Certificate] = []
        floor = None
        for effect in effects:
            match effect:
                case consensus.PersistVote(vote, block):
                    votes.append((vote, block))
                case consensus.PersistCertificate(proof):
                    certificates.append(proof)
                case consensus.PersistFloor(view):
                    floor = (self.epoch.number, view)
                    log.info("vote_log.begun", epoch=self.epoch.number, above_view=view)
        if votes or certificates or floor is not None:
            self._store.log_votes(votes, certificates, floor)
            for vote, _ in votes:
                log.debug("vote.persisted", view=vote.view, kind=vote.kind)

    def _keep_evidence(self) -> None:
        for first, second in self._machine.evidence if len(self._machine.evidence) > len(self._evidence) else ():
            if first.voter not in self._evidence:
                self._evidence.add(first.voter)
                self._store.put_evidence(first, second)
                log.warning("validator.equivocated", index=first.voter, epoch=first.epoch, view=first.view)

    def _carry_out(self, effect: consensus.Effect) -> consensus.Event | None:
        match effect:
            case consensus.Send(to=to, message=message):
                self._send(to, message)
            case consensus.BuildBlock():
                return self._build(effect)
            case consensus.CheckBlock(block=block, notarised=notarised):
                return self._check(block, notarised)
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

    # ---- blocks of others -------------------------------------------------------------------------------------------
    def _check(self, block: Block, notarised: bool) -> consensus.Event | None:
        """Execute a proposal; of one that is not notarised yet every claim must be attested beside it."""
        try:
            job = self._chain.adding(block, None if notarised else int(self._clock()))
            if job is None:
                return consensus.Checked(block.digest, notarised or self._claims_attested(block))
        except (InvalidBlock, UnknownParent) as error:
            log.warning("block.refused", view=block.view, reason=str(error))
            return consensus.Checked(block.digest, False)
        self._workshop.submit(partial(_valid, job), partial(self._checked, self._machine, block, notarised))
        return None

    def _checked(
        self,
        machine: consensus.Simplex,
        block: Block,
        notarised: bool,
        outcome: Executed | InvalidBlock,
        now: float,
    ) -> None:
        ok = False
        if isinstance(outcome, InvalidBlock):
            log.warning("block.refused", view=block.view, reason=str(outcome))
        else:
            self._chain.keep(outcome)
            ok = self._chain.has(block.digest) and (notarised or self._claims_attested(block))
        if machine is self._machine and not self._epoch_is_over:
            self._step(consensus.Checked(block.digest, ok), now)

    def _claims_attested(self, block: Block) -> bool:
        """Whether a quorum of attestations stands beside the block for each of its claims."""
        wanted = {self._chain.claim_digest(claim) for claim in self._chain.claims(block.digest)}
        for attestation in block.attestations:
            if attestation.claim not in wanted or attestation in self._attested.of(attestation.claim):
                continue
            try:
                claims.verify_attestation(attestation, self.epoch.validators)
            except InvalidVote as error:
                log.warning("block.refused", view=block.view, reason=str(error))
                return False
            self._attested.add(attestation)
        lacking = [each for each in wanted if not claims.has_quorum(block.attestations, each, self.epoch.quorum)]
        if lacking:
            log.warning("block.refused", view=block.view, reason="a claim lacks its quorum of attestations")
        return not lacking

    def _finalise(self, blocks: list[Block], proof: Certificate) -> None:
        finalised = self._chain.finalise(blocks, proof)
        for block in finalised:
            self._prospects.finalised(block.transactions)
        if finalised:  # what was caught up meanwhile was told of then
            self._on_final(finalised)

    # ---- own blocks and work ----------------------------------------------------------------------------------------
    def _build(self, wanted: consensus.BuildBlock) -> consensus.Event | None:
        """Close what was evaluated already, or evaluate and close."""
        parent, chain, key, epoch = wanted.parent.digest, self._chain, self._key, self.epoch.number
        if not chain.is_open(parent):
            return consensus.Built(wanted.view, None)
        closable = self._prospects.closable(parent)
        if closable is not None and not closable.ready and not wanted.empty:
            return consensus.Built(wanted.view, None)
        evaluating = None if closable else self._prospects.evaluating(parent, self._prospects.candidates(parent))

        def build() -> tuple[Evaluation, Executed | None]:
            evaluation = evaluating() if evaluating is not None else closable
            assert evaluation is not None
            if not evaluation.ready and not wanted.empty:
                return evaluation, None
            return evaluation, chain.closing(evaluation, wanted.view, epoch, key)()

        self._prospects.latest, self._evaluating = None, True
        done = partial(self._built, self._machine, wanted, self._prospects.version, self._clock())
        self._workshop.submit(build, done)
        return None

    def _built(
        self,
        machine: consensus.Simplex,
        wanted: consensus.BuildBlock,
        version: Version,
        began: float,
        outcome: tuple[Evaluation, Executed | None],
        now: float,
    ) -> None:
        evaluation, executed = outcome
        if machine is not self._machine or self._epoch_is_over:
            return
        self._evaluating = False
        self._prospects.take(evaluation, version, began, closed=executed is not None)
        claimed = () if executed is None else [self._chain.claim_digest(claim) for claim in executed.claims]
        block, in_time = None, self._chain.is_open(wanted.parent.digest)
        if executed is not None and in_time and all(map(self._attested.quorum, claimed)):
            self._chain.keep(executed)
            block = replace(executed.block, attestations=self._attested.beside(claimed))
            log.debug("block.built", number=block.height, view=block.view, transactions=len(evaluation.ready))
        if block is None:
            self._prospects.found_none()
        self._step(consensus.Built(wanted.view, block), now)

    def _look_for_work(self, now: float) -> None:
        """Find out whether a transaction is executable on the tip with all its claims attested, if that may be new."""
        tip = self._machine.tip.digest
        if self._evaluating or self._epoch_is_over or not self._chain.is_open(tip):
            return  # later: the tip's body is on the way, or blocks above it are being caught up
        seen = self._prospects.known(tip)
        # Work stays work until a proposer finds none; and we linger for more to come in.
        if seen is None or not (seen.ready or seen.version == self._prospects.version or self._evaluate_at is not None):
            candidates = self._prospects.candidates(tip)
            if candidates:
                self._evaluating = True
                done = partial(self._evaluation_done, self._machine, self._prospects.version, self._clock())
                self._workshop.submit(self._prospects.evaluating(tip, candidates), done)
                return
            seen = self._prospects.nothing(tip)
        if seen.ready != self._machine.pending:
            self._step(consensus.WorkChanged(seen.ready), now)

    def _evaluation_done(
        self, machine: consensus.Simplex, version: Version, began: float, evaluation: Evaluation, now: float
    ) -> None:
        if machine is self._machine and not self._epoch_is_over:
            self._evaluating = False
            self._prospects.take(evaluation, version, began, closed=False)
            self._look_for_work(now)


def _valid(job: Callable[[], Executed]) -> Executed | InvalidBlock:
    try:
        return job()
    except InvalidBlock as error:
        return error
