"""The ONLY door to py-evm: executes transactions under Cancun rules with a fixed base fee and gas limit.

A block is an ordinary Ethereum block of the Cancun fork without uncles, withdrawals and blobs. `Execution` runs
transactions one after another on a parent's state and closes them into a header; building a block, checking one,
and looking what a transaction would log are the same loop with different ends.
"""

# py-evm wraps bytes and int in NewTypes; casting each would hide the code:
# mypy: disable-error-code="arg-type"

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import rlp
from eth.constants import BLANK_ROOT_HASH, EMPTY_UNCLE_HASH
from eth.exceptions import OutOfGas, Revert
from eth.vm.execution_context import ExecutionContext
from eth.vm.forks.cancun.blocks import CancunBlockHeader
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth_hash.auto import keccak
from eth_utils.exceptions import ValidationError

from chain.evm_codec import (
    BLOCK_BYTES_MAX,
    TRANSACTION_BYTES_MAX,
    TRANSACTION_GAS_MIN,
    Codec,
    DecodedBlock,
    Header,
    Rules,
    Signed,
    TransactionFields,
    decode_block,
    decode_header,
    describe,
    encode_block,
    peek_header,
)
from chain.evm_machine import Disk, Layers, State
from chain.evm_receipts import Receipt, bloom_bits, bloom_of, encode_receipt
from chain.evm_trie import ordered_root
from chain.store import StoreError
from chain.types import ChainError, InvalidTransaction

__all__ = [
    "BLOCK_BYTES_MAX",
    "EMPTY_ROOT",
    "TRANSACTION_BYTES_MAX",
    "TRANSACTION_GAS_MIN",
    "VANITY_BYTES",
    "Account",
    "Codec",
    "DecodedBlock",
    "Disk",
    "Execution",
    "ExecutionFailed",
    "Header",
    "Layers",
    "Receipt",
    "Reverted",
    "Rules",
    "Snapshot",
    "TransactionFields",
    "blank_header",
    "bloom_bits",
    "decode_block",
    "decode_header",
    "describe",
    "encode_block",
    "genesis",
    "peek_header",
    "revert_reason",
    "seal_hash",
]

VANITY_BYTES: Final = 32
EMPTY_ROOT: Final[bytes] = BLANK_ROOT_HASH  # of a trie without entries
_ERROR_SELECTOR: Final = bytes.fromhex("08c379a0")  # Error(string)
_PANIC_SELECTOR: Final = bytes.fromhex("4e487b71")  # Panic(uint256)
_REASON_BYTES_MAX: Final = 1024
_STIPEND: Final = 2300  # gas of a value transfer, which a call that forwards all its gas needs on top (EIP-150)


@dataclass(eq=False)
class Reverted(ChainError):
    """A call ended in REVERT: `reason` decoded from `data` where it is Error(string) or Panic(uint256), else empty."""

    reason: str
    data: bytes

    def __str__(self) -> str:
        return f"execution reverted: {self.reason}" if self.reason else "execution reverted"


