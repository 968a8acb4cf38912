from __future__ import annotations

from dataclasses import replace

import pytest

from chain import consensus
from chain.consensus_types import CERTIFICATES_MAX
from chain.types import Block, Vote
from tests.chain.consensus_kit import (
    DELTA_S,
    EPOCH,
    FINALISE,
    GENESIS,
    NO_DIGEST,
    NOTARISE,
    TIMEOUT,
    Node,
    certificate,
    make_block,
    vote,
)

B1 = make_block(1, GENESIS, b"\x01")
B2 = make_block(2, B1, b"\x02")
RIVAL = make_block(1, GENESIS, b"\x07")


# ---- proposing ------------------------------------------------------------------------------------------------------
def test_only_the_views_proposer_builds_and_only_when_there_is_work() -> None:
    assert not Node(me=1).all(consensus.BuildBlock)
    assert Node(me=1).feed(consensus.WorkChanged(True)).all(consensus.BuildBlock) == [
        consensus.BuildBlock(1, GENESIS, empty=False)
    ]
    assert not Node(me=0).feed(consensus.WorkChanged(True)).all(consensus.BuildBlock)


def test_a_proposers_vote_and_body_are_persisted_before_the_proposal_leaves() -> None:
    node = Node(me=1).feed(consensus.WorkChanged(True)).feed(consensus.Built(1, B1))
    persist, send = node.effects[:2]
    assert isinstance(persist, consensus.PersistVote)
    assert (persist.vote.kind, persist.block) == (NOTARISE, B1)
    assert isinstance(send, consensus.Send)
    assert isinstance(send.message, consensus.Proposal)
    assert (send.to, send.message.block) == (None, B1)


def test_a_proposer_without_transactions_is_asked_again_only_when_there_is_work_again() -> None:
    node = Node(me=1).feed(consensus.WorkChanged(True)).feed(consensus.Built(1, None))
    assert not node.machine.pending
    assert not node.all(consensus.BuildBlock)
    assert node.feed(consensus.WorkChanged(True)).all(consensus.BuildBlock)


def test_an_unfinished_tip_gets_an_empty_block_after_one_delay() -> None:
    node = Node(me=2).accept(B1).tell(certificate(1, NOTARISE, B1.digest))
    assert (node.machine.view, node.machine.tip) == (2, B1)
    assert not node.all(consensus.BuildBlock)
    assert node.all(consensus.WakeAt) == [consensus.WakeAt(node.now + DELTA_S)]
    assert node.tick(DELTA_S).all(consensus.BuildBlock) == [consensus.BuildBlock(2, B1, empty=True)]
    assert not node.feed(consensus.Built(2, None)).all(consensus.BuildBlock)
    assert not node.tick(DELTA_S).all(consensus.BuildBlock)


def test_a_proposal_shows_its_parents_certificate_and_every_skipped_view() -> None:
    node = Node(me=1).feed(consensus.WorkChanged(True))
    skipped = [certificate(view, TIMEOUT) for view in range(1, 101)]
    node.tell(*skipped)
    assert node.machine.view == 101
    block = make_block(101, GENESIS, b"\x01")
    node.feed(consensus.Built(101, block))
    [proposal] = node.sent(consensus.Proposal)
    earlier = [each for message in node.sent(consensus.Certificates) for each in message.certificates]
    assert [*earlier, *proposal.certificates] == skipped
    assert len(proposal.certificates) == CERTIFICATES_MAX


def test_a_proposal_on_the_final_block_shows_why_that_is_final() -> None:
    node = Node(me=2).accept(B1).tell(certificate(1, FINALISE, B1.digest)).feed(consensus.WorkChanged(True))
    node.feed(consensus.Built(2, B2))
    assert node.sent(consensus.Proposal)[0].certificates == (certificate(1, FINALISE, B1.digest),)


# ---- voting ---------------------------------------------------------------------------------------------------------
def test_a_replica_executes_a_proposal_then_votes_for_it() -> None:
    node = Node().propose(B1)
    assert node.cast == []
    node.feed(consensus.Checked(B1.digest, True))
    assert node.cast == [(NOTARISE, 1)]
    assert node.all(consensus.PersistVote)[0].block == B1
    assert node.sent(consensus.VoteMessage)[0].vote.digest == B1.digest


