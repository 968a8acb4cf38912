from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import consensus
from chain.consensus_bodies import BLOCKS_MAX, Bodies
from chain.consensus_timer import DELAY_FACTOR_MAX
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


# ---- timers ---------------------------------------------------------------------------------------------------------
def test_an_idle_machine_sends_a_status_every_ten_delays_and_nothing_else() -> None:
    node = Node()
    assert node.effects == [
        consensus.Send(None, consensus.Status(1, 0, EPOCH, 1)),
        consensus.WakeAt(node.now + 10 * DELTA_S),
    ]
    for _ in range(3):
        node.tick(10 * DELTA_S)
        assert node.effects == [
            consensus.Send(None, consensus.Status(1, 0, EPOCH, 1)),
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
        assert node.machine.delay_s == pytest.approx(DELTA_S * min(2**view, DELAY_FACTOR_MAX))
    block = make_block(8, GENESIS, b"")
    node.tell(certificate(8, FINALISE, block.digest)).receive(1, consensus.HaveBlock(block))
    node.feed(consensus.Checked(block.digest, True))
    assert node.machine.delay_s == pytest.approx(DELTA_S * DELAY_FACTOR_MAX / 2)


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


def test_of_too_many_bodies_those_farthest_from_the_final_block_go() -> None:
    bodies = Bodies(GENESIS, (), sources_max=2)
    proposals = [make_block(view, GENESIS, b"") for view in range(1, BLOCKS_MAX + 20)]
    for block in [*proposals[::2], *proposals[1::2]]:
        bodies.add(block, 1)
    notarised = proposals[-1]
    bodies.evict({notarised.digest})
    assert set(bodies.blocks) == {block.digest for block in (GENESIS, *proposals[: BLOCKS_MAX - 2], notarised)}


def test_a_certified_block_far_above_the_final_one_is_reached_however_many_bodies_that_takes() -> None:
    chain = [make_block(1, GENESIS, b"")]
    while len(chain) < 2 * BLOCKS_MAX:
        chain.append(make_block(len(chain) + 1, chain[-1], b""))
    bodies = {block.digest: block for block in chain}
    node = Node().tell(certificate(len(chain), FINALISE, chain[-1].digest))
    for _ in chain:
        (want,) = node.sent(consensus.WantBlock)
        node.receive(1, consensus.HaveBlock(bodies[want.digest]))
    for block in chain:
        assert node.all(consensus.CheckBlock) == [consensus.CheckBlock(block, True)]
        node.feed(consensus.Checked(block.digest, True))
    assert node.all(consensus.Finalised)[0].blocks == tuple(chain)
    assert set(node.machine.blocks) == {chain[-1].digest}


# ---- catching up ----------------------------------------------------------------------------------------------------
def test_who_is_behind_is_answered_with_certificates_once_a_delay() -> None:
    node = Node().accept(B1).tell(certificate(1, FINALISE, B1.digest), certificate(2, TIMEOUT))
    behind = consensus.Status(1, 0, EPOCH, 1)
    node.receive(2, behind)
    assert node.all(consensus.Send) == [
        consensus.Send(2, consensus.Certificates((certificate(1, FINALISE, B1.digest), certificate(2, TIMEOUT))))
    ]
    assert not node.receive(2, behind).all(consensus.Send)
    node.now += DELTA_S
    assert node.receive(2, behind).all(consensus.Send)
    for view, final_view, epoch in ((3, 1, EPOCH), (9, 9, EPOCH), (1, 0, EPOCH + 1)):
        fine = consensus.Status(view, final_view, epoch, view)
        assert not node.receive(3, fine).all(consensus.Send)


def test_an_answer_is_bounded_and_holds_the_oldest_and_the_newest() -> None:
    node = Node()
    for first in range(1, 1001, 50):
        node.tell(*(certificate(view, TIMEOUT) for view in range(first, first + 50)))
    node.receive(2, consensus.Status(5, 0, EPOCH, 5))
    messages = node.sent(consensus.Certificates)
    views = [each.view for message in messages for each in message.certificates]
    assert len(views) == CERTIFICATES_ANSWERED_MAX
    assert all(len(message.certificates) <= CERTIFICATES_MAX for message in messages)
    assert (views[0], views[-1]) == (5, 1000)
    assert node.machine.status() == consensus.Status(1001, 0, EPOCH, 1001)


def test_a_status_names_the_first_view_that_cannot_be_proven_ended() -> None:
    node = Node().tell(certificate(1, TIMEOUT), certificate(4, TIMEOUT))
    assert node.machine.view == 5
    assert node.sent(consensus.Status) == [consensus.Status(2, 0, EPOCH, 5)]


def test_a_new_connection_is_told_the_status_and_the_open_votes() -> None:
    node = Node().accept(B1).feed(consensus.Connected(2))
    assert [effect.to for effect in node.all(consensus.Send)] == [2, 2]
    assert node.sent(consensus.Status) == [consensus.Status(1, 0, EPOCH, 1)]
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
def test_one_liar_neither_breaks_an_honest_machine_nor_makes_a_block_final(events: list[consensus.Event]) -> None:
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
    # With the proposer's vote and ours the liar's completes a notarisation of B1, but nothing beyond that.
    assert node.machine.view <= 2
    assert cast <= {(NOTARISE, 1), (TIMEOUT, 1), (FINALISE, 1), (TIMEOUT, 2)}
    assert not {(TIMEOUT, 1), (FINALISE, 1)} <= cast
    assert len(node.machine.blocks) <= 2
    assert all(first.voter == LIAR for first, _ in node.machine.evidence)


# ---- what is lost and what is kept ----------------------------------------------------------------------------------
def test_a_certificate_is_kept_before_the_votes_that_rest_on_it() -> None:
    node = Node(me=2).accept(B1).tell(certificate(1, NOTARISE, B1.digest))
    kinds = [type(effect) for effect in node.effects]
    assert kinds.index(consensus.PersistCertificate) < kinds.index(consensus.PersistVote)
    assert node.all(consensus.PersistCertificate) == [consensus.PersistCertificate(certificate(1, NOTARISE, B1.digest))]
    assert not node.tell(certificate(1, NOTARISE, B1.digest, voters=(0, 1, 2))).all(consensus.PersistCertificate)


def test_kept_certificates_lead_a_restarted_node_to_the_view_that_it_was_in() -> None:
    kept = [certificate(1, NOTARISE, B1.digest), certificate(2, TIMEOUT)]
    node = Node(me=0, blocks=[B1], certificates=kept)
    assert node.machine.view == 3
    assert {each for message in node.sent(consensus.Certificates) for each in message.certificates} >= set(kept)


def forgetful(**options: object) -> Node:
    """A validator whose vote log is lost, in a network that has come as far as view 7."""
    node = Node(me=0, vote_floor=None, **options)
    return node.tell(*(certificate(view, TIMEOUT) for view in range(1, 7)))


def test_a_validator_without_its_log_votes_only_above_the_view_that_a_quorum_of_others_are_in() -> None:
    node = forgetful()
    for other, entered in ((1, 6), (2, 7)):
        node.receive(other, consensus.Status(7, 0, EPOCH, entered)).feed(consensus.WorkChanged(True)).tick(9 * DELTA_S)
        assert node.cast == []
    assert not node.machine.remembers
    node.receive(3, consensus.Status(7, 0, EPOCH, 5))
    assert node.all(consensus.PersistFloor) == [consensus.PersistFloor(8)]
    for view in (7, 8):
        assert node.tick(99 * DELTA_S).cast == []
        node.tell(certificate(view, TIMEOUT))
    assert node.tick(99 * DELTA_S).cast == [(TIMEOUT, 9)]


def test_a_claim_that_no_certificate_supports_neither_counts_nor_raises_the_floor() -> None:
    node = forgetful()
    for other in (1, 2):
        node.receive(other, consensus.Status(7, 0, EPOCH, 7))
    node.receive(3, consensus.Status(10**9, 0, EPOCH, 10**9))
    assert not node.machine.remembers
    node.tell(certificate(8, TIMEOUT)).receive(3, consensus.Status(9, 0, EPOCH, 9))
    assert not node.machine.remembers  # its highest claim stands


def test_a_forgetful_validator_finalises_nothing_below_its_floor() -> None:
    node = Node(me=0, blocks=[B1], vote_floor=5)
    assert node.tell(certificate(1, NOTARISE, B1.digest)).cast == []


def test_in_a_new_network_nothing_can_be_lost() -> None:
    node = Node(me=0, vote_floor=None)
    for other in (1, 2, 3):
        node.receive(other, consensus.Status(1, 0, EPOCH, 1))
    assert node.all(consensus.PersistFloor) == [consensus.PersistFloor(0)]


def test_where_every_validator_is_needed_a_lost_log_does_no_harm() -> None:
    node = Node(me=0, validators=3, vote_floor=None)
    assert node.machine.remembers
    assert not node.receive(1, consensus.Status(1, 0, EPOCH, 1)).all(consensus.PersistFloor)
    assert node.receive(2, consensus.Status(1, 0, EPOCH, 1)).all(consensus.PersistFloor) == [consensus.PersistFloor(0)]


def test_one_validator_alone_never_takes_its_log_for_whole() -> None:
    """It may be passing through an epoch of old, in which it was alone."""
    node = Node(me=0, validators=1, vote_floor=None)
    assert node.machine.remembers
    assert not node.effects or not node.all(consensus.PersistFloor)
