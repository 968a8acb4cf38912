"""What a validator says, as lists of messages within their limits; to whom, the machine decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from chain.consensus_types import CERTIFICATES_MAX, Certificates, Message, Proposal, VoteMessage
from chain.consensus_views import Views
from chain.types import FINALISE, NOTARISE, Block, Certificate, Vote, VoteKind

VOTES_REPEATED_MAX: Final = 256  # at once


def certificates(known: Sequence[Certificate]) -> list[Message]:
    starts = range(0, len(known), CERTIFICATES_MAX)
    return [Certificates(tuple(known[start : start + CERTIFICATES_MAX])) for start in starts]


def proposal(block: Block, vote: Vote, views: Views) -> list[Message]:
    """The block and why it may stand in its view; the newest reasons come with it, and lead a receiver there."""
    reasons = views.reasons(block)
    return [*certificates(reasons[:-CERTIFICATES_MAX]), Proposal(block, vote, reasons[-CERTIFICATES_MAX:])]


def finalise_vote(vote: Vote, views: Views) -> VoteMessage:
    return VoteMessage(vote, views.notarised.get(vote.view))


def open_votes(
    mine: Mapping[tuple[int, VoteKind], Vote], own_blocks: Mapping[bytes, Block], views: Views, from_view: int
) -> list[Message]:
    """Own votes from a view on that no certificate has replaced; with the proposal, where it is in `own_blocks`."""
    votes = [
        vote
        for (view, kind), vote in sorted(mine.items(), key=lambda item: item[0][0])
        if view >= from_view and (kind == FINALISE or not views.has_ended(view))
    ]
    half = VOTES_REPEATED_MAX // 2  # the oldest end views that everything waits for, the newest are the present view's
    said: list[Message] = []
    for vote in votes[:half] + votes[half:][-half:]:
        block = own_blocks.get(vote.digest)
        if vote.kind == FINALISE:
            said.append(finalise_vote(vote, views))
        elif vote.kind == NOTARISE and block is not None:
            said += proposal(block, vote, views)
        else:
            said.append(VoteMessage(vote))
    return said
