from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import store as store_module
from chain.store import Store, StoredBlock, StoreError, VoteLog, mark_new
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Attestation, Block, Certificate, Vote

MAP_SIZE = 1 << 24


def vote(view: int, kind: str = NOTARISE, epoch: int = 0) -> Vote:
    digest = NO_DIGEST if kind == TIMEOUT else bytes([view % 256]) * 32
    return Vote(epoch, view, kind, digest, 1, bytes(65))  # type: ignore[arg-type]


def body(view: int, epoch: int = 0) -> Block:
    attestation = Attestation(bytes(32), True, 2, bytes(65))
    return Block(bytes([view]) * 32, epoch, view, bytes(32), view, b"payload", (attestation,))


def stored(number: int, nodes: dict[bytes, bytes] | None = None, bloom: int = 0) -> StoredBlock:
    digest = bytes([number]) * 32
    return StoredBlock(
        number, digest, b"rlp", nodes or {digest: b"node"}, b"receipts", bloom, (b"tx" * 15 + digest[:2],)
    )


def certificate(view: int) -> Certificate:
    return Certificate(0, view, FINALISE, bytes([view]) * 32, ((0, bytes(65)), (2, bytes(65))))


def test_a_new_store_is_empty(tmp_path: Path) -> None:
    store = Store(tmp_path / "chain", MAP_SIZE)
    assert store.genesis() is None
    assert store.finalised() is None
    assert store.vote_log() == VoteLog((), (), (), None)


def test_what_was_finalised_is_read_back_after_reopening(tmp_path: Path) -> None:
    store = Store(tmp_path, MAP_SIZE)
    store.write_genesis(stored(0))
    attestations = [Attestation(b"c" * 32, True, signer, bytes(65)) for signer in (0, 3)]
    store.write_finalised([stored(1), stored(2, bloom=5)], certificate(2), attestations, prune=(0, 2))
    store.close()
    store = Store(tmp_path, MAP_SIZE)
    assert store.genesis() == bytes(32)
    assert store.finalised() == stored(2).digest == store.digest_at(2)
    assert store.block(stored(1).digest) == b"rlp"
    assert store.state(stored(1).digest) == b"node"
    assert store.receipts(1) == b"receipts"
    assert store.transaction_place(stored(2).transactions[0]) == (2, 0)
    assert store.certificate(1) is None
    assert store.certificate(2) == certificate(2)
    assert store.attestations(b"c" * 32) == tuple(attestations)
    assert store.attestations(b"d" * 32) == ()
    assert list(store.blooms(0, 9)) == [(2, 5)]
    assert list(store.blooms(0, 1)) == []


def test_a_batch_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, MAP_SIZE)
    store.write_genesis(stored(0))
    store.log_votes([(vote(1), None)])
    broken = stored(2, nodes={b"k" * 32: "not bytes"})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        store.write_finalised([stored(1), broken], certificate(2), (), prune=(0, 2))
    assert store.finalised() == stored(0).digest
    assert store.block(stored(1).digest) is None
    assert store.state(stored(1).digest) is None
    assert store.vote_log().votes == (vote(1),)


def test_votes_and_bodies_are_read_back_in_order_and_pruned_at_finality(tmp_path: Path) -> None:
    store = Store(tmp_path, MAP_SIZE)
    store.write_genesis(stored(0))
    store.log_votes([(vote(300), None), (vote(2), body(2))])
    store.log_votes([(vote(3), body(3)), (vote(2, FINALISE), None), (vote(3, TIMEOUT), None), (vote(1, epoch=1), None)])
    votes, bodies = store.vote_log().votes, store.vote_log().blocks
    assert [(each.epoch, each.view) for each in votes] == [(0, 2), (0, 2), (0, 3), (0, 3), (0, 300), (1, 1)]
    assert bodies == (body(2), body(3))
    store.write_finalised([stored(1)], certificate(2), (), prune=(0, 2))
    votes, bodies = store.vote_log().votes, store.vote_log().blocks
    assert set(votes) == {vote(3), vote(3, TIMEOUT), vote(300), vote(1, epoch=1)}
    assert bodies == (body(3),)


