"""The block tree of one node: builds blocks, checks and executes those of others, and makes them final on disk.

    build / add ──> overlay (in memory, a tree above the finalised head) ──finalise──> disk, one transaction

A block is checked in this order, so that little is spent on what a stranger sends: size and form; the digests and
numbers it claims; the proposer's signature; its parent; its header against the parent's; and only then its execution,
whose header must come out equal bit by bit. Consensus decides what is final; nothing here votes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from chain import evm
from chain import header as rules
from chain.evm import Account, Header
from chain.genesis import Network
from chain.overlay import Executed
from chain.reads import ChainReads, TooManyLogs, UnknownBlock, encode_receipts, logs_of
from chain.store import OtherNetwork, Store, StoredBlock, StoreError
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

__all__ = ["Chain", "FinalisedBlock", "Selection", "TooManyLogs", "UnknownBlock"]

_HEADER_BYTES: Final = 1024  # room for header and list prefixes within a block's bytes
ClaimOf = Callable[[Log], Claim | None]
ClaimDigest = Callable[[Claim, int, bytes], bytes]


@dataclass(frozen=True, slots=True)
class Selection:
    """What of the pool can stand in a block on a given parent."""

    ready: tuple[Transaction, ...]
    unattested: tuple[tuple[Claim, bytes], ...]  # (claim without a quorum, hash of the transaction that logs it)


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
        genesis_accounts: Mapping[bytes, Account] | None = None,
        claim_of: ClaimOf | None = None,
        claim_digest: ClaimDigest | None = None,
    ) -> None:
        """
        Args:
            genesis_accounts: code and storage placed at genesis; the network's own contracts by default.
            claim_of: what a log states about blobs, if anything; the contracts' bindings by default.
            claim_digest: what attestations sign, of (claim, chain id, genesis digest); claims.claim_digest by default.

        Raises:
            StoreError: the database is damaged or belongs to another network.
        """
        super().__init__(store, network)
        self._claim_of = _default_claim_of() if claim_of is None else claim_of
        self._digest_of = _default_claim_digest() if claim_digest is None else claim_digest
        self.genesis_digest = self._open(_default_accounts(network) if genesis_accounts is None else genesis_accounts)
        finalised = store.finalised()
        payload = None if finalised is None else store.block(finalised)
        if payload is None:
            raise StoreError("the chain database lacks its finalised block")
        self._final = evm.decode_header(payload)

    def _open(self, contracts: Mapping[bytes, Account]) -> bytes:
        """The genesis digest; a new database gets the genesis block."""
        accounts = {address: Account(balance=amount) for address, amount in self.network.balances.items()}
        for address, contract in contracts.items():
            funded = self.network.balances.get(address, 0) + contract.balance
            accounts[address] = Account(funded, contract.nonce, contract.code, contract.storage)
        header, nodes = evm.genesis(self.constants, self.network.timestamp, accounts, self.network.digest())
        found = self._store.genesis()
        if found is None:
            payload = evm.encode_block(header, ())
            self._store.write_genesis(StoredBlock(0, header.hash, payload, nodes, encode_receipts(()), 0, ()))
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

    def select(
        self, parent: bytes, transactions: Iterable[Transaction], attested: Callable[[bytes], bool], now: int
    ) -> Selection:
        """Execute candidates, in their order, as a block on `parent` at time `now` would.

        Left out without further word: what is invalid there as yet (nonce, balance) and what no longer fits into the
        block. Left out and reported: what logs a claim of which `attested(claim digest)` is not true.

        Raises:
            UnknownParent
        """
        header = self._parent(parent)
        execution = self._execution(header, max(header.timestamp, now), bytes(20))
        return self._fill(execution, transactions, attested)

    def _fill(
        self, execution: evm.Execution, transactions: Iterable[Transaction], attested: Callable[[bytes], bool] | None
    ) -> Selection:
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
            missing = [claim for claim in claims if attested is not None and not attested(self.claim_digest(claim))]
            if missing:
                execution.undo()
                idle_gas_left -= receipt.gas_used
                unattested += [(claim, transaction.hash) for claim in missing]
            else:
                ready.append(transaction)
                bytes_left -= size
        return Selection(tuple(ready), tuple(unattested))

    def _claims_of(self, logs: Iterable[Log]) -> list[Claim]:
        return [claim for log in logs if (claim := self._claim_of(log)) is not None]

    def claim_digest(self, claim: Claim) -> bytes:
        """What attestations of a claim sign."""
        return self._digest_of(claim, self.network.chain_id, self.genesis_digest)

    # -- blocks --------------------------------------------------------------------------------------------------

    def build(
        self,
        parent: bytes,
        view: int,
        epoch: int,
        transactions: Iterable[Transaction],
        now: int,
        key: bytes,
        attested: Callable[[bytes], bool] | None = None,
    ) -> Block:
        """A signed block on `parent` with those of `transactions` that can stand in it, in their order.

        Given what `select` found ready for the same parent and time, that is all of them. `attested`, if given, leaves
        out what logs a claim without a quorum. The block is kept in the overlay as if added.

        Args:
            now: the proposer's clock, seconds; the block's time is not before its parent's.
            key: the proposer's 32-byte secp256k1 secret.

        Raises:
            UnknownParent
        """
        header = self._parent(parent)
        execution = self._execution(header, max(header.timestamp, now), rules.address_of_secret(key))
        ready = self._fill(execution, transactions, attested).ready
        unsealed, nodes = execution.finish(rules.vanity(epoch, view) + bytes(rules.SIGNATURE_BYTES))
        sealed = rules.seal(unsealed, key)
        block = rules.block_of(sealed, evm.encode_block(sealed, [transaction.raw for transaction in ready]))
        self._keep(block, sealed, execution, nodes)
        return block

    def add(self, block: Block, now: int | None) -> None:
        """Check and execute a block and keep it in the overlay; a block that is here already is not done again.

        Whether its claims are attested is the caller's to check, by `claims`.

        Args:
            now: own clock, seconds: the block's time must be within the network's drift of it. None where others
                have vouched for the block already (it is notarised or final).

        Raises:
            InvalidBlock: names the rule; UnknownParent
        """
        if self.has(block.digest):
            return
        decoded = evm.decode_block(block.payload, self.constants.gas_limit, block.digest)
        header = decoded.header
        rules.check_identity(block, header)
        rules.check_seal(header, self.network.validator_addresses)
        parent = self._parent(header.parent_hash)
        rules.check_parent(header, parent)
        if now is not None:
            rules.check_time(header, now, self.network.time_drift_s)
        execution = self._execution(parent, header.timestamp, header.coinbase)
        for index, raw in enumerate(decoded.transactions):
            try:
                execution.run(self._codec.transaction(raw))
            except InvalidTransaction as error:
                raise InvalidBlock(block.digest, f"transaction {index}: {error}") from error
        ours, nodes = execution.finish(header.extra_data)
        rules.check_equal(header, ours)
        self._keep(block, header, execution, nodes)

    def check_identity(self, block: Block) -> None:
        """That a block's digest, epoch, view, parent and height are those of its payload: cheap, before anything else.

        Raises:
            InvalidBlock
        """
        rules.check_identity(block, evm.peek_header(block.payload, block.digest))

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

    def _keep(self, block: Block, header: Header, execution: evm.Execution, nodes: Mapping[bytes, bytes]) -> None:
        logs = tuple(logs_of(execution.receipts, block.height, block.digest))
        claims = tuple(self._claims_of(logs))
        self._overlay.put(Executed(block, header, tuple(execution.receipts), logs, claims, nodes))

    # -- finality ------------------------------------------------------------------------------------------------

    def finalise(self, blocks: Sequence[Block], certificate: Certificate) -> list[FinalisedBlock]:
        """Make blocks final, oldest first, the last one proven by `certificate` (which the caller has verified).

        Blocks that are final already are passed over; those not yet executed are. All that is new is on disk, in one
        transaction, when this returns; branches that do not descend from it are forgotten.

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
        last = executed[-1]
        attestations = [each for block, done in zip(fresh, executed, strict=True) for each in self._beside(block, done)]
        view = (last.block.epoch, last.block.view)
        self._store.write_finalised([_stored(each) for each in executed], certificate, attestations, prune=view)
        self._final = last.header
        self._overlay.advance(last.block.digest)
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


# The contracts are loaded when a chain is opened with them, so that this room does not need theirs to be read alone.


def _default_accounts(network: Network) -> Mapping[bytes, Account]:
    from chain.contracts import genesis_contracts

    placed = genesis_contracts(network.validator_addresses)
    return {address: Account(nonce=1, code=code, storage=storage) for address, (code, storage) in placed.items()}


def _default_claim_of() -> ClaimOf:
    from chain.contracts.bindings import claim_of

    found: ClaimOf = claim_of
    return found


def _default_claim_digest() -> ClaimDigest:
    from chain.claims import claim_digest

    digest: ClaimDigest = claim_digest
    return digest
