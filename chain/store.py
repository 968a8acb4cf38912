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

Every write is one LMDB transaction and is on disk (fsync) when the call returns, so a process killed at any instant
reopens at the last call that returned, or at the one that had just been committed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec

from chain.store_errors import OtherNetwork, StoreError, StoreFull, lock_directory, store_errors
from chain.types import Attestation, Block, Certificate, Epoch, Vote

__all__ = ["OtherNetwork", "Store", "StoreError", "StoreFull", "StoredBlock", "VoteLog", "mark_new"]

MAP_SIZE_DEFAULT: Final = 1 << 36  # bytes of address space, not of disk
KEY_BYTES_MAX: Final = 511  # LMDB's own limit
NAMESPACE_BYTES_MAX: Final = 64
_DATABASES: Final = (
    "meta", "state", "blocks", "heights", "transactions", "receipts", "blooms",
    "certificates", "attestations", "votes", "bodies", "proofs", "epochs", "tails", "evidence", "kv",
)  # fmt: skip
_FORMAT: Final = b"2"
_NEW_FILE: Final = "new"  # beside the database; see mark_new

_T = TypeVar("_T")


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
                    with self._env.begin(write=True) as transaction:
                        self._dbs = {name: self._env.open_db(name.encode(), txn=transaction) for name in _DATABASES}
                    self._check_format()
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

    def _check_format(self) -> None:
        found = self._get("meta", b"format")
        if found is None:
            with self._write() as batch:
                batch.put("meta", b"format", _FORMAT)
        elif found != _FORMAT:
            raise StoreError(f"the chain database has format {found!r}, this version reads {_FORMAT!r}")

    # -- reading and writing -------------------------------------------------------------------------------------

    def _get(self, database: str, key: bytes) -> bytes | None:
        with self._closing, store_errors():
            if self._closed:
                raise StoreError("the chain database is closed")
            with self._env.begin(db=self._dbs[database]) as transaction:
                value: bytes | None = transaction.get(key)
                return value

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
                yield key, value
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
                batch.put("meta", b"floor", _view_key(0, 0))
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
            batch.put("certificates", _number(blocks[-1].number), _encode(certificate))
            for attestation in attestations:
                batch.put("attestations", _attestation_key(attestation), _encode(attestation))
            if tail:
                batch.put("tails", _number(blocks[-1].number), _encode(tuple(tail)))
            if epoch is not None:
                batch.put("epochs", _number(epoch.number), _encode(epoch))
            batch.put("meta", b"finalised", blocks[-1].digest)
            for database in ("votes", "bodies", "proofs"):
                batch.delete_through(database, _view_key(*prune))

    def state(self, key: bytes) -> bytes | None:
        """A trie node or contract code by its keccak."""
        return self._get("state", key)

    def block(self, digest: bytes) -> bytes | None:
        """RLP of a finalised block."""
        return self._get("blocks", digest)

    def digest_at(self, number: int) -> bytes | None:
        """Digest of the finalised block of that height."""
        return self._get("heights", _number(number))

    def transaction_place(self, transaction: bytes) -> tuple[int, int] | None:
        """(block number, index in the block) of a finalised transaction."""
        place = self._get("transactions", transaction)
        return None if place is None else (int.from_bytes(place[:8], "big"), int.from_bytes(place[8:], "big"))

    def receipts(self, number: int) -> bytes | None:
        return self._get("receipts", _number(number))

    def blooms(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """(number, bloom) of the finalised blocks from first to last that have logs, ascending."""
        for key, value in self._range("blooms", _number(first)):
            number = int.from_bytes(key, "big")
            if number > last:
                return
            yield number, int.from_bytes(value, "big")

    def certificate(self, number: int) -> Certificate | None:
        """The certificate of that height; None where a later block's certificate made it final."""
        return _decode(self._get("certificates", _number(number)), Certificate)

    def tail(self, number: int) -> tuple[Block, ...]:
        """The blocks between an epoch's last one, of that height, and the one that its certificate names."""
        return _decode(self._get("tails", _number(number)), tuple[Block, ...]) or ()

    def epochs(self) -> tuple[Epoch, ...]:
        """All epochs but the first, which the network file describes, ascending."""
        return tuple(_decode_found(value, Epoch) for _, value in self._range("epochs", b""))

    def attestations(self, claim: bytes) -> tuple[Attestation, ...]:
        found = (_decode(value, Attestation) for _, value in self._range("attestations", claim, claim))
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
                batch.put("meta", b"floor", _view_key(*floor))
            for each in certificates:
                batch.put("proofs", _view_key(each.epoch, each.view) + each.kind[:1].encode(), _encode(each))
            for vote, block in votes:
                key = _view_key(vote.epoch, vote.view) + vote.kind[:1].encode() + vote.digest
                batch.put("votes", key, _encode(vote))
                if block is not None:
                    name = _view_key(block.epoch, block.view) + block.digest
                    batch.put("bodies", name, _encode(block))

    def vote_log(self) -> VoteLog:
        """What log_votes kept above the finalised view."""
        floor = self._get("meta", b"floor")
        return VoteLog(
            tuple(_decode_found(value, Vote) for _, value in self._range("votes", b"")),
            tuple(_decode_found(value, Block) for _, value in self._range("bodies", b"")),
            tuple(_decode_found(value, Certificate) for _, value in self._range("proofs", b"")),
            None if floor is None else (int.from_bytes(floor[:8], "big"), int.from_bytes(floor[8:], "big")),
        )

    def put_evidence(self, first: Vote, second: Vote) -> None:
        """Keep two votes of one voter that contradict each other; the first pair of an epoch suffices."""
        key = _view_key(first.epoch, first.voter)
        if self._get("evidence", key) is None:
            with self._write() as batch:
                batch.put("evidence", key, _encode((first, second)))

    def evidence(self) -> tuple[tuple[Vote, Vote], ...]:
        """All pairs, by ascending (epoch, voter)."""
        return tuple(_decode_found(value, tuple[Vote, Vote]) for _, value in self._range("evidence", b""))

    # -- small values --------------------------------------------------------------------------------------------

    def kv_get(self, namespace: str, key: bytes) -> bytes | None:
        return self._get("kv", _kv_key(namespace, key))

    def kv_put(self, namespace: str, key: bytes, value: bytes) -> None:
        with self._write() as batch:
            batch.put("kv", _kv_key(namespace, key), value)

    def kv_delete(self, namespace: str, key: bytes) -> None:
        """Remove a key; a key that is not there is no error."""
        with self._write() as batch:
            batch.delete("kv", _kv_key(namespace, key))

    def kv_items(self, namespace: str) -> tuple[tuple[bytes, bytes], ...]:
        """All (key, value) of a namespace, by ascending key."""
        prefix = _kv_key(namespace, b"")
        return tuple((key[len(prefix) :], value) for key, value in self._range("kv", prefix, prefix))


class _Batch:
    """What may be done within one transaction."""

    def __init__(self, transaction: lmdb.Transaction, databases: Mapping[str, Any]) -> None:
        self._transaction = transaction
        self._dbs = databases

    def put(self, database: str, key: bytes, value: bytes) -> None:
        self._transaction.put(key, value, db=self._dbs[database])

    def put_block(self, block: StoredBlock) -> None:
        number = _number(block.number)
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


def _encode(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def _number(number: int) -> bytes:
    return number.to_bytes(8, "big")


def _view_key(epoch: int, view: int) -> bytes:
    return epoch.to_bytes(8, "big") + view.to_bytes(8, "big")


def _attestation_key(attestation: Attestation) -> bytes:
    return attestation.claim + attestation.signer.to_bytes(2, "big")


def _kv_key(namespace: str, key: bytes) -> bytes:
    name = namespace.encode()
    if not 0 < len(name) <= NAMESPACE_BYTES_MAX or len(name) + 1 + len(key) > KEY_BYTES_MAX:
        raise ValueError(f"key of {len(key)} bytes in namespace {namespace!r} is too long")
    return bytes([len(name)]) + name + key  # the length keeps one namespace from being another's prefix


def _decode(value: bytes | None, kind: type[_T]) -> _T | None:
    return None if value is None else _decode_found(value, kind)


def _decode_found(value: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(value, type=kind)
    except msgspec.MsgspecError as error:
        raise StoreError(f"the chain database is damaged: {kind.__name__}: {error}") from error
