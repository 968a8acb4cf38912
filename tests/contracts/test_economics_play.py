"""The closed forms of chain/economics.py against the contract that they speak of.

First every composition of a round, one by one, where the forms have to be exact. Then a Monte Carlo: the contract
draws, a seed decides the rest, and every form has to lie within 2.58 standard errors (99 %) of what was counted, while
forms that are wrong in known ways lie outside. `python -m benchmarks.economics` plays longer.
"""

from __future__ import annotations

from fractions import Fraction

import pytest

from chain.economics import NO_AUDIT, Audit, Crowd, Kind, Prices, earnings, odds, round_odds
from tests.contracts.economics_play import Played, play
from tests.contracts.world import REWARD, STAKE

Z = 2.58
HALF = Crowd(3, Fraction(1, 2), workers=4)
THIRD = Fraction(3, 10)


def assert_as_the_forms_say(played: Played, kind: Kind, crowd: Crowd, audit: Audit = NO_AUDIT) -> None:
    chance = odds(kind, crowd, audit)
    assert played.paid[kind].holds(chance.paid, Z)
    assert played.refunded[kind].holds(chance.refunded, Z)
    assert played.forfeited[kind].holds(chance.forfeited, Z)
    free = Prices(cost=0, margin=Fraction(0), gas_price=0, stake=STAKE)
    assert played.money[kind].holds(earnings(kind, crowd, free, REWARD, audit), Z)


@pytest.mark.parametrize("collude", [False, True])
@pytest.mark.parametrize("probe", [None, Kind.RANDOM, Kind.COPIER])
def test_each_composition_of_a_round_ends_as_the_forms_say(collude: bool, probe: Kind | None) -> None:
    """With as many enrolled as there are slots, the hypergeometric leaves nothing to chance."""
    for dishonest in range(1 if probe else 0, 5):
        crowd = Crowd(5, Fraction(dishonest, 5), collude, workers=5)
        played = play(crowd, rounds=1, seed=1, probe=probe)
        for kind in {probe} if probe else set(played.paid):
            chance = odds(kind, crowd)
            assert {chance.paid, chance.refunded, chance.forfeited} == {0, 1}
            assert_as_the_forms_say(played, kind, crowd)
        if probe is None:
            assert played.void.mean == round_odds(crowd).void


@pytest.fixture(scope="module")
def half_dishonest() -> Played:
    return play(HALF, rounds=180, seed=1)


def test_drawn_among_four_of_whom_two_cheat(half_dishonest: Played) -> None:
    assert_as_the_forms_say(half_dishonest, Kind.HONEST, HALF)
    assert_as_the_forms_say(half_dishonest, Kind.RANDOM, HALF)
    assert half_dishonest.void.holds(round_odds(HALF).void, Z)


@pytest.mark.parametrize(
    ("mistake", "paid"),
    [
        ("slots drawn with replacement", odds(Kind.HONEST, Crowd(3, Fraction(1, 2))).paid),
        ("not given that one slot is honest", round_odds(HALF).right),
        ("a strict majority of the others wanted", Fraction(0)),  # one other is honest at most
        ("an honest worker counted among the cheats", Fraction(1)),  # then one other cheats at most
        ("void rounds paid", odds(Kind.HONEST, HALF).paid + odds(Kind.HONEST, HALF).refunded),
    ],
)
def test_a_form_that_is_wrong_lies_outside_the_interval(half_dishonest: Played, mistake: str, paid: Fraction) -> None:
    assert not half_dishonest.paid[Kind.HONEST].holds(paid, Z), mistake


def test_colluders_win_as_often_as_the_forms_say_and_leave_no_round_void() -> None:
    crowd = Crowd(3, Fraction(1, 2), collude=True, workers=4)
    played = play(crowd, rounds=40, seed=2)
    assert_as_the_forms_say(played, Kind.HONEST, crowd)
    assert_as_the_forms_say(played, Kind.COLLUDER, crowd)
    assert played.void.mean == round_odds(crowd).void == 0
    assert not played.paid[Kind.COLLUDER].holds(Fraction(1), Z)


