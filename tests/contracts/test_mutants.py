"""Each defence of the contract is needed: without it, the matching attack succeeds, and the bookkeeper notices.

A mutant is the contract with one line changed. Every story is played on the contract as it is, where it must come to
nothing, and on its mutant.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from eth_hash.auto import keccak

from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from tests.contracts.audits_kit import ALWAYS, APPEALS, BOND, alone, appeal, resolve, three
from tests.contracts.bookkeeper import Bookkeeper
from tests.contracts.changed import place_changed
from tests.contracts.evm_harness import CODE_MAX, Done, Reverted
from tests.contracts.world import BAD, GOOD, OWNER, REWARD, STAKE, STRANGER, WORKERS, World, secrets

FIRST, SECOND, THIRD = WORKERS[:3]

Story = Callable[["Watched"], None]
MUTANTS: list[tuple[str, str, str, str, Story]] = []


def mutant(old: str, new: str, found: str) -> Callable[[Story], Story]:
    """Register a story: with `old` changed to `new` in the contract, somebody says `found`."""

    def register(story: Story) -> Story:
        MUTANTS.append((story.__name__, old, new, found, story))
        return story

    return register


class Watched(World):
    """A world that a bookkeeper looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.bookkeeper = Bookkeeper()

    def run(self, sender: bytes, call: Call) -> Done:
        done = super().run(sender, call)
        self.bookkeeper.see(sender, call.value, done.events)
        self.bookkeeper.check(self.evm.balance(REPLICATED), self.evm.balance(bytes(20)))
        return done

    def committed(self) -> int:
        job = self.post()
        self.enrol(job, 3)
        self.commit(job)
        return job

    def settle_all(self, job: int) -> None:
        for worker in WORKERS[:3]:
            self.do(STRANGER, b.settle(job, worker))


@mutant(
    "keeps = state == REVEALED and self.seats[key][worker].update == self.rounds[key].winner",
    "keeps = state == REVEALED",
    "the majority is paid, only",
)
def a_wrong_update_is_paid(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: GOOD, SECOND: GOOD, THIRD: BAD})
    world.do(OWNER, b.finalise(job, 1, 1, True))
    world.do(STRANGER, b.settle(job, THIRD))


@mutant("self.enrolments[job][worker].head = head", "pass", "a seat settled twice")
def a_seat_is_paid_twice(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, dict.fromkeys(WORKERS[:3], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.do(STRANGER, b.settle(job, FIRST))
    world.do(STRANGER, b.settle(job, FIRST))


@mutant("self.balance_of[msg.sender] = 0", "pass", "withdrew what is not its own")
def money_is_fetched_twice(world: Watched) -> None:
    job = world.post()
    world.enrol(job, 2)
    for worker in (FIRST, SECOND):
        world.do(worker, b.leave(job))
    world.do(FIRST, b.withdraw(job))
    world.do(FIRST, b.withdraw(job))


@mutant("keeps = state >= asked", "keeps = state >= DRAWN", "a void round makes whole who did its part, only")
def withholding_in_a_void_round_costs_nothing(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: GOOD, SECOND: BAD})
    world.expire_and_close(job)
    world.settle_all(job)


@mutant(
    "self._burn(burned)",
    "send(self.jobs[job].owner, burned)",
    "what was forfeited is not what was burned",
)
def a_server_harvests_stakes(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: GOOD, SECOND: GOOD, THIRD: BAD})
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.settle_all(job)


@mutant(
    "majority: bool = 2 * votes > self.rounds[key].slots",
    "majority: bool = 2 * votes > self.rounds[key].reveals",
    "settled without a majority",
)
def the_first_to_reveal_wins(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: BAD})
    world.do(OWNER, b.finalise(job, 1, 1, False))


@mutant('assert seat.state == COMMITTED, "already revealed"', "pass", "a second reveal")
def one_slot_votes_twice(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: BAD})
    world.reveal(job, {FIRST: BAD})


@mutant(
    'assert REVEAL <= phase and phase <= SETTLED, "round takes no reveals"',
    "assert phase > 0",
    "a reveal while others may still commit",
)
def a_reveal_comes_before_all_have_committed(world: Watched) -> None:
    job = world.post()
    world.enrol(job, 3)
    world.commit(job, workers=[FIRST])
    world.reveal(job, {FIRST: GOOD})


@mutant(
    """assert mask_rules._signed_by(msg.sender, ctx, r, mask), "mask is not signed by the caller\"""",
    "pass",
    "paid for a copied commit",
)
def a_copied_commit_is_opened_with_the_copied_mask(world: Watched) -> None:
    job = world.post()
    world.enrol(job, 3)
    r, mask = secrets(FIRST, job, 1, 1)
    world.do(THIRD, b.commit(job, 1, 1, keccak(b"C" + FIRST), keccak(r), keccak(mask)))
    world.commit(job, workers=[FIRST, SECOND])
    world.reveal(job, {FIRST: GOOD})
    world.do(THIRD, b.reveal(job, 1, 1, r, mask, GOOD))
    world.reveal(job, {SECOND: GOOD})
    world.do(OWNER, b.finalise(job, 1, 1, True))
    world.settle_all(job)
    assert world.owed(THIRD) == 0, "paid for a copied commit"


