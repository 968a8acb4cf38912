"""The closed forms against plain counting: every way to fill the slots, each judged by the rules of the vote."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction
from itertools import combinations, product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.economics import (
    NO_AUDIT,
    Audit,
    Crowd,
    InvalidEconomics,
    Kind,
    Odds,
    Prices,
    deterring_stake,
    deterring_terms,
    earnings,
    fair_reward,
    odds,
    round_odds,
    verified_round,
    work_per_round,
)

THIRD = Fraction(3, 10)
CHEATS = (Kind.RANDOM, Kind.COPIER, Kind.COLLUDER)
FLT = 10**18
PRICES = Prices(cost=FLT // 200, margin=Fraction(1, 5), gas_price=8, stake=FLT // 10)


def fillings(crowd: Crowd, me: Kind) -> list[tuple[Fraction, tuple[bool, ...]]]:
    """Every way in which the other slots are filled: its probability, and which are dishonest."""
    others = crowd.pool - 1
    if crowd.workers is None:
        ways = list(product((False, True), repeat=others))
        return [(crowd.evil ** sum(way) * (1 - crowd.evil) ** (others - sum(way)), way) for way in ways]
    dishonest = crowd.evil_workers - (me is not Kind.HONEST)
    population = [number < dishonest for number in range(crowd.workers - 1)]
    drawn = list(combinations(population, others))
    return [(Fraction(1, len(drawn)), way) for way in drawn]


def counted(me: Kind, crowd: Crowd) -> Odds:
    """By the rules of docs/PROTOCOL.md: votes are counted, more than half of the slots wins."""
    ends: Counter[str] = Counter()
    for chance, way in fillings(crowd, me):
        alike = crowd.collude or me is Kind.COLLUDER
        votes = [("wrong" if alike else f"wrong {i}") if evil else "right" for i, evil in enumerate(way)]
        mine = {Kind.HONEST: "right", Kind.RANDOM: "mine", Kind.COLLUDER: "wrong", Kind.COPIER: None}[me]
        digest, most = Counter([*votes, mine]).most_common(1)[0]
        if mine is None:
            ends["forfeited"] += chance
        elif 2 * most <= crowd.pool:
            ends["refunded"] += chance
        else:
            ends["paid" if digest == mine else "forfeited"] += chance
    return Odds(Fraction(ends["paid"]), Fraction(ends["refunded"]), Fraction(ends["forfeited"]))


@pytest.mark.parametrize("workers", [None, 7, 10])
@pytest.mark.parametrize("collude", [False, True])
@pytest.mark.parametrize("pool", [1, 3, 5, 7])
def test_the_odds_are_what_counting_gives(pool: int, collude: bool, workers: int | None) -> None:
    crowd = Crowd(pool, THIRD, collude, workers)
    for kind in Kind:
        assert odds(kind, crowd) == counted(kind, crowd)


def test_five_slots_three_tenths_dishonest() -> None:
    assert odds(Kind.HONEST, Crowd(5, THIRD)) == Odds(Fraction("0.9163"), Fraction("0.0837"), Fraction(0))
    assert odds(Kind.HONEST, Crowd(5, THIRD, collude=True)) == Odds(Fraction("0.9163"), Fraction(0), Fraction("0.0837"))
    assert round_odds(Crowd(5, THIRD)).void == Fraction("0.16308")
    assert round_odds(Crowd(5, THIRD, collude=True)).wrong == Fraction("0.16308")


crowds = st.builds(
    lambda half, evil, collude, more: Crowd(
        2 * half + 1, Fraction(evil, 100), collude, None if more is None else 2 * half + 1 + more
    ),
    st.integers(0, 4),
    st.integers(0, 45),
    st.booleans(),
    st.none() | st.integers(10, 40),
)
audits = st.builds(lambda p, q: Audit(Fraction(p, 100), Fraction(q, 100)), st.integers(0, 100), st.integers(0, 100))
prices = st.builds(
    Prices,
    cost=st.integers(0, 10**18),
    margin=st.fractions(0, 2, max_denominator=100),
    gas_price=st.integers(0, 10**9),
    stake=st.integers(0, 10**19),
)


@given(crowds, audits)
@settings(deadline=None)
def test_odds_add_up_to_one(crowd: Crowd, audit: Audit) -> None:
    for kind in Kind:
        chance = odds(kind, crowd, audit)
        assert chance.paid + chance.refunded + chance.forfeited == 1
        assert min(chance.paid, chance.refunded, chance.forfeited) >= 0
    whole = round_odds(crowd)
    assert whole.right + whole.void + whole.wrong == 1


@given(crowds, prices, audits)
@settings(deadline=None)
def test_the_fair_reward_leaves_the_margin_and_a_wei_less_does_not(crowd: Crowd, prices: Prices, audit: Audit) -> None:
    try:
        reward = fair_reward(crowd, prices, audit)
    except InvalidEconomics:
        return
    due = prices.cost * prices.margin
    assert earnings(Kind.HONEST, crowd, prices, reward, audit) >= due
    assert earnings(Kind.HONEST, crowd, prices, reward - 1, audit) < due


@given(crowds, prices, audits, st.integers(0, 10**18))
@settings(deadline=None)
def test_the_deterring_stake_makes_a_cheat_lose_and_a_wei_less_does_not(
    crowd: Crowd, prices: Prices, audit: Audit, loss: int
) -> None:
    reward = FLT // 50
    for kind in CHEATS:
        stake = deterring_stake(kind, crowd, prices, reward, audit, loss)
        if stake is None:
            assert odds(kind, crowd, audit).forfeited == 0
        else:
            with_stake = Prices(prices.cost, prices.margin, prices.gas_price, min(stake, 2**96))
            if stake <= 2**96:
                assert earnings(kind, crowd, with_stake, reward, audit) < -loss
            if 0 < stake <= 2**96:
                short = Prices(prices.cost, prices.margin, prices.gas_price, stake - 1)
                assert earnings(kind, crowd, short, reward, audit) >= -loss


@given(crowds, prices, audits)
@settings(deadline=None)
def test_under_deterring_terms_every_cheat_loses_and_the_honest_earn_their_margin(
    crowd: Crowd, prices: Prices, audit: Audit
) -> None:
    terms = deterring_terms(crowd, prices, audit)
    if terms is None:
        honest, colluder = odds(Kind.HONEST, crowd, audit), odds(Kind.COLLUDER, crowd, audit)
        # only where cheats win as often as honest workers, or the stake exceeds what the contract takes
        assert colluder.paid * honest.forfeited >= colluder.forfeited * honest.paid * Fraction(99, 100)
        return
    reward = fair_reward(crowd, terms, audit)
    for kind in CHEATS:
        assert earnings(kind, crowd, terms, reward, audit) < 0
    assert earnings(Kind.HONEST, crowd, terms, reward, audit) >= terms.cost * terms.margin


def test_the_original_formula_holds_only_with_the_void_rounds_of_a_good_worker() -> None:
    crowd = Crowd(5, THIRD, collude=False)
    chance, void = odds(Kind.HONEST, crowd), round_odds(crowd).void
    assert 1 - chance.paid - chance.refunded == chance.forfeited == 0
    assert 1 - chance.paid - void < 0, "with P(void) of any round a deposit at risk would lower the reward"


def test_no_stake_deters_colluders_who_win_more_often_than_honest_workers() -> None:
    assert deterring_terms(Crowd(5, Fraction(1, 2), collude=True), PRICES) is None
    assert deterring_terms(Crowd(5, Fraction(49, 100), collude=True), PRICES) is not None
    assert deterring_terms(Crowd(1, Fraction(0)), PRICES) is None


def test_an_audited_pool_of_one_needs_a_stake_of_about_the_reward_over_p() -> None:
    crowd = Crowd(1, THIRD)
    for percent in (2, 5, 10):
        audit = Audit(Fraction(percent, 100), Fraction(1))
        reward = fair_reward(crowd, PRICES, audit)
        stake = deterring_stake(Kind.RANDOM, crowd, PRICES, reward, audit)
        assert stake is not None
        p = audit.decided
        assert stake - 1 <= ((1 - p) * reward - PRICES.gas(Kind.RANDOM)) / p < stake
        assert deterring_stake(Kind.RANDOM, crowd, PRICES, reward, NO_AUDIT) is None
    assert work_per_round(1, Fraction(5, 100), auditors=4) == Fraction(12, 10)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Crowd(4, THIRD), "pool: must be odd, 1 to 31"),
        (lambda: Crowd(0, THIRD), "pool: must be odd, 1 to 31"),
        (lambda: Crowd(33, THIRD), "pool: must be odd, 1 to 31"),
        (lambda: Crowd(5, Fraction(1)), "evil: must be at least 0 and below 1"),
        (lambda: Crowd(5, Fraction(-1, 10)), "evil: must be at least 0 and below 1"),
        (lambda: Crowd(5, THIRD, workers=4), "workers: must be pool = 5 to 1000000"),
        (lambda: Crowd(5, Fraction(95, 100), workers=6), "workers: no one of 6 would be honest"),
        (lambda: Audit(Fraction(2)), "audit: must be 0 to 1"),
        (lambda: Audit(void=Fraction(2)), "audit_void: must be 0 to 1"),
        (lambda: Prices(-1, THIRD, 0, 0), "cost: must be 0 to"),
        (lambda: Prices(0, Fraction(-1), 0, 0), "margin: must be 0 to 1000"),
        (lambda: fair_reward(Crowd(5, Fraction(4, 5), workers=5), PRICES), "evil: among so many dishonest workers"),
        (lambda: fair_reward(Crowd(31, Fraction(99, 100)), PRICES), "evil: among so many dishonest workers"),
    ],
)
def test_a_question_without_an_answer_is_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(InvalidEconomics) as refused:
        make()
    assert str(refused.value).startswith(message)


def rows_of(heading: str) -> list[list[str]]:
    """The cells of the table of docs/ECONOMICS.md whose first line starts so."""
    lines = (Path(__file__).parent.parent.parent / "docs" / "ECONOMICS.md").read_text().splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(heading)) + 2
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    raise AssertionError(heading)


def test_the_page_has_the_right_probabilities() -> None:
    rows = rows_of("| pool | q = 0.1 |")
    for pool, *cells in rows:
        shares = [Fraction(tenth, 10) for tenth in range(1, 6)]
        assert cells == [f"{float(odds(Kind.HONEST, Crowd(int(pool), share)).paid):.4f}" for share in shares]
    assert len(rows) == 6


def test_the_page_has_the_right_price_of_a_verified_round() -> None:
    cost = 10**15
    free = Prices(cost, Fraction(1, 5), gas_price=0, stake=0)
    rows = rows_of("| pool | p | computations |")
    for pool, p, *cells in rows:
        audit = Audit(Fraction(p), Fraction(p != "0"))
        honest = Crowd(int(pool), Fraction(0))
        reward = fair_reward(honest, free, audit)
        lone = deterring_stake(Kind.RANDOM, honest, free, reward, audit, loss=cost)
        crowd = Crowd(int(pool), THIRD, collude=True)
        terms = deterring_terms(crowd, free, audit, loss=cost)
        assert lone is not None
        assert terms is not None
        work = work_per_round(int(pool), audit.decided, auditors=4)
        verified = verified_round(int(pool), audit.decided, 4, free)
        assert (verified.work, verified.reward, verified.stake) == (work, reward, lone)
        price = verified.times_unverified * cost
        exact = (work * cost, price, reward, lone, fair_reward(crowd, terms, audit), terms.stake)
        assert cells == [f"{float(Fraction(value) / cost):.4g}" for value in exact]
    assert [row[0] for row in rows] == ["3", "5", "1", "1", "1"]
