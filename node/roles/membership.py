"""Which jobs a worker is in, with whose deposit: the worker's part that has nothing to do with rounds (pure).

    job open                FetchManifest -> ManifestReady; then Enrol in those that pay best (node.roles.choice)
    another pays much more  Leave, then Withdraw, and only then Enrol in the other
    evicted                 Withdraw; then Enrol again, if that was for having been absent, not too often
    deposit out of reach    Submit(ask_sponsor), and once somebody has offered it, Enrol
    job ended               Withdraw

Where a worker lost its deposit it does not come back by itself, nor where it has lost a good deal more than it earned.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from chain.contracts import bindings as b
from learner.manifest import Manifest
from node.frozen import put
from node.jobs import AUDIT, COMMIT, NO_JOBS, REVEAL, Jobs, JobView
from node.roles.choice import NO_LIMITS, Limits, Offer, choose
from node.roles.common import (
    ChainAdvanced,
    Effect,
    FetchManifest,
    ManifestReady,
    ManifestRefused,
    SubmissionFailed,
    Submit,
    held,
)

LOSS_STAKES_MAX: Final = 4  # forfeits less earnings in one job, in stakes: beyond that something is wrong with us
ABSENCES_MAX: Final = 3  # likewise evictions from one job for not having committed


@dataclass(frozen=True, slots=True)
class Enrol:
    job: int
    deposit: int  # wei


@dataclass(frozen=True, slots=True)
class Leave:
    """Have no deposit there any more; a slot that is held stays held."""

    job: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Have what the contract owes sent, a job's deposit among it if that has ended."""

    job: int


@dataclass(frozen=True, slots=True)
class Decline:
    """Tell the operator why a job that could be done is not; an empty reason takes that back."""

    job: int
    reason: str


@dataclass(frozen=True, slots=True)
class Membership:
    """
    Attributes:
        deposit_stakes: the standing deposit, as a multiple of a job's stake.
        deposit_max: wei; a job that asks for more is left alone.
        locked_s_max: likewise a job whose terms let its owner keep a slot's stake for longer.
        enrol: whether to enrol in open jobs that can be done here, and leave them for better ones.
        limits: which of them.
        sponsors: whether this network lets others put a worker's deposit.
        fee: wei for a unit of gas that an account must have before a call.
        balance: of the account, wei.
        manifests: asked for: None; refused: why.
        round_s: seconds that a round of a job takes here, as far as they are known.
        verdicts: what `choose` said last of each open job.
        enrolling, asking, leaving, withdrawing: jobs for which that was submitted; asking is for a sponsor.
        inside: the jobs that it was in when it looked last.
    """

    address: bytes
    enrol: bool = True
    deposit_stakes: int = 16
    deposit_max: int = 10**30
    locked_s_max: int = 7 * 86400
    limits: Limits = NO_LIMITS
    sponsors: bool = False
    fee: int = 0
    balance: int = 0
    jobs: Jobs = NO_JOBS
    now: float = 0.0
    manifests: Mapping[int, Manifest | str | None] = field(default_factory=dict)
    round_s: Mapping[int, float] = field(default_factory=dict)
    verdicts: Mapping[int, str] = field(default_factory=dict)
    enrolling: frozenset[int] = frozenset()
    asking: frozenset[int] = frozenset()
    leaving: frozenset[int] = frozenset()
    withdrawing: frozenset[int] = frozenset()
    inside: frozenset[int] = frozenset()


State = TypeVar("State", bound=Membership)


def observe(state: State, event: object) -> State:
    """Take in one event, without consequences."""
    match event:
        case ChainAdvanced():
            asking = {job for job in state.asking if not _has_asked(state, event.jobs.by_id[job])}
            return replace(state, jobs=event.jobs, now=event.now, balance=event.balance, asking=frozenset(asking))
        case ManifestReady():
            state = replace(state, round_s=put(state.round_s, event.job, event.round_s))
            return replace(state, manifests=put(state.manifests, event.job, event.manifest))
        case ManifestRefused():
            return replace(state, manifests=put(state.manifests, event.job, event.reason))
        case SubmissionFailed(effect=Enrol() as effect):
            return replace(state, enrolling=state.enrolling - {effect.job})
        case SubmissionFailed(effect=Leave() as effect):
            return replace(state, leaving=state.leaving - {effect.job})
        case SubmissionFailed(effect=Withdraw() as effect):
            return replace(state, withdrawing=state.withdrawing - {effect.job})
        case SubmissionFailed(effect=Submit() as effect):
            return replace(state, asking=frozenset(job for job in state.asking if effect != ask_sponsor(job)))
    return state


def decide(state: State, effects: list[Effect]) -> State:
    """Be in the jobs that pay best."""
    for job in state.jobs.by_id.values():
        if job.ended is None and (state.enrol or state.address in job.records) and job.job not in state.manifests:
            state = replace(state, manifests=put(state.manifests, job.job, None))
            effects.append(FetchManifest(job.job, job.posted.manifest))
    state = _depart(state, effects)
    if state.enrol:
        state = _choose(state, effects)
    joined = {job.job for job in state.jobs.by_id.values() if _is_in(state, job) and job.state != "waiting"}
    state = replace(state, enrolling=state.enrolling - joined)
    for job in state.jobs.by_id.values():
        if job.job in state.enrolling or not _suits(state, job) or _draw_is_known(job):
            continue
        effect: Enrol | Submit | None = None
        if _is_in(state, job):
            if job.state == "waiting" and job.is_manned:  # the last draw found too few: have it draw again
                effect = Enrol(job.job, 0)
        elif state.verdicts.get(job.job) == "" and _has_room(state):
            effect = _joining(state, job)
        if isinstance(effect, Enrol):
            state = replace(state, enrolling=state.enrolling | {job.job})
        elif isinstance(effect, Submit):
            state = replace(state, asking=state.asking | {job.job})
        effects += [] if effect is None else [effect]
    return _withdraw(state, effects)