@mutant(
    "self.books.escrowed -= escrow\n    self._credit(self.jobs[job].owner, escrow)",
    "self.books.escrowed -= escrow",
    "money that is locked for ever, or not its owner's",
)
def what_was_not_spent_stays_where_it_is(world: Watched) -> None:
    job = world.post()
    world.do(OWNER, b.cancel(job))
    world.do(OWNER, b.withdraw(job))
    world.bookkeeper.check_all_is_over()


# ---- drawing ----


@mutant(
    "absent: bool = count > workers_min and self._was_absent(job, worker)",
    "absent: bool = False",
    "delayed twice",
)
def a_dead_worker_delays_every_round(world: Watched) -> None:
    job = world.post(workers_min=2, rounds_max=3)
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots, GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    absent, *others = world.slots
    world.commit(job, 2, workers=others)
    world.expire_and_close(job, 2)
    world.reveal(job, dict.fromkeys(others, GOOD), 2)
    world.do(OWNER, b.finalise(job, 2, 1, False))
    assert absent not in world.slots, "delayed twice"


# ---- audits ----


@mutant(
    "if majority and opened_in > 0 and self._is_drawn(job, key):",
    "if False:",
    "paid for weights that it made up",
)
def a_lazy_worker_alone_is_paid_where_nobody_audits(world: Watched) -> None:
    job = alone(world, BAD)
    with suppress(Reverted):  # whatever the validators find
        resolve(world, job, GOOD)
    world.do(OWNER, b.finalise(job, 1, 1, True))
    world.settle_all(job)
    assert world.owed(FIRST) == 0, "paid for weights that it made up"


LOT = 'lot: uint256 = convert(keccak256(concat(b"audit", key, seed)), uint256)'


@mutant(LOT, LOT.replace("seed", "empty(bytes32)"), "known before anybody committed")
def the_lot_is_known_when_committing(world: Watched) -> None:
    """A worker looks what its commit would come to, and commits rubbish only where that is no audit."""
    lots = {drawn_in(world, number, [FIRST], slots=1) for number in range(2, 14)}
    assert lots == {True, False}, "known before anybody committed"


@mutant(LOT, LOT.replace("seed", "self.jobs[job].entropy"), "who reveals last chooses among lots")
def the_lot_is_drawn_from_what_was_revealed(world: Watched) -> None:
    """Two colluders of three complete their majority before the honest reveal, or after it, as it suits them."""
    for number in range(2, 14):
        before = drawn_in(world, number, [SECOND, THIRD, FIRST])
        after = drawn_in(world, number, [SECOND, FIRST, THIRD])
        assert before == after, "who reveals last chooses among lots"


def drawn_in(world: Watched, number: int, order: list[bytes], slots: int = 3) -> bool:
    """Whether a round whose reveals open in this block, and come in this order, is drawn to be audited."""
    found = Watched()
    found.evm.place(REPLICATED, world.evm.state.get_code(REPLICATED), code_max=2 * CODE_MAX)
    found.evm.number = number
    job = found.post(slots=slots, workers_min=slots, **ALWAYS | {"audit_ppm": 500_000})
    found.enrol(job, slots)
    found.commit(job)
    found.wait(1)
    found.reveal(job, {worker: GOOD if worker == FIRST else BAD for worker in order})
    return found.round(job).phase == b.AUDIT


@mutant("    self._return_bond(job, key)\n    winner: bytes32", "    winner: bytes32", "a bond that is nobody's")
def a_bond_is_not_returned_when_the_audit_lapses(world: Watched) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    world.expire_and_close(job)
    assert world.owed(STRANGER) == BOND, "a bond that is nobody's"


@mutant(
    "self._burn(bond - fee)",
    "send(self.jobs[job].owner, bond - fee)",
    "what was forfeited is not what was burned",
)
def a_server_harvests_bonds(world: Watched) -> None:
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    resolve(world, job, GOOD)


@mutant(
    "    log events.Audited(",
    "    if False: log events.Audited(",
    "a verdict that nobody has to attest",
)
def a_verdict_is_no_claim(world: Watched) -> None:
    job = alone(world, BAD)
    done = world.run(STRANGER, b.resolve(job, 1, 1, BAD))
    assert any(b.claim_of(log) for log in done.logs), "a verdict that nobody has to attest"


@mutant(
    "    if votes > 0:\n        self._decide",
    "    if 2 * votes > self.rounds[key].slots:\n        self._decide",
    "an honest minority is not paid",
)
def an_honest_minority_loses_against_colluders_in_spite_of_the_verdict(world: Watched) -> None:
    job = three(world, {FIRST: GOOD, SECOND: BAD, THIRD: BAD}, **ALWAYS)
    resolve(world, job, GOOD)
    assert world.round(job).grace_until, "an honest minority is not paid"


@mutant(
    "keeps = state >= asked and self.rounds[key].audit != RESOLVED",
    "keeps = state >= asked",
    "a void round makes whole who did its part, only",
)
def a_lie_that_was_found_out_costs_nothing(world: Watched) -> None:
    job = alone(world, BAD)
    resolve(world, job, GOOD)
    world.expire_and_close(job)
    world.settle_all(job)


