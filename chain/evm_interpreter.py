"""Runs a code: the opcodes that contracts mostly consist of here, the others as py-evm has them.

Stock calls six functions for an ADD. Here the stack holds whole numbers only, gas and program counter are local
variables, and an opcode is a row of three tables: how it is done (its kind), its static gas, and its function. A step
that py-evm does gets gas and counter handed over and back.

Which VMError ends a call shows nowhere, but for Revert: all others burn the gas and undo what was done. So the order
of the checks within one opcode is free.
"""

# py-evm wraps bytes and int in NewTypes; casting each would hide the code:
# mypy: disable-error-code="arg-type"

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Final, cast

from eth.exceptions import FullStack, Halt, InsufficientStack, InvalidJumpDestination, OutOfGas
from eth.vm import opcode_values as op
from eth.vm.forks.berlin.constants import COLD_SLOAD_COST, WARM_STORAGE_READ_COST
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.logic.invalid import InvalidOpcode
from eth_hash.auto import keccak

from chain.evm_calls import CALLS, CREATES, grown

STACK_MAX: Final = 1024
_CODES_MAX: Final = 1024  # remembered by `boundaries`: at most 100 MB, if every one is init code of the largest size
_PUSH_DATA: Final = re.compile(rb"[\x60-\x7f]")
_WORD: Final = 1 << 256
_MASK: Final = _WORD - 1
_SIGN: Final = 1 << 255

# Kinds, in three groups so that no opcode goes through all comparisons: what makes the stack longer,
_PUSH, _DUP, _VALUE, _GAS, _COUNTER, _LONGER = range(6)
# what is frequent of the rest, and the rest.
_BINARY, _SWAP, _COSTLY, _POP, _FREQUENT, _NOTHING, _JUMP, _JUMPI, _UNARY, _STOCK = range(6, 16)


def run(computation: Any) -> None:
    """Raises VMError, as the code's fault; what stock raises for its own faults."""
    code, stack, meter = computation.code, computation._stack.values, computation._gas_meter
    raw, kinds, costs, functions = code._raw_code_bytes, _KINDS, _COSTS, _FUNCTIONS
    size, pop, append, gas, at, kind = len(raw), stack.pop, stack.append, meter.gas_remaining, 0, _NOTHING
    try:
        while at < size:
            opcode = raw[at]
            at += 1
            gas -= costs[opcode]
            if gas < 0:
                raise OutOfGas(opcode)
            kind = kinds[opcode]
            if kind < _LONGER:
                if kind == _PUSH:
                    end = at + opcode - 0x5F  # behind the code's end no more than this push can be seen: it is over
                    append(int.from_bytes(raw[at:end], "big"))
                    at = end
                elif kind == _DUP:
                    append(stack[0x7F - opcode])
                elif kind == _VALUE:
                    append(functions[opcode](computation))
                else:
                    append(gas if kind == _GAS else at - 1)
                if len(stack) > STACK_MAX:
                    raise FullStack(opcode)
            elif kind < _FREQUENT:
                if kind == _BINARY:
                    left = pop()
                    stack[-1] = functions[opcode](left, stack[-1])
                elif kind == _SWAP:
                    other = 0x8E - opcode
                    stack[-1], stack[other] = stack[other], stack[-1]
                elif kind == _COSTLY:
                    gas = functions[opcode](computation, stack, gas)
                else:
                    pop()
            elif kind == _JUMP or kind == _JUMPI:  # noqa: SIM109 # a tuple takes longer
                to = pop()
                if kind == _JUMP or pop():
                    if to >= size or boundaries(raw)[to] != op.JUMPDEST:
                        raise InvalidJumpDestination(to)
                    at = to
            elif kind == _UNARY:
                stack[-1] = functions[opcode](stack[-1])
            elif kind == _STOCK:
                meter.gas_remaining, code.program_counter = gas, at
                functions[opcode](computation)
                gas, at = meter.gas_remaining, code.program_counter
                if stack and type(stack[-1]) is bytes:
                    stack[-1] = int.from_bytes(stack[-1], "big")
    except IndexError:
        if kind == _STOCK:
            raise
        raise InsufficientStack(opcode) from None
    except Halt:
        return
    meter.gas_remaining = gas


@lru_cache(_CODES_MAX)
def boundaries(code: bytes) -> bytes:
    """The code with the data of every PUSH overwritten by zeros: what is left of JUMPDEST may be jumped to."""
    masked = bytearray(code)
    push = _PUSH_DATA.search(code)
    while push is not None:
        start = push.end()
        end = min(start + code[push.start()] - 0x5F, len(code))
        masked[start:end] = bytes(end - start)
        push = _PUSH_DATA.search(code, end)
    return bytes(masked)


