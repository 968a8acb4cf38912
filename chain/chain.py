"""The block tree of one node: builds blocks, checks and executes those of others, and makes them final on disk.

    build / add ──> overlay (in memory, a tree above the finalised head) ──finalise──> disk, one transaction

What takes long is handed out as a job: a function that touches nothing of the chain's that may change, so that it can
run in another thread. `adding`, `evaluating` and `closing` make jobs, `keep` takes in what they give.

A block is checked in this order, so that little is spent on what a stranger sends: size and form; the digests and
numbers it claims; the proposer's signature; its parent; its header against the parent's; and only then its execution,
whose header must come out equal bit by bit. Consensus decides what is final; nothing here votes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from chain import evm
from chain import header as rules
from chain.epochs import UnknownEpoch
from chain.evm import Account, Header
from chain.genesis import Network
from chain.overlay import Executed
from chain.reads import ChainReads, TooManyLogs, UnknownBlock
from chain.receipts import encode_receipts, logs_of
from chain.store import OtherNetwork, Store, StoreDamaged, StoredBlock
from chain.system import System, genesis_system
from chain.types import (
    Attestation,
    Block,
    Certificate,
    Claim,
    Head,
    InvalidBlock,
    InvalidTransaction,
    Log,
    Transaction,
    UnknownParent,
)

__all__ = ["Chain", "Evaluation", "FinalisedBlock", "TooManyLogs", "UnknownBlock"]

_HEADER_BYTES: Final = 1024  # room for header and list prefixes within a block's bytes


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What of the pool can stand in a block on a given parent, executed already.

    `unattested` holds (claim without a quorum, hash of the transaction that logs it).
    """

    parent: bytes
    ready: tuple[Transaction, ...]
    unattested: tuple[tuple[Claim, bytes], ...]
    execution: evm.Execution


@dataclass(frozen=True, slots=True)
class FinalisedBlock:
    """A block that became final."""

    head: Head
    transactions: tuple[bytes, ...]  # hashes
    logs: tuple[Log, ...]


