"""py-evm's Cancun state machine, made cheap where it may be and dear where it must be.

Three costs are taken out, without a trace in any result:

- A transaction is checked once, when it is decoded (evm_codec): the executor does not verify the signature again.
- build_evm_message does not format a debug line that nobody reads (a tenth of a transfer's time). Blob fees are left
  out: blob transactions are refused when decoded.
- The state of a block not yet final is read through layers of dictionaries above the disk.

Gas bounds the time that a block takes only if no gas buys much more time than other gas. benchmarks/evm.py measures it;
plain loops execute one to five million gas a second, calls half a million and more. Two things that stock does in time
that grows without gas are done otherwise, again without a trace in any result: `Code` and `Accounts`. Three results
differ from stock (docs/PROTOCOL.md, section 3):

- The precompiles that are pure Python cost a multiple of their gas: BN254 (0x06 to 0x08) and blake2f (0x09).
- The point evaluation (0x0a) reads its trusted setup from a file in every call, and proves things about blobs, which
  this chain does not have: a call of it fails.
- Stock copies a call's input for no gas: input above CALL_INPUT_FREE bytes costs what CALLDATACOPY costs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Final

import rlp
from eth._utils.address import generate_contract_address
from eth.abc import (
    AtomicWriteBatchAPI,
    ComputationAPI,
    MessageAPI,
    SignedTransactionAPI,
    StateAPI,
    TransactionContextAPI,
)
from eth.constants import BLANK_ROOT_HASH, CREATE_CONTRACT_ADDRESS, GAS_COPY
from eth.db.account import AccountDB
from eth.db.atomic import AtomicDBWriteBatch
from eth.db.backends.base import BaseAtomicDB
from eth.exceptions import VMError
from eth.precompiles.blake2 import blake2b_fcompress
from eth.precompiles.ecadd import ecadd
from eth.precompiles.ecmul import ecmul
from eth.precompiles.ecpairing import ecpairing
from eth.vm.code_stream import CodeStream
from eth.vm.forks.cancun.computation import CANCUN_PRECOMPILES, CancunComputation
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.forks.cancun.state import CancunState, CancunTransactionExecutor
from eth.vm.forks.istanbul.constants import GAS_ECADD, GAS_ECMUL, GAS_ECPAIRING_BASE, GAS_ECPAIRING_PER_POINT
from eth.vm.message import Message
from eth.vm.opcode_values import CALL, CALLCODE, DELEGATECALL, JUMPDEST, PUSH1, STATICCALL
from trie.hexary import HexaryTrie

BN254_MULTIPLE: Final = 8  # of the gas of 0x06 to 0x08; EIP-1108's prices are those of native code
BLAKE2F_MULTIPLE: Final = 16  # of the one gas that EIP-152 asks for a round
CALL_INPUT_FREE: Final = 1024  # bytes
_BLAKE2F_BYTES: Final = 213
_CODES_MAX: Final = 1024  # remembered by `_boundaries`: at most 100 MB, if every one is init code of the largest size
_PUSH: Final = re.compile(rb"[\x60-\x7f]")
_INPUT_SIZE: Final = 6  # its place among the parameters of a call

Disk = Callable[[bytes], bytes | None]
Precompile = Callable[[ComputationAPI], ComputationAPI]


class Layers(BaseAtomicDB):
    """What a block writes (`written`), above what its unfinalised ancestors wrote, above the disk."""

    def __init__(self, below: Sequence[Mapping[bytes, bytes]], disk: Disk) -> None:
        self.written: dict[bytes, bytes] = {}
        self._below = below  # nearest ancestor first
        self._disk = disk

    def __getitem__(self, key: bytes) -> bytes:
        value = self.written.get(key)
        if value is not None:
            return value
        for layer in self._below:
            value = layer.get(key)
            if value is not None:
                return value
        value = self._disk(key)
        if value is None:
            raise KeyError(key)
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.written[key] = value

    def __delitem__(self, key: bytes) -> None:
        raise KeyError(key)  # trie nodes are content-addressed and shared between branches: none is ever removed

    def _exists(self, key: bytes) -> bool:
        try:
            self[key]
        except KeyError:
            return False
        return True

    @contextmanager
    def atomic_batch(self) -> Iterator[AtomicWriteBatchAPI]:
        with AtomicDBWriteBatch._commit_unless_raises(self) as batch:
            yield batch


class Executor(CancunTransactionExecutor):
    def validate_transaction(self, transaction: SignedTransactionAPI) -> None:
        self.vm_state.validate_transaction(transaction)  # type: ignore[attr-defined]

    def build_evm_message(self, transaction: SignedTransactionAPI) -> MessageAPI:
        state = self.vm_state
        state.delta_balance(transaction.sender, -transaction.gas * state.get_gas_price(transaction))
        state.increment_nonce(transaction.sender)
        common: dict[str, Any] = {
            "gas": transaction.gas - transaction.intrinsic_gas,
            "to": transaction.to,
            "sender": transaction.sender,
            "value": transaction.value,
            "refund": self.calc_message_refund(transaction),
        }
        if transaction.to == CREATE_CONTRACT_ADDRESS:
            created = generate_contract_address(transaction.sender, state.get_nonce(transaction.sender) - 1)
            return Message(**common, data=b"", code=transaction.data, create_address=created)
        return Message(**common, data=transaction.data, code=state.get_code(transaction.to))


@lru_cache(_CODES_MAX)
def _boundaries(code: bytes) -> bytes:
    """The code with the data of every PUSH overwritten by zeros: what is left of JUMPDEST may be jumped to."""
    masked = bytearray(code)
    push = _PUSH.search(code)
    while push is not None:
        start = push.end()
        end = min(start + code[push.start()] - PUSH1 + 1, len(code))
        masked[start:end] = bytes(end - start)
        push = _PUSH.search(code, end)
    return bytes(masked)


class Code(CodeStream):
    """Stock looks for a jump's boundary backwards from its target and forgets it with the call: for 130 gas, a call
    into 24 KiB of PUSH32 took a tenth of a second."""

    __slots__ = ()

    def is_valid_opcode(self, position: int) -> bool:
        """Whether a jump may go there."""
        return position < len(self) and _boundaries(self._raw_code_bytes)[position] == JUMPDEST


class Accounts(AccountDB):
    """Stock tells the storage of every contract that the block has written to of every call's beginning and end. Here
    a storage learns of the checkpoints that are open when it is written to: no other write has to be taken back."""

    def __init__(self, db: Any, state_root: Any) -> None:
        super().__init__(db, state_root)
        # Open checkpoints, oldest first, each with the contracts that know it; these know all older ones as well.
        self._open: list[tuple[Any, set[Any]]] = []

    def set_storage(self, address: Any, slot: int, value: int) -> None:
        self._tell(address)
        super().set_storage(address, slot, value)

    def _wipe_storage(self, address: Any) -> None:
        self._tell(address)
        super()._wipe_storage(address)

    def _tell(self, address: Any) -> None:
        unknown = []
        for checkpoint, told in reversed(self._open):
            if address in told:
                break
            told.add(address)
            unknown.append(checkpoint)
        store = self._get_address_store(address)
        for checkpoint in reversed(unknown):
            store.record(checkpoint)

    def record(self) -> Any:
        checkpoint = self._journaldb.record()
        self._journaltrie.record(checkpoint)
        self._journal_accessed_state.record(checkpoint)
        self._open.append((checkpoint, set()))
        return checkpoint

    def discard(self, checkpoint: Any) -> None:
        self._journaldb.discard(checkpoint)
        self._journaltrie.discard(checkpoint)
        self._journal_accessed_state.discard(checkpoint)
        self._account_cache.clear()
        for address in self._close(checkpoint):
            self._account_stores[address].discard(checkpoint)

    def commit(self, checkpoint: Any) -> None:
        self._journaldb.commit(checkpoint)
        self._journaltrie.commit(checkpoint)
        self._journal_accessed_state.commit(checkpoint)
        for address in self._close(checkpoint):
            self._account_stores[address].commit(checkpoint)

    def _close(self, checkpoint: Any) -> set[Any]:
        """Forget this checkpoint and the younger ones. Returns the contracts that know it."""
        while self._open:
            found, told = self._open.pop()
            if found == checkpoint:
                return told
        raise AssertionError("a checkpoint is closed once, and before the changes are locked")

    def lock_changes(self) -> None:
        self._open.clear()
        super().lock_changes()

    def make_state_root(self) -> Any:
        self._open.clear()
        return super().make_state_root()


def _blake2f(computation: ComputationAPI) -> ComputationAPI:
    data = computation.msg.data_as_bytes
    if len(data) == _BLAKE2F_BYTES:  # else it fails
        rounds = int.from_bytes(data[:4], "big")
        computation.consume_gas((BLAKE2F_MULTIPLE - 1) * rounds, reason="blake2f in Python")
    return blake2b_fcompress(computation)


def _refused(computation: ComputationAPI) -> ComputationAPI:
    raise VMError("this precompile does not exist here")


def _address(number: int) -> bytes:
    return number.to_bytes(20, "big")


_PRECOMPILES: Final[dict[Any, Precompile]] = {
    **CANCUN_PRECOMPILES,
    _address(6): ecadd(gas_cost=BN254_MULTIPLE * GAS_ECADD),
    _address(7): ecmul(gas_cost=BN254_MULTIPLE * GAS_ECMUL),
    _address(8): ecpairing(
        gas_cost_base=BN254_MULTIPLE * GAS_ECPAIRING_BASE,
        gas_cost_per_point=BN254_MULTIPLE * GAS_ECPAIRING_PER_POINT,
    ),
    _address(9): _blake2f,
    _address(10): _refused,
}


class _PaysForInput:
    """Mixed into the opcodes that call: charged before 63/64 of what is left is set aside for the call."""

    def get_call_params(self, computation: ComputationAPI) -> Any:
        parameters = super().get_call_params(computation)  # type: ignore[misc]
        size = parameters[_INPUT_SIZE]
        if size > CALL_INPUT_FREE:
            words = (size - CALL_INPUT_FREE + 31) // 32
            computation.consume_gas(GAS_COPY * words, reason="input of a call")
        return parameters


def _paying(opcode: Any) -> Any:
    return type(opcode.mnemonic, (_PaysForInput, type(opcode)), {})()


class Computation(CancunComputation):
    """One call, with the prices of this chain."""

    _precompiles = _PRECOMPILES
    opcodes = CANCUN_OPCODES | {
        value: _paying(CANCUN_OPCODES[value]) for value in (CALL, CALLCODE, DELEGATECALL, STATICCALL)
    }

    def __init__(self, state: StateAPI, message: MessageAPI, transaction_context: TransactionContextAPI) -> None:
        super().__init__(state, message, transaction_context)
        self.code = Code(message.code)


class State(CancunState):
    account_db_class = Accounts
    computation_class = Computation
    transaction_executor_class = Executor

    def set_system_contracts(self) -> None:
        """Nothing: stock writes the beacon-roots code only where it stands already, and reads an account to see."""


def ordered_root(items: Sequence[bytes]) -> bytes:
    """Root of the trie that maps RLP(index) to each item; py-evm's own keeps the last 128 such tries in memory."""
    trie = HexaryTrie({}, BLANK_ROOT_HASH)
    with trie.squash_changes() as changes:
        for index, item in enumerate(items):
            changes[rlp.encode(index)] = item
    return trie.root_hash
