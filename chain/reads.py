"""Questions about the chain: accounts, calls, blocks, transactions, receipts, logs. Plain values, no JSON.

Every answer is about one block: the finalised head unless `at` names another, by number (finalised) or by digest
(also one that is executed but not final). State is never pruned, so old blocks can be asked as well.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final, TypeAlias

from chain import evm
from chain import header as rules
from chain.epochs import Epochs
from chain.evm import Header, Receipt, TransactionFields
from chain.genesis import Network
from chain.overlay import Overlay
from chain.receipts import decode_receipts, logs_of
from chain.store import Store, StoreDamaged
from chain.types import Block, Certificate, ChainError, Head, Log, Vote

At: TypeAlias = "int | bytes | None"
TopicFilter: TypeAlias = "Sequence[bytes | Collection[bytes] | None]"
LOGS_MAX: Final = 10_000
_FRAME_BYTES: Final = 256  # around a block and its certificate on the wire
_SIGNATURE_BYTES: Final = 72  # with its signer's index
NO_ADDRESS: Final = bytes(20)


@dataclass(eq=False)
class UnknownBlock(ChainError):
    """No such block is known here."""

    at: int | bytes

    def __str__(self) -> str:
        return f"unknown block {self.at.hex() if isinstance(self.at, bytes) else self.at}"


@dataclass(eq=False)
class TooManyLogs(ChainError):
    """A query matches more logs than it may return."""

    limit: int

    def __str__(self) -> str:
        return f"more than {self.limit} logs match; ask for fewer blocks"


@dataclass(frozen=True, slots=True)
class BlockView:
    """A block for display; the constant fields of an Ethereum header after the merge are left out."""

    head: Head
    proposer: bytes
    gas_used: int
    gas_limit: int
    base_fee_wei: int
    bloom: bytes  # 256 bytes
    transactions_root: bytes
    receipts_root: bytes
    uncles_hash: bytes
    withdrawals_root: bytes  # of no withdrawals
    beacon_root: bytes  # a constant: there is no beacon chain
    extra_data: bytes  # 32 bytes epoch and view, 65 bytes the proposer's signature
    size: int  # bytes of RLP
    transactions: tuple[TransactionFields, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a transaction stands."""

    number: int
    digest: bytes
    index: int


@dataclass(frozen=True, slots=True)
class ReceiptView:
    """What a finalised transaction did."""

    place: Place
    fields: TransactionFields
    succeeded: bool
    gas_used: int
    gas_used_cumulative: int
    logs: tuple[Log, ...]


