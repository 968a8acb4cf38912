"""What a verified round costs with more slots and with audits, for `flnode economics --auditors`."""

from __future__ import annotations

from fractions import Fraction
from typing import Final

import click
import msgspec

from chain.economics import Audit, Crowd, Prices, deterring_terms, verified_round
from cli.amounts import format_wei
from cli.output import stdout, table

# What people choose between: more slots and no audits, or one slot and some.
CHOICES: Final = (
    (3, Fraction(0)), (5, Fraction(0)), (1, Fraction(2, 100)), (1, Fraction(5, 100)), (1, Fraction(10, 100)),
)  # fmt: skip


class Verified(msgspec.Struct, frozen=True):
    """A verified round when all are honest. The stakes are those with which a cheat expects to lose the cost of
    training: one among honest workers, and colluders among as many as were asked about (None: no stake does).
    """

    pool: int
    audit: float
    computations: float
    fee_wei: str  # of one audit
    price_wei: str  # rewards, and the fee times its probability
    times_unverified: float
    stake_alone_wei: str | None
    stake_colluding_wei: str | None


def verified_rounds(crowd: Crowd, audit: Audit, prices: Prices, auditors: int) -> list[Verified]:
    """The choices, and what was asked about if it is none of them."""
    choices = dict.fromkeys((*CHOICES, (crowd.pool, audit.decided)))
    return [_verified(crowd, pool, p, prices, auditors) for pool, p in choices]


def _verified(crowd: Crowd, pool: int, p: Fraction, prices: Prices, auditors: int) -> Verified:
    found = verified_round(pool, p, auditors, prices)
    audit = Audit(p, Fraction(p > 0))
    terms = deterring_terms(Crowd(pool, crowd.evil, collude=True), prices, audit, loss=prices.cost)
    return Verified(
        pool=pool,
        audit=float(p),
        computations=float(found.work),
        fee_wei=str(found.fee),
        price_wei=str(round(found.price)),
        times_unverified=float(found.times_unverified),
        stake_alone_wei=None if found.stake is None else str(found.stake),
        stake_colluding_wei=None if terms is None else str(terms.stake),
    )


def tell(rows: list[Verified], evil: float, auditors: int) -> None:
    """Print them for people."""
    click.echo(f"\na verified round, all honest; each audit is computed by {auditors} validators:\n")
    columns = (
        ">POOL", ">P(AUDIT)", ">COMPUTATIONS", ">PRICE", ">TIMES UNVERIFIED", ">STAKE, LONE CHEAT",
        f">STAKE, {evil:.4g} COLLUDE",
    )  # fmt: skip
    cells = [
        (
            str(row.pool), f"{row.audit:.4g}", f"{row.computations:.4g}", _rounded(row.price_wei),
            f"{row.times_unverified:.4g}", _rounded(row.stake_alone_wei), _rounded(row.stake_colluding_wei),
        )
        for row in rows
    ]  # fmt: skip
    stdout().print(table(columns, cells))


def _rounded(wei: str | None) -> str:
    """To four digits."""
    if wei is None:
        return "none"
    return format_wei(round(int(wei), -max(0, len(wei) - 4)))
