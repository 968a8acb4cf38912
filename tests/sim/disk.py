"""A node's real disk that may end the node's life right before, or right after, anything is written to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from chain.store import Store
from chain.types import Attestation, Block, Certificate, Epoch, Vote

MAP_BYTES = 1 << 27


class Crashed(BaseException):
    """The node is dead from here on: nothing of it may catch this."""


class Watcher(Protocol):
    """Is told what is on a disk from now on."""

    def logged(
        self, name: str, votes: Sequence[tuple[Vote, Block | None]], certificates: Sequence[Certificate]
    ) -> None: ...

    def stored(
        self, name: str, numbers: Sequence[tuple[int, bytes]], proven: Block | None, proof: Certificate
    ) -> None: ...

    def accused(self, first: Vote, second: Vote) -> None: ...


class CrashingStore(Store):
    """
    Args:
        fuse: called at each point where the node may die; raises Crashed.
    """

    def __init__(self, path: Path, name: str, fuse: Callable[[], None], watcher: Watcher) -> None:
        self._name, self._fuse, self._watcher = name, fuse, watcher
        self._written: Callable[[], None] | None = None
        super().__init__(path, MAP_BYTES)

    @contextmanager
    def _write(self) -> Iterator[Any]:
        self._fuse()
        with super()._write() as batch:
            yield batch
        written, self._written = self._written, None
        if written is not None:
            written()
        self._fuse()

    def log_votes(
        self,
        votes: Sequence[tuple[Vote, Block | None]],
        certificates: Sequence[Certificate] = (),
        floor: tuple[int, int] | None = None,
    ) -> None:
        self._written = lambda: self._watcher.logged(self._name, votes, certificates)
        super().log_votes(votes, certificates, floor)

    def write_finalised(
        self,
        blocks: Sequence[Any],
        certificate: Certificate,
        attestations: Iterable[Attestation],
        prune: tuple[int, int],
        tail: Sequence[Block] = (),
        epoch: Epoch | None = None,
    ) -> None:
        numbers = [(block.number, block.digest) for block in blocks]
        proven = tail[-1] if tail else None
        self._written = lambda: self._watcher.stored(self._name, numbers, proven, certificate)
        super().write_finalised(blocks, certificate, attestations, prune, tail, epoch)

    def put_evidence(self, first: Vote, second: Vote) -> None:
        self._watcher.accused(first, second)
        super().put_evidence(first, second)
