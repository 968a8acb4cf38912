"""The chain's disk: one LMDB environment, one transaction per finalised batch.

What is kept, by sub-database:

    meta          genesis digest, finalised head
    state         trie nodes and contract code by their keccak (never pruned; content-addressed)
    blocks        block RLP by digest            heights       digest by number
    transactions  (number, index) by hash        receipts      encoded receipts by number
    blooms        log bloom by number, only where a block has logs
    certificates  finality certificate by number, where a batch ended
    attestations  by (claim, signer)
    votes, bodies own votes and the blocks they name, above the finalised view
    proofs        certificates that ended views above the finalised one
    epochs        validators by epoch, from the second on
    tails         by number: of an epoch's last block, the empty blocks up to the one that its certificate names
    evidence      pairs of votes that no honest validator casts both, by (epoch, voter)
    kv            small values of the node's roles and accounts, by namespace

Every value carries a checksum (chain/store_codec.py). Every write is one LMDB transaction and is on disk (fsync) when
the call returns, so a process killed at any instant reopens at the last call that returned, or at the one that had just
been committed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import lmdb

from chain.store_codec import (
    attestation_key,
    decode,
    decode_found,
    encode,
    kv_key,
    number_key,
    seal,
    unseal,
    view_key,
)
from chain.store_errors import (
    OtherNetwork,
    StoreDamaged,
    StoreError,
    StoreFull,
    lock_directory,
    mend_end,
    store_errors,
)
from chain.types import Attestation, Block, Certificate, Epoch, Vote

__all__ = [
    "OtherNetwork", "Store", "StoreDamaged", "StoreError", "StoreFull", "StoredBlock", "VoteLog", "mark_new",
]  # fmt: skip

MAP_SIZE_DEFAULT: Final = 1 << 36  # bytes of address space, not of disk
_DATABASES: Final = (
    "meta", "state", "blocks", "heights", "transactions", "receipts", "blooms",
    "certificates", "attestations", "votes", "bodies", "proofs", "epochs", "tails", "evidence", "kv",
)  # fmt: skip
_FORMAT: Final = b"3"
_NEW_FILE: Final = "new"  # beside the database; see mark_new

@dataclass(frozen=True, slots=True)
class VoteLog:
    """What must not be forgotten of what this validator said above the finalised view, by ascending (epoch, view).

    `floor`: (epoch, view) up to which votes may have been cast that are not in the log; None: the log begins with this
    database, and there may have been another one before it.
    """

    votes: tuple[Vote, ...]
    blocks: tuple[Block, ...]
    certificates: tuple[Certificate, ...]
    floor: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """All that is written for one finalised block."""

    number: int
    digest: bytes
    payload: bytes
    nodes: Mapping[bytes, bytes]  # new trie nodes and code, by keccak
    receipts: bytes
    bloom: int  # 2048 bits
    transactions: tuple[bytes, ...]  # hashes, in order


def mark_new(path: Path) -> None:
    """Say of the database that is yet to be made in directory `path` that its validator's key has never voted."""
    path.mkdir(parents=True, exist_ok=True)
    (path / _NEW_FILE).touch()


