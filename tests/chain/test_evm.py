from __future__ import annotations

from typing import Any

import coincurve
import pytest
import rlp
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import evm, evm_codec
from chain.evm import Account, Codec, Execution, Header, Layers, Rules, revert_reason
from chain.transaction import sign_transaction
from chain.types import InvalidBlock, InvalidTransaction
from tests.chain.chain_kit import (
    ADDRESSES,
    CHAIN_ID,
    CLOCK,
    CONTRACTS,
    COUNTER,
    FURNACE,
    GENESIS_TIME,
    LOGGER,
    MAYFLY,
    RICH,
    SPIRAL,
    USERS,
    sign,
)

RULES = Rules(CHAIN_ID, gas_limit=15_000_000, base_fee_wei=7)
COINBASE = b"\xcb" * 20
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141


def genesis() -> tuple[Header, dict[bytes, bytes]]:
    accounts = dict.fromkeys(ADDRESSES, Account(balance=RICH)) | CONTRACTS
    return evm.genesis(RULES, GENESIS_TIME, accounts, bytes(32))


def execution(parent: Header, state: dict[bytes, bytes], timestamp: int = GENESIS_TIME + 1) -> Execution:
    return Execution(RULES, parent, timestamp, COINBASE, Layers((state,), lambda _: None), (parent.hash,))


