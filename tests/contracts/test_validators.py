"""The contract of the validator set: how a change comes about, what is refused, and what consensus relies on."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import chain.contracts
from chain.certificate import quorum
from chain.contracts import VALIDATORS, compiled, genesis_contracts
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.genesis import VALIDATORS_MAX
from tests.contracts import validators_model
from tests.contracts.evm_harness import Reverted
from tests.contracts.world import OWNER, STRANGER, WORKERS, World, of_type

FOUR = WORKERS[:4]


def carry(world: World, subject: bytes, admit: bool, approvers: Sequence[bytes]) -> list[b.Event]:
    """In a block of its own: the first one proposes, the others approve."""
    world.wait(1)
    events = world.do(approvers[0], b.propose(subject, admit))
    (proposed,) = of_type(events, b.Proposed)
    for approver in approvers[1:]:
        events += world.do(approver, b.approve(proposed.id))
    return events


def validators(world: World) -> tuple[bytes, ...]:
    return world.evm.query(b.validators_view())


def open_ids(world: World) -> list[int]:
    return [each.id for each in world.evm.query(b.proposals_page_view(0, b.PROPOSALS_PAGE_MAX))]


# ---- a change ----


def test_the_third_of_four_approvals_admits_a_validator_and_ends_the_epoch() -> None:
    world = World(FOUR)
    proposed = world.do(FOUR[2], b.propose(STRANGER, True))
    assert proposed == [b.Proposed(1, STRANGER, FOUR[2], True), b.Approved(1, FOUR[2], 1)]
    assert world.do(FOUR[0], b.approve(1)) == [b.Approved(1, FOUR[0], 2)]
    assert validators(world) == FOUR
    assert world.evm.query(b.proposals_page_view(0, 9)) == (b.Proposal(1, STRANGER, True, FOUR[2], 0b101),)
    decided = world.do(FOUR[3], b.approve(1))
    assert decided == [b.Approved(1, FOUR[3], 3), b.ValidatorsChanged(1, (*FOUR, STRANGER))]
    assert validators(world) == (*FOUR, STRANGER)
    assert world.evm.query(b.epoch_view()) == 1
    assert open_ids(world) == []


def test_who_comes_after_a_removed_validator_moves_up_and_it_may_vote_no_more() -> None:
    world = World(FOUR)
    *_, changed = carry(world, FOUR[1], False, FOUR[:3])  # also by itself
    assert changed == b.ValidatorsChanged(1, (FOUR[0], FOUR[2], FOUR[3]))
    world.wait(1)
    with pytest.raises(Reverted, match="only a validator may do this"):
        world.do(FOUR[1], b.propose(STRANGER, True))
    *_, changed = carry(world, FOUR[1], True, (FOUR[0], FOUR[2], FOUR[3]))
    assert changed == b.ValidatorsChanged(2, (FOUR[0], FOUR[2], FOUR[3], FOUR[1]))


def test_a_change_lets_all_other_proposals_lapse_and_they_can_be_made_anew() -> None:
    world = World(FOUR)
    world.do(FOUR[0], b.propose(FOUR[3], False))
    world.do(FOUR[1], b.propose(OWNER, True))
    world.do(FOUR[1], b.approve(1))
    carry(world, STRANGER, True, FOUR[:3])
    with pytest.raises(Reverted, match="the proposal's epoch has ended"):
        world.do(FOUR[2], b.approve(1))
    world.wait(1)
    proposed, approved = world.do(FOUR[2], b.propose(FOUR[3], False))
    assert (proposed, approved) == (b.Proposed(4, FOUR[3], FOUR[2], False), b.Approved(4, FOUR[2], 1))
    assert open_ids(world) == [4]


def test_a_lone_validator_decides_alone_and_two_need_each_other() -> None:
    world = World(FOUR[:1])
    *_, changed = carry(world, FOUR[1], True, FOUR[:1])
    assert changed == b.ValidatorsChanged(1, FOUR[:2])
    *_, changed = carry(world, FOUR[0], False, FOUR[:2])
    assert changed == b.ValidatorsChanged(2, FOUR[1:2])


def test_nothing_is_proposed_or_approved_in_the_block_in_which_an_epoch_ended() -> None:
    world = World(FOUR[:1])
    world.do(FOUR[0], b.propose(FOUR[1], True))
    for validator in FOUR[:2]:
        with pytest.raises(Reverted, match="the epoch has just ended"):
            world.do(validator, b.propose(STRANGER, True))
        with pytest.raises(Reverted, match="the proposal's epoch has ended"):
            world.do(validator, b.approve(1))
    world.wait(1)
    assert len(world.do(FOUR[0], b.propose(STRANGER, True))) == 2


def test_a_faulty_validator_cannot_bury_the_proposals_of_the_others() -> None:
    world = World(FOUR)
    for subject in WORKERS[10:18]:
        world.do(FOUR[0], b.propose(subject, True))
    with pytest.raises(Reverted, match="8 open proposals of one validator at most"):
        world.do(FOUR[0], b.propose(STRANGER, True))
    carry(world, STRANGER, True, FOUR[1:])
    world.wait(1)
    world.do(FOUR[0], b.propose(WORKERS[10], True))  # a new epoch


def test_pages_of_proposals_end_where_they_do_and_hold_fifty_at_most() -> None:
    world = World(WORKERS[:7])
    subjects = WORKERS[20:73]
    for number, subject in enumerate(subjects):
        world.do(WORKERS[number % 7], b.propose(subject, True))

    def page(start: int, count: int) -> list[int]:
        return [proposal.id for proposal in world.evm.query(b.proposals_page_view(start, count))]

    assert page(0, 3) == [1, 2, 3]
    assert page(0, 2**256 - 1) == list(range(1, 51))
    assert page(50, 50) == [51, 52, 53]
    assert page(53, 1) == []
    assert page(2**256 - 1, 1) == []


# ---- the same rules in two places ----


def test_the_network_files_validators_are_those_of_epoch_zero() -> None:
    for count in (1, 4, VALIDATORS_MAX):
        world = World(WORKERS[:count])
        assert validators(world) == WORKERS[:count]
        assert world.evm.query(b.epoch_view()) == 0
    assert genesis_contracts()[VALIDATORS][1] == {}


def test_storage_after_a_change_is_what_genesis_would_place() -> None:
    world = World(FOUR)
    carry(world, STRANGER, True, FOUR[:3])
    first = compiled()["validators"]["storage"]["members"]
    placed = genesis_contracts((*FOUR, STRANGER))[VALIDATORS][1]
    assert placed == {slot: world.evm.state.get_storage(VALIDATORS, slot) for slot in range(first, first + 6)}


def test_approvals_needed_are_a_quorum_for_every_number_of_validators() -> None:
    world = World()
    first = compiled()["validators"]["storage"]["members"]
    for count in range(1, VALIDATORS_MAX + 1):
        world.evm.state.set_storage(VALIDATORS, first, count)
        assert world.evm.query(b.approvals_needed_view()) == quorum(count)


def test_limits_are_those_of_the_network_file_and_the_bindings() -> None:
    source = (Path(chain.contracts.__file__).parent / "validators.vy").read_text()
    for name, value in (
        ("VALIDATORS_MAX", VALIDATORS_MAX),
        ("VALIDATORS_MAX", validators_model.VALIDATORS_MAX),
        ("OPEN_EACH_MAX", validators_model.OPEN_EACH_MAX),
        ("PAGE_MAX", b.PROPOSALS_PAGE_MAX),
    ):
        assert f"\n{name}: constant(uint256) = {value}\n" in source


# ---- refusals ----

Refusal = Callable[[World], object]
REFUSALS: list[tuple[str, Refusal]] = []


def refusal(reason: str) -> Callable[[Refusal], Refusal]:
    """Register a story whose last call, after four validators have proposed nothing, must revert with this."""

    def register(story: Refusal) -> Refusal:
        REFUSALS.append((f"validators: {reason}", story))
        return story

    return register


def call_by(sender: bytes, call: Call) -> Refusal:
    return lambda world: world.do(sender, call)


for _reason, _story in (
    ("only a validator may do this", call_by(STRANGER, b.propose(STRANGER, True))),
    ("only a validator may do this", call_by(STRANGER, b.approve(1))),
    ("the zero address cannot be a validator", call_by(FOUR[0], b.propose(bytes(20), True))),
    ("it is a validator already", call_by(FOUR[0], b.propose(FOUR[3], True))),
    ("it is no validator", call_by(FOUR[0], b.propose(STRANGER, False))),
    ("it is no validator", call_by(FOUR[0], b.propose(bytes(20), False))),
    ("there is no such proposal", call_by(FOUR[0], b.approve(0))),
    ("there is no such proposal", call_by(FOUR[0], b.approve(1))),
    ("there is no such proposal", call_by(FOUR[0], b.approve(2**256 - 1))),
):
    refusal(_reason)(_story)


@refusal("there are 100 already")
def admit_one_too_many(world: World) -> None:
    World(WORKERS).do(WORKERS[99], b.propose(STRANGER, True))


@refusal("the last one cannot be removed")
def remove_the_last_one(world: World) -> None:
    World(FOUR[:1]).do(FOUR[0], b.propose(FOUR[0], False))


@refusal("proposed already, approve proposal 12")
def propose_what_is_open(world: World) -> None:
    for number, subject in enumerate(WORKERS[10:21]):
        world.do(FOUR[number % 4], b.propose(subject, True))
    world.do(FOUR[0], b.propose(FOUR[3], False))
    world.do(FOUR[1], b.propose(FOUR[3], False))


@refusal("8 open proposals of one validator at most")
def propose_a_ninth_time(world: World) -> None:
    for subject in WORKERS[10:19]:
        world.do(FOUR[0], b.propose(subject, True))


@refusal("the epoch has just ended")
def propose_in_the_block_of_a_change(world: World) -> None:
    carry(world, STRANGER, True, FOUR[:3])
    world.do(STRANGER, b.propose(FOUR[0], False))


@refusal("the proposal's epoch has ended")
def approve_what_was_carried_out(world: World) -> None:
    carry(world, STRANGER, True, FOUR[:3])
    world.wait(1)
    world.do(FOUR[3], b.approve(1))


@refusal("you have approved it already")
def approve_the_own_proposal(world: World) -> None:
    world.do(FOUR[0], b.propose(STRANGER, True))
    world.do(FOUR[0], b.approve(1))


@refusal("you have approved it already")
def approve_twice(world: World) -> None:
    world.do(FOUR[0], b.propose(STRANGER, True))
    world.do(FOUR[3], b.approve(1))
    world.do(FOUR[3], b.approve(1))


@pytest.mark.parametrize(
    ("reason", "story"), REFUSALS, ids=[f"{reason} #{number}" for number, (reason, _) in enumerate(REFUSALS)]
)
def test_a_call_that_breaks_a_rule_reverts_with_its_reason(reason: str, story: Refusal) -> None:
    with pytest.raises(Reverted) as refused:
        story(World(FOUR))
    assert refused.value.reason == reason


def test_every_revert_string_of_the_contract_has_its_story() -> None:
    source = (Path(chain.contracts.__file__).parent / "validators.vy").read_text()
    written = set(re.findall(r'"(validators: [^"]*)"', source))
    assert written == {re.sub(r"\d+$", "", reason) for reason, _ in REFUSALS}


def test_coins_sent_along_are_refused() -> None:
    for call in (b.propose(STRANGER, True), b.approve(1)):
        with pytest.raises(Reverted):
            World(FOUR).do(FOUR[0], Call(call.to, 1, call.data, call.gas))
