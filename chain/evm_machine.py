"""py-evm's Cancun state machine, made cheap where it may be and dear where it must be.

Costs that are taken out, without a trace in any result (tests/chain/test_evm_stock.py compares with stock):

- A transaction is checked once, when it is decoded (evm_codec); here it is not verified, encoded or hashed again.
- Accounts and storage stand in dictionaries until the block ends (evm_accounts); the tries are then written in bulk
  (evm_trie), receipts and bloom are encoded once.
- Stock looks for a jump's boundary backwards from its target and forgets it with the call: for 130 gas, a call into
  24 KiB of PUSH32 took a tenth of a second. `Code` remembers it.
- Blob fees are left out: blob transactions are refused when decoded.

Gas bounds the time that a block takes only if no gas buys much more time than other gas; benchmarks/evm.py measures it.
Three results differ from stock (docs/PROTOCOL.md, section 3):

- The precompiles that are pure Python cost a multiple of their gas: BN254 (0x06 to 0x08) and blake2f (0x09).
- The point evaluation (0x0a) reads its trusted setup from a file in every call, and proves things about blobs, which
  this chain does not have: a call of it fails.
- Stock copies a call's input for no gas: input above CALL_INPUT_FREE bytes costs what CALLDATACOPY costs.
"""

# py-evm wraps bytes and int in NewTypes; casting each would hide the code:
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from eth._utils.address import generate_contract_address
from eth.abc import ComputationAPI, ExecutionContextAPI, MessageAPI, StateAPI, TransactionContextAPI
from eth.constants import CREATE_CONTRACT_ADDRESS, GAS_COPY
from eth.exceptions import ContractCreationCollision, VMError
from eth.precompiles.blake2 import blake2b_fcompress
from eth.precompiles.ecadd import ecadd
from eth.precompiles.ecmul import ecmul
from eth.precompiles.ecpairing import ecpairing
from eth.vm.code_stream import CodeStream
from eth.vm.forks.cancun.computation import CANCUN_PRECOMPILES, CancunComputation
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.forks.cancun.state import CancunState
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.istanbul.constants import GAS_ECADD, GAS_ECMUL, GAS_ECPAIRING_BASE, GAS_ECPAIRING_PER_POINT
from eth.vm.forks.london.constants import EIP3529_MAX_REFUND_QUOTIENT
from eth.vm.forks.spurious_dragon._utils import collect_touched_accounts
from eth.vm.message import Message
from eth.vm.opcode_values import CALL, CALLCODE, DELEGATECALL, JUMPDEST, PUSH1, STATICCALL

from chain.evm_accounts import Accounts
from chain.evm_codec import Signed

BN254_MULTIPLE: Final = 8  # of the gas of 0x06 to 0x08; EIP-1108's prices are those of native code
BLAKE2F_MULTIPLE: Final = 16  # of the one gas that EIP-152 asks for a round
CALL_INPUT_FREE: Final = 1024  # bytes
_BLAKE2F_BYTES: Final = 213
_CODES_MAX: Final = 1024  # remembered by `_boundaries`: at most 100 MB, if every one is init code of the largest size
_PUSH: Final = re.compile(rb"[\x60-\x7f]")
_INPUT_SIZE: Final = 6  # its place among the parameters of a call

Disk = Callable[[bytes], bytes | None]
Precompile = Callable[[ComputationAPI], ComputationAPI]


class Layers:
    """What a block writes (`written`), above what its unfinalised ancestors wrote, above the disk: trie nodes and code,
    by their keccak. Nothing is ever removed: branches share nodes."""

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
    """A code whose boundaries are remembered for the next call."""

    __slots__ = ()

    def is_valid_opcode(self, position: int) -> bool:
        """Whether a jump may go there."""
        return position < len(self) and _boundaries(self._raw_code_bytes)[position] == JUMPDEST


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


class Outcome(NamedTuple):
    """What a transaction came to."""

    computation: ComputationAPI
    gas_used: int  # after refunds


class State(Accounts, CancunState):  # type: ignore[misc] # a checkpoint is a number here
    """The state that transactions change one after another."""

    computation_class = Computation

    def __init__(self, layers: Layers, context: ExecutionContextAPI, state_root: bytes) -> None:
        Accounts.__init__(self, layers, state_root)
        self.execution_context = context

    def is_address_warm(self, address: bytes) -> bool:
        return address in self._warm or address in _PRECOMPILES

    def transact(self, transaction: Signed) -> Outcome:
        """Run a transaction whose nonce and balance have been checked, and settle its fee."""
        price = min(transaction.max_fee_per_gas, transaction.max_priority_fee_per_gas + self.base_fee)
        self.delta_balance(transaction.sender, -transaction.gas * price)
        self.increment_nonce(transaction.sender)
        computation = self._computed(transaction, price)
        gas_left = computation.get_gas_remaining()
        gas_used = transaction.gas - gas_left
        refund = min(computation.get_gas_refund(), gas_used // EIP3529_MAX_REFUND_QUOTIENT)
        gas_used -= refund
        self.delta_balance(transaction.sender, (gas_left + refund) * price)
        self.delta_balance(self.coinbase, gas_used * (price - self.base_fee))
        for address in computation.get_accounts_for_deletion():
            self.delete_account(address)
        for touched in self._touched(computation):
            if self.account_exists(touched) and self.account_is_empty(touched):
                self.delete_account(touched)
        self.clear_transient_storage()
        return Outcome(computation, gas_used)

    def _computed(self, transaction: Signed, price: int) -> ComputationAPI:
        """The transaction's own call or creation, with what EIP-2929 and EIP-2930 have warm before it."""
        sender, to = transaction.sender, transaction.to
        created: Any = None
        if to == CREATE_CONTRACT_ADDRESS:
            created = generate_contract_address(sender, transaction.nonce)
            data, code = b"", transaction.data
        else:
            data, code = transaction.data, self.get_code(to)
        gas = transaction.gas - transaction.intrinsic_gas
        message = Message(gas, to, sender, transaction.value, data, code, create_address=created)
        self.mark_address_warm(sender)
        self.mark_address_warm(message.storage_address)
        for address, slots in transaction.access_list:
            self.mark_address_warm(address)
            for slot in slots:
                self.mark_storage_warm(address, slot)
        context = CancunTransactionContext(gas_price=price, origin=sender)
        if created is None:
            return Computation.apply_message(self, message, context)
        if self.has_code_or_nonce(created):
            computation = Computation(self, message, context)
            computation.error = ContractCreationCollision("a contract stands at this address")
            return computation
        return Computation.apply_create_message(self, message, context)

    def _touched(self, computation: ComputationAPI) -> Iterable[bytes]:
        """What EIP-161 deletes if it is empty."""
        if computation.children or computation.beneficiaries or computation.is_error:
            return collect_touched_accounts(computation)
        return (self.coinbase, computation.msg.to) if computation.msg.to else (self.coinbase,)
