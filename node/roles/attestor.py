"""The attestor: a validator's side job of checking reveals, whose blobs the chain cannot see.

    final Committed      FetchCiphertext: have the bytes before anybody may reveal
    claim found in a transaction that is executable on our tip
                         CheckClaim -> ClaimChecked -> Attest(verdict)
    round left behind    Forget

A blob that cannot be had means "unknown": the check goes on waiting and never turns into a refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from chain.types import RevealClaim
from node.frozen import put
from node.jobs import NO_JOBS, Jobs, Key
from node.roles.common import Attest, ChainAdvanced, Effect

PATIENCE_BLOCKS: Final = 32
CLAIMS_MAX: Final = 4096  # claims remembered; more are left to the other validators


@dataclass(frozen=True, slots=True)
class ClaimFound:
    digest: bytes  # claims.claim_digest
    claim: RevealClaim


@dataclass(frozen=True, slots=True)
class ClaimChecked:
    digest: bytes
    verdict: bool


Event = ChainAdvanced | ClaimFound | ClaimChecked


@dataclass(frozen=True, slots=True)
class FetchCiphertext:
    key: Key
    ciphertext: bytes
    size: int


@dataclass(frozen=True, slots=True)
class CheckClaim:
    digest: bytes
    claim: RevealClaim
    key: Key


@dataclass(frozen=True, slots=True)
class Forget:
    """The round attempt is over: stop fetching and checking for it."""

    key: Key


@dataclass(frozen=True, slots=True)
class Found:
    """A claim that is being checked, or was; `number` is the block that was final when it was found."""

    key: Key
    number: int
    verdict: bool | None = None


@dataclass(frozen=True, slots=True)
class AttestorState:
    fetched: frozenset[tuple[Key, bytes]] = frozenset()
    claims: Mapping[bytes, Found] = field(default_factory=dict)
    jobs: Jobs = NO_JOBS


def step(state: AttestorState, event: Event) -> tuple[AttestorState, tuple[Effect, ...]]:
    """Take in one event and decide what to do about it."""
    match event:
        case ChainAdvanced():
            return _advance(replace(state, jobs=event.jobs))
        case ClaimFound():
            key = Key(event.claim.job, event.claim.round, event.claim.attempt)
            if (known := state.claims.get(event.digest)) is not None:  # found again: in another epoch, perhaps
                return state, () if known.verdict is None else (Attest(event.digest, known.verdict),)
            if len(state.claims) >= CLAIMS_MAX:
                return state, ()
            claims = put(state.claims, event.digest, Found(key, state.jobs.number))
            return replace(state, claims=claims), (CheckClaim(event.digest, event.claim, key),)
        case ClaimChecked() if event.digest in state.claims:
            found = replace(state.claims[event.digest], verdict=event.verdict)
            return replace(state, claims=put(state.claims, event.digest, found)), (Attest(event.digest, event.verdict),)
    return state, ()


def _advance(state: AttestorState) -> tuple[AttestorState, tuple[Effect, ...]]:
    effects: list[Effect] = []
    wanted: set[tuple[Key, bytes]] = set()
    for job in state.jobs.by_id.values():
        for key, view in job.open.items():
            for commit in view.commits.values():
                wanted.add((key, commit.ciphertext))
                if (key, commit.ciphertext) not in state.fetched:
                    effects.append(FetchCiphertext(key, commit.ciphertext, job.posted.update_size))
    over = {key for key, _ in state.fetched} - {key for key, _ in wanted}
    over |= {found.key for found in state.claims.values() if _is_stale(found, state.jobs)}
    effects += [Forget(key) for key in sorted(over)]
    claims = {digest: found for digest, found in state.claims.items() if found.key not in over}
    return replace(state, fetched=frozenset(wanted), claims=claims), tuple(effects)


def _is_stale(found: Found, jobs: Jobs) -> bool:
    """The claim's round is not open. It may be yet: a claim is found on the tip, which is ahead of what is final."""
    return jobs.round(found.key) is None and jobs.number > found.number + PATIENCE_BLOCKS