# -- opcodes that are a function of what they pop --------------------------------------------------------------------


def _signed(value: int) -> int:
    return value - _WORD if value & _SIGN else value


def _sdiv(left: int, right: int) -> int:
    one, other = _signed(left), _signed(right)
    if not other:
        return 0
    quotient = abs(one) // abs(other)
    return (quotient if (one < 0) == (other < 0) else -quotient) & _MASK


def _smod(left: int, right: int) -> int:
    one, other = _signed(left), _signed(right)
    if not other:
        return 0
    rest = abs(one) % abs(other)
    return (-rest if one < 0 else rest) & _MASK


def _signextend(size: int, value: int) -> int:
    if size > 30:
        return value
    sign = 1 << (8 * size + 7)
    return value | (_WORD - sign) if value & sign else value & (sign - 1)


_BINARIES: Final[dict[int, Callable[[int, int], int]]] = {
    op.ADD: lambda left, right: (left + right) & _MASK,
    op.MUL: lambda left, right: (left * right) & _MASK,
    op.SUB: lambda left, right: (left - right) & _MASK,
    op.DIV: lambda left, right: left // right if right else 0,
    op.SDIV: _sdiv,
    op.MOD: lambda left, right: left % right if right else 0,
    op.SMOD: _smod,
    op.SIGNEXTEND: _signextend,
    op.LT: lambda left, right: 1 if left < right else 0,
    op.GT: lambda left, right: 1 if left > right else 0,
    op.SLT: lambda left, right: 1 if _signed(left) < _signed(right) else 0,
    op.SGT: lambda left, right: 1 if _signed(left) > _signed(right) else 0,
    op.EQ: lambda left, right: 1 if left == right else 0,
    op.AND: lambda left, right: left & right,
    op.OR: lambda left, right: left | right,
    op.XOR: lambda left, right: left ^ right,
    op.BYTE: lambda at, value: value >> 8 * (31 - at) & 0xFF if at < 32 else 0,
    op.SHL: lambda by, value: (value << by) & _MASK if by < 256 else 0,
    op.SHR: lambda by, value: value >> by if by < 256 else 0,
    op.SAR: lambda by, value: (_signed(value) >> min(by, 255)) & _MASK,
}
_UNARIES: Final[dict[int, Callable[[int], int]]] = {
    op.ISZERO: lambda value: 0 if value else 1,
    op.NOT: lambda value: _MASK - value,
}


# -- opcodes that push a fact ----------------------------------------------------------------------------------------


def _number(data: bytes) -> int:
    return int.from_bytes(data, "big")


_VALUES: Final[dict[int, Callable[[Any], int]]] = {
    op.PUSH0: lambda computation: 0,
    op.ADDRESS: lambda computation: _number(computation.msg.storage_address),
    op.ORIGIN: lambda computation: _number(computation.transaction_context.origin),
    op.CALLER: lambda computation: _number(computation.msg.sender),
    op.CALLVALUE: lambda computation: computation.msg.value,
    op.CALLDATASIZE: lambda computation: len(computation.msg.data),
    op.CODESIZE: lambda computation: len(computation.code),
    op.GASPRICE: lambda computation: computation.transaction_context.gas_price,
    op.RETURNDATASIZE: lambda computation: len(computation.return_data),
    op.COINBASE: lambda computation: _number(computation.state.coinbase),
    op.TIMESTAMP: lambda computation: computation.state.timestamp,
    op.NUMBER: lambda computation: computation.state.block_number,
    op.GASLIMIT: lambda computation: computation.state.gas_limit,
    op.CHAINID: lambda computation: computation.state.execution_context.chain_id,
    op.SELFBALANCE: lambda computation: computation.state.get_balance(computation.msg.storage_address),
    op.BASEFEE: lambda computation: computation.state.base_fee,
    op.MSIZE: lambda computation: len(computation._memory._bytes),
}


# -- opcodes whose gas depends on what they pop; each returns the gas left ---------------------------------------------


def _mload(computation: Any, stack: list[int], gas: int) -> int:
    at = stack[-1]
    memory = computation._memory._bytes
    if at + 32 > len(memory):
        gas = grown(memory, at + 32, gas)
    stack[-1] = int.from_bytes(memory[at : at + 32], "big")
    return gas


