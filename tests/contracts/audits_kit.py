"""Jobs with audits, and what must not be done in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Event
from tests.contracts.evm_harness import Done
from tests.contracts.world import BAD, BASE, GOOD, MANIFEST, OWNER, SEED, STRANGER, TERMS, UPDATE_SIZE, WORKERS, World

FEE = 70
BOND = 100
AUDIT_WINDOW_S = 50
APPEAL_WINDOW_S = 15
ALWAYS = {"audit_ppm": 10**6, "audit_fee": FEE, "audit_window_s": AUDIT_WINDOW_S}
APPEALS = {
    "audit_fee": FEE, "audit_window_s": AUDIT_WINDOW_S, "appeal_window_s": APPEAL_WINDOW_S, "appeal_bond": BOND,
}  # fmt: skip
FIRST, SECOND, THIRD = WORKERS[:3]


class Told(World):
    """A world that remembers what became of each seat: some are settled on the way of other calls."""

    def __init__(self) -> None:
        super().__init__()
        self.seats: dict[tuple[int, int, bytes], tuple[int, int]] = {}

    def run(self, sender: bytes, call: Call) -> Done:
        done = super().run(sender, call)
        for event in done.events:
            if isinstance(event, b.SeatSettled):
                self.seats[event.round, event.attempt, event.worker] = event.earned, event.forfeited
        return done

    def settled(self, job: int, *workers: bytes) -> list[tuple[int, int]]:
        """(earned, forfeited) of the workers' seats in the first attempt of round 1, as far as they are decided."""
        for worker in workers:
            self.do(STRANGER, b.settle(job, worker))
        self.books()
        return [self.seats[1, 1, worker] for worker in workers if (1, 1, worker) in self.seats]


def alone(world: World, update: bytes | None, **changes: object) -> int:
    """A pool of one that is always audited: its worker has committed, and revealed unless `update` is None."""
    job = world.post(**{"slots": 1, "workers_min": 1, **ALWAYS, **changes})
    world.enrol(job, 1)
    world.commit(job)
    world.wait(1)  # reveals come in a later block
    if update is not None:
        world.reveal(job, {FIRST: update})
    return job


def three(world: World, updates: dict[bytes, bytes], **changes: object) -> int:
    """A round of three in which all have committed and these have revealed."""
    job = world.post(**changes)
    world.enrol(job, 3)
    world.commit(job)
    world.wait(1)
    world.reveal(job, updates)
    return job


def resolve(world: World, job: int, update: bytes, round_: int = 1, attempt: int = 1) -> list[Event]:
    return world.do(STRANGER, b.resolve(job, round_, attempt, update))


def appeal(world: World, job: int, sender: bytes = STRANGER, bond: int = BOND) -> list[Event]:
    return world.do(sender, b.appeal(job, 1, 1, bond))


Refusal = Callable[[World], object]
AUDIT_REFUSALS: list[tuple[str, Refusal]] = []


def refusal(reason: str) -> Callable[[Refusal], Refusal]:
    def register(story: Refusal) -> Refusal:
        AUDIT_REFUSALS.append((f"replicated: {reason}", story))
        return story

    return register


def post_with(**changes: object) -> Refusal:
    return lambda world: world.do(OWNER, b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, replace(TERMS, **changes)))


YEAR_S = 365 * 86_400
for _reason, _changes in (
    ("audits out of range", {"audit_ppm": 10**6 + 1}),
    ("audits out of range", {"audit_window_s": 0}),
    ("audits out of range", {"audit_window_s": YEAR_S + 1}),
    ("audits out of range", {"audit_fee": 2**96 + 1}),
    ("appeals out of range", {**APPEALS, "appeal_window_s": YEAR_S + 1}),
    ("appeals out of range", {**APPEALS, "appeal_bond": FEE - 1}),
    ("appeals out of range", {**APPEALS, "appeal_bond": 2**96 + 1}),
    ("appeals out of range", {**APPEALS, "auto_finalise": True}),
):
    refusal(_reason)(post_with(**_changes))


@refusal("value is not (reward * slots + audit fee) * rounds")
def post_without_the_audits_fee(world: World) -> None:
    call = b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, replace(TERMS, audit_fee=FEE))
    world.do(OWNER, b.Call(call.to, TERMS.escrow, call.data, call.gas))


@refusal("no appeal is open")
def appeal_where_the_terms_know_none(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD})
    appeal(world, job, bond=0)


@refusal("no appeal is open")
def appeal_without_a_majority(world: World) -> None:
    appeal(world, three(world, {FIRST: GOOD}, **APPEALS))


@refusal("no appeal is open")
def appeal_against_a_round_that_is_not(world: World) -> None:
    appeal(world, world.post(**APPEALS))


@refusal("no appeal is open")
def appeal_when_the_window_is_over(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    world.wait(APPEAL_WINDOW_S)
    appeal(world, job)


@refusal("no appeal is open")
def appeal_twice(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    appeal(world, job)


@refusal("no appeal is open")
def appeal_against_a_verdict(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    resolve(world, job, GOOD)
    appeal(world, job)


@refusal("no appeal is open")
def appeal_once_the_round_is_settled(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    world.wait(APPEAL_WINDOW_S)
    world.do(OWNER, b.finalise(job, 1, 1, False))
    appeal(world, job)


@refusal("not the bond's value")
def appeal_a_wei_short(world: World) -> None:
    appeal(world, three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS), bond=BOND - 1)


@refusal("not the bond's value")
def appeal_a_wei_over(world: World) -> None:
    appeal(world, three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS), bond=BOND + 1)


@refusal("appeals may come")
def finalise_while_an_appeal_may_come(world: World) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    world.wait(APPEAL_WINDOW_S - 1)
    world.do(OWNER, b.finalise(job, 1, 1, False))


@refusal("round takes no finalise")
def finalise_during_an_audit(world: World) -> None:
    world.do(OWNER, b.finalise(alone(world, GOOD), 1, 1, False))


@refusal("round has no audit")
def resolve_a_round_that_is_not_audited(world: World) -> None:
    resolve(world, three(world, {FIRST: GOOD, SECOND: GOOD}), BAD)


@refusal("round has no audit")
def resolve_twice(world: World) -> None:
    job = alone(world, GOOD)
    resolve(world, job, BAD)
    resolve(world, job, GOOD)


@refusal("no majority")
def finalise_what_an_audit_has_contradicted(world: World) -> None:
    job = alone(world, BAD)
    resolve(world, job, GOOD)
    world.do(OWNER, b.finalise(job, 1, 1, False))
