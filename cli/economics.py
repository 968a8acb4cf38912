"""flnode economics: what a slot earns, honest or not, and what a job should promise and demand."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Final

import click
import msgspec

from chain.economics import (
    NO_AUDIT,
    Audit,
    Crowd,
    InvalidEconomics,
    Kind,
    Prices,
    deterring_stake,
    deterring_terms,
    earnings,
    fair_reward,
    odds,
    round_odds,
)
from cli.amounts import format_wei, parse_amount
from cli.auto_reward import DEFAULTS
from cli.economics_audits import Verified, tell, verified_rounds
from cli.economics_plot import draw
from cli.errors import UserError
from cli.options import json_option
from cli.output import print_json, stdout, table

COST: Final = str(DEFAULTS["cost"])
MARGIN: Final = str(DEFAULTS["margin"])
GAS_PRICE: Final = str(DEFAULTS["gas_price"])  # base fee and tip of a network with the usual fees
_SHARE: Final = re.compile(r"[0-9]{1,12}|[0-9]{0,12}\.[0-9]{1,12}|[0-9]{1,12}/0*[1-9][0-9]{0,11}")
_WHAT: Final = {
    Kind.HONEST: "trains",
    Kind.RANDOM: "reveals bytes of its own (lazy)",
    Kind.COPIER: "waits to copy, which the mask forbids",
    Kind.COLLUDER: "reveals the colluders' wrong update",
}


class Earnings(msgspec.Struct, frozen=True):
    """Expected wei of one slot, cost and gas paid, to the nearest wei."""

    kind: str
    plain_wei: str  # neither deposits nor audits
    deposits_wei: str
    audits_wei: str
    both_wei: str


class Economics(msgspec.Struct, frozen=True):
    """What `flnode economics --json` prints. Probabilities are of one slot of one round.

    `..._given_good` are without audits, `audited_...` with them; `round_...` are of any round. `stake_deterring_wei` is
    the least stake with which every kind of cheat loses, None if there is none.
    """

    pool: int
    evil: float
    collude: bool
    workers: int | None
    evil_workers: int | None
    audit: float
    audit_void: float
    paid_given_good: float
    void_given_good: float
    forfeited_given_good: float
    audited_paid_given_good: float
    audited_void_given_good: float
    audited_forfeited_given_good: float
    round_right: float
    round_void: float
    round_wrong: float
    cost_wei: str
    gas_wei: str
    stake_wei: str
    stake_deterring_wei: str | None
    reward_wei: str
    earnings: list[Earnings]
    auditors: int | None = None
    verified: list[Verified] = msgspec.field(default_factory=list)  # with --auditors


@click.command()
@click.option("--pool", type=int, default=3, show_default=True, help="Slots of a round; odd.")
@click.option("--evil", default="0.2", show_default=True, help="Share of dishonest workers: 0.3 or 3/10.")
@click.option("--collude", is_flag=True, help="The dishonest reveal one wrong update together.")
@click.option("--workers", type=int, help="Slots are drawn among so many.  [default: each slot on its own]")
@click.option("--cost", default=COST, show_default=True, help="Of training one round.")
@click.option("--margin", default=MARGIN, show_default=True, help="Of an honest worker, as a share of the cost.")
@click.option("--gas-price", default=GAS_PRICE, show_default=True, help="Of a unit of gas.")
@click.option("--stake", help="What a slot forfeits.  [default: twice what makes every cheat lose]")
@click.option("--reward", help="Of a slot.  [default: what leaves the honest their margin]")
@click.option("--audit", default="0", show_default=True, help="Probability that a round is recomputed.")
@click.option("--audit-void", help="The same of a void round.  [default: 1 with --audit, else 0]")
@click.option("--auditors", type=int, help="Validators that recompute; compares what a verified round costs.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the curves into this file (.png, .svg, .pdf).")
@json_option
def economics(as_json: bool, plot: Path | None, **given: object) -> None:
    """What a slot earns, honest or not; what reward to post and what stake to demand.

    \b
    flnode economics --pool 5 --evil 0.3
    flnode economics --pool 5 --evil 0.3 --collude --workers 20 --json
    flnode economics --pool 1 --evil 0.3 --audit 0.05 --auditors 4
    flnode economics --pool 5 --evil 0.3 --plot curves.png
    """
    try:
        found = _answer(given)
    except InvalidEconomics as error:
        raise UserError(f"--{error.field.replace('_', '-')} {error.reason}") from None
    if plot is not None:
        draw(plot, found.pool, Fraction(str(found.evil)))
    if as_json:
        print_json(found)
    else:
        _print(found)
        if plot is not None:
            click.echo(f"\nwrote {plot}")


def parse_share(text: object, where: str) -> Fraction:
    """ "0.3" or "3/10" -> a fraction, exactly.

    Raises:
        UserError: it is not a number, or has more than 12 digits.
    """
    if not isinstance(text, str) or _SHARE.fullmatch(text) is None:
        raise UserError(f"{where}: {text!r} is not a number such as 0.3 or 3/10")
    return Fraction(text)


def _answer(given: dict[str, object]) -> Economics:
    """The command's options -> the whole answer."""
    pool, workers = given["pool"], given["workers"]
    assert isinstance(pool, int)
    assert isinstance(workers, int | None)
    crowd = Crowd(pool, parse_share(given["evil"], "--evil"), bool(given["collude"]), workers)
    decided = parse_share(given["audit"], "--audit")
    void = Fraction(decided > 0) if given["audit_void"] is None else parse_share(given["audit_void"], "--audit-void")
    audit = Audit(decided, void)
    prices = Prices(
        cost=parse_amount(given["cost"], "--cost"),
        margin=parse_share(given["margin"], "--margin"),
        gas_price=parse_amount(given["gas_price"], "--gas-price"),
        stake=0 if given["stake"] is None else parse_amount(given["stake"], "--stake"),
    )
    reward = None if given["reward"] is None else parse_amount(given["reward"], "--reward")
    deterring = deterring_stake_of(crowd, prices, audit, reward)
    verified = []
    if (auditors := given["auditors"]) is not None:
        assert isinstance(auditors, int)
        verified = verified_rounds(crowd, audit, prices, auditors)
    if given["stake"] is None and deterring is not None:
        prices = replace(prices, stake=2 * deterring)
    reward = fair_reward(crowd, prices, audit) if reward is None else reward
    report = _report(crowd, audit, prices, reward, deterring)
    return msgspec.structs.replace(report, auditors=auditors, verified=verified)


