"""The blob store on a real disk."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import pytest
import trio
from blob_kit import pattern

from node import unixfs
from node.blob_store import BlobDamaged, BlobMissing, BlobStore, BlobStoreFailed, BlobStoreFull
from node.unixfs import LEAF_BYTES

ROOM = 10 << 20


def file_of(store: BlobStore, digest: bytes) -> Path:
    (path,) = store.path.glob(f"*/*/{digest.hex()}")
    return path


@pytest.mark.parametrize("size", [0, 1, LEAF_BYTES, LEAF_BYTES + 1, 3_000_000])
def test_a_blob_is_read_as_it_was_put(tmp_path: Path, size: int) -> None:
    store, data = BlobStore(tmp_path, ROOM), pattern(size)
    digest = store.put(data)
    assert digest == unixfs.digest_of(data) == store.digest_of(data)
    assert (store.get(digest), store.size(digest), store.total_bytes) == (data, size, size)
    layout = store.layout(digest)
    assert b"".join(store.leaf(digest, index) for index in range(len(layout.leaves))) == data
    assert unixfs.parse_cid(store.cid(digest)) == digest
    assert store.put(data) == digest
    assert store.total_bytes == size


def test_what_is_not_here_is_missing(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    for call in (store.get, store.size, store.layout, store.publish, store.cid):
        with pytest.raises(BlobMissing):
            call(bytes(32))
    store.delete(bytes(32))
    assert not store.has(bytes(32))
    assert not store.is_public(bytes(32))


def test_a_private_blob_is_public_only_once_published_and_both_last(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    secret, known = store.put(b"secret", public=False), store.put(b"known")
    assert (store.is_public(secret), store.is_public(known)) == (False, True)
    store = BlobStore(tmp_path, ROOM)
    assert (store.is_public(secret), store.is_public(known)) == (False, True)
    assert store.get(secret) == b"secret"
    store.publish(secret)
    store.publish(secret)
    assert BlobStore(tmp_path, ROOM).is_public(secret)
    assert store.put(b"secret", public=False) == secret
    assert store.is_public(secret)


def test_putting_a_private_blob_publicly_publishes_it(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    digest = store.put(b"x", public=False)
    store.put(b"x")
    assert store.is_public(digest)
    assert store.total_bytes == 1


@pytest.mark.parametrize("position", [0, LEAF_BYTES, 600_000])
def test_a_damaged_file_is_noticed_and_removed(tmp_path: Path, position: int) -> None:
    store, data = BlobStore(tmp_path, ROOM), pattern(700_000)
    digest = store.put(data)
    with file_of(store, digest).open("r+b") as file:
        file.seek(position)
        file.write(b"\xff\xff\xff\xff")
    with pytest.raises(BlobDamaged):
        BlobStore(tmp_path, ROOM).get(digest)
    with pytest.raises(BlobMissing):
        BlobStore(tmp_path, ROOM).get(digest)


def test_a_damaged_leaf_is_noticed_although_the_layout_is_known(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    digest = store.put(pattern(700_000))
    file_of(store, digest).write_bytes(pattern(300_000))
    assert store.leaf(digest, 0) == pattern(LEAF_BYTES)
    with pytest.raises(BlobDamaged):
        store.leaf(digest, 1)
    assert not store.has(digest)


def test_a_file_that_vanished_counts_as_damaged(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    digest = store.put(b"x")
    file_of(store, digest).unlink()
    with pytest.raises(BlobDamaged):
        store.get(digest)
    assert (store.has(digest), store.total_bytes) == (False, 0)


def test_half_written_files_are_gone_after_a_start(tmp_path: Path) -> None:
    BlobStore(tmp_path, ROOM)
    (tmp_path / "tmp" / "leftover").write_bytes(b"half")
    (tmp_path / "public" / "ab").mkdir()
    (tmp_path / "public" / "ab" / "not-a-blob").write_bytes(b"?")
    assert BlobStore(tmp_path, ROOM).list() == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlobStore(tmp_path, ROOM)

    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(BlobStoreFailed, match="No space left on device"):
            store.put(b"x")
    assert (store.list(), store.total_bytes, list((tmp_path / "tmp").iterdir())) == ([], 0, [])
    store.put(b"x")


def test_a_store_that_cannot_be_made_says_why(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BlobStoreFailed, match="Not a directory"):
        BlobStore(tmp_path / "file", ROOM)


def test_room_is_made_by_what_is_public_unpinned_and_longest_unused(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 100)
    oldest, pinned, used = (store.put(letter * 20) for letter in (b"a", b"b", b"c"))
    private = store.put(b"d" * 20, public=False)
    store.pin(pinned)
    store.get(oldest)
    store.get(used)
    store.put(b"e" * 40)
    assert [store.has(digest) for digest in (oldest, pinned, used, private)] == [False, True, True, True]
    assert store.total_bytes == 100
    with pytest.raises(BlobStoreFull, match=r"61 bytes: `blobs_bytes_max` in .* to 100, of which 40 are pinned"):
        store.put(b"f" * 61)
    assert store.has(used)
    store.unpin(pinned)
    store.put(b"g" * 80)
    assert [info.digest for info in store.list()] == [private, store.digest_of(b"g" * 80)]


def test_pins_of_several_holders_do_not_touch_each_other_and_pinning_twice_is_pinning_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 100)
    digest = store.digest_of(b"a" * 60)
    store.unpin(digest, "nobody")
    for _ in range(2):
        store.pin(digest, "dataset")  # before it is here
    store.pin(digest, "job 1")
    store.put(b"a" * 60)
    for holder in ("job 1", "job 2"):
        store.unpin(digest, holder)
    with pytest.raises(BlobStoreFull):
        store.put(b"b" * 60)
    store.unpin(digest, "dataset")
    store.put(b"b" * 60)
    assert not store.has(digest)


def test_a_pinned_blob_that_was_damaged_is_pinned_again_when_it_comes_back(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 100)
    digest = store.put(b"a" * 60)
    store.pin(digest)
    file_of(store, digest).write_bytes(b"b" * 60)
    with pytest.raises(BlobDamaged):
        store.get(digest)
    store.put(b"a" * 60)
    with pytest.raises(BlobStoreFull):
        store.put(b"c" * 60)


def test_a_deleted_private_blob_gives_its_room_back_and_does_not_return(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 100)
    digest = store.put(b"a" * 60, public=False)
    store.pin(digest)
    with pytest.raises(BlobStoreFull):
        store.put(b"b" * 60)
    public = tmp_path / "public" / digest.hex()[:2] / digest.hex()
    public.parent.mkdir(exist_ok=True)
    public.write_bytes(b"a" * 60)  # as if the disk had kept both names through a crash
    store = BlobStore(tmp_path, 100)
    store.delete(digest)
    assert store.total_bytes == 0
    assert not BlobStore(tmp_path, 100).has(digest)
    store.put(b"a" * 60)
    store.put(b"b" * 60)
    assert not store.has(digest)


def test_a_blob_whose_file_cannot_be_removed_is_still_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BlobStore(tmp_path, 100)
    digest = store.put(b"a" * 60)

    def refuse(_path: Path, missing_ok: bool = False) -> None:
        raise OSError(30, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(BlobStoreFailed, match="Read-only"):
            store.delete(digest)
    assert (store.total_bytes, store.get(digest)) == (60, b"a" * 60)


def test_the_layout_of_a_large_blob_is_found_without_holding_the_blob_in_memory(tmp_path: Path) -> None:
    size = 64 * LEAF_BYTES + 1
    digest = BlobStore(tmp_path, 2 * size).put(pattern(size))
    store = BlobStore(tmp_path, 2 * size)
    tracemalloc.start()
    try:
        layout = store.layout(digest)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert layout == unixfs.layout(pattern(size))
    assert peak < size / 4


def test_a_blob_above_the_limit_of_the_store_drives_nothing_out(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, 100)
    digest = store.put(b"x" * 50)
    with pytest.raises(BlobStoreFull):
        store.put(b"y" * 101)
    assert store.has(digest)


def test_the_listing_tells_size_privacy_and_pins(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    one, two = store.put(b"one"), store.put(b"twenty", public=False)
    store.pin(two)
    assert [(info.digest, info.size, info.public, info.pinned) for info in store.list()] == [
        (one, 3, True, False),
        (two, 6, False, True),
    ]
    store.delete(two)
    store.delete(one)
    assert store.list() == []
    assert not list(tmp_path.glob("*/*/*"))


async def test_threads_may_put_the_same_and_different_blobs_at_once(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, ROOM)
    blobs = [bytes([number]) * 50_000 for number in range(4)] * 4
    async with trio.open_nursery() as nursery:
        for data in blobs:
            nursery.start_soon(trio.to_thread.run_sync, store.put, data)
    assert store.total_bytes == 200_000
    assert sorted(store.get(info.digest)[0] for info in store.list()) == [0, 1, 2, 3]
