"""The opcodes that call: CALL, CALLCODE, DELEGATECALL, STATICCALL, under EIP-150, 161 and 2929.

As py-evm has them, without the dozen checks of a message whose parts are checked already; with the price of this chain
for long input; and without its loggers, whose making changes a setting of the whole process, which is not for a thread.
"""

# py-evm wraps bytes and int in NewTypes; casting each would hide the code:
# mypy: disable-error-code="arg-type,assignment"

from __future__ import annotations

from typing import Any, Final

from eth.constants import GAS_CALLSTIPEND, GAS_CALLVALUE, GAS_COPY, GAS_NEWACCOUNT, STACK_DEPTH_LIMIT
from eth.exceptions import OutOfGas, WriteProtection
from eth.vm.forks.berlin.constants import COLD_ACCOUNT_ACCESS_COST, WARM_STORAGE_READ_COST
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.message import Message
from eth.vm.opcode_values import CALL, CALLCODE, CREATE, CREATE2, DELEGATECALL, STATICCALL

CALL_INPUT_FREE: Final = 1024  # bytes
_ADDRESS: Final = (1 << 160) - 1


class Inner(Message):
    """The message of a call by a contract."""

    __slots__ = ()

    def __init__(self, caller: Message, gas: int, to: bytes, value: int, data: bytes, code: bytes) -> None:
        self.gas, self.to, self.value, self.data, self.code = gas, to, value, data, code
        self.sender = caller.storage_address
        self.depth = caller.depth + 1
        self.is_static = caller.is_static
        self.should_transfer_value = True
        self.refund = 0
        self._storage_address = self._code_address = None  # are `to`
        self._is_delegation = False


def grown(memory: bytearray, end: int, gas: int) -> int:
    """Make room up to `end`, which is behind the memory's end. Returns the gas left (yellow paper, appendix H)."""
    before, after = len(memory) >> 5, (end + 31) >> 5
    gas -= 3 * (after - before) + (after * after >> 9) - (before * before >> 9)
    if gas < 0:
        raise OutOfGas("memory")
    memory.extend(bytes((after - before) << 5))
    return gas


def _input(computation: Any, stack: list[int], gas: int) -> tuple[bytes, int, int, int]:
    """(the call's input, where its output goes and how much of it, gas left)."""
    at, size, out_at, out_size = stack.pop(), stack.pop(), stack.pop(), stack.pop()
    memory = computation._memory._bytes
    if size > CALL_INPUT_FREE:
        gas -= GAS_COPY * ((size - CALL_INPUT_FREE + 31) // 32)
    if size and at + size > len(memory):
        gas = grown(memory, at + size, gas)
    if out_size and out_at + out_size > len(memory):
        gas = grown(memory, out_at + out_size, gas)
    if gas < 0:
        raise OutOfGas("input of a call")
    return bytes(memory[at : at + size]) if size else b"", out_at, out_size, gas


def _load(state: Any, address: bytes, gas: int) -> tuple[bytes, int]:
    """(code, gas left); EIP-2929."""
    if state.is_address_warm(address):
        gas -= WARM_STORAGE_READ_COST
    else:
        state.mark_address_warm(address)
        gas -= COLD_ACCOUNT_ACCESS_COST
    if gas < 0:
        raise OutOfGas("a call's account")
    return state.get_code(address), gas


def _split(wanted: int, gas: int, extra: int) -> tuple[int, int]:
    """(gas for the call, gas left): all that is wanted, but not the last 64th (EIP-150)."""
    gas -= extra
    if gas < 0:
        raise OutOfGas("a call's value")
    given = min(wanted, gas - gas // 64)
    return given, gas - given


def _finish(computation: Any, stack: list[int], message: Inner, out: tuple[int, int], gas: int) -> int:
    """Make the call. Returns the gas that the caller has then."""
    state = computation.state
    poor = message.should_transfer_value and state.get_balance(message.sender) < message.value
    if poor or message.depth > STACK_DEPTH_LIMIT:
        computation.return_data = b""
        stack.append(0)
        return gas + message.gas
    child = computation.apply_message(state, message, computation.transaction_context, computation)
    computation.add_child_computation(child)
    error = child._error
    stack.append(0 if error else 1)
    if not error or not error.erases_return_data:
        output = child.output
        size = min(out[1], len(output))
        if size:
            computation._memory._bytes[out[0] : out[0] + size] = output[:size]
    return gas + int(child.get_gas_remaining())


def _call(computation: Any, stack: list[int], gas: int) -> int:
    wanted, to, value = stack.pop(), (stack.pop() & _ADDRESS).to_bytes(20, "big"), stack.pop()
    data, out_at, out_size, gas = _input(computation, stack, gas)
    state, caller = computation.state, computation.msg
    if value and caller.is_static:
        raise WriteProtection("a value cannot be sent in a static call")
    code, gas = _load(state, to, gas)
    extra = 0
    if value:
        extra = GAS_CALLVALUE + (GAS_NEWACCOUNT if state.account_is_empty(to) else 0)
    given, gas = _split(wanted, gas, extra)
    message = Inner(caller, given + (GAS_CALLSTIPEND if value else 0), to, value, data, code)
    return _finish(computation, stack, message, (out_at, out_size), gas)


def _callcode(computation: Any, stack: list[int], gas: int) -> int:
    wanted, source, value = stack.pop(), (stack.pop() & _ADDRESS).to_bytes(20, "big"), stack.pop()
    data, out_at, out_size, gas = _input(computation, stack, gas)
    caller = computation.msg
    code, gas = _load(computation.state, source, gas)
    given, gas = _split(wanted, gas, GAS_CALLVALUE if value else 0)
    gas_given = given + (GAS_CALLSTIPEND if value else 0)
    message = Inner(caller, gas_given, caller.storage_address, value, data, code)
    message._code_address = source
    return _finish(computation, stack, message, (out_at, out_size), gas)


def _delegatecall(computation: Any, stack: list[int], gas: int) -> int:
    wanted, source = stack.pop(), (stack.pop() & _ADDRESS).to_bytes(20, "big")
    data, out_at, out_size, gas = _input(computation, stack, gas)
    caller = computation.msg
    code, gas = _load(computation.state, source, gas)
    given, gas = _split(wanted, gas, 0)
    message = Inner(caller, given, caller.storage_address, caller.value, data, code)
    message._code_address = source
    message.sender = caller.sender
    message.should_transfer_value = False
    return _finish(computation, stack, message, (out_at, out_size), gas)


def _staticcall(computation: Any, stack: list[int], gas: int) -> int:
    wanted, to = stack.pop(), (stack.pop() & _ADDRESS).to_bytes(20, "big")
    data, out_at, out_size, gas = _input(computation, stack, gas)
    code, gas = _load(computation.state, to, gas)
    given, gas = _split(wanted, gas, 0)
    message = Inner(computation.msg, given, to, 0, data, code)
    message.should_transfer_value = False
    message.is_static = True
    return _finish(computation, stack, message, (out_at, out_size), gas)


class _Silent:
    def debug2(self, message: str) -> None:
        """Nobody reads it."""


def _silent(opcode: Any) -> Any:
    return type(opcode.mnemonic, (type(opcode),), {"logger": _Silent()})()


CALLS: Final = {CALL: _call, CALLCODE: _callcode, DELEGATECALL: _delegatecall, STATICCALL: _staticcall}
CREATES: Final = {value: _silent(CANCUN_OPCODES[value]) for value in (CREATE, CREATE2)}
