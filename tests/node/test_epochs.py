"""Changing the validators, over real ledgers and chains: a log of CHANGER ends an epoch."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain import certificate, claims, consensus, messages
from chain.header import address_of_secret
from chain.types import FINALISE, NO_DIGEST, TIMEOUT, InvalidVote, Vote
from node import wire
from tests.chain.chain_kit import ADDRESSES, CHANGER, VALIDATORS, change, make_network, sign
from tests.node.ledger_world import Member, World


def world_of(tmp_path: Path, count: int = 4) -> World:
    world = World(tmp_path)
    for index in range(count):
        world.add(f"validator-{index}")
    return world


def transfer(user: int, nonce: int) -> bytes:
    return sign(user, nonce, ADDRESSES[7], value=1)


def is_finalise_vote(kind: str, payload: bytes) -> bool:
    """Whether it is one of the first view."""
    message = messages.decode(payload) if kind == wire.CONSENSUS else None
    return isinstance(message, consensus.VoteMessage) and (message.vote.kind, message.vote.view) == (FINALISE, 1)


def reign(world: World, epoch: int, indices: list[int]) -> None:
    """Have user 0 begin an epoch with the validators of these indices."""
    world.run(1)
    nonce = world.members["validator-0"].ledger.chain.nonce(ADDRESSES[0])
    data = change(epoch, [VALIDATORS[index] for index in indices])
    world.members["validator-0"].ledger.submit(sign(0, nonce, CHANGER, data=data), world.now)
    world.run(3)


def submit(world: World, at: str, user: int, nonce: int) -> None:
    world.members[at].ledger.submit(transfer(user, nonce), world.now)
    world.run(3)


def agreed(world: World) -> Member:
    """All members have the same head."""
    assert len({member.ledger.chain.finalised.digest for member in world.members.values()}) == 1
    return next(iter(world.members.values()))


def test_an_admitted_validator_votes_in_the_next_epoch_which_begins_at_view_1(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    newcomer = world.add("validator-4")
    assert newcomer.ledger.validator is None
    reign(world, 1, [0, 1, 2, 3, 4])
    assert newcomer.ledger.validator is not None
    assert {m.ledger.validator.machine.view for m in world.members.values() if m.ledger.validator} == {1}
    submit(world, "validator-4", 1, 0)
    chain = agreed(world).ledger.chain
    assert (chain.finalised.epoch, chain.finalised.number) == (1, 2)
    assert chain.epochs.present.quorum == 4
    assert 4 in {voter for voter, _ in chain.finalised_certificate.signatures}


def test_the_votes_of_a_removed_validator_stop_counting_exactly_there(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    reign(world, 1, [0, 1, 2])
    removed = world.members["validator-3"]
    assert removed.ledger.validator is None
    submit(world, "validator-3", 1, 0)
    chain = agreed(world).ledger.chain
    assert chain.finalised.number == 2
    proof, block = chain.finalised_certificate, chain.final_block
    assert {voter for voter, _ in proof.signatures} == {0, 1, 2}
    epoch = chain.epochs.present
    own = (3, certificate.sign_vote(VALIDATORS[3], 7, chain.genesis_digest, 1, proof.view, proof.kind, proof.digest))
    forged = type(proof)(proof.epoch, proof.view, proof.kind, proof.digest, (*proof.signatures[:2], own))
    with pytest.raises(InvalidVote):
        certificate.verify_finalisation(forged, block, epoch.validators, epoch.quorum, 7, chain.genesis_digest)


def test_the_last_block_of_an_epoch_is_followed_by_the_next_epoch_though_an_empty_one_made_it_final(
    tmp_path: Path,
) -> None:
    """Finalise votes of the last block's view are lost: only an empty block after it makes it final."""
    world = world_of(tmp_path)
    world.drop = lambda _source, _target, kind, payload: is_finalise_vote(kind, payload)
    reign(world, 1, [3, 2, 1, 0])
    world.drop = None
    submit(world, "validator-2", 1, 0)
    chain = agreed(world).ledger.chain
    last = chain.blocks_from(1, 1, 10**6)
    assert len(last) > 1
    assert [block.height for block, _ in last] == list(range(1, len(last) + 1))
    assert {block.epoch for block, _ in last} == {0}
    assert chain.head(2).parent == chain.head(1).digest
    assert (chain.head(2).epoch, chain.head(2).view) == (1, 1)
    late = world.add("late")
    world.run(5)
    assert agreed(world).height == late.height == 2


