"""The replicated-job contract, told again in plain Python: the slow readable version is the oracle of the fast one.

Each call takes the caller, the value it carries and the clock, and either gives the events in order or raises `Refused`
and changes nothing. Where the contract keeps running totals, the model adds up what is there.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from eth_hash.auto import keccak

from chain import masking
from chain.contracts import REPLICATED, REPLICATED_KIND
from chain.contracts import bindings as b
from chain.contracts.events import Event, Terms
from tests.contracts.evm_harness import PROPOSER, hash_of_block
from tests.contracts.model_terms import Refused, check_terms, need
from tests.contracts.model_values import ZERO, Job, Round, Seat, Sponsorship

UPDATE_SIZE_MAX = 64 * 2**20


class Model:
    """All jobs, and what everybody is owed."""

    def __init__(self, chain_id: int, refusers: tuple[bytes, ...] = (), sponsors: bool = True) -> None:
        self.chain_id = chain_id
        self.sponsors = sponsors
        self.refusers = refusers  # accounts that revert when they are paid
        self.jobs: dict[int, Job] = {}
        self.owed: dict[bytes, int] = defaultdict(int)
        self.burned = 0
        self.now = self.block = 0
        self.events: list[Event] = []

    def call(self, now: int, block: int, act: Callable[[], None]) -> list[Event]:
        """Run one bound method as a transaction."""
        before = copy.deepcopy(self.__dict__)
        self.now, self.block, self.events = now, block, []
        try:
            act()
        except Refused:
            self.__dict__.update(before)
            raise
        return self.events

    def books(self) -> b.Books:
        jobs = self.jobs.values()
        return b.Books(
            escrowed=sum(job.escrow for job in jobs),
            reserved=sum(self.reserved(job, each) for job in jobs for each in job.rounds.values()),
            free=sum(sum(job.free.values()) for job in jobs),
            locked=sum(job.terms.stake * sum(map(len, job.queues.values())) for job in jobs),
            owed=sum(self.owed.values()),
            offered=sum(each.offered for job in jobs for each in job.sponsorships.values()),
            burned=self.burned,
        )

    def reserved(self, job: Job, each: Round) -> int:
        bonded = each.phase == b.AUDIT and each.appellant != ZERO
        return job.terms.reward * each.rewards_unpaid + each.fee + job.terms.appeal_bond * bonded

    # ---- owners ----

    def post(
        self, sender: bytes, value: int, manifest: bytes, base: bytes, size: int, seed: bytes, terms: Terms
    ) -> None:
        check_terms(terms, self.now)
        need(1 <= size <= UPDATE_SIZE_MAX, "update size out of range")
        need(value == terms.escrow, "value is not (reward * slots + audit fee) * rounds")
        number = len(self.jobs) + 1
        self.jobs[number] = Job(sender, manifest, size, seed, base, terms, escrow=value)
        self.log(b.JobPosted(number, sender, manifest, base, size, seed, terms))
        self.log(b.JobListed(REPLICATED_KIND, REPLICATED, number))

    def top_up(self, sender: bytes, value: int, number: int, rounds: int) -> None:
        job = self.open_job(number)
        need(1 <= rounds <= 2**32 - job.terms.rounds_max, "rounds out of range")
        round_max = job.terms.reward * job.terms.slots + job.terms.audit_fee
        need(value == round_max * rounds, "value is not (reward * slots + audit fee) * rounds")
        job.escrow += value
        job.terms = replace(job.terms, rounds_max=job.terms.rounds_max + rounds)
        self.log(b.JobToppedUp(number, job.terms.rounds_max))

    def cancel(self, sender: bytes, number: int) -> None:
        job = self.open_job(number)
        need(sender == job.owner, "only the owner may cancel")
        job.cancelled = True
        self.log(b.JobCancelled(number))
        if job.state == b.WAITING:
            self.end_job(number, b.CANCELLED)

    # ---- workers ----

    def enrol(self, sender: bytes, value: int, number: int) -> None:
        job = self.open_job(number)
        need(self.now < job.terms.deadline, "deadline has passed")
        self.need_draw_unknown(number)
        if sender not in job.pool:
            job.pool.append(sender)
            job.seated.pop(sender, None)
        self.settle_seats(number, sender, 2)
        offer = job.sponsorships[sender]
        if offer.offered:
            offer.offered, offer.owed = 0, offer.offered
            value += offer.owed
        job.free[sender] += value
        need(job.free[sender] >= job.terms.stake, "deposit below one stake")
        self.log(b.Enrolled(number, sender, job.free[sender]))
        if job.state == b.WAITING and len(job.pool) >= job.terms.workers_min:
            self.open_round(number)

    def leave(self, sender: bytes, number: int) -> None:
        need(number in self.jobs and sender in self.jobs[number].pool, "not enrolled")
        self.need_draw_unknown(number)
        self.settle_seats(number, sender, 2)
        self.leave_now(number, sender)

    def need_draw_unknown(self, number: int) -> None:
        job = self.jobs[number]
        present = self.round(number, job.settled + 1, job.attempt)
        need(present is None or (present.grace_until == 0 and not present.audit), "slots are about to be drawn")

    def commit(
        self, sender: bytes, number: int, round_: int, attempt: int, ciphertext: bytes, r_hash: bytes, s_hash: bytes
    ) -> None:
        open_round = self.round(number, round_, attempt)
        need(open_round is not None and open_round.phase == b.COMMIT, "round takes no commits")
        assert open_round is not None
        need(sender in open_round.seats, "caller holds no slot")
        need(open_round.seats[sender].state == b.DRAWN, "already committed")
        open_round.seats[sender] = Seat(b.COMMITTED, ciphertext, r_hash, s_hash)
        self.log(b.Committed(number, round_, sender, attempt, ciphertext, r_hash, s_hash))
        if open_round.commits == len(open_round.seats):
            self.open_reveals(number, round_, attempt)
        self.settle_seats(number, sender, 2)

    def reveal(
        self, sender: bytes, number: int, round_: int, attempt: int, r: bytes, mask: bytes, update: bytes
    ) -> None:
        open_round = self.round(number, round_, attempt)
        phases = (b.REVEAL, b.AUDIT, b.SETTLED)
        need(open_round is not None and open_round.phase in phases, "round takes no reveals")
        assert open_round is not None
        seat = open_round.seats.get(sender)
        need(seat is not None and seat.state >= b.COMMITTED, "caller has not committed")
        assert seat is not None
        need(seat.state == b.COMMITTED, "already revealed")
        need(keccak(r) == seat.r_hash, "r is not the committed one")
        need(keccak(mask) == seat.s_hash, "mask is not the committed one")
        ctx = masking.context(self.chain_id, REPLICATED, number, round_, attempt, sender)
        need(self.signed(sender, ctx, r, mask), "mask is not signed by the caller")
        job = self.jobs[number]
        seat.state, seat.update = b.REVEALED, update
        self.log(b.Revealed(number, round_, sender, attempt, ctx, seat.ciphertext, job.update_size, r, mask, update))
        if open_round.phase == b.SETTLED:
            self.close_if_all_revealed(number, round_, attempt)
        elif open_round.grace_until == 0:
            self.count(number, round_, attempt, r, update)
        self.settle_seats(number, sender, 2)

    def withdraw(self, sender: bytes, number: int) -> None:
        self.settle(sender, number, sender)
        if amount := self.owed.pop(sender, 0):
            if sender in self.refusers:
                raise Refused("")
            self.log(b.Withdrawn(sender, amount))

    # ---- sponsors and those who want one ----

    def ask_sponsor(self, sender: bytes, number: int) -> None:
        need(self.sponsors, "sponsors are off")
        self.open_job(number).sponsorships[sender].wanted = True
        self.log(b.SponsorWanted(number, sender))

    def sponsor(self, sender: bytes, value: int, number: int, worker: bytes) -> None:
        job = self.open_job(number)
        known = job.sponsorships[worker]
        need(known.wanted and not known.offered and not known.owed, "no sponsor is wanted")
        need(value >= max(1, job.terms.stake), "offer below a stake")
        job.sponsorships[worker] = Sponsorship(False, sender, value)
        self.log(b.Sponsored(number, worker, sender, value))

    def unsponsor(self, sender: bytes, number: int, worker: bytes) -> None:
        known = self.jobs[number].sponsorships[worker] if number in self.jobs else Sponsorship()
        need(known.offered > 0 and known.sponsor == sender, "no offer of yours")
        amount, known.offered = known.offered, 0
        self.owed[sender] += amount
        self.log(b.Unsponsored(number, worker, sender, amount))

    # ---- anyone ----

    def appeal(self, sender: bytes, value: int, number: int, round_: int, attempt: int) -> None:
        found = self.round(number, round_, attempt)
        decided = found is not None and found.phase == b.REVEAL and found.grace_until > 0 and found.audit == 0
        need(decided, "no appeal is open")
        assert found is not None
        job = self.jobs[number]
        need(self.now < found.grace_until - job.terms.grace_s, "no appeal is open")
        need(value == job.terms.appeal_bond, "not the bond's value")
        found.grace_until = 0
        self.open_audit(number, round_, attempt, b.APPEALED, sender)

    def resolve(self, sender: bytes, number: int, round_: int, attempt: int, update: bytes) -> None:
        found = self.round(number, round_, attempt)
        need(found is not None and found.phase == b.AUDIT, "round has no audit")
        assert found is not None
        job = self.jobs[number]
        ctx = masking.audit_context(self.chain_id, REPLICATED, number, round_, attempt)
        batch_seed = keccak(job.seed + word(round_) + word(attempt))
        size = job.update_size
        self.log(b.Audited(number, round_, attempt, ctx, job.manifest, found.base, batch_seed, size, update))
        if found.appellant != ZERO and update == found.winner:
            self.burned += job.terms.appeal_bond - job.terms.audit_fee
        else:
            self.owed[found.appellant] += job.terms.appeal_bond if found.appellant != ZERO else 0
            found.fee = 0
        self.owed[PROPOSER] += job.terms.audit_fee
        found.audit, found.winner = b.AUDIT_RESOLVED, update
        if found.votes(update):
            self.decide(number, round_, attempt, update)
        else:
            self.open_reveals(number, round_, attempt)

    def finalise(self, sender: bytes, number: int, round_: int, attempt: int, stop: bool) -> None:
        open_round = self.round(number, round_, attempt)
        need(open_round is not None and open_round.phase == b.REVEAL, "round takes no finalise")
        assert open_round is not None
        need(open_round.grace_until > 0, "no majority")
        if open_round.audit == 0:
            appeals_end = open_round.grace_until - self.jobs[number].terms.grace_s
            need(self.now >= appeals_end, "appeals may come")
        if sender != self.jobs[number].owner:
            need(not stop, "only the owner may stop")
            need(self.now >= open_round.grace_until, "grace has not passed")
        self.settle_round(number, round_, attempt, stop)

    def expire(self, sender: bytes, number: int, round_: int, attempt: int) -> None:
        open_round = self.unclosed_round(number, round_, attempt)
        need(self.now >= open_round.deadline, "deadline has not passed")
        need(open_round.last_call_until == 0, "last call was granted")
        open_round.last_call_until = self.now + self.jobs[number].terms.last_call_s
        self.log(b.LastCall(number, round_, attempt, open_round.last_call_until))

    def close(self, sender: bytes, number: int, round_: int, attempt: int) -> None:
        open_round = self.unclosed_round(number, round_, attempt)
        need(open_round.last_call_until > 0, "no last call was granted")
        need(self.now >= open_round.last_call_until, "last call has not passed")
        if open_round.phase == b.SETTLED:
            self.close_round(number, round_, attempt)
        elif open_round.phase == b.COMMIT and 2 * open_round.commits > len(open_round.seats):
            self.open_reveals(number, round_, attempt)
        elif open_round.phase == b.AUDIT:
            self.lapse(number, round_, attempt)
        elif (
            open_round.phase == b.REVEAL and not open_round.grace_until
            and open_round.audit == 0 and open_round.reveals and self.jobs[number].terms.audit_ppm
        ):  # fmt: skip
            self.open_audit(number, round_, attempt, b.UNDECIDED, ZERO)
        else:
            need(open_round.grace_until == 0, "finalise first")
            self.void_round(number, round_, attempt)

    def end(self, sender: bytes, number: int) -> None:
        job = self.open_job(number)
        need(job.state == b.WAITING, "a round is open")
        need(self.now >= job.terms.deadline, "deadline has not passed")
        self.end_job(number, b.DEADLINE)

    def settle(self, sender: bytes, number: int, worker: bytes) -> None:
        job = self.posted_job(number)
        self.settle_seats(number, worker, 8)
        if job.state == b.ENDED and worker in job.pool:
            self.leave_now(number, worker)

    # ---- the course of a round ----

    def open_round(self, number: int) -> None:
        job = self.jobs[number]
        round_, attempt = job.settled + 1, job.attempt
        if (round_, attempt) == (1, 1):
            job.entropy = hash_of_block(self.block - 1)
        drawn = self.draw(number)
        if len(drawn) < job.terms.workers_min:
            job.state = b.WAITING
            self.log(b.JobWaiting(number, len(job.pool)))
            return
        if job.escrow < job.terms.reward * len(drawn) + job.terms.audit_fee:
            self.end_job(number, b.FAILED)
            return
        job.state = b.RUNNING
        job.escrow -= job.terms.reward * len(drawn) + job.terms.audit_fee
        deadline = self.now + job.terms.commit_window_s
        seats = {worker: Seat() for worker in drawn}
        job.seated |= dict.fromkeys(drawn, (round_, attempt))
        job.rounds[round_, attempt] = Round(job.base, deadline, seats, fee=job.terms.audit_fee)
        for worker in drawn:
            job.free[worker] -= job.terms.stake
            job.queues[worker].append((round_, attempt))
        batch_seed = keccak(job.seed + word(round_) + word(attempt))
        self.log(b.RoundOpened(number, round_, attempt, job.base, batch_seed, tuple(drawn), deadline))

    def draw(self, number: int) -> list[bytes]:
        job = self.jobs[number]
        drawn = 0
        for step in range(47):
            left = len(job.pool) - drawn
            if left == 0 or drawn == job.terms.slots:
                break
            place = drawn
            if len(job.pool) > job.terms.slots:
                place += int.from_bytes(keccak(job.entropy + word(number) + word(step)), "big") % left
            worker = job.pool[place]
            last = job.seated.get(worker)
            absent = len(job.pool) > job.terms.workers_min and last is not None
            absent = absent and job.rounds[last].seats[worker].ciphertext == b""
            if not absent:
                self.settle_seats(number, worker, 2)
            if absent or job.free[worker] < job.terms.stake:
                self.log(b.Evicted(number, worker, absent))
                self.remove(number, worker)
            else:
                job.pool[place], job.pool[drawn] = job.pool[drawn], worker
                drawn += 1
        return job.pool[:drawn]

    def open_reveals(self, number: int, round_: int, attempt: int) -> None:
        job = self.jobs[number]
        open_round = job.rounds[round_, attempt]
        open_round.phase = b.REVEAL
        open_round.deadline = self.now + job.terms.reveal_window_s
        open_round.last_call_until = 0
        open_round.opened_in = self.block if job.terms.audit_ppm else 0
        self.log(b.RevealOpened(number, round_, attempt, open_round.commits, open_round.deadline))

    def count(self, number: int, round_: int, attempt: int, r: bytes, update: bytes) -> None:
        job = self.jobs[number]
        found = job.rounds[round_, attempt]
        majority = 2 * found.votes(update) > len(found.seats)
        match found.audit:
            case b.AUDIT_RESOLVED:
                if update == found.winner:
                    self.decide(number, round_, attempt, update)
            case b.AUDIT_OPEN:
                pass  # whether there is a majority is asked again if the audit lapses
            case _:
                job.entropy = xor(job.entropy, keccak(b"draw" + r))
                if found.reveals == 1 and 0 < found.opened_in < self.block <= found.opened_in + 256:
                    found.seed = hash_of_block(found.opened_in)
                if majority and self.is_drawn((number, round_, attempt)):
                    found.winner = update
                    self.open_audit(number, round_, attempt, b.DRAWN_BY_LOT, ZERO)
                elif majority:
                    self.decide(number, round_, attempt, update)

    def is_drawn(self, place: tuple[int, int, int]) -> bool:
        job, found = self.jobs[place[0]], self.jobs[place[0]].rounds[place[1:]]
        if job.terms.audit_ppm == 0 or found.seed == bytes(32):
            return job.terms.audit_ppm > 0
        key = keccak(b"".join(map(word, place)))
        return int.from_bytes(keccak(b"audit" + key + found.seed), "big") % 10**6 < job.terms.audit_ppm

    def open_audit(self, number: int, round_: int, attempt: int, cause: int, appellant: bytes) -> None:
        found = self.jobs[number].rounds[round_, attempt]
        found.phase, found.audit, found.appellant = b.AUDIT, b.AUDIT_OPEN, appellant
        found.deadline = self.now + self.jobs[number].terms.audit_window_s
        found.last_call_until = 0
        self.log(b.AuditOpened(number, round_, attempt, cause, appellant, found.deadline))

    def lapse(self, number: int, round_: int, attempt: int) -> None:
        found = self.jobs[number].rounds[round_, attempt]
        found.audit = b.AUDIT_LAPSED
        self.log(b.AuditLapsed(number, round_, attempt))
        if found.appellant != ZERO:
            self.owed[found.appellant] += self.jobs[number].terms.appeal_bond
        updates = {seat.update for seat in found.seats.values() if seat.update}
        majority = [update for update in updates if 2 * found.votes(update) > len(found.seats)]
        if majority:
            self.decide(number, round_, attempt, majority[0])
        else:
            self.void_round(number, round_, attempt)

    def decide(self, number: int, round_: int, attempt: int, winner: bytes) -> None:
        job = self.jobs[number]
        open_round = job.rounds[round_, attempt]
        open_round.phase, open_round.winner = b.REVEAL, winner
        appeals_s = 0 if open_round.audit else job.terms.appeal_window_s
        open_round.grace_until = self.now + appeals_s + job.terms.grace_s
        votes = open_round.votes(winner)
        self.log(b.MajorityReached(number, round_, attempt, winner, votes, open_round.grace_until))
        if job.terms.auto_finalise:
            self.settle_round(number, round_, attempt, stop=False)

    def settle_round(self, number: int, round_: int, attempt: int, stop: bool) -> None:
        job = self.jobs[number]
        open_round = job.rounds[round_, attempt]
        assert open_round.winner is not None
        self.give_back_fee(number, open_round)
        open_round.phase, open_round.last_call_until = b.SETTLED, 0
        job.base, job.settled, job.attempt = open_round.winner, round_, 1
        votes = open_round.votes(open_round.winner)
        self.log(b.RoundSettled(number, round_, attempt, open_round.winner, votes))
        self.close_if_all_revealed(number, round_, attempt)
        if stop:
            self.end_job(number, b.STOPPED)
        elif job.cancelled:
            self.end_job(number, b.CANCELLED)
        elif round_ == job.terms.rounds_max:
            self.end_job(number, b.FINISHED)
        elif self.now >= job.terms.deadline:
            self.end_job(number, b.DEADLINE)
        else:
            self.open_round(number)

    def close_if_all_revealed(self, number: int, round_: int, attempt: int) -> None:
        open_round = self.jobs[number].rounds[round_, attempt]
        if open_round.commits == open_round.reveals:
            self.close_round(number, round_, attempt)

    def close_round(self, number: int, round_: int, attempt: int) -> None:
        open_round = self.jobs[number].rounds[round_, attempt]
        open_round.phase = b.CLOSED
        unearned = len(open_round.seats) - open_round.votes(open_round.winner)
        self.give_back(number, self.jobs[number].terms.reward * unearned)
        self.log(b.RoundClosed(number, round_, attempt))

    def void_round(self, number: int, round_: int, attempt: int) -> None:
        job = self.jobs[number]
        open_round = job.rounds[round_, attempt]
        open_round.phase = b.VOID
        self.give_back(number, job.terms.reward * len(open_round.seats))
        self.give_back_fee(number, open_round)
        self.log(b.RoundVoided(number, round_, attempt, open_round.commits, open_round.reveals))
        job.attempt = attempt + 1
        job.entropy = keccak(job.entropy + word(attempt))
        if job.cancelled:
            self.end_job(number, b.CANCELLED)
        elif attempt == job.terms.attempts_max:
            self.end_job(number, b.FAILED)
        elif self.now >= job.terms.deadline:
            self.end_job(number, b.DEADLINE)
        else:
            self.open_round(number)

    def end_job(self, number: int, reason: int) -> None:
        job = self.jobs[number]
        job.state = b.ENDED
        self.owed[job.owner] += job.escrow
        job.escrow = 0
        self.log(b.JobEnded(number, reason, job.settled, job.base))
        self.log(b.JobDelisted(REPLICATED_KIND, REPLICATED, number))

    # ---- money and small things ----

    def remove(self, number: int, worker: bytes) -> None:
        job = self.jobs[number]
        job.pool[job.pool.index(worker)] = job.pool[-1]
        job.pool.pop()
        self.pay(number, worker, job.free.pop(worker, 0))

    def leave_now(self, number: int, worker: bytes) -> None:
        self.log(b.Left(number, worker, self.jobs[number].free[worker]))
        self.remove(number, worker)

    def pay(self, number: int, worker: bytes, amount: int) -> None:
        """The sponsor first, as far as it is owed."""
        debt = self.jobs[number].sponsorships[worker]
        repaid = min(debt.owed, amount)
        if repaid:
            debt.owed -= repaid
            self.owed[debt.sponsor] += repaid
            self.log(b.DebtRepaid(number, worker, debt.sponsor, repaid))
        self.owed[worker] += amount - repaid

    def give_back(self, number: int, amount: int) -> None:
        job = self.jobs[number]
        if job.state == b.ENDED:
            self.owed[job.owner] += amount
        else:
            job.escrow += amount

    def give_back_fee(self, number: int, found: Round) -> None:
        fee, found.fee = found.fee, 0
        self.give_back(number, fee)

    def settle_seats(self, number: int, worker: bytes, count: int) -> None:
        queue = self.jobs[number].queues[worker]
        for _ in range(count):
            if not queue or not self.settle_seat(number, *queue[0], worker):
                break
            queue.pop(0)

    def settle_seat(self, number: int, round_: int, attempt: int, worker: bytes) -> bool:
        job = self.jobs[number]
        seat_round = job.rounds[round_, attempt]
        seat = seat_round.seats[worker]
        won = False
        match seat_round.phase:
            case b.VOID if seat_round.audit == b.AUDIT_RESOLVED:
                keeps = False  # who revealed the true update would have decided it
            case b.VOID if 2 * seat_round.commits > len(seat_round.seats):
                keeps = seat.update != b""
            case b.VOID:
                keeps = seat.ciphertext != b""
            case b.CLOSED:
                keeps = won = seat.update == seat_round.winner
            case b.SETTLED if seat.update != b"":
                keeps = won = seat.update == seat_round.winner
            case _:
                return False
        seat.state = b.SEAT_SETTLED if seat.ciphertext else b.ABSENT
        earned = job.terms.reward if won else 0
        forfeited = 0 if keeps else job.terms.stake
        seat_round.rewards_paid += won
        self.burned += forfeited
        if keeps and worker in job.pool:
            job.free[worker] += job.terms.stake
            self.pay(number, worker, earned)
        elif keeps:
            self.pay(number, worker, earned + job.terms.stake)
        self.log(b.SeatSettled(number, round_, worker, attempt, earned, forfeited))
        return True

    def signed(self, worker: bytes, ctx: bytes, r: bytes, mask: bytes) -> bool:
        try:
            return masking.recover_mask(self.chain_id, REPLICATED, ctx, r, mask) == worker
        except masking.InvalidMask:
            return False

    def log(self, event: Event) -> None:
        self.events.append(event)

    def posted_job(self, number: int) -> Job:
        need(number in self.jobs, "no such job")
        return self.jobs[number]

    def open_job(self, number: int) -> Job:
        job = self.posted_job(number)
        need(job.state != b.ENDED, "job has ended")
        need(not job.cancelled, "job is cancelled")
        return job

    def round(self, number: int, round_: int, attempt: int) -> Round | None:
        return self.jobs[number].rounds.get((round_, attempt)) if number in self.jobs else None

    def unclosed_round(self, number: int, round_: int, attempt: int) -> Round:
        found = self.round(number, round_, attempt)
        phases = (b.COMMIT, b.REVEAL, b.AUDIT, b.SETTLED)
        need(found is not None and found.phase in phases, "round is not open")
        assert found is not None
        return found


def word(value: int) -> bytes:
    return value.to_bytes(32, "big")


def xor(one: bytes, other: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(one, other, strict=True))
