"""What a slot of a replicated job earns, honest or not: closed forms, exact in rational numbers. docs/ECONOMICS.md
derives them, tests play them over the real contract.

A worker holds one of `pool` slots; each of the other pool - 1 slots is held by somebody honest or by somebody
dishonest (`Crowd`). What the worker does, and what the others do, leaves its slot paid, refunded (the round was void)
or forfeited (`Odds`). With reward, stake, gas and cost these odds are an expectation, and turned around, the reward
that leaves an honest worker its margin and the stake that makes a dishonest one lose.

An audit recomputes the round before payment: whoever revealed the true update is paid, everybody else forfeits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from math import ceil, comb
from typing import Final

from chain.types import ChainError

SLOTS_MAX: Final = 31  # as the contract has it
WORKERS_MAX: Final = 10**6
AMOUNT_MAX: Final = 2**96  # wei, as the contract has it
AUDITORS_MAX: Final = 100  # validators, as their contract has it

# What the calls of one slot use; tests/contracts/test_gas.py measures them. A withdrawal settles eight slots.
COMMIT_GAS: Final = 135_000
REVEAL_GAS: Final = 158_000
WITHDRAW_GAS: Final = 299_000 // 8

ZERO: Final = Fraction(0)
ONE: Final = Fraction(1)


@dataclass(eq=False)
class InvalidEconomics(ChainError):
    """A question that has no answer; `field` is what to change."""

    field: str
    reason: str

    def __str__(self) -> str:
        return f"{self.field}: {self.reason}"


def _need(holds: bool, field: str, reason: str) -> None:
    if not holds:
        raise InvalidEconomics(field, reason)


class Kind(StrEnum):
    """What a worker does with its slot."""

    HONEST = "honest"  # trains, commits, reveals
    RANDOM = "random"  # does not train; commits to bytes of its own making and reveals them
    COPIER = "copier"  # does not train; commits to something and waits to reveal another's update, which is refused
    COLLUDER = "colluder"  # does not train; reveals the wrong update that all colluders agreed on


@dataclass(frozen=True, slots=True)
class Crowd:
    """Who may hold the slots of a round.

    Attributes:
        pool: slots of a round, odd, 1 to 31.
        evil: share of dishonest workers, 0 <= evil < 1.
        collude: whether the dishonest reveal one wrong update together, or each a different one.
        workers: so many are enrolled, `evil_workers` of them dishonest, and slots are drawn among them without
            replacement; None: each slot is dishonest with probability `evil`, on its own.
    Raises:
        InvalidEconomics: a value out of its range.
    """

    pool: int
    evil: Fraction
    collude: bool = False
    workers: int | None = None

    def __post_init__(self) -> None:
        _need(1 <= self.pool <= SLOTS_MAX and self.pool % 2 == 1, "pool", f"must be odd, 1 to {SLOTS_MAX}")
        _need(0 <= self.evil < 1, "evil", "must be at least 0 and below 1")
        if self.workers is not None:
            _need(self.pool <= self.workers <= WORKERS_MAX, "workers", f"must be pool = {self.pool} to {WORKERS_MAX}")
            _need(self.evil_workers < self.workers, "workers", f"no one of {self.workers} would be honest")

    @property
    def majority(self) -> int:
        return self.pool // 2 + 1

    @property
    def evil_workers(self) -> int:
        """Dishonest among those enrolled, rounded up."""
        assert self.workers is not None
        return ceil(self.evil * self.workers)

    def dishonest_others(self, honest: bool) -> list[Fraction]:
        """Probability that 0, 1, .. pool - 1 of the other slots are dishonest, from an honest worker's place or not."""
        if self.workers is None:
            return _binomial(self.pool - 1, self.evil)
        evil = self.evil_workers if honest else max(0, self.evil_workers - 1)
        return _hypergeometric(self.pool - 1, self.workers - 1, evil)

    def dishonest_slots(self) -> list[Fraction]:
        """Probability that 0, 1, .. pool of all slots are dishonest."""
        if self.workers is None:
            return _binomial(self.pool, self.evil)
        return _hypergeometric(self.pool, self.workers, self.evil_workers)


@dataclass(frozen=True, slots=True)
class Audit:
    """Probability that a round is recomputed before payment, and that a void one is."""

    decided: Fraction = ZERO
    void: Fraction = ZERO

    def __post_init__(self) -> None:
        _need(0 <= self.decided <= 1, "audit", "must be 0 to 1")
        _need(0 <= self.void <= 1, "audit_void", "must be 0 to 1")


NO_AUDIT: Final = Audit()


