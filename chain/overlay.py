"""Blocks that are executed but not final, as a tree in memory above the disk. Pure bookkeeping.

Each block keeps what it wrote to the state apart from its siblings, so that a branch is read as its own layers above
the finalised state, and a branch that dies takes its writes with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from chain.evm import Header, Receipt
from chain.types import Block, Claim, Log


@dataclass(frozen=True, slots=True)
class Executed:
    """A block and all that its execution gave."""

    block: Block
    header: Header
    receipts: tuple[Receipt, ...]
    logs: tuple[Log, ...]
    claims: tuple[Claim, ...]
    next_validators: tuple[bytes, ...] | None  # of the epoch that begins after it, if it is its epoch's last block
    nodes: Mapping[bytes, bytes]  # trie nodes and code that it adds


class Overlay:
    def __init__(self) -> None:
        self._blocks: dict[bytes, Executed] = {}

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, digest: bytes) -> Executed | None:
        return self._blocks.get(digest)

    def put(self, executed: Executed) -> None:
        self._blocks[executed.block.digest] = executed

    def branch(self, digest: bytes) -> Iterator[Executed]:
        """The block and its unfinalised ancestors, newest first; nothing for a finalised block."""
        while (found := self._blocks.get(digest)) is not None:
            yield found
            digest = found.block.parent

    def last_of_epoch(self, digest: bytes) -> Executed | None:
        """The epoch's last block, if the block or an unfinalised ancestor is one: only empty ones may follow."""
        return next((each for each in self.branch(digest) if each.next_validators is not None), None)

    def advance(self, final: bytes, keep_children: bool) -> None:
        """`final` is final now: forget it, its ancestors, and every branch that does not descend from it.

        What follows the last block of an epoch in that epoch is forgotten, too: `keep_children` is false.
        """
        kept = {final}
        for executed in sorted(self._blocks.values() if keep_children else (), key=lambda each: each.block.height):
            if executed.block.parent in kept:
                kept.add(executed.block.digest)
        self._blocks = {digest: self._blocks[digest] for digest in kept if digest != final}
