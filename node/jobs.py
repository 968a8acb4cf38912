"""The read model of replicated jobs: finalised logs folded into frozen values.

`fold` is the only writer. Everything a role decides and everything the API shows comes from here, and from nowhere
else, so a node that restarts reads the chain once and knows what its roles have to do next.

A round attempt is known by its `Key` (job, round, attempt). Attempts that may still change are in `JobView.open`,
those that cannot are summed up in `JobView.history` and in each worker's `Record`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, NamedTuple

from chain.contracts import bindings as b
from node.frozen import put, without

Phase = Literal["COMMIT", "REVEAL", "AUDIT", "SETTLED"]  # of an open attempt; VOID and CLOSED are summed up
State = Literal["waiting", "running", "closing", "ended"]
EndReason = Literal["finished", "goal reached", "cancelled", "deadline", "failed"]

COMMIT: Final = "COMMIT"
REVEAL: Final = "REVEAL"
AUDIT: Final = "AUDIT"
SETTLED: Final = "SETTLED"

END_REASONS: Final[Mapping[int, EndReason]] = {
    b.FINISHED: "finished",
    b.STOPPED: "goal reached",
    b.CANCELLED: "cancelled",
    b.DEADLINE: "deadline",
    b.FAILED: "failed",
}


class Key(NamedTuple):
    """Names one attempt of one round of one job."""

    job: int
    round: int
    attempt: int

    def __str__(self) -> str:
        return f"job {self.job} round {self.round}" + (f" attempt {self.attempt}" if self.attempt > 1 else "")


@dataclass(frozen=True, slots=True)
class Record:
    """What one worker has made of one job so far."""

    slots: int = 0  # round attempts in which it held a slot
    rounds_in_majority: int = 0
    earned: int = 0  # wei
    forfeited: int = 0  # wei
    enrolled: bool = False
    evictions: int = 0  # for want of a stake
    absences: int = 0  # evictions because it had not committed
    settled: int = 0  # of its slots, those whose stake and reward the contract has settled


@dataclass(frozen=True, slots=True)
class Sponsorship:
    """Who puts one worker's deposit in one job."""

    wanted: bool = False  # it has asked, and has neither an offer nor a place yet
    sponsor: bytes = b""
    offered: int = 0  # wei that wait for it to enrol
    owed: int = 0  # wei that it took and has not repaid


NO_SPONSORSHIP: Final = Sponsorship()


@dataclass(frozen=True, slots=True)
class RoundView:
    """One attempt of one round as the finalised chain has it."""

    key: Key
    phase: Phase
    base: bytes  # blob digest of the start weights
    batch_seed: bytes
    workers: tuple[bytes, ...]
    commit_deadline: int
    opened_at: int  # block timestamp, seconds
    reveal_deadline: int = 0
    last_call_until: int = 0  # 0 = no last call in this phase
    grace_until: int = 0
    audit_deadline: int = 0
    audited: bool = False  # it was, or is being; an attempt is at most once
    truth: bytes | None = None  # the verdict
    commits: Mapping[bytes, b.Committed] = field(default_factory=dict)
    reveals: Mapping[bytes, b.Revealed] = field(default_factory=dict)
    majority: bytes | None = None

    @property
    def deadline(self) -> int:
        """When the present phase may be expired (unix seconds)."""
        if self.phase == AUDIT:
            return self.audit_deadline
        return self.commit_deadline if self.phase == COMMIT else self.reveal_deadline

    def appeals_until(self, terms: b.Terms) -> int:
        """Until when its majority may be appealed against, and not be finalised (unix seconds); 0: not at all."""
        open_now = self.majority is not None and self.phase == REVEAL and not self.audited and terms.appeal_window_s
        return self.grace_until - terms.grace_s if open_now else 0


@dataclass(frozen=True, slots=True)
class RoundSummary:
    """A round that was settled."""

    round: int
    attempt: int
    update: bytes
    votes: int
    slots: int
    commits: int
    reveals: int
    block_number: int
    opened_at: int
    settled_at: int


