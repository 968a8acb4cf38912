"""Names of datasets at a node: kept in its database, while the bytes are blobs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.store import Store
from learner import convert
from learner.card import Card
from learner.data import DIGITS_DIGEST, decode
from learner.table import read_labelled
from node import unixfs
from node.api.backend import BackendError, NotFound
from node.blobs import BlobStore, BlobUnavailable
from node.datasets import Datasets


class Peers:
    """An exchange: what connected peers hold."""

    def __init__(self, blobs: BlobStore) -> None:
        self.blobs, self.held = blobs, list[bytes]()

    async def fetch(self, digest: bytes, size_max: float, **_: Any) -> bytes:
        for data in self.held:
            if unixfs.digest_of(data) == digest:
                self.blobs.put(data)
                return data
        raise BlobUnavailable(digest, {})


class Desk:
    """A node's datasets, and the ways to make one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        self.store = Store(folder / "chain", 1 << 26)
        self.blobs = BlobStore(folder / "blobs", 1 << 20)
        self.peers = Peers(self.blobs)
        self.datasets = Datasets(self.store, self.blobs, self.peers)  # type: ignore[arg-type]

    def file(self, rows: int = 8, enclosed: bool = True) -> tuple[str, Card, bytes]:
        table = self.folder / "t.csv"
        table.write_text("".join(f"{i},{'ab'[i % 2]}\n" for i in range(rows)))
        data, card = convert.from_table(read_labelled(table, None), 0.5, 0, enclosed)
        path = self.folder / "t.fldata"
        path.write_bytes(data)
        return str(path), card, data


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.store.close()


async def test_a_dataset_is_found_by_name_digest_and_cid(desk: Desk) -> None:
    path, card, data = desk.file()
    added = await desk.datasets.add(path, "mine", card, replace=False)
    digest = unixfs.digest_of(data)
    assert (added.digest, added.cid, added.size) == ("0x" + digest.hex(), unixfs.cid(digest, len(data)), len(data))
    assert (added.train, added.test, added.features, added.classes, added.card) == (4, 4, 1, 2, card)
    for text in ("mine", added.digest, added.cid):
        assert await desk.datasets.info(text) == added
        assert (await desk.datasets.find(text))[:2] == (digest, len(data))
    assert desk.blobs.is_public(digest)


async def test_names_and_bytes_survive_a_restart_and_a_full_store(desk: Desk) -> None:
    path, card, data = desk.file()
    await desk.datasets.add(path, "mine", card, replace=False)
    desk.store.close()
    again = Desk(desk.folder)
    desk.store = again.store  # for the fixture to close
    for each in range(5):
        again.blobs.put(bytes([each]) * (1 << 18))  # more than there is room for: unpinned blobs go
    assert again.blobs.get(unixfs.digest_of(data)) == data
    assert [info.name for info in again.datasets.list()] == ["digits", "mine"]


async def test_the_built_in_digits_are_a_blob_once_a_job_needs_them(desk: Desk) -> None:
    info = desk.datasets.list()[0]
    assert (info.name, info.built_in, info.digest) == ("digits", True, "0x" + DIGITS_DIGEST.hex())
    assert not desk.blobs.has(DIGITS_DIGEST)
    digest, size, contents = await desk.datasets.find("digits")
    assert (digest, size, contents.classes) == (DIGITS_DIGEST, info.size, 10)
    assert desk.blobs.is_public(DIGITS_DIGEST)


async def test_a_job_may_use_a_dataset_that_a_peer_holds_and_no_other(desk: Desk) -> None:
    _, card, data = desk.file()
    name = unixfs.cid(unixfs.digest_of(data), len(data))
    with pytest.raises(NotFound, match=f"dataset {name} is neither here nor at a connected peer"):
        await desk.datasets.find(name)
    desk.peers.held.append(data)
    assert (await desk.datasets.find(name))[1] == len(data)
    found = await desk.datasets.info(name)
    assert (found.name, found.card) == (None, card)  # it came with the samples