@dataclass(eq=False)
class ExecutionFailed(ChainError):
    """A call ended without REVERT (out of gas, invalid opcode) or could not begin (balance)."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True, slots=True)
class Account:
    """An account of the genesis state; storage maps slot to value."""

    balance: int = 0
    nonce: int = 0
    code: bytes = b""
    storage: Mapping[int, int] | None = None


class Execution:
    """Transactions run one after another on the state that `parent` left."""

    def __init__(
        self, rules: Rules, parent: Header, timestamp: int, coinbase: bytes, layers: Layers, ancestors: Iterable[bytes]
    ) -> None:
        """`ancestors`: digests of the parent, its parent and so on, read lazily by BLOCKHASH."""
        self._header = blank_header(rules, parent, timestamp, coinbase)
        self._layers = layers
        self._state = _state(self._header, layers, rules.chain_id, ancestors, rules.base_fee_wei)
        self._transactions: list[Signed] = []
        self.encoded_receipts: list[bytes] = []  # as the receipt root has them
        self._blooms: list[int] = []
        self._checkpoint: Any = None
        self.gas_left = rules.gas_limit
        self.receipts: list[Receipt] = []

    def run(self, transaction: Signed) -> Receipt:
        """Run one more transaction; `undo` takes it back until the next one is run.

        Raises:
            InvalidTransaction: it cannot stand in a block here (nonce, balance, gas left); nothing has changed.
        """
        if transaction.gas > self.gas_left:
            raise InvalidTransaction("no gas left in the block")
        state = self._state
        nonce = state.get_nonce(transaction.sender)
        if transaction.nonce != nonce:
            raise InvalidTransaction(f"nonce {transaction.nonce}, the account's next is {nonce}")
        cost = transaction.gas * transaction.max_fee_per_gas + transaction.value  # EIP-1559; py-evm asks for less
        if state.get_balance(transaction.sender) < cost:
            raise InvalidTransaction(f"balance below {cost} wei, the value and the highest fee")
        self._checkpoint = None
        state.lock_changes()
        checkpoint = state.snapshot()
        try:
            computation, gas_used = state.transact(transaction)
        except (StoreError, MemoryError):
            raise
        except ValidationError as error:
            state.revert(checkpoint)
            raise InvalidTransaction(str(error)) from error
        except Exception as error:  # a bug of the machine that all nodes share must not stop them all
            state.revert(checkpoint)
            raise InvalidTransaction(f"cannot be executed ({type(error).__name__})") from error
        self._checkpoint = checkpoint
        result = Receipt(
            transaction=transaction.hash,
            succeeded=computation.is_success,
            gas_used=gas_used,
            gas_used_before=self._header.gas_limit - self.gas_left,
            logs=tuple(
                (address, tuple(topic.to_bytes(32, "big") for topic in topics), data)
                for address, topics, data in computation.get_log_entries()
            ),
        )
        bloom = bloom_of(result)
        self._transactions.append(transaction)
        self.encoded_receipts.append(encode_receipt(result, transaction.type_id, bloom))
        self._blooms.append(bloom)
        self.receipts.append(result)
        self.gas_left -= result.gas_used
        return result

    def undo(self) -> None:
        """Take back the transaction just run, as if it had never been."""
        assert self._checkpoint is not None, "only the last transaction can be undone, once"
        self._state.revert(self._checkpoint)
        self._checkpoint = None
        self.gas_left += self.receipts.pop().gas_used
        self._transactions.pop()
        self.encoded_receipts.pop()
        self._blooms.pop()

    def finish(self, extra_data: bytes) -> tuple[Header, dict[bytes, bytes]]:
        """Close the block: its header with all roots, and the trie nodes and code that it adds. Raises StoreError."""
        self._state.persist()
        bloom = 0
        for each in self._blooms:
            bloom |= each
        header = self._header.copy(
            gas_used=self._header.gas_limit - self.gas_left,
            bloom=bloom,
            state_root=self._state.state_root,
            transaction_root=ordered_root(transaction.raw for transaction in self._transactions),
            receipt_root=ordered_root(self.encoded_receipts),
            extra_data=extra_data,
        )
        return header, self._layers.written


class Snapshot:
    """The state that a block left, to be asked; what a call changes is taken back."""

    def __init__(self, header: Header, layers: Layers, chain_id: int) -> None:
        """`header`: of the block; calls see its number, and its time unless the caller put in a later one."""
        self._state = _state(header, layers, chain_id, (), 0)

    def nonce(self, address: bytes) -> int:
        return self._state.get_nonce(address)

    def balance(self, address: bytes) -> int:
        return self._state.get_balance(address)

    def code(self, address: bytes) -> bytes:
        return self._state.get_code(address)

    def storage(self, address: bytes, slot: int) -> int:
        return self._state.get_storage(address, slot)

    def call(self, sender: bytes, to: bytes, data: bytes, value: int, gas: int) -> tuple[bytes, int]:
        """Run a call that pays no fee. Returns (output, gas used after refunds).

        Raises:
            Reverted, ExecutionFailed
        """
        state = self._state
        transaction = _unsigned(sender, state.get_nonce(sender), to, data, value, gas)
        if transaction.intrinsic_gas > gas:
            raise ExecutionFailed(f"gas {gas} is below the least of {transaction.intrinsic_gas}")
        if state.get_balance(sender) < value:
            raise ExecutionFailed("the sender's balance does not cover the value")
        state.lock_changes()
        checkpoint = state.snapshot()
        try:
            computation, gas_used = state.transact(transaction)
        except ValidationError as error:
            raise ExecutionFailed(str(error)) from error
        finally:
            state.revert(checkpoint)
        if not computation.is_error:
            return bytes(computation.output), gas_used
        if isinstance(computation.error, Revert):
            raise Reverted(revert_reason(computation.output), bytes(computation.output))
        raise ExecutionFailed("out of gas" if isinstance(computation.error, OutOfGas) else str(computation.error))

    def least_gas(self, sender: bytes, to: bytes, data: bytes, value: int, gas_max: int) -> int:
        """The least gas limit, within 1/64, with which a call succeeds. Raises as `call` does.

        The gas used is no answer: refunds come after, and a call that forwards 63/64 of its gas needs more than that.
        """
        used = self.call(sender, to, data, value, gas_max)[1]
        if self._succeeds(sender, to, data, value, used):
            return used
        low, high = used, gas_max
        trial = min(gas_max, (used + _STIPEND) * 64 // 63 + 1)
        while high - low > high // 64:
            if self._succeeds(sender, to, data, value, trial):
                high = trial
            else:
                low = trial
            trial = (low + high) // 2
        return high

    def _succeeds(self, sender: bytes, to: bytes, data: bytes, value: int, gas: int) -> bool:
        try:
            self.call(sender, to, data, value, gas)
        except (Reverted, ExecutionFailed):
            return False
        return True


def blank_header(rules: Rules, parent: Header, timestamp: int, coinbase: bytes) -> Header:
    """The header of a child of `parent` as far as it is known before execution; its state root is the parent's."""
    return CancunBlockHeader(
        difficulty=0,
        block_number=parent.block_number + 1,
        gas_limit=rules.gas_limit,
        timestamp=timestamp,
        coinbase=coinbase,
        parent_hash=parent.hash,
        uncles_hash=EMPTY_UNCLE_HASH,
        state_root=parent.state_root,
        nonce=bytes(8),
        base_fee_per_gas=rules.base_fee_wei,
        withdrawals_root=EMPTY_ROOT,
        parent_beacon_block_root=EMPTY_ROOT,
    )


