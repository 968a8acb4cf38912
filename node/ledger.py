"""Sole owner of the chain: everybody else reads frozen heads and subscribes to what becomes final.

The ledger is called with one event at a time and never awaits; its wire, its clock and its subscribers are handed in.
It admits and forwards transactions, follows the finalised chain of others, keeps attestations, and on a validator it
feeds the consensus machine (node/validator.py).

How a transaction travels: to every connected validator on its stream; by gossip when fewer than a third of them are
connected, and for whatever is still not final after a while. A validator repeats what it admitted to all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

import structlog
from eth_hash.auto import keccak

from chain import claims, consensus, messages
from chain.chain import Chain, FinalisedBlock
from chain.header import address_of_secret
from chain.mempool import Mempool
from chain.store import Store
from chain.types import Attestation, ChainError, Claim, InvalidTransaction, InvalidVote, Transaction
from node import wire
from node.bounded import BoundedDict
from node.catch_up import CatchUp
from node.repeats import REPEAT_S, Repeats
from node.validator import Validator
from node.workshop import Workshop

log = structlog.get_logger()

REFUSED_MAX: Final = 4096  # transactions remembered as refused
TOPIC_TRANSACTIONS: Final = "transactions"
TOPIC_REFUSALS: Final = "refusals"


class LedgerWire(Protocol):
    """What the ledger needs of the network. Nothing blocks; a peer that is gone is ignored."""

    def to_validator(self, index: int, kind: str, payload: bytes) -> None: ...

    def to_validators(self, kind: str, payload: bytes) -> None: ...

    def to_peer(self, peer: str, kind: str, payload: bytes) -> None: ...

    def to_all(self, kind: str, payload: bytes) -> None:
        """To every connected peer of our network."""
        ...

    def gossip(self, topic: str, payload: bytes) -> None: ...

    def drop(self, peer: str, reason: str) -> None: ...

    def refuse(self, peer: str, reason: str) -> None:
        """Count a fault of a peer, log it, and keep a peer of many faults out for a while."""
        ...

    def epoch_began(self) -> None:
        """The list of validators has changed."""
        ...

    @property
    def validators_connected(self) -> int: ...


class Ledger:
    """
    Args:
        workshop: where blocks are executed.
        key: the secret of a node that validates whenever it is in the list; None for one that only follows.
        checkpoint: (height, digest) of a block that the operator knows to be final.
        on_final: called with the blocks that became final, oldest first.
        on_claim: a claim of an executable transaction wants an attestation.
        on_refused: more than a third of the validators refused a claim.
        clock: wall clock, unix seconds; every `now` is monotonic.
    """

    def __init__(
        self,
        chain: Chain,
        store: Store,
        mempool: Mempool,
        network: LedgerWire,
        workshop: Workshop,
        on_final: Callable[[list[FinalisedBlock]], None],
        on_claim: Callable[[bytes, Claim], None],
        on_refused: Callable[[bytes], None],
        clock: Callable[[], float],
        key: bytes | None = None,
        checkpoint: tuple[int, bytes] | None = None,
    ) -> None:
        self.chain = chain
        self.mempool = mempool
        self.refused: Counter[str] = Counter()  # bad input from peers, by kind
        self._store, self._wire, self._key, self._workshop, self._clock = store, network, key, workshop, clock
        self._on_final, self._on_claim, self._on_refused = on_final, on_claim, on_refused
        self._own_address = None if key is None else address_of_secret(key)
        self._catch_up = CatchUp(chain, network, workshop, checkpoint, self._imported, self._answer_worked)
        self._repeat_at: float | None = None
        self._repeats = Repeats()
        self.refused_transactions: BoundedDict[bytes, bytes] = BoundedDict(REFUSED_MAX)  # -> the claim
        self._now = 0.0
        self._index: int | None
        self.validator: Validator | None
        self._enter_epoch()

    # ---- life -------------------------------------------------------------------------------------------------------
    def start(self, now: float) -> None:
        self._now = now
        if self.validator is not None:
            self.validator.start(now)

    def _enter_epoch(self) -> None:
        """Take the part that the present epoch's list of validators gives this node."""
        epoch, own = self.chain.epochs.present, self._own_address
        self._addresses = epoch.validators
        self._index = epoch.validators.index(own) if own in epoch.validators else None
        self.attested = claims.Attestations(len(epoch.validators), epoch.quorum)
        self._catch_up.as_validator(self._index is not None)
        self.validator = None
        # Who holds the keys of an old epoch can make a fresh validator's consensus final, too, on another history.
        if self._key is not None and self._index is not None and not self._catch_up.bound:
            self.validator = Validator(
                self.chain, self._store, self.mempool, self.attested, self._key, self._index, self._wire,
                self._workshop, self._finalised, self._on_claim, self._clock,
            )  # fmt: skip

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        if self.validator is not None:
            self.validator.tick(now)
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat(now)
        self._catch_up.ask(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` is due next."""
        validator = None if self.validator is None else self.validator.deadline
        times = [self._repeat_at, self._catch_up.sync.deadline, validator]
        return min((t for t in times if t is not None), default=None)

    @property
    def target(self) -> int:
        """The newest finalised block that a peer has told of."""
        return max(self._catch_up.sync.target, self.chain.finalised.number)

    # ---- peers ------------------------------------------------------------------------------------------------------
    def peer_connected(self, peer: str, index: int | None, now: float) -> None:
        """A peer of our network is here; `index` if it proved a validator's key."""
        self._now = now
        head = self.chain.finalised
        self._wire.to_peer(peer, wire.HEAD, wire.encode(wire.Head(head.number, head.digest)))
        if index is not None and self.validator is not None:
            self.validator.connected(index, now)
            self._send_attestations(index)
        if index is not None:
            for payload in wire.batches(t.raw for t in self.mempool.candidates())[:1]:
                self._wire.to_validator(index, wire.TRANSACTIONS, payload)

    def peer_lost(self, peer: str, now: float) -> None:
        self._now = now
        self._catch_up.lost(peer, now)

    def receive(self, peer: str, index: int | None, kind: str, payload: bytes, now: float) -> None:
        """A message of a peer; what is malformed is counted, and the node lives on."""
        self._now = now
        try:
            self._receive(peer, index, kind, payload)
        except (wire.InvalidMessage, ChainError) as error:
            self.refused[kind if kind in wire.KINDS else "unknown"] += 1
            self._wire.refuse(peer, f"{kind[:32]!r}: {str(error)[:200]}")

    def receive_gossip(self, peer: str, topic: str, payload: bytes, now: float) -> None:
        self._now = now
        try:
            if topic == TOPIC_TRANSACTIONS:
                self._admit(wire.decode(payload, wire.Transactions).raws, peer)
            elif topic == TOPIC_REFUSALS:
                self._take_attestations(payload)
        except (wire.InvalidMessage, ChainError) as error:
            self.refused["gossip"] += 1
            log.warning("gossip.refused", handed_on_by=peer, topic=topic, reason=str(error)[:200])

    def _receive(self, peer: str, index: int | None, kind: str, payload: bytes) -> None:
        match kind:
            case wire.CONSENSUS:
                self._receive_consensus(index, payload)
            case wire.TRANSACTIONS:
                self._admit(wire.decode(payload, wire.Transactions).raws, peer)
            case wire.ATTESTATIONS:
                self._take_attestations(payload)
            case wire.HEAD:
                number = wire.decode(payload, wire.Head).number
                self._catch_up.announced(peer, number, self._now)
                if index is not None and self._index is not None and number + 1 == self.chain.epochs.present.first:
                    self._send_attestations(index)  # it enters this epoch only now: what it heard before was in vain
            case wire.WANT_BLOCKS:
                self._catch_up.serve(peer, wire.decode(payload, wire.WantBlocks))
            case wire.BLOCKS:
                self._catch_up.take(peer, wire.decode(payload, wire.Blocks), self._now)
            case _:
                raise wire.InvalidMessage("unknown kind of message")

    def _receive_consensus(self, index: int | None, payload: bytes) -> None:
        message = messages.decode(payload)
        if not messages.is_of_epoch(message, self.chain.epochs.present.number):
            return  # it is behind, or we are; which validators it speaks of is not known here, or history
        if isinstance(message, consensus.WantBlock) and index is None:
            return  # it names no epoch, so that of the sender may be another
        if self._index is not None and self.validator is None:
            return  # not yet: see _enter_epoch
        if index is None or self.validator is None:
            raise InvalidVote("consensus is between validators")
        self.validator.receive(index, message, self._now)

    # ---- transactions -----------------------------------------------------------------------------------------------
    def check(self, raw: bytes) -> None:
        """Whether `submit` would take it as things stand. Raises InvalidTransaction."""
        transaction = self.chain.decode_transaction(raw)
        sender = transaction.sender
        self.mempool.check(transaction, self.chain.nonce(sender), self.chain.balance(sender))

    def submit(self, raw: bytes, now: float) -> bytes:
        """Admit a transaction of our own or of a client and send it on its way; its hash.

        Raises:
            InvalidTransaction: it can never be included as it stands.
        """
        self._now = now
        transaction = self.chain.decode_transaction(raw)
        if transaction.hash not in self.mempool:
            self._admit_one(transaction)
        self._forward([raw])
        return transaction.hash

    def _admit(self, raws: tuple[bytes, ...], peer: str) -> None:
        """What a peer sent: the good ones are kept, the bad ones are counted, of the refused ones it is told."""
        reason = None
        for raw in raws:
            digest = keccak(raw)
            if digest in self.mempool:
                continue
            if (claim := self.refused_transactions.get(digest)) is not None:
                self._tell_refusals(peer, claim)
                continue
            transaction = self.chain.decode_transaction(raw)
            try:
                if transaction.nonce < self.chain.nonce(transaction.sender):
                    continue  # final already: a repeat
                self._admit_one(transaction)
            except InvalidTransaction as error:
                reason = str(error)
        if reason is not None:
            self.refused["transaction"] += 1
            log.info("transaction.refused", peer=peer, reason=reason)

    def _admit_one(self, transaction: Transaction) -> None:
        sender = transaction.sender
        self.mempool.add(transaction, self.chain.nonce(sender), self.chain.balance(sender), self._now)
        if self._repeat_at is None:
            self._repeat_at = self._now + REPEAT_S
        if self.validator is not None:
            self.validator.pool_changed(self._now)

    def _forward(self, raws: list[bytes]) -> None:
        payload = wire.encode(wire.Transactions(tuple(raws)))
        self._wire.to_validators(wire.TRANSACTIONS, payload)
        others = len(self._addresses) - (self._index is not None)
        if 3 * self._wire.validators_connected < others:
            self._wire.gossip(TOPIC_TRANSACTIONS, payload)

    def _repeat(self, now: float) -> None:
        """A validator forwards what is not final to the others; a follower gossips it. Less often each time."""
        self.mempool.expire(now)
        before = self.mempool.version
        for sender in self.mempool.senders():  # also if others of theirs than those that were here became final
            self.mempool.set_nonce(sender, self.chain.nonce(sender))
        if self.mempool.version != before and self.validator is not None:
            self.validator.pool_changed(now)
        pooled = self.mempool.candidates()
        self._repeat_at = now + REPEAT_S if len(self.mempool) else None
        for payload in wire.batches(t.raw for t in self._repeats.due(pooled, now)):
            if self.validator is not None:
                self._wire.to_validators(wire.TRANSACTIONS, payload)
            else:
                self._wire.gossip(TOPIC_TRANSACTIONS, payload)

    # ---- attestations -----------------------------------------------------------------------------------------------
    def attest(self, claim: bytes, verdict: bool, now: float) -> None:
        """Sign what this validator found out about a claim and tell the others."""
        self._now = now
        if self._key is None or self._index is None:
            return  # it was a validator when it began to check
        if any(each.signer == self._index for each in self.attested.of(claim)):
            return  # said already
        attestation = claims.sign_attestation(self._key, self._index, claim, verdict)
        payload = wire.encode(wire.Attestations((wire.to_wire(attestation),)))
        self._wire.to_validators(wire.ATTESTATIONS, payload)
        if not verdict:
            self._wire.gossip(TOPIC_REFUSALS, payload)
        self._attest(attestation)
        if self.attested.refused(claim):
            self._on_refused(claim)

    def _take_attestations(self, payload: bytes) -> None:
        items = wire.decode(payload, wire.Attestations).items
        for attestation in map(wire.from_wire, items):
            if attestation not in self.attested.of(attestation.claim) and self.chain.epochs.is_present(attestation):
                self._attest(attestation)
        for claim in {item.claim for item in items if not item.verdict}:
            if self.attested.refused(claim):
                self._on_refused(claim)

    def _attest(self, attestation: Attestation) -> None:
        if not self.attested.add(attestation):
            return
        claim = attestation.claim
        own_refusal = attestation.signer == self._index and not attestation.verdict
        if own_refusal or self.attested.refused(claim):
            self._drop_claiming(claim)
        if self.validator is not None:
            self.validator.attested(self._now)

    def _drop_claiming(self, claim: bytes) -> None:
        if self.validator is None:
            return
        for transaction in self.validator.transactions_claiming(claim):
            self.mempool.remove(transaction)
            self.refused_transactions[transaction] = claim

    def _tell_refusals(self, peer: str, claim: bytes) -> None:
        """Somebody still sends a transaction whose claim is false: show it who says so."""
        items = tuple(wire.to_wire(a) for a in self.attested.of(claim) if not a.verdict)
        if items:
            self._wire.to_peer(peer, wire.ATTESTATIONS, wire.encode(wire.Attestations(items)))

    def _send_attestations(self, index: int) -> None:
        assert self._index is not None
        items = tuple(map(wire.to_wire, self.attested.by(self._index)))[-wire.ATTESTATIONS_MAX :]
        if items:
            self._wire.to_validator(index, wire.ATTESTATIONS, wire.encode(wire.Attestations(items)))

    # ---- finality ---------------------------------------------------------------------------------------------------
    def _finalised(self, blocks: list[FinalisedBlock]) -> None:
        for block in blocks:
            for digest in block.transactions:
                if (transaction := self.mempool.get(digest)) is not None:
                    self.mempool.set_nonce(transaction.sender, transaction.nonce + 1)
            for claim in self.chain.claims(block.head.digest):
                self.attested.forget(self.chain.claim_digest(claim))
            log.info("block.finalised", number=block.head.number, view=block.head.view, txs=len(block.transactions))
        head = blocks[-1].head
        self._catch_up.sync.advance(head.number, self._now)
        self._wire.to_all(wire.HEAD, wire.encode(wire.Head(head.number, head.digest)))
        self._on_final(blocks)
        if head.epoch != self.chain.epochs.present.number:
            self._begin_epoch()

    def _begin_epoch(self) -> None:
        """Another list of validators; what this one attested it attests again, by its new place in the list."""
        own = () if self._index is None else self.attested.by(self._index)
        self._enter_epoch()
        epoch = self.chain.epochs.present
        log.info(
            "epoch.began", epoch=epoch.number, validators=len(epoch.validators), quorum=epoch.quorum, index=self._index
        )
        self._wire.epoch_began()
        if self.validator is not None:
            self.validator.start(self._now)
            for attestation in own:
                self.attest(attestation.claim, attestation.verdict, self._now)

    # ---- catching up ------------------------------------------------------------------------------------------------
    @property
    def catching_up(self) -> bool:
        """Whether more finalised blocks are on their way: what is final here is not the newest."""
        return self._catch_up.more_to_come

    def _imported(self, blocks: list[FinalisedBlock], now: float) -> None:
        self._now = now
        self._finalised(blocks)
        if self.validator is None and self._index is not None and not self._catch_up.bound:
            self._enter_epoch()
            self.start(now)

    def _answer_worked(self, error: Exception | None, moved: bool, now: float) -> None:
        self._now = now
        if error is not None:
            self.refused[wire.BLOCKS] += 1
        if moved and self.validator is not None:
            self.validator.restart(now)