def legacy(
    user: int, nonce: int, to: bytes, value: int = 0, gas: int = 21_000, chain_id: int | None = CHAIN_ID
) -> bytes:
    fields: list[Any] = [nonce, 20, gas, to, value, b""]
    signed = fields if chain_id is None else [*fields, chain_id, 0, 0]
    signature = coincurve.PrivateKey(USERS[user]).sign_recoverable(keccak(rlp.encode(signed)), hasher=None)
    v = signature[64] + (27 if chain_id is None else 35 + 2 * chain_id)
    return rlp.encode([*fields, v, int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")])


def access_listed(user: int, nonce: int, to: bytes, slots: list[int], gas: int = 100_000) -> bytes:
    fields = [CHAIN_ID, nonce, 20, gas, to, 0, b"", [[to, [slot.to_bytes(32, "big") for slot in slots]]]]
    message = keccak(b"\x01" + rlp.encode(fields))
    signature = coincurve.PrivateKey(USERS[user]).sign_recoverable(message, hasher=None)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return b"\x01" + rlp.encode([*fields, signature[64], r, s])


def altered(raw: bytes, **changes: int) -> bytes:
    """A type-2 transaction with fields put over, its signature as it was."""
    places = {"chain_id": 0, "nonce": 1, "tip": 2, "fee": 3, "gas": 4, "value": 6, "parity": 9, "r": 10, "s": 11}
    fields = rlp.decode(raw[1:])
    for name, value in changes.items():
        fields[places[name]] = rlp.sedes.big_endian_int.serialize(value)
    return b"\x02" + rlp.encode(fields)


# -- transactions in a block -----------------------------------------------------------------------------------------


def test_an_undone_transaction_leaves_no_trace() -> None:
    parent, state = genesis()
    codec = Codec(RULES)
    kept = [codec.transaction(sign(0, nonce, COUNTER)) for nonce in range(3)]
    undone = [
        codec.transaction(sign(user, 0, to, b"data", value=9)) for user, to in ((1, LOGGER), (2, COUNTER), (3, MAYFLY))
    ]
    plain, mixed = execution(parent, state), execution(parent, state)
    for transaction, other in zip(kept, undone, strict=True):
        plain.run(transaction)
        mixed.run(other)
        mixed.undo()
        mixed.run(transaction)
    mixed.run(undone[0])
    mixed.undo()
    assert plain.finish(b"") == mixed.finish(b"")


def test_a_refused_transaction_leaves_no_trace() -> None:
    parent, state = genesis()
    codec = Codec(RULES)
    good = codec.transaction(sign(0, 0, COUNTER))
    plain, mixed = execution(parent, state), execution(parent, state)
    with pytest.raises(InvalidTransaction, match="nonce 1, the account's next is 0"):
        mixed.run(codec.transaction(sign(0, 1, COUNTER)))
    with pytest.raises(InvalidTransaction, match="balance below"):
        mixed.run(codec.transaction(sign(0, 0, COUNTER, value=RICH)))
    plain.run(good)
    mixed.run(good)
    with pytest.raises(InvalidTransaction, match="nonce 0, the account's next is 1"):
        mixed.run(good)
    with pytest.raises(InvalidTransaction, match="no gas left"):
        mixed.run(codec.transaction(sign(0, 1, COUNTER, gas=15_000_000)))
    assert plain.finish(b"") == mixed.finish(b"")


def test_calls_as_deep_as_the_gas_of_a_block_allows_are_executed() -> None:
    parent, state = genesis()
    run = execution(parent, state)
    receipt = run.run(Codec(RULES).transaction(sign(0, 0, SPIRAL, gas=15_000_000)))
    assert receipt.succeeded
    assert receipt.gas_used > 50_000


def test_a_loop_ends_when_its_gas_does() -> None:
    parent, state = genesis()
    run = execution(parent, state)
    receipt = run.run(Codec(RULES).transaction(sign(0, 0, FURNACE, gas=200_000)))
    assert not receipt.succeeded
    assert (receipt.gas_used, receipt.logs, run.gas_left) == (200_000, (), 15_000_000 - 200_000)


# -- transactions from outside ---------------------------------------------------------------------------------------


def test_the_three_kinds_of_transaction_are_decoded() -> None:
    codec = Codec(RULES)
    for raw, kind in (
        (legacy(1, 5, b"\x05" * 20, 6), 0),
        (access_listed(1, 5, COUNTER, [7]), 1),
        (sign(1, 5, b"\x05" * 20, b"\x07", value=6), 2),
    ):
        transaction = evm.describe(codec.transaction(raw), raw)
        fields = codec.fields(raw)
        assert (transaction.sender, transaction.nonce, transaction.hash) == (ADDRESSES[1], 5, keccak(raw))
        assert (fields.type, fields.sender, fields.nonce) == (kind, ADDRESSES[1], 5)
    assert codec.fields(access_listed(1, 5, COUNTER, [7])).access_list == ((COUNTER, (7,)),)


big = st.integers(0, 2**256 - 1)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 7), st.integers(0, 2**64 - 2), st.integers(0, 10**6), st.binary(max_size=300), big, st.booleans())
def test_the_sender_is_the_one_that_py_evm_recovers(
    user: int, nonce: int, tip: int, data: bytes, value: int, listed: bool
) -> None:
    if listed:
        raw = access_listed(user, nonce, COUNTER, [value % 2**255, tip])
    else:
        raw = sign_transaction(USERS[user], CHAIN_ID, nonce, COUNTER, value, data, 100_000, fee=20 + tip, tip=tip)
    assert Codec(RULES).transaction(raw).sender == CancunTransactionBuilder.decode(raw).sender == ADDRESSES[user]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (bytes(evm_codec.TRANSACTION_BYTES_MAX + 1), "bytes, at most"),
        (b"\x03" + rlp.encode([1]), "type 3 is not taken"),
        (b"\x04", "type 4 is not taken"),
        (b"\x02", "malformed transaction"),
        (sign(0, 0) + b"\x00", "malformed transaction"),
        (legacy(0, 0, b"\x01" * 20, chain_id=8), "signed for chain 8"),
        (legacy(0, 0, b"\x01" * 20, chain_id=None), "without a chain id"),
        (altered(sign(0, 0), chain_id=8), "signed for chain 8"),
        (sign(0, 0, gas=20_999), "below the least of 21000"),
        (sign(0, 0, gas=15_000_001), "above the block's limit"),
        (sign(0, 0, b"", b"\x01" * 49_153, gas=2_000_000), "EIP-3860"),
        (altered(sign(0, 0), fee=6), "below the base fee of 7"),
        (altered(sign(0, 0), tip=21), "tip is above the fee"),
        (altered(sign(0, 0), nonce=2**64 - 1), "out of range"),
        (altered(sign(0, 0), value=2**256), "out of range"),
        (altered(sign(0, 0), s=N - 1), "malformed signature"),
        (altered(sign(0, 0), s=0), "malformed signature"),
        (altered(sign(0, 0), r=N), "malformed signature"),
        (altered(sign(0, 0), parity=2), "malformed signature"),
        (altered(sign(0, 0), r=5), "does not recover"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_transaction_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    with pytest.raises(InvalidTransaction) as refused:
        Codec(RULES).transaction(raw)
    assert reason in str(refused.value)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: b"\x02" + tail))
def test_garbage_is_an_invalid_transaction(raw: bytes) -> None:
    with pytest.raises(InvalidTransaction):
        Codec(RULES).transaction(raw)


nested = st.recursive(st.binary(max_size=40), lambda inner: st.lists(inner, max_size=12), max_leaves=30)