def genesis(
    rules: Rules, timestamp: int, accounts: Mapping[bytes, Account], extra_data: bytes
) -> tuple[Header, dict[bytes, bytes]]:
    """The first header, and the trie nodes and code of its state."""
    layers = Layers((), lambda _: None)
    header = CancunBlockHeader(
        difficulty=0,
        block_number=0,
        gas_limit=rules.gas_limit,
        timestamp=timestamp,
        nonce=bytes(8),
        extra_data=extra_data,
        base_fee_per_gas=rules.base_fee_wei,
        parent_beacon_block_root=EMPTY_ROOT,
    )
    state = _state(header, layers, rules.chain_id, (), rules.base_fee_wei)
    for address, account in accounts.items():
        state.set_balance(address, account.balance)
        state.set_nonce(address, account.nonce)
        if account.code:
            state.set_code(address, account.code)
        for slot, value in (account.storage or {}).items():
            state.set_storage(address, slot, value)
    state.persist()
    return header.copy(state_root=state.state_root), layers.written


def seal_hash(header: Header) -> bytes:
    """What the proposer signs: the header's keccak with only the vanity in extra_data."""
    return keccak(rlp.encode(header.copy(extra_data=header.extra_data[:VANITY_BYTES])))


def revert_reason(output: bytes) -> str:
    """Decode Error(string) or Panic(uint256); "" for anything else."""
    body = output[4:]
    if output[:4] == _PANIC_SELECTOR and len(body) == 32:
        return f"panic 0x{int.from_bytes(body, 'big'):02x}"
    if output[:4] == _ERROR_SELECTOR and len(body) >= 64 and int.from_bytes(body[:32], "big") == 32:
        size = min(int.from_bytes(body[32:64], "big"), _REASON_BYTES_MAX)
        return body[64 : 64 + size].decode("utf-8", "replace")
    return ""


def _unsigned(sender: bytes, nonce: int, to: bytes, data: bytes, value: int, gas: int) -> Signed:
    """What a call runs as; it pays no fee."""
    builder = CancunTransactionBuilder.create_unsigned_transaction(
        nonce=nonce, gas_price=0, gas=gas, to=to, value=value, data=data
    )
    return Signed(
        hash=b"", raw=b"", type_id=0, sender=sender, nonce=nonce, gas=gas, intrinsic_gas=builder.intrinsic_gas,
        max_fee_per_gas=0, max_priority_fee_per_gas=0, to=to, value=value, data=data, access_list=(), v=0, y_parity=0,
        r=0, s=0,
    )  # fmt: skip


def _state(header: Header, layers: Layers, chain_id: int, ancestors: Iterable[bytes], base_fee_wei: int) -> State:
    context = ExecutionContext(
        coinbase=header.coinbase,
        timestamp=header.timestamp,
        block_number=header.block_number,
        difficulty=header.difficulty,
        mix_hash=header.mix_hash,
        gas_limit=header.gas_limit,
        prev_hashes=cast(Any, ancestors),
        chain_id=chain_id,
        base_fee_per_gas=base_fee_wei,
        excess_blob_gas=header.excess_blob_gas,
    )
    return State(layers, context, header.state_root)
