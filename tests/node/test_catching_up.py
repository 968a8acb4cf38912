"""Catching up over real ledgers: from liars, with a checkpoint, after a lost disk, over long unproven runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from chain import certificate, messages
from chain.chain import Chain
from chain.store import Store, mark_new
from chain.types import FINALISE, Block, Certificate
from node import importer, wire
from node.importer import CheckpointContradicted
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, NOW, SYSTEM, VALIDATORS, make_network, sign, tx
from tests.node.ledger_world import World


def world_of(root: Path) -> World:
    world = World(root)
    for index in range(4):
        world.add(f"validator-{index}")
    return world


def grow(world: World, user: int, blocks: int) -> None:
    """So many more blocks, each with a transfer of this user."""
    source = world.members["validator-0"].ledger
    for _ in range(blocks):
        source.submit(sign(user, source.chain.nonce(ADDRESSES[user]), ADDRESSES[7], value=1), world.now)
        world.run(0.5)


def certified(chain: Chain, block: Block) -> Certificate:
    """What three of the four validators sign to make a block final."""
    vote = (CHAIN_ID, chain.genesis_digest, 0, block.view, FINALISE, block.digest)
    signatures = tuple((voter, certificate.sign_vote(VALIDATORS[voter], *vote)) for voter in range(3))
    return Certificate(0, block.view, FINALISE, block.digest, signatures)


def written(root: Path, name: str, *runs: int) -> Chain:
    """The disk of a node whose history is runs of so many blocks under one certificate; then it is closed."""
    mark_new(root / name)
    chain = Chain(Store(root / name, 1 << 28), make_network(), SYSTEM)
    for run in runs:
        parent, blocks = chain.finalised.digest, []
        for _ in range(run):
            view = chain.head(parent).view + 1
            nonce = chain.nonce(ADDRESSES[1], parent)
            blocks.append(chain.build(parent, view, 0, [tx(chain, 1, nonce)], NOW, VALIDATORS[view % 4]))
            parent = blocks[-1].digest
        chain.finalise(blocks, certified(chain, blocks[-1]))
    chain._store.close()
    return chain


def test_blocks_under_one_certificate_are_caught_up_over_as_many_answers_as_it_takes(tmp_path: Path) -> None:
    written(tmp_path, "source", 3, 135, 2)
    world = World(tmp_path)
    source, late = world.add("source"), world.add("late")
    world.run(3)
    assert late.height == source.height == 140
    assert late.ledger.chain.finalised == source.ledger.chain.finalised


def test_blocks_that_nobody_certifies_are_held_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A validator that lies can sign blocks without end."""
    written(tmp_path, "source", 290)
    monkeypatch.setattr(importer, "UNPROVEN_BYTES_MAX", 60_000)
    world = World(tmp_path)
    world.add("source")
    late = world.add("late")
    world.run(3)
    assert late.height == 0
    assert "too many blocks" in late.wire.dropped[0]