def deterring_stake_of(crowd: Crowd, prices: Prices, audit: Audit, reward: int | None) -> int | None:
    """The least stake with which every cheat loses, None if there is none.

    Args:
        reward: wei; None: the one that pays an honest worker for the stake's risk, too.
    """
    if reward is None:
        terms = deterring_terms(crowd, prices, audit)
        return None if terms is None else terms.stake
    stakes = [deterring_stake(kind, crowd, prices, reward, audit) for kind in Kind if kind is not Kind.HONEST]
    return None if None in stakes else max(stake for stake in stakes if stake is not None)


def _report(crowd: Crowd, audit: Audit, prices: Prices, reward: int, deterring: int | None) -> Economics:
    plain, audited, whole = odds(Kind.HONEST, crowd), odds(Kind.HONEST, crowd, audit), round_odds(crowd)
    free = replace(prices, stake=0)

    def row(kind: Kind) -> Earnings:
        cases = ((free, NO_AUDIT), (prices, NO_AUDIT), (free, audit), (prices, audit))
        return Earnings(kind, *(str(round(earnings(kind, crowd, each, reward, how))) for each, how in cases))

    return Economics(
        pool=crowd.pool,
        evil=float(crowd.evil),
        collude=crowd.collude,
        workers=crowd.workers,
        evil_workers=None if crowd.workers is None else crowd.evil_workers,
        audit=float(audit.decided),
        audit_void=float(audit.void),
        paid_given_good=float(plain.paid),
        void_given_good=float(plain.refunded),
        forfeited_given_good=float(plain.forfeited),
        audited_paid_given_good=float(audited.paid),
        audited_void_given_good=float(audited.refunded),
        audited_forfeited_given_good=float(audited.forfeited),
        round_right=float(whole.right),
        round_void=float(whole.void),
        round_wrong=float(whole.wrong),
        cost_wei=str(prices.cost),
        gas_wei=str(prices.gas(Kind.HONEST)),
        stake_wei=str(prices.stake),
        stake_deterring_wei=None if deterring is None else str(deterring),
        reward_wei=str(reward),
        earnings=[row(kind) for kind in Kind],
    )


def _print(found: Economics) -> None:
    out = stdout()
    how = "who collude" if found.collude else "each on its own"
    drawn = f"{found.evil_workers} of {found.workers} workers" if found.workers else f"{found.evil:.4g} of the workers"
    click.echo(f"a pool of {found.pool}; {drawn} are dishonest, {how}\n")
    rows = [
        ("P(paid | good worker)", _chance(found.paid_given_good, found.audited_paid_given_good, found)),
        ("P(void | good worker)", _chance(found.void_given_good, found.audited_void_given_good, found)),
        ("P(forfeits | good worker)", _chance(found.forfeited_given_good, found.audited_forfeited_given_good, found)),
        ("P(round right, void, wrong)", f"{found.round_right:.4f}, {found.round_void:.4f}, {found.round_wrong:.4f}"),
        ("stake", format_wei(found.stake_wei)),
        ("least stake with which every cheat loses", _deterring(found)),
        ("reward to post", format_wei(found.reward_wei)),
    ]
    out.print(table(("", ""), rows))
    columns = ["EXPECTED FOR ONE SLOT", ">NO DEPOSIT", ">DEPOSIT"]
    if found.audit or found.audit_void:
        columns += [">AUDITS ONLY", ">DEPOSIT AND AUDITS"]
    cells = []
    for each in found.earnings:
        amounts = [each.plain_wei, each.deposits_wei, each.audits_wei, each.both_wei][: len(columns) - 1]
        cells.append((f"{each.kind}: {_WHAT[Kind(each.kind)]}", *map(_rounded, amounts)))
    out.print()
    out.print(table(columns, cells))
    if found.auditors is not None:
        tell(found.verified, found.evil, found.auditors)


def _chance(plain: float, audited: float, found: Economics) -> str:
    return f"{plain:.4f}" + (f", audited {audited:.4f}" if found.audit or found.audit_void else "")


def _deterring(found: Economics) -> str:
    if found.stake_deterring_wei is None:
        return "none: colluders win too often, and only audits or a larger pool help"
    return format_wei(found.stake_deterring_wei)


def _rounded(wei: str) -> str:
    """To four digits: an expectation is no payment."""
    digits = max(0, len(wei.removeprefix("-")) - 4)
    return format_wei(round(int(wei), -digits))
