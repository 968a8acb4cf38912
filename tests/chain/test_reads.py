"""What the chain answers about itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from eth._utils.address import generate_contract_address
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.chain import Chain, TooManyLogs, UnknownBlock
from chain.evm import ExecutionFailed, Reverted
from chain.header import address_of_secret
from chain.types import Block, Certificate, Log
from tests.chain.chain_kit import (
    ADDRESSES,
    CLOCK,
    COUNTER,
    FURNACE,
    GENESIS_TIME,
    LOGGER,
    NOW,
    REVERTER,
    RICH,
    SPIRAL,
    VALIDATORS,
    build,
    extend,
    finalise,
    open_chain,
    tx,
)

TOPICS = [bytes([index]) * 32 for index in range(3)]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, list[Log]]:
    """A chain of eight blocks, some without logs, and all the logs that finality reported."""
    chain = open_chain(tmp_path_factory.mktemp("told"))
    logs: list[Log] = []
    nonces = [0, 0]
    plans = [[], [(0, LOGGER, 0)], [(1, COUNTER, 0), (0, LOGGER, 1)], [(0, ADDRESSES[3], 0)], [(1, LOGGER, 2)], [],
             [(0, LOGGER, 0), (1, LOGGER, 0), (1, COUNTER, 0)], [(0, COUNTER, 0)]]  # fmt: skip
    for view, plan in enumerate(plans, 1):
        transactions = []
        for user, to, topic in plan:
            transactions.append(tx(chain, user, nonces[user], to, TOPICS[topic] + b"more" if to == LOGGER else b""))
            nonces[user] += 1
        block = build(chain, chain.finalised.digest, view, transactions, NOW + view)
        logs += [log for done in finalise(chain, block) for log in done.logs]
    return chain, logs


# -- logs ------------------------------------------------------------------------------------------------------------


def test_all_logs_are_those_that_finality_reported(told: tuple[Chain, list[Log]]) -> None:
    chain, logs = told
    assert len(logs) == 8
    assert chain.logs(0, 100) == logs
    assert [log.index for log in logs if log.block_number == 7] == [0, 1, 2]
    assert logs[0].topics == (TOPICS[0],)
    assert logs[0].data == TOPICS[0] + b"more"


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 9),
    st.integers(0, 9),
    st.lists(st.sampled_from([LOGGER, COUNTER, bytes(20)]), max_size=2),
    st.lists(st.none() | st.sampled_from(TOPICS) | st.lists(st.sampled_from(TOPICS), max_size=2), max_size=2),
)
def test_filtered_logs_are_those_of_a_plain_scan(
    told: tuple[Chain, list[Log]],
    first: int,
    last: int,
    addresses: list[bytes],
    topics: list[bytes | list[bytes] | None],
) -> None:
    chain, logs = told
    expected = []
    for log in logs:
        fits = len(topics) <= len(log.topics)
        for wanted, topic in zip(topics, log.topics, strict=False):
            fits = fits and (wanted is None or wanted == [] or topic == wanted or topic in wanted)
        if fits and first <= log.block_number <= last and (not addresses or log.address in addresses):
            expected.append(log)
    assert chain.logs(first, last, addresses, topics) == expected


def test_a_query_for_too_many_logs_is_refused(told: tuple[Chain, list[Log]]) -> None:
    chain, logs = told
    assert chain.logs(0, 100, limit=len(logs)) == logs
    with pytest.raises(TooManyLogs, match="more than 7 logs"):
        chain.logs(0, 100, limit=7)


# -- blocks, transactions, receipts ----------------------------------------------------------------------------------


def test_a_block_is_found_by_number_and_by_digest(told: tuple[Chain, list[Log]]) -> None:
    chain, _ = told
    view = chain.block(7)
    assert view == chain.block(view.head.digest)
    assert view.head.timestamp == NOW + 7 == chain.timestamp(7)
    assert view.proposer == address_of_secret(VALIDATORS[3])
    assert view.gas_used == sum(receipt.gas_used for receipt in chain.receipts(7))
    assert (len(view.transactions), len(view.bloom), view.gas_limit, view.base_fee_wei) == (3, 256, 10_000_000, 7)
    assert chain.block().head == chain.finalised
    assert chain.block(0).head.digest == chain.genesis_digest
    for unknown in (9, -1, bytes(32)):
        with pytest.raises(UnknownBlock):
            chain.block(unknown)
    with pytest.raises(UnknownBlock):
        chain.receipts(9)
    with pytest.raises(UnknownBlock):
        chain.balance(ADDRESSES[0], 9)


def test_a_transaction_and_its_receipt_are_found_by_hash(told: tuple[Chain, list[Log]]) -> None:
    chain, logs = told
    log = logs[-2]
    found = chain.transaction(log.transaction)
    receipt = chain.receipt(log.transaction)
    assert found is not None
    assert receipt is not None
    fields, place = found
    assert (place.number, place.index, place.digest) == (7, 2, log.block_digest)
    assert (fields.to, fields.sender, fields.gas_price) == (COUNTER, ADDRESSES[1], 8)
    assert receipt.logs == (log,)
    assert receipt == chain.receipts(7)[2]
    assert receipt.gas_used_cumulative == chain.block(7).gas_used
    assert chain.transaction(bytes(32)) is None
    assert chain.receipt(bytes(32)) is None


def test_a_failed_transaction_has_a_receipt_that_says_so_and_paid_its_gas(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    failing = tx(chain, 0, 0, REVERTER, b"no", value=5)
    extend(chain, [failing])
    receipt = chain.receipt(failing.hash)
    assert receipt is not None
    assert not receipt.succeeded
    assert receipt.logs == ()
    assert chain.balance(ADDRESSES[0]) == RICH - 8 * receipt.gas_used
    assert chain.balance(address_of_secret(VALIDATORS[1])) == receipt.gas_used  # the tip; the base fee is burned


def test_a_created_contract_is_named_by_its_creator_and_nonce(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    creating = tx(chain, 0, 0, b"", bytes.fromhex("60fe5f5360015ff3"))  # code: one byte, fe
    extend(chain, [creating])
    receipt = chain.receipt(creating.hash)
    assert receipt is not None
    assert receipt.fields.to is None
    assert receipt.fields.contract == generate_contract_address(ADDRESSES[0], 0)
    assert chain.code(receipt.fields.contract) == b"\xfe"


# -- serving others --------------------------------------------------------------------------------------------------


def test_of_blocks_that_became_final_together_the_last_has_the_certificate(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    extend(chain)
    together = [build(chain, chain.finalised.digest, 2)]
    for view in (3, 4):
        together.append(build(chain, together[-1].digest, view))
    finalise(chain, *together)
    extend(chain)
    assert heights(chain.blocks_from(1, 100, 1)) == [1]
    assert heights(chain.blocks_from(2, 100, 1)) == [2]
    assert heights(chain.blocks_from(2, 100, 1 << 20)) == [2, 3, 4, 5]
    assert [proof is not None for _, proof in chain.blocks_from(2, 100, 1 << 20)] == [False, False, True, True]
    assert heights(chain.blocks_from(2, 2, 1 << 20)) == [2, 3]


def test_an_answer_is_bounded_but_for_its_first_block(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    full, tip = [], chain.finalised.digest
    for view in range(1, 3):
        sent = [tx(chain, 0, (view - 1) * 17 + n, data=bytes(60_000), gas=300_000) for n in range(17)]
        full.append(build(chain, tip, view, sent))
        tip = full[-1].digest
    assert all(len(block.payload) > 1_000_000 for block in full)
    finalise(chain, *full)
    assert heights(chain.blocks_from(1, 100, 900_000)) == [1]
    assert heights(chain.blocks_from(2, 100, 900_000)) == [2]
    assert heights(chain.blocks_from(1, 100, 7 << 20)) == [1, 2]


def heights(served: list[tuple[Block, Certificate | None]]) -> list[int]:
    return [block.height for block, _ in served]


# -- state -----------------------------------------------------------------------------------------------------------


def test_old_state_can_be_asked_for(told: tuple[Chain, list[Log]]) -> None:
    chain, _ = told
    slot = int.from_bytes(ADDRESSES[1], "big")
    assert [chain.storage(COUNTER, slot, number) for number in (0, 2, 3, 7, 8)] == [0, 0, 1, 2, 2]
    assert chain.nonce(ADDRESSES[0], 0) == 0
    assert chain.nonce(ADDRESSES[0]) == 5
    assert chain.balance(b"\x77" * 20) == 0
    assert chain.code(ADDRESSES[0]) == b""


def test_a_call_returns_data_and_leaves_no_trace(told: tuple[Chain, list[Log]]) -> None:
    chain, _ = told
    assert chain.call(CLOCK) == (NOW + 8).to_bytes(32, "big")
    assert chain.call(CLOCK, at=0) == GENESIS_TIME.to_bytes(32, "big")
    assert chain.call(CLOCK, now=NOW + 99) == (NOW + 99).to_bytes(32, "big")
    assert chain.call(CLOCK, now=5) == (NOW + 8).to_bytes(32, "big")
    before = chain.balance(ADDRESSES[0])
    chain.call(COUNTER, sender=ADDRESSES[0], value=7)
    assert chain.balance(ADDRESSES[0]) == before


def test_a_reverted_call_gives_reason_and_data(told: tuple[Chain, list[Log]]) -> None:
    chain, _ = told
    words = b"not a slot holder"
    data = (
        keccak(b"Error(string)")[:4]
        + (32).to_bytes(32, "big")
        + len(words).to_bytes(32, "big")
        + words.ljust(64, b"\0")
    )
    with pytest.raises(Reverted) as reverted:
        chain.call(REVERTER, data)
    assert reverted.value.reason == words.decode()
    assert reverted.value.data == data
    assert str(reverted.value) == f"execution reverted: {words.decode()}"
    with pytest.raises(Reverted, match=r"^execution reverted$"):
        chain.call(REVERTER, b"\x01")
    with pytest.raises(Reverted):
        chain.estimating(REVERTER, data)()


def test_a_call_has_no_more_gas_than_a_block(told: tuple[Chain, list[Log]]) -> None:
    chain, _ = told
    with pytest.raises(ExecutionFailed, match="out of gas"):
        chain.call(FURNACE, gas=60_000)
    with pytest.raises(ExecutionFailed, match="below the least"):
        chain.call(CLOCK, gas=100)
    assert chain._gas(10**12) == 10_000_000


@pytest.mark.parametrize(
    ("to", "data"),
    [
        (ADDRESSES[1], b""),
        (COUNTER, b""),
        (LOGGER, b"\x01" * 40),
        (SPIRAL, b""),
        (b"", bytes.fromhex("60fe5f5360015ff3")),
    ],
)
def test_an_estimate_is_enough_and_little_more(tmp_path: Path, to: bytes, data: bytes) -> None:
    chain = open_chain(tmp_path)
    cap = 400_000
    estimate = chain.estimating(to, data, sender=ADDRESSES[0], gas=cap)()
    chain.call(to, data, sender=ADDRESSES[0], gas=estimate)
    extend(chain, [tx(chain, 0, 0, to, data, gas=estimate)])
    assert chain.receipts(1)[0].succeeded
    if to != SPIRAL:  # which takes whatever it is given
        assert estimate <= chain.receipts(1)[0].gas_used * 65 // 64 + 1


def test_what_is_executed_but_not_final_is_asked_for_by_digest(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    block = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, COUNTER)])
    slot = int.from_bytes(ADDRESSES[0], "big")
    assert chain.storage(COUNTER, slot, block.digest) == 1
    assert chain.storage(COUNTER, slot) == 0
    assert chain.call(CLOCK, at=block.digest) == NOW.to_bytes(32, "big")
    assert chain.block(block.digest).head == chain.head(block.digest)
    with pytest.raises(UnknownBlock):
        chain.block(1)