def test_a_node_that_slept_through_several_epochs_catches_up_and_takes_its_part(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    world.stop("validator-3")
    reign(world, 1, [0, 1, 2])
    submit(world, "validator-1", 1, 0)
    reign(world, 2, [0, 1, 2, 3, 4])
    submit(world, "validator-1", 1, 1)
    back = world.add("validator-3")
    world.run(8)
    assert agreed(world).ledger.chain.epochs.present.number == 2
    assert back.ledger.validator is not None
    world.stop("validator-1")  # without the sleeper there is no quorum of four now
    world.add("validator-4")
    submit(world, "validator-0", 1, 2)
    assert agreed(world).ledger.chain.nonce(ADDRESSES[1]) == 3


def test_one_validator_alone_can_admit_a_second_and_go_back(tmp_path: Path) -> None:
    world = World(tmp_path, make_network(1))
    world.add("validator-0")
    world.add("validator-1")
    reign(world, 1, [0, 1])
    submit(world, "validator-1", 1, 0)
    reign(world, 2, [1])
    submit(world, "validator-0", 1, 1)
    chain = agreed(world).ledger.chain
    assert chain.epochs.present.validators == (address_of_secret(VALIDATORS[1]),)
    assert chain.nonce(ADDRESSES[1]) == 2


def test_epochs_survive_a_restart(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    reign(world, 1, [0, 1, 2])
    for name in list(world.members):
        world.stop(name)
    for index in range(4):
        world.add(f"validator-{index}")
    submit(world, "validator-2", 1, 0)
    assert agreed(world).ledger.chain.epochs.present.number == 1
    assert agreed(world).height == 2



def test_who_is_an_epoch_behind_is_ignored_and_not_blamed(tmp_path: Path) -> None:
    """What a removed validator says, and what it attested, comes from an earlier list and is no fault."""
    world = world_of(tmp_path)
    genesis = world.members["validator-0"].ledger.chain.genesis_digest
    reign(world, 1, [0, 1, 2])
    vote = Vote(0, 9, TIMEOUT, NO_DIGEST, 3, certificate.sign_vote(VALIDATORS[3], 7, genesis, 0, 9, TIMEOUT, NO_DIGEST))
    late = claims.sign_attestation(VALIDATORS[3], 3, b"c" * 32, True)
    member = world.members["validator-0"]
    words = (
        (wire.CONSENSUS, messages.encode(consensus.VoteMessage(vote))),
        (wire.CONSENSUS, messages.encode(consensus.Status(1, 0, 0, 1))),
        (wire.ATTESTATIONS, wire.encode(wire.Attestations((wire.to_wire(late),)))),
    )
    for kind, payload in words:
        member.ledger.receive("validator-3", None, kind, payload, world.now)
    assert member.wire.faults == []
    assert member.ledger.attested.of(b"c" * 32) == ()
    stranger = claims.sign_attestation(VALIDATORS[7], 2, b"c" * 32, True)
    payload = wire.encode(wire.Attestations((wire.to_wire(stranger),)))
    member.ledger.receive("validator-3", None, wire.ATTESTATIONS, payload, world.now)
    assert len(member.wire.faults) == 1


def test_three_validators_with_keys_brought_along_can_admit_a_fourth(tmp_path: Path) -> None:
    """None of them knows at first whether its key has voted before; but all of them are here."""
    world = World(tmp_path, make_network(3))
    for index in range(4):
        world.add(f"validator-{index}", new=False)
    world.run(3)
    reign(world, 1, [0, 1, 2, 3])
    submit(world, "validator-3", 1, 0)
    assert agreed(world).ledger.chain.nonce(ADDRESSES[1]) == 1