class Chain(ChainReads):
    """One owner calls it; it never blocks on anything but the disk."""

    def __init__(
        self,
        store: Store,
        network: Network,
        system: System | None = None,
    ) -> None:
        """
        Args:
            system: the contracts of genesis; those of chain/contracts by default.

        Raises:
            StoreError: the database is damaged or belongs to another network.
        """
        super().__init__(store, network)
        self._system = genesis_system() if system is None else system
        self.genesis_digest = self._open(self._system.accounts(network))
        finalised = store.finalised()
        payload = None if finalised is None else store.block(finalised)
        if payload is None:
            raise StoreDamaged("it lacks its finalised block")
        self._final = evm.decode_header(payload)

    def _open(self, contracts: Mapping[bytes, Account]) -> bytes:
        """The genesis digest; a new database gets the genesis block."""
        accounts = {address: Account(balance=amount) for address, amount in self.network.balances.items()}
        for address, contract in contracts.items():
            funded = self.network.balances.get(address, 0) + contract.balance
            accounts[address] = Account(funded, contract.nonce, contract.code, contract.storage)
        header, nodes = evm.genesis(self.constants, self.network.timestamp, accounts, self.network.digest())
        found = self._store.genesis()
        if found is None and self._store.finalised() is None:
            payload = evm.encode_block(header, ())
            self._store.write_genesis(StoredBlock(0, header.hash, payload, nodes, encode_receipts(()), 0, ()))
        elif found is None:
            raise StoreDamaged("it lacks its genesis")
        elif found != header.hash:
            raise OtherNetwork(f"the chain database belongs to another network (genesis {found.hex()[:12]})")
        return header.hash

    # -- transactions --------------------------------------------------------------------------------------------

    def decode_transaction(self, raw: bytes) -> Transaction:
        """Check all that needs no state and recover the sender.

        Raises:
            InvalidTransaction: the reason, for its sender to read.
        """
        return evm.describe(self._codec.transaction(raw), raw)

    def evaluating(
        self,
        parent: bytes,
        transactions: Iterable[Transaction],
        now: int,
        coinbase: bytes,
        attested: Container[bytes] | None = None,
    ) -> Callable[[], Evaluation]:
        """The job of executing candidates, in their order, as a block on `parent` at time `now` by `coinbase` does.

        Left out without further word: what is invalid there as yet (nonce, balance), what no longer fits into the
        block, and everything if the epoch has ended. Left out and reported: what logs a claim whose digest is not in
        `attested`; None lets all claims pass.

        Raises:
            UnknownParent
        """
        header = self._parent(parent)
        execution = self._execution(header, max(header.timestamp, now), coinbase)
        candidates = () if self.epoch_ended(parent) else tuple(transactions)
        return partial(self._fill, parent, execution, candidates, attested)

    def _fill(
        self,
        parent: bytes,
        execution: evm.Execution,
        transactions: Iterable[Transaction],
        attested: Container[bytes] | None,
    ) -> Evaluation:
        ready: list[Transaction] = []
        unattested: list[tuple[Claim, bytes]] = []
        bytes_left = evm.BLOCK_BYTES_MAX - _HEADER_BYTES
        idle_gas_left = self.constants.gas_limit  # for what is executed and taken back again
        for transaction in transactions:
            if execution.gas_left < evm.TRANSACTION_GAS_MIN or idle_gas_left <= 0:
                break
            size = len(transaction.raw) + 4
            if size > bytes_left:
                continue
            try:
                receipt = execution.run(self._codec.transaction(transaction.raw))
            except InvalidTransaction:
                continue
            claims = [] if attested is None else self._claims_of(logs_of((receipt,), 0, b""))
            missing = [claim for claim in claims if self.claim_digest(claim) not in (attested or ())]
            if missing:
                execution.undo()
                idle_gas_left -= receipt.gas_used
                unattested += [(claim, transaction.hash) for claim in missing]
            else:
                ready.append(transaction)
                bytes_left -= size
                if self._ends_epoch(receipt):
                    break
        return Evaluation(parent, tuple(ready), tuple(unattested), execution)

    def _ends_epoch(self, receipt: evm.Receipt) -> bool:
        return any(self._system.validators_of(log) is not None for log in logs_of((receipt,), 0, b""))

    def _claims_of(self, logs: Iterable[Log]) -> list[Claim]:
        return [claim for log in logs if (claim := self._system.claim_of(log)) is not None]

    def claim_digest(self, claim: Claim) -> bytes:
        """What attestations of a claim sign."""
        return self._system.claim_digest(claim, self.network.chain_id, self.genesis_digest)

    # -- blocks --------------------------------------------------------------------------------------------------

    def build(
        self,
        parent: bytes,
        view: int,
        epoch: int,
        transactions: Iterable[Transaction],
        now: int,
        key: bytes,
    ) -> Block:
        """A signed block on `parent` with those of `transactions` that can stand in it, in their order; it is kept.

        Args:
            now: the proposer's clock, seconds; the block's time is not before its parent's.
            key: the proposer's 32-byte secp256k1 secret.

        Raises:
            UnknownParent
        """
        evaluation = self.evaluating(parent, transactions, now, rules.address_of_secret(key))()
        return self.keep(self.closing(evaluation, view, epoch, key)())

    def closing(self, evaluation: Evaluation, view: int, epoch: int, key: bytes) -> Callable[[], Executed]:
        """The job of making an evaluation by the same proposer into a signed block; an evaluation closes once."""

        def close() -> Executed:
            unsealed, nodes = evaluation.execution.finish(rules.vanity(epoch, view) + bytes(rules.SIGNATURE_BYTES))
            sealed = rules.seal(unsealed, key)
            payload = evm.encode_block(sealed, [transaction.raw for transaction in evaluation.ready])
            return self._executed(rules.block_of(sealed, payload), sealed, evaluation.execution, nodes)

        return close

    def keep(self, executed: Executed) -> Block:
        """Take a block that a job has executed into the overlay, unless it has become pointless meanwhile."""
        if executed.block.parent == self._final.hash or executed.block.parent in self._overlay:
            self._overlay.put(executed)
        return executed.block

    def add(self, block: Block, now: int | None) -> None:
        """Do the job of `adding` here and now, if there is one. Raises as it does."""
        job = self.adding(block, now)
        if job is not None:
            self.keep(job())

    def adding(self, block: Block, now: int | None) -> Callable[[], Executed] | None:
        """The job of checking and executing a block; None for one that is here already.

        Whether its claims are attested is the caller's to check, by `claims`. The job, too, raises InvalidBlock.

        Args:
            now: own clock, seconds: the block's time must be within the network's drift of it. None where others
                have vouched for the block already (it is notarised or final).

        Raises:
            InvalidBlock: names the rule; UnknownParent
        """
        if self.has(block.digest):
            return None
        decoded = evm.decode_block(block.payload, self.constants.gas_limit, block.digest)
        header = decoded.header
        rules.check_identity(block, header)
        try:
            rules.check_seal(header, self.epochs[block.epoch].validators)
        except UnknownEpoch as error:
            raise InvalidBlock(block.digest, str(error)) from error
        parent = self._parent(header.parent_hash)
        rules.check_parent(header, parent, parent is self._final and self._final_ends_epoch)
        if decoded.transactions and self.epoch_ended(block.parent):
            raise InvalidBlock(block.digest, "the epoch has ended: only empty blocks may follow")
        if now is not None:
            rules.check_time(header, now, self.network.time_drift_s)
        execution = self._execution(parent, header.timestamp, header.coinbase)
        return partial(self._check, block, decoded, execution)

    def _check(self, block: Block, decoded: evm.DecodedBlock, execution: evm.Execution) -> Executed:
        for index, raw in enumerate(decoded.transactions):
            if execution.receipts and self._ends_epoch(execution.receipts[-1]):
                raise InvalidBlock(block.digest, f"transaction {index} comes after the one that ended the epoch")
            try:
                execution.run(self._codec.transaction(raw))
            except InvalidTransaction as error:
                raise InvalidBlock(block.digest, f"transaction {index}: {error}") from error
        ours, nodes = execution.finish(decoded.header.extra_data)
        rules.check_equal(decoded.header, ours)
        return self._executed(block, decoded.header, execution, nodes)

    def check_identity(self, block: Block) -> None:
        """That a block's digest, epoch, view, parent and height are those of its payload: cheap, before anything else.

        Raises:
            InvalidBlock
        """
        rules.check_identity(block, evm.peek_header(block.payload, block.digest))

    def check_seal(self, block: Block) -> None:
        """That the block is what it says, and a proposer of its epoch sealed it. Raises InvalidBlock, UnknownEpoch."""
        header = evm.peek_header(block.payload, block.digest)
        rules.check_identity(block, header)
        rules.check_seal(header, self.epochs[block.epoch].validators)

    def epoch_ended(self, digest: bytes) -> bool:
        """Whether a block, not final, is its epoch's last or follows it: then only empty ones may follow."""
        return self._overlay.last_of_epoch(digest) is not None

    def claims(self, digest: bytes) -> tuple[Claim, ...]:
        """The claims that the block's execution logged. Raises UnknownBlock."""
        executed = self._overlay.get(digest)
        if executed is not None:
            return executed.claims
        number = self._header(digest).block_number
        return tuple(self._claims_of(logs_of(self._receipts(number), number, digest)))

    def _parent(self, digest: bytes) -> Header:
        if digest == self._final.hash:
            return self._final
        if (executed := self._overlay.get(digest)) is not None:
            return executed.header
        raise UnknownParent(digest)

    def _execution(self, parent: Header, timestamp: int, coinbase: bytes) -> evm.Execution:
        layers, ancestors = self._layers(parent.hash), self._ancestors(parent.hash)
        return evm.Execution(self.constants, parent, timestamp, coinbase, layers, ancestors)

    def _executed(
        self, block: Block, header: Header, execution: evm.Execution, nodes: Mapping[bytes, bytes]
    ) -> Executed:
        logs = tuple(logs_of(execution.receipts, block.height, block.digest))
        claims = tuple(self._claims_of(logs))
        changes = [found for log in logs if (found := self._system.validators_of(log)) is not None]
        assert [epoch for epoch, _ in changes] in ([], [block.epoch + 1]), "the contract ends an epoch once in a block"
        validators = changes[0][1] if changes else None
        return Executed(block, header, tuple(execution.receipts), logs, claims, validators, nodes)

    @property
    def _final_ends_epoch(self) -> bool:
        return self.epochs.present.number > rules.epoch_and_view(self._final)[0]

    # -- finality ------------------------------------------------------------------------------------------------

    def finalise(self, blocks: Sequence[Block], certificate: Certificate) -> list[FinalisedBlock]:
        """Make blocks final, oldest first, the last one proven by `certificate` (which the caller has verified).

        Blocks that are final already are passed over; those not yet executed are. Where an epoch ends the rest is not
        made final, but kept as proof of its last block. All that is new is on disk, in one transaction, when this
        returns; branches that do not descend from it are forgotten.

        Raises:
            InvalidBlock: a gap, a certificate of another block, or a conflict with what is final; UnknownParent
        """
        fresh = self._fresh(blocks, certificate)
        if not fresh:
            return []
        executed: list[Executed] = []
        for block in fresh:
            self.add(block, None)
            found = self._overlay.get(block.digest)
            assert found is not None
            executed.append(found)
            if found.next_validators is not None:
                break
        last, tail, epoch = executed[-1], fresh[len(executed) :], None
        pairs = zip(fresh, executed, strict=False)
        attestations = [each for block, done in pairs for each in self._beside(block, done)]
        prune = (last.block.epoch, last.block.view)
        if last.next_validators is not None:
            epoch = self.epochs.next(last.next_validators, last.block.height + 1)
            prune = (epoch.number, 0)
        stored = [_stored(each) for each in executed]
        self._store.write_finalised(stored, certificate, attestations, prune, tail, epoch)
        if epoch is not None:
            self.epochs.append(epoch)
        self._final = last.header
        self._overlay.advance(last.block.digest, keep_children=epoch is None)
        return [
            FinalisedBlock(rules.head_of(each.header), tuple(r.transaction for r in each.receipts), each.logs)
            for each in executed
        ]

    def _fresh(self, blocks: Sequence[Block], certificate: Certificate) -> list[Block]:
        if not blocks or (certificate.digest, certificate.view) != (blocks[-1].digest, blocks[-1].view):
            raise InvalidBlock(certificate.digest, "the certificate is of another block")
        fresh: list[Block] = []
        tip: bytes = self._final.hash
        for block in blocks:
            if block.height <= self._final.block_number:
                if self._store.digest_at(block.height) != block.digest:
                    raise InvalidBlock(block.digest, "conflicts with the finalised chain")
                continue
            if block.parent != tip:
                raise InvalidBlock(block.digest, "does not follow what is final", tip, block.parent)
            fresh.append(block)
            tip = block.digest
        return fresh

    def _beside(self, block: Block, executed: Executed) -> list[Attestation]:
        """The attestations of this block's own claims; a proposer may have put any others beside it."""
        wanted = {self.claim_digest(claim) for claim in executed.claims}
        return [each for each in block.attestations or executed.block.attestations if each.claim in wanted]


def _stored(executed: Executed) -> StoredBlock:
    block = executed.block
    return StoredBlock(
        number=block.height,
        digest=block.digest,
        payload=block.payload,
        nodes=executed.nodes,
        receipts=encode_receipts(executed.receipts),
        bloom=executed.header.bloom,
        transactions=tuple(receipt.transaction for receipt in executed.receipts),
    )
