"""A newcomer without coins asks validators for those that its first fees cost, one after another.

    no coins                 AskGrant(a validator) -> GrantAnswered
    a validator agrees       wait for the coins, then ask another one
    nobody agrees            pause, longer each time, then ask again

Only a validator can call the faucet, and a newcomer could not pay for a call. Pure: who is connected and what the
account has is told with each event.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from node.roles.common import Effect, WakeAt

GRANT_WAIT_S: Final = 20.0  # from a validator's consent to coins that are final
PAUSE_MIN_S: Final = 15.0
PAUSE_MAX_S: Final = 900.0
REASON_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class LookedAround:
    """
    Attributes:
        now: unix seconds.
        balance: of the account, wei, as it is final.
        validators: peers that proved a validator's key.
    """

    now: float
    balance: int
    validators: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GrantAnswered:
    """`reason`: why not; None if the validator calls the faucet."""

    peer: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class AskGrant:
    peer: str


Event = LookedAround | GrantAnswered


@dataclass(frozen=True, slots=True)
class NewcomerState:
    """
    Attributes:
        enough: wei with which nothing is asked for.
        said: what the last validator answered, for people.
    """

    enough: int
    seen: LookedAround = LookedAround(0.0, 0, ())
    asking: str | None = None
    tried: frozenset[str] = frozenset()
    pauses: int = 0  # since there were coins
    rests_until: float = 0.0
    wake: float | None = None
    said: str = ""

    @property
    def waits(self) -> bool:
        return self.seen.balance < self.enough


def step(state: NewcomerState, event: Event) -> tuple[NewcomerState, tuple[Effect, ...]]:
    """Take in one event and decide what to do about it."""
    match event:
        case LookedAround():
            woken = state.wake is not None and event.now >= state.wake
            state = replace(state, seen=event, wake=None if woken else state.wake)
        case GrantAnswered(peer=peer, reason=None) if peer == state.asking:
            state = replace(
                state, asking=None, said="a validator has agreed", rests_until=state.seen.now + GRANT_WAIT_S
            )
        case GrantAnswered(peer=peer, reason=reason) if peer == state.asking:
            state = replace(state, asking=None, said=(reason or "")[:REASON_MAX])
    if not state.waits:
        return NewcomerState(state.enough, state.seen, state.asking, wake=state.wake), ()
    if state.asking is not None:
        return state, ()
    now = state.seen.now
    if now >= state.rests_until:
        untried = [peer for peer in state.seen.validators if peer not in state.tried]
        if untried:
            asked = replace(state, asking=untried[0], tried=state.tried | {untried[0]})
            return asked, (AskGrant(untried[0]),)
        pause = min(PAUSE_MIN_S * 2**state.pauses, PAUSE_MAX_S)
        pauses = min(state.pauses + 1, 10) if state.tried else 0  # nobody is there: look again soon
        state = replace(state, tried=frozenset(), pauses=pauses, rests_until=now + pause)
    if state.wake is None or state.wake > state.rests_until:
        return replace(state, wake=state.rests_until), (WakeAt(state.rests_until),)
    return state, ()
