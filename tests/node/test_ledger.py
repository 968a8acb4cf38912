"""Ledgers of a whole small network over real chains, with a fake wire and clock."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from chain import certificate, consensus, messages
from chain.types import FINALISE, NO_DIGEST, TIMEOUT, InvalidTransaction, Vote
from node import wire
from node.repeats import Repeats
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, LOGGER, VALIDATORS, sign
from tests.node.ledger_world import World

CLAIMED = b"\x77" * 32


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    for index in range(4):
        world.add(f"validator-{index}")
    return world


def transfer(user: int = 0, nonce: int = 0) -> bytes:
    return sign(user, nonce, ADDRESSES[7], value=1)


def heights(world: World) -> set[int]:
    return {member.height for member in world.members.values()}


def test_what_a_follower_submits_becomes_final_everywhere(world: World) -> None:
    follower = world.add("follower")
    follower.ledger.submit(transfer(), world.now)
    world.run(2)
    assert heights(world) == {1}
    assert [len(block.transactions) for block in follower.final] == [1]
    assert all(len(member.ledger.mempool) == 0 for member in world.members.values())


def test_an_idle_chain_makes_no_blocks(world: World) -> None:
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(60)
    assert heights(world) == {1}


def test_a_transaction_behind_a_gap_survives_a_reconnecting_validator(world: World) -> None:
    for member in world.members.values():
        member.ledger.submit(transfer(nonce=1), world.now)
    world.run(1)
    world.connect("validator-0", "validator-1")
    world.members["validator-2"].ledger.submit(transfer(nonce=0), world.now)
    world.run(5)
    assert {member.ledger.chain.nonce(ADDRESSES[0]) for member in world.members.values()} == {2}


def test_batches_fit_into_one_gossip_message_however_small_their_transactions() -> None:
    raws = [bytes([size % 256]) * 126 for size in range(1100)]
    batches = wire.batches(raws)
    assert all(len(batch) <= wire.GOSSIP_BYTES_MAX for batch in batches)
    assert [raw for batch in batches for raw in wire.decode(batch, wire.Transactions).raws] == raws


def test_what_is_not_final_is_repeated_less_and_less_often(world: World) -> None:
    chain = world.members["validator-0"].ledger.chain
    pooled = [chain.decode_transaction(transfer())]
    repeats = Repeats()
    times = [second for second in range(200) if repeats.due(pooled, float(second))]
    assert times == [0, 1, 3, 7, 15, 31, 63, 123, 183]


def test_a_claim_waits_for_its_quorum_and_holds_up_nobody_else(world: World) -> None:
    world.members["validator-0"].ledger.submit(sign(1, 0, LOGGER, data=CLAIMED), world.now)
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(2)
    chains = [member.ledger.chain for member in world.members.values()]
    assert {chain.nonce(ADDRESSES[0]) for chain in chains} == {1}
    assert {chain.nonce(ADDRESSES[1]) for chain in chains} == {0}
    (digest,) = world.members["validator-1"].claims
    for index in range(2):
        world.members[f"validator-{index}"].ledger.attest(digest, True, world.now)
    world.run(2)
    assert {chain.nonce(ADDRESSES[1]) for chain in chains} == {0}  # two of four are no quorum
    world.members["validator-2"].ledger.attest(digest, True, world.now)
    world.run(2)
    assert {chain.nonce(ADDRESSES[1]) for chain in chains} == {1}


def test_nobody_votes_for_a_block_whose_claim_lacks_its_attestations(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """validator-1 lies: it builds as if every claim were attested, and puts nothing beside its blocks."""
    liar = world.members["validator-1"].ledger
    monkeypatch.setattr(liar.attested, "quorum", lambda _claim: True)
    monkeypatch.setattr(liar.attested, "beside", lambda _claims: ())
    liar.submit(sign(1, 0, LOGGER, data=CLAIMED), world.now)
    world.run(30)
    chains = [member.ledger.chain for member in world.members.values()]
    assert {chain.nonce(ADDRESSES[1]) for chain in chains} == {0}
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(30)
    assert {chain.nonce(ADDRESSES[0]) for chain in chains} == {1}
    assert {chain.nonce(ADDRESSES[1]) for chain in chains} == {0}


def test_a_refused_claim_frees_its_sender_also_when_the_news_was_lost(world: World) -> None:
    sender = world.add("sender")
    raw = sign(1, 0, LOGGER, data=CLAIMED)
    sender.ledger.submit(raw, world.now)
    world.run(0.5)
    (digest,) = world.members["validator-0"].claims
    world.lost = {frozenset(("sender", f"validator-{index}")) for index in range(4)}
    for index in range(4):
        world.members[f"validator-{index}"].ledger.attest(digest, False, world.now)
    world.run(1)
    assert all(len(world.members[f"validator-{index}"].ledger.mempool) == 0 for index in range(4))
    assert sender.refused == []
    world.lost = set()
    sender.ledger.submit(raw, world.now)  # as the account does for what is not final
    world.run(1)
    assert digest in sender.refused


def test_a_newcomer_catches_up_and_a_validator_that_lost_its_disk_does_too(world: World) -> None:
    for nonce in range(12):
        world.members["validator-0"].ledger.submit(transfer(nonce=nonce), world.now)
        world.run(1)
    late = world.add("late")
    world.run(3)
    assert late.height == world.members["validator-0"].height
    del world.members["validator-3"]
    world.root = world.root / "second-disk"
    back = world.add("validator-3")
    world.run(10)
    assert back.height == world.members["validator-0"].height
    world.members["validator-0"].ledger.submit(transfer(user=2), world.now)
    world.run(5)
    assert len(heights(world)) == 1


def test_blocks_that_were_not_asked_for_or_are_not_proven_change_nothing(world: World) -> None:
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(2)
    ((block, proof),) = world.members["validator-0"].ledger.chain.blocks_from(1, 1, 10**6)
    assert proof is not None
    late = world.add("late")
    raw = messages.encode_block(block)
    unproven = wire.encode(wire.Blocks(1, ((raw, None),)))
    late.ledger.receive("validator-0", 0, wire.BLOCKS, unproven, world.now)
    assert late.height == 0
    world.run(0.015)  # now its request is out
    late.ledger.receive("validator-0", 0, wire.BLOCKS, unproven, world.now)
    assert late.height == 0  # held, until the certificate comes or not
    late.ledger.receive("validator-0", 0, wire.BLOCKS, wire.encode(wire.Blocks(2, ())), world.now)
    world.run(1.5)
    assert late.height == 1

    fooled = world.add("fooled")
    world.run(0.015)
    asked = fooled.ledger._catch_up.sync.asked
    assert asked is not None
    voters = tuple((voter, proof.signatures[0][1]) for voter, _ in proof.signatures)
    forged = messages.encode_certificate(replace(proof, signatures=voters))
    source = asked.peer, world.index_of(asked.peer, "fooled")
    fooled.ledger.receive(*source, wire.BLOCKS, wire.encode(wire.Blocks(1, ((raw, forged),))), world.now)
    assert fooled.height == 0
    assert fooled.wire.dropped
    world.run(10)
    assert late.height == 1


def test_an_unsolicited_wonder_does_not_keep_a_follower_from_honest_peers(world: World) -> None:
    world.members["validator-0"].ledger.submit(transfer(), world.now)
    world.run(2)
    late = world.add("late")
    wonder = wire.encode(wire.Head(10**9, bytes(32)))
    late.ledger.receive("liar", None, wire.HEAD, wonder, world.now)
    world.run(30)
    assert late.height == 1
    assert not late.ledger.catching_up


def test_what_can_never_be_included_is_refused_before_it_is_sent(world: World) -> None:
    ledger = world.members["validator-0"].ledger
    with pytest.raises(InvalidTransaction):
        ledger.check(sign(0, 0, ADDRESSES[7], value=10**30))
    assert len(ledger.mempool) == 0


def test_evidence_of_two_votes_in_one_view_is_kept_for_good(world: World) -> None:
    """validator-1 votes to skip a view, and to make a block of it final."""
    member = world.members["validator-0"]
    genesis = member.ledger.chain.genesis_digest
    pair = [
        Vote(0, 1, kind, digest, 1, certificate.sign_vote(VALIDATORS[1], CHAIN_ID, genesis, 0, 1, kind, digest))
        for kind, digest in ((TIMEOUT, NO_DIGEST), (FINALISE, b"x" * 32))
    ]
    for vote in pair:
        payload = messages.encode(consensus.VoteMessage(vote))
        member.ledger.receive("validator-1", 1, wire.CONSENSUS, payload, world.now)
    assert member.ledger.chain.evidence() == (tuple(pair),)
    world.stop("validator-0")
    assert world.add("validator-0").ledger.chain.evidence() == (tuple(pair),)