def test_small_values_are_kept_by_namespace(tmp_path: Path) -> None:
    store = Store(tmp_path, MAP_SIZE)
    store.kv_put("account", b"k", b"1")
    store.kv_put("accounts", b"k", b"2")
    store.kv_put("account", b"", b"3")
    assert store.kv_get("account", b"k") == b"1"
    assert store.kv_get("role", b"k") is None
    assert store.kv_items("account") == ((b"", b"3"), (b"k", b"1"))
    store.kv_delete("account", b"k")
    store.kv_delete("account", b"absent")
    assert store.kv_items("account") == ((b"", b"3"),)
    with pytest.raises(ValueError, match="too long"):
        store.kv_put("account", bytes(600), b"")


def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    first = Store(tmp_path, MAP_SIZE)
    with pytest.raises(StoreError, match="in use by another process"):
        Store(tmp_path, MAP_SIZE)
    first.close()
    Store(tmp_path, MAP_SIZE).close()


def test_a_second_process_is_refused(tmp_path: Path) -> None:
    owner = Store(tmp_path, MAP_SIZE)
    code = f"from pathlib import Path; from chain.store import Store; Store(Path({str(tmp_path)!r}), {MAP_SIZE})"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    owner.close()
    assert other.returncode == 1
    assert "in use by another process" in other.stderr


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    Store(tmp_path, MAP_SIZE).close()
    data = tmp_path / "data.mdb"
    data.write_bytes(b"\xff" * data.stat().st_size)
    with pytest.raises(StoreError, match="chain database"):
        Store(tmp_path, MAP_SIZE)


def test_a_database_of_another_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(tmp_path, MAP_SIZE).close()
    monkeypatch.setattr(store_module, "_FORMAT", b"0")
    with pytest.raises(StoreError, match="format"):
        Store(tmp_path, MAP_SIZE)


def test_a_garbled_record_is_named_damage(tmp_path: Path) -> None:
    store = Store(tmp_path, MAP_SIZE)
    with store._write() as batch:
        batch.put("votes", bytes(17), b"\xc1")
    with pytest.raises(StoreError, match="damaged: Vote"):
        store.vote_log()


def test_a_full_database_is_an_error_and_loses_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path, map_size=1 << 20)
    store.kv_put("a", b"small", b"kept")
    with pytest.raises(StoreError, match="largest size"):
        store.kv_put("a", b"large", bytes(4 << 20))
    assert store.kv_get("a", b"small") == b"kept"


def test_a_place_that_is_no_directory_is_an_error(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_bytes(b"")
    with pytest.raises(StoreError, match="cannot open"):
        Store(occupied, MAP_SIZE)


views = st.integers(0, 9)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), views, st.sampled_from([NOTARISE, FINALISE, TIMEOUT])), max_size=12),
    st.tuples(st.integers(0, 2), views),
)
def test_pruning_drops_exactly_what_is_not_above_the_finalised_view(
    tmp_path_factory: pytest.TempPathFactory, logged: list[tuple[int, int, str]], final: tuple[int, int]
) -> None:
    store = Store(tmp_path_factory.mktemp("store"), MAP_SIZE)
    store.log_votes([(vote(view, kind, epoch), body(view, epoch)) for epoch, view, kind in logged])
    store.write_finalised([stored(1)], certificate(1), (), prune=final)
    votes, bodies = store.vote_log().votes, store.vote_log().blocks
    store.close()
    assert {(each.epoch, each.view, each.kind) for each in votes} == {each for each in logged if each[:2] > final}
    assert {(each.epoch, each.view) for each in bodies} == {each[:2] for each in logged if each[:2] > final}


def test_the_mark_of_a_new_key_is_gone_once_the_chain_has_begun(tmp_path: Path) -> None:
    """Also if the process was killed right after it wrote the genesis: another database there would not be new."""
    mark_new(tmp_path)
    store = Store(tmp_path, MAP_SIZE)
    store.write_genesis(stored(0))
    assert store.vote_log().floor == (0, 0)
    store.close()
    mark_new(tmp_path)
    Store(tmp_path, MAP_SIZE).close()
    assert not (tmp_path / "new").exists()
