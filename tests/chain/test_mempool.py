from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chain.mempool import Mempool, MempoolLimits
from chain.types import InvalidTransaction, Transaction

A, B, C = (bytes([index]) * 20 for index in (1, 2, 3))
BASE_FEE = 7
WEALTH = 10**12


def make(
    sender: bytes, nonce: int, fee: int = 20, tip: int = 1, gas: int = 21_000, value: int = 0, size: int = 100
) -> Transaction:
    name = sha256(repr((sender, nonce, fee, tip, gas, value, size)).encode()).digest()
    return Transaction(name, sender, nonce, gas, fee, tip, value, bytes(size))


def pool_of(*transactions: Transaction, limits: MempoolLimits | None = None) -> Mempool:
    pool = Mempool(limits, BASE_FEE)
    for transaction in transactions:
        pool.add(transaction, 0, WEALTH, 0.0)
    return pool


def test_candidates_come_best_paying_first_and_in_nonce_order() -> None:
    a0, a1 = make(A, 0, tip=1), make(A, 1, tip=9)
    b0, b1 = make(B, 0, tip=5), make(B, 1, tip=2)
    assert pool_of(a1, b1, a0, b0).candidates() == (b0, b1, a0, a1)


def test_equal_offers_go_by_arrival() -> None:
    first, second = make(B, 0), make(A, 0)
    assert pool_of(first, second).candidates() == (first, second)


def test_what_a_proposer_gets_counts_not_what_is_offered() -> None:
    boastful = make(A, 0, fee=BASE_FEE + 1, tip=8)  # one wei above the base fee is left
    modest = make(B, 0, fee=20, tip=2)
    assert pool_of(boastful, modest).candidates() == (modest, boastful)


def test_nothing_behind_a_gap_is_a_candidate() -> None:
    pool = pool_of(make(A, 0), make(A, 2), make(B, 1))
    assert [each.nonce for each in pool.candidates()] == [0]
    pool.add(make(A, 1), 0, WEALTH, 0.0)
    assert [each.nonce for each in pool.candidates()] == [0, 1, 2]
    assert (pool.next_nonce(A, 0), pool.next_nonce(B, 0), pool.next_nonce(C, 4)) == (3, 0, 4)


def test_finality_drops_what_is_used_up_and_moves_the_front() -> None:
    pool = pool_of(*(make(A, nonce) for nonce in range(4)))
    pool.set_nonce(A, 2)
    assert [each.nonce for each in pool.candidates()] == [2, 3]
    pool.set_nonce(A, 1)
    assert len(pool) == 2
    pool.set_nonce(A, 9)
    assert pool.senders() == ()
    pool.set_nonce(A, 10)


def test_a_removed_front_stops_what_is_behind_it() -> None:
    front = make(A, 0)
    pool = pool_of(front, make(A, 1))
    pool.remove(front.hash)
    pool.remove(front.hash)
    assert pool.candidates() == ()
    assert front.hash not in pool
    assert len(pool) == 1


def test_the_same_transaction_again_changes_nothing() -> None:
    transaction = make(A, 0)
    pool = pool_of(transaction)
    version = pool.version
    pool.add(transaction, 0, WEALTH, 50.0)
    assert (pool.version, len(pool), pool.get(transaction.hash)) == (version, 1, transaction)


@pytest.mark.parametrize(
    ("transaction", "reason"),
    [
        (make(A, 2), "nonce 2 is used, the account's next is 3"),
        (make(A, 3 + 256), "too far ahead"),
        (make(A, 3, fee=6), "below the base fee of 7"),
        (make(A, 3, value=WEALTH), "balance of"),
        (make(A, 5, value=WEALTH - 3 * 21_000 * 20 + 1), "and those waiting before it"),
    ],
)
def test_what_cannot_be_included_is_refused(transaction: Transaction, reason: str) -> None:
    pool = Mempool(None, BASE_FEE)
    pool.add(make(A, 3), 3, WEALTH, 0.0)
    pool.add(make(A, 4), 3, WEALTH, 0.0)
    version = pool.version
    with pytest.raises(InvalidTransaction) as refused:
        pool.add(transaction, 3, WEALTH, 0.0)
    assert reason in str(refused.value)
    assert (pool.version, len(pool)) == (version, 2)


def test_a_balance_that_covers_all_that_waits_is_enough() -> None:
    pool = pool_of(make(A, 0), make(A, 1))
    pool.add(make(A, 2), 0, 3 * 21_000 * 20, 0.0)
    assert len(pool) == 3


@pytest.mark.parametrize(("fee", "tip", "taken"), [(22, 1, True), (21, 5, False), (30, 0, False), (44, 2, True)])
def test_a_replacement_offers_a_tenth_more(fee: int, tip: int, taken: bool) -> None:
    old, new = make(A, 0, fee=20, tip=1), make(A, 0, fee=fee, tip=tip, size=50)
    pool = pool_of(old, make(A, 1))
    if taken:
        pool.add(new, 0, WEALTH, 0.0)
    else:
        with pytest.raises(InvalidTransaction, match="offer 10 % more"):
            pool.add(new, 0, WEALTH, 0.0)
    assert pool.candidates()[0] == (new if taken else old)
    assert pool.size_bytes == (150 if taken else 200)


