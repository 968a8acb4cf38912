"""What of gossip is passed on: judged against a real chain, and over real sockets."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from chain import claims, masking
from chain.contracts import bindings as b
from chain.transaction import sign_transaction
from chain.types import AuditClaim, Transaction
from node import wire
from node.jobs import Jobs
from node.ledger import TOPIC_REFUSALS, TOPIC_TRANSACTIONS
from node.p2p.types import GossipReceived, NotRelayed, PeerFault
from node.screen import Screen
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, USERS, VALIDATORS, sign
from tests.node.jobs_kit import BASE, GOOD, KEY, POSTED, committed, job_of, opened, reveal_opened
from tests.node.ledger_world import Member, World
from tests.p2p.p2p_kit import PATIENCE_S, Node, nodes

WORKER = 2
POOR = b"\x09" * 32
MASK = b"\x05" * 65


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.fixture
def member(world: World) -> Member:
    return world.add("follower")


def screen_of(member: Member) -> Screen:
    workers = (ADDRESSES[WORKER], *ADDRESSES[3:5])
    jobs = job_of(opened(workers=workers), *map(committed, workers), reveal_opened())
    return Screen(member.ledger, lambda: jobs)


def batch(*raws: bytes) -> bytes:
    return wire.encode(wire.Transactions(raws))


def transfer(user: int = 0, nonce: int = 0, **more: int) -> bytes:
    return sign(user, nonce, ADDRESSES[7], **more)


def by(key: bytes, chain_id: int = CHAIN_ID, fee: int = 20) -> bytes:
    return sign_transaction(key, chain_id, 0, ADDRESSES[7], 0, b"", 21_000, fee, 1)


def reveal(nonce: int = 0) -> bytes:
    call = b.reveal(*KEY, b"\x0a" * 32, MASK, GOOD)
    return sign_transaction(USERS[WORKER], CHAIN_ID, nonce, call.to, 0, call.data, call.gas, 20, 1)


def refusal(claim: bytes, *signers: int, verdict: bool = False, key: bytes | None = None) -> bytes:
    signed = (claims.sign_attestation(key or VALIDATORS[index], index, claim, verdict) for index in signers)
    return wire.encode(wire.Attestations(tuple(map(wire.to_wire, signed))))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"", "not a Transactions"),
        (b"\xc1" * 40, "not a Transactions"),
        (batch(), "no transactions"),
        (batch(b"\x02" + bytes(90)), "transaction"),
        (batch(transfer(), transfer(1)[:-32] + b"\xff" * 32), "malformed signature"),
        (batch(by(USERS[0], chain_id=8)), "signed for chain 8"),
        (batch(by(USERS[0], fee=6)), "below the base fee"),
    ],
    ids=["empty", "not-msgpack", "none", "not-rlp", "signature", "chain", "fee"],
)
def test_what_can_never_be_valid_is_a_fault_of_whoever_hands_it_on(
    member: Member, payload: bytes, reason: str
) -> None:
    with pytest.raises(PeerFault, match=reason):
        screen_of(member).transactions(payload)
    assert member.ledger.refused["gossip"] == 1


def test_what_has_a_place_here_is_passed_on_also_when_it_is_here_already(member: Member) -> None:
    screen = screen_of(member)
    screen.transactions(batch(transfer(), transfer(1)))
    member.ledger.submit(transfer(), 0.0)
    screen.transactions(batch(transfer()))
    assert not member.ledger.refused


@pytest.mark.parametrize(
    ("raws", "reason"),
    [
        ((by(POOR),), "balance of 0 wei"),
        ((transfer(nonce=256),), "too far ahead"),
        ((transfer(1), by(POOR)), "balance of 0 wei"),
    ],
    ids=["poor", "far", "one-of-two"],
)
def test_what_has_no_place_here_goes_no_further_and_is_nobodys_fault(
    member: Member, raws: tuple[bytes, ...], reason: str
) -> None:
    with pytest.raises(NotRelayed, match=reason):
        screen_of(member).transactions(batch(*raws))
    assert not member.ledger.refused


def test_a_transaction_whose_claim_was_refused_is_neither_kept_nor_passed_on_nor_gossiped_again(
    world: World, member: Member
) -> None:
    screen = screen_of(member)
    neighbour = world.add("neighbour")
    member.ledger.submit(reveal(), world.now)
    member.ledger.submit(transfer(), world.now)
    world.run(1.5)
    transaction = member.ledger.chain.decode_transaction(reveal())
    claim = screen.claim_of(transaction)
    assert claim is not None
    assert screen.claim_of(member.ledger.chain.decode_transaction(transfer())) is None
    screen.transactions(batch(reveal()))

    member.ledger.receive_gossip("peer", TOPIC_REFUSALS, refusal(claim, 0), world.now)
    assert member.refused == []  # one of four may be wrong
    member.ledger.receive_gossip("peer", TOPIC_REFUSALS, refusal(claim, 1), world.now)
    assert member.refused == [claim]
    screen.forget_claiming(claim)
    assert transaction.hash not in member.ledger.mempool
    with pytest.raises(NotRelayed, match="refused"):
        screen.transactions(batch(transfer(), reveal()))
    with pytest.raises(NotRelayed, match="refused"):
        screen.transactions(batch(reveal(nonce=1)))  # another transaction with the same claim
    member.ledger.receive_gossip("peer", TOPIC_TRANSACTIONS, batch(reveal()), world.now)
    assert transaction.hash not in member.ledger.mempool

    other = member.ledger.chain.decode_transaction(transfer())
    for each in (transaction, other):
        assert each.hash in neighbour.ledger.mempool
        neighbour.ledger.mempool.remove(each.hash)
    world.run(5)  # what is not final is gossiped again
    assert neighbour.ledger.mempool.hashes() == (other.hash,)


def test_a_claim_is_read_only_from_a_reveal_of_a_slot_that_committed(member: Member) -> None:
    call = b.reveal(*KEY, b"\x0a" * 32, MASK, GOOD)
    stranger = sign_transaction(USERS[0], CHAIN_ID, 0, call.to, 0, call.data, call.gas, 20, 1)
    longer = sign_transaction(USERS[WORKER], CHAIN_ID, 0, call.to, 0, call.data + b"\0", call.gas, 20, 1)
    other = b.commit(*KEY, bytes(32), bytes(32), bytes(32))
    commit = sign_transaction(USERS[WORKER], CHAIN_ID, 0, other.to, 0, other.data, other.gas, 20, 1)
    decode = member.ledger.chain.decode_transaction
    assert screen_of(member).claim_of(decode(reveal())) is not None
    assert [screen_of(member).claim_of(decode(raw)) for raw in (stranger, longer, commit)] == [None] * 3
    assert Screen(member.ledger, Jobs).claim_of(decode(reveal())) is None
    assert b.decode_reveal(call.data) == (*KEY, b"\x0a" * 32, MASK, GOOD)


def test_a_verdict_whose_claim_was_refused_is_neither_kept_nor_passed_on(world: World, member: Member) -> None:
    """Anyone may send one, of any round; the claim that it states is known before it is executed."""
    screen, call = screen_of(member), b.resolve(*KEY, GOOD)

    def verdict(data: bytes) -> Transaction:
        raw = sign_transaction(USERS[0], CHAIN_ID, 0, call.to, 0, data, call.gas, 20, 1)
        return member.ledger.chain.decode_transaction(raw)

    claim = screen.claim_of(verdict(call.data))
    ctx = masking.audit_context(CHAIN_ID, b.REPLICATED, *KEY)
    work = (POSTED.manifest, BASE, b"\xbb" * 32, POSTED.update_size)
    stated = AuditClaim(b.REPLICATED, *KEY, ctx, *work, GOOD)
    assert claim == claims.claim_digest(stated, CHAIN_ID, member.ledger.chain.genesis_digest)
    assert screen.claim_of(verdict(call.data + b"\0")) is None
    assert Screen(member.ledger, Jobs).claim_of(verdict(call.data)) is None
    member.ledger.receive_gossip("peer", TOPIC_REFUSALS, refusal(claim, 0, 1), world.now)
    with pytest.raises(NotRelayed, match="its claim was refused"):
        screen.transactions(batch(verdict(call.data).raw))


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\xc1", "not a Attestations"),
        (wire.encode(wire.Attestations(())), "not 1 to 16 refusals"),
        (refusal(b"\x01" * 32, *[0] * 17), "not 1 to 16 refusals"),
        (refusal(b"\x01" * 32, 0, verdict=True), "refusals"),
        (refusal(b"\x01" * 32, 0, key=USERS[0]), "not signed by validator 0"),
        (refusal(b"\x01" * 32, 9, key=USERS[0]), "no validator 9"),
    ],
)
def test_only_validators_refusals_are_passed_on(member: Member, payload: bytes, reason: str) -> None:
    screen = screen_of(member)
    screen.refusals(refusal(b"\x01" * 32, 0, 1))
    with pytest.raises(PeerFault, match=reason):
        screen.refusals(payload)
    assert member.ledger.refused["gossip"] == 1


async def meshed(*members: Node) -> None:
    with trio.fail_after(PATIENCE_S):
        for node in members:
            while not node.network._gossip.router.mesh.get(TOPIC_TRANSACTIONS):
                await trio.lowlevel.checkpoint()


async def test_garbage_of_a_peer_does_not_get_past_its_neighbour(world: World) -> None:
    """one -> two -> three: two has a chain and a screen, three sees what it lets pass."""
    screen = screen_of(world.add("two"))
    good = batch(transfer())
    async with nodes({}, {"to": [0]}, {"to": [1]}) as (one, two, three):
        two.network.subscribe(TOPIC_TRANSACTIONS, screen.transactions)
        for node in (one, three):
            node.network.subscribe(TOPIC_TRANSACTIONS)
        await meshed(one, two, three)
        bad = [b"\xc1" * 40, batch(transfer(), by(USERS[1], chain_id=8)), batch(by(USERS[0], fee=6))]
        for payload in (*bad, batch(by(POOR)), good):
            await one.network.publish(TOPIC_TRANSACTIONS, payload)
        assert (await three.until(GossipReceived)).payload == good
        assert {info.peer: info.refused for info in two.network.peers()} == {one.peer: 3, three.peer: 0}