@dataclass(frozen=True, slots=True)
class JobView:
    """One job as the finalised chain has it."""

    posted: b.JobPosted
    posted_in: int  # block number
    rounds_max: int
    base: bytes  # start weights of the next round; the model so far
    open: Mapping[Key, RoundView] = field(default_factory=dict)
    current: Key | None = None  # the attempt in COMMIT, REVEAL or AUDIT
    history: tuple[RoundSummary, ...] = ()
    void_rounds: int = 0
    records: Mapping[bytes, Record] = field(default_factory=dict)
    sponsorships: Mapping[bytes, Sponsorship] = field(default_factory=dict)  # by worker
    waiting: bool = True  # for enough workers
    cancelled: bool = False
    ended: EndReason | None = None

    @property
    def job(self) -> int:
        return self.posted.job

    @property
    def owner(self) -> bytes:
        return self.posted.owner

    @property
    def state(self) -> State:
        """`waiting`, `running`, `closing` (ended, but rounds still take late reveals) or `ended`."""
        if self.ended is not None:
            return "closing" if self.open else "ended"
        return "waiting" if self.current is None else "running"

    @property
    def is_manned(self) -> bool:
        """Whether as many are enrolled as a round needs."""
        return self.enrolled() >= self.posted.terms.workers_min

    @property
    def end_due(self) -> int | None:
        """When anybody may end the job, which waits for workers (unix seconds); None while a round is open."""
        return self.posted.terms.deadline if self.ended is None and self.current is None else None

    def sponsorship(self, worker: bytes) -> Sponsorship:
        return self.sponsorships.get(worker, NO_SPONSORSHIP)

    def concerns(self, account: bytes) -> bool:
        """Whether the contract may owe an account something for this job."""
        sponsors = {each.sponsor for each in self.sponsorships.values()}
        return account in self.records or account == self.owner or account in sponsors

    def enrolled(self) -> int:
        return sum(record.enrolled for record in self.records.values())


@dataclass(frozen=True, slots=True)
class Jobs:
    """All jobs, by id."""

    by_id: Mapping[int, JobView] = field(default_factory=dict)
    number: int = 0  # the finalised block that was folded last
    timestamp: int = 0

    def round(self, key: Key) -> RoundView | None:
        job = self.by_id.get(key.job)
        return None if job is None else job.open.get(key)


NO_JOBS: Final = Jobs()


def fold(jobs: Jobs, events: Iterable[b.Event], number: int, timestamp: int) -> Jobs:
    """Apply the events of finalised block `number`, in log order."""
    by_id = dict(jobs.by_id)
    for event in events:
        if isinstance(event, b.JobPosted):
            by_id[event.job] = JobView(event, number, event.terms.rounds_max, event.base)
        elif (job := by_id.get(getattr(event, "job", -1))) is not None:
            by_id[job.job] = _apply(job, event, number, timestamp)
    return Jobs(by_id, number, timestamp)


def _apply(job: JobView, event: b.Event, number: int, timestamp: int) -> JobView:
    match event:
        case b.JobToppedUp():
            return replace(job, rounds_max=event.rounds_max)
        case b.JobCancelled():
            return replace(job, cancelled=True)
        case b.JobWaiting():
            return replace(job, waiting=True)
        case b.Enrolled():
            job = _record(job, event.worker, enrolled=True)
            if event.worker in job.sponsorships:  # the contract adds what is offered to the deposit
                offer = job.sponsorship(event.worker)
                job = _sponsor(job, event.worker, wanted=False, offered=0, owed=offer.owed + offer.offered)
            return job
        case b.Left():
            return _record(job, event.worker, enrolled=False)
        case b.Evicted():
            absent = int(event.absent)
            return _record(job, event.worker, enrolled=False, evictions=1 - absent, absences=absent)
        case b.SponsorWanted():
            return _sponsor(job, event.worker, wanted=not job.records.get(event.worker, Record()).enrolled)
        case b.Sponsored():
            return _sponsor(job, event.worker, wanted=False, sponsor=event.sponsor, offered=event.amount)
        case b.Unsponsored():
            return _sponsor(job, event.worker, sponsor=b"", offered=0)
        case b.DebtRepaid():
            return _sponsor(job, event.worker, owed=job.sponsorship(event.worker).owed - event.amount)
        case b.SeatSettled():
            return _record(job, event.worker, settled=1)
        case b.JobEnded():
            return replace(job, ended=END_REASONS[event.reason], current=None, base=event.base)
        case b.RoundOpened():
            return _opened(job, event, timestamp)
        case _:
            return _in_round(job, event, number, timestamp)


