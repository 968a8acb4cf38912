"""Blocks: built, checked, kept in a tree, made final."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Container, Sequence
from pathlib import Path
from typing import Any

import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import evm
from chain import header as rules
from chain.chain import Chain, Evaluation, UnknownBlock
from chain.evm_codec import decode_block
from chain.store import Store, StoreError
from chain.types import Attestation, Block, Certificate, InvalidBlock, InvalidTransaction, Transaction, UnknownParent
from tests.chain.chain_kit import (
    ADDRESSES,
    CHANGER,
    COUNTER,
    FURNACE,
    GENESIS_TIME,
    HASHER,
    LOGGER,
    NOW,
    RICH,
    SYSTEM,
    VALIDATORS,
    build,
    certificate,
    change,
    close,
    extend,
    finalise,
    make_network,
    open_chain,
    sign,
    tx,
)

CLAIM = b"\xab" * 32


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(tmp_path / "ours")


@pytest.fixture
def other(tmp_path: Path) -> Chain:
    return open_chain(tmp_path / "theirs")


def resealed(
    chain: Chain, block: Block, key: bytes | None = None, raws: tuple[bytes, ...] | None = None, **changes: Any
) -> Block:
    """The block with header fields changed, signed again by its proposer (or by `key`)."""
    decoded = decode_block(block.payload, chain.constants.gas_limit, block.digest)
    signer = VALIDATORS[block.view % len(VALIDATORS)] if key is None else key
    header = rules.seal(decoded.header.copy(**changes), signer)
    epoch, view = int.from_bytes(header.extra_data[:16], "big"), int.from_bytes(header.extra_data[16:32], "big")
    payload = evm.encode_block(header, decoded.transactions if raws is None else raws)
    return Block(header.hash, epoch, view, header.parent_hash, header.block_number, payload)


# -- building and adding ---------------------------------------------------------------------------------------------


def test_what_one_node_builds_another_takes_with_the_same_result(chain: Chain, other: Chain) -> None:
    transactions = [tx(chain, user, 0, COUNTER) for user in range(3)] + [tx(chain, 0, 1, ADDRESSES[5], value=9)]
    block = build(chain, chain.genesis_digest, 1, transactions)
    other.add(block, NOW)
    assert other.head(block.digest) == chain.head(block.digest)
    assert other.balance(ADDRESSES[5], block.digest) == RICH + 9
    assert other.balance(ADDRESSES[5]) == RICH
    assert (block.height, block.view, block.epoch, block.parent) == (1, 1, 0, chain.genesis_digest)


def test_adding_a_block_again_changes_nothing(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, COUNTER)])
    for _ in range(2):
        other.add(block, NOW)
    finalise(other, block)
    other.add(block, None)
    assert other.finalised.digest == block.digest


def test_empty_blocks_of_two_views_differ(chain: Chain) -> None:
    first, second = (build(chain, chain.genesis_digest, view) for view in (1, 5))
    assert first.digest != second.digest


def test_the_same_inputs_give_the_same_block(chain: Chain, other: Chain) -> None:
    transactions = [tx(chain, 0, 0, COUNTER)]
    assert build(chain, chain.genesis_digest, 2, transactions) == build(other, other.genesis_digest, 2, transactions)


def test_a_block_is_an_ordinary_ethereum_block_named_by_its_hash(chain: Chain) -> None:
    block = build(chain, chain.genesis_digest, 3, [tx(chain, 0, 0, COUNTER)])
    header, transactions, uncles, withdrawals = rlp.decode(block.payload)
    assert (len(header), len(transactions), uncles, withdrawals) == (20, 1, [], [])
    extra = header[12]
    assert extra[:32] == (0).to_bytes(16, "big") + (3).to_bytes(16, "big")
    assert len(extra) == 97


def test_a_block_takes_only_what_can_stand_in_it(chain: Chain, other: Chain) -> None:
    good = [tx(chain, 0, 0, COUNTER), tx(chain, 0, 1, COUNTER)]
    bad = [tx(chain, 1, 5, COUNTER), tx(chain, 2, 0, COUNTER, value=RICH), good[0]]
    block = build(chain, chain.genesis_digest, 1, [bad[0], good[0], bad[1], good[1], bad[2]])
    other.add(block, NOW)
    finalise(other, block)
    assert [fields.hash for fields in other.block().transactions] == [each.hash for each in good]


def test_time_may_repeat_but_not_go_back(chain: Chain, other: Chain) -> None:
    first = build(chain, chain.genesis_digest, 1, now=NOW)
    second = build(chain, first.digest, 2, now=NOW - 500)
    assert chain.head(second.digest).timestamp == NOW
    other.add(first, NOW)
    other.add(second, NOW)
    with pytest.raises(InvalidBlock, match="time: expected at least 2000, got 1999"):
        other.add(resealed(chain, build(chain, first.digest, 3), timestamp=NOW - 1), None)


def test_the_clock_is_compared_only_when_it_is_given(chain: Chain, tmp_path: Path) -> None:
    block = build(chain, chain.genesis_digest, 1, now=NOW)
    for index, now in enumerate((NOW - 16, NOW + 16)):
        with pytest.raises(InvalidBlock, match=r"time is more than 15\.0 s"):
            open_chain(tmp_path / f"far{index}").add(block, now)
    for index, now in enumerate((NOW - 15, NOW + 15, None)):
        open_chain(tmp_path / f"near{index}").add(block, now)


# -- blocks that break a rule ----------------------------------------------------------------------------------------


def test_the_seal_is_the_proposers_of_the_view_alone(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1)
    with pytest.raises(InvalidBlock, match="proposer's signature: expected"):
        other.add(resealed(chain, block, key=VALIDATORS[2]), NOW)
    usurped = chain.build(chain.genesis_digest, 1, 0, (), NOW, VALIDATORS[2])
    with pytest.raises(InvalidBlock, match="coinbase is not the proposer"):
        other.add(usurped, NOW)


def test_a_seal_has_one_form_only(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1)
    header = decode_block(block.payload, 10**8, block.digest).header
    r, s, v = header.extra_data[32:64], int.from_bytes(header.extra_data[64:96], "big"), header.extra_data[96]
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    for seal, reason in (
        (r + (order - s).to_bytes(32, "big") + bytes([v ^ 1]), "malleable"),
        (r + s.to_bytes(32, "big") + bytes([v + 27]), "malleable"),
        (bytes(65), "malformed"),
        (b"\xff" * 32 + s.to_bytes(32, "big") + bytes([v]), "malformed"),
    ):
        forged = header.copy(extra_data=header.extra_data[:32] + seal)
        with pytest.raises(InvalidBlock, match=reason):
            other.add(rules.block_of(forged, evm.encode_block(forged, ())), NOW)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"state_root": b"\x01" * 32}, "state root"),
        ({"transaction_root": b"\x01" * 32}, "transaction root"),
        ({"receipt_root": b"\x01" * 32}, "receipt root"),
        ({"gas_used": 5}, "gas used"),
        ({"bloom": 1}, "bloom"),
        ({"gas_limit": 10_000_001}, "a constant field"),
        ({"base_fee_per_gas": 8}, "a constant field"),
        ({"difficulty": 1}, "a constant field"),
        ({"mix_hash": b"\x01" * 32}, "a constant field"),
        ({"nonce": b"\x01" * 8}, "a constant field"),
        ({"excess_blob_gas": 1}, "a constant field"),
        ({"blob_gas_used": 131072}, "a constant field"),
        ({"withdrawals_root": b"\x01" * 32}, "a constant field"),
        ({"parent_beacon_block_root": b"\x01" * 32}, "a constant field"),
        ({"uncles_hash": b"\x01" * 32}, "uncles"),
        ({"timestamp": 1 << 41}, "time"),
        ({"timestamp": GENESIS_TIME - 1}, "time"),
        ({"block_number": 2}, "number"),
        ({"block_number": 0}, "another genesis"),
        ({"coinbase": b"\x01" * 20}, "coinbase"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_wrong_header_is_refused_by_the_name_of_the_rule(
    chain: Chain, other: Chain, changes: dict[str, Any], reason: str
) -> None:
    block = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, LOGGER, CLAIM)])
    with pytest.raises(InvalidBlock) as refused:
        other.add(resealed(chain, block, **changes), None)
    assert reason in refused.value.reason
    assert not other.has(block.digest)


def test_epoch_and_view_are_the_headers_and_go_forward(chain: Chain, other: Chain) -> None:
    first = build(chain, chain.genesis_digest, 5)
    other.add(first, NOW)
    for view in (4, 5):
        with pytest.raises(InvalidBlock, match="view: expected above 5"):
            other.add(build(chain, first.digest, view), NOW)
    with pytest.raises(InvalidBlock, match="epoch 1 is not known here"):
        other.add(chain.build(first.digest, 6, 1, (), NOW, VALIDATORS[2]), NOW)
    second = build(chain, first.digest, 6)
    for lie in ({"view": 10}, {"epoch": 1}, {"height": 3}, {"parent": first.parent}):
        with pytest.raises(InvalidBlock, match="differ from the header's"):
            other.add(dataclasses.replace(second, **lie), NOW)  # type: ignore[arg-type]
    with pytest.raises(InvalidBlock, match="digest"):
        other.add(dataclasses.replace(second, digest=bytes(32)), NOW)
    huge = resealed(chain, second, extra_data=b"\xff" * 32 + bytes(65))
    with pytest.raises(InvalidBlock, match="out of range"):
        other.add(huge, None)


def test_a_block_with_a_transaction_that_cannot_stand_in_it_is_refused(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, COUNTER)])
    decoded = decode_block(block.payload, 10**8, block.digest)
    for raws, reason in (
        ((sign(0, 1, COUNTER),), "transaction 0: nonce 1"),
        ((decoded.transactions[0], decoded.transactions[0]), "transaction 1: nonce 0"),
        ((b"\x02",), "transaction 0: malformed"),
        ((sign(0, 0, COUNTER, value=RICH),), "transaction 0: balance"),
        ((sign(0, 0, COUNTER), sign(1, 0, COUNTER, gas=9_960_000)), "transaction 1: no gas left"),
        ((sign(1, 0, COUNTER),), "transaction root"),
        ((sign(0, 0, COUNTER),) * 800, "too many transactions"),
    ):
        with pytest.raises(InvalidBlock) as refused:
            other.add(resealed(chain, block, raws=raws), NOW)
        assert refused.value.reason.startswith(reason)


def test_a_block_of_too_many_bytes_is_refused_unread(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1)
    with pytest.raises(InvalidBlock, match="too many bytes"):
        other.add(dataclasses.replace(block, payload=block.payload + bytes(1 << 20)), NOW)


def test_blocks_from_nowhere_and_from_behind_the_final_head_have_no_parent(chain: Chain, other: Chain) -> None:
    first = build(chain, chain.genesis_digest, 1)
    second = build(chain, first.digest, 2)
    with pytest.raises(UnknownParent) as missing:
        other.add(second, NOW)
    assert missing.value.parent == first.digest
    finalise(other, first)
    with pytest.raises(UnknownParent):
        other.add(build(chain, chain.genesis_digest, 3), NOW)
    with pytest.raises(UnknownParent):
        other.evaluating(chain.genesis_digest, (), NOW, bytes(20))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chain, Block]:
    """A fresh chain and a valid block on its genesis that it has not seen."""
    maker = open_chain(tmp_path_factory.mktemp("maker"))
    transactions = [tx(maker, 0, 0, COUNTER), tx(maker, 1, 0, LOGGER, CLAIM), tx(maker, 0, 1, b"", b"\x5f", gas=90_000)]
    return open_chain(tmp_path_factory.mktemp("taker")), build(maker, maker.genesis_digest, 1, transactions)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 10**9), st.binary(min_size=0, max_size=3), st.integers(0, 3))
def test_no_change_of_a_blocks_bytes_is_taken(sample: tuple[Chain, Block], at: int, put: bytes, cut: int) -> None:
    taker, block = sample
    at %= len(block.payload)
    payload = block.payload[:at] + put + block.payload[at + cut :]
    if payload == block.payload:
        return
    with pytest.raises((InvalidBlock, UnknownParent)):
        taker.add(dataclasses.replace(block, payload=payload), NOW)
    with pytest.raises((InvalidBlock, UnknownParent)):  # even if the sender names the block as its bytes do
        taker.add(dataclasses.replace(_named_by_its_bytes(block, payload), payload=payload), NOW)


def _named_by_its_bytes(block: Block, payload: bytes) -> Block:
    try:
        return rules.block_of(decode_block(payload, 10**8, bytes(32)).header, payload)
    except InvalidBlock:
        return block


nested = st.recursive(st.binary(max_size=40), lambda inner: st.lists(inner, max_size=22), max_leaves=40)


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=300) | nested.map(rlp.encode))
def test_garbage_is_an_invalid_block(sample: tuple[Chain, Block], payload: bytes) -> None:
    taker, block = sample
    with pytest.raises(InvalidBlock):
        taker.add(dataclasses.replace(block, payload=payload), NOW)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_validator_that_signs_garbage_fields_is_refused(sample: tuple[Chain, Block], data: st.DataObject) -> None:
    taker, block = sample
    numbers, words = st.integers(0, 1 << 300), st.binary(min_size=32, max_size=32)
    times = st.integers(0, GENESIS_TIME - 1) | st.integers(1 << 40, 1 << 300)
    kinds = {
        "parent_hash": words, "uncles_hash": words, "state_root": words, "transaction_root": words,
        "receipt_root": words, "bloom": st.integers(0, (1 << 256) - 1), "difficulty": numbers, "block_number": numbers,
        "gas_limit": numbers, "gas_used": numbers, "timestamp": times,
        "extra_data": st.binary(max_size=120),
        "mix_hash": st.binary(max_size=40), "nonce": st.binary(min_size=8, max_size=8), "base_fee_per_gas": numbers,
        "blob_gas_used": numbers, "excess_blob_gas": numbers, "coinbase": st.binary(min_size=20, max_size=20),
    }  # fmt: skip
    name = data.draw(st.sampled_from(sorted(kinds)))
    value = data.draw(kinds[name])
    header = decode_block(block.payload, 10**8, block.digest).header
    if getattr(header, name) == value:
        return
    forged = resealed(taker, block, **{name: value})
    with pytest.raises((InvalidBlock, UnknownParent)):
        taker.add(forged, None)


# -- branches and finality -------------------------------------------------------------------------------------------


def test_branches_do_not_see_each_other_and_the_losing_one_is_forgotten(chain: Chain) -> None:
    root = chain.genesis_digest
    left = build(chain, root, 1, [tx(chain, 0, 0, ADDRESSES[1], value=5)])
    right = build(chain, root, 2, [tx(chain, 0, 0, ADDRESSES[2], value=7), tx(chain, 0, 1, COUNTER)])
    left_child = build(chain, left.digest, 3, [tx(chain, 0, 1, ADDRESSES[1], value=5)])
    right_child = build(chain, right.digest, 4, [tx(chain, 0, 2, COUNTER)])
    assert chain.balance(ADDRESSES[1], left_child.digest) == RICH + 10
    assert chain.balance(ADDRESSES[1], right_child.digest) == RICH
    assert [chain.nonce(ADDRESSES[0], at) for at in (root, left.digest, right_child.digest)] == [0, 1, 3]
    finalise(chain, right)
    assert not chain.has(left.digest)
    assert not chain.has(left_child.digest)
    assert chain.has(right_child.digest)
    assert len(chain._overlay) == 1
    finalise(chain, right_child)
    assert len(chain._overlay) == 0
    assert chain.storage(COUNTER, int.from_bytes(ADDRESSES[0], "big")) == 2


def test_blockhash_follows_the_branch(chain: Chain) -> None:
    extend(chain)
    base = chain.finalised.digest
    branches = []
    for view in (2, 3):
        below = build(chain, base, view)
        branches.append((below, build(chain, below.digest, view + 2, [tx(chain, 0, 0, HASHER)])))
    for below, tip in branches:
        assert chain.storage(HASHER, 0, tip.digest) == int.from_bytes(below.digest, "big")
    finalise(chain, *branches[1])
    block = extend(chain, [tx(chain, 0, 1, HASHER)])
    assert chain.storage(HASHER, 0) == int.from_bytes(block.parent, "big")


def test_several_blocks_become_final_under_one_certificate(chain: Chain) -> None:
    first = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, LOGGER, CLAIM)])
    second = build(chain, first.digest, 2, [tx(chain, 0, 1, LOGGER, CLAIM[::-1])])
    done = finalise(chain, first, second)
    assert [each.head.digest for each in done] == [first.digest, second.digest]
    assert [len(each.transactions) for each in done] == [1, 1]
    assert [log.block_digest for each in done for log in each.logs] == [first.digest, second.digest]
    assert chain.finalised == done[-1].head
    assert chain.finalised_certificate == certificate(second)
    assert chain.final_block == dataclasses.replace(second, attestations=())
    assert finalise(chain, first, second) == []


def test_a_node_that_saw_no_proposal_executes_what_others_made_final(chain: Chain, other: Chain) -> None:
    blocks = [extend(chain, [tx(chain, 0, nonce, COUNTER)]) for nonce in range(3)]
    finalise(other, *blocks)
    assert other.finalised == chain.finalised


def test_what_cannot_be_final_is_refused_and_changes_nothing(chain: Chain, other: Chain) -> None:
    first = build(chain, chain.genesis_digest, 1)
    second = build(chain, first.digest, 2)
    with pytest.raises(InvalidBlock, match="does not follow"):
        finalise(other, second)
    with pytest.raises(InvalidBlock, match="certificate is of another block"):
        other.finalise([first], certificate(second))
    with pytest.raises(InvalidBlock, match="certificate is of another block"):
        other.finalise([], certificate(first))
    finalise(other, first)
    rival = build(chain, chain.genesis_digest, 3)
    with pytest.raises(InvalidBlock, match="conflicts with the finalised chain"):
        finalise(other, rival)
    assert other.finalised.digest == first.digest


def test_the_genesis_block_is_final_without_a_certificate(chain: Chain) -> None:
    assert chain.finalised.number == 0
    assert chain.finalised_certificate is None
    assert chain.final_block == Block(chain.genesis_digest, 0, 0, bytes(32), 0, b"")


def test_a_chain_reopens_at_its_finalised_head_and_goes_on(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    extend(chain, [tx(chain, 0, 0, COUNTER)])
    build(chain, chain.finalised.digest, 9, [tx(chain, 0, 1, COUNTER)])
    before = (chain.finalised, chain.finalised_certificate, chain.genesis_digest)
    close(chain)
    chain = open_chain(tmp_path)
    assert (chain.finalised, chain.finalised_certificate, chain.genesis_digest) == before
    extend(chain, [tx(chain, 0, 1, COUNTER)])
    assert chain.nonce(ADDRESSES[0]) == 2


def test_a_database_of_another_network_is_refused(tmp_path: Path) -> None:
    close(open_chain(tmp_path))
    store = Store(tmp_path, 1 << 28)
    with pytest.raises(StoreError, match="another network"):
        Chain(store, make_network(gas_limit=16_000_000), SYSTEM)


def test_finality_prunes_the_vote_log_up_to_its_view(chain: Chain) -> None:
    from chain.types import NOTARISE, Vote

    block = build(chain, chain.genesis_digest, 4)
    votes = [Vote(0, view, NOTARISE, block.digest, 0, bytes(65)) for view in (3, 4, 5)]
    chain._store.log_votes([(vote, block) for vote in votes])
    finalise(chain, block)
    log = chain._store.vote_log()
    assert (log.votes, log.blocks) == ((votes[2],), ())


# -- claims ----------------------------------------------------------------------------------------------------------


def evaluate(chain: Chain, candidates: Sequence[Transaction], attested: Container[bytes] | None) -> Evaluation:
    proposer = chain.network.validator_addresses[1]
    return chain.evaluating(chain.genesis_digest, candidates, NOW, proposer, attested)()


def test_candidates_are_sorted_into_ready_waiting_and_unattested(chain: Chain) -> None:
    claiming = tx(chain, 0, 0, LOGGER, CLAIM)
    behind = tx(chain, 0, 1, COUNTER)
    free = tx(chain, 1, 0, COUNTER)
    gap = tx(chain, 2, 1, COUNTER)
    poor = tx(chain, 3, 0, COUNTER, value=RICH)
    candidates = [claiming, behind, free, gap, poor]
    unseen = evaluate(chain, candidates, ())
    assert unseen.ready == (free,)
    assert [(claim.update, origin) for claim, origin in unseen.unattested] == [(CLAIM, claiming.hash)]
    attested = evaluate(chain, candidates, {CLAIM})
    assert attested.ready == (claiming, behind, free)
    assert attested.unattested == ()
    assert chain.finalised.number == 0


def test_selecting_leaves_no_trace_and_a_block_of_what_is_ready_takes_all_of_it(chain: Chain, other: Chain) -> None:
    candidates = [tx(chain, user, 0, LOGGER, bytes([user]) * 32) for user in range(4)]
    ready = evaluate(chain, candidates, {bytes([user]) * 32 for user in (0, 2)}).ready
    block = build(chain, chain.genesis_digest, 1, ready)
    assert block == build(other, other.genesis_digest, 1, ready)
    finalise(chain, block)
    assert [each.hash for each in chain.block().transactions] == [each.hash for each in ready]
    assert len(ready) == 2


def test_a_block_closed_upon_an_evaluation_holds_what_was_ready_and_is_not_executed_again(chain: Chain) -> None:
    candidates = [tx(chain, 0, 0, LOGGER, CLAIM), tx(chain, 1, 0, COUNTER)]
    block = chain.keep(chain.closing(evaluate(chain, candidates, ()), 1, 0, VALIDATORS[1])())
    assert chain.claims(block.digest) == ()
    assert chain.block(block.digest).transactions[0].sender == ADDRESSES[1]


def test_the_claims_of_a_block_are_those_that_its_execution_logged(chain: Chain, other: Chain) -> None:
    transactions = [
        tx(chain, 0, 0, LOGGER, CLAIM),
        tx(chain, 1, 0, LOGGER, CLAIM, gas=21_600),
        tx(chain, 2, 0, COUNTER),
    ]
    block = build(chain, chain.genesis_digest, 1, transactions)
    assert [claim.update for claim in chain.claims(block.digest)] == [CLAIM]  # the second runs out of gas
    other.add(block, NOW)
    assert other.claims(block.digest) == chain.claims(block.digest)
    finalise(chain, block)
    assert chain.claims(block.digest) == other.claims(block.digest)
    with pytest.raises(UnknownBlock):
        chain.claims(bytes(32))


def test_a_selection_is_bounded_by_the_gas_of_a_block(tmp_path: Path) -> None:
    chain = open_chain(tmp_path, make_network(gas_limit=1_000_000))
    hungry = [tx(chain, user, 0, FURNACE, gas=300_000) for user in range(5)]
    ready = evaluate(chain, hungry, None).ready
    assert ready == tuple(hungry[:3])
    block = build(chain, chain.genesis_digest, 1, hungry)
    assert chain.block(block.digest).gas_used == 900_000


def test_executing_what_is_taken_back_again_is_bounded_too(tmp_path: Path) -> None:
    chain = open_chain(tmp_path, make_network(gas_limit=1_000_000))
    big = b"\x01" * 20_000  # 16 gas a byte: a log of it takes more than a third of a block
    candidates = [tx(chain, user, 0, LOGGER, big, gas=1_000_000) for user in range(6)]
    selection = evaluate(chain, candidates, ())
    assert selection.ready == ()
    assert len(selection.unattested) == 3 - 1


def test_a_block_is_bounded_in_bytes(tmp_path: Path) -> None:
    chain = open_chain(tmp_path / "a", make_network(gas_limit=100_000_000))
    large = [tx(chain, user, nonce, COUNTER, bytes(58_000), gas=400_000) for nonce in range(3) for user in range(8)]
    block = build(chain, chain.genesis_digest, 1, large)
    assert 900_000 < len(block.payload) <= evm.BLOCK_BYTES_MAX
    open_chain(tmp_path / "b", make_network(gas_limit=100_000_000)).add(block, NOW)


def test_attestations_of_a_blocks_own_claims_are_kept_with_it(chain: Chain, other: Chain) -> None:
    block = build(chain, chain.genesis_digest, 1, [tx(chain, 0, 0, LOGGER, CLAIM)])
    own = tuple(Attestation(CLAIM, True, signer, bytes(65)) for signer in range(3))
    stray = Attestation(b"\x99" * 32, True, 0, bytes(65))
    block = dataclasses.replace(block, attestations=(*own, stray))
    finalise(other, block)
    assert other._store.attestations(CLAIM) == own
    assert other._store.attestations(stray.claim) == ()


def test_the_contracts_of_the_network_are_there_from_genesis(tmp_path: Path) -> None:
    chain = Chain(Store(tmp_path, 1 << 28), make_network())
    from chain.contracts import genesis_contracts

    for address, (code, storage) in genesis_contracts(chain.network.validator_addresses).items():
        assert chain.code(address) == code
        assert all(chain.storage(address, slot) == value for slot, value in storage.items())
        assert chain.nonce(address) == 1


def test_a_transaction_for_another_chain_is_refused(chain: Chain) -> None:
    from chain.transaction import sign_transaction

    with pytest.raises(InvalidTransaction, match="signed for chain 8"):
        chain.decode_transaction(sign_transaction(VALIDATORS[0], 8, 0, bytes(20), 0, b"", 21_000, 20, 1))


# -- epochs ----------------------------------------------------------------------------------------------------------


def test_the_transaction_that_ends_an_epoch_is_the_last_of_its_block(
    chain: Chain, other: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = [tx(chain, 0, nonce, CHANGER, change(nonce + 1, VALIDATORS[:4])) for nonce in (0, 1)]
    block = build(chain, chain.genesis_digest, 1, [*ending, tx(chain, 1, 0, COUNTER)])
    assert len(chain.block(block.digest).transactions) == 1
    monkeypatch.setattr(chain, "_ends_epoch", lambda receipt: False)
    more = build(chain, chain.genesis_digest, 2, [ending[0], tx(chain, 1, 0, COUNTER)])
    with pytest.raises(InvalidBlock, match="transaction 1 comes after the one that ended the epoch"):
        other.add(more, NOW)


# -- serving others --------------------------------------------------------------------------------------------------


def test_blocks_are_served_in_order_with_the_proofs_that_are_kept(chain: Chain, other: Chain) -> None:
    views = iter(range(1, 10))
    for size in (1, 3, 2):
        tip, batch = chain.finalised.digest, []
        for _ in range(size):
            block = build(chain, tip, next(views))
            batch.append(block)
            tip = block.digest
        finalise(chain, *batch)
    assert [[proof is not None for _, proof in chain.blocks_from(1, count, 1 << 20)] for count in (1, 3, 5, 100)] == [
        [True],
        [True, False, False],
        [True, False, False, True, False],
        [True, False, False, True, False, True],
    ]
    assert len(chain.blocks_from(1, 100, 1)) == 1
    assert chain.blocks_from(7, 10, 1 << 20) == []
    assert [block.height for block, _ in chain.blocks_from(0, 2, 1 << 20)] == [1]
    served = chain.blocks_from(1, 100, 1 << 20)
    while served:
        blocks = [block for block, _ in served]
        proof: Certificate | None = served[-1][1]
        assert proof is not None
        other.finalise(blocks, proof)
        served = chain.blocks_from(other.finalised.number + 1, 2, 1 << 20)
    assert other.finalised == chain.finalised


def test_importing_the_chain_loads_neither_learner_nor_network_nor_compiler() -> None:
    rooms = (
        "chain.chain, chain.mempool, chain.claims, chain.masking, chain.consensus, chain.messages, chain.transaction"
    )
    code = f"import sys, {rooms}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert "eth" in loaded.split()
    assert not {"torch", "numpy", "trio", "libp2p", "web3", "vyper", "eth_account", "pytest"} & set(loaded.split())
