"""How much gas a second the machine executes, by class of opcode and precompile: `python -m benchmarks.evm`.

Each class is a contract that does one thing over and over until its gas is gone, on one core. What a class executes
more slowly than the slowest plain loop is what an attacker would fill blocks with.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass

from chain import evm
from chain.evm import Account, Layers, Rules

RULES = Rules(chain_id=1, gas_limit=100_000_000, base_fee_wei=7)
CALLER = b"\xca" * 20
SUBJECT = b"\xcb" * 20  # the contract that loops
CALLEE = b"\xcc" * 20
CODE_MAX = 24_576  # EIP-170
CROWD = 200  # contracts that one transaction writes to before it starts to call

_P = 0x30644E72E131A029B85045B68181585D97816A916871CA8D3C208C16D87CFD47  # field of BN254
_G1 = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
_G1_NEGATED = (1).to_bytes(32, "big") + (_P - 2).to_bytes(32, "big")
_G2 = b"".join(
    number.to_bytes(32, "big")
    for number in (
        0x198E9393920D483A7260BFB731FB5D25F1AA493335A9E71297E485B7AEF312C2,
        0x1800DEEF121F1E76426A00665E5C4479674322D4F75EDADD46DEBD5CD992F6ED,
        0x090689D0585FF075EC9E99AD690C3395BC4B313370B38EF355ACDADCD122975B,
        0x12C85EA5DB8C6DEB4AAB71808DCB408FE3D1E7690C43D37B4CE6CC0166FA7DAA,
    )
)
# message hash, v, r and s
_SIGNATURE = bytes.fromhex(
    "456e9aea5e197a1f1af7a3e85a3212fa4049a3ba34c2289b4c860fc0b0c64ef3"
    "000000000000000000000000000000000000000000000000000000000000001c"
    "9242685bf161793cc25603c231bc2f568eb630ea16aa137d2664ac8038825608"
    "4f8ae3bd7535248d0bd448298cc2e2071e56992d0774dc340c368ae950852ada"
)


@dataclass(frozen=True, slots=True)
class Case:
    """`before` runs once, `body` for ever; both leave the stack as they found it."""

    body: bytes
    before: bytes = b""
    data: bytes = b""
    callee: bytes = b""
    crowd: bool = False

    @property
    def code(self) -> bytes:
        start = len(self.before)
        return self.before + b"\x5b" + self.body + b"\x61" + start.to_bytes(2, "big") + b"\x56"


def hexes(text: str) -> bytes:
    return bytes.fromhex(text)


FAR_JUMP = hexes("615fec56").ljust(0x5FEC, b"\x7f") + b"\x5b" + bytes(19)  # over 24 KiB of PUSH32
COPY_INPUT = hexes("365f5f37")  # CALLDATACOPY(0, 0, CALLDATASIZE)


def static_call(to: bytes, size: bytes = hexes("36"), gas: bytes = hexes("5a")) -> bytes:
    """STATICCALL(gas, to, 0, size, 0, 0) POP; `size` and `gas` push: by default the calldata's, and all there is."""
    return hexes("5f5f") + size + hexes("5f") + bytes([0x5F + len(to)]) + to + gas + hexes("fa50")


def precompile(number: int, data: bytes) -> Case:
    return Case(static_call(bytes([number])), before=COPY_INPUT, data=data)


def modexp(base: int, exponent: int, modulus: int) -> bytes:
    lengths = b"".join(length.to_bytes(32, "big") for length in (base, exponent, modulus))
    return lengths + b"\xff" * (base + exponent + modulus)


def crowd_calls() -> bytes:
    """A call of each contract of the crowd, which writes a zero to its slot 0."""
    return b"".join(hexes("5f5f5f5f5f") + b"\x73" + member(index) + hexes("5af150") for index in range(CROWD))


def member(index: int) -> bytes:
    return b"\xcd" * 18 + index.to_bytes(2, "big")


