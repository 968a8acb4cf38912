"""Bytes to checked transactions and blocks, and back. Nothing in here raises anything but InvalidTransaction and
InvalidBlock for bytes from outside, however garbled."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Final, TypeAlias, cast

import coincurve
import rlp
from eth._utils.address import generate_contract_address
from eth.abc import BlockHeaderAPI, SignedTransactionAPI
from eth.constants import EMPTY_UNCLE_HASH, SECPK1_N
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth.vm.forks.shanghai.constants import MAX_INITCODE_SIZE
from eth_hash.auto import keccak
from eth_typing import Address

from chain.types import InvalidBlock, InvalidTransaction, Transaction

Header: TypeAlias = BlockHeaderAPI

TRANSACTION_BYTES_MAX: Final = 60 * 1024  # fits a gossip message of 64 KiB
BLOCK_BYTES_MAX: Final = 1 << 20
TRANSACTION_GAS_MIN: Final = 21_000
_CACHE_BYTES_MAX: Final = 8 << 20
_CACHE_ENTRY_BYTES: Final = 2048  # what a decoded transaction holds beside its own bytes, roughly
_UINT256_MAX: Final = (1 << 256) - 1
_UINT64_MAX: Final = (1 << 64) - 1
_EIP155_V_MIN: Final = 35
_ACCESS_LIST_TYPE: Final = 1
_DYNAMIC_FEE_TYPE: Final = 2
_LIST_PREFIX: Final = 0xC0
_LONG_LIST_PREFIX: Final = 0xF8  # with one byte of length behind it


@dataclass(frozen=True, slots=True)
class Rules:
    """The constants of a network that execution depends on."""

    chain_id: int
    gas_limit: int
    base_fee_wei: int


@dataclass(frozen=True, slots=True)
class Signed:
    """A transaction that has passed all checks that need no state, under py-evm's names; unlike py-evm's own, nothing
    is computed or encoded again when it is asked for."""

    hash: bytes
    raw: bytes
    type_id: int  # 0 legacy with EIP-155, 1 access list (EIP-2930), 2 dynamic fee (EIP-1559)
    sender: bytes
    nonce: int
    gas: int
    intrinsic_gas: int  # the least
    max_fee_per_gas: int
    max_priority_fee_per_gas: int
    to: bytes  # b"" creates a contract
    value: int
    data: bytes
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...]
    v: int  # legacy: with the chain id; else the y parity
    y_parity: int
    r: int
    s: int


@dataclass(frozen=True, slots=True)
class TransactionFields:
    """Everything that a signed transaction says, for display."""

    hash: bytes
    type: int  # 0 legacy with EIP-155, 1 access list (EIP-2930), 2 dynamic fee (EIP-1559)
    sender: bytes
    to: bytes | None  # None creates `contract`
    contract: bytes | None
    nonce: int
    gas: int
    gas_price: int  # effective, wei
    fee: int  # max fee per gas, wei
    tip: int  # max priority fee per gas, wei
    value: int
    data: bytes
    access_list: tuple[tuple[bytes, tuple[int, ...]], ...]
    v: int  # legacy: with the chain id; else the y parity
    y_parity: int
    r: int
    s: int


@dataclass(frozen=True, slots=True)
class DecodedBlock:
    header: Header
    transactions: tuple[bytes, ...]  # raw


class Codec:
    """Decodes for one network; a transaction seen before is neither parsed nor its sender recovered again.

    Any thread may ask: the lock is held for no more than a look into the cache.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._lock = Lock()
        self._seen: OrderedDict[bytes, tuple[Signed, int]] = OrderedDict()
        self._seen_bytes = 0

    def transaction(self, raw: bytes) -> Signed:
        """Decode and check all that needs no state: form, chain id, signature, gas and fee bounds.

        Raises:
            InvalidTransaction: names the rule.
        """
        if len(raw) > TRANSACTION_BYTES_MAX:
            raise InvalidTransaction(f"transaction of {len(raw)} bytes, at most {TRANSACTION_BYTES_MAX} are allowed")
        key = keccak(raw)
        with self._lock:
            known = self._seen.get(key)
            if known is not None:
                self._seen.move_to_end(key)
                return known[0]
        transaction = self._checked(_parse(raw), raw, key)
        with self._lock:
            self._remember(key, transaction, len(raw) + _CACHE_ENTRY_BYTES)
        return transaction

    def _remember(self, key: bytes, transaction: Signed, size: int) -> None:
        if key in self._seen:  # another thread was faster
            return
        self._seen[key] = (transaction, size)
        self._seen_bytes += size
        while self._seen_bytes > _CACHE_BYTES_MAX:
            _, (_, freed) = self._seen.popitem(last=False)
            self._seen_bytes -= freed

    def _checked(self, parsed: SignedTransactionAPI, raw: bytes, digest: bytes) -> Signed:
        rules = self._rules
        if parsed.chain_id != rules.chain_id:
            raise InvalidTransaction(f"signed for chain {parsed.chain_id}, this is chain {rules.chain_id}")
        fee, tip, gas, intrinsic = (
            parsed.max_fee_per_gas, parsed.max_priority_fee_per_gas, parsed.gas, parsed.intrinsic_gas,
        )  # fmt: skip
        if parsed.nonce >= _UINT64_MAX or max(fee, tip, parsed.value) > _UINT256_MAX:
            raise InvalidTransaction("a number is out of range")
        if gas > rules.gas_limit:
            raise InvalidTransaction(f"gas {gas} is above the block's limit of {rules.gas_limit}")
        if gas < intrinsic:
            raise InvalidTransaction(f"gas {gas} is below the least of {intrinsic}")
        if fee < rules.base_fee_wei:
            raise InvalidTransaction(f"fee {fee} is below the base fee of {rules.base_fee_wei} wei")
        if tip > fee:
            raise InvalidTransaction("tip is above the fee")
        if not parsed.to and len(parsed.data) > MAX_INITCODE_SIZE:
            raise InvalidTransaction(f"init code above {MAX_INITCODE_SIZE} bytes (EIP-3860)")
        if any(len(account) != 20 for account, _ in parsed.access_list):
            raise InvalidTransaction("malformed access list")
        signature_ok = 0 < parsed.r < SECPK1_N and 0 < parsed.s <= SECPK1_N // 2
        if not signature_ok or parsed.y_parity not in (0, 1):
            raise InvalidTransaction("malformed signature")
        kind = parsed.type_id or 0
        return Signed(
            hash=digest,
            raw=raw,
            type_id=kind,
            sender=_recover(parsed, raw),
            nonce=parsed.nonce,
            gas=gas,
            intrinsic_gas=intrinsic,
            max_fee_per_gas=fee,
            max_priority_fee_per_gas=tip,
            to=parsed.to,
            value=parsed.value,
            data=parsed.data,
            access_list=tuple((bytes(account), tuple(slots)) for account, slots in parsed.access_list),
            v=parsed.y_parity if kind else cast(Any, parsed).v,
            y_parity=parsed.y_parity,
            r=parsed.r,
            s=parsed.s,
        )

    def fields(self, raw: bytes) -> TransactionFields:
        """What a transaction of a finalised block says."""
        transaction = self.transaction(raw)
        created = None if transaction.to else generate_contract_address(Address(transaction.sender), transaction.nonce)
        price = min(transaction.max_fee_per_gas, transaction.max_priority_fee_per_gas + self._rules.base_fee_wei)
        return TransactionFields(
            hash=transaction.hash,
            type=transaction.type_id,
            sender=transaction.sender,
            to=transaction.to or None,
            contract=created,
            nonce=transaction.nonce,
            gas=transaction.gas,
            gas_price=price,
            fee=transaction.max_fee_per_gas,
            tip=transaction.max_priority_fee_per_gas,
            value=transaction.value,
            data=transaction.data,
            access_list=transaction.access_list,
            v=transaction.v,
            y_parity=transaction.y_parity,
            r=transaction.r,
            s=transaction.s,
        )