def _mstore(computation: Any, stack: list[int], gas: int) -> int:
    at, value = stack.pop(), stack.pop()
    memory = computation._memory._bytes
    if at + 32 > len(memory):
        gas = grown(memory, at + 32, gas)
    memory[at : at + 32] = value.to_bytes(32, "big")
    return gas


def _mstore8(computation: Any, stack: list[int], gas: int) -> int:
    at, value = stack.pop(), stack.pop()
    memory = computation._memory._bytes
    if at >= len(memory):
        gas = grown(memory, at + 1, gas)
    memory[at] = value & 0xFF
    return gas


def _keccak256(computation: Any, stack: list[int], gas: int) -> int:
    at, size = stack.pop(), stack[-1]
    memory = computation._memory._bytes
    gas -= 6 * ((size + 31) >> 5)
    if size and at + size > len(memory):
        gas = grown(memory, at + size, gas)
    if gas < 0:
        raise OutOfGas("keccak256")
    stack[-1] = int.from_bytes(keccak(bytes(memory[at : at + size])), "big")
    return gas


def _calldataload(computation: Any, stack: list[int], gas: int) -> int:
    at = stack[-1]
    stack[-1] = int.from_bytes(bytes(computation.msg.data[at : at + 32]).ljust(32, b"\0"), "big")
    return gas


def _calldatacopy(computation: Any, stack: list[int], gas: int) -> int:
    to, start, size = stack.pop(), stack.pop(), stack.pop()
    memory = computation._memory._bytes
    gas -= 3 * ((size + 31) >> 5)
    if size and to + size > len(memory):
        gas = grown(memory, to + size, gas)
    if gas < 0:
        raise OutOfGas("calldatacopy")
    if size:
        memory[to : to + size] = bytes(computation.msg.data[start : start + size]).ljust(size, b"\0")
    return gas


def _sload(computation: Any, stack: list[int], gas: int) -> int:
    slot, state, address = stack[-1], computation.state, computation.msg.storage_address
    if state.is_storage_warm(address, slot):
        gas -= WARM_STORAGE_READ_COST
    else:
        state.mark_storage_warm(address, slot)
        gas -= COLD_SLOAD_COST
    if gas < 0:
        raise OutOfGas("sload")
    stack[-1] = state.get_storage(address, slot)
    return gas


_COSTLIES: Final[dict[int, Callable[[Any, list[int], int], int]]] = {
    op.MLOAD: _mload,
    op.MSTORE: _mstore,
    op.MSTORE8: _mstore8,
    op.SHA3: _keccak256,
    op.CALLDATALOAD: _calldataload,
    op.CALLDATACOPY: _calldatacopy,
    op.SLOAD: _sload,
    **CALLS,
}


# -- the tables ------------------------------------------------------------------------------------------------------

_KINDS: Final = [_STOCK] * 256
_COSTS: Final = [0] * 256  # stock's functions charge for themselves
_STOCK_OPCODES: Final[dict[int, Any]] = {
    **CANCUN_OPCODES,
    op.SELFDESTRUCT: cast(Any, CANCUN_OPCODES[op.SELFDESTRUCT]).__wrapped__,  # without a warning of its age
    **CREATES,
}
_FUNCTIONS: Final = [_STOCK_OPCODES.get(opcode) or InvalidOpcode(opcode) for opcode in range(256)]


def _fill(opcode: int, kind: int, function: Any = None) -> None:
    _KINDS[opcode], _COSTS[opcode], _FUNCTIONS[opcode] = kind, _STOCK_OPCODES[opcode].gas_cost, function


for _opcode in range(op.PUSH1, op.PUSH32 + 1):
    _fill(_opcode, _PUSH)
for _opcode in range(op.DUP1, op.DUP16 + 1):
    _fill(_opcode, _DUP)
for _opcode in range(op.SWAP1, op.SWAP16 + 1):
    _fill(_opcode, _SWAP)
for _kind, _table in ((_BINARY, _BINARIES), (_UNARY, _UNARIES), (_VALUE, _VALUES), (_COSTLY, _COSTLIES)):
    for _opcode, _function in _table.items():  # type: ignore[attr-defined]
        _fill(_opcode, _kind, _function)
for _opcode, _kind in (
    (op.POP, _POP), (op.JUMP, _JUMP), (op.JUMPI, _JUMPI), (op.JUMPDEST, _NOTHING), (op.GAS, _GAS), (op.PC, _COUNTER),
):  # fmt: skip
    _fill(_opcode, _kind)
