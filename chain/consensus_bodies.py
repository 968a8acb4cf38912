"""The bodies of blocks above the final one: which are here, which were executed, which have to be fetched.

(unknown) --want--> wanted --keep--> here --CheckBlock--> executed
                                      |
                                      +-- refused as a proposal: checked once more if it gets notarised
                                      +-- refused though notarised: the body may be forged, so it is thrown
                                          away and fetched from somebody else, from `sources_max` in all
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from chain.types import Block

BLOCKS_MAX: Final = 128  # bodies in memory, but for those that certified blocks need: see `evict`
WANTED_MAX: Final = 64


@dataclass(slots=True)
class _Want:
    asked_at: float
    attempts: int


class Bodies:
    """Bookkeeping only: it neither sends nor executes, the machine does.

    Args:
        sources_max: how many different validators may supply a body that does not execute before this node concludes
            that the block itself is at fault: f + 1, so that one of them was honest.
    """

    def __init__(self, final: Block, blocks: Iterable[Block], sources_max: int) -> None:
        self.final = final
        self.blocks = {block.digest: block for block in blocks} | {final.digest: final}
        self._sources_max = sources_max
        self._executed = {final.digest}
        self._checking: dict[bytes, bool] = {}  # digest -> as a notarised block
        self._invalid: set[bytes] = set()  # refused as a proposal
        self._source: dict[bytes, int | None] = {}
        self._suspects: dict[bytes, set[int | None]] = {}  # who supplied a body that was refused though notarised
        self._wanted: dict[bytes, _Want] = {}
        self._fetched: set[bytes] = set()
        self._needed: set[bytes] = set()  # wants of the present step: the others have become pointless

    def lacking(self, digest: bytes) -> Block | bytes | None:
        """What stands between here and having executed a block: None, a body to fetch, or a block to check first."""
        lowest: Block | None = None
        while digest != self.final.digest:
            block = self.blocks.get(digest)
            if block is None:
                return digest
            if block.height <= self.final.height:
                return block
            if digest not in self._executed:
                lowest = block
            digest = block.parent
        return lowest

    def executed(self, digest: bytes) -> bool:
        return digest in self._executed

    def add(self, block: Block, source: int | None) -> None:
        self.blocks.setdefault(block.digest, block)
        self._source.setdefault(block.digest, source)
        if self._wanted.pop(block.digest, None) is not None:
            self._fetched.add(block.digest)

    def add_own(self, block: Block) -> None:
        self.add(block, None)
        self._executed.add(block.digest)

    # ---- checking ---------------------------------------------------------------------------------------------------
    def may_check(self, block: Block, notarised: bool) -> bool:
        """Whether CheckBlock is due now; if so it counts as under way."""
        if block.digest in self._checking or (block.digest in self._invalid and not notarised):
            return False
        self._checking[block.digest] = notarised
        return True

    def checked(self, digest: bytes, ok: bool) -> None:
        notarised = self._checking.pop(digest, None)
        if notarised is None or digest not in self.blocks:
            return  # became pointless while it ran
        if ok:
            self._executed.add(digest)
            self._suspects.pop(digest, None)
        elif notarised:
            self._suspects.setdefault(digest, set()).add(self._source.pop(digest, None))
            del self.blocks[digest]
        else:
            self._invalid.add(digest)

    @property
    def refused(self) -> tuple[bytes, ...]:
        """Notarised blocks of which no supplied body executes here."""
        return tuple(digest for digest in self._suspects if self._given_up(digest))

    def _given_up(self, digest: bytes) -> bool:
        return len(self._suspects.get(digest, ())) >= self._sources_max

    # ---- fetching ---------------------------------------------------------------------------------------------------
    def want(self, digest: bytes, now: float, patience_s: float) -> int | None:
        """How often this body was asked for before, if it is time to ask (again); else None."""
        if self._given_up(digest):
            return None
        self._needed.add(digest)
        want = self._wanted.get(digest)
        if want is None:
            if len(self._wanted) >= WANTED_MAX:
                return None
            self._wanted[digest] = _Want(now, 1)
            return 0
        if now < want.asked_at + patience_s:
            return None
        want.asked_at, want.attempts = now, want.attempts + 1
        return want.attempts - 1

    def wants(self, digest: bytes, sender: int | None) -> bool:
        """Whether a body from this sender is welcome."""
        return digest in self._wanted and sender not in self._suspects.get(digest, ())

    def settle_wants(self) -> None:
        """Forget the wants that no rule has repeated since the last call."""
        self._wanted = {digest: want for digest, want in self._wanted.items() if digest in self._needed}
        self._needed = set()

    @property
    def missing(self) -> int:
        return len(self._wanted)

    def retry_at(self, patience_s: float) -> float | None:
        return min((want.asked_at + patience_s for want in self._wanted.values()), default=None)

    # ---- forgetting -------------------------------------------------------------------------------------------------
    def finalise(self, final: Block) -> None:
        """Drop everything that is not above the new final block."""
        self.final = final
        self.blocks = {d: b for d, b in self.blocks.items() if b.view > final.view} | {final.digest: final}
        self._suspects = {}
        self._forget_orphans()

    def evict(self, protected: Collection[bytes]) -> None:
        """Keep at most BLOCKS_MAX bodies, as far as those protected allow: the newest views go first.

        What stands just above the final block is executed and made final next; what is far from it can be fetched
        when its turn comes. What was fetched stays: only certified blocks and their ancestors are, newest first, and
        all of them are needed together to make the certified block final.
        """
        excess = len(self.blocks) - BLOCKS_MAX
        if excess <= 0:
            return
        kept = {*protected, *self._fetched, self.final.digest}
        spare = [block for block in self.blocks.values() if block.digest not in kept]
        spare.sort(key=lambda block: block.view, reverse=True)
        for block in spare[:excess]:
            del self.blocks[block.digest]
        self._forget_orphans()

    def _forget_orphans(self) -> None:
        self._executed &= self.blocks.keys()
        self._executed.add(self.final.digest)
        self._invalid &= self.blocks.keys()
        self._fetched &= self.blocks.keys()
        self._checking = {digest: kind for digest, kind in self._checking.items() if digest in self.blocks}
        self._source = {digest: source for digest, source in self._source.items() if digest in self.blocks}
