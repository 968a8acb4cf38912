"""Contracts that call the job contract for whoever asks them to, and that differ in how they are paid."""

from __future__ import annotations

from chain.contracts import REPLICATED
from chain.contracts.calls import Call, selector_of

FORWARDER = b"\xf0" * 20  # takes its money
REFUSER = b"\xf1" * 20  # reverts when it is paid
GREEDY = b"\xf2" * 20  # withdraws again while it is being paid
CALLERS = (FORWARDER, REFUSER, GREEDY)
SPARE_GAS = 500_000

assert not any(REPLICATED[:-2])  # two bytes name it below

# withdraw(1), whatever comes of it
_AGAIN = (
    "7f" + selector_of("withdraw", [{"type": "uint256"}]).hex() + "00" * 28 + "5f52"  # MSTORE(0, selector)
    "6001600452"  # MSTORE(4, 1)
    "5f5f60245f5f61" + REPLICATED[-2:].hex() + "5af150"  # CALL(GAS, REPLICATED, 0, 0, 36, 0, 0)
)  # fmt: skip
_WHEN_PAID = {FORWARDER: "", REFUSER: "5f5ffd", GREEDY: _AGAIN}

# calldata is 32 bytes of value, then the call's own
_FORWARD = (
    "6020360380" "60205f37"  # size = CALLDATASIZE - 32; CALLDATACOPY(0, 32, size)
    "5f5f825f5f3561" + REPLICATED[-2:].hex() + "5af1"  # CALL(GAS, REPLICATED, CALLDATALOAD(0), 0, size, 0, 0)
    "3d5f5f3e"  # RETURNDATACOPY(0, 0, RETURNDATASIZE)
)  # fmt: skip


def code_of(caller: bytes) -> bytes:
    """A caller's code: with empty calldata it is being paid, else it calls."""
    when_paid = bytes.fromhex(_WHEN_PAID[caller]) + b"\x00"
    start = 5 + len(when_paid)
    forward = bytes.fromhex(_FORWARD)
    end = start + 1 + len(forward) + 7  # where what came back is returned
    jump = b"\x36\x61" + start.to_bytes(2, "big") + b"\x57"  # JUMPI(start, CALLDATASIZE)
    revert_unless = b"\x61" + end.to_bytes(2, "big") + b"\x57\x3d\x5f\xfd"
    return jump + when_paid + b"\x5b" + forward + revert_unless + b"\x5b\x3d\x5f\xf3"


def through(caller: bytes, call: Call) -> Call:
    """A call to the job contract, as one that this caller makes with its own money."""
    return Call(caller, 0, call.value.to_bytes(32, "big") + call.data, call.gas + SPARE_GAS)