@mutant(
    'assert block.timestamp >= self._appeals_end(job, key), "appeals may come"',
    "pass",
    "paid before anybody could appeal",
)
def a_server_settles_at_once_what_its_own_workers_made_up(world: Watched) -> None:
    job = three(world, {FIRST: GOOD, SECOND: BAD, THIRD: BAD}, **APPEALS)
    world.do(OWNER, b.finalise(job, 1, 1, False))
    raise AssertionError("paid before anybody could appeal")


@mutant(
    "    if self._needs_audit(job, key):",
    "    if False:",
    "who withholds a decision escapes the audit",
)
def a_round_without_a_majority_is_not_looked_at(world: Watched) -> None:
    job = three(world, {FIRST: GOOD, SECOND: BAD}, **ALWAYS)
    world.expire_and_close(job)
    assert world.round(job).phase == b.AUDIT, "who withholds a decision escapes the audit"


@mutant(
    "    if self.jobs[job].escrow < price:",
    "    if False:",
    "refused",
)
def a_job_whose_escrow_is_spent_can_not_be_ended(world: Watched) -> None:
    job = three(world, {FIRST: keccak(b"1"), SECOND: BAD, THIRD: keccak(b"3")}, rounds_max=1, **ALWAYS)
    world.expire_and_close(job)
    resolve(world, job, GOOD)
    world.expire_and_close(job)


@mutant("self._pay(job, worker, released)", "self._credit(worker, released)", "the worker has it")
def a_worker_leaves_with_its_sponsors_deposit(world: Watched) -> None:
    job = world.post()
    world.sponsor(job, FIRST, 2 * STAKE)
    world.do(FIRST, b.enrol(job, 0))
    world.do(FIRST, b.leave(job))
    assert world.owed(FIRST) == 0, "the worker has it"


@mutant(
    "self.books.free += stake\n        self._pay(job, worker, earned)",
    "self.books.free += stake\n        self._credit(worker, earned)",
    "paid before its sponsor",
)
def a_worker_keeps_its_rewards_and_its_debt(world: Watched) -> None:
    job = sponsored_round(world)
    world.do(STRANGER, b.settle(job, FIRST))
    assert world.owed(FIRST) == REWARD - 2 * STAKE, "paid before its sponsor"


@mutant("self.sponsorships[job][worker].owed = owed - repaid", "pass", "repaid what was not owed")
def a_sponsor_is_repaid_twice(world: Watched) -> None:
    job = sponsored_round(world)
    world.do(STRANGER, b.settle(job, FIRST))
    world.do(FIRST, b.leave(job))


@mutant("        self.sponsorships[job][worker].offered = 0\n", "", "took back what it had not offered")
def an_offer_that_was_taken_is_taken_back_too(world: Watched) -> None:
    job = world.post()
    world.sponsor(job, FIRST, 2 * STAKE)
    world.sponsor(job, SECOND, 2 * STAKE)
    world.do(FIRST, b.enrol(job, 0))
    try:
        world.do(OWNER, b.unsponsor(job, FIRST))
    except KeyError:
        raise AssertionError("took back what it had not offered") from None


@mutant(
    "self._settle_seats(job, worker, SETTLE_MAX)\n    if self.jobs[job].state == ENDED and",
    "self._settle_seats(job, worker, SETTLE_MAX)\n    if worker == msg.sender and self.jobs[job].state == ENDED and",
    "a sponsor waits for its worker for ever",
)
def a_worker_that_is_gone_locks_its_sponsors_money(world: Watched) -> None:
    job = world.post()
    world.sponsor(job, FIRST, 2 * STAKE)
    world.do(FIRST, b.enrol(job, 0))
    world.do(OWNER, b.cancel(job))
    world.do(OWNER, b.settle(job, FIRST))
    assert world.debt(job, FIRST).owed == 0, "a sponsor waits for its worker for ever"


def sponsored_round(world: Watched) -> int:
    """A round that FIRST, with a deposit of its sponsor's alone, has won with the others."""
    job = world.post()
    world.sponsor(job, FIRST, 2 * STAKE)
    world.do(FIRST, b.enrol(job, 0))
    world.enrol(job, [SECOND, THIRD])
    world.commit(job)
    world.reveal(job, dict.fromkeys(WORKERS[:3], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    return job


def outcome(world: Watched, story: Story) -> str:
    try:
        story(world)
    except Reverted:
        return "refused"
    except AssertionError as error:
        return str(error).split("\n")[0].removeprefix("AssertionError: ")
    return "nothing"


@pytest.mark.parametrize(
    ("old", "new", "found", "story"), [each[1:] for each in MUTANTS], ids=[each[0] for each in MUTANTS]
)
def test_without_its_defence_an_attack_succeeds(old: str, new: str, found: str, story: Story) -> None:
    assert outcome(Watched(), story) in ("refused", "nothing")
    world = Watched()
    place_changed(world.evm, (old, new))
    assert outcome(world, story) == found
