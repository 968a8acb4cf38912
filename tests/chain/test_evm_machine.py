"""Where the machine is not stock py-evm: what costs more, and what costs less time with the same result."""

from __future__ import annotations

import random
from hashlib import sha256
from typing import Any

import pytest
from eth.constants import BLANK_ROOT_HASH
from eth.db.account import AccountDB
from eth.db.atomic import AtomicDB
from eth.vm.code_stream import CodeStream
from eth.vm.forks.cancun.computation import CANCUN_PRECOMPILES
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import evm, evm_calls, evm_interpreter, evm_machine
from chain.evm import Account, Layers, Rules
from chain.evm_accounts import Accounts
from chain.evm_trie import EMPTY_ROOT
from chain.store import StoreError
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
    monkeypatch.setattr(evm_machine, "_PRECOMPILES", CANCUN_PRECOMPILES)
    monkeypatch.setattr(evm_machine.Computation, "_precompiles", CANCUN_PRECOMPILES)
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

    free = evm_calls.CALL_INPUT_FREE
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
    stock = CodeStream(code)
    for position in [each for each, opcode in enumerate(code) if opcode == 0x5B]:
        assert (evm_interpreter.boundaries(code)[position] == 0x5B) == stock.is_valid_opcode(position)
    assert len(evm_interpreter.boundaries(code)) == len(code)


@pytest.mark.parametrize("target", [3, 4, 33, 2**64, 2**256 - 1])
def test_a_jump_out_of_the_code_or_into_data_burns_the_gas(target: int) -> None:
    with pytest.raises(evm.ExecutionFailed):
        call(b"\x7f" + target.to_bytes(32, "big") + b"\x56")


def test_a_code_is_looked_through_once_however_often_it_is_called() -> None:
    far = bytes.fromhex("615fec56").ljust(0x5FEC, b"\x7f") + b"\x5b\x00"
    calling = bytes.fromhex(f"5f5f5f5f73{CALLEE.hex()}6040fa") * 50 + bytes.fromhex("5f5260205ff3")
    evm_interpreter.boundaries.cache_clear()
    output, _ = call(calling, callee=far)
    assert int.from_bytes(output, "big") == 1
    assert evm_interpreter.boundaries.cache_info().misses == 1


# -- accounts and storage --------------------------------------------------------------------------------------------

ADDRESSES: list[Any] = [bytes([index]) * 20 for index in range(1, 5)]


def accounts() -> Accounts:
    return Accounts(Layers((), lambda _: None), EMPTY_ROOT)


def mingle(choose: random.Random, stock: AccountDB, ours: Accounts, depth: int) -> None:
    """Nested checkpoints with writes between them, the same on both."""
    for _ in range(choose.randrange(1, 6)):
        act = choose.randrange(5)
        address, slot, value = choose.choice(ADDRESSES), choose.randrange(3), choose.randrange(3)
        if act == 0 and depth < 5:
            checkpoint, snapshot = stock.record(), ours.snapshot()
            mingle(choose, stock, ours, depth + 1)
            if choose.random() < 0.5:
                stock.commit(checkpoint)
                ours.commit(snapshot)
            else:
                stock.discard(checkpoint)
                ours.revert(snapshot)
        elif act == 1:
            stock.set_balance(address, value)
            ours.set_balance(address, value)
        else:
            stock.set_storage(address, slot, value)
            ours.set_storage(address, slot, value)
        for at in ADDRESSES:
            assert ours.account_exists(at) == stock.account_exists(at)
            for number in range(3):
                assert ours.get_storage(at, number) == stock.get_storage(at, number)
                assert ours.get_storage(at, number, False) == stock.get_storage(at, number, False)


@pytest.mark.parametrize("seed", range(40))
def test_storage_is_what_stock_makes_of_nested_checkpoints(seed: int) -> None:
    choose = random.Random(seed)
    stock, ours = AccountDB(AtomicDB(), BLANK_ROOT_HASH), accounts()
    for _ in range(4):  # transactions
        stock.lock_changes()
        ours.lock_changes()
        checkpoint, snapshot = stock.record(), ours.snapshot()
        mingle(choose, stock, ours, 0)
        wiped = choose.choice([None, *ADDRESSES])
        if wiped is not None:
            stock.delete_storage(wiped)
            ours.delete_storage(wiped)
        if choose.random() < 0.3:
            stock.discard(checkpoint)
            ours.revert(snapshot)
        for address in ADDRESSES:
            stock.set_nonce(address, 1)
            ours.set_nonce(address, 1)
    stock.persist()
    ours.persist()
    assert ours.state_root == stock.state_root


def test_a_call_costs_no_time_for_contracts_that_were_written_to_before() -> None:
    ours = accounts()
    for index in range(100):
        ours.set_storage(index.to_bytes(20, "big"), 0, 1)
    before = ours.snapshot()
    for _ in range(100):
        ours.commit(ours.snapshot())
        ours.revert(ours.snapshot())
    assert ours.snapshot() == before == 100
    ours.revert(0)
    assert ours.get_storage(bytes(20), 0) == 0


def test_state_that_the_database_lacks_is_the_fault_of_the_database() -> None:
    """Never of the transaction that asked for it: other nodes have it."""
    code = bytes.fromhex("5f54600160015500")
    placed = {CALLER: Account(balance=10**24), SUBJECT: Account(1, 1, code, dict.fromkeys(range(40), 1))}
    header, state = evm.genesis(RULES, 1, placed, bytes(32))
    faults = 0
    for missing in state:
        layers = Layers(({key: value for key, value in state.items() if key != missing},), lambda _: None)
        try:
            evm.Snapshot(header, layers, CHAIN_ID).call(CALLER, SUBJECT, b"", 0, 100_000)
        except StoreError:
            faults += 1
    assert faults >= 5, "the roots, the code, and the branches and leaves on the way"
    with pytest.raises(StoreError, match="lacks state"):
        evm.Snapshot(header, Layers((), lambda _: None), CHAIN_ID).balance(CALLER)