def test_what_waited_longer_than_the_lifetime_goes() -> None:
    pool = Mempool(MempoolLimits(lifetime_s=10.0), BASE_FEE)
    pool.add(make(A, 0), 0, WEALTH, 0.0)
    pool.add(make(B, 0), 0, WEALTH, 5.0)
    pool.expire(10.0)
    assert len(pool) == 2
    pool.expire(12.0)
    assert pool.senders() == (B,)


def refused(pool: Mempool, transaction: Transaction) -> bool:
    before = (pool.version, set(pool.hashes()))
    with suppress(InvalidTransaction):
        pool.add(transaction, 0, WEALTH, 0.0)
        assert transaction.hash in pool
        return False
    assert (pool.version, set(pool.hashes())) == before
    return True


def test_of_equal_holders_in_a_full_pool_the_worst_paying_tail_goes() -> None:
    limits = MempoolLimits(transactions_max=4)
    kept = [make(A, 0, tip=1), make(B, 0, tip=3), make(B, 1, tip=4)]
    pool = pool_of(*kept, make(A, 1, tip=2), limits=limits)
    better = make(C, 0, tip=5)
    assert not refused(pool, better)
    assert set(pool.candidates()) == {*kept, better}


def test_whoever_holds_most_gives_way_to_a_newcomer_whatever_it_pays() -> None:
    pool = pool_of(*(make(A, nonce, tip=13) for nonce in range(3)), make(B, 0), limits=MempoolLimits(4))
    assert not refused(pool, make(C, 0, tip=0))
    assert {(each.sender, each.nonce) for each in pool.candidates()} == {(A, 0), (A, 1), (B, 0), (C, 0)}
    assert refused(pool, make(C, 1, tip=13))  # it would hold as much as the largest


def test_senders_of_one_transaction_each_are_displaced_only_by_one_that_pays_more() -> None:
    pool = pool_of(make(A, 0, tip=2), make(B, 0, tip=3), limits=MempoolLimits(2))
    assert refused(pool, make(C, 0, tip=2))
    assert refused(pool_of(make(A, 0, tip=2), make(C, 0, tip=2), limits=MempoolLimits(2)), make(C, 1, tip=13))
    assert not refused(pool, make(C, 0, tip=3))
    assert [each.sender for each in pool.candidates()] == [B, C]


def test_nobody_makes_room_for_himself_at_the_cost_of_his_own_queue() -> None:
    pool = pool_of(make(A, 0, tip=1), make(A, 1, tip=1), limits=MempoolLimits(transactions_max=2))
    with pytest.raises(InvalidTransaction, match="pool is full"):
        pool.add(make(A, 2, tip=9), 0, WEALTH, 0.0)
    assert len(pool) == 2


def test_what_closes_a_gap_takes_the_place_of_what_waits_behind_it() -> None:
    pool = pool_of(make(A, 1), make(A, 2), make(B, 0), limits=MempoolLimits(transactions_max=3))
    assert not refused(pool, make(A, 0, tip=0))
    assert {(each.sender, each.nonce) for each in pool.candidates()} == {(A, 0), (A, 1), (B, 0)}


def test_a_large_newcomer_displaces_several_or_none() -> None:
    limits = MempoolLimits(bytes_max=300)
    held = [*(make(A, nonce, size=60) for nonce in range(4)), make(B, 0, size=50)]
    pool = pool_of(*held, limits=limits)
    assert refused(pool, make(C, 0, tip=13, size=200))  # A gives way only until it holds no more than C would
    assert set(pool.candidates()) == set(held)
    assert not refused(pool, make(C, 0, size=120))
    assert {(each.sender, each.nonce) for each in pool.candidates()} == {(A, 0), (A, 1), (B, 0), (C, 0)}


FLOODER, NEWCOMER = b"\xff" * 20, b"\xee" * 20
sizes = st.integers(1, 120)


@settings(max_examples=300, deadline=None)
@given(
    honest=st.lists(st.tuples(st.integers(0, 12), sizes), max_size=12),
    flood=st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12), sizes), max_size=40),
)
def test_one_senders_flood_takes_at_most_one_place_and_keeps_no_newcomer_out(
    honest: list[tuple[int, int]], flood: list[tuple[int, int, int]]
) -> None:
    limits = MempoolLimits(transactions_max=12, bytes_max=1500, per_sender_max=16)
    pool = Mempool(limits, BASE_FEE)
    singles = [make(bytes([index]) * 20, 0, tip=tip, size=size) for index, (tip, size) in enumerate(honest)]
    for single in singles:
        pool.add(single, 0, WEALTH, 0.0)
    for nonce, tip, size in flood:
        with suppress(InvalidTransaction):
            pool.add(make(FLOODER, nonce, tip=tip, size=size), 0, WEALTH, 0.0)
    gone = [single for single in singles if single.hash not in pool]
    assert len(gone) <= (len(singles) == 12)  # the flood's first one may outbid somebody where nobody has two
    if len(singles) <= 10:
        assert not refused(pool, make(NEWCOMER, 0, tip=0, size=1))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([A, B, C, b"\x04" * 20, b"\x05" * 20]), st.integers(0, 4),
                          st.integers(0, 12), st.integers(1, 300)), max_size=40))  # fmt: skip
