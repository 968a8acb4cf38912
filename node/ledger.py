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

from chain import certificate, claims, messages
from chain.chain import Chain, FinalisedBlock
from chain.mempool import Mempool
from chain.store import Store
from chain.types import Attestation, Block, Certificate, ChainError, Claim, InvalidTransaction, InvalidVote, Transaction
from node import wire
from node.bounded import BoundedDict
from node.repeats import REPEAT_S, Repeats
from node.sync import VALIDATOR_LAG_S, Sync
from node.validator import Validator

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

    @property
    def validators_connected(self) -> int: ...


class Ledger:
    """
    Args:
        key, index: this validator's secret and place in the list; None for a node that only follows.
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
        on_final: Callable[[list[FinalisedBlock]], None],
        on_claim: Callable[[bytes, Claim], None],
        on_refused: Callable[[bytes], None],
        clock: Callable[[], float],
        key: bytes | None = None,
        index: int | None = None,
    ) -> None:
        self.chain = chain
        self.mempool = mempool
        self.refused: Counter[str] = Counter()  # bad input from peers, by kind
        self._store, self._wire, self._key, self._index = store, network, key, index
        self._on_final, self._on_refused = on_final, on_refused
        self._addresses = chain.network.validator_addresses
        self.attested = claims.Attestations(len(self._addresses), chain.network.quorum_size)
        self._sync = Sync(chain.finalised.number, VALIDATOR_LAG_S if index is not None else 0.0)
        self._repeat_at: float | None = None
        self._repeats = Repeats()
        self.refused_transactions: BoundedDict[bytes, bytes] = BoundedDict(REFUSED_MAX)  # -> the claim
        self._catching_up = False
        self._now = 0.0
        self.validator: Validator | None = None
        if key is not None and index is not None:
            self.validator = Validator(
                chain, store, mempool, self.attested, key, index, network, self._finalised, on_claim, clock
            )

    # ---- life -------------------------------------------------------------------------------------------------------
    def start(self, now: float) -> None:
        self._now = now
        if self.validator is not None:
            self.validator.start(now)

    def tick(self, now: float) -> None:
        """Do what is due."""
        self._now = now
        if self.validator is not None:
            self.validator.tick(now)
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat(now)
        self._ask(now)

    @property
    def deadline(self) -> float | None:
        """When `tick` is due next."""
        times = [self._repeat_at, self._sync.deadline, None if self.validator is None else self.validator.deadline]
        return min((t for t in times if t is not None), default=None)

    @property
    def target(self) -> int:
        """The newest finalised block that a peer has told of."""
        return max(self._sync.target, self.chain.finalised.number)

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
        self._sync.lost(peer)
        self._ask(now)

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
                if index is None or self.validator is None:
                    raise InvalidVote("consensus is between validators")
                self.validator.receive(index, payload, self._now)
            case wire.TRANSACTIONS:
                self._admit(wire.decode(payload, wire.Transactions).raws, peer)
            case wire.ATTESTATIONS:
                self._take_attestations(payload)
            case wire.HEAD:
                self._sync.announce(peer, wire.decode(payload, wire.Head).number)
                self._ask(self._now)
            case wire.WANT_BLOCKS:
                self._serve_blocks(peer, wire.decode(payload, wire.WantBlocks))
            case wire.BLOCKS:
                self._import(peer, wire.decode(payload, wire.Blocks))
            case _:
                raise wire.InvalidMessage("unknown kind of message")

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
        pooled = self.mempool.candidates()
        for sender in {transaction.sender for transaction in pooled}:
            self.mempool.set_nonce(sender, self.chain.nonce(sender))
        self._repeat_at = now + REPEAT_S if len(self.mempool) else None
        for payload in wire.batches(t.raw for t in self._repeats.due(pooled, now)):
            if self.validator is not None:
                self._wire.to_validators(wire.TRANSACTIONS, payload)
            else:
                self._wire.gossip(TOPIC_TRANSACTIONS, payload)

    # ---- attestations -----------------------------------------------------------------------------------------------
    def attest(self, claim: bytes, verdict: bool, now: float) -> None:
        """Sign what this validator found out about a claim and tell the others."""
        assert self._key is not None
        assert self._index is not None
        self._now = now
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
            if attestation not in self.attested.of(attestation.claim):
                claims.verify_attestation(attestation, self._addresses)
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
        self._sync.advance(head.number, self._now)
        self._wire.to_all(wire.HEAD, wire.encode(wire.Head(head.number, head.digest)))
        self._on_final(blocks)

    # ---- catching up ------------------------------------------------------------------------------------------------
    def _ask(self, now: float) -> None:
        if (request := self._sync.next_request(now)) is not None:
            want = wire.WantBlocks(request.first, request.count)
            self._wire.to_peer(request.peer, wire.WANT_BLOCKS, wire.encode(want))

    def _serve_blocks(self, peer: str, want: wire.WantBlocks) -> None:
        found = self.chain.blocks_from(want.first, want.count, wire.BLOCKS_BYTES_MAX)
        items = tuple(
            (messages.encode_block(block), None if proof is None else messages.encode_certificate(proof))
            for block, proof in found
        )
        self._wire.to_peer(peer, wire.BLOCKS, wire.encode(wire.Blocks(want.first, items)))

    def _import(self, peer: str, answer: wire.Blocks) -> None:
        """Take the blocks we asked for: proven by a certificate first, executed then, persisted last."""
        asked = self._sync.asked
        if asked is None or asked.peer != peer or asked.first != answer.first:
            return  # an answer that came too late
        before = self.chain.finalised.number
        self._catching_up = len(answer.items) >= asked.count
        try:
            self._import_all(answer, asked.first)
        except ChainError as error:
            self._sync.failed(self._now)
            self._wire.drop(peer, f"wrong blocks: {error}")
            raise
        except wire.InvalidMessage:
            self._sync.failed(self._now)
            raise
        else:
            if self.chain.finalised.number > before:
                self._sync.answered()
            else:
                self._sync.failed(self._now)
        finally:
            if self.chain.finalised.number > before and self.validator is not None:
                self.validator.restart(self._now)
            self._ask(self._now)

    def _import_all(self, answer: wire.Blocks, first: int) -> None:
        batch: list[Block] = []
        for height, (raw, proof) in enumerate(answer.items, first):
            batch.append(messages.decode_block(raw))
            if batch[-1].height != height:
                raise wire.InvalidMessage("not the blocks that were asked for")
            if proof is not None:
                self._import_proven(batch, messages.decode_certificate(proof))
                batch = []
        if batch:
            raise wire.InvalidMessage("blocks without a certificate")

    @property
    def catching_up(self) -> bool:
        """Whether more finalised blocks are on their way: what is final here is not the newest."""
        return self._catching_up and self._sync.asked is not None

    def _import_proven(self, batch: list[Block], proof: Certificate) -> None:
        fresh = [block for block in batch if block.height > self.chain.finalised.number]
        if not fresh:
            return
        certificate.verify_finalisation(
            proof,
            fresh[-1],
            self._addresses,
            self.chain.network.quorum_size,
            self.chain.network.chain_id,
            self.chain.genesis_digest,
        )
        for block in fresh:
            self.chain.add(block, None)
        self._finalised(self.chain.finalise(fresh, proof))

