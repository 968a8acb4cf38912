"""How the database fails, in words that an operator can act on."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import lmdb

# EIO is LMDB's word for a write that was cut short, as it is when the disk fills up in the middle of it.
_NO_ROOM: Final = tuple(os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO))

_DAMAGED: Final = (
    lmdb.CorruptedError, lmdb.InvalidError, lmdb.PageNotFoundError, lmdb.VersionMismatchError, lmdb.NotFoundError,
    lmdb.IncompatibleError, lmdb.BadTxnError,
)  # fmt: skip
UNWRITTEN_BYTES_MAX: Final = 256 << 10


class StoreError(Exception):
    """The local disk or database fails: full, damaged, unreadable or held by another process. Not a peer's fault."""


class StoreFull(StoreError):
    """There is no room: the database has reached its own limit (`limited`), or the disk is full."""

    def __init__(self, message: str, limited: bool) -> None:
        super().__init__(message)
        self.limited = limited


class StoreDamaged(StoreError):
    """What is in the database is not what was written to it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the chain database is damaged: {what}")


class OtherNetwork(StoreError):
    """The database holds the chain of another network."""


def lock_directory(path: Path) -> int:
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


def mend_end(path: Path, env: lmdb.Environment) -> None:
    """Who reads pages of a mapped file beyond its end is killed. LMDB may leave its last pages unwritten if they are
    free; so a file that ends a little early grows, and what was cut off is found to be damaged when it is read.

    Raises:
        StoreDamaged: the file has lost more than that.
    """
    file, bytes_min = path / "data.mdb", (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    lacking = bytes_min - file.stat().st_size
    if lacking > UNWRITTEN_BYTES_MAX:
        raise StoreDamaged(f"{file} lacks its last {lacking} bytes")
    if lacking > 0:
        os.truncate(file, bytes_min)


@contextmanager
def store_errors() -> Iterator[None]:
    try:
        yield
    except lmdb.MapFullError as error:
        raise StoreFull("the chain database has reached its largest size", limited=True) from error
    except _DAMAGED as error:
        raise StoreDamaged(str(error)) from error
    except lmdb.Error as error:
        reason = str(error).partition(": ")[2] or str(error)  # "mdb_txn_commit: No space left on device"
        if reason in _NO_ROOM:
            raise StoreFull(f"the chain database cannot be written: {reason}", limited=False) from error
        raise StoreError(f"the chain database: {error}") from error  # the system's own words
