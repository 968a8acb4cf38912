"""Which jobs a worker has deposits in: those that pay best for a second of training, as far as it can keep up (pure).

A worker trains one round at a time, in the order in which its slots were opened, and a job has at most one round that
takes commits. So a round waits at most for one round of each other job, and is never late as long as the rounds of all
jobs together take less than the shortest commit window among them. That is what *room* means here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

WINDOW_SHARE: Final = 0.8  # of a commit window that may be planned with: estimates err, and a commit takes time too
LOYALTY: Final = 1.5  # times as much a job has to pay to displace one that the worker is in: moving costs fees
ROUND_S_MIN: Final = 1e-3  # what is quicker, or not known, is not dearer


@dataclass(frozen=True, slots=True)
class Limits:
    """The operator's.

    Attributes:
        jobs_max: jobs to be in at a time.
        pay_min: wei for a second of training.
    """

    jobs_max: int = 8
    pay_min: float = 0.0


NO_LIMITS: Final = Limits(jobs_max=8, pay_min=0.0)


@dataclass(frozen=True, slots=True)
class Offer:
    """One open job that this machine can do.

    Attributes:
        reward: wei for a slot.
        round_s: seconds that a round takes here; 0: not known.
        window_s: the job's commit window.
        taken: whether the worker is in it.
    """

    job: int
    reward: int
    round_s: float
    window_s: float
    taken: bool

    @property
    def pay(self) -> float:
        """Wei for a second of training."""
        return self.reward / max(self.round_s, ROUND_S_MIN)


def choose(offers: Iterable[Offer], limits: Limits) -> Mapping[int, str]:
    """Why each job is not worth a deposit; empty for those to be in."""
    verdicts: dict[int, str] = {}
    load_s, window_s, count = 0.0, float("inf"), 0
    for offer in sorted(offers, key=lambda offer: (-offer.pay * (LOYALTY if offer.taken else 1.0), offer.job)):
        shortest_s = min(window_s, offer.window_s)
        if offer.pay < limits.pay_min:
            verdicts[offer.job] = (
                f"it pays {offer.pay / 1e9:.3g} gwei for a second of training; "
                f"`reward_gwei_per_s_min` in [worker] is {limits.pay_min / 1e9:.3g}"
            )
        elif count == limits.jobs_max:
            verdicts[offer.job] = f"others pay better; `jobs_max` in [worker] is {limits.jobs_max}"
        elif count and load_s + offer.round_s > WINDOW_SHARE * shortest_s:
            verdicts[offer.job] = (
                f"others pay better, and all their rounds together with its own ({load_s + offer.round_s:.3g} s) "
                f"do not fit into a commit window of {shortest_s:.3g} s"
            )
        else:
            verdicts[offer.job] = ""
            load_s, window_s, count = load_s + offer.round_s, shortest_s, count + 1
    return verdicts
