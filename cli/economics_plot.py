"""The curves of `flnode economics --plot`. matplotlib is an extra that nothing else needs."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Final

from chain.economics import SLOTS_MAX, Crowd, Kind, odds
from cli.errors import UserError

POOLS: Final = (1, 3, 5, 7, 11, SLOTS_MAX)
SHARES: Final = tuple(Fraction(tenth, 10) for tenth in range(1, 6))
STEPS: Final = 60  # points of a curve over the share of dishonest workers, 0 to 0.6
FORMATS: Final = (".png", ".svg", ".pdf")


def draw(path: Path, pool: int, evil: Fraction) -> None:
    """P(paid | good worker) against the size of the pool and against the share of dishonest workers, and the corrected
    payment 1 / P: by how much a reward has to exceed cost, margin and gas. The case asked about is marked.

    Raises:
        UserError: matplotlib is not installed, or the file's ending is no picture's.
    """
    if path.suffix.lower() not in FORMATS:
        raise UserError(f"--plot: {path} does not end in {', '.join(FORMATS)}")
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("--plot needs matplotlib; install it with `pip install 'flnode[plot]'`") from None
    figure = Figure(figsize=(14, 4.5), layout="constrained")  # of no window system: nothing but the file
    by_pool, by_share, payment = figure.subplots(1, 3)
    pools = range(1, SLOTS_MAX + 1, 2)
    for share in SHARES:
        by_pool.plot(pools, [paid(each, share) for each in pools], marker=".", label=f"{float(share):.0%} dishonest")
    shares = [Fraction(step, 100) for step in range(STEPS + 1)]
    for size in POOLS:
        curve = [paid(size, share) for share in shares]
        by_share.plot(shares, curve, label=f"pool of {size}")
        payment.plot(shares, [1 / chance for chance in curve], label=f"pool of {size}")
    by_pool.plot([pool], [paid(pool, evil)], "k*", markersize=12)
    by_share.plot([evil], [paid(pool, evil)], "k*", markersize=12)
    payment.plot([evil], [1 / paid(pool, evil)], "k*", markersize=12)
    by_pool.set(xlabel="slots of a round", ylabel="P(paid | good worker)", ylim=(0, 1.03))
    by_share.set(xlabel="share of dishonest workers", ylabel="P(paid | good worker)", ylim=(0, 1.03))
    payment.set(xlabel="share of dishonest workers", ylabel="corrected payment: 1 / P", ylim=(0.9, 4))
    for axes in (by_pool, by_share, payment):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def paid(pool: int, evil: Fraction) -> float:
    """P(paid | good worker), each slot dishonest on its own; it is the same whether they collude or not."""
    return float(odds(Kind.HONEST, Crowd(pool, evil)).paid)
