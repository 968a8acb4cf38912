"""Addresses, patience, limits and configuration: the pure parts."""

from __future__ import annotations

import msgspec
import pytest

from node.p2p.config import P2PConfig
from node.p2p.peers import (
    Address,
    Admission,
    PeerBook,
    Redial,
    TokenBucket,
    parse_address,
    redial_delay_s,
    socket_address,
)


@pytest.mark.parametrize(
    "text",
    ["/ip4/127.0.0.1/tcp/9000", "/ip6/::1/tcp/0", "/dns4/node.example/tcp/65535/p2p/12D3KooWabc", "/dns/a/tcp/1"],
)
def test_an_address_is_written_as_it_was_read(text: str) -> None:
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a TCP multiaddr"),
        ("127.0.0.1:9000", "not a TCP multiaddr"),
        ("/ip4//tcp/1", "not a TCP multiaddr"),
        ("/ip4/127.0.0.1/udp/9000", "not a TCP multiaddr"),
        ("/ip4/127.0.0.1/tcp/9000/ws", "not a TCP multiaddr"),
        ("/ip4/127.0.0.1/tcp/-1", "port '-1'"),
        ("/ip4/127.0.0.1/tcp/65536", "port '65536'"),
        ("/ip4/127.0.0.1/tcp/1/p2p/", "expected /p2p/PEER"),
        ("/ip4/127.0.0.1/tcp/1/ipfs/abc", "expected /p2p/PEER"),
    ],
)
def test_a_wrong_address_is_refused_with_the_reason(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_address(text)


def test_a_mapped_address_is_shown_as_ipv4() -> None:
    assert socket_address("::ffff:10.0.0.1", 5) == Address("ip4", "10.0.0.1", 5)
    assert str(socket_address("fe80::1", 5)) == "/ip6/fe80::1/tcp/5"


def test_pauses_double_up_to_the_longest_and_are_spread_by_the_jitter() -> None:
    assert [redial_delay_s(failures, 1.0, 0.1, 1.0) for failures in (1, 2, 3, 4, 5, 1000)] == [
        0.1, 0.2, 0.4, 0.8, 1.0, 1.0,
    ]  # fmt: skip
    assert redial_delay_s(5, 0.0, 0.1, 1.0) == 0.5


def test_an_address_where_nobody_is_is_dialled_often_one_that_sends_us_away_seldom() -> None:
    redial = Redial(min_s=0.1, max_s=1.0, foreign_max_s=60.0)
    assert [redial.pause_s(None, False, 1.0) for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    assert [redial.pause_s(0.5, False, 1.0) for _ in range(4)] == [0.1, 0.2, 0.4, 0.8]  # in, and out at once
    assert redial.pause_s(None, False, 1.0) == 0.1  # it restarts
    assert [redial.pause_s(0.5, False, 1.0) for _ in range(7)][-1] == 60.0
    assert redial.pause_s(100.0, False, 1.0) == 0.1  # it was good while it lasted
    assert redial.pause_s(0.5, False, 1.0) == 0.1
    assert redial.pause_s(0.1, True, 1.0) == 60.0  # of another network or version: at once
    assert redial.pause_s(0.1, True, 0.0) == 30.0


def test_a_bucket_admits_the_burst_and_then_the_rate() -> None:
    bucket = TokenBucket(rate=10.0, burst=3.0)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.1)
    assert not bucket.take(0.1)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_a_peer_is_banned_for_faults_that_come_close_together() -> None:
    book = PeerBook(refusals_max=3, ban_s=60.0)
    assert [book.refuse("a", now) for now in (0.0, 50.0, 61.0, 62.0)] == [False, False, False, False]
    assert book.refuse("a", 63.0)
    assert book.banned("a", 63.0)
    assert book.banned("a", 122.0)
    assert not book.banned("a", 123.0)
    assert not book.banned("b", 63.0)
    assert (book.refused("a"), book.refused("b")) == (5, 0)


def test_the_book_remembers_a_bounded_number_of_peers() -> None:
    book = PeerBook(refusals_max=3, ban_s=60.0)
    for number in range(10_001):
        book.refuse(str(number), 0.0)
    assert book.refused("0") == 0
    assert book.refused("1") == 1


def test_admission_counts_in_all_and_per_address() -> None:
    admission = Admission(inbound_max=3, per_address_max=2)
    assert [admission.admit(host) for host in ("a", "a", "a", "b", "b")] == [
        None, None, "too many connections from this address", None, "too many inbound connections",
    ]  # fmt: skip
    admission.leave("a")
    assert admission.admit("b") is None


def test_defaults_are_a_valid_configuration() -> None:
    config = P2PConfig()
    assert config.listen == "/ip4/127.0.0.1/tcp/0"
    assert config.gossip_bytes_max == 65_536


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"listen": "localhost"}, "p2p.listen: not a TCP multiaddr"),
        ({"bootstrap": ("/ip4/1.2.3.4/tcp/1", "x")}, "p2p.bootstrap: not a TCP multiaddr: 'x'"),
        ({"redial_min_s": 2.0}, "p2p.redial_min_s: is above redial_max_s"),
        ({"redial_min_s": 2.0, "redial_max_s": 3.0, "redial_foreign_s": 1.0}, "is above redial_foreign_s"),
        ({"announce": ("example.org:1",)}, "p2p.announce: not a TCP multiaddr"),
        ({"keepalive_s": 30.0}, "p2p.keepalive_s: must be below"),
    ],
)
def test_a_wrong_configuration_is_refused_by_its_key(changes: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        P2PConfig(**changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [b'{"listen_prt": "x"}', b'{"peers_max": 0}', b'{"stall_s": "long"}'])
def test_unknown_keys_and_impossible_limits_are_refused_when_read(text: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=P2PConfig)