def _depart(state: State, effects: list[Effect]) -> State:
    """Fetch what was released where it left or was evicted: the deposit of the next job may have to come from it."""
    inside = frozenset(job.job for job in state.jobs.by_id.values() if _is_in(state, job))
    gone = state.inside - inside
    effects += [Withdraw(job) for job in sorted(gone) if job not in state.withdrawing]
    return replace(state, inside=inside, leaving=state.leaving - gone, enrolling=state.enrolling - gone)


def _choose(state: State, effects: list[Effect]) -> State:
    """Judge the open jobs anew, tell what has changed, leave what is not worth it or cannot be done."""
    inside = [job for job in state.jobs.by_id.values() if job.ended is None and _is_in(state, job)]
    if any(state.manifests[job.job] is None for job in inside):
        return state  # what they pay for a second is not known yet
    verdicts = choose(_offers(state), state.limits)
    effects += [Decline(job, why) for job, why in verdicts.items() if why != state.verdicts.get(job, "")]
    for job in inside:
        unwanted = verdicts.get(job.job) or not isinstance(state.manifests[job.job], Manifest)
        if unwanted and job.job not in state.leaving and not _draw_is_known(job):
            state = replace(state, leaving=state.leaving | {job.job})
            effects.append(Leave(job.job))
    return replace(state, verdicts=verdicts)


def _offers(state: Membership) -> list[Offer]:
    offers = []
    for job in state.jobs.by_id.values():
        if _suits(state, job) and (_is_in(state, job) or _may_enter(state, job)):
            terms, round_s = job.posted.terms, state.round_s.get(job.job, 0.0)
            offers.append(Offer(job.job, terms.reward, round_s, terms.commit_window_s, _is_in(state, job)))
    return offers


def _withdraw(state: State, effects: list[Effect]) -> State:
    """Once nothing of a job that has ended is open, the deposit is fetched: other jobs may want it."""
    for job in state.jobs.by_id.values():
        if job.state == "ended" and _is_in(state, job) and job.job not in state.withdrawing:
            state = replace(state, withdrawing=state.withdrawing | {job.job})
            effects.append(Withdraw(job.job))
    return state


def _joining(state: Membership, job: JobView) -> Enrol | Submit | None:
    """How to come into a job: with one's own deposit, or a sponsor's; None while there is nothing to do for it."""
    deposit = job.posted.terms.stake * state.deposit_stakes
    own = state.balance - b.OPENING_GAS * state.fee
    if own >= 0 and job.sponsorship(state.address).offered:
        return Enrol(job.job, 0)
    if own >= deposit:
        return Enrol(job.job, deposit)
    affordable = state.balance >= b.ASK_SPONSOR_GAS * state.fee
    if state.sponsors and affordable and job.job not in state.asking and not _has_asked(state, job):
        return ask_sponsor(job.job)
    return None


def ask_sponsor(job: int) -> Submit:
    return Submit(f"ask sponsor {job}", b.ask_sponsor(job))


def _has_asked(state: Membership, job: JobView) -> bool:
    known = job.sponsorship(state.address)
    return known.wanted or known.offered > 0 or known.owed > 0


def _has_room(state: Membership) -> bool:
    """Not before the jobs that make room for others are left, and take no more commits of ours."""
    busy = {key.job for key, view in held(state.jobs, state.address) if view.phase == COMMIT}
    busy |= {job.job for job in state.jobs.by_id.values() if job.ended is None and _is_in(state, job)}
    return not any(state.verdicts.get(job) for job in busy)


def _is_in(state: Membership, job: JobView) -> bool:
    return state.address in job.records and job.records[state.address].enrolled


def _may_enter(state: Membership, job: JobView) -> bool:
    record = job.records.get(state.address)
    if record is None:
        return True
    loss = record.forfeited - record.earned
    steady = not record.evictions and record.absences <= ABSENCES_MAX
    return steady and loss <= LOSS_STAKES_MAX * job.posted.terms.stake


def _suits(state: Membership, job: JobView) -> bool:
    """Whether to have a deposit in a job: it can be done here, it is still open, and it does not ask for too much."""
    terms = job.posted.terms
    lively = job.ended is None and not job.cancelled and state.now < terms.deadline
    # an owner that never acts keeps the model and every stake until the grace of a round at its slowest is over
    locked_s = terms.commit_window_s + terms.reveal_window_s + 2 * terms.last_call_s + terms.grace_s
    locked_s += terms.appeal_window_s
    if terms.audits:  # and its last call; then the reveals may be open once more
        locked_s += terms.audit_window_s + terms.reveal_window_s + 2 * terms.last_call_s
    bearable = locked_s <= state.locked_s_max and terms.stake * state.deposit_stakes <= state.deposit_max
    return lively and bearable and isinstance(state.manifests.get(job.job), Manifest)


def _draw_is_known(job: JobView) -> bool:
    """Whether everybody can compute who will be drawn next: until that is done nobody may join or leave."""
    view = None if job.current is None else job.open.get(job.current)
    return view is not None and (view.phase == AUDIT or view.audited or (view.phase == REVEAL and bool(view.majority)))
