"""What tests/sim found, each shown again by the least that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain import consensus, messages
from node import wire
from tests.chain.chain_kit import ADDRESSES, CHANGER, LOGGER, VALIDATORS, change, sign
from tests.node.ledger_world import Member, World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for index in range(4):
        world.add(f"validator-{index}")
    return world


def transfer(user: int = 0, nonce: int = 0) -> bytes:
    return sign(user, nonce, ADDRESSES[7], value=1)


def cut_off(world: World, name: str) -> Member:
    world.lost = {frozenset((name, other)) for other in world.members if other != name}
    return world.members[name]


def grow(world: World, blocks: int) -> None:
    source = world.members["validator-0"].ledger
    for _ in range(blocks):
        source.submit(transfer(0, source.chain.nonce(ADDRESSES[0])), world.now)
        world.run(2)


def catch_up(world: World, member: Member, first: int, last: int) -> None:
    """What the importer does in the midst of a long answer, before the validator hears of it."""
    chain = member.ledger.chain
    for block, proof in world.members["validator-0"].ledger.chain.blocks_from(first, last + 1 - first, 10**6):
        assert proof is not None
        chain.finalise([block], proof)


def test_a_validator_looks_for_no_work_on_a_tip_that_catching_up_has_passed(world: World) -> None:
    """Seeds 238 and 261: its machine's tip was final, but no longer the head, and nothing can be built on that."""
    behind = cut_off(world, "validator-3")
    grow(world, 2)
    catch_up(world, behind, 1, 2)
    assert behind.ledger.validator is not None
    assert behind.ledger.validator.machine.tip.height == 0
    behind.ledger.submit(transfer(1), world.now)
    world.run(2)
    world.lost = set()
    for other in ("validator-0", "validator-1", "validator-2"):
        world.connect("validator-3", other)
    grow(world, 1)
    world.run(5)
    assert {member.height for member in world.members.values()} == {behind.height}
    assert behind.ledger.chain.nonce(ADDRESSES[1]) == 1


def test_a_certificate_of_what_was_caught_up_already_is_no_news(world: World) -> None:
    behind = world.members["validator-3"]
    held: list[tuple[str, str, str, bytes]] = []

    def hold(source: str, target: str, kind: str, payload: bytes) -> bool:
        if target == "validator-3" and is_finalise_vote(kind, payload):
            held.append((source, target, kind, payload))
            return True
        return False

    world.drop = hold
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(0.3)
    assert (behind.height, world.members["validator-0"].height) == (0, 1)
    catch_up(world, behind, 1, 1)
    told = len(behind.final)
    for each in held:
        world.deliver(*each)
    assert len(behind.final) == told
    assert behind.ledger.validator is not None
    assert behind.ledger.validator.machine.final.height == 1


def is_finalise_vote(kind: str, payload: bytes) -> bool:
    message = messages.decode(payload) if kind == wire.CONSENSUS else None
    return isinstance(message, consensus.VoteMessage) and message.vote.kind == "finalise"


def test_what_waits_behind_a_gap_goes_on_when_another_transaction_than_the_one_here_has_filled_it(world: World) -> None:
    """Seeds 27 and 264: a validator that had not seen the nonce's transaction never took up the next one."""
    alone = cut_off(world, "validator-3")
    alone.ledger.submit(transfer(1, nonce=1), world.now)
    catching_up = world.members["validator-0"].ledger
    catching_up.submit(transfer(1, nonce=0), world.now)
    world.run(3)
    catch_up(world, alone, 1, 1)
    assert alone.ledger.mempool.candidates() == ()
    world.run(2)
    assert len(alone.ledger.mempool.candidates()) == 1


def test_a_validator_that_enters_an_epoch_late_is_told_the_attestations_again(world: World) -> None:
    """Seed 938: those of the new epoch came while it could not know the signers yet, and never again."""
    late = world.members["validator-3"]
    world.members["validator-0"].ledger.submit(sign(1, 0, LOGGER, data=b"\x77" * 32), world.now)
    world.run(1)
    (claim,) = world.members["validator-0"].claims
    world.drop = lambda source, target, kind, _payload: target == "validator-3" and (
        kind in (wire.BLOCKS, wire.CONSENSUS) or source == "validator-2"
    )
    order = [VALIDATORS[index] for index in (3, 1, 0, 2)]
    world.members["validator-0"].ledger.submit(sign(0, 0, CHANGER, data=change(1, order)), world.now)
    world.run(2)
    for index in (0, 1):
        world.members[f"validator-{index}"].ledger.attest(claim, True, world.now)
    world.run(1)
    assert late.ledger.chain.epochs.present.number == 0
    world.drop = lambda source, target, _kind, _payload: (source, target) == ("validator-2", "validator-3")
    world.run(5)
    assert late.ledger.chain.epochs.present.number == 1
    assert {each.signer for each in late.ledger.attested.of(claim)} == {1, 2}


def test_a_verdict_that_is_known_already_is_not_sent_again(world: World) -> None:
    """The attestor offers it whenever the claim is found again; only a new epoch has not heard it."""
    member = world.members["validator-0"]
    said: list[str] = []
    world.drop = lambda source, _target, kind, _payload: kind == wire.ATTESTATIONS and bool(said.append(source))
    for _ in range(3):
        member.ledger.attest(b"\x55" * 32, True, world.now)
    assert said == ["validator-0"] * 3  # once, to the three others