def test_only_the_first_proposal_of_a_view_is_executed() -> None:
    node = Node().propose(B1).propose(RIVAL)
    assert not node.all(consensus.CheckBlock)
    assert node.machine.known(RIVAL.digest) is None
    assert not node.feed(consensus.Checked(RIVAL.digest, True)).cast


def test_a_proposal_needs_the_views_proposer_and_an_own_vote_for_this_block() -> None:
    for bad in (
        vote(1, NOTARISE, 2, B1.digest),
        vote(1, FINALISE, 1, B1.digest),
        vote(2, NOTARISE, 1, B1.digest),
        vote(1, NOTARISE, 1, RIVAL.digest),
    ):
        assert not Node().receive(1, consensus.Proposal(B1, bad, ())).all(consensus.CheckBlock)


def test_a_proposal_over_views_that_are_not_proven_skipped_gets_no_vote() -> None:
    late = make_block(3, GENESIS, b"\x01")
    assert not Node().propose(late, certificate(2, TIMEOUT)).all(consensus.CheckBlock)
    assert Node().propose(late, certificate(1, TIMEOUT), certificate(2, TIMEOUT)).all(consensus.CheckBlock)


def test_a_proposal_on_a_block_that_is_not_notarised_gets_no_vote() -> None:
    node = Node().accept(B1).tell(certificate(1, TIMEOUT))
    assert not node.propose(B2).all(consensus.CheckBlock)
    assert node.tell(certificate(1, NOTARISE, B1.digest)).all(consensus.CheckBlock) == [consensus.CheckBlock(B2, False)]


def test_a_proposal_of_the_wrong_height_gets_no_vote() -> None:
    for height in (0, 1, 7):
        block = Block(b"x" * 32, EPOCH, 1, GENESIS.digest, height, b"")
        assert bool(Node().propose(block).all(consensus.CheckBlock)) == (height == 1)


def test_a_finalise_vote_carries_the_notarisation() -> None:
    node = Node().accept(B1)
    node.receive(1, consensus.VoteMessage(vote(1, NOTARISE, 2, B1.digest)))
    assert node.cast == [(FINALISE, 1)]
    message = node.sent(consensus.VoteMessage)[0]
    assert message.certificate == certificate(1, NOTARISE, B1.digest, voters=(0, 1, 2))


def test_who_timed_out_does_not_finalise_but_still_relays_the_notarisation() -> None:
    node = Node().propose(B1).tick(3 * DELTA_S)
    assert node.cast == [(TIMEOUT, 1)]
    node.feed(consensus.Checked(B1.digest, True))
    assert node.cast == [(NOTARISE, 1)]
    node.tell(certificate(1, NOTARISE, B1.digest))
    assert node.cast == []
    assert node.sent(consensus.Certificates)[0].certificates == (certificate(1, NOTARISE, B1.digest),)


def test_who_voted_to_finalise_never_times_that_view_out() -> None:
    votes = [vote(1, NOTARISE, 0, B1.digest), vote(1, FINALISE, 0, B1.digest)]
    node = Node(votes=votes, blocks=[B1])
    for voter in (1, 2):
        node.receive(voter, consensus.VoteMessage(vote(1, TIMEOUT, voter)))
        assert node.cast == []
    assert node.tick(3 * DELTA_S).cast == []


def test_a_restarted_validator_repeats_its_votes_and_casts_no_others() -> None:
    node = Node(votes=[vote(1, NOTARISE, 0, B1.digest)], blocks=[B1])
    assert [message.vote for message in node.sent(consensus.VoteMessage)] == [vote(1, NOTARISE, 0, B1.digest)]
    assert node.machine.known(B1.digest) == B1
    assert not node.propose(RIVAL).all(consensus.CheckBlock)
    forgetful = Node().propose(RIVAL).feed(consensus.Checked(RIVAL.digest, True))
    assert forgetful.cast == [(NOTARISE, 1)]


def test_a_restarted_proposer_proposes_the_same_block_again() -> None:
    node = Node(me=1, votes=[vote(1, NOTARISE, 1, B1.digest)], blocks=[B1])
    assert [proposal.block for proposal in node.sent(consensus.Proposal)] == [B1]
    assert not node.feed(consensus.WorkChanged(True)).all(consensus.BuildBlock)


