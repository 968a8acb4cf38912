"""Our state machine against stock py-evm, over random blocks: the same headers, receipts and roots, byte for byte."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence

import pytest
from eth._utils.address import generate_contract_address
from eth_typing import Address

from chain import evm
from chain.evm import Account, Codec, Execution, Layers, Rules
from chain.types import InvalidTransaction
from tests.chain import evm_programs as programs
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, GENESIS_TIME, USERS, sign
from tests.chain.evm_programs import (
    ACTORS,
    COINBASE,
    CREATED,
    EDGES,
    EMPTY,
    FOLD,
    NOBODY,
    PRECOMPILES,
    Stock,
    Writer,
    our_call,
    push,
    returning,
    stock_call,
)

RULES = Rules(CHAIN_ID, gas_limit=15_000_000, base_fee_wei=7)


def transactions(choose: random.Random, nonces: list[int], count: int) -> Iterator[bytes]:
    writer = Writer(choose)
    for _ in range(count):
        user = choose.randrange(len(USERS))
        gas, tip = choose.choice((60_000, 200_000, 400_000)), choose.choice((0, 1, 13))
        value = choose.choice((0, 0, 1, 10**15))
        to = choose.choice([*ACTORS, *ACTORS, *CREATED, *NOBODY, *EMPTY, *PRECOMPILES, ADDRESSES[0], COINBASE, b""])
        data = writer.program(choose.randrange(12), (0, 0xF3, 0xFF)) if to == b"" else choose.randbytes(70)
        yield sign(user, nonces[user], to, data, value=value, gas=gas if to else 300_000, tip=tip)
        nonces[user] += 1


class Pair:
    """Ours and stock, at the same block."""

    def __init__(self, accounts: dict[bytes, Account]) -> None:
        self._parent, self._state = evm.genesis(RULES, GENESIS_TIME, accounts, bytes(32))
        self._stock, self._codec = Stock(self._parent, self._state), Codec(RULES)
        self._ancestors = [self._parent.hash]

    def block(self, raws: Sequence[bytes], choose: random.Random | None = None) -> list[evm.Receipt]:
        """Execute a block on both and compare. Now and then, if there is a choice, ours also runs what it then takes
        back, and is asked for what it has to refuse."""
        parent, codec = self._parent, self._codec
        layers = Layers((self._state,), lambda _: None)
        ours = Execution(RULES, parent, parent.timestamp + 1, COINBASE, layers, self._ancestors)
        for index, raw in enumerate(raws):
            if choose is not None and choose.random() < 0.3:
                for other in choose.sample(raws[index:], len(raws) - index):
                    with contextlib.suppress(InvalidTransaction):  # its nonce is not yet due
                        ours.run(codec.transaction(other))
                        ours.undo()
                        break
            ours.run(codec.transaction(raw))
            if choose is not None and choose.random() < 0.1:
                with pytest.raises(InvalidTransaction):
                    ours.run(codec.transaction(raw))
        header, added = ours.finish(b"")
        blank = evm.blank_header(RULES, parent, parent.timestamp + 1, COINBASE)
        expected, receipts = self._stock.child(blank, raws)
        assert ours.encoded_receipts == receipts
        assert header == expected
        self._parent, self._state = header, self._state | added
        self._ancestors.insert(0, header.hash)
        return ours.receipts


@pytest.mark.parametrize("seed", range(60))
def test_random_blocks_come_out_as_stock_makes_them(seed: int) -> None:
    choose = random.Random(seed)
    pair, nonces = Pair(programs.accounts(choose)), [0] * len(USERS)
    for _ in range(3):
        assert len(pair.block(list(transactions(choose, nonces, 10)), choose)) == 10


def people() -> dict[bytes, Account]:
    return dict.fromkeys(ADDRESSES, Account(balance=10**24))


def test_an_account_that_is_funded_after_it_destroyed_itself_has_no_storage() -> None:
    pair = Pair(people())
    made = generate_contract_address(Address(ADDRESSES[0]), 0)
    pair.block([sign(0, 0, b"", bytes.fromhex("60015f5533ff"), value=5), sign(1, 0, made, value=1)])
    pair.block([sign(1, 1, made, value=1)])


def test_a_proposer_without_fees_does_not_come_into_being() -> None:
    pair = Pair(people())
    pair.block([sign(0, 0, NOBODY[0], tip=0, value=1)])
    pair.block([sign(0, 1, NOBODY[1], tip=1)])
    Pair(people() | {COINBASE: Account()}).block([sign(0, 0, NOBODY[0], tip=0, value=1)])


@pytest.mark.parametrize("opcode", ["f1", "f2", "f4", "fa"])
def test_a_call_knows_its_caller_place_and_value_as_in_stock(opcode: str) -> None:
    """And where it writes; the tip of a chain of two calls stores all that it knows."""
    knows = bytes.fromhex("336001553060025534600355326004553660055538600655")
    value = "" if opcode in ("f4", "fa") else "6002"
    calls = [
        bytes.fromhex("5f5f6044" + "5f" + value) + push(to) + bytes.fromhex("5a" + opcode + "6007553d600855")
        for to in ACTORS[1:3]
    ]
    codes = (*calls, knows)
    placed = {at: Account(100, 1, code) for at, code in zip(ACTORS, codes, strict=False)}
    Pair(people() | placed).block([sign(0, 0, ACTORS[0], b"data", value=7, gas=900_000)])


@pytest.mark.parametrize("value", [0, 1])
@pytest.mark.parametrize("opcode", ["f1", "f2", "f4", "fa", "55", "5d", "a1", "f0", "f5", "ff", "54"])
def test_what_is_static_stays_static_as_in_stock(opcode: str, value: int) -> None:
    """The outer contract asks the inner statically, and directly after that; the inner calls on, writes, or creates."""
    pushes = "5f5f5f5f" + ("" if opcode in ("f4", "fa") else f"60{value:02x}")
    calls = bytes.fromhex(pushes) + push(ADDRESSES[1]) + bytes.fromhex("612710")
    returns = bytes.fromhex("5f5260205ff3")
    inner = (calls if opcode in ("f1", "f2", "f4", "fa") else b"\x5f" * 4) + bytes.fromhex(opcode) + returns
    ask = bytes.fromhex("60205f5f5f") + push(ACTORS[1]) + bytes.fromhex("620186a0")
    outer = ask + bytes.fromhex("fa5f555f51600155") + ask[:5] + b"\x5f" + ask[5:] + bytes.fromhex("f16002555f51600355")
    placed = {ACTORS[0]: Account(nonce=1, code=outer), ACTORS[1]: Account(balance=9, nonce=1, code=inner)}
    Pair(people() | placed).block([sign(0, 0, ACTORS[0], gas=400_000)])


@pytest.mark.parametrize("end", ["00", "5f5ffd", "fe"], ids=("stop", "revert", "invalid"))
@pytest.mark.parametrize("called", PRECOMPILES)
def test_an_empty_precompile_is_deleted_as_stock_deletes_it(called: bytes, end: str) -> None:
    """That is: 0x03 even by a call that was undone, others not."""
    calls = bytes.fromhex("5f5f5f5f5f") + push(called) + bytes.fromhex("5af1") + bytes.fromhex(end)
    outer = bytes.fromhex("5f5f5f5f5f") + push(ACTORS[0]) + bytes.fromhex("61fffff100")
    gives = push(called) + b"\xff"
    codes = {ACTORS[0]: calls, ACTORS[1]: outer, ACTORS[2]: gives}
    for to, gas in (
        (ACTORS[0], 100_000),
        (ACTORS[1], 200_000),
        (ACTORS[2], 100_000),
        (called, 21_001),
        (called, 60_000),
    ):
        empty = {called: Account()} | {at: Account(nonce=1, code=code) for at, code in codes.items()}
        Pair(people() | empty).block([sign(0, 0, to, gas=gas)])


@pytest.mark.parametrize("opcode", [*range(0x01, 0x0C), *range(0x10, 0x1E)])
def test_arithmetic_gives_what_stock_gives_at_every_edge(opcode: int) -> None:
    choose = random.Random(opcode)
    operands = 1 if opcode in (0x15, 0x19) else 3 if opcode in (0x08, 0x09) else 2
    numbers = [*EDGES, *range(4, 30, 5), *(choose.getrandbits(bits) for bits in (8, 64, 255, 256))]
    code = b""
    for left in numbers:
        for right in numbers:
            third = push(choose.choice(numbers)) if operands == 3 else b""
            code += third + (push(right) if operands > 1 else b"") + push(left) + bytes([opcode]) + FOLD
    code += bytes.fromhex("60205ff3")
    ours = our_call(code, 5_000_000)
    assert ours == stock_call(code, 5_000_000)
    assert not ours[2]


@pytest.mark.parametrize("seed", range(12))
def test_a_program_runs_out_of_gas_where_it_does_in_stock(seed: int) -> None:
    code = Writer(random.Random(seed)).program(8)
    whole = stock_call(code, 300_000)[1]
    for gas in {*range(0, min(whole, 600), 7), *range(0, whole + 1, max(whole // 60, 1)), whole - 1, whole, whole + 1}:
        assert our_call(code, gas) == stock_call(code, gas), gas


@pytest.mark.parametrize("code", ["5b5f56", "5f5b5f600256", "5b805f600056", "5b3d600056", "5b5a600056"])
def test_a_stack_that_grows_for_ever_ends_as_in_stock(code: str) -> None:
    assert our_call(bytes.fromhex(code), 60_000) == stock_call(bytes.fromhex(code), 60_000)


@pytest.mark.parametrize("longer", ["5f", "30", "5a", "58", "6001", "7f" + "ff" * 32, "80"])
def test_a_stack_is_as_high_as_in_stock(longer: str) -> None:
    for height in (1_022, 1_023, 1_024):
        code = b"\x5f" + bytes.fromhex(longer) * height
        ours = our_call(code, 60_000)
        assert ours == stock_call(code, 60_000)
        assert ours[2] == (height == 1_024)


@pytest.mark.parametrize("row", range(0, 256, 16))
def test_an_opcode_with_few_operands_fails_or_works_as_in_stock(row: int) -> None:
    for opcode in range(row, row + 16):
        for operands in range(4):
            code = b"\x5f" * operands + bytes([opcode]) + bytes.fromhex("60205ff3")
            assert our_call(code, 50_000) == stock_call(code, 50_000), code.hex()


def test_one_contract_may_destroy_itself_twice_in_the_transaction_that_makes_it() -> None:
    """Its runtime code calls itself before it destroys itself, if it has more than 0xa000 gas."""
    runtime = bytes.fromhex("5f5f5f5f5f306190005a61a0001002f15033ff")
    made = returning(runtime)
    code = push(made[:32]) + b"\x5f\x52" + push(made[32:].ljust(32, b"\0")) + b"\x60\x20\x52"
    code += push(len(made)) + bytes.fromhex("5f5ff0") + bytes.fromhex("5f5f5f5f5f855af1") + FOLD + FOLD
    code += bytes.fromhex("60205ff3")
    ours = our_call(code, 300_000)
    assert ours == stock_call(code, 300_000)
    assert not ours[2]
