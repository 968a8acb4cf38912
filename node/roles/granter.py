"""A validator that is asked for a grant: whether to call the faucet. Pure.

`admit` bounds how often anybody may ask at all, before anything is looked up; `judge` says what the faucet would. Why
not is said in words that the asker's status shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

PEER_PAUSE_S: Final = 10.0  # between requests of one peer
ASKED_MAX: Final = 30  # requests of all peers in ASKED_S
ASKED_S: Final = 60.0
GRANTS_PENDING_MAX: Final = 8  # calls of this validator on their way


@dataclass(frozen=True, slots=True)
class GranterState:
    """When each peer asked last (unix seconds), no longer ago than ASKED_S."""

    asked_at: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Facts:
    """As the finalised chain has them; amounts in wei.

    Attributes:
        grant: what the faucet gives; 0: it is switched off.
        granted_at: when the account had its last grant (unix seconds); 0: never.
        left: grants in this period.
        own_balance, own_cost: of this validator's account, and what a call must be covered with.
        pending: calls of this validator that are not final.
    """

    validates: bool
    grant: int
    balance: int
    granted_at: int
    period_s: int
    left: int
    funds: int
    own_balance: int
    own_cost: int
    pending: int


def admit(state: GranterState, peer: str, now: float) -> tuple[GranterState, str | None]:
    """Whether a peer may ask now; else why not. Every request counts, so that asking more is no way to be heard."""
    recent = {each: at for each, at in state.asked_at.items() if now - ASKED_S < at <= now}
    last = recent.get(peer)
    if last is not None and now - last < PEER_PAUSE_S:
        return GranterState(recent), f"asked again within {PEER_PAUSE_S:.0f} s"
    if last is None and len(recent) >= ASKED_MAX:
        return GranterState(recent), "too many ask at once"
    return GranterState({**recent, peer: now}), None


def judge(facts: Facts, now: float) -> str | None:
    """Why not to call the faucet; None: call it."""
    if facts.grant == 0:
        return "this network has no faucet"
    if not facts.validates:
        return "not a validator now"
    if facts.balance >= facts.grant:
        return "the account has coins"
    if facts.granted_at and now < facts.granted_at + facts.period_s:
        return f"the account had a grant; another one in {facts.granted_at + facts.period_s - now:.0f} s"
    if facts.left == 0:
        return "no grants are left in this period"
    if facts.funds < facts.grant:
        return "the faucet is empty"
    if facts.own_balance < facts.own_cost:
        return "this validator has no coins for the call"
    if facts.pending >= GRANTS_PENDING_MAX:
        return "too many grants are on their way"
    return None