@dataclass(frozen=True, slots=True)
class Odds:
    """Of one slot; they add up to one."""

    paid: Fraction
    refunded: Fraction
    forfeited: Fraction


@dataclass(frozen=True, slots=True)
class RoundOdds:
    """Of one round without audits; they add up to one."""

    right: Fraction
    void: Fraction
    wrong: Fraction


@dataclass(frozen=True, slots=True)
class Prices:
    """Wei for one slot of one round.

    Attributes:
        cost: of training.
        margin: share of the cost that an honest worker shall earn on top.
        gas_price: wei for a unit of gas.
        stake: what the slot forfeits.
    """

    cost: int
    margin: Fraction
    gas_price: int
    stake: int

    def __post_init__(self) -> None:
        for name in ("cost", "stake", "gas_price"):
            _need(0 <= getattr(self, name) <= AMOUNT_MAX, name, f"must be 0 to {AMOUNT_MAX} wei")
        _need(0 <= self.margin <= 1_000, "margin", "must be 0 to 1000")

    def gas(self, kind: Kind) -> int:
        """Wei of gas: a copier's reveal is refused before it costs anything."""
        used = COMMIT_GAS + WITHDRAW_GAS + (0 if kind is Kind.COPIER else REVEAL_GAS)
        return used * self.gas_price


# ---- odds ----


def odds(kind: Kind, crowd: Crowd, audit: Audit = NO_AUDIT) -> Odds:
    """What becomes of the slot of a worker who does this among such others.

    A colluder has the dishonest others with it whatever `crowd.collude` says of them.
    """
    paid = refunded = forfeited = ZERO
    for dishonest, chance in enumerate(crowd.dishonest_others(kind is Kind.HONEST)):
        alone = _outcome(kind, crowd, dishonest, audit)
        paid += chance * alone.paid
        refunded += chance * alone.refunded
        forfeited += chance * alone.forfeited
    return Odds(paid, refunded, forfeited)


def _outcome(kind: Kind, crowd: Crowd, dishonest: int, audit: Audit) -> Odds:
    """The odds once it is known how many of the other slots are dishonest: only the audit is still open."""
    if kind is Kind.COPIER:
        return Odds(ZERO, ZERO, ONE)  # committed and did not reveal: that is forfeited in every round
    honest_votes = crowd.pool - 1 - dishonest + (kind is Kind.HONEST)
    together = crowd.collude or kind is Kind.COLLUDER
    wrong_votes = dishonest + (kind is Kind.COLLUDER) if together else min(dishonest, 1)
    if kind is Kind.RANDOM:
        wrong_votes = max(wrong_votes, 1)  # a pool of one believes anything
    right_wins, wrong_wins = honest_votes >= crowd.majority, wrong_votes >= crowd.majority
    if kind is Kind.HONEST:
        if right_wins:
            return Odds(ONE, ZERO, ZERO)
        if wrong_wins:
            return Odds(audit.decided, ZERO, 1 - audit.decided)
        return Odds(audit.void, 1 - audit.void, ZERO)
    if right_wins:
        return Odds(ZERO, ZERO, ONE)
    if wrong_wins:
        mine = kind is Kind.COLLUDER or crowd.pool == 1
        return Odds(1 - audit.decided, ZERO, audit.decided) if mine else Odds(ZERO, ZERO, ONE)
    return Odds(ZERO, 1 - audit.void, audit.void)


def round_odds(crowd: Crowd) -> RoundOdds:
    """How a round ends, whoever is in it."""
    right = void = wrong = ZERO
    for dishonest, chance in enumerate(crowd.dishonest_slots()):
        if crowd.pool - dishonest >= crowd.majority:
            right += chance
        elif crowd.collude or crowd.pool == 1:
            wrong += chance
        else:
            void += chance
    return RoundOdds(right, void, wrong)


# ---- money ----


def earnings(kind: Kind, crowd: Crowd, prices: Prices, reward: int, audit: Audit = NO_AUDIT) -> Fraction:
    """Expected wei that one slot leaves its worker, cost and gas paid."""
    chance = odds(kind, crowd, audit)
    spent = prices.gas(kind) + (prices.cost if kind is Kind.HONEST else 0)
    return chance.paid * reward - chance.forfeited * prices.stake - spent


def fair_reward(crowd: Crowd, prices: Prices, audit: Audit = NO_AUDIT) -> int:
    """The smallest reward, in whole wei, with which an honest worker expects at least cost x margin.

    Raises:
        InvalidEconomics: an honest worker would never be paid, or the reward is above the contract's limit.
    """
    chance = odds(Kind.HONEST, crowd, audit)
    _need(chance.paid > 0, "evil", "among so many dishonest workers an honest one is never paid")
    due = prices.cost * (1 + prices.margin) + prices.gas(Kind.HONEST) + chance.forfeited * prices.stake
    reward = ceil(due / chance.paid)
    _need(reward <= AMOUNT_MAX, "evil", f"among so many dishonest workers the reward would be {float(reward):.3g} wei")
    return reward