def test_a_peer_that_stays_silent_is_left_for_another(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    grow(world, 0, 3)
    world.drop = lambda source, _target, kind, _payload: kind == wire.BLOCKS and source != "validator-3"
    late = world.add("late")
    world.run(40)
    assert late.height == 3


def test_blocks_with_a_wrong_state_root_are_refused_though_a_quorum_has_certified_them(tmp_path: Path) -> None:
    """Which a quorum of honest validators never does: every node executes for itself."""
    chain = written(tmp_path, "source", 1)
    world = World(tmp_path)
    source = world.add("source")
    ((honest, _),) = source.ledger.chain.blocks_from(1, 1, 10**6)
    other = Chain(Store(tmp_path / "forge", 1 << 28), make_network(balances={}), SYSTEM)
    forged = other.build(other.genesis_digest, 1, 0, (), NOW, VALIDATORS[1])
    late = world.add("late")
    world.run(0.015)
    asked = late.ledger._catch_up.sync.asked
    assert asked is not None
    item = messages.encode_block(forged), messages.encode_certificate(certified(chain, forged))
    late.ledger.receive(asked.peer, None, wire.BLOCKS, wire.encode(wire.Blocks(1, (item,))), world.now)
    assert late.height == 0
    assert late.wire.dropped
    world.run(5)
    assert late.ledger.chain.finalised.digest == honest.digest


# ---- a trusted checkpoint -------------------------------------------------------------------------------------------
@pytest.fixture
def two_histories(tmp_path: Path) -> World:
    """An honest world, and a node from one in which the same validators wrote another history."""
    other = world_of(tmp_path / "other")
    grow(other, 1, 4)
    other.add("liar")
    other.run(2)
    for name in list(other.members):
        other.stop(name)
    world = world_of(tmp_path / "true")
    grow(world, 0, 4)
    world.root = tmp_path / "other"
    assert world.add("liar").height == 4
    world.root = tmp_path / "true"
    return world


def test_a_checkpoint_keeps_a_fresh_node_from_an_old_history_written_anew(two_histories: World) -> None:
    world = two_histories
    head = world.members["validator-0"].ledger.chain.head(3)
    world.drop = lambda source, target, _kind, _payload: target == "late" and source != "liar"
    late = world.add("late", checkpoint=(head.number, head.digest))
    world.run(5)
    assert late.height == 0
    assert "checkpoint" in late.wire.dropped[0]
    world.drop = None
    world.connect("late", "validator-1")
    world.run(60)
    assert late.ledger.chain.head(3) == head
    assert late.height == 4


def test_without_a_checkpoint_the_first_history_that_the_first_validators_signed_is_taken(two_histories: World) -> None:
    two_histories.drop = lambda source, target, _kind, _payload: target == "late" and source != "liar"
    late = two_histories.add("late")
    two_histories.run(5)
    assert late.ledger.chain.finalised == two_histories.members["liar"].ledger.chain.finalised


def test_a_node_whose_own_history_contradicts_the_checkpoint_stops(two_histories: World) -> None:
    world = two_histories
    honest = world.members["validator-0"].ledger.chain
    world.stop("liar")
    world.root = world.root.parent / "other"
    with pytest.raises(CheckpointContradicted):
        world.add("liar", checkpoint=(4, honest.finalised.digest))
    world.members.pop("liar", None)


def test_a_checkpoint_far_above_is_led_to_backwards(tmp_path: Path) -> None:
    written(tmp_path, "source", *[30] * 5)
    world = World(tmp_path)
    source = world.add("source")
    head = source.ledger.chain.head(145)
    late = world.add("late", checkpoint=(head.number, head.digest))
    world.run(0.035)
    assert late.ledger._catch_up.sync.anchoring
    assert late.height == 0
    world.run(5)
    assert late.height == 150


# ---- a lost disk ----------------------------------------------------------------------------------------------------
def test_a_validator_that_lost_its_disk_but_not_its_key_votes_again_above_where_the_others_are(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    grow(world, 0, 5)
    world.stop("validator-3")
    world.root = tmp_path / "second-disk"
    back = world.add("validator-3", new=False)
    assert back.ledger.validator is not None
    assert not back.ledger.validator.machine.remembers
    world.run(10)
    assert back.height == 5
    assert back.ledger.validator.machine.remembers
    floor = back.store.vote_log().floor
    assert floor is not None
    assert floor[1] > world.members["validator-0"].ledger.chain.finalised.view
    grow(world, 0, 2)  # the views that it may have voted in pass without it, one by timeout
    world.run(3)
    world.stop("validator-1")  # now every other vote is needed
    source = world.members["validator-0"].ledger
    source.submit(sign(2, 0, ADDRESSES[7], value=1), world.now)
    world.run(20)
    assert {member.height for member in world.members.values()} == {source.chain.finalised.number}
    assert source.chain.nonce(ADDRESSES[2]) == 1
