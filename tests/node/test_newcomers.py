"""Newcomers without coins: how they ask, when a validator calls the faucet for them, whose deposits a server puts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts import bindings as b
from chain.header import address_of_secret
from node import wire
from node.jobs import Jobs, Sponsorship
from node.roles import granter, learning_server, membership, newcomer, worker
from node.roles.common import ChainAdvanced, ManifestReady, SubmissionFailed, Submit, WakeAt
from node.roles.granter import ASKED_MAX, PEER_PAUSE_S, Facts, GranterState, admit, judge
from node.roles.newcomer import GRANT_WAIT_S, PAUSE_MIN_S, AskGrant, GrantAnswered, LookedAround, NewcomerState
from node.roles.sponsors import Sponsoring
from tests.node.jobs_kit import KEY, MANIFEST, OWNER, TERMS, WORKERS, job_of
from tests.node.test_roles import play

ENOUGH = 100
NEWCOMER, SECOND, THIRD = (bytes([n]) * 20 for n in (7, 8, 9))
READY = ManifestReady(1, MANIFEST)
PEERS = ("validator-1", "validator-2")


# ---- asking for a grant ----------------------------------------------------------------------------------------------
def looked(now: float, balance: int = 0, peers: tuple[str, ...] = PEERS) -> LookedAround:
    return LookedAround(now, balance, peers)


def test_a_newcomer_asks_one_validator_after_another_until_one_agrees() -> None:
    state, effects = play(newcomer.step, NewcomerState(ENOUGH), looked(0.0), looked(1.0))
    assert effects == [AskGrant(PEERS[0])]
    state, effects = play(newcomer.step, state, GrantAnswered(PEERS[0], "too many ask at once"))
    assert effects == [AskGrant(PEERS[1])]
    assert state.said == "too many ask at once"
    state, effects = play(newcomer.step, state, GrantAnswered(PEERS[1], None), looked(2.0))
    assert effects == []
    assert state.said == "a validator has agreed"


def test_who_has_coins_asks_nobody() -> None:
    state, effects = play(newcomer.step, NewcomerState(ENOUGH), looked(0.0, balance=ENOUGH))
    assert effects == []
    _, effects = play(newcomer.step, state, looked(1.0, balance=ENOUGH - 1))
    assert effects == [AskGrant(PEERS[0])]


def test_coins_that_were_agreed_to_and_do_not_come_are_asked_for_elsewhere() -> None:
    state, _ = play(newcomer.step, NewcomerState(ENOUGH), looked(0.0), GrantAnswered(PEERS[0], None))
    _, effects = play(newcomer.step, state, looked(GRANT_WAIT_S - 1))
    assert effects == []
    _, effects = play(newcomer.step, state, looked(GRANT_WAIT_S))
    assert effects == [AskGrant(PEERS[1])]


def test_a_newcomer_pauses_longer_each_time_when_nobody_agrees() -> None:
    state, now, pauses = NewcomerState(ENOUGH), 0.0, []
    for _ in range(4):
        state, effects = newcomer.step(state, looked(now))
        assert effects == (AskGrant(PEERS[0]),)
        state, effects = newcomer.step(state, GrantAnswered(PEERS[0], "no"))
        assert effects == (AskGrant(PEERS[1]),)
        state, (wake,) = newcomer.step(state, GrantAnswered(PEERS[1], "no"))
        assert isinstance(wake, WakeAt)
        pauses.append(wake.time - now)
        now = wake.time
    assert pauses == [PAUSE_MIN_S * 2**count for count in range(4)]


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.builds(LookedAround, st.floats(0, 1e6), st.integers(0, 2 * ENOUGH), st.just(PEERS) | st.just(())),
            st.builds(GrantAnswered, st.sampled_from((*PEERS, "stranger")), st.none() | st.text(max_size=300)),
        ),
        max_size=40,
    )
)
def test_whatever_comes_one_validator_is_asked_at_a_time_and_only_without_coins(events: list[newcomer.Event]) -> None:
    state = NewcomerState(ENOUGH)
    for event in events:
        before = state
        state, effects = newcomer.step(state, event)
        asked = [each for each in effects if isinstance(each, AskGrant)]
        assert len(asked) <= 1
        if asked:
            assert state.seen.balance < ENOUGH
            assert before.asking is None or isinstance(event, GrantAnswered)
            assert state.asking == asked[0].peer
        if state.waits and state.asking is None:
            assert state.wake is not None  # never asleep for good


# ---- being asked -----------------------------------------------------------------------------------------------------
FACTS = Facts(
    validates=True, grant=100, balance=0, granted_at=0, period_s=1000, left=5, funds=1000, own_balance=50, own_cost=50,
    pending=0,
)  # fmt: skip


def test_a_request_that_is_in_order_is_granted() -> None:
    assert judge(FACTS, now=5000.0) is None
    assert judge(replace(FACTS, granted_at=4000, balance=99), now=5000.0) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"grant": 0}, "this network has no faucet"),
        ({"validates": False}, "not a validator now"),
        ({"balance": 100}, "the account has coins"),
        ({"granted_at": 4001}, "the account had a grant; another one in 1 s"),
        ({"left": 0}, "no grants are left in this period"),
        ({"funds": 99}, "the faucet is empty"),
        ({"own_balance": 49}, "this validator has no coins for the call"),
        ({"pending": granter.GRANTS_PENDING_MAX}, "too many grants are on their way"),
    ],
)
def test_what_the_faucet_would_refuse_is_refused_before_a_fee_is_paid_for_it(
    change: dict[str, int], reason: str
) -> None:
    assert judge(replace(FACTS, **change), now=5000.0) == reason


def test_a_peer_may_ask_again_after_a_pause() -> None:
    state, reason = admit(GranterState(), "a", 0.0)
    assert reason is None
    state, reason = admit(state, "a", PEER_PAUSE_S - 1)
    assert reason == "asked again within 10 s"
    state, reason = admit(state, "b", PEER_PAUSE_S - 1)
    assert reason is None
    _, reason = admit(state, "a", PEER_PAUSE_S)
    assert reason is None


def test_many_peers_together_are_heard_so_often_and_forgotten_in_time() -> None:
    state, now = GranterState(), 0.0
    for number in range(ASKED_MAX):
        state, reason = admit(state, f"peer {number}", now)
        assert reason is None
    state, reason = admit(state, "one more", now)
    assert reason == "too many ask at once"
    assert len(state.asked_at) == ASKED_MAX
    state, reason = admit(state, "one more", now + granter.ASKED_S)
    assert reason is None
    assert len(state.asked_at) == 1


# ---- the proof -------------------------------------------------------------------------------------------------------
SECRET = bytes(31) + b"\x07"
ACCOUNT = address_of_secret(SECRET)
HERE = (7, b"\x01" * 32, "peer")


def test_a_request_proves_the_key_of_its_account_for_one_network_and_peer() -> None:
    proof = wire.sign_want_grant(SECRET, *HERE)
    assert wire.grant_is_wanted_by(ACCOUNT, proof, *HERE)
    for elsewhere in ((8, *HERE[1:]), (7, b"\x02" * 32, "peer"), (*HERE[:2], "another peer")):
        assert not wire.grant_is_wanted_by(ACCOUNT, proof, *elsewhere)
    assert not wire.grant_is_wanted_by(b"\x01" * 20, proof, *HERE)
    assert not wire.proves(proof, ACCOUNT, *HERE)  # nor is it a hello's proof
    assert not wire.grant_is_wanted_by(ACCOUNT, wire.prove(SECRET, *HERE), *HERE)


@given(st.binary(max_size=100))
def test_no_bytes_are_taken_for_a_request_or_an_answer_or_raise_anything_else(payload: bytes) -> None:
    for kind in (wire.WantGrant, wire.GrantAnswer):
        try:
            decoded = wire.decode(payload, kind)
        except wire.InvalidMessage:
            continue
        assert wire.encode(decoded)
    assert not wire.grant_is_wanted_by(ACCOUNT, payload, *HERE)


# ---- a worker that wants a sponsor -----------------------------------------------------------------------------------
def final(jobs: Jobs, balance: int) -> ChainAdvanced:
    return ChainAdvanced(jobs, 1001.0, balance)


ASKED = Submit("ask sponsor 1", b.ask_sponsor(1))
POOR = worker.WorkerState(NEWCOMER, deposit_stakes=4, sponsors=True, fee=1)
FEES = b.OPENING_GAS


def test_a_worker_that_cannot_pay_the_deposit_asks_for_a_sponsor_and_enrols_when_it_has_one() -> None:
    state, effects = play(worker.step, POOR, final(job_of(), FEES), READY, final(job_of(), FEES))
    assert effects[1:] == [ASKED]
    asked = job_of(b.SponsorWanted(1, NEWCOMER))
    state, effects = play(worker.step, state, final(asked, FEES), final(asked, FEES))
    assert effects == []
    offered = job_of(b.Sponsored(1, NEWCOMER, OWNER, 400), start=asked)
    state, effects = play(worker.step, state, final(offered, FEES), final(offered, FEES))
    assert effects == [membership.Enrol(1, 0)]
    enrolled = job_of(b.Enrolled(1, NEWCOMER, 400), start=offered)
    assert enrolled.by_id[1].sponsorship(NEWCOMER) == Sponsorship(False, OWNER, 0, 400)
    _, effects = play(worker.step, state, final(enrolled, FEES))
    assert effects == []


def test_a_worker_started_anew_goes_on_from_the_chain_alone() -> None:
    asked = job_of(b.SponsorWanted(1, NEWCOMER))
    _, effects = play(worker.step, POOR, final(asked, FEES), READY)
    assert effects[1:] == []
    offered = job_of(b.Sponsored(1, NEWCOMER, OWNER, 400), start=asked)
    _, effects = play(worker.step, POOR, final(offered, FEES), READY)
    assert effects[1:] == [membership.Enrol(1, 0)]


@pytest.mark.parametrize(
    ("state", "balance", "effect"),
    [
        (replace(POOR, sponsors=False), FEES, None),
        (POOR, 0, None),  # not even the fee of asking
        (POOR, FEES + 4 * TERMS.stake - 1, ASKED),
        (POOR, FEES + 4 * TERMS.stake, membership.Enrol(1, 4 * TERMS.stake)),
    ],
)
def test_a_worker_asks_for_a_sponsor_only_where_it_has_to_and_may(
    state: worker.WorkerState, balance: int, effect: object
) -> None:
    _, effects = play(worker.step, state, final(job_of(), balance), READY)
    assert effects[1:] == ([] if effect is None else [effect])


def test_a_worker_asks_again_when_asking_failed_or_the_offer_was_taken_back() -> None:
    state, _ = play(worker.step, POOR, final(job_of(), FEES), READY)
    state, effects = play(worker.step, state, SubmissionFailed(ASKED, "it reverted"))
    assert effects == [ASKED]
    offered = job_of(b.SponsorWanted(1, NEWCOMER), b.Sponsored(1, NEWCOMER, OWNER, 400))
    state, effects = play(worker.step, state, final(offered, FEES))
    assert effects == [membership.Enrol(1, 0)]
    gone = job_of(b.Unsponsored(1, NEWCOMER, OWNER, 400), start=offered)
    failed = SubmissionFailed(membership.Enrol(1, 0), "it reverted")
    state, effects = play(worker.step, state, final(gone, FEES), failed)
    assert effects == [ASKED]


# ---- a server that sponsors ------------------------------------------------------------------------------------------
SERVER = learning_server.ServerState(OWNER, Sponsoring(newcomers_max=2, stakes=3, fee=0))
AMOUNT = 3 * TERMS.stake


def offer(to: bytes) -> Submit:
    return Submit(f"sponsor 1 {to.hex()}", b.sponsor(1, to, AMOUNT))


def sent(state: learning_server.ServerState, *events: object) -> tuple[learning_server.ServerState, list[Submit]]:
    state, effects = play(learning_server.step, state, *events)
    return state, [effect for effect in effects if isinstance(effect, Submit)]


def test_a_server_sponsors_as_many_newcomers_as_its_limit_says_first_come_first_served() -> None:
    asked = job_of(*(b.SponsorWanted(1, each) for each in (NEWCOMER, SECOND, THIRD)))
    state, effects = sent(SERVER, final(asked, 10**9), final(asked, 10**9))
    assert effects == [offer(NEWCOMER), offer(SECOND)]
    given_ = job_of(b.Sponsored(1, NEWCOMER, OWNER, AMOUNT), b.Sponsored(1, SECOND, OWNER, AMOUNT), start=asked)
    state, effects = sent(state, final(given_, 10**9))
    assert effects == []
    repaid = job_of(b.Enrolled(1, NEWCOMER, AMOUNT), b.DebtRepaid(1, NEWCOMER, OWNER, AMOUNT), start=given_)
    _, effects = sent(state, final(repaid, 10**9))
    assert effects == [offer(THIRD)]


def test_a_server_offers_what_it_has_and_again_what_failed() -> None:
    asked = job_of(b.SponsorWanted(1, NEWCOMER), b.SponsorWanted(1, SECOND))
    state, effects = sent(SERVER, final(asked, 2 * AMOUNT - 1))
    assert effects == [offer(NEWCOMER)]
    state, effects = sent(state, final(asked, AMOUNT - 1))  # spent, but not final yet
    assert effects == []
    _, effects = sent(state, SubmissionFailed(offer(NEWCOMER), "pool full"), final(asked, AMOUNT))
    assert effects == [offer(NEWCOMER)]


@pytest.mark.parametrize(
    "state",
    [replace(SERVER, address=WORKERS[0]), replace(SERVER, sponsoring=Sponsoring(newcomers_max=0))],
    ids=["another's job", "switched off"],
)
def test_a_server_sponsors_in_its_own_jobs_and_where_it_may(state: learning_server.ServerState) -> None:
    _, effects = sent(state, final(job_of(b.SponsorWanted(1, NEWCOMER)), 10**9))
    assert effects == []


def test_a_worker_that_enrolled_by_itself_needs_no_sponsor_any_more() -> None:
    jobs = job_of(b.SponsorWanted(1, NEWCOMER), b.Enrolled(1, NEWCOMER, 400))
    _, effects = sent(SERVER, final(jobs, 10**9))
    assert effects == []


def test_when_the_job_has_ended_a_server_fetches_back_what_is_left_of_what_it_put() -> None:
    ended = job_of(
        b.Sponsored(1, NEWCOMER, OWNER, AMOUNT),
        b.Enrolled(1, NEWCOMER, AMOUNT),
        b.Sponsored(1, SECOND, OWNER, AMOUNT),
        b.Sponsored(1, THIRD, WORKERS[0], AMOUNT),
        b.JobEnded(1, b.CANCELLED, 0, bytes(32)),
    )
    settle = Submit(f"settle 1 {NEWCOMER.hex()} 0", b.settle(1, NEWCOMER))
    unsponsor = Submit(f"unsponsor 1 {SECOND.hex()}", b.unsponsor(1, SECOND))
    state, effects = sent(SERVER, final(ended, 10**9), final(ended, 10**9))
    assert effects == [settle, unsponsor]
    released = job_of(b.DebtRepaid(1, NEWCOMER, OWNER, AMOUNT - 50), b.Left(1, NEWCOMER, AMOUNT - 50), start=ended)
    _, effects = sent(state, final(released, 10**9))
    assert effects == []  # the rest was forfeited


def test_seats_that_are_not_settled_yet_are_settled_eight_by_eight() -> None:
    ended = job_of(
        b.Sponsored(1, WORKERS[0], OWNER, AMOUNT),
        b.Enrolled(1, WORKERS[0], 1000 + AMOUNT),
        b.RoundOpened(*KEY, bytes(32), bytes(32), WORKERS, 1020),
        b.RoundVoided(*KEY, 0, 0),
        b.JobEnded(1, b.FAILED, 0, bytes(32)),
        b.Left(1, WORKERS[0], 0),
    )
    state, effects = sent(SERVER, final(ended, 10**9))
    assert [effect.tag for effect in effects] == [f"settle 1 {WORKERS[0].hex()} 0"]
    settled = job_of(b.SeatSettled(1, 1, WORKERS[0], 1, 0, TERMS.stake), start=ended)
    _, effects = sent(state, final(settled, 10**9))
    assert effects == []
