"""The closed forms of chain/economics.py against many rounds of the real contract: `python -m benchmarks.economics`.

For each crowd and each kind of worker: what the form says, what the contract did, and by how many standard errors they
differ. Of a hundred such numbers one may exceed 2.58 by chance alone; the exit code is 1 if any exceeds 4.
"""

from __future__ import annotations

import argparse
import sys
import time
from fractions import Fraction

from chain.economics import NO_AUDIT, Audit, Crowd, Kind, odds, round_odds
from tests.contracts.economics_play import play

Z_MAX = 4.0
THIRD = Fraction(3, 10)
QUARTER = Audit(Fraction(1, 4), Fraction(1))
CROWDS: list[tuple[Crowd, Kind | None, Audit]] = [
    (Crowd(3, THIRD), None, NO_AUDIT),
    (Crowd(3, THIRD, collude=True), None, NO_AUDIT),
    (Crowd(5, THIRD), None, NO_AUDIT),
    (Crowd(5, THIRD, collude=True), None, NO_AUDIT),
    (Crowd(5, THIRD, collude=True, workers=10), None, NO_AUDIT),
    (Crowd(5, THIRD, collude=False, workers=20), None, NO_AUDIT),
    (Crowd(5, Fraction(1, 2), collude=True, workers=20), None, NO_AUDIT),
    (Crowd(5, THIRD, collude=True), Kind.RANDOM, NO_AUDIT),
    (Crowd(5, THIRD, collude=True), Kind.COPIER, NO_AUDIT),
    (Crowd(7, Fraction(2, 5), collude=True, workers=30), None, NO_AUDIT),
    (Crowd(1, THIRD), None, QUARTER),
    (Crowd(3, THIRD, collude=True), None, QUARTER),
    (Crowd(5, THIRD), None, QUARTER),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=300, help="of each crowd")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    started = time.perf_counter()
    worst = 0.0
    print(f"{'crowd':52} {'kind':9} {'':9} {'form':>8} {'contract':>8} {'error':>7} {'off by':>6}")
    for number, (crowd, probe, audit) in enumerate(CROWDS):
        played = play(crowd, arguments.rounds, arguments.seed + number, probe, audit)
        counts = probe is None and audit is NO_AUDIT  # with audits fewer rounds are void
        rows = [("", "void", round_odds(crowd).void, played.void)] if counts else []
        for kind in sorted({probe} if probe else set(played.paid)):
            chance = odds(kind, crowd, audit)
            rows += [
                (kind, "paid", chance.paid, played.paid[kind]),
                (kind, "refunded", chance.refunded, played.refunded[kind]),
                (kind, "forfeited", chance.forfeited, played.forfeited[kind]),
            ]
        for kind, end, form, share in rows:
            off = share.deviation(form)
            worst = max(worst, off)
            cells = f"{float(form):8.4f} {share.mean:8.4f} {share.error(float(form)):7.4f} {off:6.2f}"
            print(f"{describe(crowd, audit):52} {kind:9} {end:9} {cells}")
    spent = time.perf_counter() - started
    print(f"\n{len(CROWDS)} x {arguments.rounds} rounds in {spent:.0f} s; the worst is {worst:.2f} standard errors off")
    sys.exit(worst > Z_MAX)


def describe(crowd: Crowd, audit: Audit) -> str:
    drawn = f"{crowd.evil_workers} of {crowd.workers}" if crowd.workers else f"{float(crowd.evil):.0%} each"
    return f"{crowd.pool} slots, {drawn} dishonest{', colluding' if crowd.collude else ''}" + (
        f", {float(audit.decided):.0%} audited" if audit.decided else ""
    )


if __name__ == "__main__":
    main()
