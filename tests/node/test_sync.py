from __future__ import annotations

from node.sync import BLOCKS_MAX, REQUEST_TIMEOUT_S, RequestBlocks, Sync


def ask(sync: Sync, now: float) -> tuple[str, int] | None:
    request = sync.next_request(now)
    return None if request is None else (request.peer, request.first)


def test_a_follower_asks_the_peer_that_is_furthest_ahead() -> None:
    sync = Sync(number=5, lag_s=0.0)
    sync.announce("a", 7)
    sync.announce("b", 9)
    assert sync.next_request(0.0) == RequestBlocks("b", 6, BLOCKS_MAX)
    assert sync.next_request(0.1) is None  # one at a time


def test_a_validator_asks_only_after_it_has_been_behind_for_a_while() -> None:
    sync = Sync(number=5, lag_s=1.0)
    sync.announce("a", 7)
    assert ask(sync, 10.0) is None
    assert sync.deadline == 11.0
    assert ask(sync, 11.0) == ("a", 6)


def test_a_validator_that_keeps_up_never_asks() -> None:
    sync = Sync(number=5, lag_s=1.0)
    for second in range(10):
        sync.announce("a", 6 + second)
        assert ask(sync, float(second)) is None
        sync.advance(6 + second, second + 0.5)
    assert ask(sync, 20.0) is None


def test_a_silent_peer_is_left_for_the_next_one_and_asked_again_later_for_less() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("silent", 9)
    sync.announce("other", 8)
    assert ask(sync, 0.0) == ("silent", 1)
    assert ask(sync, REQUEST_TIMEOUT_S) == ("other", 1)
    sync.lost("other")
    assert sync.next_request(100.0) == RequestBlocks("silent", 1, BLOCKS_MAX // 2)


def test_the_only_peer_is_asked_again_however_slow_it_was() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("slow", 9)
    assert ask(sync, 0.0) == ("slow", 1)
    assert ask(sync, REQUEST_TIMEOUT_S) is None
    assert sync.deadline is not None
    assert ask(sync, sync.deadline) == ("slow", 1)


def test_a_liar_that_announces_wonders_starves_nobody() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("liar", 10**9)
    sync.announce("honest", 3)
    assert ask(sync, 0.0) == ("liar", 1)
    sync.failed(0.1)
    sync.announce("liar", 10**9)
    assert ask(sync, 0.2) == ("honest", 1)


def test_a_peer_that_left_is_not_asked_again() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("a", 9)
    ask(sync, 0.0)
    sync.lost("a")
    assert ask(sync, 0.1) is None
    assert sync.deadline is None


def test_it_goes_on_until_it_is_there() -> None:
    sync = Sync(number=0, lag_s=0.0)
    sync.announce("a", 300)
    for first in (1, 129, 257):
        assert ask(sync, 0.0) == ("a", first)
        sync.advance(min(first + 127, 300), 0.0)
        sync.answered(0, 0.0)
    assert ask(sync, 0.0) is None


def test_an_older_announcement_that_comes_later_hides_nothing() -> None:
    sync = Sync(number=5, lag_s=0.0)
    sync.announce("a", 7)
    sync.announce("a", 5)
    assert ask(sync, 0.0) == ("a", 6)