def test_one_who_does_not_train_loses_its_stake_as_often_as_the_forms_say() -> None:
    crowd = Crowd(5, THIRD, collude=True)
    played = play(crowd, rounds=30, seed=3, probe=Kind.RANDOM)
    assert_as_the_forms_say(played, Kind.RANDOM, crowd)
    assert not played.forfeited[Kind.RANDOM].holds(Fraction(1), Z), "as if void rounds took the stake"


def test_independent_slots_pay_the_honest_as_often_as_the_forms_say() -> None:
    crowd = Crowd(3, THIRD)
    played = play(crowd, rounds=40, seed=4)
    assert_as_the_forms_say(played, Kind.HONEST, crowd)
    assert played.void.holds(round_odds(crowd).void, Z)


def test_a_pool_of_one_believes_anything() -> None:
    crowd = Crowd(1, Fraction(0))
    assert_as_the_forms_say(play(crowd, rounds=3, seed=5, probe=Kind.RANDOM), Kind.RANDOM, crowd)


# ---- audits ----


@pytest.mark.parametrize("collude", [False, True])
def test_each_composition_of_an_audited_round_ends_as_the_forms_say(collude: bool) -> None:
    always = Audit(Fraction(1), Fraction(1))
    for dishonest in range(5):
        crowd = Crowd(5, Fraction(dishonest, 5), collude, workers=5)
        played = play(crowd, rounds=1, seed=1, audit=always)
        for kind in set(played.paid):
            assert_as_the_forms_say(played, kind, crowd, always)
            assert played.paid[kind].mean == (kind is Kind.HONEST)


@pytest.fixture(scope="module")
def alone() -> Played:
    return play(Crowd(1, THIRD), rounds=200, seed=6, audit=QUARTER)


QUARTER = Audit(Fraction(1, 4), Fraction(1))


def test_a_cheat_alone_is_found_out_as_often_as_the_terms_say(alone: Played) -> None:
    assert_as_the_forms_say(alone, Kind.RANDOM, Crowd(1, THIRD), QUARTER)
    assert_as_the_forms_say(alone, Kind.HONEST, Crowd(1, THIRD), QUARTER)
    assert alone.paid[Kind.HONEST].mean == 1


@pytest.mark.parametrize(
    ("mistake", "forfeited"),
    [
        ("nobody audits", Fraction(0)),
        ("every round is audited", Fraction(1)),
        ("a round is drawn twice", 1 - Fraction(3, 4) ** 3),
        ("half as often", Fraction(1, 10)),
    ],
)
def test_a_form_that_is_wrong_about_audits_lies_outside(alone: Played, mistake: str, forfeited: Fraction) -> None:
    assert not alone.forfeited[Kind.RANDOM].holds(forfeited, Z), mistake


def test_colluders_and_audits_among_drawn_slots_are_as_the_forms_say() -> None:
    crowd = Crowd(3, Fraction(1, 2), collude=True, workers=4)
    often = Audit(Fraction(1, 2), Fraction(1))
    played = play(crowd, rounds=60, seed=7, audit=often)
    assert_as_the_forms_say(played, Kind.HONEST, crowd, often)
    assert_as_the_forms_say(played, Kind.COLLUDER, crowd, often)
    assert not played.paid[Kind.COLLUDER].holds(odds(Kind.COLLUDER, crowd).paid, Z), "as if nobody audited"


def test_an_undecided_round_pays_the_honest_and_takes_the_others_stakes() -> None:
    played = play(HALF, rounds=60, seed=8, audit=QUARTER)
    assert_as_the_forms_say(played, Kind.HONEST, HALF, QUARTER)
    assert_as_the_forms_say(played, Kind.RANDOM, HALF, QUARTER)
    assert played.refunded[Kind.HONEST].mean == 0
