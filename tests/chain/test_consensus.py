from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import consensus
from chain.consensus_bodies import BLOCKS_MAX
from chain.consensus_types import CERTIFICATES_ANSWERED_MAX, CERTIFICATES_MAX
from chain.consensus_votes import VIEWS_AHEAD_MAX
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
    assert [type(effect) for effect in node.effects[:3]] == [
        consensus.PersistVote, consensus.PersistVote, consensus.Finalised,
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
    old = consensus.Certificates((certificate(78, TIMEOUT),))
    node = Node(me=1, final=last, final_certificate=certificate(77, FINALISE, last.digest))
    assert (node.machine.view, node.machine.final_view) == (1, 0)
    node.feed(consensus.WorkChanged(True))
    assert node.all(consensus.BuildBlock) == [consensus.BuildBlock(1, last, empty=False)]
    other_epoch = [consensus.Certificates(tuple(
        type(each)(EPOCH - 1, each.view, each.kind, each.digest, each.signatures) for each in old.certificates
    ))]  # fmt: skip
    assert node.receive(2, other_epoch[0]).machine.view == 1


def test_a_follower_learns_what_is_final_and_never_votes() -> None:
    node = Node(me=None).propose(B1).tell(certificate(1, FINALISE, B1.digest))
    assert node.feed(consensus.Checked(B1.digest, True)).machine.final == B1
    assert not node.all(consensus.PersistVote)
    node.feed(consensus.WorkChanged(True)).tick(50 * DELTA_S)
    assert node.cast == []


# ---- timers ---------------------------------------------------------------------------------------------------------
def test_an_idle_machine_sends_a_status_every_ten_delays_and_nothing_else() -> None:
    node = Node()
    assert node.effects == [
        consensus.Send(None, consensus.Status(1, 0, EPOCH)),
        consensus.WakeAt(node.now + 10 * DELTA_S),
    ]
    for _ in range(3):
        node.tick(10 * DELTA_S)
        assert node.effects == [
            consensus.Send(None, consensus.Status(1, 0, EPOCH)),
            consensus.WakeAt(node.now + 10 * DELTA_S),
        ]


def test_an_early_tick_is_answered_with_the_same_alarm() -> None:
    node = Node().tick(DELTA_S)
    assert node.effects == [consensus.WakeAt(node.now + 9 * DELTA_S)]


def test_work_starts_the_view_timer_and_its_end_stops_it() -> None:
    node = Node().feed(consensus.WorkChanged(True))
    assert node.machine.snapshot().deadline == node.now + 3 * DELTA_S
    assert node.feed(consensus.WorkChanged(False)).machine.snapshot().deadline is None
    assert node.tick(3 * DELTA_S).cast == []


def test_an_open_proposal_and_an_unfinished_tip_are_work() -> None:
    node = Node().accept(B1)
    assert node.machine.snapshot().deadline is not None
    assert node.tell(certificate(1, NOTARISE, B1.digest)).machine.snapshot().deadline is not None
    assert node.tell(certificate(1, FINALISE, B1.digest)).machine.snapshot().deadline is None


def test_a_timer_that_fires_repeats_votes_proposal_and_certificates() -> None:
    node = Node(me=2).accept(B1).tell(certificate(1, NOTARISE, B1.digest)).tick(DELTA_S)
    node.feed(consensus.Built(2, B2)).tick(3 * DELTA_S)
    assert node.cast == [(TIMEOUT, 2)]
    assert [message.block for message in node.sent(consensus.Proposal)] == [B2]
    assert {(m.vote.kind, m.vote.view) for m in node.sent(consensus.VoteMessage)} == {(FINALISE, 1), (TIMEOUT, 2)}
    assert node.sent(consensus.Certificates)[0].certificates == (certificate(1, NOTARISE, B1.digest),)
    assert node.tick(6 * DELTA_S).sent(consensus.Proposal)


def test_the_delay_estimate_doubles_up_to_a_bound_and_halves_with_finality() -> None:
    node = Node().feed(consensus.WorkChanged(True))
    for view in range(1, 8):
        node.tick(node.machine.delay_s * 3)
        assert node.cast == [(TIMEOUT, view)]
        node.tell(certificate(view, TIMEOUT))
        assert node.machine.delay_s == pytest.approx(DELTA_S * min(2**view, 16))
    block = make_block(8, GENESIS, b"")
    node.tell(certificate(8, FINALISE, block.digest)).receive(1, consensus.HaveBlock(block))
    node.feed(consensus.Checked(block.digest, True))
    assert node.machine.delay_s == pytest.approx(DELTA_S * 8)


def test_a_view_skipped_by_others_does_not_change_the_estimate() -> None:
    assert Node().tell(certificate(1, TIMEOUT)).machine.delay_s == DELTA_S


def test_one_timeout_vote_wakes_nobody_and_f_plus_1_do() -> None:
    node = Node()
    for _ in range(3):
        node.receive(3, consensus.VoteMessage(vote(1, TIMEOUT, 3)))
        assert (node.cast, node.machine.snapshot().deadline) == ([], None)
    node.receive(2, consensus.VoteMessage(vote(1, TIMEOUT, 2)))
    assert node.cast == [(TIMEOUT, 1)]
    assert node.machine.view == 2
    assert node.sent(consensus.Certificates)[0].certificates == (certificate(1, TIMEOUT, voters=(0, 2, 3)),)


# ---- bodies ---------------------------------------------------------------------------------------------------------
def test_a_missing_body_is_asked_of_one_voter_and_then_of_all() -> None:
    node = Node().tell(certificate(1, NOTARISE, B1.digest))
    assert [e.to for e in node.all(consensus.Send) if isinstance(e.message, consensus.WantBlock)] == [1]
    assert not node.tick(DELTA_S / 2).sent(consensus.WantBlock)
    node.tick(DELTA_S / 2)
    assert [e.to for e in node.all(consensus.Send) if isinstance(e.message, consensus.WantBlock)] == [None]
    assert node.receive(2, consensus.HaveBlock(B1)).all(consensus.CheckBlock) == [consensus.CheckBlock(B1, True)]
    assert node.feed(consensus.Checked(B1.digest, True)).machine.tip == B1


def test_missing_ancestors_are_fetched_newest_first_and_executed_oldest_first() -> None:
    node = Node().tell(certificate(2, FINALISE, B2.digest))
    assert node.sent(consensus.WantBlock) == [consensus.WantBlock(B2.digest)]
    node.receive(1, consensus.HaveBlock(B2))
    assert node.sent(consensus.WantBlock) == [consensus.WantBlock(B1.digest)]
    node.receive(1, consensus.HaveBlock(B1))
    assert node.all(consensus.CheckBlock) == [consensus.CheckBlock(B1, True)]
    node.feed(consensus.Checked(B1.digest, True))
    assert node.all(consensus.CheckBlock) == [consensus.CheckBlock(B2, True)]
    assert node.feed(consensus.Checked(B2.digest, True)).all(consensus.Finalised)[0].blocks == (B1, B2)


def test_bodies_nobody_asked_for_are_ignored() -> None:
    node = Node().receive(3, consensus.HaveBlock(B1))
    assert node.machine.known(B1.digest) is None
    assert node.all(consensus.CheckBlock) == []


def test_bodies_are_served_to_validators_only() -> None:
    node = Node().accept(B1)
    assert node.receive(2, consensus.WantBlock(B1.digest)).all(consensus.Send) == [
        consensus.Send(2, consensus.HaveBlock(B1))
    ]
    assert not node.receive(2, consensus.WantBlock(b"?" * 32)).all(consensus.Send)
    assert not node.receive(None, consensus.WantBlock(B1.digest)).all(consensus.Send)


def test_a_refused_proposal_is_checked_again_only_once_a_quorum_vouches_for_it() -> None:
    node = Node().propose(B1).feed(consensus.Checked(B1.digest, False))
    assert node.cast == []
    for _ in range(3):
        assert not node.tick(DELTA_S).all(consensus.CheckBlock)
    node.tell(certificate(1, NOTARISE, B1.digest))
    assert node.all(consensus.CheckBlock) == [consensus.CheckBlock(B1, True)]
    assert node.feed(consensus.Checked(B1.digest, True)).machine.tip == B1


def test_a_body_refused_though_notarised_is_fetched_from_others_but_not_for_ever() -> None:
    node = Node().tell(certificate(1, NOTARISE, B1.digest)).receive(1, consensus.HaveBlock(B1))
    node.feed(consensus.Checked(B1.digest, False))
    assert node.sent(consensus.WantBlock)
    assert not node.receive(1, consensus.HaveBlock(B1)).all(consensus.CheckBlock)
    assert node.receive(2, consensus.HaveBlock(B1)).all(consensus.CheckBlock)
    node.feed(consensus.Checked(B1.digest, False))
    assert node.machine.snapshot().refused == (B1.digest,)
    for _ in range(5):
        node.tick(DELTA_S)
        assert not node.sent(consensus.WantBlock)
    assert not node.receive(3, consensus.HaveBlock(B1)).all(consensus.CheckBlock)


def test_at_most_so_many_bodies_are_kept() -> None:
    node = Node(me=0)
    for view in range(1, 3 * BLOCKS_MAX):
        if node.machine.proposer(view) != 0:
            node.accept(make_block(view, GENESIS, b""))
        node.tell(certificate(view, TIMEOUT))
    assert len(node.machine.blocks) <= BLOCKS_MAX
    assert GENESIS.digest in node.machine.blocks


# ---- catching up ----------------------------------------------------------------------------------------------------
def test_who_is_behind_is_answered_with_certificates_once_a_delay() -> None:
    node = Node().accept(B1).tell(certificate(1, FINALISE, B1.digest), certificate(2, TIMEOUT))
    behind = consensus.Status(1, 0, EPOCH)
    node.receive(2, behind)
    assert node.all(consensus.Send) == [
        consensus.Send(
            2, consensus.Certificates((certificate(1, FINALISE, B1.digest), certificate(2, TIMEOUT)))
        )
    ]
    assert not node.receive(2, behind).all(consensus.Send)
    node.now += DELTA_S
    assert node.receive(2, behind).all(consensus.Send)
    for fine in (consensus.Status(3, 1, EPOCH), consensus.Status(9, 9, EPOCH), consensus.Status(1, 0, EPOCH + 1)):
        assert not node.receive(3, fine).all(consensus.Send)


def test_an_answer_is_bounded_and_holds_the_oldest_and_the_newest() -> None:
    node = Node()
    for first in range(1, 1001, 50):
        node.tell(*(certificate(view, TIMEOUT) for view in range(first, first + 50)))
    node.receive(2, consensus.Status(5, 0, EPOCH))
    messages = node.sent(consensus.Certificates)
    views = [each.view for message in messages for each in message.certificates]
    assert len(views) == CERTIFICATES_ANSWERED_MAX
    assert all(len(message.certificates) <= CERTIFICATES_MAX for message in messages)
    assert (views[0], views[-1]) == (5, 1000)
    assert node.machine.status() == consensus.Status(1001, 0, EPOCH)


def test_a_status_names_the_first_view_that_cannot_be_proven_ended() -> None:
    node = Node().tell(certificate(1, TIMEOUT), certificate(4, TIMEOUT))
    assert node.machine.view == 5
    assert node.sent(consensus.Status) == [consensus.Status(2, 0, EPOCH)]


def test_a_new_connection_is_told_the_status_and_the_open_votes() -> None:
    node = Node().accept(B1).feed(consensus.Connected(2))
    assert [effect.to for effect in node.all(consensus.Send)] == [2, 2]
    assert node.sent(consensus.Status) == [consensus.Status(1, 0, EPOCH)]
    assert node.sent(consensus.VoteMessage)[0].vote.digest == B1.digest


def test_long_after_a_blackout_the_votes_of_skipped_views_prove_them_again() -> None:
    views = range(1, 401)
    nodes = [Node(me=me, votes=[vote(view, TIMEOUT, me) for view in views], start=False) for me in range(4)]
    for node in nodes:
        node.feed(consensus.Started())
    for _ in range(8):  # each round everybody hears everybody's repetition, which is bounded
        said = [(i, effect) for i, node in enumerate(nodes) for effect in node.all(consensus.Send)]
        for sender, effect in said:
            for receiver, node in enumerate(nodes):
                if receiver != sender and effect.to in (None, receiver):
                    node.receive(sender, effect.message)
        for node in nodes:
            node.feed(consensus.WorkChanged(True))
            node.tick(1000.0)
    assert all(node.machine.status().view > 400 for node in nodes)


# ---- those who lie --------------------------------------------------------------------------------------------------
def test_two_conflicting_votes_are_evidence_and_the_second_does_not_count() -> None:
    node = Node(me=0).accept(B1)
    node.receive(3, consensus.VoteMessage(vote(1, NOTARISE, 3, RIVAL.digest)))
    node.receive(3, consensus.VoteMessage(vote(1, NOTARISE, 3, B1.digest)))
    assert node.machine.view == 1
    pair = (vote(1, NOTARISE, 3, RIVAL.digest), vote(1, NOTARISE, 3, B1.digest))
    assert node.machine.evidence == (pair,)
    assert node.machine.snapshot().evidence == (pair,)


def test_finalising_and_timing_out_one_view_is_evidence_too() -> None:
    for kinds in ((FINALISE, TIMEOUT), (TIMEOUT, FINALISE)):
        node = Node()
        for kind in kinds:
            node.receive(3, consensus.VoteMessage(vote(1, kind, 3, NO_DIGEST if kind == TIMEOUT else B1.digest)))
        assert {each.kind for each in node.machine.evidence[0]} == {FINALISE, TIMEOUT}


def test_the_snapshot_names_who_has_not_voted() -> None:
    node = Node()
    assert node.machine.snapshot().waiting_for == ()
    node.accept(B1)
    snapshot = node.machine.snapshot()
    assert (snapshot.view, snapshot.proposer, snapshot.waiting_for) == (1, 1, (2, 3))


def test_votes_far_ahead_are_not_kept() -> None:
    node = Node()
    for view in range(1, 1000):
        node.receive(3, consensus.VoteMessage(vote(view, TIMEOUT, 3)))
    assert len(node.machine._votes._counted) == 1 + VIEWS_AHEAD_MAX


LIAR = 3
views = st.one_of(st.integers(1, 12), st.integers(0, 2**53 - 1))
blocks = st.builds(
    Block,
    st.sampled_from([B1.digest, B2.digest, RIVAL.digest, b"q" * 32]),
    st.sampled_from([EPOCH, 0, 9]),
    views,
    st.sampled_from([GENESIS.digest, B1.digest, b"q" * 32]),
    st.integers(0, 2**53 - 1),
    st.binary(max_size=4),
)
lies = st.builds(
    Vote,
    st.sampled_from([EPOCH, 0, 9]),
    views,
    st.sampled_from([NOTARISE, FINALISE, TIMEOUT]),
    st.sampled_from([NO_DIGEST, B1.digest, RIVAL.digest]),
    st.just(LIAR),
    st.just(b""),
)
messages = st.one_of(
    st.builds(consensus.Proposal, blocks, lies, st.just(())),
    st.builds(consensus.VoteMessage, lies),
    st.builds(consensus.Status, views, views, st.sampled_from([EPOCH, 0])),
    st.builds(consensus.WantBlock, st.sampled_from([B1.digest, GENESIS.digest, b"?" * 32])),
    st.builds(consensus.HaveBlock, blocks),
    st.just(consensus.Certificates(())),
    st.just("an unknown kind"),
)
happenings = st.one_of(
    st.builds(consensus.Received, st.sampled_from([LIAR, None]), messages),
    st.builds(consensus.Checked, st.sampled_from([B1.digest, b"q" * 32]), st.booleans()),
    st.builds(consensus.Built, st.integers(0, 5), st.none()),
    st.builds(consensus.Connected, st.integers(0, 3)),
    st.just(consensus.Ticked()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(happenings, max_size=40))
def test_one_liar_neither_breaks_nor_moves_an_honest_machine(events: list[consensus.Event]) -> None:
    node = Node(me=0)
    node.accept(B1)
    cast = {(NOTARISE, 1)}
    for event in events:
        node.now += DELTA_S / 3
        node.feed(event)
        for new in node.cast:
            assert new not in cast
            cast.add(new)
        assert not node.all(consensus.Finalised)
        assert all(effect.time > node.now for effect in node.all(consensus.WakeAt))
    assert node.machine.view == 1
    assert cast <= {(NOTARISE, 1), (TIMEOUT, 1)}
    assert len(node.machine.blocks) <= 2
    assert all(first.voter == LIAR for first, _ in node.machine.evidence)
