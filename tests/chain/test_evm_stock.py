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
from tests.chain.evm_programs import ACTORS, COINBASE, CREATED, EMPTY, NOBODY, PRECOMPILES, Stock, Writer

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
