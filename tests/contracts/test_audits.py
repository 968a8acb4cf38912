"""What audits change: who is paid, who pays for them, and that no audit can hold a job up for ever."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak

from chain import masking
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from tests.contracts.audits_kit import (
    ALWAYS,
    APPEAL_WINDOW_S,
    APPEALS,
    AUDIT_WINDOW_S,
    BOND,
    FEE,
    FIRST,
    SECOND,
    THIRD,
    Told,
    alone,
    appeal,
    resolve,
    three,
)
from tests.contracts.evm_harness import CHAIN_ID, PROPOSER, hash_of_block
from tests.contracts.world import (
    BAD,
    BASE,
    DAY,
    GOOD,
    MANIFEST,
    OWNER,
    REWARD,
    SEED,
    STAKE,
    STRANGER,
    TERMS,
    UPDATE_SIZE,
    WORKERS,
    names,
    of_type,
)

PAID, KEPT, LOST = (REWARD, 0), (0, 0), (0, STAKE)


def test_the_widest_terms_of_audits_and_appeals_are_taken() -> None:
    year_s = 365 * DAY
    widest = {
        "audit_ppm": 10**6, "audit_window_s": year_s, "audit_fee": 2**96, "appeal_window_s": year_s,
        "appeal_bond": 2**96,
    }  # fmt: skip
    world = Told()
    world.evm.fund(OWNER, 2**100)
    assert world.job(world.post(**widest)).escrow == 2 * (3 * REWARD + 2**96)
    assert world.job(world.post(**APPEALS | {"appeal_bond": FEE})).terms.appeal_bond == FEE


def test_an_honest_worker_alone_is_paid_when_its_audit_agrees() -> None:
    world = Told()
    job = alone(world, None)
    events = world.reveal(job, {FIRST: GOOD})
    assert names(events) == ["Revealed", "AuditOpened"]
    deadline = world.evm.timestamp + AUDIT_WINDOW_S
    assert events[1] == b.AuditOpened(job, 1, 1, b.DRAWN_BY_LOT, bytes(20), deadline)
    assert names(resolve(world, job, GOOD)) == ["Audited", "MajorityReached"]
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.settled(job, FIRST) == [PAID]
    assert world.owed(PROPOSER) == FEE
    assert world.owed(OWNER) == REWARD + FEE  # of the second round, which did not come


def test_a_lazy_worker_alone_forfeits_and_its_round_is_void() -> None:
    world = Told()
    job = alone(world, BAD)
    audited, reopened = resolve(world, job, GOOD)
    batch_seed = keccak(SEED + (1).to_bytes(32, "big") * 2)
    ctx = masking.audit_context(CHAIN_ID, REPLICATED, job, 1, 1)
    assert audited == b.Audited(job, 1, 1, ctx, MANIFEST, BASE, batch_seed, UPDATE_SIZE, GOOD)
    assert reopened == b.RevealOpened(job, 1, 1, 1, world.evm.timestamp + TERMS.reveal_window_s)
    assert "RoundVoided" in names(world.expire_and_close(job))
    assert world.settled(job, FIRST) == [LOST]
    assert world.owed(PROPOSER) == FEE


def test_the_true_update_of_a_minority_is_paid_and_the_colluding_majority_forfeits() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: BAD, THIRD: BAD}, **ALWAYS)
    assert names(resolve(world, job, GOOD)) == ["Audited", "MajorityReached"]
    events = world.do(OWNER, b.finalise(job, 1, 1, False))
    assert events[0] == b.RoundSettled(job, 1, 1, GOOD, 1)
    assert of_type(events, b.RoundOpened)[0].base == GOOD
    assert world.settled(job, FIRST, SECOND, THIRD) == [PAID, LOST, LOST]


def test_a_reveal_after_the_verdict_decides_if_it_is_the_true_one() -> None:
    world = Told()
    job = three(world, {SECOND: BAD, THIRD: BAD}, **ALWAYS)
    assert names(resolve(world, job, GOOD)) == ["Audited", "RevealOpened"]
    assert "MajorityReached" in names(world.reveal(job, {FIRST: GOOD}))
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.settled(job, FIRST, SECOND, THIRD) == [PAID, LOST, LOST]


def test_reveals_during_an_audit_count_and_do_not_change_the_draw() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **ALWAYS)
    entropy = world.job(job).entropy
    assert "Revealed" in names(world.reveal(job, {THIRD: GOOD}))
    assert world.job(job).entropy == entropy
    resolve(world, job, GOOD)
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.settled(job, FIRST, SECOND, THIRD) == [PAID, PAID, PAID]


def test_an_auto_finalised_round_is_settled_by_its_verdict() -> None:
    world = Told()
    job = alone(world, GOOD, auto_finalise=True)
    assert names(resolve(world, job, GOOD))[:3] == ["Audited", "MajorityReached", "RoundSettled"]


def test_an_undecided_round_is_audited_and_the_true_update_paid() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: BAD, THIRD: keccak(b"third")}, **ALWAYS)
    (opened,) = world.expire_and_close(job)
    assert isinstance(opened, b.AuditOpened)
    assert opened.cause == b.UNDECIDED
    resolve(world, job, GOOD)
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.settled(job, FIRST, SECOND, THIRD) == [PAID, LOST, LOST]


def test_a_round_in_which_nobody_revealed_is_void_without_an_audit() -> None:
    world = Told()
    job = alone(world, None)
    assert "RoundVoided" in names(world.expire_and_close(job))
    assert world.settled(job, FIRST) == [LOST]
    assert world.owed(PROPOSER) == 0


def test_an_audit_that_nobody_resolves_lapses_and_the_majority_stands() -> None:
    world = Told()
    job = alone(world, BAD)
    assert names(world.expire_and_close(job)) == ["AuditLapsed", "MajorityReached"]
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.settled(job, FIRST) == [PAID]
    assert world.owed(PROPOSER) == 0


def test_a_majority_that_comes_during_an_audit_stands_when_it_lapses() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: BAD}, **ALWAYS)
    world.expire_and_close(job)
    assert names(world.reveal(job, {THIRD: GOOD})) == ["Revealed"]
    assert names(world.expire_and_close(job)) == ["AuditLapsed", "MajorityReached"]
    assert world.round(job).winner == GOOD


def test_an_undecided_audit_that_lapses_leaves_the_round_void_and_the_stakes_back() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: BAD}, **ALWAYS)
    world.expire_and_close(job)
    assert names(world.expire_and_close(job))[:2] == ["AuditLapsed", "RoundVoided"]
    assert world.settled(job, FIRST, SECOND, THIRD) == [KEPT, KEPT, LOST]


def test_an_appeal_that_is_right_gets_its_bond_back_and_the_job_pays() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: BAD, THIRD: BAD}, **APPEALS)
    before = world.books().held
    (opened,) = appeal(world, job, FIRST)
    assert (opened.cause, opened.appellant) == (b.APPEALED, FIRST)
    assert world.books().held == before + BOND
    resolve(world, job, GOOD)
    assert (world.owed(FIRST), world.owed(PROPOSER), world.books().burned) == (BOND, FEE, 0)
    world.do(OWNER, b.finalise(job, 1, 1, True))
    assert world.owed(OWNER) == 2 * REWARD + 3 * REWARD + FEE  # two slots of round 1, and round 2
    assert world.settled(job, SECOND) == [LOST]


def test_an_appeal_that_is_wrong_pays_the_audit_and_the_rest_is_burned() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    resolve(world, job, GOOD)
    assert (world.owed(STRANGER), world.owed(PROPOSER), world.books().burned) == (0, FEE, BOND - FEE)
    world.do(OWNER, b.finalise(job, 1, 1, True))
    world.expire_and_close(job)
    assert world.owed(OWNER) == 3 * REWARD + FEE + FEE + REWARD  # round 2, the fee of round 1, its silent slot


def test_an_appeal_whose_audit_lapses_gets_its_bond_back_and_the_majority_is_final() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    appeal(world, job)
    assert names(world.expire_and_close(job)) == ["AuditLapsed", "MajorityReached"]
    assert world.owed(STRANGER) == BOND
    world.do(OWNER, b.finalise(job, 1, 1, True))  # at once: nobody may appeal again


def test_a_stranger_finalises_a_window_and_a_grace_after_the_majority() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)
    world.wait(APPEAL_WINDOW_S + TERMS.grace_s)
    assert "RoundSettled" in names(world.do(STRANGER, b.finalise(job, 1, 1, False)))


def test_a_job_whose_audits_have_spent_its_escrow_ends_as_failed() -> None:
    world = Told()
    job = three(world, {FIRST: keccak(b"one"), SECOND: BAD, THIRD: keccak(b"three")}, rounds_max=1, **ALWAYS)
    world.expire_and_close(job)
    resolve(world, job, GOOD)
    events = world.expire_and_close(job)
    assert of_type(events, b.JobEnded) == [b.JobEnded(job, b.FAILED, 0, BASE)]
    assert world.owed(OWNER) == 3 * REWARD
    assert world.settled(job, FIRST, SECOND, THIRD) == [LOST, LOST, LOST]
    assert world.job(job).escrow == 0


def test_a_cancelled_job_ends_when_its_audit_is_over() -> None:
    world = Told()
    job = alone(world, BAD)
    world.do(OWNER, b.cancel(job))
    resolve(world, job, GOOD)
    assert of_type(world.expire_and_close(job), b.JobEnded) == [b.JobEnded(job, b.CANCELLED, 0, BASE)]


# ---- the lot ----


def lot(opened_in: int, place: tuple[int, int, int] = (1, 1, 1)) -> int:
    """Recomputed: below audit_ppm a round is audited."""
    key = keccak(b"".join(number.to_bytes(32, "big") for number in place))
    return int.from_bytes(keccak(b"audit" + key + hash_of_block(opened_in)), "big") % 10**6


@pytest.mark.parametrize("above", [0, 1])
def test_the_lot_is_drawn_from_the_hash_of_the_block_that_opened_the_reveals(above: int) -> None:
    world = Told()
    mine = lot(world.evm.number)
    job = alone(world, GOOD, audit_ppm=mine + above)
    assert world.round(job).phase == (b.AUDIT if above else b.REVEAL)
    assert world.round(job).seed == hash_of_block(world.evm.number - 1)


def test_the_lot_of_one_commit_differs_from_block_to_block() -> None:
    """So a worker does not know when it commits whether it will be audited."""
    drawn = set()
    for number in range(1, 40):
        world = Told()
        world.evm.number = number
        drawn.add(world.round(alone(world, GOOD, audit_ppm=500_000)).phase == b.AUDIT)
    assert drawn == {True, False}


@pytest.mark.parametrize(("blocks", "seeded"), [(0, False), (1, True), (256, True), (257, False), (600, False)])
def test_without_a_seed_a_round_is_always_audited(blocks: int, seeded: bool) -> None:
    """In the block that opened the reveals nobody knows its hash, and 256 blocks later nobody can look it up."""
    world = Told()
    job = alone(world, None, audit_ppm=1)
    world.evm.number += blocks - 1
    world.reveal(job, {FIRST: GOOD})
    assert (world.round(job).seed != bytes(32)) is seeded
    assert (world.round(job).phase == b.AUDIT) is not seeded


def test_the_seed_is_kept_from_the_first_reveal_on() -> None:
    world = Told()
    job = three(world, {FIRST: GOOD}, audit_ppm=1)
    seed = world.round(job).seed
    world.evm.number += 300
    world.reveal(job, {SECOND: GOOD})
    assert world.round(job).seed == seed == hash_of_block(1)
    assert world.round(job).phase == b.REVEAL


def test_two_rounds_whose_reveals_open_in_one_block_have_a_lot_each() -> None:
    assert len({lot(7, (job, round_, 1)) for job in (1, 2) for round_ in (1, 2)}) == 4


def test_about_as_many_rounds_are_audited_as_the_terms_say() -> None:
    world = Told()
    job = world.post(slots=1, workers_min=1, rounds_max=400, deadline=TERMS.deadline + 400 * DAY, audit_ppm=200_000)
    world.enrol(job, WORKERS[:2], deposit=400 * STAKE)
    audited = 0
    for round_ in range(1, 301):
        (worker,) = world.slots
        world.commit(job, round_)
        world.wait(1)
        world.reveal(job, {worker: GOOD}, round_)
        if world.round(job, round_).phase == b.AUDIT:
            audited += 1
            resolve(world, job, GOOD, round_)
        world.do(OWNER, b.finalise(job, round_, 1, False))
    assert abs(audited - 60) <= 3 * 6.93, audited  # three standard deviations of 300 coins of 0.2
