"""The peer book: what is believed, for how long, and who cannot push out whom."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from node.p2p.addresses import (
    EAGER_REDIAL_MAX_S,
    FAILURES_MAX,
    FORGET_S,
    PER_HOST_MAX,
    PER_PEER_MAX,
    TRIES_MAX,
    AddressBook,
    InvalidBook,
    is_plausible,
)
from node.p2p.peers import Address, parse_address

REDIAL_MAX_S = 600.0
HERE = "10.0.0.9"


def at(host: str, port: int = 4000) -> Address:
    return Address("ip4", host, port)


def book_of(table_max: int = 64) -> AddressBook:
    return AddressBook(table_max, REDIAL_MAX_S)


def dialled(book: AddressBook, now: float = 0.0, busy: tuple[str, ...] = (), count: int = 99) -> list[str]:
    return [known.peer for known in book.due(busy, (), count, now)]


def test_what_was_met_is_dialled_before_what_was_told_and_validators_first() -> None:
    book = book_of()
    book.tell("told", [at("10.0.0.1")], HERE, 50.0)
    book.prove("old", at("10.0.0.2"), False, 10.0)
    book.prove("young", at("10.0.0.3"), False, 20.0)
    book.prove("validator", at("10.0.0.4"), True, 5.0)
    assert dialled(book, 100.0) == ["validator", "young", "old", "told"]
    assert dialled(book, 100.0, busy=("young",), count=2) == ["validator", "old"]
    assert dialled(book, 100.0, count=-3) == []
    assert [known.peer for known in book.due((), {at("10.0.0.3")}, 9, 100.0)] == ["validator", "old", "told"]


def test_a_told_address_is_tried_a_bounded_number_of_times_and_each_time_later() -> None:
    book = book_of()
    book.tell("p", [at("10.0.0.1")], HERE, 0.0)
    now, tries = 0.0, []
    while (next_at := book.next_at((), ())) is not None:
        now = max(now, next_at)
        assert dialled(book, now - 0.001) == [] or not tries
        assert dialled(book, now) == ["p"]
        tries.append(now)
        book.fail("p", at("10.0.0.1"), 1.0, now)
        book.tell("p", [at("10.0.0.1")], HERE, now) if len(tries) < TRIES_MAX else None  # telling again is no new try
    assert tries == [0.0, 1.0, 3.0]


def test_a_met_peer_is_dialled_less_and_less_often_and_forgotten_when_it_is_long_gone() -> None:
    book = book_of()
    book.prove("p", at("10.0.0.1"), False, 0.0)

    def pauses(busy: tuple[str, ...]) -> list[float]:
        now, found = 0.0, []
        for _ in range(30):
            book.fail("p", at("10.0.0.1"), 1.0, now)
            next_at = book.next_at(busy, ())
            assert next_at is not None
            assert dialled(book, next_at - 0.001, busy) == []
            assert dialled(book, next_at, busy) == ["p"]
            found.append(next_at - now)
            now = next_at
        return found

    assert pauses(busy=("other",)) == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, *[REDIAL_MAX_S] * 20]
    book.prove("p", at("10.0.0.1"), False, 100.0)  # it is back
    assert book.all()[0].failures == 0
    assert pauses(busy=()) == [1.0, 2.0, 4.0, *[EAGER_REDIAL_MAX_S] * 27]  # with nobody else, it may not wait
    book.prove("p", at("10.0.0.1"), True, 100.0)
    assert pauses(busy=("other",)) == [1.0, 2.0, 4.0, *[EAGER_REDIAL_MAX_S] * 27]  # nor for a validator
    for _ in range(FAILURES_MAX):
        book.fail("p", at("10.0.0.1"), 1.0, 100.0 + FORGET_S + 1)
    assert len(book) == 0
    book.fail("p", at("10.0.0.1"), 1.0, 0.0)  # nothing is known of it


def test_a_told_address_that_leads_to_its_peer_is_proven() -> None:
    book = book_of()
    book.tell("p", [at("10.0.0.1")], HERE, 1.0)
    book.prove("p", at("10.0.0.1"), False, 2.0)
    (known,) = book.all()
    assert (known.told_at, known.proven_at, known.source) == (1.0, 2.0, HERE)
    book.tell("p", [at("10.0.0.1")], "10.9.9.9", 3.0)
    assert book.all() == (known,)


def test_a_flood_of_told_addresses_pushes_out_neither_met_peers_nor_what_others_told() -> None:
    book = book_of(table_max=64)
    book.prove("friend", at("10.0.0.1"), False, 0.0)
    for number in range(10):
        book.tell(f"quiet-{number}", [at(f"10.1.0.{number}")], f"10.1.0.{number}", 0.0)
    for number in range(1000):
        book.tell(f"loud-{number}", [at(f"10.2.{number % 250}.1", port) for port in range(1, 9)], "10.2.0.1", 1.0)
    peers = [known.peer for known in book.all()]
    assert "friend" in peers
    assert {f"quiet-{number}" for number in range(10)} <= set(peers)
    assert sum(peer.startswith("loud") for peer in peers) == PER_HOST_MAX
    for number in range(1000):  # from many hosts
        book.tell(f"horde-{number}", [at("10.3.0.1", number + 1)], f"10.3.{number // 250}.{number % 250}", 2.0)
    assert "friend" in [known.peer for known in book.all()]
    assert len(book) == 1 + 64


def test_a_host_that_keeps_many_peers_pushes_out_neither_other_hosts_nor_validators() -> None:
    book = book_of(table_max=64)
    book.prove("validator", at("10.0.0.1", 1), True, 0.0)
    book.prove("friend", at("10.0.0.2"), False, 0.0)
    for number in range(1000):
        book.prove(f"loud-{number}", at("10.0.0.1", number + 2), False, 1.0 + number)
    peers = [known.peer for known in book.all()]
    assert {"validator", "friend", "loud-999"} <= set(peers)
    assert len(peers) == 1 + PER_HOST_MAX
    for number in range(1000):
        book.prove(f"horde-{number}", at(f"10.4.{number // 250}.{number % 250}"), False, 2000.0 + number)
    assert "validator" in [known.peer for known in book.all()]
    assert len(book) == 64


def test_of_one_peer_a_few_addresses_are_kept() -> None:
    book = book_of()
    book.tell("p", [at("10.0.0.1", port) for port in range(1, 20)], HERE, 0.0)
    assert len(book) == PER_PEER_MAX
    for port in range(1, 20):
        book.prove("p", at("10.0.0.1", port), False, float(port))
    proven = [known.address.port for known in book.all() if known.proven_at is not None]
    assert proven == [19, 18, 17, 16]
    assert dialled(book, 100.0) == ["p"]


@pytest.mark.parametrize(
    ("address", "source", "believed"),
    [
        ("/ip4/8.8.8.8/tcp/4000", "8.8.4.4", True),
        ("/ip4/127.0.0.1/tcp/4000", "127.0.0.1", True),
        ("/ip4/127.0.0.1/tcp/22", "8.8.8.8", False),
        ("/ip4/127.0.0.1/tcp/22", "10.0.0.7", False),
        ("/ip6/::1/tcp/22", "8.8.8.8", False),
        ("/ip4/10.0.0.1/tcp/22", "8.8.8.8", False),
        ("/ip4/10.0.0.1/tcp/4000", "10.0.0.7", True),
        ("/ip4/8.8.8.8/tcp/4000", "10.0.0.7", True),
        ("/ip4/0.0.0.0/tcp/4000", "8.8.8.8", False),
        ("/ip4/224.0.0.1/tcp/4000", "10.0.0.7", False),
        ("/ip4/8.8.8.8/tcp/0", "8.8.8.8", False),
        ("/dns4/example.org/tcp/4000", "8.8.8.8", False),
    ],
)
def test_nobody_is_sent_where_a_stranger_could_not_be(address: str, source: str, believed: bool) -> None:
    assert is_plausible(parse_address(address), source) is believed
    book = book_of()
    book.tell("p", [parse_address(address)], source, 0.0)
    assert len(book) == believed


def test_a_clock_that_was_set_back_does_not_stop_dialling() -> None:
    book = book_of()
    book.prove("p", at("10.0.0.1"), False, 1e9)
    book.fail("p", at("10.0.0.1"), 1.0, 1e9)
    assert dialled(book, 1e9) == []
    assert dialled(book, 1e9 - 86_400) == ["p"]


def test_the_file_gives_back_what_was_known_and_everything_is_dialled_anew() -> None:
    book, again = book_of(), book_of()
    book.tell("told", [Address("ip6", "fe80::1", 5)], HERE, 50.0)
    book.prove("met", at("10.0.0.2"), True, 10.0)
    book.fail("met", at("10.0.0.2"), 1.0, 20.0)
    again.load(book.encode())
    assert [(known.dial, known.source, known.failures) for known in again.all()] == [
        (known.dial, known.source, known.failures) for known in book.all()
    ]
    assert dialled(again, 20.0) == ["told", "met"][::-1]
    small = book_of(table_max=1)
    for number in range(9):
        again.prove(str(number), at(f"10.0.1.{number}"), False, 100.0 + number)
    small.load(again.encode())
    assert [known.peer for known in small.all()] == ["8", "told"]


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"\xff\xff", b"[]", b'{"version": 2, "known": []}',
        b'{"version": 1, "known": [{"address": "/ip4/1.2.3.4/tcp/1", "source": "", "told_at": 1}]}',
        b'{"version": 1, "known": [{"address": "nowhere", "source": "", "told_at": 1}]}',
        b'{"version": 1, "known": [{"address": "/ip4/1.2.3.4/tcp/1/p2p/x", "source": "", "told_at": "x"}]}',
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_and_changes_nothing(text: bytes) -> None:
    book = book_of()
    book.prove("p", at("10.0.0.1"), False, 0.0)
    with pytest.raises(InvalidBook):
        book.load(text)
    assert len(book) == 1


class Book(RuleBasedStateMachine):
    """Any order of events, against what must always hold."""

    peers = st.sampled_from([f"p{number}" for number in range(60)])
    addresses = st.builds(at, st.sampled_from([f"10.0.0.{number}" for number in range(6)]), st.integers(1, 9))
    hosts = st.sampled_from([f"10.0.1.{number}" for number in range(4)])

    def __init__(self) -> None:
        super().__init__()
        self.book = book_of(table_max=20)
        self.now = 0.0

    @rule(peer=peers, addresses=st.lists(addresses, max_size=8), host=hosts)
    def tell(self, peer: str, addresses: list[Address], host: str) -> None:
        met = {known for known in self.book.all() if known.proven_at is not None}
        self.book.tell(peer, addresses, host, self.now)
        assert {known for known in self.book.all() if known.proven_at is not None} == met

    @rule(peer=peers, address=addresses, validator=st.booleans())
    def prove(self, peer: str, address: Address, validator: bool) -> None:
        self.book.prove(peer, address, validator, self.now)
        assert (peer, address) in {known.key for known in self.book.all()}

    @rule(data=st.data(), jitter=st.floats(0, 1, exclude_max=True))
    def fail(self, data: st.DataObject, jitter: float) -> None:
        if due := self.book.due((), (), 99, self.now):
            known = data.draw(st.sampled_from(due))
            self.book.fail(known.peer, known.address, jitter, self.now)
            assert known.key not in {each.key for each in self.book.due((), (), 99, self.now)}

    @rule(seconds=st.floats(0, 10_000))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def bounds_hold(self) -> None:
        entries = self.book.all()
        for met in (False, True):
            table = [each for each in entries if (each.proven_at is not None) == met]
            assert len(table) <= 20
            for peer in {each.peer for each in table}:
                assert sum(each.peer == peer for each in table) <= PER_PEER_MAX
        assert all(each.failures < TRIES_MAX for each in entries if each.proven_at is None)
        due = self.book.due((), (), 99, self.now)
        assert len({known.peer for known in due}) == len(due)

    @invariant()
    def the_file_keeps_it(self) -> None:
        again = book_of(table_max=20)
        again.load(self.book.encode())
        assert msgspec.json.decode(again.encode()) == msgspec.json.decode(self.book.encode())


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
