"""Who gets memory for its blob, and when."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from node.blob_fetch import retry_pause_s
from node.blob_room import LEASE_BYTES_PER_S, LEASE_S, BlobRoom, Claim

BUDGET = 6400  # lanes of 800 (relay), 800 (small, up to 100 each) and 4800 bytes


def granted(*claims: Claim) -> list[bool]:
    return [claim.granted.is_set() for claim in claims]


async def test_blobs_that_do_not_fit_wait_in_line_and_none_passes_another() -> None:
    room = BlobRoom(BUDGET)
    first, second, third = (room.claim(size, relayed=False) for size in (3000, 2000, 1000))
    assert granted(first, second, third) == [True, False, False]
    room.release(first)
    assert granted(second, third) == [True, True]
    assert room.used == 3000


async def test_small_blobs_never_wait_for_large_ones_nor_relayed_ones_for_ours() -> None:
    room = BlobRoom(BUDGET)
    for _ in range(3):
        room.claim(4800, relayed=False)
        room.claim(700, relayed=True)
    smalls = [room.claim(100, relayed=False) for _ in range(9)]
    assert granted(*smalls) == [True] * 8 + [False]
    assert room.used == 4800 + 700 + 800


async def test_a_blob_above_its_lane_has_the_lane_to_itself() -> None:
    room = BlobRoom(BUDGET)
    before = room.claim(200, relayed=False)
    giant = room.claim(10_000, relayed=False)
    after = room.claim(200, relayed=False)
    assert granted(before, giant, after) == [True, False, False]
    room.release(before)
    assert granted(giant, after) == [True, False]
    room.release(giant)
    assert granted(after) == [True]


async def test_who_gives_up_while_it_waits_lets_the_next_one_through() -> None:
    room = BlobRoom(BUDGET)
    room.claim(4000, relayed=False)
    large, next_one = room.claim(4000, relayed=False), room.claim(800, relayed=False)
    assert granted(next_one) == [False]
    room.release(large)
    assert granted(next_one) == [True]
    assert room.used == 4800


async def test_a_relayed_blob_that_is_wanted_here_too_leaves_the_line_of_the_relayed() -> None:
    room = BlobRoom(BUDGET)
    holder, first, second = (room.claim(size, relayed=True) for size in (400, 600, 400))
    assert granted(holder, first, second) == [True, False, False]
    room.promote(first)
    assert granted(first, second) == [True, True]
    room.promote(second)  # has its room already
    for claim in (holder, first, second):
        room.release(claim)
    assert room.used == 0


async def test_whoever_does_too_little_with_its_room_is_overdue_once_others_wait(
    autojump_clock: trio.abc.Clock,
) -> None:
    room = BlobRoom(BUDGET)
    slow = room.claim(4000, relayed=False)
    await trio.sleep(2 * LEASE_S)
    assert not room.overdue(slow, trio.current_time())
    waiting = room.claim(4000, relayed=False)
    assert room.overdue(slow, trio.current_time())
    room.release(slow)
    room.claim(4000, relayed=False)
    assert not room.overdue(waiting, trio.current_time() + LEASE_S)
    assert room.overdue(waiting, trio.current_time() + LEASE_S + 4001 / LEASE_BYTES_PER_S)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6000), st.booleans(), st.sampled_from(["claim", "release", "promote"]))))
def test_the_budget_is_kept_and_nobody_waits_for_free_room(steps: list[tuple[int, bool, str]]) -> None:
    async def run() -> None:
        room, claims = BlobRoom(BUDGET), list[Claim]()
        for number, relayed, action in steps:
            if action == "claim":
                claims.append(room.claim(number, relayed))
            elif claims and action == "release":
                room.release(claims.pop(number % len(claims)))
            elif claims:
                room.promote(claims[number % len(claims)])
            assert room.used == sum(claim.size for claim in claims if claim.granted.is_set())
            for lane, bytes_max in (("relay", 800), ("small", 800), ("large", 4800)):
                had = [claim.size for claim in claims if claim.lane == lane and claim.granted.is_set()]
                assert sum(had) <= bytes_max or len(had) == 1
                assert had or all(claim.lane != lane for claim in claims)
        for claim in claims:
            room.release(claim)
        assert room.used == 0

    trio.run(run)


@pytest.mark.parametrize("jitter", [0.0, 0.999])
def test_the_pause_before_asking_again_is_short_at_first_and_half_a_minute_in_the_end(jitter: float) -> None:
    assert retry_pause_s(1, 0.0, 0.0, jitter) <= 0.02
    assert all(retry_pause_s(99, age_s, 1.0, jitter) <= 1.0 for age_s in (0.0, 1.0, 4.0))
    assert 15.0 <= retry_pause_s(99, 1e9, 1.0, jitter) <= 30.0
    assert retry_pause_s(99, 60.0, 1.0, jitter) <= 15.0
    assert retry_pause_s(99, 1e9, 10.0, jitter) >= 150.0  # ten times as many blobs that nobody has: no more questions
