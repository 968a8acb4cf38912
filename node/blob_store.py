"""The blobs that this node holds: one file each, named by digest, verified on every read.

DIR/public/ab/abcd...    served to peers
DIR/private/ab/abcd...   ours alone until `publish`: an unmasked update must not leave before it is revealed
DIR/tmp/                 half-written; emptied at start

A file appears under its name whole or not at all (write, fsync, rename). When the store is full the public blobs that
were used least recently and are not pinned go first; private blobs stay until deleted. Pins live as long as the
process: who needs a blob pins it again after a restart. Each holder of a pin has its own, so that none takes away
another's. Methods block on the disk and may be called from any thread.
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
from typing import BinaryIO, Final, NoReturn

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
    kept: int = 0  # bytes of what may not go

    def __str__(self) -> str:
        limit = f"`blobs_bytes_max` in [node] limits the store to {self.size_max}"
        return f"no room for a blob of {self.size} bytes: {limit}, of which {self.kept} are pinned or not published yet"


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
        self._pins: dict[bytes, set[str]] = {}  # digest -> holders
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
                BlobInfo(digest, entry.size, entry.public, digest in self._pins)
                for digest, entry in self._entries.items()
            ]

    # ---- reading ----------------------------------------------------------------------------------------------------
    def get(self, digest: bytes) -> bytes:
        """The whole blob. Raises BlobMissing, BlobDamaged."""
        with self._open(digest) as file:
            data = file.read()
        self._check(digest, unixfs.layout(data))
        return data

    def layout(self, digest: bytes) -> Layout:
        """What the blob consists of; reads through it the first time. Raises BlobMissing, BlobDamaged."""
        with self._lock:
            known = self._layouts.get(digest)
            if known is not None and digest in self._entries:
                self._layouts.move_to_end(digest)
                return known
        with self._open(digest) as file:  # leaf by leaf: many may ask for large ones at once
            leaves: list[bytes] = []
            size = 0
            while (leaf := file.read(LEAF_BYTES)) or not leaves:
                leaves.append(hashlib.sha256(leaf).digest())
                size += len(leaf)
        return self._check(digest, Layout(size, tuple(leaves)))

    def leaf(self, digest: bytes, index: int) -> bytes:
        """One leaf. Raises BlobMissing, BlobDamaged, IndexError."""
        expected = self.layout(digest).leaves[index]
        with self._open(digest) as file:
            file.seek(index * LEAF_BYTES)
            data = file.read(LEAF_BYTES)
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
        """Forget a blob, private or public, pinned or not, and its pins. No-op when it is not here."""
        with self._lock:
            self._pins.pop(digest, None)
            self._remove(digest)

    def pin(self, digest: bytes, holder: str = "") -> None:
        """Keep this blob when room is made, also if it comes only later; again by the same holder: no-op."""
        with self._lock:
            self._pins.setdefault(digest, set()).add(holder)

    def unpin(self, digest: bytes, holder: str = "") -> None:
        """This holder needs the blob no more. No-op without its pin."""
        with self._lock:
            holders = self._pins.get(digest, set())
            holders.discard(holder)
            if not holders:
                self._pins.pop(digest, None)

    # ---- inside -----------------------------------------------------------------------------------------------------
    def _entry(self, digest: bytes) -> _Entry:
        entry = self._entries.get(digest)
        if entry is None:
            raise BlobMissing(digest)
        return entry

    def _file(self, digest: bytes, public: bool) -> Path:
        name = digest.hex()
        return self.path / (_PUBLIC if public else _PRIVATE) / name[:2] / name

    @contextlib.contextmanager
    def _open(self, digest: bytes) -> Iterator[BinaryIO]:
        with self._disk():
            with self._lock:
                entry = self._entry(digest)
                self._entries.move_to_end(digest)
                try:
                    file = self._file(digest, entry.public).open("rb")
                except FileNotFoundError:
                    self._remove_damaged(digest)
            with file:
                yield file

    def _check(self, digest: bytes, layout: Layout) -> Layout:
        if layout.digest != digest:
            self._remove_damaged(digest)
        self._remember(digest, layout)
        return layout

    def _remove_damaged(self, digest: bytes) -> NoReturn:
        self._remove(digest)  # pins stay, for when it comes again
        raise BlobDamaged(digest)

    def _remember(self, digest: bytes, layout: Layout) -> None:
        with self._lock:
            self._layouts[digest] = layout
            self._layouts.move_to_end(digest)
            if len(self._layouts) > _LAYOUTS_MAX:
                self._layouts.popitem(last=False)

    def _remove(self, digest: bytes) -> None:
        entry = self._entries.get(digest)
        if entry is not None:
            with self._disk():
                for public in (True, False):  # a crash may have left both
                    self._file(digest, public).unlink(missing_ok=True)
            del self._entries[digest]
            self._layouts.pop(digest, None)
            self._total -= entry.size

    def _make_room(self, size: int) -> None:
        if self._total + size <= self.bytes_max:
            return
        goers = [digest for digest, entry in self._entries.items() if entry.public and digest not in self._pins]
        kept = self._total - sum(self._entries[digest].size for digest in goers)
        if kept + size > self.bytes_max:
            raise BlobStoreFull(size, self.bytes_max, kept)
        for digest in goers:
            if self._total + size <= self.bytes_max:
                return
            self._remove(digest)

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
