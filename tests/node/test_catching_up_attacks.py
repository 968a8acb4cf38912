"""Catching up against those who would have a node stop, wait for ever, or take another history."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chain import certificate, consensus, messages
from chain.chain import Chain
from chain.store import Store
from chain.types import NOTARISE, Certificate, Vote
from node import wire
from node.sync import Sync
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, NOW, SYSTEM, VALIDATORS, make_network, sign
from tests.node import test_epochs as epochs
from tests.node.ledger_world import T, World
from tests.node.test_catching_up import grow, world_of, written


def slow(world: World, name: str, seconds: float) -> None:
    """Jobs of a node take so long, one after the other."""
    member_wire, free = world.members[name].wire, [0.0]

    def submit(job: Callable[[], T], done: Callable[[T, float], None]) -> None:
        result = job()
        free[0] = max(free[0], world.now) + seconds
        world.call(free[0] - world.now, member_wire, lambda: done(result, world.now))

    member_wire.submit = submit  # type: ignore[method-assign]


@pytest.fixture
def behind(tmp_path: Path) -> World:
    """validator-3 is in the middle of an answer of several certificates."""
    world = world_of(tmp_path)
    world.stop("validator-3")
    grow(world, 0, 4)
    world.drop = lambda source, target, kind, _: "validator-3" in (source, target) and kind == wire.CONSENSUS
    world.add("validator-3")
    slow(world, "validator-3", 1.0)
    while world.members["validator-3"].height < 2:
        world.run(0.1)
    return world


def test_a_transaction_that_comes_in_the_midst_of_an_answer_stops_nobody(behind: World) -> None:
    behind.members["validator-3"].ledger.submit(sign(2, 0, ADDRESSES[7], value=1), behind.now)
    behind.run(20)
    assert behind.members["validator-3"].height >= 4


def test_a_certificate_of_what_was_just_caught_up_stops_nobody(behind: World) -> None:
    member, source = behind.members["validator-3"], behind.members["validator-0"].ledger.chain
    blocks = [source.blocks_from(height, 1, 10**6)[0] for height in (2, 1)]
    proof = blocks[0][1]
    assert proof is not None
    words = [consensus.Certificates((proof,)), *(consensus.HaveBlock(block) for block, _ in blocks)]
    for message in words:
        member.ledger.receive("validator-0", 0, wire.CONSENSUS, messages.encode(message), behind.now)
    behind.run(20)
    assert member.height == source.finalised.number


def test_with_only_peers_below_the_checkpoint_there_is_nothing_to_do_until_one_tells_of_more() -> None:
    sync = Sync(0, 0.0, anchor=100)
    sync.announce("low", 50)
    assert sync.next_request(1.0) is None
    assert sync.deadline is None


def test_who_was_wrong_and_comes_back_is_not_asked_first_again() -> None:
    sync = Sync(0, 0.0)
    sync.announce("liar", 2**60)
    assert sync.next_request(0.0) is not None
    sync.failed(0.0)
    sync.lost("liar")
    sync.announce("liar", 2**60)
    sync.announce("honest", 5)
    request = sync.next_request(2.0)
    assert request is not None
    assert request.peer == "honest"


def test_who_has_delivered_is_asked_before_a_stranger_that_promises_more() -> None:
    sync = Sync(0, 0.0)
    sync.announce("honest", 500)
    assert sync.next_request(0.0) is not None
    sync.answered(0, 0.0)
    sync.announce("stranger", 2**60)
    request = sync.next_request(0.1)
    assert request is not None
    assert request.peer == "honest"


def test_one_short_answer_below_a_checkpoint_does_not_slow_down_what_follows() -> None:
    sync = Sync(0, 0.0, anchor=10_000)
    sync.announce("liar", 20_000)
    for _ in range(7):
        assert sync.next_request(0.0) is not None
        assert sync.shorten()
    asked = sync.next_request(0.0)
    for _ in range(9):
        assert asked is not None
        assert sync.follow_anchor(asked.first - 1)
        sync.answered(0, 0.0)
        asked = sync.next_request(0.0)
    assert asked is not None
    assert asked.count == 128


def test_large_blocks_below_a_checkpoint_are_asked_for_in_smaller_numbers_and_nobody_is_blamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "source", *[30] * 5)
    monkeypatch.setattr(wire, "BLOCKS_BYTES_MAX", 20_000)  # so that 128 blocks do not fit
    world = World(tmp_path)
    head = world.add("source").ledger.chain.head(145)
    late = world.add("late", checkpoint=(head.number, head.digest))
    world.run(20)
    assert late.wire.dropped == []
    assert late.height == 150


def test_a_checkpoint_behind_the_end_of_an_epoch_outlives_the_empty_blocks_there(tmp_path: Path) -> None:
    world = epochs.world_of(tmp_path)
    world.drop = lambda _source, _target, kind, payload: epochs.is_finalise_vote(kind, payload)
    epochs.reign(world, 1, [3, 2, 1, 0])
    world.drop = None
    epochs.submit(world, "validator-2", 1, 0)
    chain = epochs.agreed(world).ledger.chain
    assert len(chain.blocks_from(1, 1, 10**6)) > 1
    late = world.add("late", checkpoint=(2, chain.head(2).digest))
    importer, bound = late.ledger._catch_up._importer, []
    make_final = importer._make_final

    def spy(proof: Certificate, now: float) -> None:
        make_final(proof, now)
        bound.append((late.height, importer.anchor))

    importer._make_final = spy  # type: ignore[method-assign]
    world.run(5)
    assert bound == [(1, 2), (2, None)]


def test_a_checkpoint_binds_a_fresh_validators_own_consensus_too(tmp_path: Path) -> None:
    """The keys of the first epoch drive it over another history, vote by vote."""
    other = world_of(tmp_path / "other")
    grow(other, 1, 4)
    for name in list(other.members):
        other.stop(name)
    true = world_of(tmp_path / "true")
    grow(true, 0, 4)
    head = true.members["validator-0"].ledger.chain.head(3)
    world = World(tmp_path / "other")
    for index in range(3):
        world.add(f"validator-{index}")
    world.root = tmp_path / "fresh"
    late = world.add("validator-3", new=False, checkpoint=(3, head.digest))
    world.run(5)
    assert late.height == 0
    for index in range(3):
        world.stop(f"validator-{index}")
    world.root = tmp_path / "true"
    for name in ("validator-0", "validator-1", "validator-2"):
        true.stop(name)
        world.add(name)
    world.run(70)
    assert late.height == 4
    assert late.ledger.validator is not None


def test_a_validators_key_cannot_hold_a_fresh_node_with_blocks_that_nobody_certifies(tmp_path: Path) -> None:
    """One block in each answer, as slowly as is allowed."""
    world = world_of(tmp_path)
    grow(world, 0, 2)
    forge = Chain(Store(tmp_path / "forge", 1 << 28), make_network(), SYSTEM)
    lies = []
    for count in range(12):
        parent = lies[-1].digest if lies else forge.genesis_digest
        lies.append(forge.build(parent, 4 * count + 1, 0, (), NOW, VALIDATORS[1]))
    late = world.add("late")
    late.ledger.peer_connected("liar", None, world.now)
    late.ledger.receive("liar", None, wire.HEAD, wire.encode(wire.Head(10**6, bytes(32))), world.now)
    began = world.now
    while late.height < 2 and world.now < began + 100:
        world.run(4)
        asked = late.ledger._catch_up.sync.asked
        if asked is not None and asked.peer == "liar" and asked.first <= len(lies):
            item = messages.encode_block(lies[asked.first - 1]), None
            late.ledger.receive("liar", None, wire.BLOCKS, wire.encode(wire.Blocks(asked.first, (item,))), world.now)
    assert late.height == 2
    assert world.now < began + 50


def test_evidence_is_kept_after_a_restart_of_the_machine_too(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    member = world.members["validator-0"]
    genesis, validator = member.ledger.chain.genesis_digest, member.ledger.validator
    assert validator is not None
    for liar in (1, 2):
        for digest in (b"a" * 32, b"b" * 32):
            signature = certificate.sign_vote(VALIDATORS[liar], CHAIN_ID, genesis, 0, 2, NOTARISE, digest)
            payload = messages.encode(consensus.VoteMessage(Vote(0, 2, NOTARISE, digest, liar, signature)))
            member.ledger.receive(f"validator-{liar}", liar, wire.CONSENSUS, payload, world.now)
        validator.restart(world.now)
    assert {first.voter for first, _ in member.store.evidence()} == {1, 2}


def test_who_asks_for_a_body_in_another_epoch_is_not_blamed(tmp_path: Path) -> None:
    world = epochs.world_of(tmp_path)
    epochs.reign(world, 1, [0, 1, 2])
    member = world.members["validator-0"]
    payload = messages.encode(consensus.WantBlock(b"x" * 32))
    member.ledger.receive("validator-3", None, wire.CONSENSUS, payload, world.now)
    assert member.wire.faults == []


def test_a_hello_that_nests_without_end_is_refused_and_ends_nobody() -> None:
    """In a process of its own: it would be a segmentation fault."""
    code = """
import chain.evm
from node import wire
for depth in (1000, 65000):
    try:
        wire.decode_hello(b"\\x91" * depth)
    except wire.InvalidMessage:
        print("refused")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "refused\nrefused\n"