async def test_a_private_card_stays_at_the_node_that_was_given_it(desk: Desk) -> None:
    path, card, data = desk.file(enclosed=False)
    added = await desk.datasets.add(path, "mine", card, replace=False)
    assert (added.card, (await desk.datasets.info(added.cid)).card) == (card, card)
    other = Desk(desk.folder / "other")
    other.peers.held.append(data)
    await other.datasets.find(added.cid)
    assert (await other.datasets.info(added.cid)).card is None
    other.store.close()


async def test_a_dataset_keeps_its_own_card_and_takes_no_other(desk: Desk) -> None:
    path, card, data = desk.file()
    assert (await desk.datasets.add(path, "mine", None, replace=False)).card == card
    other = msgspec.structs.replace(card, label="another")
    with pytest.raises(BackendError, match="holds another card"):
        await desk.datasets.add(path, "mine", other, replace=False)
    digest = desk.blobs.put(dataclasses.replace(decode(data), raw_card=b"no card").encode())
    with pytest.raises(BackendError, match=f"0x{digest.hex()}: the dataset's card cannot be read"):
        await desk.datasets.info("0x" + digest.hex())


@pytest.mark.parametrize("name", ["digits", "", "Mine", "a b", "0xab", "a" * 41, "../x", "-x", "ä"])
async def test_a_bad_name_is_refused(desk: Desk, name: str) -> None:
    path, card, _ = desk.file()
    with pytest.raises(BackendError, match="cannot name a dataset"):
        await desk.datasets.add(path, name, card, replace=True)


async def test_a_name_means_another_dataset_only_when_told_so(desk: Desk) -> None:
    path, card, _ = desk.file()
    first = await desk.datasets.add(path, "mine", card, replace=False)
    path, card, _ = desk.file(rows=12)
    with pytest.raises(BackendError, match=first.cid):
        await desk.datasets.add(path, "mine", card, replace=False)
    assert (await desk.datasets.add(path, "mine", card, replace=True)).train == 6
    assert len(desk.datasets.list()) == 2


@pytest.mark.parametrize(
    "change", [{"classes": ("a",)}, {"columns": ("x", "y")}, {"shift": (0.0, 0.0)}, {"scale": (1.0, 1.0)}]
)
async def test_a_card_of_another_dataset_is_refused(desk: Desk, change: dict[str, Any]) -> None:
    path, card, _ = desk.file(enclosed=False)
    with pytest.raises(BackendError, match="the card does not fit"):
        await desk.datasets.add(path, "mine", msgspec.structs.replace(card, **change), replace=False)


async def test_only_ordinary_files_with_a_dataset_in_them_are_taken(desk: Desk, tmp_path: Path) -> None:
    path, card, _ = desk.file()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "text").write_text("petal,kind\n")
    for file, message in [
        ("t.fldata", "give the whole path"),
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path / "link"), "the node cannot read"),
        (str(tmp_path / "pipe"), "not an ordinary file"),
        (str(tmp_path), "not an ordinary file|Is a directory"),
        (str(tmp_path / "text"), "dataset: "),
    ]:
        with pytest.raises(BackendError, match=message):
            await desk.datasets.add(file, "mine", card, replace=False)
    assert len(desk.datasets.list()) == 1


@pytest.mark.parametrize("text", ["nope", "0x12", "bafy", "digits2", ""])
async def test_what_is_unknown_lists_what_is_known(desk: Desk, text: str) -> None:
    with pytest.raises(NotFound, match=r"known: digits\)"):
        await desk.datasets.info(text)


async def test_a_blob_that_is_no_dataset_is_said_to_be_none(desk: Desk) -> None:
    digest = desk.blobs.put(b"just bytes")
    with pytest.raises(BackendError, match="ends inside the header"):
        await desk.datasets.find("0x" + digest.hex())


async def test_the_last_digit_of_a_cid_counts(desk: Desk) -> None:
    path, card, _ = desk.file()
    cid = (await desk.datasets.add(path, "mine", card, replace=False)).cid
    other = cid[:-1] + chr(ord(cid[-1]) + 1)  # differs in bits that base32 has to spare
    with pytest.raises(NotFound):
        await desk.datasets.info(other)
