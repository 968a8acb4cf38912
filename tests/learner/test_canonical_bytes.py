from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import canonical
from learner.canonical import Field
from learner.errors import InvalidState

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._/]{0,20}", fullmatch=True)
FIELDS = st.dictionaries(NAMES, st.lists(st.integers(1, 4), max_size=4).map(tuple), max_size=6).map(
    lambda shapes: [Field(name, shape) for name, shape in shapes.items()]
)


def filled(fields: list[Field]) -> list[tuple[Field, bytes]]:
    return [(field, bytes(i % 251 for i in range(field.nbytes))) for field in fields]


@given(FIELDS, st.integers(4, 14), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_fields_survive_their_bytes_in_any_order_given(fields: list[Field], bits: int, random: object) -> None:
    parts = filled(fields)
    raw = canonical.join(bits, parts)
    random.shuffle(parts)  # type: ignore[attr-defined]
    assert canonical.join(bits, parts) == raw
    assert len(raw) == canonical.encoded_size(fields)
    found_bits, found = canonical.split(raw)
    assert found_bits == bits
    assert [(field, bytes(values)) for field, values in found] == sorted(parts, key=lambda part: part[0].name)


@given(FIELDS, st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_is_seen_or_refused(fields: list[Field], data: st.DataObject) -> None:
    raw = canonical.join(14, filled(fields))
    damaged = bytearray(raw)
    damaged[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        bits, parts = canonical.split(bytes(damaged))
    except InvalidState:
        return
    assert canonical.join(bits, parts) == damaged


@given(FIELDS.filter(bool), st.data())
@settings(max_examples=50, deadline=None)
def test_a_shortened_or_lengthened_state_is_refused(fields: list[Field], data: st.DataObject) -> None:
    raw = canonical.join(14, filled(fields))
    for wrong in (raw[: data.draw(st.integers(0, len(raw) - 1))], raw + b"\0"):
        with pytest.raises(InvalidState):
            canonical.split(wrong)


@given(st.binary(max_size=100))
@settings(max_examples=50, deadline=None)
def test_garbage_is_no_state(garbage: bytes) -> None:
    for wrong in (garbage, b"flstate1" + garbage[:5]):
        with pytest.raises(InvalidState):
            canonical.split(wrong)


def test_each_way_to_be_wrong_has_its_words() -> None:
    good = canonical.join(14, filled([Field("a", (2,)), Field("b", (1, 1))]))
    cases = {
        "magic": b"x" + good[1:],
        "version 2": good[:8] + b"\2" + good[9:],
        "1025 tensors": good[:12] + (1025).to_bytes(4, "little") + good[16:],
        "bad name": good[:17] + b"A" + good[18:],
        "not after": good.replace(b"\1b", b"\1a"),
        "dtype 2": good[:18] + b"\2" + good[19:],
        "rank 9": good[:19] + b"\x09" + good[20:],
        "empty dimension": good[:20] + bytes(4) + good[24:],
        "ends inside a": good[:30],
        "1 bytes after": good + b"\0",
    }
    for words, raw in cases.items():
        with pytest.raises(InvalidState, match=words):
            canonical.split(raw)


def test_a_state_that_claims_huge_tensors_is_refused_without_making_room_for_them() -> None:
    raw = canonical.join(14, [(Field("a", (1,)), bytes(4))])
    huge = raw[:19] + b"\4" + b"\xff" * 16
    with pytest.raises(InvalidState, match="ends inside a"):
        canonical.split(huge)


def test_a_state_that_is_too_long_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canonical, "STATE_BYTES_MAX", 10)
    with pytest.raises(InvalidState, match="at most 10"):
        canonical.split(bytes(11))


def test_writing_nonsense_is_our_own_bug() -> None:
    with pytest.raises(ValueError, match="distinct"):
        canonical.join(14, filled([Field("a", (1,)), Field("a", (1,))]))
    with pytest.raises(ValueError, match="expected 8"):
        canonical.join(14, [(Field("a", (2,)), bytes(4))])
    assert Field("a", (3, 2)).nbytes == 4 * math.prod((3, 2))