class Store:
    """One node's database. It has one owner, as the chain has; other threads may read what has a single key."""

    def __init__(self, path: Path, map_size: int = MAP_SIZE_DEFAULT) -> None:
        """Open or create the database in directory `path`.

        Raises:
            StoreError: another process holds it, it is damaged, or it was written by another version.
        """
        self._lock, self._new = lock_directory(path), path / _NEW_FILE
        self._closing, self._closed = threading.Lock(), False
        try:
            with store_errors():
                self._env = lmdb.open(
                    str(path), map_size=map_size, max_dbs=len(_DATABASES), readahead=False, meminit=False
                )
                try:
                    mend_end(path, self._env)
                    self._open_databases()
                    if self.genesis() is not None:  # perhaps we were killed right after it was written
                        self._new.unlink(missing_ok=True)
                except BaseException:
                    self._env.close()
                    raise
        except BaseException:
            os.close(self._lock)
            raise

    def close(self) -> None:
        """Readers in other threads get StoreError from now on."""
        with self._closing:
            self._closed = True
            self._env.close()
        os.close(self._lock)

    def _open_databases(self) -> None:
        new = self._env.info()["last_txnid"] == 0  # else what is not there was lost
        with self._env.begin(write=True) as transaction:
            meta = None if new else self._env.open_db(b"meta", txn=transaction, create=False)
            found = None if new else transaction.get(b"format", db=meta)  # not sealed: each version can read it
            if found != _FORMAT and not new:
                if found is None:
                    raise StoreDamaged("it lacks its format")
                raise StoreError(f"the chain database has format {found!r}, this version reads {_FORMAT!r}")
            self._dbs = {name: self._env.open_db(name.encode(), txn=transaction, create=new) for name in _DATABASES}
            if new:
                transaction.put(b"format", _FORMAT, db=self._dbs["meta"])

    # -- reading and writing -------------------------------------------------------------------------------------

    def _get(self, database: str, key: bytes) -> bytes | None:
        with self._closing, store_errors():
            if self._closed:
                raise StoreError("the chain database is closed")
            with self._env.begin(db=self._dbs[database]) as transaction:
                stored: bytes | None = transaction.get(key)
                return None if stored is None else unseal(database, key, stored)

    @contextmanager
    def _write(self) -> Iterator[_Batch]:
        """One transaction: all or nothing, on disk when the block is left."""
        with store_errors(), self._env.begin(write=True) as transaction:
            yield _Batch(transaction, self._dbs)

    def _range(self, database: str, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with store_errors(), self._env.begin(db=self._dbs[database]) as transaction:
            cursor = transaction.cursor()
            found = cursor.set_range(start) if start else cursor.first()
            while found:
                key, value = cursor.item()
                if not key.startswith(prefix):
                    return
                yield key, unseal(database, key, value)
                found = cursor.next()

    # -- genesis and finality ------------------------------------------------------------------------------------

    def genesis(self) -> bytes | None:
        """Digest of the genesis block, None in a new database."""
        return self._get("meta", b"genesis")

    def write_genesis(self, block: StoredBlock) -> None:
        with self._write() as batch:
            batch.put_block(block)
            batch.put("meta", b"genesis", block.digest)
            batch.put("meta", b"finalised", block.digest)
            if self._new.exists():
                batch.put("meta", b"floor", view_key(0, 0))
        self._new.unlink(missing_ok=True)

    def finalised(self) -> bytes | None:
        """Digest of the finalised head."""
        return self._get("meta", b"finalised")

    def write_finalised(
        self,
        blocks: Sequence[StoredBlock],
        certificate: Certificate,
        attestations: Iterable[Attestation],
        prune: tuple[int, int],
        tail: Sequence[Block] = (),
        epoch: Epoch | None = None,
    ) -> None:
        """Write blocks, oldest first, that `certificate` makes final; all of it or nothing.

        The certificate is of the last of them, or of the last of `tail`, the empty blocks that follow the last block
        of an epoch and prove it final. `epoch` is the one that begins after it. Own votes, bodies and certificates of
        views up to `prune` = (epoch, view) are dropped in the same transaction.
        """
        with self._write() as batch:
            for block in blocks:
                batch.put_block(block)
            batch.put("certificates", number_key(blocks[-1].number), encode(certificate))
            for attestation in attestations:
                batch.put("attestations", attestation_key(attestation), encode(attestation))
            if tail:
                batch.put("tails", number_key(blocks[-1].number), encode(tuple(tail)))
            if epoch is not None:
                batch.put("epochs", number_key(epoch.number), encode(epoch))
            batch.put("meta", b"finalised", blocks[-1].digest)
            for database in ("votes", "bodies", "proofs"):
                batch.delete_through(database, view_key(*prune))

    def state(self, key: bytes) -> bytes | None:
        """A trie node or contract code by its keccak."""
        return self._get("state", key)

    def block(self, digest: bytes) -> bytes | None:
        """RLP of a finalised block."""
        return self._get("blocks", digest)

    def digest_at(self, number: int) -> bytes | None:
        """Digest of the finalised block of that height."""
        return self._get("heights", number_key(number))

    def transaction_place(self, transaction: bytes) -> tuple[int, int] | None:
        """(block number, index in the block) of a finalised transaction."""
        place = self._get("transactions", transaction)
        return None if place is None else (int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big"))

    def receipts(self, number: int) -> bytes | None:
        return self._get("receipts", number_key(number))

    def blooms(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(number, bloom) of the finalised blocks from first to last that have logs, ascending."""
        for key, value in self._range("blooms", number_key(first)):
            number = int.from_bytes(key, "big")
            if number > last:
                return
            yield number, int.from_bytes(value, "big")

    def certificate(self, number: int) -> Certificate | None:
        """The certificate of that height; None where a later block's certificate made it final."""
        return decode(self._get("certificates", number_key(number)), Certificate)

    def tail(self, number: int) -> tuple[Block, ...]:
        """The blocks between an epoch's last one, of that height, and the one that its certificate names."""
        return decode(self._get("tails", number_key(number)), tuple[Block, ...]) or ()

    def epochs(self) -> tuple[Epoch, ...]:
        """All epochs but the first, which the network file describes, ascending."""
        return tuple(decode_found(value, Epoch) for _, value in self._range("epochs", b""))

    def attestations(self, claim: bytes) -> tuple[Attestation, ...]:
        found = (decode(value, Attestation) for _, value in self._range("attestations", claim, claim))
        return tuple(attestation for attestation in found if attestation is not None)

    # -- the vote log --------------------------------------------------------------------------------------------

    def log_votes(
        self,
        votes: Sequence[tuple[Vote, Block | None]],
        certificates: Sequence[Certificate] = (),
        floor: tuple[int, int] | None = None,
    ) -> None:
        """Own votes, the bodies of the blocks they name, and certificates are on disk when this returns.

        `floor`, if given, replaces the one before: see VoteLog.
        """
        with self._write() as batch:
            if floor is not None:
                batch.put("meta", b"floor", view_key(*floor))
            for each in certificates:
                batch.put("proofs", view_key(each.epoch, each.view) + each.kind[:1].encode(), encode(each))
            for vote, block in votes:
                key = view_key(vote.epoch, vote.view) + vote.kind[:1].encode() + vote.digest
                batch.put("votes", key, encode(vote))
                if block is not None:
                    name = view_key(block.epoch, block.view) + block.digest
                    batch.put("bodies", name, encode(block))

    def vote_log(self) -> VoteLog:
        """What log_votes kept above the finalised view."""
        floor = self._get("meta", b"floor")
        return VoteLog(
            tuple(decode_found(value, Vote) for _, value in self._range("votes", b"")),
            tuple(decode_found(value, Block) for _, value in self._range("bodies", b"")),
            tuple(decode_found(value, Certificate) for _, value in self._range("proofs", b"")),
            None if floor is None else (int.from_bytes(floor[:8], "big"), int.from_bytes(floor[8:], "big")),
        )

    def put_evidence(self, first: Vote, second: Vote) -> None:
        """Keep two votes of one voter that contradict each other; the first pair of an epoch suffices."""
        key = view_key(first.epoch, first.voter)
        if self._get("evidence", key) is None:
            with self._write() as batch:
                batch.put("evidence", key, encode((first, second)))

    def evidence(self) -> tuple[tuple[Vote, Vote], ...]:
        """All pairs, by ascending (epoch, voter)."""
        return tuple(decode_found(value, tuple[Vote, Vote]) for _, value in self._range("evidence", b""))

    # -- small values --------------------------------------------------------------------------------------------

    def kv_get(self, namespace: str, key: bytes) -> bytes | None:
        return self._get("kv", kv_key(namespace, key))

    def kv_put(self, namespace: str, key: bytes, value: bytes) -> None:
        with self._write() as batch:
            batch.put("kv", kv_key(namespace, key), value)

    def kv_delete(self, namespace: str, key: bytes) -> None:
        """Remove a key; a key that is not there is no error."""
        with self._write() as batch:
            batch.delete("kv", kv_key(namespace, key))

    def kv_items(self, namespace: str) -> tuple[tuple[bytes, bytes], ...]:
        """All (key, value) of a namespace, by ascending key."""
        prefix = kv_key(namespace, b"")
        return tuple((key[len(prefix) :], value) for key, value in self._range("kv", prefix, prefix))


class _Batch:
    """What may be done within one transaction."""

    def __init__(self, transaction: lmdb.Transaction, databases: Mapping[str, Any]) -> None:
        self._transaction = transaction
        self._dbs = databases

    def put(self, database: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, seal(key, value), db=self._dbs[database])

    def put_block(self, block: StoredBlock) -> None:
        number = number_key(block.number)
        for key, value in block.nodes.items():
            self.put("state", key, value)
        self.put("blocks", block.digest, block.payload)
        self.put("heights", number, block.digest)
        self.put("receipts", number, block.receipts)
        if block.bloom:
            self.put("blooms", number, block.bloom.to_bytes(256, "big"))
        for index, transaction in enumerate(block.transactions):
            self.put("transactions", transaction, number + index.to_bytes(4, "big"))

    def delete(self, database: str, key: bytes) -> None:
        self._transaction.delete(key, db=self._dbs[database])

    def delete_through(self, database: str, last: bytes) -> None:
        """Delete all keys that begin with `last` or sort before it."""
        cursor = self._transaction.cursor(db=self._dbs[database])
        found = cursor.first()
        while found and bytes(cursor.key())[: len(last)] <= last:
            found = cursor.delete()