def test_votes_of_another_epoch_or_key_or_below_the_final_view_do_not_bind() -> None:
    old = Vote(EPOCH - 1, 9, TIMEOUT, NO_DIGEST, 0, b"")
    node = Node(votes=[old, vote(9, TIMEOUT, 2), vote(1, TIMEOUT, 0)], final=B1)
    assert node.machine.view == 2


# ---- finality -------------------------------------------------------------------------------------------------------
def test_a_quorum_of_finalise_votes_makes_the_block_and_its_ancestors_final() -> None:
    node = Node().accept(B1).tell(certificate(1, NOTARISE, B1.digest)).accept(B2)
    node.tell(certificate(2, NOTARISE, B2.digest))
    for voter in (1, 2):
        node.receive(voter, consensus.VoteMessage(vote(2, FINALISE, voter, B2.digest)))
    [finalised] = node.all(consensus.Finalised)
    assert finalised.blocks == (B1, B2)
    assert finalised.certificate == certificate(2, FINALISE, B2.digest, voters=(0, 1, 2))
    assert (node.machine.final, node.machine.tip, node.machine.view) == (B2, B2, 3)
    assert dict(node.machine.blocks) == {B2.digest: B2}


def test_one_validator_alone_finalises_at_once() -> None:
    node = Node(me=0, validators=1).feed(consensus.WorkChanged(True)).feed(consensus.Built(1, B1))
    assert [type(effect) for effect in node.effects[:4]] == [
        consensus.PersistVote, consensus.PersistCertificate, consensus.PersistVote, consensus.Finalised,
    ]  # fmt: skip
    assert not node.all(consensus.Send)
    restarted = Node(me=0, validators=1, votes=[vote(1, NOTARISE, 0, B1.digest)], blocks=[B1])
    assert restarted.all(consensus.CheckBlock) == [consensus.CheckBlock(B1, True)]
    assert restarted.feed(consensus.Checked(B1.digest, True)).machine.final == B1


def test_a_raised_quorum_waits_for_everybody_and_a_lowered_one_is_refused() -> None:
    node = Node(quorum=4).accept(B1)
    node.receive(2, consensus.VoteMessage(vote(1, NOTARISE, 2, B1.digest)))
    assert node.machine.view == 1
    node.receive(3, consensus.VoteMessage(vote(1, NOTARISE, 3, B1.digest)))
    assert node.machine.view == 2
    for quorum in (2, 5):
        with pytest.raises(ValueError, match="3 is the least"):
            Node(quorum=quorum)


def test_an_index_outside_the_list_is_refused() -> None:
    with pytest.raises(ValueError, match="validator 4 of 4"):
        Node(me=4)


def test_a_certified_block_beside_the_final_one_stops_the_node() -> None:
    node = Node().accept(B1).tell(certificate(1, FINALISE, B1.digest))
    fork = make_block(2, GENESIS, b"\x08")
    node.tell(certificate(2, FINALISE, fork.digest))
    with pytest.raises(consensus.ForkedFinality, match="does not descend"):
        node.receive(1, consensus.HaveBlock(fork))


def test_a_new_epoch_begins_at_view_1_above_the_old_ones_final_block() -> None:
    last = Block(b"l" * 32, EPOCH - 1, 77, bytes(32), 30, b"")
    node = Node(me=1, final=last, final_certificate=certificate(77, FINALISE, last.digest))
    assert (node.machine.view, node.machine.final_view) == (1, 0)
    node.feed(consensus.WorkChanged(True))
    assert node.all(consensus.BuildBlock) == [consensus.BuildBlock(1, last, empty=False)]
    old = replace(certificate(78, TIMEOUT), epoch=EPOCH - 1)
    assert node.tell(old).machine.view == 1
    assert node.tell(certificate(1, TIMEOUT)).machine.view == 2


def test_a_follower_learns_what_is_final_and_never_votes() -> None:
    node = Node(me=None).propose(B1).tell(certificate(1, FINALISE, B1.digest))
    assert node.feed(consensus.Checked(B1.digest, True)).machine.final == B1
    assert not node.all(consensus.PersistVote)
    node.feed(consensus.WorkChanged(True)).tick(50 * DELTA_S)
    assert node.cast == []
