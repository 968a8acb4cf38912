"""Between sync (whom to ask for what) and the importer (what came, is it proven?): the words on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import structlog

from chain import messages
from chain.chain import Chain, FinalisedBlock
from node import wire
from node.importer import Importer, ShortAnswer
from node.sync import VALIDATOR_LAG_S, Sync
from node.workshop import Workshop

log = structlog.get_logger()


class PeerWire(Protocol):
    def to_peer(self, peer: str, kind: str, payload: bytes) -> None: ...

    def drop(self, peer: str, reason: str) -> None: ...

    def refuse(self, peer: str, reason: str) -> None: ...


class CatchUp:
    """
    Args:
        checkpoint: (height, digest) of a block that the operator knows to be final.
        imported: called with blocks that became final by being caught up.
        worked: called when an answer was worked through: (what was wrong with it, whether we are further now, now).
    """

    def __init__(
        self,
        chain: Chain,
        network: PeerWire,
        workshop: Workshop,
        checkpoint: tuple[int, bytes] | None,
        imported: Callable[[list[FinalisedBlock], float], None],
        worked: Callable[[Exception | None, bool, float], None],
    ) -> None:
        self._chain, self._wire, self._worked = chain, network, worked
        self._importer = Importer(chain, workshop, checkpoint, imported, self._done)
        self.sync = Sync(chain.finalised.number, 0.0, self._importer.anchor)
        self._began_at = 0
        self._full = False  # the last answer held all that was asked for

    def as_validator(self, validates: bool) -> None:
        """A validator learns of blocks by voting on them, and asks only when it has been behind for a while."""
        self.sync.lag_s = VALIDATOR_LAG_S if validates else 0.0

    @property
    def more_to_come(self) -> bool:
        """Whether more finalised blocks are on their way: what is final here is not the newest."""
        return self._full and self.sync.asked is not None

    @property
    def bound(self) -> bool:
        """Whether a trusted checkpoint is still above our head: until then nothing but it proves a block."""
        return self._importer.anchor is not None

    def announced(self, peer: str, number: int, now: float) -> None:
        self.sync.announce(peer, number)
        self.ask(now)

    def lost(self, peer: str, now: float) -> None:
        self.sync.lost(peer)
        self.ask(now)

    def ask(self, now: float) -> None:
        """Ask for what is due, if anything."""
        if (request := self.sync.next_request(now)) is not None:
            if self.sync.ahead is None:
                self._importer.forget()
            want = wire.WantBlocks(request.first, request.count)
            self._wire.to_peer(request.peer, wire.WANT_BLOCKS, wire.encode(want))

    def serve(self, peer: str, want: wire.WantBlocks) -> None:
        found = self._chain.blocks_from(want.first, want.count, wire.BLOCKS_BYTES_MAX)
        items = tuple(
            (messages.encode_block(block), None if proof is None else messages.encode_certificate(proof))
            for block, proof in found
        )
        self._wire.to_peer(peer, wire.BLOCKS, wire.encode(wire.Blocks(want.first, items)))

    def take(self, peer: str, answer: wire.Blocks, now: float) -> None:
        asked = self.sync.asked
        if asked is None or not self.sync.waiting or (asked.peer, asked.first) != (peer, answer.first):
            return  # an answer that came too late
        self.sync.came()
        self._full = len(answer.items) >= asked.count
        self._began_at = self._chain.finalised.number
        self._importer.take(answer, now)

    def _done(self, error: Exception | None, unproven: int, now: float) -> None:
        asked, number = self.sync.asked, self._chain.finalised.number
        assert asked is not None
        held_before = 0 if self.sync.ahead is None else self.sync.ahead[1]
        moved = number > self._began_at
        if isinstance(error, ShortAnswer) and self.sync.shorten():
            error = None
        elif error is not None:
            log.warning("sync.refused", peer=asked.peer, first=asked.first, reason=str(error)[:200])
            self._wire.refuse(asked.peer, f"wrong blocks: {str(error)[:200]}")
            self._wire.drop(asked.peer, f"wrong blocks: {str(error)[:200]}")
            self.sync.asked = asked
            self.sync.failed(now)
        elif moved or unproven > held_before or self.sync.follow_anchor(self._importer.anchor):
            log.info("sync.progressed", number=number, target=self.sync.target, held=unproven, anchor=self.sync.anchor)
            self.sync.answered(unproven, now)
        else:
            self.sync.failed(now)
        self._worked(error, moved, now)
        self.ask(now)
