"""Each defence of the contract is needed: without it, the matching attack succeeds, and the bookkeeper notices.

A mutant is the contract with one line changed. Every story is played on the contract as it is, where it must come to
nothing, and on its mutant.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from eth_hash.auto import keccak

import chain.contracts
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from tests.contracts.bookkeeper import Bookkeeper
from tests.contracts.evm_harness import Done, Reverted
from tests.contracts.world import BAD, GOOD, OWNER, REWARD, STAKE, STRANGER, WORKERS, World, secrets

SOURCES = Path(chain.contracts.__file__).parent
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
    "send(empty(address), burned)",
    "send(self.jobs[job].owner, burned)",
    "what was forfeited is not what was burned",
)
def a_server_harvests_stakes(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: GOOD, SECOND: GOOD, THIRD: BAD})
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.settle_all(job)


@mutant(
    "if 2 * votes > self.rounds[key].slots:", "if 2 * votes > self.rounds[key].reveals:", "settled without a majority"
)
def the_first_to_reveal_wins(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: BAD})
    world.do(OWNER, b.finalise(job, 1, 1, False))


@mutant('assert seat.state == COMMITTED, "replicated: already revealed"', "pass", "a second reveal")
def one_slot_votes_twice(world: Watched) -> None:
    job = world.committed()
    world.reveal(job, {FIRST: BAD})
    world.reveal(job, {FIRST: BAD})


@mutant(
    'assert phase == REVEAL or phase == SETTLED, "replicated: round takes no reveals"',
    "assert phase > 0",
    "a reveal while others may still commit",
)
def a_reveal_comes_before_all_have_committed(world: Watched) -> None:
    job = world.post()
    world.enrol(job, 3)
    world.commit(job, workers=[FIRST])
    world.reveal(job, {FIRST: GOOD})


@mutant(
    """assert mask_rules._signed_by(msg.sender, ctx, r, mask), "replicated: mask is not the caller's signature\"""",
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


def compiled(old: str, new: str) -> bytes:
    """The contract's code with one passage changed, optimised for size: it has to fit."""
    compiler = pytest.importorskip("vyper.compiler", reason="the Vyper compiler is a development extra")
    bundle = pytest.importorskip("vyper.compiler.input_bundle")
    source = (SOURCES / "replicated.vy").read_text()
    assert source.count(old) == 1, old
    text = source.replace(old, new).replace("# pragma optimize gas", "# pragma optimize codesize")
    output = compiler.compile_code(
        text, input_bundle=bundle.FilesystemInputBundle([SOURCES]), output_formats=["bytecode_runtime"]
    )
    return bytes.fromhex(output["bytecode_runtime"][2:])


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
    world.evm.place(REPLICATED, compiled(old, new))
    assert outcome(world, story) == found
