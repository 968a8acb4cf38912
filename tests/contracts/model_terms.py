"""What the contract takes as terms, told again in plain Python, and how the model refuses."""

from __future__ import annotations

from chain.contracts.events import Terms

YEAR_S = 365 * 86_400


class Refused(Exception):
    """The contract would revert with this string."""


def check_terms(terms: Terms, now: int) -> None:
    need(terms.reward <= 2**96, "reward too large")
    need(terms.stake <= 2**96, "stake too large")
    need(terms.slots <= 31 and terms.slots % 2 == 1, "slots must be odd, 1 to 31")
    need(1 <= terms.workers_min <= terms.slots, "workers_min must be 1 to slots")
    need(1 <= terms.rounds_max <= 2**32, "rounds out of range")
    need(1 <= terms.attempts_max <= 255, "attempts_max must be 1 to 255")
    need(1 <= terms.commit_window_s <= YEAR_S, "commit window must be 1 s to 365 days")
    need(1 <= terms.reveal_window_s <= YEAR_S, "reveal window must be 1 s to 365 days")
    need(1 <= terms.last_call_s <= YEAR_S, "last call must be 1 s to 365 days")
    need(terms.grace_s <= YEAR_S, "grace over 365 days")
    need(terms.deadline > now, "deadline has passed")
    need(terms.audit_ppm <= 10**6, "audits out of range")
    need(1 <= terms.audit_window_s <= YEAR_S, "audits out of range")
    need(terms.audit_fee <= 2**96, "audits out of range")
    if terms.appeal_window_s:
        need(terms.appeal_window_s <= YEAR_S, "appeals out of range")
        need(terms.audit_fee <= terms.appeal_bond <= 2**96, "appeals out of range")
        need(not terms.auto_finalise, "appeals out of range")


def need(holds: bool, reason: str) -> None:
    if not holds:
        raise Refused(f"replicated: {reason}")
