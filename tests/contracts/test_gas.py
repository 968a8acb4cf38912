"""What calls cost, printed as a table (`pytest -s`), bounded loosely, and within the gas that the bindings send."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from chain import economics
from chain.contracts import FAUCET, FaucetTerms, calls, compiled
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.genesis import GAS_LIMIT_MIN
from tests.contracts.audits_kit import ALWAYS, APPEALS, BOND
from tests.contracts.evm_harness import BLOCK_GAS
from tests.contracts.world import (
    BASE,
    DAY,
    GOOD,
    MANIFEST,
    OWNER,
    SEED,
    STAKE,
    STRANGER,
    TERMS,
    UPDATE_SIZE,
    WORKERS,
    World,
    commit_call,
    reveal_call,
)

PAID = ("payable", "nonpayable")
GROWTH_MAX = 20_000  # gas; a place in the array that was warm or empty, and no loop over ninety workers more
SPARE = 1.1  # every limit is at least this much above what was measured


@pytest.fixture(scope="module")
def table() -> Iterator[dict[str, int]]:
    rows: dict[str, int] = {}
    yield rows
    print("\n" + "\n".join(f"{what:54s} {gas:>10,} gas" for what, gas in rows.items()))


def gas_of(world: World, table: dict[str, int], what: str, sender: bytes, call: Call) -> int:
    gas = world.run(sender, call).gas_used
    table[what] = max(gas, table.get(what, 0))
    assert gas * SPARE <= call.gas, f"{what}: {gas} of {call.gas}"
    return gas


def play(world: World, job: int, round_: int) -> None:
    """A round in which all agree, up to its majority."""
    world.commit(job, round_)
    world.reveal(job, dict.fromkeys(world.slots, GOOD), round_)


@pytest.mark.parametrize(("slots", "finalise_max"), [(3, 650_000), (5, 900_000), (31, 4_500_000)])
def test_a_round_costs_what_its_slots_cost(table: dict[str, int], slots: int, finalise_max: int) -> None:
    world = World()
    job = world.post(slots=slots, workers_min=min(slots, 3), rounds_max=3)
    world.enrol(job, 40)
    while len(world.slots) < slots:  # the first round opens with three
        play(world, job, 1)
        gas_of(world, table, f"finalise, {slots} slots, first time", OWNER, b.finalise(job, 1, 1, False))
    round_ = world.job(job).settled + 1
    for worker in world.slots:
        gas = gas_of(world, table, f"commit, {slots} slots", worker, commit_call(worker, job, round_, 1))
        assert gas < 200_000
    for worker in world.slots:
        gas = gas_of(world, table, f"reveal, {slots} slots", worker, reveal_call(worker, job, round_, 1, GOOD))
        assert gas < 200_000
    gas = gas_of(world, table, f"finalise, {slots} slots", OWNER, b.finalise(job, round_, 1, False))
    assert gas < finalise_max
    assert len(world.slots) == slots


def costs_of_every_call(table: dict[str, int], enrolled: int) -> dict[str, int]:
    """Each call of a worker and of anyone in a job of five slots with so many enrolled."""
    world = World()
    job = world.post(slots=5, rounds_max=10)
    world.enrol(job, enrolled)
    play(world, job, 1)
    costs: dict[str, int] = {}

    def measure(what: str, sender: bytes, call: Call) -> None:
        costs[what] = gas_of(world, table, f"{what}, 5 of {enrolled}", sender, call)

    measure("finalise", OWNER, b.finalise(job, 1, 1, False))
    first, second, third, *rest = world.slots
    measure("commit", first, commit_call(first, job, 2, 1))
    world.commit(job, 2, workers=[second, third, *rest])
    measure("reveal", first, reveal_call(first, job, 2, 1, GOOD))
    world.reveal(job, {second: GOOD, third: GOOD}, 2)
    world.do(OWNER, b.finalise(job, 2, 1, False))
    world.wait(TERMS.reveal_window_s)
    measure("expire", STRANGER, b.expire(job, 2, 1))
    world.wait(TERMS.last_call_s)
    measure("close", STRANGER, b.close(job, 2, 1))
    measure("settle", STRANGER, b.settle(job, rest[0]))
    world.do(first, b.settle(job, first))
    measure("withdraw", first, b.withdraw(job))
    measure("leave", first, b.leave(job))
    measure("enrol", WORKERS[enrolled - 1 if WORKERS[enrolled - 1] != first else 0], b.enrol(job, STAKE))
    measure("top_up", STRANGER, b.top_up(job, 1, replace(TERMS, slots=5)))
    measure("cancel", OWNER, b.cancel(job))
    return costs


def test_cost_does_not_grow_with_the_number_enrolled(table: dict[str, int]) -> None:
    few, many = costs_of_every_call(table, 10), costs_of_every_call(table, 100)
    assert {what: gas for what, gas in many.items() if gas > few[what] + GROWTH_MAX} == {}


def test_joining_and_leaving(table: dict[str, int]) -> None:
    world = World()
    terms = replace(TERMS, slots=31, workers_min=31, rounds_max=2**20)
    post = b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, terms)
    assert gas_of(world, table, "post", OWNER, post) < 700_000
    for worker in WORKERS[:30]:
        assert gas_of(world, table, "enrol", worker, b.enrol(1, STAKE)) < 200_000
    opening = gas_of(world, table, "enrol that opens a round of 31", WORKERS[30], b.enrol(1, STAKE))
    assert opening < 4_000_000
    gas_of(world, table, "top_up", STRANGER, b.top_up(1, 1, terms))
    gas_of(world, table, "leave", WORKERS[0], b.leave(1))
    gas_of(world, table, "cancel", OWNER, b.cancel(1))
    waiting = world.post()
    gas_of(world, table, "cancel that ends the job", OWNER, b.cancel(waiting))
    late = world.post()
    world.wait(DAY)
    gas_of(world, table, "end", STRANGER, b.end(late))


def test_sponsors(table: dict[str, int]) -> None:
    """The dearest repayment is the one that leaves something to the worker."""
    world = World()
    job = world.post(rounds_max=1)
    world.enrol(job, WORKERS[1:3])
    gas_of(world, table, "ask_sponsor", WORKERS[0], b.ask_sponsor(job))
    gas_of(world, table, "sponsor", OWNER, b.sponsor(job, WORKERS[0], 2 * STAKE))
    gas_of(world, table, "enrol that takes an offer and opens 3 slots", WORKERS[0], b.enrol(job, 0))
    play(world, job, 1)
    world.sponsor(job, WORKERS[3], STAKE)
    gas_of(world, table, "unsponsor", OWNER, b.unsponsor(job, WORKERS[3]))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    assert world.debt(job, WORKERS[0]).owed == 2 * STAKE
    gas_of(world, table, "settle that repays a sponsor", STRANGER, b.settle(job, WORKERS[0]))
    assert world.debt(job, WORKERS[0]).owed == 0


@pytest.mark.parametrize("count", [4, 100])
def test_a_grant(table: dict[str, int], count: int) -> None:
    world = World(WORKERS[:count], faucet=FaucetTerms(10**9, 10, 86_400))
    world.evm.fund(FAUCET)
    gas_of(world, table, f"grant, {count} validators", WORKERS[count - 1], b.grant(b"\x77" * 20))


def with_unsettled_seats(count: int) -> tuple[World, int, bytes]:
    """A worker with decided, unsettled seats: silent in round 1, which is closed only after the others were played."""
    world = World()
    job = world.post(slots=3, workers_min=3, rounds_max=100)
    world.enrol(job, 3, deposit=20 * STAKE)
    silent = world.slots[0]
    world.commit(job)
    world.reveal(job, dict.fromkeys(world.slots[1:], GOOD))
    world.do(OWNER, b.finalise(job, 1, 1, False))
    for round_ in range(2, count + 1):
        play(world, job, round_)
        world.do(OWNER, b.finalise(job, round_, 1, False))
    world.expire_and_close(job)
    enrolment = world.enrolment(job, silent)
    assert enrolment.tail - enrolment.head == count + 1  # and one in the open round
    return world, job, silent


def test_calls_that_settle_seats_on_the_way(table: dict[str, int]) -> None:
    for count in (1, 8):
        world, job, silent = with_unsettled_seats(count)
        gas_of(world, table, f"settle of {count} seats", STRANGER, b.settle(job, silent))
    world, job, silent = with_unsettled_seats(8)
    gas_of(world, table, "withdraw with 8 seats", silent, b.withdraw(job))
    world, job, silent = with_unsettled_seats(8)
    gas_of(world, table, "leave with 2 seats", silent, b.leave(job))
    world, job, silent = with_unsettled_seats(8)
    others = [worker for worker in world.slots if worker != silent]
    world.commit(job, 9, workers=others)
    gas_of(world, table, "last commit with 2 seats", silent, commit_call(silent, job, 9, 1))
    world.reveal(job, {others[0]: GOOD}, 9)
    deciding = reveal_call(silent, job, 9, 1, GOOD)
    deciding = Call(deciding.to, 0, deciding.data, calls.REVEAL_GAS)
    gas_of(world, table, "deciding reveal with 2 seats", silent, deciding)
    world.wait(TERMS.reveal_window_s)
    gas_of(world, table, "expire", STRANGER, b.expire(job, 9, 1))


DEAREST = "close or enrol that evicts and opens 31 slots"


def test_the_dearest_openings_fit_their_gas_and_a_block(table: dict[str, int]) -> None:
    """Nobody commits, round after round: every drawing evicts, and settles forfeits of those it draws."""
    for deposit in (STAKE, 2 * STAKE, 3 * STAKE):
        world = World()
        job = world.post(slots=31, workers_min=31, attempts_max=20)
        world.enrol(job, 100, deposit=deposit)
        open_until_nobody_is_left(world, table, job, commits=False)
    assert calls.OPENING_GAS <= BLOCK_GAS / 1.5


def test_a_draw_among_sponsored_workers_that_withheld_fits_its_gas(table: dict[str, int]) -> None:
    """All commit and none reveals, and whoever is evicted repays a sponsor of its own."""
    world = World()
    job = world.post(slots=31, workers_min=31, attempts_max=20)
    for worker, sponsor in zip(WORKERS[:80], reversed(WORKERS), strict=False):
        world.sponsor(job, worker, STAKE + 7, sponsor)
        world.do(worker, b.enrol(job, 0))
    open_until_nobody_is_left(world, table, job, commits=True)


def open_until_nobody_is_left(world: World, table: dict[str, int], job: int, commits: bool) -> None:
    """Void every attempt; where a drawing found too few, have it draw again. The dearest that opens a round counts."""
    opened = 0
    while True:
        now = world.job(job)
        able = [each for each in WORKERS if world.enrolment(job, each).free >= STAKE]
        if now.state == b.RUNNING:
            if commits:
                world.commit(job, 1, now.attempt)
            world.wait(TERMS.commit_window_s + TERMS.reveal_window_s)
            world.do(STRANGER, b.expire(job, 1, now.attempt))
            world.wait(TERMS.last_call_s)
            sender, call = STRANGER, b.close(job, 1, now.attempt)
        elif now.state == b.WAITING and len(able) >= 31:
            sender, call = able[0], b.enrol(job, 0)
        else:
            break
        done = world.run(sender, call)
        assert done.gas_used * 1.4 <= call.gas, "a worse case may exist than this test finds"
        if world.job(job).state == b.RUNNING:
            opened += 1
            table[DEAREST] = max(done.gas_used, table.get(DEAREST, 0))
    assert opened
    world.books()


def test_an_auto_finalised_majority_opens_the_next_round_within_its_gas(table: dict[str, int]) -> None:
    world = World()
    job = world.post(slots=31, workers_min=31, auto_finalise=True)
    world.enrol(job, 40)
    world.commit(job)
    first = world.slots
    world.reveal(job, dict.fromkeys(first[:15], GOOD))
    gas_of(world, table, "auto-finalising reveal, 31 slots", first[15], reveal_call(first[15], job, 1, 1, GOOD))
    assert world.job(job).settled == 1


def test_audits(table: dict[str, int]) -> None:
    """In pools of 31, so that what depends on the pool would show."""
    world = World()
    terms = replace(TERMS, slots=31, workers_min=31, **APPEALS | ALWAYS)
    gas_of(world, table, "post, with audits and appeals", OWNER, b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, terms))
    job = world.post(slots=31, workers_min=31, **ALWAYS)
    world.enrol(job, 31)
    world.commit(job)
    world.wait(1)
    *others, last = world.slots[:16]
    world.reveal(job, dict.fromkeys(others, GOOD))
    deciding = reveal_call(last, job, 1, 1, GOOD)
    deciding = Call(deciding.to, 0, deciding.data, calls.REVEAL_GAS)
    gas_of(world, table, "reveal that is drawn to be audited, 31 slots", last, deciding)
    verdict = b.resolve(job, 1, 1, GOOD, auto_finalise=False)
    gas_of(world, table, "resolve, 31 slots", STRANGER, verdict)
    appealed = world.post(slots=31, workers_min=31, **APPEALS)
    world.enrol(appealed, 31)
    world.commit(appealed)
    world.wait(1)
    world.reveal(appealed, dict.fromkeys(world.slots[:16], GOOD))
    gas_of(world, table, "appeal, 31 slots", STRANGER, b.appeal(appealed, 1, 1, BOND))
    verdict = b.resolve(appealed, 1, 1, GOOD, auto_finalise=False)
    gas_of(world, table, "resolve of an appeal that was wrong, 31 slots", STRANGER, verdict)
    small, large = (three_or_more(slots) for slots in (3, 31))
    assert abs(small - large) < GROWTH_MAX


def three_or_more(slots: int) -> int:
    """Gas of the verdict on a round of so many slots."""
    world = World()
    job = world.post(slots=slots, workers_min=slots, **ALWAYS)
    world.enrol(job, slots)
    play(world, job, 1)
    return world.run(STRANGER, b.resolve(job, 1, 1, GOOD, auto_finalise=False)).gas_used


@pytest.mark.parametrize("count", [4, 99, 100])
def test_changing_the_validators(table: dict[str, int], count: int) -> None:
    """The dearest change moves 99 validators up; a network with the least gas limit has room for it."""
    world = World(WORKERS[:count])
    subject, admit = (STRANGER, True) if count < 100 else (WORKERS[0], False)
    needed = world.evm.query(b.approvals_needed_view())
    gas_of(world, table, f"propose, {count} validators", WORKERS[count - 1], b.propose(subject, admit))
    for validator in WORKERS[: needed - 2]:
        gas_of(world, table, f"approve, {count} validators", validator, b.approve(1))
    what = f"approve that {'admits' if admit else 'removes'} one, {count} validators"
    gas_of(world, table, what, WORKERS[needed - 2], b.approve(1))
    assert world.evm.query(b.epoch_view()) == 1
    assert calls.APPROVE_GAS < GAS_LIMIT_MIN


def measure_all(table: dict[str, int]) -> None:
    """So that what follows can run alone."""
    for slots in (3, 5, 31):
        test_a_round_costs_what_its_slots_cost(table, slots, BLOCK_GAS)
    test_cost_does_not_grow_with_the_number_enrolled(table)
    test_joining_and_leaving(table)
    test_calls_that_settle_seats_on_the_way(table)
    test_the_dearest_openings_fit_their_gas_and_a_block(table)
    test_a_draw_among_sponsored_workers_that_withheld_fits_its_gas(table)
    test_an_auto_finalised_majority_opens_the_next_round_within_its_gas(table)
    test_audits(table)
    test_sponsors(table)
    for count in (4, 100):
        test_a_grant(table, count)
        test_changing_the_validators(table, count)


def test_the_page_has_what_was_measured(table: dict[str, int]) -> None:
    if DEAREST not in table:
        measure_all(table)
    page = (Path(__file__).parent.parent.parent / "docs" / "PROTOCOL.md").read_text()
    section = page.partition("\n### Gas\n")[2].partition("\n#")[0]
    written = dict(re.findall(r"^\| ([^|]+) \| ([\d.]+[kM]) \|$", section, flags=re.MULTILINE))
    assert written == {what: short(table[what]) for what in written}
    paid = {each["name"] for each in compiled()["replicated"]["abi"] if each.get("stateMutability") in PAID}
    assert paid <= {word.rstrip(",") for what in written for word in what.split()}


def test_the_economics_reckon_with_what_was_measured(table: dict[str, int]) -> None:
    if "withdraw with 8 seats" not in table:
        measure_all(table)
    assert pytest.approx(table["commit, 3 slots"], rel=0.05) == economics.COMMIT_GAS
    assert pytest.approx(table["reveal, 3 slots"], rel=0.05) == economics.REVEAL_GAS
    assert pytest.approx(table["withdraw with 8 seats"] / 8, rel=0.05) == economics.WITHDRAW_GAS


def short(gas: int) -> str:
    return f"{gas / 1e6:.2f}M" if gas >= 1_000_000 else f"{gas / 1e3:.0f}k"
