"""A disk that has changed what was written: whatever is read from it is right, or the store says that it is damaged."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from chain.chain import Chain
from chain.store import StoreDamaged
from chain.store_errors import UNWRITTEN_BYTES_MAX
from chain.types import NOTARISE, Vote
from tests.chain.chain_kit import ADDRESSES, COUNTER, build, close, extend, open_chain, tx

BLOCKS = 3


def damage(path: Path, database: str) -> int:
    """Flip one bit in every value of a sub-database, where it lies in the file; how many values that were."""
    with lmdb.open(str(path), max_dbs=32, readonly=True) as environment, environment.begin() as transaction:
        found = environment.open_db(database.encode(), txn=transaction, create=False)
        values = [bytes(value) for key, value in transaction.cursor(db=found) if key != b"format"]
    content = bytearray((path / "data.mdb").read_bytes())
    for value in values:
        at = content.find(value)
        assert at >= 0
        while at >= 0:  # pages that are not in use any more hold it, too
            content[at + len(value) // 2] ^= 0x10
            at = content.find(value, at)
    (path / "data.mdb").write_bytes(content)
    return len(values)


def written(path: Path) -> None:
    """Blocks with logs and receipts, and a vote for the next one."""
    chain = open_chain(path)
    for _ in range(BLOCKS):
        extend(chain, [tx(chain, 0, chain.nonce(ADDRESSES[0]), COUNTER)])
    head = chain.finalised
    block = build(chain, head.digest, head.view + 1, [tx(chain, 0, BLOCKS, COUNTER)])
    chain._store.log_votes([(Vote(0, block.view, NOTARISE, block.digest, 0, bytes(65)), block)])
    chain._store.kv_put("account", b"queue", b"a transaction of ours")
    close(chain)


READS: dict[str, Callable[[Chain], object]] = {
    "meta": lambda chain: None,  # it does not even open
    "state": lambda chain: chain.nonce(ADDRESSES[0]),
    "blocks": lambda chain: chain.block(1),
    "heights": lambda chain: chain.head(1),
    "receipts": lambda chain: chain.receipts(1),
    "blooms": lambda chain: chain.logs(1, BLOCKS),
    "transactions": lambda chain: chain.receipt(tx(chain, 0, 0, COUNTER).hash),
    "certificates": lambda chain: chain.finalised_certificate,
    "votes": lambda chain: chain._store.vote_log(),
    "bodies": lambda chain: chain._store.vote_log(),
    "kv": lambda chain: chain._store.kv_get("account", b"queue"),
}


@pytest.mark.parametrize("database", READS)
def test_a_changed_bit_in_any_value_is_found_when_it_is_read(database: str, tmp_path: Path) -> None:
    written(tmp_path)
    assert damage(tmp_path, database) > 0

    def look() -> None:
        chain = open_chain(tmp_path)
        try:
            READS[database](chain)
        finally:
            close(chain)

    with pytest.raises(StoreDamaged, match="the chain database is damaged: "):
        look()


def test_a_block_on_a_damaged_state_is_not_built(tmp_path: Path) -> None:
    written(tmp_path)
    damage(tmp_path, "state")
    chain = open_chain(tmp_path)
    head = chain.finalised
    transaction = tx(chain, 0, BLOCKS, COUNTER)
    with pytest.raises(StoreDamaged):
        build(chain, head.digest, head.view + 1, [transaction])
    assert chain.finalised == head
    close(chain)


def test_a_file_that_was_cut_off_is_not_opened(tmp_path: Path) -> None:
    chain = open_chain(tmp_path)
    chain._store.kv_put("ballast", b"", bytes(2 * UNWRITTEN_BYTES_MAX))
    extend(chain)
    close(chain)
    file = tmp_path / "data.mdb"
    os.truncate(file, file.stat().st_size - UNWRITTEN_BYTES_MAX - 4096)
    with pytest.raises(StoreDamaged, match="lacks its last"):
        open_chain(tmp_path)


def test_a_database_that_lost_what_it_began_with_is_not_begun_anew(tmp_path: Path) -> None:
    written(tmp_path)
    with lmdb.open(str(tmp_path), max_dbs=32) as environment, environment.begin(write=True) as transaction:
        meta = environment.open_db(b"meta", txn=transaction)
        transaction.delete(b"genesis", db=meta)
    with pytest.raises(StoreDamaged, match="genesis"):
        open_chain(tmp_path)


@pytest.mark.parametrize("database", ["blocks", "receipts", "heights"])
def test_what_a_final_block_lacks_is_damage_and_not_an_unknown_block(database: str, tmp_path: Path) -> None:
    written(tmp_path)
    with lmdb.open(str(tmp_path), max_dbs=32) as environment, environment.begin(write=True) as transaction:
        found = environment.open_db(database.encode(), txn=transaction)
        cursor = transaction.cursor(db=found)
        number = (1).to_bytes(8, "big")
        heights = environment.open_db(b"heights", txn=transaction)
        key = transaction.get(number, db=heights)[:-4] if database == "blocks" else number
        assert cursor.set_key(key)
        cursor.delete()
    chain = open_chain(tmp_path)
    with pytest.raises(StoreDamaged):
        chain.receipts(1)
    close(chain)
