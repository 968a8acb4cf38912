"""`reward = "auto"` of a job file: the reward that leaves honest workers their margin, by chain/economics.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

from chain.economics import Audit, Crowd, InvalidEconomics, Kind, Prices, deterring_terms, fair_reward, odds
from cli.amounts import format_wei, parse_amount
from cli.errors import UserError

AUTO: Final = "auto"

# The keys of [economics], with what holds where the file says nothing. The crowd is a cautious guess: colluders are
# worse for an honest worker than others.
DEFAULTS: Final[Mapping[str, Any]] = {
    "cost": "0.005 flt",  # of training one round
    "margin": 0.2,
    "evil": 0.2,
    "collude": True,
    "gas_price": "8 wei",
    "workers": 0,  # drawn among so many; 0: each slot on its own
}


@dataclass(frozen=True, slots=True)
class AutoReward:
    """Wei for a slot, and in one line what they were computed from."""

    wei: int
    reason: str


def auto_reward(
    economics: Mapping[str, Any], slots: int, stake: int, source: str, audited: Fraction = Fraction(0)
) -> AutoReward:
    """Compute the reward.

    Args:
        economics: the table, checked for types, with a value for every key of DEFAULTS.
        slots: of the job's rounds; all of them are taken to be drawn.
        stake: wei.
        source: the file, named in errors.
        audited: probability that a decided round is audited; then a void one always is.
    Raises:
        UserError: a value is out of its range.
    """
    audit = Audit(audited, Fraction(audited > 0))
    where = f"in [economics] of {source}"
    try:
        crowd = Crowd(
            slots, _exact(economics["evil"], "evil", where), economics["collude"], economics["workers"] or None
        )
        prices = Prices(
            cost=parse_amount(economics["cost"], f"`cost` {where}"),
            margin=_exact(economics["margin"], "margin", where),
            gas_price=parse_amount(economics["gas_price"], f"`gas_price` {where}"),
            stake=stake,
        )
        reward = fair_reward(crowd, prices, audit)
    except InvalidEconomics as error:
        raise UserError(f"`{error.field}` {where} {error.reason}") from None
    return AutoReward(reward, f"reward {format_wei(reward)} a slot: {_reason(crowd, prices, audit)}")


def _reason(crowd: Crowd, prices: Prices, audit: Audit) -> str:
    chance = odds(Kind.HONEST, crowd, audit)
    others = f"{crowd.evil_workers} of {crowd.workers}" if crowd.workers else f"{float(crowd.evil):.4g}"
    parts = [
        f"cost {format_wei(prices.cost)} + {float(prices.margin):.4g} margin",
        f"gas {format_wei(prices.gas(Kind.HONEST))}",
        f"{float(chance.forfeited):.4f} x stake {format_wei(prices.stake)} at risk",
        f"paid with P = {float(chance.paid):.4f} ({crowd.pool} slots, {others} dishonest"
        + (", colluding)" if crowd.collude else ")"),
    ]
    if audit.decided:
        parts.append(f"audited with p = {float(audit.decided):.4g}")
    deterring = deterring_terms(crowd, prices, audit)
    if deterring is None:
        parts.append("no stake by itself makes every cheat lose")
    elif deterring.stake > prices.stake:
        parts.append(f"the stake is low: every cheat loses from {format_wei(deterring.stake)} on")
    return "; ".join(parts)


def _exact(number: float, key: str, where: str) -> Fraction:
    """The number as it is written in the file."""
    try:
        return Fraction(str(number))
    except ValueError:
        raise UserError(f"`{key}` {where}: {number} is not a number") from None
