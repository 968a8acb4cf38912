"""What gossip is worth passing on, decided before it is passed on.

    nonsense, wrong signature, other chain, below the base fee     dropped, and counted against whoever handed it on
    no place in our pool, used up, its claim refused               taken in here (the ledger may answer), not relayed
    the rest                                                       relayed

Relaying costs every node of the network, checking only this one. A batch is relayed whole or not at all; what was good
in one that is not, waits in the pool and is gossiped again from there.

A node that does not execute what waits cannot know which claim a transaction states, but the calls that flnode's
workers make say so in their calldata. That is good enough for what to forget, never for what to include.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NoReturn

import rlp
from eth_hash.auto import keccak

from chain import claims, masking
from chain.contracts import bindings as b
from chain.types import AuditClaim, ChainError, InvalidTransaction, RevealClaim, Transaction
from node import wire
from node.bounded import BoundedDict
from node.jobs import Jobs, Key
from node.ledger import Ledger
from node.p2p.types import NotRelayed, PeerFault

FORGOTTEN_MAX: Final = 4096  # claims; whoever repeats a refusal shall not have the pool searched again
_TYPED: Final = 2  # EIP-1559, as flnode sends them


class Screen:
    """
    Args:
        ledger: what is known; counts what is dropped here.
        jobs: the read model, which knows the commits that claims are about.
    """

    def __init__(self, ledger: Ledger, jobs: Callable[[], Jobs]) -> None:
        self._ledger, self._chain, self._mempool = ledger, ledger.chain, ledger.mempool
        self._refused, self._jobs = ledger.refused_transactions, jobs
        self._forgotten: BoundedDict[bytes, None] = BoundedDict(FORGOTTEN_MAX)

    def transactions(self, payload: bytes) -> None:
        """Judge a message of the topic `transactions`. Raises PeerFault, NotRelayed."""
        try:
            raws = wire.decode(payload, wire.Transactions).raws
            fresh = [self._chain.decode_transaction(raw) for raw in raws if keccak(raw) not in self._mempool]
        except (wire.InvalidMessage, ChainError) as error:
            self._drop(str(error))
        if not raws:
            self._drop("no transactions")
        for transaction in fresh:
            self._check_place(transaction)

    def refusals(self, payload: bytes) -> None:
        """Judge a message of the topic `refusals`. Raises PeerFault."""
        try:
            items = wire.decode(payload, wire.Attestations).items
            if not 0 < len(items) <= wire.GOSSIP_REFUSALS_MAX or any(item.verdict for item in items):
                raise wire.InvalidMessage(f"not 1 to {wire.GOSSIP_REFUSALS_MAX} refusals")
            for attestation in map(wire.from_wire, items):
                if attestation not in self._ledger.attested.of(attestation.claim):
                    self._chain.epochs.is_present(attestation)
        except (wire.InvalidMessage, ChainError) as error:
            self._drop(str(error))

    def forget_claiming(self, claim: bytes) -> None:
        """The validators refused this claim: what waits here and states it, waits in vain."""
        if claim in self._forgotten:
            return
        self._forgotten[claim] = None
        for digest in self._mempool.hashes():
            transaction = self._mempool.get(digest)
            if transaction is not None and self.claim_of(transaction) == claim:
                self._mempool.remove(digest)
                self._refused[digest] = claim

    def claim_of(self, transaction: Transaction) -> bytes | None:
        """Digest of the claim that a direct call of `reveal` or `resolve` states; None if its round is not final."""
        data = _data_for_jobs(transaction.raw)
        if (verdict := b.decode_resolve(data)) is not None:
            return self._verdict_of(*verdict)
        if (call := b.decode_reveal(data)) is None:
            return None
        job, round_, attempt, _, mask, update = call
        view = self._jobs().by_id.get(job)
        round_view = None if view is None else view.open.get(Key(job, round_, attempt))
        commit = None if round_view is None else round_view.commits.get(transaction.sender)
        if view is None or commit is None:
            return None
        chain_id, worker = self._chain.network.chain_id, transaction.sender
        ctx = masking.context(chain_id, b.REPLICATED, job, round_, attempt, worker)
        size = view.posted.update_size
        claim = RevealClaim(b.REPLICATED, job, round_, attempt, worker, ctx, commit.ciphertext, size, mask, update)
        return claims.claim_digest(claim, chain_id, self._chain.genesis_digest)

    def _verdict_of(self, job: int, round_: int, attempt: int, update: bytes) -> bytes | None:
        view = self._jobs().by_id.get(job)
        of = None if view is None else view.open.get(Key(job, round_, attempt))
        if view is None or of is None:
            return None
        chain_id = self._chain.network.chain_id
        ctx = masking.audit_context(chain_id, b.REPLICATED, job, round_, attempt)
        work = (view.posted.manifest, of.base, of.batch_seed, view.posted.update_size)
        claim = AuditClaim(b.REPLICATED, job, round_, attempt, ctx, *work, update)
        return claims.claim_digest(claim, chain_id, self._chain.genesis_digest)

    def _check_place(self, transaction: Transaction) -> None:
        claim = self._refused.get(transaction.hash) or self.claim_of(transaction)
        if claim is not None and (transaction.hash in self._refused or self._ledger.attested.refused(claim)):
            self._refused[transaction.hash] = claim
            raise NotRelayed("its claim was refused")
        nonce, balance = self._chain.nonce(transaction.sender), self._chain.balance(transaction.sender)
        try:
            self._mempool.check(transaction, nonce, balance)
        except InvalidTransaction as error:
            raise NotRelayed(str(error)) from None

    def _drop(self, reason: str) -> NoReturn:
        self._ledger.refused["gossip"] += 1
        raise PeerFault(reason[:200])


def _data_for_jobs(raw: bytes) -> bytes:
    """The calldata of a transaction, decoded before, that calls the job contract directly; else none."""
    if raw[0] != _TYPED or b.REPLICATED not in raw:
        return b""
    fields = rlp.decode(raw[1:])
    return bytes(fields[7]) if fields[5] == b.REPLICATED else b""