CASES = {
    "JUMPDEST PUSH JUMP": Case(b""),
    "JUMPDEST only": Case(b"\x5b" * 20_000),
    "POP(ADD)": Case(hexes("60016001 01 50".replace(" ", "")) * 500),
    "POP(MULMOD) of full words": Case(hexes("5f19 5f19 5f19 08 50".replace(" ", "")) * 500),
    "POP(SDIV)": Case(hexes("6003 5f19 05 50".replace(" ", "")) * 500),
    "EXP, exponent of 32 bytes": Case(hexes("5f19 6003 0a 50".replace(" ", "")) * 100),
    "DUP POP": Case(hexes("80 50".replace(" ", "")) * 500, before=b"\x5f"),
    "SWAP": Case(hexes("9f") * 500, before=b"\x5f" * 17),
    "PUSH32 POP": Case((b"\x7f" + b"\xff" * 32 + b"\x50") * 500),
    "MLOAD POP": Case(hexes("5f5150") * 500),
    "MSTORE": Case(hexes("5f5f52") * 500),
    "MSTORE8": Case(hexes("5f5f53") * 500),
    "MCOPY of 1 KiB": Case(hexes("6104005f5f5e") * 100),
    "CALLDATACOPY of nothing": Case(hexes("5f5f5f37") * 500),
    "KECCAK256 of 32 bytes": Case(hexes("60205f2050") * 500),
    "KECCAK256 of 4 KiB": Case(hexes("6110005f2050") * 100),
    "SLOAD, warm": Case(hexes("5f5450") * 500),
    "SLOAD, cold": Case(hexes("8054506001 01".replace(" ", "")) * 500, before=b"\x5f"),
    "SSTORE, warm and unchanged": Case(hexes("5f5f55") * 500),
    "SSTORE, new slots": Case(hexes("808055600101") * 500, before=b"\x60\x01"),
    "TSTORE": Case(hexes("80805d600101") * 500, before=b"\x60\x01"),
    "TLOAD": Case(hexes("5f5c50") * 500),
    "BALANCE, warm": Case(hexes("303150") * 500),
    "BALANCE, cold": Case(hexes("8031506001 01".replace(" ", "")) * 500, before=b"\x61\xff\xff"),
    "EXTCODECOPY of nothing": Case(hexes("5f5f5f303c") * 500),
    "EXTCODESIZE of 24 KiB": Case((b"\x73" + CALLEE + hexes("3b50")) * 500, callee=b"\x00" * CODE_MAX),
    "LOG0 of nothing": Case(hexes("5f5fa0") * 500),
    "BLOCKHASH": Case(hexes("6001430340 50".replace(" ", "")) * 100),
    "CALL of an empty contract": Case(static_call(CALLEE) * 100, callee=b"\x00"),
    "CALL with 256 KiB of input": Case(
        static_call(CALLEE, hexes("62040000")) * 100, before=hexes("5f6203ffe052"), callee=b"\x00"
    ),
    "CALL of a reverting contract": Case(static_call(CALLEE) * 100, callee=hexes("5f5ffd")),
    "CALL of 24 KiB": Case(static_call(CALLEE) * 100, callee=b"\x00" * CODE_MAX),
    "CALL of 24 KiB that jumps once": Case(static_call(CALLEE, gas=hexes("6040")) * 100, callee=FAR_JUMP),
    "CALL after writing to 200 contracts": Case(
        static_call(CALLEE) * 100, before=crowd_calls(), callee=b"\x00", crowd=True
    ),
    "CREATE of nothing": Case(hexes("5f5f5ff050") * 100),
    "CREATE of 24 KiB that jumps once": Case(
        hexes("6160005f5ff050") * 50, before=hexes("6160005f5f73") + CALLEE + b"\x3c", callee=FAR_JUMP
    ),
    "ecrecover": precompile(1, _SIGNATURE),
    "sha256 of 1 KiB": precompile(2, bytes(1024)),
    "sha256 of nothing": precompile(2, b""),
    "ripemd160 of 1 KiB": precompile(3, bytes(1024)),
    "ripemd160 of nothing": precompile(3, b""),
    "identity of 1 KiB": precompile(4, bytes(1024)),
    "modexp, 1-byte numbers": precompile(5, modexp(1, 1, 1)),
    "modexp, 8 bytes, exponent of 1 KiB": precompile(5, modexp(8, 1024, 8)),
    "modexp, 32 bytes": precompile(5, modexp(32, 32, 32)),
    "modexp, 256 bytes": precompile(5, modexp(256, 256, 256)),
    "modexp, base of 1 KiB by 8 bytes": precompile(5, modexp(1024, 1, 8)),
    "BN254 add": precompile(6, _G1 + _G1_NEGATED[:32] + _G1[32:]),
    "BN254 mul": precompile(7, _G1 + b"\xff" * 32),
    "BN254 pairing of nothing": precompile(8, b""),
    "BN254 pairing of 1": precompile(8, _G1 + _G2),
    "BN254 pairing of 4": precompile(8, (_G1 + _G2) * 4),
    "blake2f, 12 rounds": precompile(9, (12).to_bytes(4, "big") + bytes(209)),
    "blake2f, 4096 rounds": precompile(9, (4096).to_bytes(4, "big") + bytes(209)),
}


def gas_per_s(case: Case, gas: int) -> float:
    """CPU seconds count, not time that others took."""
    accounts = {
        CALLER: Account(balance=10**24),
        SUBJECT: Account(nonce=1, code=case.code),
        CALLEE: Account(nonce=1, code=case.callee),
    }
    if case.crowd:
        accounts |= {member(index): Account(nonce=1, code=hexes("5f5f55")) for index in range(CROWD)}
    header, state = evm.genesis(RULES, 1, accounts, bytes(32))
    snapshot = evm.Snapshot(header, Layers((state,), lambda _: None), RULES.chain_id)
    started = time.process_time()
    try:
        snapshot.call(CALLER, SUBJECT, case.data, 0, gas)
    except evm.ExecutionFailed as failed:
        if failed.reason != "out of gas":  # the case itself is at fault
            raise
    return gas / (time.process_time() - started)


def rates(gas: int, wanted: str) -> Iterator[tuple[str, float]]:
    for name, case in CASES.items():
        if wanted in name:
            yield name, gas_per_s(case, gas)


def main() -> int:
    parser = argparse.ArgumentParser(description="Print gas per second by class of opcode and precompile.")
    parser.add_argument("--gas", type=int, default=3_000_000, help="of each class")
    parser.add_argument("--only", default="", help="classes whose name has this in it")
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, one of {os.cpu_count()} cores")
    for name, rate in sorted(rates(options.gas, options.only), key=lambda each: each[1]):
        print(f"{name:40s} {rate / 1e6:10.3f} Mgas/s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
