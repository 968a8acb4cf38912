"""One machine under test, and the votes and certificates that the others would send it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from chain import consensus
from chain.consensus import Simplex
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, Certificate, Vote, VoteKind
from tests.sim.consensus_world import DELTA_S, EPOCH, GENESIS, make_block

__all__ = [
    "DELTA_S", "EPOCH", "FINALISE", "GENESIS", "NOTARISE", "NO_DIGEST", "TIMEOUT", "Node", "certificate", "make_block",
    "vote",
]  # fmt: skip

M = TypeVar("M")


def vote(view: int, kind: VoteKind, voter: int, digest: bytes = NO_DIGEST) -> Vote:
    return Vote(EPOCH, view, kind, digest, voter, bytes([voter]))


def certificate(view: int, kind: VoteKind, digest: bytes = NO_DIGEST, voters: Iterable[int] = (1, 2, 3)) -> Certificate:
    return Certificate(EPOCH, view, kind, digest, tuple((voter, bytes([voter])) for voter in voters))


class Node:
    """Feeds a machine at a settable time; finds things among the effects of the last event."""

    def __init__(self, me: int | None = 0, validators: int = 4, start: bool = True, **options: Any) -> None:
        self.now = 100.0
        final = options.pop("final", GENESIS)
        self.machine = Simplex(validators, me, EPOCH, DELTA_S, final, lambda *_: bytes([me or 0]), **options)
        self.effects: list[consensus.Effect] = []
        if start:
            self.feed(consensus.Started())

    def feed(self, event: consensus.Event) -> Node:
        self.effects = self.machine.step(event, self.now)
        return self

    def receive(self, sender: int | None, message: consensus.Message) -> Node:
        return self.feed(consensus.Received(sender, message))

    def tell(self, *certificates: Certificate) -> Node:
        return self.receive(3, consensus.Certificates(certificates))

    def propose(self, block: Block, *certificates: Certificate) -> Node:
        """The proposer of the block's view proposes it."""
        proposer = self.machine.proposer(block.view)
        proposal = consensus.Proposal(block, vote(block.view, NOTARISE, proposer, block.digest), certificates)
        return self.receive(proposer, proposal)

    def accept(self, block: Block, *certificates: Certificate) -> Node:
        """A proposal that turns out valid."""
        self.propose(block, *certificates)
        assert self.all(consensus.CheckBlock) == [consensus.CheckBlock(block, False)]
        return self.feed(consensus.Checked(block.digest, True))

    def tick(self, after_s: float = 0.0) -> Node:
        self.now += after_s
        return self.feed(consensus.Ticked())

    def all(self, kind: type[M]) -> list[M]:
        return [effect for effect in self.effects if isinstance(effect, kind)]

    def sent(self, kind: type[M]) -> list[M]:
        return [effect.message for effect in self.all(consensus.Send) if isinstance(effect.message, kind)]

    @property
    def cast(self) -> list[tuple[VoteKind, int]]:
        return [(effect.vote.kind, effect.vote.view) for effect in self.all(consensus.PersistVote)]
