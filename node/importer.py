"""Takes in finalised blocks that a peer sent on request: proven first, executed then, persisted last.

    answer ── in order? sealed by validators? ── run of blocks up to a certificate ── verify it ── execute, one by one,
    in the workshop ── persist ── next run ... ── told: answered, or failed and why

Blocks that no certificate of the same answer proves are held until it comes with a later one. Which validators a
certificate is judged by is known only once the blocks before it were executed: so runs are taken one after the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from chain import certificate, messages
from chain.chain import Chain, FinalisedBlock
from chain.overlay import Executed
from chain.types import Block, Certificate, ChainError, InvalidBlock
from node import wire
from node.workshop import Workshop

log = structlog.get_logger()

UNPROVEN_BYTES_MAX: Final = 64 << 20  # held for a certificate that is still to come, and one more answer

Item = tuple[Block, Certificate | None]


def parse_checkpoint(text: str) -> tuple[int, bytes] | None:
    """`checkpoint` of [node] as (height, digest); None if it is empty."""
    number, colon, digest = text.partition(":0x")
    return (int(number), bytes.fromhex(digest)) if colon else None


class ShortAnswer(InvalidBlock):
    """The answer does not reach up to the block that is known to lead to the checkpoint: perhaps too much was asked."""


class CheckpointContradicted(Exception):
    """What is final here does not lead to the trusted checkpoint: one of them is wrong, and the node must not go on."""

    def __init__(self, number: int) -> None:
        super().__init__(f"the chain of this node, up to block {number}, does not lead to the trusted checkpoint")


class Importer:
    """
    Args:
        checkpoint: (height, digest) of a block that the operator knows to be final.
        finalised: called with blocks that became final.
        done: called when an answer is worked through: (what was wrong with it, blocks held for a certificate, now).
    """

    def __init__(
        self,
        chain: Chain,
        workshop: Workshop,
        checkpoint: tuple[int, bytes] | None,
        finalised: Callable[[list[FinalisedBlock], float], None],
        done: Callable[[Exception | None, int, float], None],
    ) -> None:
        self._chain, self._workshop, self._finalised, self._done = chain, workshop, finalised, done
        self._run: list[Block] = []  # above our head, in order
        self._proof: Certificate | None = None  # of the run, once it is here
        self._rest: deque[Item] = deque()  # of the answer in hand
        self._pins: dict[int, bytes] = {}  # digests of heights, without a gap, that lead to the checkpoint
        self._lowest = 0  # of them
        if checkpoint is not None:
            number, digest = checkpoint
            if number > chain.finalised.number:
                self._pins[number], self._lowest = digest, number
            elif chain.head(number).digest != digest:
                raise CheckpointContradicted(number)

    @property
    def anchor(self) -> int | None:
        """The lowest height of a block that is known to lead to the checkpoint."""
        return self._lowest if self._pins else None

    def forget(self) -> None:
        """What is held for a certificate will not be continued."""
        self._run = []

    def take(self, answer: wire.Blocks, now: float) -> None:
        """Work through an answer; `done` is called in the end, perhaps at once."""
        try:
            items = deque(_decode(answer))
            if self._pins and self._lowest > self._chain.finalised.number + 1:  # Sync.anchoring
                self._pin([block for block, _ in items])
                self._done(None, 0, now)
                return
        except (ChainError, wire.InvalidMessage) as error:
            self._fail(error, now)
            return
        self._prune()
        if sum(len(block.payload) for block in self._run) > UNPROVEN_BYTES_MAX:
            self._fail(wire.InvalidMessage("too many blocks without a certificate"), now)
            return
        self._rest = items
        self._advance(now)

    def _pin(self, blocks: list[Block]) -> None:
        """Note the digests that lead to the lowest one known: downwards, from block to parent."""
        by_digest = {block.digest: block for block in blocks}
        head, block = self._chain.finalised, by_digest.get(self._pins[self._lowest])
        if block is None:
            raise ShortAnswer(self._pins[self._lowest], "is final by the trusted checkpoint, but not sent")
        while block is not None and self._lowest > head.number:
            self._chain.check_identity(block)
            if block.height != self._lowest:
                raise InvalidBlock(block.digest, "height", self._lowest, block.height)
            self._lowest -= 1
            self._pins[self._lowest] = block.parent
            block = by_digest.get(block.parent)
        if self._lowest == head.number:
            if self._pins.pop(head.number) != head.digest:
                raise CheckpointContradicted(head.number)
            self._lowest += 1

    # ---- runs -------------------------------------------------------------------------------------------------------
    def _advance(self, now: float) -> None:
        """Go on with the answer in hand until there is something to wait for."""
        try:
            while self._proof is not None or self._rest:
                if self._proof is None:
                    self._take_next(*self._rest.popleft())
                elif (job := self._next_job()) is not None:
                    self._workshop.submit(partial(_outcome, job), self._executed)
                    return
                else:
                    self._make_final(self._proof, now)
        except (ChainError, wire.InvalidMessage) as error:
            self._fail(error, now)
        else:
            self._done(None, len(self._run), now)

    def _take_next(self, block: Block, proof: Certificate | None) -> None:
        """Cheap, and enough that nobody but validators can make us hold blocks that are none."""
        if not self._is_news(block):
            return
        head = self._chain.finalised
        parent = self._run[-1].digest if self._run else head.digest
        if (block.height, block.parent) != (head.number + 1 + len(self._run), parent):
            raise wire.InvalidMessage("not the blocks that were asked for")
        self._chain.check_seal(block)
        self._run.append(block)
        if proof is not None:
            epoch, network = self._chain.epochs[proof.epoch], self._chain.network
            certificate.verify_finalisation(
                proof, block, epoch.validators, epoch.quorum, network.chain_id, self._chain.genesis_digest
            )
            self._proof = proof

    def _next_job(self) -> Callable[[], Executed] | None:
        """The job of executing the first block of the proven run that was not executed here yet."""
        self._prune()
        for block in self._run:
            if self._pins.get(block.height, block.digest) != block.digest and not self._chain.epoch_ended(block.parent):
                raise InvalidBlock(block.digest, "does not lead to the trusted checkpoint")
            job = self._chain.adding(block, None)
            if job is not None:
                return job
        return None

    def _prune(self) -> None:
        """Own consensus may have moved our head since the run was begun, but only while we waited."""
        self._run = [block for block in self._run if self._is_news(block)]

    def _is_news(self, block: Block) -> bool:
        """Not if this node's own part in consensus was faster, nor if the block's epoch has ended meanwhile."""
        return block.height > self._chain.finalised.number and block.epoch >= self._chain.epochs.present.number

    def _executed(self, outcome: Executed | InvalidBlock, now: float) -> None:
        if isinstance(outcome, InvalidBlock):
            self._fail(outcome, now)
        else:
            self._chain.keep(outcome)
            self._advance(now)

    def _make_final(self, proof: Certificate, now: float) -> None:
        run, self._run, self._proof = self._run, [], None
        if run:
            finalised = self._chain.finalise(run, proof)
            for block in finalised:
                self._pins.pop(block.head.number, None)
            self._lowest = max(self._lowest, self._chain.finalised.number + 1)
            self._finalised(finalised, now)

    def _fail(self, error: Exception, now: float) -> None:
        self._run, self._proof = [], None
        self._rest.clear()
        self._done(error, 0, now)


def _decode(answer: wire.Blocks) -> list[Item]:
    return [
        (messages.decode_block(raw), None if proof is None else messages.decode_certificate(proof))
        for raw, proof in answer.items
    ]


def _outcome(job: Callable[[], Executed]) -> Executed | InvalidBlock:
    try:
        return job()
    except InvalidBlock as error:
        return error
