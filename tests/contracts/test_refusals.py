"""Every revert string of the contracts has its test here, and a test that says so."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from eth_hash.auto import keccak

import chain.contracts
from chain.contracts import FINDER
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Terms
from learner.canonical import STATE_BYTES_MAX
from tests.contracts import model
from tests.contracts.evm_harness import Reverted
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
    secrets,
)

WORKER = WORKERS[0]
WINDOW_MAX_S = 365 * DAY

Refusal = Callable[[World], object]
REFUSALS: list[tuple[str, Refusal]] = []


def refusal(reason: str) -> Callable[[Refusal], Refusal]:
    """Register a story whose last call must revert with exactly this."""

    def register(story: Refusal) -> Refusal:
        REFUSALS.append((reason, story))
        return story

    return register


def post_with(**changes: object) -> Refusal:
    terms: Terms = replace(TERMS, **changes)
    return lambda world: world.do(OWNER, b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, terms))


def valued(call: Call, value: int) -> Call:
    return Call(call.to, value, call.data, call.gas)


def committing(world: World) -> int:
    """A job whose first round takes commits from WORKERS[:3]."""
    job = world.post()
    world.enrol(job, 3)
    return job


def revealing(world: World) -> int:
    job = committing(world)
    world.commit(job)
    return job


def decided(world: World) -> int:
    job = revealing(world)
    world.reveal(job, dict.fromkeys(WORKERS[:2], GOOD))
    return job


def ended(world: World) -> int:
    job = world.post()
    world.do(OWNER, b.cancel(job))
    return job


for _reason, _changes in (
    ("reward too large", {"reward": 2**96 + 1}),
    ("stake too large", {"stake": 2**96 + 1}),
    ("slots must be odd, 1 to 31", {"slots": 0}),
    ("slots must be odd, 1 to 31", {"slots": 4}),
    ("slots must be odd, 1 to 31", {"slots": 33}),
    ("workers_min must be 1 to slots", {"workers_min": 0}),
    ("workers_min must be 1 to slots", {"workers_min": 4}),
    ("rounds out of range", {"rounds_max": 0}),
    ("rounds out of range", {"rounds_max": 2**32 + 1}),
    ("attempts_max must be 1 to 255", {"attempts_max": 0}),
    ("attempts_max must be 1 to 255", {"attempts_max": 256}),
    ("commit window must be 1 s to 365 days", {"commit_window_s": 0}),
    ("commit window must be 1 s to 365 days", {"commit_window_s": WINDOW_MAX_S + 1}),
    ("reveal window must be 1 s to 365 days", {"reveal_window_s": 0}),
    ("reveal window must be 1 s to 365 days", {"reveal_window_s": WINDOW_MAX_S + 1}),
    ("last call must be 1 s to 365 days", {"last_call_s": 0}),
    ("last call must be 1 s to 365 days", {"last_call_s": WINDOW_MAX_S + 1}),
    ("grace over 365 days", {"grace_s": WINDOW_MAX_S + 1}),
    ("deadline has passed", {"deadline": TERMS.deadline - DAY}),
):
    refusal(f"replicated: {_reason}")(post_with(**_changes))


@refusal("replicated: update size out of range")
def post_an_empty_update(world: World) -> None:
    world.do(OWNER, b.post(MANIFEST, BASE, 0, SEED, TERMS))


@refusal("replicated: update size out of range")
def post_an_update_above_what_a_learner_takes(world: World) -> None:
    world.do(OWNER, b.post(MANIFEST, BASE, STATE_BYTES_MAX + 1, SEED, TERMS))


@refusal("replicated: value is not reward * slots * rounds")
def post_a_wei_short(world: World) -> None:
    world.do(OWNER, valued(b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, TERMS), TERMS.escrow - 1))


@refusal("replicated: value is not reward * slots * rounds")
def post_a_wei_over(world: World) -> None:
    world.do(OWNER, valued(b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, TERMS), TERMS.escrow + 1))


@refusal("replicated: value is not reward * slots * rounds")
def top_up_a_wei_short(world: World) -> None:
    call = b.top_up(world.post(), 1, TERMS)
    world.do(OWNER, valued(call, call.value - 1))


@refusal("replicated: rounds out of range")
def top_up_no_rounds(world: World) -> None:
    world.do(OWNER, b.top_up(world.post(), 0, TERMS))


@refusal("replicated: rounds out of range")
def top_up_past_the_limit(world: World) -> None:
    world.do(OWNER, b.top_up(world.post(), 2**32 - TERMS.rounds_max + 1, TERMS))


@refusal("replicated: no such job")
def ask_for_a_job_that_is_not(world: World) -> None:
    world.job(1)


@refusal("replicated: no such job")
def top_up_a_job_that_is_not(world: World) -> None:
    world.do(OWNER, b.top_up(1, 1, TERMS))


@refusal("replicated: no such job")
def withdraw_from_a_job_that_is_not(world: World) -> None:
    world.do(WORKER, b.withdraw(1))


@refusal("replicated: no such job")
def settle_in_a_job_that_is_not(world: World) -> None:
    world.do(WORKER, b.settle(1, WORKER))


@refusal("replicated: job has ended")
def enrol_in_an_ended_job(world: World) -> None:
    world.do(WORKER, b.enrol(ended(world), STAKE))


@refusal("replicated: job has ended")
def cancel_an_ended_job(world: World) -> None:
    world.do(OWNER, b.cancel(ended(world)))


@refusal("replicated: job has ended")
def top_up_an_ended_job(world: World) -> None:
    world.do(OWNER, b.top_up(ended(world), 1, TERMS))


@refusal("replicated: job has ended")
def end_an_ended_job(world: World) -> None:
    world.do(OWNER, b.end(ended(world)))


@refusal("replicated: job is cancelled")
def cancel_twice(world: World) -> None:
    job = committing(world)
    world.do(OWNER, b.cancel(job))
    world.do(OWNER, b.cancel(job))


@refusal("replicated: job is cancelled")
def enrol_in_a_cancelled_job(world: World) -> None:
    job = committing(world)
    world.do(OWNER, b.cancel(job))
    world.do(WORKERS[5], b.enrol(job, STAKE))


@refusal("replicated: only the owner may cancel")
def cancel_as_a_stranger(world: World) -> None:
    world.do(STRANGER, b.cancel(world.post()))


@refusal("replicated: deadline has passed")
def enrol_after_the_deadline(world: World) -> None:
    job = world.post()
    world.wait(DAY)
    world.do(WORKER, b.enrol(job, STAKE))


@refusal("replicated: deposit below one stake")
def enrol_a_wei_short(world: World) -> None:
    world.do(WORKER, b.enrol(world.post(), STAKE - 1))


@refusal("replicated: slots are about to be drawn")
def enrol_when_the_next_slots_are_known(world: World) -> None:
    world.do(STRANGER, b.enrol(decided(world), STAKE))


@refusal("replicated: slots are about to be drawn")
def leave_when_the_next_slots_are_known(world: World) -> None:
    world.do(WORKER, b.leave(decided(world)))


@refusal("replicated: not enrolled")
def leave_without_having_enrolled(world: World) -> None:
    world.do(STRANGER, b.leave(committing(world)))


@refusal("replicated: not enrolled")
def leave_twice(world: World) -> None:
    job = committing(world)
    world.do(WORKER, b.leave(job))
    world.do(WORKER, b.leave(job))


@refusal("replicated: round takes no commits")
def commit_before_a_round_opens(world: World) -> None:
    world.do(WORKER, commit_call(WORKER, world.post(), 1, 1))


@refusal("replicated: round takes no commits")
def commit_once_reveals_are_open(world: World) -> None:
    job = committing(world)
    world.commit(job, workers=WORKERS[:2])
    world.expire_and_close(job)
    world.do(WORKERS[2], commit_call(WORKERS[2], job, 1, 1))


@refusal("replicated: caller holds no slot")
def commit_without_a_slot(world: World) -> None:
    world.do(STRANGER, commit_call(STRANGER, committing(world), 1, 1))


@refusal("replicated: already committed")
def commit_twice(world: World) -> None:
    job = committing(world)
    world.commit(job, workers=[WORKER, WORKER])


@refusal("replicated: round takes no reveals")
def reveal_while_others_may_still_commit(world: World) -> None:
    job = committing(world)
    world.commit(job, workers=[WORKER])
    world.do(WORKER, reveal_call(WORKER, job, 1, 1, GOOD))


@refusal("replicated: round takes no reveals")
def reveal_in_a_closed_round(world: World) -> None:
    job = decided(world)
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.expire_and_close(job)
    world.do(WORKERS[2], reveal_call(WORKERS[2], job, 1, 1, GOOD))


@refusal("replicated: round takes no reveals")
def reveal_in_a_void_round(world: World) -> None:
    job = revealing(world)
    world.expire_and_close(job)
    world.do(WORKER, reveal_call(WORKER, job, 1, 1, GOOD))


@refusal("replicated: caller has not committed")
def reveal_without_a_slot(world: World) -> None:
    world.do(STRANGER, reveal_call(STRANGER, revealing(world), 1, 1, GOOD))


@refusal("replicated: caller has not committed")
def reveal_without_a_commit(world: World) -> None:
    job = committing(world)
    world.commit(job, workers=WORKERS[:2])
    world.expire_and_close(job)
    world.do(WORKERS[2], reveal_call(WORKERS[2], job, 1, 1, GOOD))


@refusal("replicated: already revealed")
def reveal_twice(world: World) -> None:
    job = revealing(world)
    world.reveal(job, {WORKER: GOOD})
    world.reveal(job, {WORKER: GOOD})


@refusal("replicated: already revealed")
def reveal_again_after_being_paid(world: World) -> None:
    job = decided(world)
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.do(WORKER, b.withdraw(job))
    world.reveal(job, {WORKER: GOOD})


@refusal("replicated: r is not the committed one")
def reveal_another_r(world: World) -> None:
    job = revealing(world)
    _, mask = secrets(WORKER, job, 1, 1)
    world.do(WORKER, b.reveal(job, 1, 1, keccak(b"r"), mask, GOOD))


@refusal("replicated: mask is not the committed one")
def reveal_another_mask(world: World) -> None:
    job = revealing(world)
    r, mask = secrets(WORKER, job, 1, 1)
    world.do(WORKER, b.reveal(job, 1, 1, r, mask[:64] + bytes([mask[64] ^ 1]), GOOD))


@refusal("replicated: mask is not the caller's signature")
def reveal_a_commit_copied_from_another_worker(world: World) -> None:
    job = committing(world)
    r, mask = secrets(WORKERS[1], job, 1, 1)
    copied = (keccak(b"C" + WORKERS[1]), keccak(r), keccak(mask))
    world.do(WORKER, b.commit(job, 1, 1, *copied))
    world.commit(job, workers=WORKERS[1:3])
    world.reveal(job, {WORKERS[1]: GOOD})
    world.do(WORKER, b.reveal(job, 1, 1, r, mask, GOOD))


@refusal("replicated: round takes no finalise")
def finalise_during_commits(world: World) -> None:
    world.do(OWNER, b.finalise(committing(world), 1, 1, False))


@refusal("replicated: round takes no finalise")
def finalise_twice(world: World) -> None:
    job = decided(world)
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.do(OWNER, b.finalise(job, 1, 1, False))


@refusal("replicated: no majority")
def finalise_without_a_majority(world: World) -> None:
    job = revealing(world)
    world.reveal(job, {WORKER: GOOD})
    world.do(OWNER, b.finalise(job, 1, 1, False))


@refusal("replicated: only the owner may stop")
def stop_as_a_stranger(world: World) -> None:
    job = decided(world)
    world.wait(TERMS.grace_s)
    world.do(STRANGER, b.finalise(job, 1, 1, True))


@refusal("replicated: grace has not passed")
def finalise_as_a_stranger_during_the_grace(world: World) -> None:
    job = decided(world)
    world.wait(TERMS.grace_s - 1)
    world.do(STRANGER, b.finalise(job, 1, 1, False))


@refusal("replicated: round is not open")
def expire_a_round_that_is_not(world: World) -> None:
    world.do(STRANGER, b.expire(world.post(), 1, 1))


@refusal("replicated: round is not open")
def close_a_closed_round(world: World) -> None:
    job = decided(world)
    world.reveal(job, {WORKERS[2]: GOOD})
    world.do(OWNER, b.finalise(job, 1, 1, False))
    world.do(STRANGER, b.close(job, 1, 1))


@refusal("replicated: deadline has not passed")
def expire_a_second_early(world: World) -> None:
    job = committing(world)
    world.wait(TERMS.commit_window_s - 1)
    world.do(STRANGER, b.expire(job, 1, 1))


@refusal("replicated: deadline has not passed")
def end_a_waiting_job_early(world: World) -> None:
    world.do(STRANGER, b.end(world.post()))


@refusal("replicated: last call was granted")
def expire_twice_in_one_phase(world: World) -> None:
    job = committing(world)
    world.wait(TERMS.commit_window_s)
    world.do(STRANGER, b.expire(job, 1, 1))
    world.do(STRANGER, b.expire(job, 1, 1))


@refusal("replicated: no last call was granted")
def close_without_a_last_call(world: World) -> None:
    job = committing(world)
    world.wait(DAY)
    world.do(STRANGER, b.close(job, 1, 1))


@refusal("replicated: last call has not passed")
def close_a_second_early(world: World) -> None:
    job = committing(world)
    world.wait(TERMS.commit_window_s)
    world.do(STRANGER, b.expire(job, 1, 1))
    world.wait(TERMS.last_call_s - 1)
    world.do(STRANGER, b.close(job, 1, 1))


@refusal("replicated: finalise first")
def close_a_round_that_has_a_winner(world: World) -> None:
    world.expire_and_close(decided(world))


@refusal("replicated: a round is open")
def end_a_job_with_an_open_round(world: World) -> None:
    job = committing(world)
    world.wait(DAY)
    world.do(STRANGER, b.end(job))


@refusal("finder: not a job contract")
def list_a_job_as_a_stranger(world: World) -> None:
    world.do(STRANGER, finder_call("list_job", 1))


@refusal("finder: not a job contract")
def delist_a_job_as_a_stranger(world: World) -> None:
    world.do(STRANGER, finder_call("delist_job", world.post()))


@refusal("finder: already listed")
def list_a_job_twice(world: World) -> None:
    world.do(b.REPLICATED, finder_call("list_job", world.post()))


@refusal("finder: not listed")
def delist_a_job_that_is_not_listed(world: World) -> None:
    world.do(b.REPLICATED, finder_call("delist_job", 7))


@refusal("finder: past the end")
def ask_for_a_listing_past_the_end(world: World) -> None:
    world.evm.query(b.open_at_view(0))


def finder_call(name: str, job: int) -> Call:
    selector = keccak(f"{name}(uint256)".encode())[:4]
    return Call(FINDER, 0, selector + job.to_bytes(32, "big"), 1_000_000)


@pytest.mark.parametrize(
    ("reason", "story"), REFUSALS, ids=[f"{reason} #{number}" for number, (reason, _) in enumerate(REFUSALS)]
)
def test_a_call_that_breaks_a_rule_reverts_with_its_reason(reason: str, story: Refusal) -> None:
    world = World()
    with pytest.raises(Reverted) as refused:
        story(world)
    assert refused.value.reason == reason
    world.books()


def test_the_largest_update_is_the_largest_state_that_a_learner_takes() -> None:
    World().do(OWNER, b.post(MANIFEST, BASE, STATE_BYTES_MAX, SEED, TERMS))
    with pytest.raises(Reverted, match="update size out of range"):
        World().do(OWNER, b.post(MANIFEST, BASE, STATE_BYTES_MAX + 1, SEED, TERMS))
    assert STATE_BYTES_MAX == model.UPDATE_SIZE_MAX


def test_every_revert_string_of_the_contracts_has_its_story() -> None:
    folder = Path(chain.contracts.__file__).parent
    sources = "\n".join(path.read_text() for path in folder.glob("*.vy"))
    written = set(re.findall(r'"((?:replicated|finder): [^"]*)"', sources))
    assert written
    assert written == {reason for reason, _ in REFUSALS}


def test_every_assertion_of_the_contracts_gives_a_reason() -> None:
    folder = Path(chain.contracts.__file__).parent
    for path in folder.glob("*.vy"):
        for statement in re.findall(r"^\s*assert .*$", path.read_text(), flags=re.MULTILINE):
            reason = re.search(r'"(?:replicated|finder|validators): [^"]+"$', statement)
            assert reason is not None, f"{path.name}: {statement.strip()}"
