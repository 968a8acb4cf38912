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

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

from eth._utils.address import generate_contract_address
from eth.abc import ComputationAPI, ExecutionContextAPI, MessageAPI, TransactionContextAPI
from eth.constants import CREATE_CONTRACT_ADDRESS, STACK_DEPTH_LIMIT
from eth.exceptions import ContractCreationCollision, InsufficientFunds, OutOfGas, StackDepthLimit, VMError
from eth.precompiles.blake2 import blake2b_fcompress
from eth.precompiles.ecadd import ecadd
from eth.precompiles.ecmul import ecmul
from eth.precompiles.ecpairing import ecpairing
from eth.vm.code_stream import CodeStream
from eth.vm.forks.cancun.computation import CANCUN_PRECOMPILES, CancunComputation
from eth.vm.forks.cancun.state import CancunState
from eth.vm.forks.cancun.transaction_context import CancunTransactionContext
from eth.vm.forks.istanbul.constants import GAS_ECADD, GAS_ECMUL, GAS_ECPAIRING_BASE, GAS_ECPAIRING_PER_POINT
from eth.vm.forks.london.constants import EIP3529_MAX_REFUND_QUOTIENT
from eth.vm.gas_meter import GasMeter
from eth.vm.memory import Memory
from eth.vm.message import Message
from eth.vm.stack import Stack

from chain.evm_accounts import Accounts
from chain.evm_codec import Signed
from chain.evm_interpreter import run

BN254_MULTIPLE: Final = 8  # of the gas of 0x06 to 0x08; EIP-1108's prices are those of native code
BLAKE2F_MULTIPLE: Final = 16  # of the one gas that EIP-152 asks for a round
_BLAKE2F_BYTES: Final = 213
_RIPEMD160: Final = (3).to_bytes(20, "big")

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


class Code(CodeStream):
    """Py-evm's, without the sets in which it would remember boundaries: `boundaries` does, from call to call."""

    __slots__ = ()

    def __init__(self, code: bytes) -> None:
        self.program_counter = 0
        self._raw_code_bytes = code
        self._length_cache = len(code)


class Meter(GasMeter):
    """Py-evm's, which looks whether somebody reads its log whenever gas is used."""

    def __init__(self, gas: int) -> None:
        self.start_gas = self.gas_remaining = gas
        self.gas_refunded = 0

    def consume_gas(self, amount: int, reason: str) -> None:
        if amount > self.gas_remaining:
            raise OutOfGas(reason)
        self.gas_remaining -= amount

    def return_gas(self, amount: int) -> None:
        self.gas_remaining += amount

    def refund_gas(self, amount: int) -> None:
        self.gas_refunded += amount  # below zero within a call, where a refund is taken back (EIP-2200)


class Computation(CancunComputation):
    """One call, with the prices of this chain.

    Stock keeps the computation of every call in a block's transaction as a tree, to sum up its refunds, logs and
    deletions at the end: a hundred thousand calls, whose release alone took a second. Here a call is added to its
    caller when it ends, and forgotten.
    """

    _precompiles = _PRECOMPILES
    contracts_created: list[Any]

    def __init__(self, state: Any, message: MessageAPI, transaction_context: TransactionContextAPI) -> None:
        self.state = state
        self.msg = message
        self.transaction_context = transaction_context
        self.code = Code(message.code)
        self._gas_meter = Meter(message.gas)
        self._stack = Stack()
        self._memory = Memory()
        self.children = []
        self.accounts_to_delete = []
        self.beneficiaries = []
        self._log_entries = []
        self._touched: set[bytes] = set()  # by calls that ended
        self._touched_for_ever = False  # 0x03 was, though what did it was undone
        self._deleted: list[Any] = []  # by calls that ended
        state.mark_address_warm(state.coinbase)  # EIP-3651

    @classmethod
    def apply_message(
        cls,
        state: Any,
        message: MessageAPI,
        transaction_context: TransactionContextAPI,
        parent_computation: Any = None,
    ) -> ComputationAPI:
        snapshot = state.snapshot()
        if message.depth > STACK_DEPTH_LIMIT:
            raise StackDepthLimit("stack depth limit reached")
        if message.should_transfer_value and message.value:
            if state.get_balance(message.sender) < message.value:
                raise InsufficientFunds("insufficient funds")
            state.delta_balance(message.sender, -message.value)
            state.delta_balance(message.storage_address, message.value)
        state.touch_account(message.storage_address)
        computation = cls.apply_computation(state, message, transaction_context, parent_computation)
        if computation.is_error:
            state.revert(snapshot)
        return computation

    @classmethod
    def apply_computation(
        cls,
        state: Any,
        message: MessageAPI,
        transaction_context: TransactionContextAPI,
        parent_computation: Any = None,
    ) -> ComputationAPI:
        computation = cls(state, message, transaction_context)
        created = [] if parent_computation is None else parent_computation.contracts_created
        computation.contracts_created = created
        try:
            if message.is_create:
                if computation.is_origin_computation:  # CREATE and CREATE2 have paid for it
                    cls.consume_initcode_gas_cost(computation)
                created.append(message.storage_address)
            precompile = cls._precompiles.get(message.code_address)
            if precompile is None:
                run(computation)
            else:
                precompile(computation)
        except VMError as error:
            error.__traceback__ = error.__context__ = None  # they lead back here: only the collector would free this
            computation._fail(error)
        return computation

    def _fail(self, error: VMError) -> None:
        self._error = error
        if error.burns_gas:
            self._gas_meter.gas_remaining = 0
        if error.erases_return_data:
            self.return_data = b""

    def add_child_computation(self, child_computation: Any) -> None:
        """What of a call that ended concerns its caller."""
        child = child_computation
        self.return_data = b"" if child.msg.is_create and not child.is_error else child.output
        touched = child.touched()
        self._touched_for_ever |= _RIPEMD160 in touched
        if len(touched) > len(self._touched):
            touched, self._touched = self._touched, touched
        self._touched |= touched
        if child._error is None:
            self._gas_meter.gas_refunded += child._gas_meter.gas_refunded
            self._log_entries += child._log_entries
            self._deleted += child.get_accounts_for_deletion()

    def get_gas_refund(self) -> int:
        return 0 if self._error is not None else self._gas_meter.gas_refunded

    def get_accounts_for_deletion(self) -> list[Any]:
        return [] if self._error is not None else list(dict.fromkeys((*self._deleted, *self.accounts_to_delete)))

    def get_raw_log_entries(self) -> tuple[Any, ...]:
        return () if self._error is not None else tuple(sorted(self._log_entries))

    def touched(self) -> set[bytes]:
        """What EIP-161 deletes if it is empty. (0x03 was once deleted on the main network though the call of it
        had run out of gas, and has been ever since.)"""
        to = self.msg.to
        if self._error is not None:
            return {_RIPEMD160} if self._touched_for_ever or to == _RIPEMD160 else set()
        self._touched.update(self.beneficiaries)
        if to:
            self._touched.add(to)
        return self._touched


class Outcome(NamedTuple):
    """What a transaction came to."""

    computation: Computation
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
        for touched in (self.coinbase, *computation.touched()):
            if self.account_exists(touched) and self.account_is_empty(touched):
                self.delete_account(touched)
        self.clear_transient_storage()
        return Outcome(computation, gas_used)

    def _computed(self, transaction: Signed, price: int) -> Any:
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
