"""A payment that somebody signed for another network, sent in here: refused by every node, and in a block that a
validator makes all the same.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain.chain import Chain
from chain.evm_codec import Codec
from chain.transaction import sign_transaction
from chain.types import InvalidBlock, InvalidTransaction
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, NOW, RICH, USERS, build, open_chain

PAID = 10**18
FOREIGN = sign_transaction(USERS[0], CHAIN_ID + 1, 0, ADDRESSES[7], PAID, b"", 21_000, 20, 1)


def careless(path: Path) -> Chain:
    """A node that takes what was signed for the other network."""
    chain = open_chain(path)
    chain._codec = Codec(replace(chain.constants, chain_id=CHAIN_ID + 1))
    return chain


def test_a_payment_on_another_chain_is_none_here_even_in_a_validators_own_block(tmp_path: Path) -> None:
    liar, honest = careless(tmp_path / "liar"), open_chain(tmp_path / "honest")
    with pytest.raises(InvalidTransaction, match=f"signed for chain {CHAIN_ID + 1}, this is chain {CHAIN_ID}"):
        honest.decode_transaction(FOREIGN)
    block = build(liar, liar.genesis_digest, 1, [liar.decode_transaction(FOREIGN)])
    with pytest.raises(InvalidBlock, match="signed for chain"):
        honest.add(block, NOW)


def test_where_no_node_looks_at_the_chain_it_is_paid_twice(tmp_path: Path) -> None:
    one, two = careless(tmp_path / "one"), careless(tmp_path / "two")
    block = build(one, one.genesis_digest, 1, [one.decode_transaction(FOREIGN)])
    two.add(block, NOW)
    assert two.balance(ADDRESSES[7], block.digest) == RICH + PAID
