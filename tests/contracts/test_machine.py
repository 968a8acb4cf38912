"""The contract beside its model: any calls, in any order, by anyone, at any time; some callers are contracts.

Every call succeeds in both with the same events, or is refused by both with the same words; after every call the books
are equal to the wei, and are what the contract really holds. A bookkeeper that does not know the model checks what the
contract promises; at the end everything can be brought to an end, and everybody gets what is theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from eth_hash.auto import keccak
from hypothesis import HealthCheck, Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Event, Terms
from chain.masking import SECP256K1_ORDER
from tests.contracts.bookkeeper import Bookkeeper
from tests.contracts.callers import CALLERS, FORWARDER, REFUSER, code_of, through
from tests.contracts.evm_harness import CHAIN_ID, WEALTH, Evm, Reverted
from tests.contracts.model import UPDATE_SIZE_MAX, Model, Refused
from tests.contracts.world import BAD, BASE, GOOD, KEYS, MANIFEST, NOW, OWNER, SEED, STRANGER, WORKERS, secrets

TERMS = Terms(
    reward=1_000,
    stake=300,
    slots=3,
    workers_min=3,
    rounds_max=3,
    attempts_max=2,
    commit_window_s=60,
    reveal_window_s=40,
    last_call_s=20,
    grace_s=10,
    deadline=NOW + 3_000,
    auto_finalise=False,
)
POOL = (*WORKERS[:6], *CALLERS)
PEOPLE = (*POOL, OWNER, STRANGER)
JOBS_MAX = 2
LATE = 60  # calls before anybody tries to end a job

ZERO = bytes(20)


def mostly(usual: object, *others: object) -> st.SearchStrategy[object]:
    """The usual value, at times one of the others; hypothesis shrinks towards the usual one."""
    return st.sampled_from([usual] * 9 + list(others))


terms_strategy = st.builds(
    Terms,
    reward=mostly(1_000, 0, 2**96, 2**96 + 1),
    stake=mostly(300, 0, 2**96 + 1),
    slots=mostly(3, 1, 5, 2, 33),
    workers_min=mostly(3, 1, 0),
    rounds_max=mostly(3, 1, 0),
    attempts_max=mostly(2, 1, 0, 256),
    commit_window_s=mostly(60, 0),
    reveal_window_s=mostly(40, 0),
    last_call_s=mostly(20, 0),
    grace_s=mostly(10, 0),
    deadline=mostly(NOW + 3_000, NOW),
    auto_finalise=st.booleans(),
)


class Everybody(RuleBasedStateMachine):
    """Six workers, an owner, a stranger and the clock."""

    def __init__(self) -> None:
        super().__init__()
        self.evm = Evm(timestamp=NOW)
        self.model = Model(CHAIN_ID, refusers=(REFUSER,))
        self.bookkeeper = Bookkeeper()
        self.calls = 0
        for caller in CALLERS:
            self.evm.place(caller, code_of(caller))
        for person in PEOPLE:
            self.evm.fund(person)
        self.wealth = sum(map(self.evm.balance, PEOPLE))

    # ---- one call to both ----

    def both(self, sender: bytes, call: Call, act: Callable[[], None]) -> bool:
        """Whether it was done, as the model says."""
        self.calls += 1
        refused = reverted = None
        expected, done = [], []
        try:
            expected = self.model.call(self.evm.timestamp, self.evm.parent_hash, act)
        except Refused as error:
            refused = str(error)
        try:
            done = self.transact(sender, call)
        except Reverted as error:
            reverted = error.reason
        assert reverted == refused
        assert done == expected
        event(f"{act.__name__}: {refused or 'done'}")
        self.check_books()
        return refused is None

    def transact(self, sender: bytes, call: Call) -> list[Event]:
        """By the person, or by whoever has the contract call."""
        if sender in CALLERS:
            done = self.evm.transact(STRANGER, through(sender, call)).events
        else:
            done = self.evm.transact(sender, call).events
        self.bookkeeper.see(sender, call.value, done)
        return done

    def check_books(self) -> None:
        books = self.evm.query(b.books_view())
        assert books == self.model.books()
        held = self.evm.balance(REPLICATED)
        self.bookkeeper.check(held, self.evm.balance(ZERO))
        assert held == books.held
        assert self.evm.balance(ZERO) == books.burned
        assert sum(map(self.evm.balance, PEOPLE)) + held + books.burned == self.wealth

    # ---- owners ----

    @initialize(auto=st.booleans(), slots=st.sampled_from((3, 1, 5)), stake=mostly(300, 0))
    def first_job(self, auto: bool, slots: int, stake: int) -> None:
        terms = replace(TERMS, auto_finalise=auto, slots=slots, workers_min=min(slots, 3), stake=stake)
        self.send_post(OWNER, terms, terms.escrow, 1_000)
        for worker in POOL[:4]:
            self.send_enrol(worker, 1, 600)

    @precondition(lambda self: len(self.model.jobs) < JOBS_MAX)
    @rule(
        sender=mostly(OWNER, POOL[0], FORWARDER),
        terms=terms_strategy,
        short=mostly(0, 1),
        size=mostly(1_000, 0, UPDATE_SIZE_MAX, UPDATE_SIZE_MAX + 1),
    )
    def post(self, sender: bytes, terms: Terms, short: int, size: int) -> None:
        self.send_post(sender, terms, max(0, terms.escrow - short), size)

    def send_post(self, sender: bytes, terms: Terms, value: int, size: int) -> None:
        call = b.post(MANIFEST, BASE, size, SEED, terms)
        call = Call(call.to, value, call.data, call.gas)
        self.both(sender, call, named("post", self.model.post, sender, value, MANIFEST, BASE, size, SEED, terms))

    @rule(data=st.data(), rounds=mostly(1, 0, 2**32), sender=st.sampled_from(PEOPLE), short=mostly(0, 1))
    def top_up(self, data: st.DataObject, rounds: int, sender: bytes, short: int) -> None:
        job = self.some_job(data)
        terms = self.terms(job)
        call = b.top_up(job, rounds, terms)
        value = min(max(0, call.value - short), WEALTH // 2)  # what everybody has still
        call = Call(call.to, value, call.data, call.gas)
        self.both(sender, call, named("top_up", self.model.top_up, sender, value, job, rounds))

    @precondition(lambda self: self.calls > LATE)
    @rule(data=st.data(), sender=mostly(OWNER, *PEOPLE))
    def cancel(self, data: st.DataObject, sender: bytes) -> None:
        job = self.some_job(data)
        self.both(sender, b.cancel(job), named("cancel", self.model.cancel, sender, job))

    # ---- workers ----

    @rule(data=st.data(), worker=st.sampled_from(POOL), value=mostly(600, 300, 1_500, 0, 299))
    def enrol(self, data: st.DataObject, worker: bytes, value: int) -> None:
        self.send_enrol(worker, self.some_job(data), value)

    @rule(data=st.data(), value=mostly(600, 300, 1_500))
    def all_enrol(self, data: st.DataObject, value: int) -> None:
        job = self.some_job(data)
        for worker in POOL[:5]:
            self.send_enrol(worker, job, value)

    def send_enrol(self, worker: bytes, job: int, value: int) -> None:
        self.both(worker, b.enrol(job, value), named("enrol", self.model.enrol, worker, value, job))

    @rule(data=st.data(), worker=st.sampled_from(POOL))
    def leave(self, data: st.DataObject, worker: bytes) -> None:
        job = self.some_job(data)
        self.both(worker, b.leave(job), named("leave", self.model.leave, worker, job))

    @rule(data=st.data(), worker=st.sampled_from(POOL), kind=mostly("own", "high s", "v 27", "short", "foreign", "old"))
    def commit(self, data: st.DataObject, worker: bytes, kind: str) -> None:
        self.send_commit(worker, self.some_round(data), kind)

    @rule(data=st.data(), absent=st.integers(0, 5), liar=st.integers(0, 5), late=st.booleans())
    def whole_round(self, data: st.DataObject, absent: int, liar: int, late: bool) -> None:
        """As rounds go: all commit, one is silent, one differs, the owner finalises; the silent one may be late."""
        job = self.some_job(data)
        for worker in POOL[:3]:
            self.send_enrol(worker, job, 300)
        place = self.some_round(data, job)
        slots = self.slots(place)
        for worker in slots:
            self.send_commit(worker, place, "own")
        for number, worker in enumerate(slots):
            if number != absent:
                self.send_reveal(worker, place, "own", BAD if number == liar else GOOD)
        self.send_finalise(OWNER, place, stop=False)
        if late and absent < len(slots):
            self.send_reveal(slots[absent], place, "own", GOOD)

    # the same again: hypothesis picks rules evenly, and this one goes deepest
    another_round = whole_round
    one_more_round = whole_round

    @rule(data=st.data(), absent=st.integers(0, 8))
    def all_commit(self, data: st.DataObject, absent: int) -> None:
        place = self.some_round(data)
        for number, worker in enumerate(self.slots(place)):
            if number != absent:
                self.send_commit(worker, place, "own")

    def send_commit(self, worker: bytes, place: tuple[int, int, int], kind: str) -> None:
        r, mask = opening(kind, worker, place)
        values = (*place, keccak(worker), keccak(r), keccak(mask))
        self.both(worker, b.commit(*values), named("commit", self.model.commit, worker, *values))

    @rule(
        data=st.data(),
        worker=st.sampled_from(POOL),
        kind=mostly("own", "high s", "v 27", "short", "foreign", "old", "wrong r"),
        update=mostly(GOOD, BAD, bytes(32)),
    )
    def reveal(self, data: st.DataObject, worker: bytes, kind: str, update: bytes) -> None:
        self.send_reveal(worker, self.some_round(data), kind, update)

    @rule(data=st.data(), kind=st.sampled_from(("high s", "v 27", "short", "foreign", "old")))
    def reveal_what_was_committed_falsely(self, data: st.DataObject, kind: str) -> None:
        place = self.some_round(data)
        for worker in self.slots(place)[:1]:
            self.send_commit(worker, place, kind)
            for other in self.slots(place)[1:]:
                self.send_commit(other, place, "own")
            self.send_reveal(worker, place, kind, GOOD)

    @rule(data=st.data(), absent=st.integers(0, 8), liar=st.integers(0, 8), fork=st.booleans())
    def all_reveal(self, data: st.DataObject, absent: int, liar: int, fork: bool) -> None:
        place = self.some_round(data)
        for number, worker in enumerate(self.slots(place)):
            update = keccak(worker) if fork else BAD if number == liar else GOOD
            if number != absent:
                self.send_reveal(worker, place, "own", update)

    def send_reveal(self, worker: bytes, place: tuple[int, int, int], kind: str, update: bytes) -> None:
        values = (*place, *opening(kind, worker, place), update)
        self.both(worker, b.reveal(*values), named("reveal", self.model.reveal, worker, *values))

    @rule(data=st.data(), sender=st.sampled_from(PEOPLE))
    def withdraw(self, data: st.DataObject, sender: bytes) -> None:
        job = self.some_job(data)
        before = self.evm.balance(sender)
        owed = self.model.owed.get(sender, 0)
        if self.both(sender, b.withdraw(job), named("withdraw", self.model.withdraw, sender, job)):
            assert self.evm.balance(sender) >= before + owed
            assert self.evm.query(b.balance_view(sender)) == 0

    # ---- sponsors ----

    @rule(data=st.data(), worker=st.sampled_from(POOL))
    def ask_sponsor(self, data: st.DataObject, worker: bytes) -> None:
        job = self.some_job(data)
        self.both(worker, b.ask_sponsor(job), named("ask_sponsor", self.model.ask_sponsor, worker, job))

    @rule(
        data=st.data(),
        sender=mostly(OWNER, *PEOPLE),
        worker=st.sampled_from(POOL),
        value=mostly(600, 300, 299, 0),
    )
    def sponsor(self, data: st.DataObject, sender: bytes, worker: bytes, value: int) -> None:
        self.send_sponsor(sender, self.some_job(data), worker, value)

    def send_sponsor(self, sender: bytes, job: int, worker: bytes, value: int) -> None:
        act = named("sponsor", self.model.sponsor, sender, value, job, worker)
        self.both(sender, b.sponsor(job, worker, value), act)

    @rule(data=st.data(), sponsor=mostly(OWNER, *PEOPLE), value=mostly(600, 2_000), taken=mostly(True, False))
    def a_newcomer_is_sponsored(self, data: st.DataObject, sponsor: bytes, value: int, taken: bool) -> None:
        """Asks, is offered a deposit, enrols with nothing of its own."""
        job, worker = self.some_job(data), data.draw(st.sampled_from(POOL), label="newcomer")
        self.both(worker, b.ask_sponsor(job), named("ask_sponsor", self.model.ask_sponsor, worker, job))
        self.send_sponsor(sponsor, job, worker, value)
        if taken:
            self.send_enrol(worker, job, 0)

    @rule(data=st.data(), sender=mostly(OWNER, *PEOPLE), worker=st.sampled_from(POOL))
    def unsponsor(self, data: st.DataObject, sender: bytes, worker: bytes) -> None:
        job = self.some_job(data)
        known = self.model.jobs.get(job)
        if known is not None and (offered := [each for each in POOL if known.sponsorships[each].offered]):
            worker = data.draw(st.sampled_from(offered), label="offered to")
        act = named("unsponsor", self.model.unsponsor, sender, job, worker)
        self.both(sender, b.unsponsor(job, worker), act)

    # ---- anyone ----

    @rule(data=st.data(), sender=mostly(OWNER, *PEOPLE), stop=mostly(False, True))
    def finalise(self, data: st.DataObject, sender: bytes, stop: bool) -> None:
        self.send_finalise(sender, self.some_round(data), stop)

    def send_finalise(self, sender: bytes, place: tuple[int, int, int], stop: bool) -> None:
        values = (*place, stop)
        self.both(sender, b.finalise(*values), named("finalise", self.model.finalise, sender, *values))

    @rule(data=st.data(), sender=st.sampled_from(PEOPLE))
    def expire(self, data: st.DataObject, sender: bytes) -> None:
        place = self.some_round(data)
        self.both(sender, b.expire(*place), named("expire", self.model.expire, sender, *place))

    @rule(data=st.data(), sender=st.sampled_from(PEOPLE))
    def close(self, data: st.DataObject, sender: bytes) -> None:
        place = self.some_round(data)
        self.both(sender, b.close(*place), named("close", self.model.close, sender, *place))

    @rule(data=st.data())
    def expire_and_close(self, data: st.DataObject) -> None:
        place = self.some_round(data)
        self.pass_time(60)
        self.both(STRANGER, b.expire(*place), named("expire", self.model.expire, STRANGER, *place))
        self.pass_time(20)
        self.both(STRANGER, b.close(*place), named("close", self.model.close, STRANGER, *place))

    @precondition(lambda self: self.calls > LATE)
    @rule(data=st.data(), sender=st.sampled_from(PEOPLE))
    def end(self, data: st.DataObject, sender: bytes) -> None:
        job = self.some_job(data)
        self.both(sender, b.end(job), named("end", self.model.end, sender, job))

    @rule(data=st.data(), sender=st.sampled_from(PEOPLE), worker=st.sampled_from(PEOPLE))
    def settle(self, data: st.DataObject, sender: bytes, worker: bytes) -> None:
        job = self.some_job(data)
        self.both(sender, b.settle(job, worker), named("settle", self.model.settle, sender, job, worker))

    @rule(seconds=mostly(1, 9, 20, 60, 1_500))
    def pass_time(self, seconds: int) -> None:
        self.evm.timestamp += seconds
        self.evm.number += 1

    # ---- the end ----

    def teardown(self) -> None:
        """After the deadlines one person, the owner or a stranger, brings every job and round to its end; then all get
        what is theirs.
        """
        sender = OWNER if self.calls % 2 else STRANGER
        self.pass_time(3_000)
        for job in self.model.jobs:
            self.bring_to_an_end(job, sender)
        assert self.evm.query(b.open_count_view()) == 0, "an ended job is listed"
        for job in self.model.jobs:
            for person in PEOPLE:
                self.fetch(job, person)
            for person in PEOPLE:  # once more: what the last ones gave back to their sponsors
                self.fetch(job, person)
        books = self.evm.query(b.books_view())
        assert (books.escrowed, books.reserved, books.free, books.locked, books.offered) == (0, 0, 0, 0, 0)
        self.check_money_is_out()

    def bring_to_an_end(self, job: int, sender: bytes) -> None:
        if self.evm.query(b.job_view(job)).state == b.WAITING:
            self.transact(sender, b.end(job))
        for (number, *place), seen in list(self.bookkeeper.rounds.items()):
            if number != job:
                continue
            for _ in range(3):  # commits, reveals, late reveals
                if seen.over:
                    break
                if seen.majority is not None and seen.winner is None:
                    self.transact(sender, b.finalise(job, *place, False))
                    continue
                shown = self.evm.query(b.round_view(job, *place))
                self.pass_time(max(0, shown.deadline - self.evm.timestamp))
                if shown.last_call_until == 0:
                    self.transact(sender, b.expire(job, *place))
                self.pass_time(TERMS.last_call_s)
                self.transact(sender, b.close(job, *place))

    def fetch(self, job: int, person: bytes) -> None:
        """All that an account has in a job, and all that it is owed; who refuses its money is owed it still."""
        for worker in POOL:
            offer = self.evm.query(b.sponsorship_view(job, worker))
            if offer.offered and offer.sponsor == person:
                self.transact(person, b.unsponsor(job, worker))
        view = self.evm.query(b.enrolment_view(job, person))
        for _ in range((view.tail - view.head) // 8 + 1):
            self.transact(STRANGER, b.settle(job, person))
        if person != REFUSER:
            self.transact(person, b.withdraw(job))

    def check_money_is_out(self) -> None:
        held = self.evm.balance(REPLICATED)
        self.bookkeeper.check(held, self.evm.balance(ZERO))
        self.bookkeeper.check_all_is_over(REFUSER)
        assert held == self.evm.query(b.balance_view(REFUSER))

    # ---- views, and where to act ----

    @rule(data=st.data(), worker=st.sampled_from(POOL))
    def look(self, data: st.DataObject, worker: bytes) -> None:
        job, round_, attempt = self.some_round(data)
        if job not in self.model.jobs:
            return
        known = self.model.jobs[job]
        view = self.evm.query(b.job_view(job))
        assert (view.state, view.settled, view.attempt, view.base) == (
            known.state, known.settled, known.attempt, known.base,
        )  # fmt: skip
        assert (view.entropy, view.escrow, view.terms) == (known.entropy, known.escrow, known.terms)
        seen = [self.evm.query(b.enrolled_at_view(job, place)) for place in range(len(known.pool) + 1)]
        assert seen == [*known.pool, ZERO]
        enrolment = self.evm.query(b.enrolment_view(job, worker))
        assert enrolment.free == known.free[worker]
        assert enrolment.tail - enrolment.head == len(known.queues[worker])
        debt = known.sponsorships[worker]
        expected = b.Sponsorship(debt.wanted, debt.sponsor, debt.offered, debt.owed)
        assert self.evm.query(b.sponsorship_view(job, worker)) == expected
        found = known.rounds.get((round_, attempt))
        if found is not None:
            shown = self.evm.query(b.round_view(job, round_, attempt))
            assert (shown.phase, shown.slots, shown.commits, shown.reveals) == (
                found.phase, len(found.seats), found.commits, found.reveals,
            )  # fmt: skip
            assert self.evm.query(b.votes_view(job, round_, attempt, GOOD)) == found.votes(GOOD)
            seat = self.evm.query(b.seat_view(job, round_, attempt, worker))
            assert seat.state == (found.seats[worker].state if worker in found.seats else 0)

    def some_job(self, data: st.DataObject) -> int:
        return data.draw(mostly(len(self.model.jobs), 1, 0, 9), label="job")

    def some_round(self, data: st.DataObject, job: int | None = None) -> tuple[int, int, int]:
        job = self.some_job(data) if job is None else job
        known = self.model.jobs.get(job)
        rounds: Sequence[tuple[int, int]] = list(known.rounds) if known is not None else []
        newest = rounds[-1] if rounds else (1, 1)
        return job, *data.draw(mostly(newest, *rounds[-3:], (0, 0)), label="round")

    def slots(self, place: tuple[int, int, int]) -> Sequence[bytes]:
        found = self.model.round(*place)
        return list(found.seats) if found is not None else []

    def terms(self, job: int) -> Terms:
        known = self.model.jobs.get(job)
        return known.terms if known is not None else TERMS


def opening(kind: str, worker: bytes, place: tuple[int, int, int]) -> tuple[bytes, bytes]:
    """R and S as an honest worker makes them, or not quite. A contract has no key to sign with: it takes another's."""
    if worker in CALLERS:
        worker = STRANGER
    r, mask = secrets(worker, *place)
    match kind:
        case "high s":
            s = SECP256K1_ORDER - int.from_bytes(mask[32:64], "big")
            return r, mask[:32] + s.to_bytes(32, "big") + bytes([mask[64] ^ 1])
        case "v 27":
            return r, mask[:64] + bytes([mask[64] + 27])
        case "short":
            return r, mask[:64]
        case "foreign":
            return secrets(next(person for person in KEYS if person != worker), *place)
        case "old":
            job, round_, attempt = place
            return secrets(worker, job, round_ + 1, attempt)
        case "wrong r":
            return keccak(r), mask
    return r, mask


def named(name: str, method: Callable[..., None], *values: object) -> Callable[[], None]:
    def act() -> None:
        method(*values)

    act.__name__ = name
    return act


TestEverybody = Everybody.TestCase
TestEverybody.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    database=None,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
