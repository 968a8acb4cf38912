"""The trie that is written in bulk, against the trie package, which writes key by key."""

from __future__ import annotations

import random

import pytest
import rlp
from hypothesis import given, settings
from hypothesis import strategies as st
from trie import HexaryTrie

from chain.evm_trie import EMPTY_ROOT, MissingNode, Trie, decode_node, encode, ordered_root

# Keys of equal length, as all keys of accounts and slots are; few bytes, so that paths meet late as well as early.
keys = st.lists(st.sampled_from([b"\x00", b"\x01", b"\x10", b"\x11"]), min_size=6, max_size=6).map(b"".join)
values = st.one_of(st.just(b""), st.binary(min_size=1, max_size=4), st.binary(min_size=30, max_size=70))
rounds = st.lists(st.dictionaries(keys, values, max_size=20), min_size=1, max_size=5)


@settings(max_examples=120, deadline=None)
@given(rounds)
def test_the_root_and_every_value_are_those_of_writing_key_by_key(changes: list[dict[bytes, bytes]]) -> None:
    nodes: dict[bytes, bytes] = {}
    slow, root = HexaryTrie({}), EMPTY_ROOT
    for change in changes:
        for key, value in change.items():
            slow.set(key, value)
        trie = Trie(nodes.__getitem__, root)
        root = trie.write(change)
        assert root == slow.root_hash
        nodes |= trie.written
    fresh = Trie(nodes.__getitem__, root)
    for key in {key for change in changes for key in change}:
        assert trie.get(key) == fresh.get(key) == slow.get(key)


@pytest.mark.parametrize("seed", range(10))
def test_long_random_keys_are_written_as_well(seed: int) -> None:
    choose = random.Random(seed)
    nodes: dict[bytes, bytes] = {}
    known = [choose.randbytes(32) for _ in range(200)]
    slow, root = HexaryTrie({}), EMPTY_ROOT
    for _ in range(4):
        change = {key: choose.choice((b"", choose.randbytes(70))) for key in choose.sample(known, 60)}
        for key, value in change.items():
            slow.set(key, value)
        trie = Trie(nodes.__getitem__, root)
        root = trie.write(change)
        nodes |= trie.written
        assert root == slow.root_hash


def test_what_changes_nothing_writes_nothing() -> None:
    first = Trie({}.__getitem__)
    root = first.write({bytes([index]) * 32: b"value" for index in range(40)})
    again = Trie(first.written.__getitem__, root)
    assert again.write({b"\x01" * 32: b"value", b"\x41" * 32: b"", b"\x01" * 31 + b"\x00": b""}) == root
    assert again.written == {}


def test_each_changed_node_is_written_once() -> None:
    """Key by key, the root alone would be written 256 times."""
    trie = Trie({}.__getitem__)
    trie.write({bytes([index]) * 32: bytes(40) for index in range(256)})
    assert len(trie.written) == 256 + 16 + 1


def test_a_missing_node_is_named_and_leaves_the_root() -> None:
    whole = Trie({}.__getitem__)
    root = whole.write({bytes([index]) * 32: bytes(40) for index in range(256)})
    trie = Trie({root: whole.written[root]}.__getitem__, root)
    with pytest.raises(MissingNode):
        trie.get(bytes(32))
    with pytest.raises(MissingNode):
        trie.write({bytes(32): b"new"})
    assert trie.root == root


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=300), max_size=140))
def test_the_root_of_a_list_is_that_of_a_trie_by_index(items: list[bytes]) -> None:
    slow = HexaryTrie({})
    for index, item in enumerate(items):
        slow.set(rlp.encode(index), item)
    assert ordered_root(items) == slow.root_hash


@settings(max_examples=200, deadline=None)
@given(st.recursive(st.binary(max_size=70), lambda inner: st.lists(inner, max_size=20), max_leaves=40))
def test_rlp_is_written_as_the_rlp_package_writes_it(item: bytes | list[object]) -> None:
    assert encode(item) == rlp.encode(item)
    if isinstance(item, list):
        assert decode_node(encode(item)) == item
