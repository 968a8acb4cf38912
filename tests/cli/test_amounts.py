"""Money as people write it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.amounts import AMOUNT_MAX, format_wei, parse_amount
from cli.errors import UserError


@pytest.mark.parametrize(
    ("text", "wei"),
    [
        ("0 wei", 0),
        ("1 wei", 1),
        ("20gwei", 20 * 10**9),
        ("1.5 flt", 15 * 10**17),
        ("  0.000000000000000001 FLT ", 1),
        ("1_000 flt", 1000 * 10**18),
        ("0.1 flt", 10**17),
    ],
)
def test_amounts_are_exact(text: str, wei: int) -> None:
    assert parse_amount(text) == wei


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (5, "needs a unit"),
        (1.5, "needs a unit"),
        (True, "needs a unit"),
        ("5", "is not an amount"),
        ("", "is not an amount"),
        ("-1 flt", "is not an amount"),
        ("1,5 flt", "is not an amount"),
        ("1e3 flt", "is not an amount"),
        ("1. flt", "is not an amount"),
        ("1.5 wei", "not a whole number of wei"),
        ("0.0000000000000000001 flt", "not a whole number of wei"),
        ("1 eth", "unknown unit 'eth'"),
        ("1 gwie", "did you mean gwei?"),
        ("9" * 60 + " flt", "more than there can be"),
    ],
)
def test_a_wrong_amount_says_what_is_wrong(text: object, message: str) -> None:
    with pytest.raises(UserError, match="the reward") as caught:
        parse_amount(text, "the reward")
    assert message in str(caught.value)


@given(st.integers(0, AMOUNT_MAX))
def test_what_is_printed_is_read_back_to_the_wei(wei: int) -> None:
    assert parse_amount(format_wei(wei)) == wei


@pytest.mark.parametrize(
    ("wei", "text"),
    [(0, "0 wei"), (7, "7 wei"), (2 * 10**9, "2 gwei"), (10**16, "0.01 flt"), (15 * 10**17, "1.5 flt")],
)
def test_amounts_are_printed_in_the_unit_that_fits(wei: int, text: str) -> None:
    assert format_wei(wei) == format_wei(str(wei)) == text