def _opened(job: JobView, event: b.RoundOpened, timestamp: int) -> JobView:
    key = Key(event.job, event.round, event.attempt)
    view = RoundView(key, COMMIT, event.base, event.batch_seed, tuple(event.workers), event.commit_deadline, timestamp)
    for worker in view.workers:
        job = _record(job, worker, slots=1)
    return replace(job, open=put(job.open, key, view), current=key, waiting=False)


def _in_round(job: JobView, event: b.Event, number: int, timestamp: int) -> JobView:
    """Events that change one open attempt."""
    key = Key(job.job, getattr(event, "round", 0), getattr(event, "attempt", 0))
    view = job.open.get(key)
    if view is None:
        return job
    match event:
        case b.Committed():
            return _put(job, replace(view, commits=put(view.commits, event.worker, event)))
        case b.RevealOpened():
            opened = replace(view, phase=REVEAL, reveal_deadline=event.reveal_deadline, last_call_until=0)
            return _put(job, opened)
        case b.Revealed():
            job = _put(job, replace(view, reveals=put(view.reveals, event.worker, event)))
            return _judge(job, view, event) if view.phase == SETTLED else job
        case b.MajorityReached():
            decided = replace(view, phase=REVEAL, majority=event.update_digest, grace_until=event.grace_until)
            return _put(job, decided)
        case b.AuditOpened() | b.Audited() | b.AuditLapsed():
            return _put(job, _audited(view, event))
        case b.LastCall():
            return _put(job, replace(view, last_call_until=event.until))
        case b.RoundSettled():
            settled = replace(view, phase=SETTLED, majority=event.update_digest, last_call_until=0)
            job = _put(job, settled)
            for reveal in settled.reveals.values():
                job = _judge(job, settled, reveal)
            summary = RoundSummary(
                key.round,
                key.attempt,
                event.update_digest,
                event.votes,
                len(view.workers),
                len(view.commits),
                len(view.reveals),
                number,
                view.opened_at,
                timestamp,
            )
            return replace(job, history=(*job.history, summary), base=event.update_digest, current=None)
        case b.RoundVoided():
            asked = view.commits if view.phase == COMMIT else view.reveals
            # whoever revealed the true update would have decided the round
            lost = [worker for worker in view.workers if worker not in asked or view.truth is not None]
            return replace(_drop(_forfeit(job, lost), key), void_rounds=job.void_rounds + 1, current=None)
        case b.RoundClosed():
            return _drop(_forfeit(job, [w for w in view.workers if w not in view.reveals]), key)
    return job


def _audited(view: RoundView, event: b.AuditOpened | b.Audited | b.AuditLapsed) -> RoundView:
    match event:
        case b.AuditOpened():
            opened = replace(view, phase=AUDIT, audited=True, majority=None, last_call_until=0)
            # in the contract it is one deadline, and stays when the verdict finds its update revealed
            return replace(opened, audit_deadline=event.deadline, reveal_deadline=event.deadline)
        case b.Audited():
            return replace(view, truth=event.update_digest)
    return view  # what comes of an audit that lapsed is told next


def _judge(job: JobView, view: RoundView, reveal: b.Revealed) -> JobView:
    """A valid reveal of a settled round is paid or forfeits its stake."""
    if reveal.update_digest == view.majority:
        return _record(job, reveal.worker, rounds_in_majority=1, earned=job.posted.terms.reward)
    return _forfeit(job, [reveal.worker])


def _forfeit(job: JobView, workers: Iterable[bytes]) -> JobView:
    for worker in workers:
        job = _record(job, worker, forfeited=job.posted.terms.stake)
    return job


def _record(job: JobView, worker: bytes, enrolled: bool | None = None, **add: int) -> JobView:
    old = job.records.get(worker, Record())
    new = replace(old, **{name: getattr(old, name) + amount for name, amount in add.items()})
    if enrolled is not None:
        new = replace(new, enrolled=enrolled)
    return replace(job, records=put(job.records, worker, new))


def _sponsor(job: JobView, worker: bytes, **change: Any) -> JobView:
    new = replace(job.sponsorship(worker), **change)
    return replace(job, sponsorships=put(job.sponsorships, worker, new))


def _put(job: JobView, view: RoundView) -> JobView:
    return replace(job, open=put(job.open, view.key, view))


def _drop(job: JobView, key: Key) -> JobView:
    return replace(job, open=without(job.open, key))
