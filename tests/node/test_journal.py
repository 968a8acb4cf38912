"""What clients submitted survives the node, until it is done."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.transaction import sign_transaction
from chain.types import InvalidTransaction
from node import journal
from node.journal import Journal, JournalFull
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, USERS, sign
from tests.node.ledger_world import Member, World


class Life:
    """A node's memory and clock; what is on disk outlives it."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        self.now = 1_000_000.0
        self.start()

    def start(self) -> None:
        """As after kill -9: a new process, the same disk."""
        if self.name in self.world.members:
            self.world.members.pop(self.name).ledger._store.close()
        self.member: Member = self.world.add(self.name)
        path = self.world.root / "journal"
        self.journal = Journal(path, self.member.ledger, self._submit, lambda: self.now)
        self.journal.tick()

    def _submit(self, raws: list[bytes]) -> None:
        for raw in raws:
            self.member.ledger.submit(raw, self.world.now)

    @property
    def pooled(self) -> set[bytes]:
        pool = self.member.ledger.mempool
        return {transaction.raw for digest in pool.hashes() if (transaction := pool.get(digest)) is not None}

    @property
    def file(self) -> Path:
        return self.world.root / "journal"


@pytest.fixture
def life(tmp_path: Path) -> Life:
    return Life(World(tmp_path), "follower")


def empty_pool(life: Life) -> None:
    for digest in life.member.ledger.mempool.hashes():
        life.member.ledger.mempool.remove(digest)


def transfer(nonce: int = 0, user: int = 0, tip: int = 1) -> bytes:
    return sign(user, nonce, ADDRESSES[7], value=1, tip=tip)


def test_what_was_answered_for_waits_again_after_a_restart(life: Life) -> None:
    raws = [transfer(1), transfer(0), transfer(0, user=1)]
    for raw in raws:
        assert life.journal.submit(raw) == life.member.ledger.chain.decode_transaction(raw).hash
    life.start()
    life.start()
    assert life.pooled == set(raws)


def test_what_is_final_used_up_expired_or_refused_is_forgotten(life: Life) -> None:
    world = life.world
    for raw in (transfer(0), transfer(0, user=1), transfer(0, user=2), transfer(0, user=3)):
        life.journal.submit(raw)
    world.lost = {frozenset(("follower", f"validator-{index}")) for index in range(4)}
    for index in range(4):
        world.add(f"validator-{index}")
    for raw in (transfer(0), transfer(0, user=1, tip=9)):  # of user 1 another one becomes final
        world.members["validator-0"].ledger.submit(raw, world.now)
    world.run(2)
    world.lost = set()
    empty_pool(life)
    refused = life.member.ledger.chain.decode_transaction(transfer(0, user=2))
    life.member.ledger.refused_transactions[refused.hash] = bytes(32)
    world.connect("follower", "validator-0")
    world.run(5)
    assert life.member.height == 1
    life.journal.tick()
    assert len(life.journal) == 1
    assert life.pooled == {transfer(0, user=3)}
    with pytest.raises(InvalidTransaction, match="found its claim to be false"):
        life.journal.submit(refused.raw)
    empty_pool(life)
    life.now += journal.LIFETIME_S + 1
    life.journal.tick()
    assert len(life.journal) == 0


def test_what_a_full_pool_let_go_is_handed_to_it_again(life: Life) -> None:
    life.journal.submit(transfer())
    empty_pool(life)
    life.journal.tick()
    assert life.pooled == {transfer()}


def test_of_a_nonce_the_replacement_is_kept(life: Life) -> None:
    life.journal.submit(transfer())
    dearer = sign_transaction(USERS[0], CHAIN_ID, 0, ADDRESSES[7], 1, b"", 100_000, fee=40, tip=2)
    life.journal.submit(dearer)
    life.start()
    assert life.pooled == {dearer}


def test_what_the_pool_refuses_is_not_kept(life: Life) -> None:
    with pytest.raises(InvalidTransaction, match="balance"):
        life.journal.submit(sign(0, 0, ADDRESSES[7], value=10**30))
    life.start()
    assert len(life.journal) == 0


def test_a_full_journal_says_so_before_anything_is_sent(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "TRANSACTIONS_MAX", 1)
    life.journal.submit(transfer())
    with pytest.raises(JournalFull, match="1 transactions of clients wait"):
        life.journal.submit(transfer(1))
    assert life.pooled == {transfer()}


def test_a_disk_that_takes_half_a_record_costs_only_that_one(life: Life) -> None:
    life.journal.submit(transfer(0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (life.file.stat().st_size + 10, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            life.journal.submit(transfer(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    life.journal.submit(transfer(2))
    life.start()
    assert life.pooled == {transfer(0), transfer(2)}


def test_the_file_does_not_grow_with_what_is_done(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SLACK_BYTES", 100)
    for tip in range(1, 12):
        raw = sign(0, 0, ADDRESSES[7], value=tip, tip=1)
        empty_pool(life)
        life.journal.submit(raw)
        life.journal.tick()
    assert life.file.stat().st_size < 4 * len(transfer()) + 100
    assert life.file.stat().st_mode & 0o777 == 0o600


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_a_crash_leaves_at_the_end_costs_only_the_end(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    life = Life(World(tmp_path_factory.mktemp("life")), "follower")
    for nonce in range(3):
        life.journal.submit(transfer(nonce))
    whole = life.file.read_bytes()
    size = len(whole) // 3
    cut = data.draw(st.integers(0, len(whole)))
    life.file.write_bytes(whole[:cut] + data.draw(st.binary(max_size=20)))
    life.start()
    kept = {transfer(nonce) for nonce in range(3) if (nonce + 1) * size <= cut}
    assert life.pooled >= kept
    assert len(life.pooled) <= len(kept) + 1
