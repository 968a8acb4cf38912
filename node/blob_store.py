"""The blobs that this node holds: one file each, named by digest, verified on every read.

DIR/public/ab/abcd...    served to peers
DIR/private/ab/abcd...   ours alone until `publish`: an unmasked update must not leave before it is revealed
DIR/tmp/                 half-written; emptied at start

A file appears under its name whole or not at all (write, fsync, rename). When the store is full the public blobs that
were used least recently and are not pinned go first; private blobs stay until deleted. Pins live as long as the
process: who needs a blob pins it again after a restart. Methods block on the disk and may be called from any thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from node import unixfs
from node.unixfs import DIGEST_BYTES, LEAF_BYTES, Layout

_LAYOUTS_MAX: Final = 256  # layouts kept in memory; 32 bytes for each 256 KiB of a blob
_PUBLIC, _PRIVATE, _TMP = "public", "private", "tmp"


class BlobError(Exception):
    """Base of what may go wrong with a blob."""


@dataclass(eq=False)
class BlobMissing(BlobError):
    """This store does not hold the blob."""

    digest: bytes

    def __str__(self) -> str:
        return f"blob {self.digest.hex()[:16]} is not here"


@dataclass(eq=False)
class BlobDamaged(BlobError):
    """The file did not have its digest any more; it has been removed, so that the blob can be fetched again."""

    digest: bytes

    def __str__(self) -> str:
        return f"blob {self.digest.hex()[:16]} was damaged on disk and has been removed"


@dataclass(eq=False)
class BlobStoreFull(BlobError):
    """Even without everything that may go there is no room."""

    size: int
    size_max: int

    def __str__(self) -> str:
        return f"no room for a blob of {self.size} bytes: the store is limited to {self.size_max}"


@dataclass(eq=False)
class BlobStoreFailed(BlobError):
    """The disk refused."""

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"blob store {self.path}: {self.reason}"


@dataclass(frozen=True, slots=True)
class BlobInfo:
    """One line of the listing."""

    digest: bytes
    size: int
    public: bool
    pinned: bool


@dataclass(slots=True)
class _Entry:
    size: int
    public: bool


class BlobStore:
    """See the module.

    Args:
        path: made when missing.
        bytes_max: of all blobs together.
    Raises:
        BlobStoreFailed: here, and from every method that touches the disk.
    """

    def __init__(self, path: Path, bytes_max: int) -> None:
        self.path, self.bytes_max = path, bytes_max
        self._lock = threading.RLock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # least recently used first
        self._pinned: set[bytes] = set()
        self._layouts: OrderedDict[bytes, Layout] = OrderedDict()
        self._total = 0
        with self._disk():
            for name in (_PUBLIC, _PRIVATE, _TMP):
                (path / name).mkdir(parents=True, exist_ok=True)
            for leftover in (path / _TMP).iterdir():
                leftover.unlink()
            self._scan()

    digest_of = staticmethod(unixfs.digest_of)

    # ---- what is here -----------------------------------------------------------------------------------------------
    def has(self, digest: bytes) -> bool:
        return digest in self._entries

    def is_public(self, digest: bytes) -> bool:
        """Held, and served to peers."""
        entry = self._entries.get(digest)
        return entry is not None and entry.public

    def size(self, digest: bytes) -> int:
        """Raises BlobMissing."""
        return self._entry(digest).size

    def cid(self, digest: bytes) -> str:
        """The CIDv1 of a held blob. Raises BlobMissing."""
        return unixfs.cid(digest, self.size(digest))

    @property
    def total_bytes(self) -> int:
        return self._total

    def list(self) -> list[BlobInfo]:
        """Every blob, least recently used first."""
        with self._lock:
            return [
                BlobInfo(digest, entry.size, entry.public, digest in self._pinned)
                for digest, entry in self._entries.items()
            ]

    # ---- reading ----------------------------------------------------------------------------------------------------
    def get(self, digest: bytes) -> bytes:
        """The whole blob. Raises BlobMissing, BlobDamaged."""
        data = self._read(digest, 0, -1)
        layout = unixfs.layout(data)
        if layout.digest != digest:
            self._remove_damaged(digest)
        self._remember(digest, layout)
        return data

    def layout(self, digest: bytes) -> Layout:
        """What the blob consists of; reads all of it the first time. Raises BlobMissing, BlobDamaged."""
        with self._lock:
            known = self._layouts.get(digest)
            if known is not None and digest in self._entries:
                self._layouts.move_to_end(digest)
                return known
        self.get(digest)
        return self._layouts[digest]

    def leaf(self, digest: bytes, index: int) -> bytes:
        """One leaf. Raises BlobMissing, BlobDamaged, IndexError."""
        expected = self.layout(digest).leaves[index]
        data = self._read(digest, index * LEAF_BYTES, LEAF_BYTES)
        if hashlib.sha256(data).digest() != expected:
            self._remove_damaged(digest)
        return data

    # ---- writing ----------------------------------------------------------------------------------------------------
    def put(self, data: bytes, public: bool = True) -> bytes:
        """Keep a blob; its digest. A blob that is public already stays so.

        Raises:
            BlobStoreFull.
        """
        layout = unixfs.layout(data)
        digest = layout.digest
        if self._keep_known(digest, public):
            return digest
        with self._lock:
            self._make_room(len(data))  # before the disk is troubled
        with self._disk(), self._draft(digest, data) as draft, self._lock:
            if not self._keep_known(digest, public):  # not put by another thread meanwhile
                self._make_room(len(data))
                target = self._file(digest, public)
                target.parent.mkdir(exist_ok=True)
                draft.rename(target)
                _sync(target.parent)
                self._entries[digest] = _Entry(len(data), public)
                self._total += len(data)
        self._remember(digest, layout)
        return digest

    def publish(self, digest: bytes) -> None:
        """Serve a private blob from now on. No-op on a public one. Raises BlobMissing."""
        with self._lock:
            entry = self._entry(digest)
            if entry.public:
                return
            with self._disk():
                source, target = self._file(digest, public=False), self._file(digest, public=True)
                target.parent.mkdir(exist_ok=True)
                source.rename(target)
                _sync(target.parent)
                _sync(source.parent)
            entry.public = True

    def delete(self, digest: bytes) -> None:
        """Forget a blob, pinned or not. No-op when it is not here."""
        with self._lock:
            self._pinned.discard(digest)
            entry = self._entries.pop(digest, None)
            self._layouts.pop(digest, None)
            if entry is not None:
                self._total -= entry.size
                with self._disk():
                    self._file(digest, entry.public).unlink(missing_ok=True)

    def pin(self, digest: bytes) -> None:
        """Keep this blob when room is made, also if it comes only later."""
        self._pinned.add(digest)

    def unpin(self, digest: bytes) -> None:
        self._pinned.discard(digest)

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _entry(self, digest: bytes) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None:
            raise BlobMissing(digest)
        return entry

    def _file(self, digest: bytes, public: bool) -> Path:
        name = digest.hex()
        return self.path / (_PUBLIC if public else _PRIVATE) / name[:2] / name

    def _read(self, digest: bytes, start: int, size: int) -> bytes:
        with self._disk():
            with self._lock:
                entry = self._entry(digest)
                self._entries.move_to_end(digest)
                try:
                    file = self._file(digest, entry.public).open("rb")
                except FileNotFoundError:
                    self._remove_damaged(digest)
            with file:
                file.seek(start)
                return file.read(size)

    def _remove_damaged(self, digest: bytes) -> NoReturn:
        self.delete(digest)
        raise BlobDamaged(digest)

    def _remember(self, digest: bytes, layout: Layout) -> None:
        with self._lock:
            self._layouts[digest] = layout
            self._layouts.move_to_end(digest)
            if len(self._layouts) > _LAYOUTS_MAX:
                self._layouts.popitem(last=False)

    def _make_room(self, size: int) -> None:
        goers = [digest for digest, entry in self._entries.items() if entry.public and digest not in self._pinned]
        room = self.bytes_max - self._total + sum(self._entries[digest].size for digest in goers)
        if size > room:
            raise BlobStoreFull(size, self.bytes_max)
        for digest in goers:
            if self._total + size <= self.bytes_max:
                return
            self.delete(digest)

    def _keep_known(self, digest: bytes, public: bool) -> bool:
        with self._lock:
            if digest not in self._entries:
                return False
            self._entries.move_to_end(digest)
            if public:
                self.publish(digest)
            return True

    @contextlib.contextmanager
    def _draft(self, digest: bytes, data: bytes) -> Iterator[Path]:
        """The bytes in a file that lasts; gone afterwards unless renamed."""
        draft = self.path / _TMP / f"{digest.hex()}.{threading.get_ident()}"
        try:
            with draft.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _scan(self) -> None:
        found = []
        for public in (False, True):  # the public one counts where a crash left both
            for path in (self.path / (_PUBLIC if public else _PRIVATE)).glob("??/*"):
                with contextlib.suppress(ValueError):
                    digest = bytes.fromhex(path.name)
                    if len(digest) == DIGEST_BYTES:
                        status = path.stat()
                        found.append((status.st_mtime, digest, _Entry(status.st_size, public)))
        for _, digest, entry in sorted(found, key=lambda item: (item[2].public, item[0])):
            self._entries[digest] = entry
        self._total = sum(entry.size for entry in self._entries.values())

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BlobStoreFailed(self.path, error.strerror or str(error)) from error


def _sync(directory: Path) -> None:
    """Make a rename in a directory last."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