def describe(transaction: Signed, raw: bytes) -> Transaction:
    """The value that mempool and consensus hold."""
    return Transaction(
        hash=transaction.hash,
        sender=transaction.sender,
        nonce=transaction.nonce,
        gas=transaction.gas,
        fee=transaction.max_fee_per_gas,
        tip=transaction.max_priority_fee_per_gas,
        value=transaction.value,
        raw=raw,
    )


def encode_block(header: Header, transactions: Sequence[bytes]) -> bytes:
    """RLP of the Ethereum block: header, transactions, no uncles, no withdrawals."""
    items = [raw if raw[0] < _LIST_PREFIX else rlp.decode(raw) for raw in transactions]
    return cast(bytes, rlp.encode([rlp.decode(rlp.encode(header)), items, [], []]))


def decode_block(payload: bytes, gas_limit: int, digest: bytes) -> DecodedBlock:
    """Parse a block's bytes; transactions stay raw. `digest` is what its sender calls it, for the error's text.

    Raises:
        InvalidBlock: too long, not canonical RLP of a Cancun block, or it has uncles or withdrawals.
    """
    if len(payload) > BLOCK_BYTES_MAX:
        raise InvalidBlock(digest, "too many bytes", BLOCK_BYTES_MAX, len(payload))
    try:
        encoded_header, items, uncles, withdrawals = rlp.decode(payload)  # strict: refuses what is not canonical
        header = CancunBlockHeader.deserialize(encoded_header)
        count = len(items)
        raws = tuple(item if isinstance(item, bytes) else cast(bytes, rlp.encode(item)) for item in items)
    except Exception as error:  # any exception is the fault of the bytes: parsing depends on nothing else
        raise InvalidBlock(digest, f"malformed ({type(error).__name__})") from error
    if len(uncles) or len(withdrawals) or header.uncles_hash != EMPTY_UNCLE_HASH:
        raise InvalidBlock(digest, "uncles and withdrawals are not allowed")
    if count > gas_limit // TRANSACTION_GAS_MIN:
        raise InvalidBlock(digest, "too many transactions", gas_limit // TRANSACTION_GAS_MIN, count)
    return DecodedBlock(header, raws)


def decode_header(block_payload: bytes) -> Header:
    """The header alone of a block that this node stored; far cheaper than decoding the block."""
    return cast(Header, rlp.peek(block_payload, 0, CancunBlockHeader))


def peek_header(block_payload: bytes, digest: bytes) -> Header:
    """The header of a block that a peer sent. Raises InvalidBlock if there is none to be read."""
    if len(block_payload) > BLOCK_BYTES_MAX:
        raise InvalidBlock(digest, "size in bytes", BLOCK_BYTES_MAX, len(block_payload))
    try:
        return decode_header(block_payload)
    except Exception as error:  # any exception is the fault of the bytes
        raise InvalidBlock(digest, f"malformed header ({type(error).__name__})") from error


def _parse(raw: bytes) -> SignedTransactionAPI:
    if not raw:
        raise InvalidTransaction("empty transaction")
    if raw[0] < _LIST_PREFIX and raw[0] not in (_ACCESS_LIST_TYPE, _DYNAMIC_FEE_TYPE):
        raise InvalidTransaction(f"transaction type {raw[0]} is not taken; legacy, 1 and 2 are")
    try:
        transaction = CancunTransactionBuilder.decode(raw)  # strict: refuses what is not canonical
    except Exception as error:  # any exception is the fault of the bytes
        raise InvalidTransaction(f"malformed transaction ({type(error).__name__})") from error
    if not transaction.type_id and cast(Any, transaction).v < _EIP155_V_MIN:
        raise InvalidTransaction("signed without a chain id (EIP-155)")
    return transaction


def _recover(transaction: SignedTransactionAPI, raw: bytes) -> bytes:
    """Recovering the sender is the signature check."""
    try:
        if not transaction.type_id:
            return bytes(transaction.sender)
        r, s = transaction.r, transaction.s
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes((transaction.y_parity,))
        message = keccak(_signed_bytes(raw, r, s))
        key = coincurve.PublicKey.from_signature_and_message(signature, message, hasher=None)
    except Exception as error:  # eth_keys and coincurve raise many kinds, by the values of r and s
        raise InvalidTransaction("the signature does not recover to a sender") from error
    return keccak(key.format(compressed=False)[1:])[12:]


def _signed_bytes(raw: bytes, r: int, s: int) -> bytes:
    """What a typed transaction's signature signs: its type, and its list without parity, r and s at the end.

    `raw` is canonical, so its own bytes serve; py-evm encodes all fields again.
    """
    start = 2 if raw[1] < _LONG_LIST_PREFIX else 2 + raw[1] - _LONG_LIST_PREFIX + 1
    tail = 1 + len(rlp.encode(r)) + len(rlp.encode(s))  # a parity is one byte
    body = raw[start : len(raw) - tail]
    return raw[:1] + cast(bytes, rlp.codec.length_prefix(len(body), _LIST_PREFIX)) + body
