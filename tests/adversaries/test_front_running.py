"""A validator that sees every call before it is in a block, and puts its own copy of it in front.

The program that does so among whole nodes is in the table of attacks; here is each function of the contracts by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from chain.contracts import FAUCET, FaucetTerms, compiled
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from tests.adversaries.variants import ANYBODY_CANCELS
from tests.contracts.audits_kit import ALWAYS, APPEALS, BOND, alone, three
from tests.contracts.changed import place_changed
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
)

FIRST, SECOND, THIRD = WORKERS[:3]
VALIDATORS = WORKERS[50:54]
RUNNER, MEMBER = VALIDATORS[:2]
JOB = 1
PEOPLE = (OWNER, FIRST, SECOND, THIRD, STRANGER)


def _posted(world: World) -> None:
    world.post()


def _enrolled(world: World) -> None:
    world.post()
    world.enrol(JOB, 3)


def _committed(world: World) -> None:
    _enrolled(world)
    world.commit(JOB)


def _decided(world: World) -> None:
    _committed(world)
    world.reveal(JOB, {FIRST: GOOD, SECOND: GOOD})


def _graced(world: World) -> None:
    _decided(world)
    world.wait(TERMS.grace_s)


def _overdue(world: World) -> None:
    _committed(world)
    world.wait(TERMS.reveal_window_s)


def _called_last(world: World) -> None:
    _overdue(world)
    world.do(STRANGER, b.expire(JOB, 1, 1))
    world.wait(TERMS.last_call_s)


def _waiting(world: World) -> None:
    world.post()
    world.wait(TERMS.deadline - world.evm.timestamp)


def _ended(world: World) -> None:
    _decided(world)
    world.do(OWNER, b.finalise(JOB, 1, 1, True))


def _proposed(world: World) -> None:
    world.post()  # nothing of it matters here
    world.do(VALIDATORS[2], b.propose(STRANGER, True))


def _asked(world: World) -> None:
    world.post()
    world.do(FIRST, b.ask_sponsor(JOB))


def _offered(world: World) -> None:
    world.post()
    world.sponsor(JOB, FIRST, 2 * STAKE)


def _appealable(world: World) -> None:
    three(world, {FIRST: GOOD, SECOND: GOOD}, **APPEALS)


def _audited(world: World) -> None:
    alone(world, GOOD, **ALWAYS)


def _funded(world: World) -> None:
    world.post()  # nothing of it matters here
    world.evm.fund(FAUCET)


@dataclass(frozen=True)
class Front:
    """A call that somebody is about to make, and what a copy in front of it comes to.

    Attributes:
        copy, original: why these are refused; empty: they are not. The original comes after the copy.
        same: whether the two together leave all that matters to others as the original alone would.
    """

    name: str
    prepare: Callable[[World], None]
    sender: bytes
    call: Callable[[], Call]
    copy: str = ""
    original: str = ""
    same: bool = True


FRONTS = (
    # who copies these puts its own money where the other's would have been, and takes nothing from it
    Front("post", _posted, OWNER, lambda: b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, TERMS)),
    Front("top_up", _posted, OWNER, lambda: b.top_up(JOB, 1, TERMS), same=False),
    Front("enrol", _posted, FIRST, lambda: b.enrol(JOB, 4 * STAKE)),
    # these are the sender's alone
    Front("cancel", _committed, OWNER, lambda: b.cancel(JOB), copy="only the owner may cancel"),
    Front("leave", _enrolled, FIRST, lambda: b.leave(JOB), copy="not enrolled"),
    Front("commit", _enrolled, FIRST, lambda: commit_call(FIRST, JOB, 1, 1), copy="caller holds no slot"),
    Front("reveal", _committed, FIRST, lambda: reveal_call(FIRST, JOB, 1, 1, GOOD), copy="caller has not committed"),
    Front("withdraw", _ended, FIRST, lambda: b.withdraw(JOB)),
    Front("finalise", _decided, OWNER, lambda: b.finalise(JOB, 1, 1, False), copy="grace has not passed"),
    Front("finalise", _graced, OWNER, lambda: b.finalise(JOB, 1, 1, True), copy="only the owner may stop"),
    Front("ask_sponsor", _posted, FIRST, lambda: b.ask_sponsor(JOB)),
    Front("unsponsor", _offered, OWNER, lambda: b.unsponsor(JOB, FIRST), copy="no offer of yours"),
    # these anybody may make, and whoever does so does the same
    Front("finalise", _graced, FIRST, lambda: b.finalise(JOB, 1, 1, False), original="round takes no finalise"),
    Front("expire", _overdue, FIRST, lambda: b.expire(JOB, 1, 1), original="last call was granted"),
    Front("close", _called_last, FIRST, lambda: b.close(JOB, 1, 1), original="round is not open"),
    Front("end", _waiting, OWNER, lambda: b.end(JOB), original="job has ended"),
    Front("settle", _ended, STRANGER, lambda: b.settle(JOB, FIRST)),
    Front("resolve", _audited, STRANGER, lambda: b.resolve(JOB, 1, 1, GOOD), original="round has no audit"),
    Front("grant", _funded, MEMBER, lambda: b.grant(b"\x77" * 20), original="faucet"),
    # whoever is first puts up its own money, and the other keeps its
    Front("sponsor", _asked, OWNER, lambda: b.sponsor(JOB, FIRST, 2 * STAKE), original="no sponsor is wanted"),
    Front("appeal", _appealable, STRANGER, lambda: b.appeal(JOB, 1, 1, BOND), original="no appeal is open"),
    Front("propose", _posted, MEMBER, lambda: b.propose(STRANGER, True), original="proposed already"),
    Front("approve", _proposed, MEMBER, lambda: b.approve(1), same=False),
)


def play(front: Front, copied: bool) -> World:
    world = World(VALIDATORS, faucet=FaucetTerms(10**9, 10, DAY))
    front.prepare(world)
    if copied:
        before = wealth(world, RUNNER)
        refused = attempt(world, RUNNER, front.call())
        assert front.copy in refused
        assert bool(front.copy) == bool(refused)
        assert wealth(world, RUNNER) <= before, "the copy earns"
    refused = attempt(world, front.sender, front.call())
    expected = front.original if copied else ""
    assert expected in refused
    assert bool(expected) == bool(refused)
    return world


def attempt(world: World, sender: bytes, call: Call) -> str:
    """Why it was refused; empty if it was not."""
    try:
        world.do(sender, call)
    except Reverted as error:
        return str(error)
    return ""


def wealth(world: World, who: bytes) -> int:
    """All wei that an account has or may fetch, its deposit in the job, its offers and its bond included."""
    enrolment = world.enrolment(JOB, who)
    tied = (enrolment.tail - enrolment.head) * STAKE
    offers = [world.debt(JOB, each) for each in (FIRST, RUNNER)]
    tied += sum(each.offered for each in offers if each.sponsor == who)
    tied += BOND if world.round(JOB).appellant == who else 0
    return world.evm.balance(who) + world.owed(who) + enrolment.free + tied


def what_matters(world: World) -> object:
    """To everybody but the copier: their wealth, and how the round stands."""
    view = world.round(JOB)
    return [wealth(world, who) for who in PEOPLE], view.phase, view.winner, view.last_call_until, world.job(JOB).base


@pytest.mark.parametrize("front", FRONTS, ids=lambda front: f"{front.name} {front.prepare.__name__}")
def test_a_copy_in_front_earns_nothing_and_takes_nothing_from_the_call_behind_it(front: Front) -> None:
    alone, behind = play(front, copied=False), play(front, copied=True)
    if front.same:
        assert what_matters(behind) == what_matters(alone)
    else:
        ours, theirs = what_matters(behind), what_matters(alone)
        assert ours[0] == theirs[0]  # type: ignore[index]


def test_every_function_that_changes_something_is_among_them() -> None:
    changing = {
        entry["name"]
        for contract in ("faucet", "replicated", "validators")
        for entry in compiled()[contract]["abi"]
        if entry["type"] == "function" and entry["stateMutability"] in ("payable", "nonpayable")
    }
    assert changing == {front.name for front in FRONTS}


def test_who_finalises_after_the_grace_takes_the_owners_stop_away_for_a_round() -> None:
    """Which an owner prevents by finalising within the grace."""
    world = World(VALIDATORS)
    _graced(world)
    world.do(RUNNER, b.finalise(JOB, 1, 1, False))
    assert "round takes no finalise" in attempt(world, OWNER, b.finalise(JOB, 1, 1, True))
    assert world.round(JOB, 2).phase == b.COMMIT


def test_where_anybody_may_cancel_a_copy_in_front_ends_the_job() -> None:
    """The variant: a passage that binds a call to its caller is left out."""
    world = World(VALIDATORS)
    place_changed(world.evm, *ANYBODY_CANCELS.contract)
    _posted(world)
    world.do(RUNNER, b.cancel(JOB))
    assert world.job(JOB).state == b.ENDED
    assert "job has ended" in attempt(world, FIRST, b.enrol(JOB, STAKE))
