"""A bare state of the chain's machine, with the genesis contracts in: one call per transaction, any sender, any clock.

No blocks, headers or fees: what a contract does depends on none of them. Each `transact` either takes effect wholly and
gives its logs, or raises `Reverted` and leaves no trace, as in a block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from eth.abc import ComputationAPI
from eth.constants import BLANK_ROOT_HASH
from eth.vm.execution_context import ExecutionContext
from eth.vm.message import Message
from eth_abi import decode as abi_decode
from eth_hash.auto import keccak

from chain.contracts import FaucetTerms, genesis_contracts
from chain.contracts.calls import Call
from chain.contracts.events import Event, decode
from chain.contracts.views import Query
from chain.evm_machine import State
from chain.types import Log

CHAIN_ID = 1337
BLOCK_GAS = 10_000_000  # the default of a network file
WEALTH = 10**36
CODE_MAX = 24_576  # EIP-170

T = TypeVar("T")

_ERROR_STRING = keccak(b"Error(string)")[:4]
_CALL_GAS = 21_000
_REFUND_QUOTIENT = 5  # EIP-3529


class Reverted(Exception):
    """A call reverted; `reason` is its string, empty for a bare revert or any other failure of the machine."""

    def __init__(self, reason: str, data: bytes) -> None:
        super().__init__(reason or f"0x{data.hex()}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Done:
    """What a transaction did."""

    logs: tuple[Log, ...]
    output: bytes
    gas_used: int  # with intrinsic gas, after the refund

    @property
    def events(self) -> list[Event]:
        return [event for log in self.logs if (event := decode(log)) is not None]


class Evm:
    """The state, and the clock of the next call."""

    def __init__(
        self,
        timestamp: int = 1_000_000,
        number: int = 1,
        validators: Sequence[bytes] = (),
        sponsors: bool = True,
        faucet: FaucetTerms | None = None,
    ) -> None:
        self.timestamp = timestamp
        self.number = number
        self.state = State({}, self._context(), BLANK_ROOT_HASH)
        for address, (code, storage) in genesis_contracts(validators, sponsors, faucet).items():
            self.place(address, code, storage)

    @property
    def parent_hash(self) -> bytes:
        """What the contract sees as the parent block's hash."""
        return keccak(b"block" + (self.number - 1).to_bytes(8, "big"))

    def place(self, address: bytes, code: bytes, storage: dict[int, int] | None = None) -> None:
        assert len(code) <= CODE_MAX
        self.state.set_code(address, code)
        self.state.set_nonce(address, 1)
        for slot, value in (storage or {}).items():
            self.state.set_storage(address, slot, value)

    def fund(self, address: bytes, amount: int = WEALTH) -> None:
        self.state.set_balance(address, amount)

    def balance(self, address: bytes) -> int:
        return self.state.get_balance(address)

    def transact(self, sender: bytes, call: Call) -> Done:
        """Run one call as a transaction of its own; see Reverted."""
        intrinsic = _CALL_GAS + sum(16 if byte else 4 for byte in call.data)
        computation = self._run(sender, call.to, call.value, call.data, call.gas - intrinsic)
        used = call.gas - computation.get_gas_remaining()
        refund = min(computation.get_gas_refund(), used // _REFUND_QUOTIENT)
        logs = tuple(
            Log(
                address,
                tuple(topic.to_bytes(32, "big") for topic in topics),
                data,
                self.number,
                bytes(32),
                bytes(32),
                i,
            )
            for i, (address, topics, data) in enumerate(computation.get_log_entries())
        )
        return Done(logs, computation.output, used - refund)

    def query(self, query: Query[T]) -> T:
        """Ask a view."""
        return query.decode(self._run(bytes(20), query.to, 0, query.data, BLOCK_GAS).output)

    def _run(self, sender: bytes, to: bytes, value: int, data: bytes, gas: int) -> ComputationAPI:
        state = self.state
        state.execution_context = self._context()
        message = Message(gas=gas, to=to, sender=sender, value=value, data=data, code=state.get_code(to))
        context = state.get_transaction_context_class()(gas_price=0, origin=sender)
        # the accounts that a transaction names are warm before it starts (EIP-2929, EIP-3651)
        for address in (sender, to, state.coinbase):
            state.mark_address_warm(address)
        computation = state.computation_class.apply_message(state, message, context)
        # as at the end of a transaction: storage becomes original, accesses cold, transient storage empty
        state.lock_changes()
        state.clear_transient_storage()
        if computation.is_error:
            raise Reverted(_reason(computation.output), computation.output)
        return computation

    def _context(self) -> ExecutionContext:
        return ExecutionContext(
            coinbase=b"\xcb" * 20,
            timestamp=self.timestamp,
            block_number=self.number,
            difficulty=0,
            mix_hash=bytes(32),
            gas_limit=BLOCK_GAS,
            prev_hashes=(self.parent_hash,),
            chain_id=CHAIN_ID,
            base_fee_per_gas=7,
            excess_blob_gas=0,
        )


def _reason(output: bytes) -> str:
    if not output.startswith(_ERROR_STRING):
        return ""
    (reason,) = abi_decode(["string"], output[4:])
    return str(reason)