def deterring_stake(kind: Kind, crowd: Crowd, prices: Prices, reward: int, audit: Audit, loss: int = 0) -> int | None:
    """The smallest stake with which one who cheats like this expects to lose more than `loss`, at a given reward.

    None if there is none: such cheating is never punished often enough.
    """
    chance = odds(kind, crowd, audit)
    gain = chance.paid * reward - prices.gas(kind) + loss
    if gain < 0:
        return 0
    return None if chance.forfeited == 0 else gain // chance.forfeited + 1


def deterring_terms(crowd: Crowd, prices: Prices, audit: Audit = NO_AUDIT, loss: int = 0) -> Prices | None:
    """The prices with a stake at which every kind of cheating loses more than `loss` although the reward pays for the
    stake's risk.

    It is the smallest such stake but for the wei by which the reward is rounded up. None if there is none: a larger
    stake raises the reward so much that colluders gain by both.
    """
    honest = odds(Kind.HONEST, crowd, audit)
    if honest.paid == 0:
        return None
    base = prices.cost * (1 + prices.margin) + prices.gas(Kind.HONEST)
    stake = 0
    for kind in (Kind.RANDOM, Kind.COPIER, Kind.COLLUDER):
        chance = odds(kind, crowd, audit)
        # paid x reward < forfeited x stake + gas - loss, and
        # reward <= (base + honest.forfeited x stake) / honest.paid + 1
        gain = chance.paid * (base / honest.paid + 1) - prices.gas(kind) + loss
        slope = chance.forfeited - chance.paid * honest.forfeited / honest.paid
        if gain >= 0:
            if slope <= 0:
                return None
            stake = max(stake, gain // slope + 1)
    if stake > AMOUNT_MAX:
        return None
    found = replace(prices, stake=stake)
    reward = fair_reward(crowd, found, audit)
    cheats = (kind for kind in Kind if kind is not Kind.HONEST)
    return found if all(earnings(kind, crowd, found, reward, audit) < -loss for kind in cheats) else None


@dataclass(frozen=True, slots=True)
class VerifiedRound:
    """What one verified round costs its owner when everybody is honest.

    Attributes:
        work: computations, those of auditors included.
        reward: wei, of a slot.
        fee: wei, of one audit: each auditor has its cost and margin.
        price: expected wei: all rewards, and the fee times its probability.
        times_unverified: the price, to that of one slot that nobody checks.
        stake: the least with which a lone cheat expects to lose the cost of training; None if none does.
    """

    work: Fraction
    reward: int
    fee: int
    price: Fraction
    times_unverified: Fraction
    stake: int | None


def verified_round(pool: int, audited: Fraction, auditors: int, prices: Prices) -> VerifiedRound:
    """The price of a round that is checked by `pool` slots, by audits with probability `audited`, or by both.

    Raises:
        InvalidEconomics: a value out of its range.
    """
    _need(1 <= auditors <= AUDITORS_MAX, "auditors", f"must be 1 to {AUDITORS_MAX}")
    crowd, audit = Crowd(pool, ZERO), Audit(audited, Fraction(audited > 0))
    reward = fair_reward(crowd, prices, audit)
    fee = ceil(auditors * prices.cost * (1 + prices.margin))
    price = pool * reward + audited * fee
    stake = deterring_stake(Kind.RANDOM, crowd, prices, reward, audit, loss=prices.cost)
    unverified = max(1, fair_reward(Crowd(1, ZERO), prices))
    return VerifiedRound(work_per_round(pool, audited, auditors), reward, fee, price, price / unverified, stake)


def work_per_round(pool: int, audit: Fraction, auditors: int) -> Fraction:
    """Computations of one decided round: each slot's, and with probability `audit` each auditor's."""
    return pool + audit * auditors


# ---- distributions ----


def _binomial(trials: int, chance: Fraction) -> list[Fraction]:
    return [comb(trials, hits) * chance**hits * (1 - chance) ** (trials - hits) for hits in range(trials + 1)]


def _hypergeometric(draws: int, population: int, marked: int) -> list[Fraction]:
    """Probability of 0, 1, .. draws marked ones among `draws` taken without replacement."""
    ways = comb(population, draws)
    return [Fraction(comb(marked, hits) * comb(population - marked, draws - hits), ways) for hits in range(draws + 1)]
