"""Our state machine against stock py-evm, over random blocks: the same headers, receipts and roots, byte for byte."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from chain import evm
from chain.evm import Codec, Execution, Layers, Rules
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
        yield sign(user, nonces[user], to, data, value=value, gas=gas, tip=tip)
        nonces[user] += 1


def compare(seed: int, blocks: int, count: int) -> list[evm.Receipt]:
    """Run the same blocks on both. Ours also runs what it then takes back, and is asked for what it has to refuse."""
    choose = random.Random(seed)
    parent, state = evm.genesis(RULES, GENESIS_TIME, programs.accounts(choose), bytes(32))
    stock, codec, nonces = Stock(parent, state), Codec(RULES), [0] * len(USERS)
    ancestors = [parent.hash]
    done: list[evm.Receipt] = []
    for number in range(1, blocks + 1):
        raws = list(transactions(choose, nonces, count))
        ours = Execution(RULES, parent, GENESIS_TIME + number, COINBASE, Layers((state,), lambda _: None), ancestors)
        for raw in raws:
            if choose.random() < 0.2:
                ours.run(codec.transaction(raw))
                ours.undo()
            ours.run(codec.transaction(raw))
            if choose.random() < 0.1:
                with pytest.raises(InvalidTransaction):
                    ours.run(codec.transaction(raw))
        header, added = ours.finish(b"")
        blank = evm.blank_header(RULES, parent, GENESIS_TIME + number, COINBASE)
        expected, receipts = stock.child(blank, raws)
        assert ours.encoded_receipts == receipts
        assert header == expected
        done += ours.receipts
        parent, state = header, state | added
        ancestors.insert(0, header.hash)
    return done


@pytest.mark.parametrize("seed", range(60))
def test_random_blocks_come_out_as_stock_makes_them(seed: int) -> None:
    done = compare(seed, blocks=3, count=10)
    assert len(done) == 30


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