@settings(max_examples=150, deadline=None)
@given(nested, st.sampled_from([b"", b"\x01", b"\x02"]))
def test_well_formed_rlp_of_the_wrong_shape_is_an_invalid_transaction(item: Any, kind: bytes) -> None:
    with pytest.raises(InvalidTransaction):
        Codec(RULES).transaction(kind + rlp.encode(item))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_a_flipped_bit_never_leaves_the_sender_the_same(at: int, mask: int) -> None:
    raw = bytearray(sign(0, 3, COUNTER, b"some data", value=1))
    raw[at % len(raw)] ^= mask
    try:
        sender = Codec(RULES).transaction(bytes(raw)).sender
    except InvalidTransaction:
        return
    assert sender != ADDRESSES[0]


def test_an_encoding_that_is_not_the_shortest_is_refused() -> None:
    raw = sign(0, 3, COUNTER, gas=21_000)
    assert raw[:5] == b"\x02\xf8" + bytes([len(raw) - 3]) + b"\x07\x03"
    Codec(RULES).transaction(raw)
    for short, long in (
        (b"\x07\x03", b"\x07\x81\x03"),
        (b"\x07\x03", b"\x07\x82\x00\x03"),
        (b"\x82\x52", b"\xb8\x02\x52"),
    ):
        body = raw[3:].replace(short, long, 1)
        assert body != raw[3:]
        with pytest.raises(InvalidTransaction, match="malformed"):
            Codec(RULES).transaction(b"\x02\xf8" + bytes([len(body)]) + body)
    with pytest.raises(InvalidTransaction, match="malformed"):
        Codec(RULES).transaction(b"\x02\xf9\x00" + raw[2:])


def test_lists_nested_thousands_deep_are_refused() -> None:
    deep = b""
    for _ in range(5_000):
        deep = rlp.codec.length_prefix(len(deep), 0xC0) + deep
    with pytest.raises(InvalidTransaction):
        Codec(RULES).transaction(deep)
    with pytest.raises(InvalidBlock):
        evm.decode_block(deep, RULES.gas_limit, bytes(32))


def test_the_memory_of_decoded_transactions_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evm_codec, "_CACHE_BYTES_MAX", 10_000)
    codec = Codec(RULES)
    raws = [sign(0, nonce) for nonce in range(8)]
    first = codec.transaction(raws[0])
    assert codec.transaction(raws[0]) is first
    for raw in raws:
        codec.transaction(raw)
    assert codec.transaction(raws[-1]) is codec.transaction(raws[-1])
    assert codec.transaction(raws[0]) is not first
    assert codec._seen_bytes <= 10_000
    assert codec._seen_bytes == sum(size for _, size in codec._seen.values())


# -- calls -----------------------------------------------------------------------------------------------------------


def test_a_call_sees_the_time_of_its_block() -> None:
    parent, state = genesis()
    snapshot = evm.Snapshot(parent, Layers((state,), lambda _: None), CHAIN_ID)
    assert snapshot.call(ADDRESSES[0], CLOCK, b"", 0, 100_000)[0] == GENESIS_TIME.to_bytes(32, "big")


def test_a_call_that_cannot_run_says_why() -> None:
    parent, state = genesis()
    snapshot = evm.Snapshot(parent, Layers((state,), lambda _: None), CHAIN_ID)
    with pytest.raises(evm.ExecutionFailed, match="below the least"):
        snapshot.call(ADDRESSES[0], CLOCK, b"", 0, 20_000)
    with pytest.raises(evm.ExecutionFailed, match="balance"):
        snapshot.call(b"\x09" * 20, CLOCK, b"", 1, 100_000)
    with pytest.raises(evm.ExecutionFailed, match="out of gas"):
        snapshot.call(ADDRESSES[0], FURNACE, b"", 0, 100_000)
    assert snapshot.balance(ADDRESSES[0]) == RICH


def test_revert_data_is_decoded() -> None:
    words = b"jobs: window closed"
    error = (
        bytes.fromhex("08c379a0") + (32).to_bytes(32, "big") + len(words).to_bytes(32, "big") + words.ljust(32, b"\0")
    )
    assert revert_reason(error) == words.decode()
    assert revert_reason(bytes.fromhex("4e487b71") + (0x11).to_bytes(32, "big")) == "panic 0x11"
    assert revert_reason(b"") == ""


@given(st.binary(max_size=200), st.sampled_from([b"", bytes.fromhex("08c379a0"), bytes.fromhex("4e487b71")]))
def test_any_revert_data_has_a_reason_of_bounded_length(data: bytes, selector: bytes) -> None:
    assert len(revert_reason(selector + data)) <= max(len(data) + 20, len("panic 0x") + 64)
