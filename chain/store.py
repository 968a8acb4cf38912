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
    kv            small values of the node's roles and accounts, by namespace

Every write is one LMDB transaction and is on disk (fsync) when the call returns, so a process killed at any instant
reopens at the last call that returned, or at the one that had just been committed.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import lmdb
import msgspec

from chain.types import Attestation, Block, Certificate, Vote

MAP_SIZE_DEFAULT: Final = 1 << 36  # bytes of address space, not of disk
KEY_BYTES_MAX: Final = 511  # LMDB's own limit
NAMESPACE_BYTES_MAX: Final = 64
_DATABASES: Final = (
    "meta", "state", "blocks", "heights", "transactions", "receipts", "blooms",
    "certificates", "attestations", "votes", "bodies", "kv",
)  # fmt: skip
_FORMAT: Final = b"1"
# EIO is LMDB's word for a write that was cut short, as it is when the disk fills up in the middle of it.
_NO_ROOM: Final = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))

_T = TypeVar("_T")


class StoreError(Exception):
    """The local disk or database fails: full, damaged, unreadable or held by another process. Not a peer's fault."""


class StoreFull(StoreError):
    """There is no room: the database has reached its own limit (`limited`), or the disk is full."""

    def __init__(self, message: str, limited: bool) -> None:
        super().__init__(message)
        self.limited = limited


class OtherNetwork(StoreError):
    """The database holds the chain of another network."""


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


class Store:
    """One node's database. Not thread-safe: one owner, as for the chain above it."""

    def __init__(self, path: Path, map_size: int = MAP_SIZE_DEFAULT) -> None:
        """Open or create the database in directory `path`.

        Raises:
            StoreError: another process holds it, it is damaged, or it was written by another version.
        """
        self._lock = _lock_directory(path)
        try:
            with _store_errors():
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
        with _store_errors(), self._env.begin(db=self._dbs[database]) as transaction:
            value: bytes | None = transaction.get(key)
            return value

    @contextmanager
    def _write(self) -> Iterator[_Batch]:
        """One transaction: all or nothing, on disk when the block is left."""
        with _store_errors(), self._env.begin(write=True) as transaction:
            yield _Batch(transaction, self._dbs)

    def _range(self, database: str, start: bytes, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        with _store_errors(), self._env.begin(db=self._dbs[database]) as transaction:
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

    def finalised(self) -> bytes | None:
        """Digest of the finalised head."""
        return self._get("meta", b"finalised")

    def write_finalised(
        self,
        blocks: Sequence[StoredBlock],
        certificate: Certificate,
        attestations: Iterable[Attestation],
        prune: tuple[int, int],
    ) -> None:
        """Write blocks, oldest first, that `certificate` (of the last one) makes final; all of it or nothing.

        Own votes and bodies of views up to `prune` = (epoch, view) are dropped in the same transaction.
        """
        with self._write() as batch:
            for block in blocks:
                batch.put_block(block)
            batch.put("certificates", _number(blocks[-1].number), msgspec.msgpack.encode(certificate))
            for attestation in attestations:
                batch.put("attestations", _attestation_key(attestation), msgspec.msgpack.encode(attestation))
            batch.put("meta", b"finalised", blocks[-1].digest)
            batch.delete_through("votes", _view_key(*prune))
            batch.delete_through("bodies", _view_key(*prune))

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

    def attestations(self, claim: bytes) -> tuple[Attestation, ...]:
        found = (_decode(value, Attestation) for _, value in self._range("attestations", claim, claim))
        return tuple(attestation for attestation in found if attestation is not None)

    # -- the vote log --------------------------------------------------------------------------------------------

    def log_votes(self, votes: Sequence[tuple[Vote, Block | None]]) -> None:
        """Own votes, and the bodies of the blocks they name, are on disk when this returns."""
        with self._write() as batch:
            for vote, block in votes:
                key = _view_key(vote.epoch, vote.view) + vote.kind[:1].encode() + vote.digest
                batch.put("votes", key, msgspec.msgpack.encode(vote))
                if block is not None:
                    name = _view_key(block.epoch, block.view) + block.digest
                    batch.put("bodies", name, msgspec.msgpack.encode(block))

    def votes_and_blocks(self) -> tuple[tuple[Vote, ...], tuple[Block, ...]]:
        """What log_votes kept above the finalised view, by ascending (epoch, view)."""
        votes = tuple(_decode_found(value, Vote) for _, value in self._range("votes", b""))
        return votes, tuple(_decode_found(value, Block) for _, value in self._range("bodies", b""))

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


def _lock_directory(path: Path) -> int:
    """LMDB itself admits several processes; the chain has one writer, held by a lock on a file beside it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(f"cannot open the chain database at {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StoreError(f"the chain database at {path} is in use by another process") from error
    return descriptor


@contextmanager
def _store_errors() -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull("the chain database has reached its largest size", limited=True) from error
    except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError) as error:
        raise StoreError(f"the chain database is damaged: {error}") from error
    except lmdb.Error as error:
        reason = str(error).partition(": ")[2] or str(error)  # "mdb_txn_commit: No space left on device"
        if reason in _NO_ROOM:
            raise StoreFull(f"the chain database cannot be written: {reason}", limited=False) from error
        raise StoreError(f"the chain database: {error}") from error  # the system's own words
