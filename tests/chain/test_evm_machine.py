"""Where the machine is not stock py-evm: what costs more, and what costs less time with the same result."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import pytest
from eth.constants import BLANK_ROOT_HASH
from eth.db.account import AccountDB
from eth.db.atomic import AtomicDB
from eth.db.storage import AccountStorageDB
from eth.vm.code_stream import CodeStream
from eth.vm.forks.cancun.computation import CancunComputation
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import evm, evm_machine
from chain.evm import Account, Layers, Rules
from chain.evm_machine import Accounts, Code
from tests.chain.chain_kit import CHAIN_ID

RULES = Rules(CHAIN_ID, gas_limit=30_000_000, base_fee_wei=7)
CALLER, SUBJECT, CALLEE = (bytes([each]) * 20 for each in (0xCA, 0xCB, 0xCC))
INTRINSIC = 21_000
G1 = (1).to_bytes(32, "big") + (2).to_bytes(32, "big")
G2 = bytes.fromhex(
    "198e9393920d483a7260bfb731fb5d25f1aa493335a9e71297e485b7aef312c2"
    "1800deef121f1e76426a00665e5c4479674322d4f75edadd46debd5cd992f6ed"
    "090689d0585ff075ec9e99ad690c3395bc4b313370b38ef355acdadcd122975b"
    "12c85ea5db8c6deb4aab71808dcb408fe3d1e7690c43d37b4ce6cc0166fa7daa"
)
INFINITY = b"\xc0" + bytes(47)  # the zero polynomial's commitment, and the proof of all its values
EVALUATION = b"\x01" + sha256(INFINITY).digest()[1:] + bytes(64) + INFINITY + INFINITY


def snapshot(**code: bytes) -> evm.Snapshot:
    accounts = {CALLER: Account(balance=10**24)}
    accounts |= {address: Account(nonce=1, code=code[name]) for name, address in PLACES.items() if name in code}
    header, state = evm.genesis(RULES, 1, accounts, bytes(32))
    return evm.Snapshot(header, Layers((state,), lambda _: None), CHAIN_ID)


PLACES = {"subject": SUBJECT, "callee": CALLEE}


def call(subject: bytes, data: bytes = b"", gas: int = 5_000_000, callee: bytes = b"") -> tuple[bytes, int]:
    return snapshot(subject=subject, callee=callee).call(CALLER, SUBJECT, data, 0, gas)


def forward(precompile: int, gas: int) -> bytes:
    """Copies its input to memory, calls the precompile with it and this gas, returns (success, gas spent on it)."""
    called = f"5f5f365f60{precompile:02x}63{gas:08x}fa"
    return bytes.fromhex(f"365f5f375a{called}905a9003602052" + "5f5260405ff3")


def spent_by(precompile: int, data: bytes, gas: int = 2_000_000) -> tuple[bool, int]:
    output, _ = call(forward(precompile, gas), data, gas=8_000_000)
    return bool(int.from_bytes(output[:32], "big")), int.from_bytes(output[32:], "big")


# -- precompiles -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("precompile", "data", "least", "most"),
    [
        (1, bytes(128), 3_000, 3_400),
        (2, bytes(64), 84, 400),
        (3, bytes(64), 840, 1_200),
        (4, bytes(64), 21, 400),
        (5, (1).to_bytes(32, "big") * 3 + b"\x03\x05\x07", 200, 600),
        (6, G1 + G1, 8 * 150, 8 * 150 + 400),
        (7, G1 + b"\xff" * 32, 8 * 6_000, 8 * 6_000 + 400),
        (8, G1 + G2, 8 * (45_000 + 34_000), 8 * (45_000 + 34_000) + 400),
        (9, (1_000).to_bytes(4, "big") + bytes(209), 16 * 1_000, 16 * 1_000 + 400),
    ],
    ids=("ecrecover", "sha256", "ripemd160", "identity", "modexp", "add", "mul", "pairing", "blake2f"),
)
def test_a_precompile_costs_its_gas_times_its_multiple(precompile: int, data: bytes, least: int, most: int) -> None:
    succeeded, spent = spent_by(precompile, data)
    assert succeeded
    assert least <= spent <= most, "the call itself and what is around it cost a little"


@pytest.mark.parametrize("precompile", [6, 7, 8, 9])
def test_a_dearer_precompile_returns_what_stock_returns(precompile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = {6: G1 + G1, 7: G1 + b"\xff" * 32, 8: G1 + G2, 9: (12).to_bytes(4, "big") + bytes(range(209)[::-1])}
    data[9] = data[9][:-1] + b"\x01"
    returns = bytes.fromhex(f"365f5f37604060805f36905060805f365f60{precompile:02x}5afa60805ff3")
    ours = call(returns, data[precompile], gas=8_000_000)[0]
    monkeypatch.setattr(evm_machine.State, "computation_class", CancunComputation)
    assert call(returns, data[precompile], gas=8_000_000)[0] == ours


def test_a_dear_precompile_without_the_gas_for_it_fails_and_takes_what_it_was_given() -> None:
    rounds = (1_000).to_bytes(4, "big") + bytes(209)
    succeeded, spent = spent_by(9, rounds, gas=15_999)
    assert not succeeded
    assert 15_999 <= spent <= 16_400
    assert spent_by(9, rounds, gas=16_000)[0]


@pytest.mark.parametrize("data", [EVALUATION, b"", bytes(192)], ids=("a true proof", "nothing", "garbage"))
def test_the_point_evaluation_is_refused_and_takes_its_gas(data: bytes) -> None:
    succeeded, spent = spent_by(10, data, gas=60_000)
    assert not succeeded
    assert 60_000 <= spent <= 60_400


# -- the input of calls ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opcode", ["f1", "f2", "f4", "fa"])
def test_input_above_what_is_free_costs_what_copying_it_costs(opcode: str) -> None:
    def gas_of(size: int) -> int:
        value = "5f" if opcode in ("f1", "f2") else ""
        code = bytes.fromhex(f"5f611fe0525f5f61{size:04x}5f{value}73{CALLEE.hex()}5a{opcode}00")
        return call(code, callee=b"\x00")[1]

    free = evm_machine.CALL_INPUT_FREE
    assert gas_of(free) == gas_of(0)
    assert gas_of(free + 1) == gas_of(0) + 3
    assert gas_of(free + 4_096) == gas_of(0) + 3 * 128


def test_input_is_paid_before_the_rest_is_handed_on() -> None:
    """A call that forwards all its gas still has a 64th of it, whatever its input cost."""
    code = bytes.fromhex(f"5f621fffe0525f5f622000005f5f73{CALLEE.hex()}5af15f5260205ff3")  # 2 MiB
    with pytest.raises(evm.ExecutionFailed, match="out of gas"):
        call(code, gas=8_700_000, callee=b"\x00")
    code = bytes.fromhex(f"5f6203ffe0525f5f620400005f5f73{CALLEE.hex()}5af15f5260205ff3")  # 256 KiB
    assert call(code, gas=260_000, callee=b"\x00")[0] == (1).to_bytes(32, "big")


# -- jumps -----------------------------------------------------------------------------------------------------------

pushes = st.integers(0x5F, 0x80).map(lambda opcode: bytes([opcode]))
codes = st.lists(pushes | st.sampled_from([b"\x5b", b"\x00"]) | st.binary(max_size=40), max_size=60).map(b"".join)


@settings(max_examples=200, deadline=None)
@given(codes)
def test_a_jump_may_go_where_stock_lets_it(code: bytes) -> None:
    stock, ours = CodeStream(code), Code(code)
    for position in [each for each, opcode in enumerate(code) if opcode == 0x5B]:
        assert ours.is_valid_opcode(position) == stock.is_valid_opcode(position)
    assert not ours.is_valid_opcode(len(code))
    assert not ours.is_valid_opcode(2**256 - 1)


def test_a_code_is_looked_through_once_however_often_it_is_called() -> None:
    far = bytes.fromhex("615fec56").ljust(0x5FEC, b"\x7f") + b"\x5b\x00"
    calling = bytes.fromhex(f"5f5f5f5f73{CALLEE.hex()}6040fa") * 50 + bytes.fromhex("5f5260205ff3")
    evm_machine._boundaries.cache_clear()
    output, _ = call(calling, callee=far)
    assert int.from_bytes(output, "big") == 1
    assert evm_machine._boundaries.cache_info().misses == 1


# -- storage ---------------------------------------------------------------------------------------------------------

ADDRESSES: list[Any] = [bytes([index]) * 20 for index in range(1, 5)]


def mingle(choose: random.Random, databases: list[AccountDB], depth: int) -> None:
    """Nested checkpoints with writes between them, the same on all databases."""
    for _ in range(choose.randrange(1, 6)):
        act = choose.randrange(4)
        address, slot, value = choose.choice(ADDRESSES), choose.randrange(3), choose.randrange(3)
        if act == 0 and depth < 5:
            checkpoints = [database.record() for database in databases]
            mingle(choose, databases, depth + 1)
            closes = choose.random() < 0.5
            for database, checkpoint in zip(databases, checkpoints, strict=True):
                (database.commit if closes else database.discard)(checkpoint)
        else:
            for database in databases:
                database.set_storage(address, slot, value)
        for database in databases[1:]:
            read = [(each, at) for each in ADDRESSES for at in range(3)]
            assert [database.get_storage(*at) for at in read] == [databases[0].get_storage(*at) for at in read]


@pytest.mark.parametrize("seed", range(40))
def test_storage_is_what_stock_makes_of_nested_checkpoints(seed: int) -> None:
    choose = random.Random(seed)
    databases: list[Any] = [AccountDB(AtomicDB(), BLANK_ROOT_HASH), Accounts(AtomicDB(), BLANK_ROOT_HASH)]
    for _ in range(4):  # transactions
        wiped = choose.choice([None, *ADDRESSES])
        for database in databases:
            database.lock_changes()
        outer = [database.record() for database in databases]
        mingle(choose, databases, 0)
        if wiped is not None:
            for database in databases:
                database.delete_storage(wiped)
        if choose.random() < 0.3:
            for database, checkpoint in zip(databases, outer, strict=True):
                database.discard(checkpoint)
        for address in ADDRESSES:
            for database in databases:
                database.set_nonce(address, 1)
    for database in databases:
        database.persist()
    assert databases[0].state_root == databases[1].state_root


def test_a_call_costs_no_time_for_contracts_that_were_written_to_before(monkeypatch: pytest.MonkeyPatch) -> None:
    told = 0
    record = AccountStorageDB.record

    def counted(store: AccountStorageDB, checkpoint: Any) -> None:
        nonlocal told
        told += 1
        record(store, checkpoint)

    monkeypatch.setattr(AccountStorageDB, "record", counted)
    accounts = Accounts(AtomicDB(), BLANK_ROOT_HASH)
    outer = accounts.record()
    contracts: list[Any] = [index.to_bytes(20, "big") for index in range(100)]
    for contract in contracts:
        accounts.set_storage(contract, 0, 1)
    assert told == 100
    for _ in range(100):
        accounts.commit(accounts.record())
        accounts.discard(accounts.record())
    assert told == 100
    accounts.discard(outer)
    assert accounts.get_storage(contracts[0], 0) == 0