def test_others_lose_only_to_a_sender_that_holds_less_or_to_a_first_one_that_pays_more(
    steps: list[tuple[bytes, int, int, int]],
) -> None:
    limits = MempoolLimits(transactions_max=6, bytes_max=600, per_sender_max=8)
    pool = Mempool(limits, BASE_FEE)

    def held(sender: bytes) -> list[Transaction]:
        everything = [pool.get(digest) for digest in pool.hashes()]
        return [each for each in everything if each is not None and each.sender == sender]

    def share(transactions: list[Transaction]) -> float:
        return max(len(transactions) / 6, sum(len(each.raw) for each in transactions) / 600)

    for sender, nonce, tip, size in steps:
        newcomer = make(sender, nonce, tip=tip, size=size)
        others = [other for other in pool.senders() if other != sender]
        before, mine = {other: held(other) for other in others}, held(sender)
        with suppress(InvalidTransaction):
            pool.add(newcomer, 0, WEALTH, 0.0)
        after = share([*mine, newcomer]) if mine else share([newcomer])
        outbid = []
        for other in others:
            lost = [each for each in before[other] if each.hash not in pool]
            left = [each for each in before[other] if each.hash in pool]
            assert not lost or min(each.nonce for each in lost) > max((each.nonce for each in left), default=-1)
            for index, each in enumerate(sorted(lost, key=lambda each: -each.nonce)):
                kept = sorted(before[other], key=lambda each: -each.nonce)[index:]
                if len(kept) == 1 or share(kept) <= share(held(sender)):
                    outbid.append(each)
        assert len(outbid) <= 1
        if outbid:
            assert mine == []
            assert _price(outbid[0]) < _price(newcomer)
            assert after <= max(share(before[other]) for other in others)


class Pool(RuleBasedStateMachine):
    """Any order of calls, against what must always hold."""

    LIMITS = MempoolLimits(transactions_max=6, bytes_max=500, per_sender_max=4, lifetime_s=20.0)
    senders = st.sampled_from([A, B, C])

    def __init__(self) -> None:
        super().__init__()
        self.pool = Mempool(self.LIMITS, BASE_FEE)
        self.nonces = dict.fromkeys((A, B, C), 0)
        self.now = 0.0

    @rule(
        sender=senders, ahead=st.integers(-1, 5), fee=st.integers(5, 40), tip=st.integers(0, 20),
        size=st.integers(1, 200), balance=st.sampled_from([WEALTH, 10**6]),
    )  # fmt: skip
    def add(self, sender: bytes, ahead: int, fee: int, tip: int, size: int, balance: int) -> None:
        before = (self.pool.version, set(self.pool.hashes()))
        transaction = make(sender, max(self.nonces[sender] + ahead, 0), fee, tip, size=size)
        try:
            self.pool.add(transaction, self.nonces[sender], balance, self.now)
        except InvalidTransaction:
            assert (self.pool.version, set(self.pool.hashes())) == before
        else:
            assert transaction.hash in self.pool

    @rule(sender=senders, by=st.integers(0, 3))
    def finalise(self, sender: bytes, by: int) -> None:
        self.nonces[sender] += by
        self.pool.set_nonce(sender, self.nonces[sender])

    @rule(at=st.integers(0, 5))
    def remove(self, at: int) -> None:
        for digest in self.pool.hashes()[at : at + 1]:
            self.pool.remove(digest)
            assert digest not in self.pool

    @rule(seconds=st.floats(0, 15))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.pool.expire(self.now)

    @invariant()
    def limits_hold(self) -> None:
        held = [self.pool.get(digest) for digest in self.pool.hashes()]
        assert len(held) == len(self.pool) <= self.LIMITS.transactions_max
        assert sum(len(each.raw) for each in held if each) == self.pool.size_bytes <= self.LIMITS.bytes_max
        for sender in (A, B, C):
            nonces = [each.nonce for each in held if each and each.sender == sender]
            assert len(set(nonces)) == len(nonces)
            low = self.nonces[sender]
            assert all(low <= nonce < low + self.LIMITS.per_sender_max for nonce in nonces)
            assert (sender in self.pool.senders()) == bool(nonces)

    @invariant()
    def candidates_are_the_gapless_fronts_best_first(self) -> None:
        held = {(each.sender, each.nonce): each for digest in self.pool.hashes() if (each := self.pool.get(digest))}
        fronts = dict(self.nonces)
        for candidate in self.pool.candidates():
            offers = [held[sender, nonce] for sender, nonce in fronts.items() if (sender, nonce) in held]
            assert candidate in offers
            assert _price(candidate) == max(map(_price, offers))
            fronts[candidate.sender] += 1
        assert not any((sender, nonce) in held for sender, nonce in fronts.items())


def _price(transaction: Transaction) -> int:
    return min(transaction.tip, transaction.fee - BASE_FEE)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
