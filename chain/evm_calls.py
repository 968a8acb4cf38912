"""The opcodes that call, with the price of this chain for long input."""

from __future__ import annotations

from typing import Any, Final

from eth.abc import ComputationAPI
from eth.constants import GAS_COPY
from eth.vm.forks.cancun.opcodes import CANCUN_OPCODES
from eth.vm.opcode_values import CALL, CALLCODE, DELEGATECALL, STATICCALL

CALL_INPUT_FREE: Final = 1024  # bytes
_INPUT_SIZE: Final = 6  # its place among the parameters of a call


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


CALLS: Final = {value: _paying(CANCUN_OPCODES[value]) for value in (CALL, CALLCODE, DELEGATECALL, STATICCALL)}
