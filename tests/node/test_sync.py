from __future__ import annotations

from node.sync import REQUEST_TIMEOUT_S, RequestBlocks, Sync


def test_a_follower_asks_the_peer_that_is_furthest_ahead() -> None:
    sync = Sync(number=5, lag_s=0.0)
    sync.announce("a", 7)
    sync.announce("b", 9)
    assert sync.next_request(0.0) == RequestBlocks("b", 6)
    assert sync.next_request(0.1) is None  # one at a time


def test_a_validator_asks_only_after_it_has_been_behind_for_a_while() -> None:
    sync = Sync(number=5, lag_s=1.0)
    sync.announce("a", 7)
    assert sync.next_request(10.0) is None
    assert sync.deadline == 11.0
    assert sync.next_request(11.0) == RequestBlocks("a", 6)


def test_a_validator_that_keeps_up_never_asks() -> None:
    sync = Sync(number=5, lag_s=1.0)
    for second in range(10):
        sync.announce("a", 6 + second)
        assert sync.next_request(float(second)) is None
        sync.advance(6 + second, second + 0.5)
    assert sync.next_request(20.0) is None


def test_a_silent_peer_is_left_for_the_next_one() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("silent", 9)
    sync.announce("other", 8)
    assert sync.next_request(0.0) == RequestBlocks("silent", 1)
    assert sync.next_request(REQUEST_TIMEOUT_S) == RequestBlocks("other", 1)
    assert sync.target == 8


def test_a_peer_that_left_or_lied_is_not_asked_again() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("a", 9)
    sync.next_request(0.0)
    sync.lost("a")
    assert sync.next_request(0.1) is None
    assert sync.deadline is None


def test_it_goes_on_until_it_is_there() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("a", 300)
    for first in (1, 129, 257):
        assert sync.next_request(0.0) == RequestBlocks("a", first)
        sync.advance(min(first + 127, 300), 0.0)
        sync.answered()
    assert sync.next_request(0.0) is None