class ChainReads:
    """The reading half of Chain; it changes nothing."""

    def __init__(self, store: Store, network: Network) -> None:
        self.network = network
        self.constants = evm.Rules(network.chain_id, network.gas_limit, network.base_fee_wei)
        self._store = store
        self._codec = evm.Codec(self.constants)
        self._overlay = Overlay()
        self.epochs = Epochs(network, store.epochs())
        self._final: Header  # set by Chain, as is what follows from it
        self.genesis_digest: bytes

    # -- heads and blocks ----------------------------------------------------------------------------------------

    @property
    def finalised(self) -> Head:
        return rules.head_of(self._final)

    @property
    def finalised_certificate(self) -> Certificate | None:
        """The proof of the finalised head; None for genesis alone."""
        return self._store.certificate(self._final.block_number)

    def evidence(self) -> tuple[tuple[Vote, Vote], ...]:
        """Pairs of votes that no honest validator casts both, one for each voter and epoch, by ascending epoch."""
        return self._store.evidence()

    @property
    def final_block(self) -> Block:
        block = self.finalised_block(self._final.hash)
        assert block is not None
        return block

    def has(self, digest: bytes) -> bool:
        """Whether the block was executed here: final or not."""
        known = digest == self._final.hash or digest in self._overlay
        return known or self._store.block(digest) is not None

    def is_open(self, digest: bytes) -> bool:
        """Whether a block may follow it here: it is the finalised head, or was executed above it."""
        return digest == self._final.hash or digest in self._overlay

    def head(self, at: At) -> Head:
        """Raises UnknownBlock."""
        return rules.head_of(self._header(at))

    def timestamp(self, number: int) -> int:
        """Time of a finalised block. Raises UnknownBlock."""
        return self._header(number).timestamp

    def executed_block(self, digest: bytes) -> Block | None:
        """A block that was executed here, final or not."""
        executed = self._overlay.get(digest)
        return self.finalised_block(digest) if executed is None else executed.block

    def finalised_block(self, digest: bytes) -> Block | None:
        """A finalised block as consensus sees it, without attestations."""
        payload = self._store.block(digest)
        return None if payload is None else rules.block_of(evm.decode_header(payload), payload)

    def blocks_from(self, number: int, count: int, bytes_max: int) -> list[tuple[Block, Certificate | None]]:
        """Finalised blocks from `number` on, `count` or as many as `bytes_max` allows, at least one if there is one.

        Each with the certificate that is kept for it, if any: of blocks that became final together the last one has
        it. An epoch's last block comes with the empty ones, of its epoch, up to the one that its certificate names.
        """
        found: list[tuple[Block, Certificate | None]] = []
        size = 0
        for height in range(max(number, 1), min(number + count, self._final.block_number + 1)):
            digest = self._store.digest_at(height)
            block = None if digest is None else self.finalised_block(digest)
            if block is None:
                raise StoreDamaged(f"it lacks block {height}")
            certificate, run = self._store.certificate(height), (block, *self._store.tail(height))
            size += sum(len(each.payload) + _FRAME_BYTES for each in run)
            size += 0 if certificate is None else len(certificate.signatures) * _SIGNATURE_BYTES
            if found and size > bytes_max:
                break
            found += [(each, certificate if each is run[-1] else None) for each in run]
        return found

    def block(self, at: At = None) -> BlockView:
        """Raises UnknownBlock."""
        header = self._header(at)
        payload = self._payload(header.hash)
        raws = evm.decode_block(payload, self.constants.gas_limit, header.hash).transactions
        return BlockView(
            head=rules.head_of(header),
            proposer=header.coinbase,
            gas_used=header.gas_used,
            gas_limit=header.gas_limit,
            base_fee_wei=self.constants.base_fee_wei,
            bloom=header.bloom.to_bytes(256, "big"),
            transactions_root=header.transaction_root,
            receipts_root=header.receipt_root,
            uncles_hash=header.uncles_hash,
            withdrawals_root=evm.EMPTY_ROOT,
            beacon_root=evm.EMPTY_ROOT,
            extra_data=header.extra_data,
            size=len(payload),
            transactions=tuple(map(self._codec.fields, raws)),
        )

    def transaction(self, digest: bytes) -> tuple[TransactionFields, Place] | None:
        """A finalised transaction and its place; None if it is not final."""
        found = self._store.transaction_place(digest)
        if found is None:
            return None
        number, index = found
        header = self._header(number)
        raws = evm.decode_block(self._payload(header.hash), self.constants.gas_limit, header.hash).transactions
        return self._codec.fields(raws[index]), Place(number, header.hash, index)

    def receipt(self, digest: bytes) -> ReceiptView | None:
        """What a finalised transaction did; None if it is not final."""
        found = self.transaction(digest)
        if found is None:
            return None
        fields, place = found
        return _receipt_view(fields, place, self._receipts(place.number))

    def receipts(self, number: int) -> tuple[ReceiptView, ...]:
        """Of a finalised block, by index. Raises UnknownBlock."""
        view = self.block(number)
        receipts = self._receipts(number)
        return tuple(
            _receipt_view(fields, Place(number, view.head.digest, index), receipts)
            for index, fields in enumerate(view.transactions)
        )

    def logs(
        self,
        first: int,
        last: int,
        addresses: Collection[bytes] = (),
        topics: TopicFilter = (),
        limit: int = LOGS_MAX,
    ) -> list[Log]:
        """Logs of the finalised blocks first..last, oldest first.

        Args:
            addresses: any of these contracts; empty means all.
            topics: by position: None for anything, a topic, or any of several topics.

        Raises:
            TooManyLogs: more than `limit` match.
        """
        found: list[Log] = []
        wanted = [frozenset(addresses), *(_alternatives(topic) for topic in topics)]
        masks = [tuple(map(evm.bloom_bits, each)) for each in wanted if each]
        for number, bloom in self._store.blooms(max(first, 0), min(last, self._final.block_number)):
            if not all(any(bloom & mask == mask for mask in any_of) for any_of in masks):
                continue
            digest = self._store.digest_at(number)
            assert digest is not None
            found += [x for x in logs_of(self._receipts(number), number, digest) if _matches(x, wanted)]
            if len(found) > limit:
                raise TooManyLogs(limit)
        return found

    # -- state ---------------------------------------------------------------------------------------------------

    def nonce(self, address: bytes, at: At = None) -> int:
        return self._at(at).nonce(address)

    def balance(self, address: bytes, at: At = None) -> int:
        return self._at(at).balance(address)

    def code(self, address: bytes, at: At = None) -> bytes:
        return self._at(at).code(address)

    def storage(self, address: bytes, slot: int, at: At = None) -> int:
        return self._at(at).storage(address, slot)

    def call(
        self,
        to: bytes,
        data: bytes = b"",
        sender: bytes = NO_ADDRESS,
        value: int = 0,
        at: At = None,
        gas: int | None = None,
        now: int | None = None,
    ) -> bytes:
        """Do the job of `calling` here and now. Raises as it does."""
        return self.calling(to, data, sender, value, at, gas, now)()

    def calling(
        self,
        to: bytes,
        data: bytes = b"",
        sender: bytes = NO_ADDRESS,
        value: int = 0,
        at: At = None,
        gas: int | None = None,
        now: int | None = None,
    ) -> Callable[[], bytes]:
        """The job, for any thread, of finding what a transaction would return after block `at`; it pays no fee.

        Args:
            now: the time that it sees; the block's own by default, and never before that.

        Raises:
            UnknownBlock; the job: Reverted, with reason and data, or ExecutionFailed.
        """
        state, gas_limit = self._at(at, now), self._gas(gas)
        return lambda: state.call(sender, to, data, value, gas_limit)[0]

    def estimating(
        self,
        to: bytes,
        data: bytes = b"",
        sender: bytes = NO_ADDRESS,
        value: int = 0,
        at: At = None,
        gas: int | None = None,
        now: int | None = None,
    ) -> Callable[[], int]:
        """The job of finding the least gas limit, within 1/64, with which the call succeeds. Raises as `calling`."""
        state, gas_limit = self._at(at, now), self._gas(gas)
        return lambda: state.least_gas(sender, to, data, value, gas_limit)

    def _gas(self, gas: int | None) -> int:
        return self.constants.gas_limit if gas is None else min(gas, self.constants.gas_limit)

    # -- within --------------------------------------------------------------------------------------------------

    def _at(self, at: At, now: int | None = None) -> evm.Snapshot:
        header = self._header(at)
        layers = self._layers(header.hash)
        if now is not None and now > header.timestamp:
            header = header.copy(timestamp=now)
        return evm.Snapshot(header, layers, self.constants.chain_id)

    def _layers(self, digest: bytes) -> evm.Layers:
        return evm.Layers([executed.nodes for executed in self._overlay.branch(digest)], self._store.state)

    def _header(self, at: At) -> Header:
        if at is None:
            return self._final
        digest = self._store.digest_at(at) if isinstance(at, int) and at >= 0 else at
        if isinstance(digest, bytes):
            if digest == self._final.hash:
                return self._final
            if (executed := self._overlay.get(digest)) is not None:
                return executed.header
            if (payload := self._store.block(digest)) is not None:
                return evm.decode_header(payload)
        if isinstance(at, int) and 0 <= at <= self._final.block_number:
            raise StoreDamaged(f"it lacks block {at}")
        raise UnknownBlock(at)

    def _payload(self, digest: bytes) -> bytes:
        executed = self._overlay.get(digest)
        payload = self._store.block(digest) if executed is None else executed.block.payload
        if payload is None:
            raise UnknownBlock(digest)
        return payload

    def _receipts(self, number: int) -> tuple[Receipt, ...]:
        encoded = self._store.receipts(number)
        if encoded is None:
            self._header(number)  # which may be unknown
            raise StoreDamaged(f"it lacks the receipts of block {number}")
        return decode_receipts(encoded)

    def _ancestors(self, digest: bytes) -> Iterator[bytes]:
        """The block's digest, its parent's, and so on; safe to be read later, and in another thread."""
        branch = [executed.block for executed in self._overlay.branch(digest)]
        final: int = self._header(branch[-1].parent if branch else digest).block_number
        finalised = (self._store.digest_at(number) for number in range(final, -1, -1))
        return chain((block.digest for block in branch), (found for found in finalised if found is not None))


def _receipt_view(fields: TransactionFields, place: Place, receipts: Sequence[Receipt]) -> ReceiptView:
    receipt = receipts[place.index]
    logs = logs_of(receipts, place.number, place.digest)
    return ReceiptView(
        place=place,
        fields=fields,
        succeeded=receipt.succeeded,
        gas_used=receipt.gas_used,
        gas_used_cumulative=receipt.gas_used_before + receipt.gas_used,
        logs=tuple(log for log in logs if log.transaction == receipt.transaction),
    )


def _alternatives(topic: bytes | Collection[bytes] | None) -> frozenset[bytes]:
    if topic is None:
        return frozenset()
    return frozenset((topic,)) if isinstance(topic, bytes) else frozenset(topic)


def _matches(log: Log, wanted: Sequence[frozenset[bytes]]) -> bool:
    addresses, *topics = wanted
    if addresses and log.address not in addresses:
        return False
    if len(topics) > len(log.topics):
        return False
    return all(not any_of or topic in any_of for any_of, topic in zip(topics, log.topics, strict=False))
