"""Whose deposits a learning server puts in its jobs, and how it gets them back. Pure, from finalised logs alone.

    a worker asks                   Submit(sponsor), while the limits allow it
    the job has ended               Submit(unsponsor): an offer that nobody took
                                    Submit(settle): seats and deposit of a worker that still owes, until all is settled

What then belongs to the sponsor, `withdraw` fetches. A worker that forfeited all that it owed is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass

from chain.contracts import bindings as b
from node.jobs import Jobs, JobView, Record
from node.roles.common import Submit


@dataclass(frozen=True, slots=True)
class Sponsoring:
    """
    Attributes:
        newcomers_max: workers of one job whose deposits are out at a time; 0: none are put.
        stakes: an offer, as a multiple of the job's stake.
        fee: wei for a unit of gas that an account must have before a call.
    """

    newcomers_max: int = 0
    stakes: int = 4
    fee: int = 0


def wanted(
    terms: Sponsoring, own: bytes, jobs: Jobs, balance: int, now: float, asked: Set[Submit]
) -> tuple[Submit, ...]:
    """All that is to be sent as things stand, what is on its way already included.

    Args:
        balance: wei of the account `own`, before what is on its way.
        asked: what is on its way. It is not given up when the balance that it needs is spoken for.
    """
    effects: list[Submit] = []
    for job in jobs.by_id.values():
        if job.ended is not None:
            effects += fetched_back(own, job)
        elif job.owner == own and not job.cancelled and now < job.posted.terms.deadline:
            for effect in _offers(terms, own, job):
                balance -= effect.call.value + b.SPONSOR_GAS * terms.fee
                if balance >= 0 or effect in asked:
                    effects.append(effect)
    return tuple(effects)


def _offers(terms: Sponsoring, own: bytes, job: JobView) -> Iterator[Submit]:
    """To those who asked first."""
    out = sum(each.sponsor == own and each.offered + each.owed > 0 for each in job.sponsorships.values())
    asking = [worker for worker, each in job.sponsorships.items() if each.wanted and each.offered + each.owed == 0]
    amount = terms.stakes * job.posted.terms.stake
    if amount > 0:
        for worker in asking[: max(0, terms.newcomers_max - out)]:
            yield Submit(f"sponsor {job.job} {worker.hex()}", b.sponsor(job.job, worker, amount))


def fetched_back(own: bytes, job: JobView) -> Iterator[Submit]:
    """What still is to be fetched back from a job that has ended."""
    for worker, each in job.sponsorships.items():
        if each.sponsor != own:
            continue
        record = job.records.get(worker, Record())
        if each.offered:
            yield Submit(f"unsponsor {job.job} {worker.hex()}", b.unsponsor(job.job, worker))
        elif each.owed and job.state == "ended" and (record.enrolled or record.settled < record.slots):
            # the count makes the next one another: a call settles eight seats
            yield Submit(f"settle {job.job} {worker.hex()} {record.settled}", b.settle(job.job, worker))
