"""Who is let in, and as whom."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from chain.chain import Chain
from chain.header import address_of_secret
from node import link, wire
from node.wire import InvalidMessage
from tests.chain.chain_kit import CHAIN_ID, USERS, VALIDATORS, open_chain

PEER = "12D3KooWPeer"
OWN = address_of_secret(VALIDATORS[0])


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return open_chain(tmp_path)


def test_a_validator_that_proves_its_key_is_known_by_its_index(chain: Chain) -> None:
    door = link.Link(chain, OWN)
    assert door.admit(PEER, link.hello(chain, PEER, VALIDATORS[2])) == 2
    assert door.index_of(PEER) == 2
    assert door.validators_connected == 1
    assert door.lose(PEER)
    assert not door.is_member(PEER)


def test_whoever_claims_nothing_is_a_member_without_an_index(chain: Chain) -> None:
    door = link.Link(chain, OWN)
    assert door.admit(PEER, link.hello(chain, PEER, None)) is None
    assert door.is_member(PEER)
    assert door.validators_connected == 0


def test_who_is_no_validator_now_may_become_one_and_is_known_then(chain: Chain) -> None:
    door = link.Link(chain, OWN)
    newcomer = address_of_secret(USERS[0])
    assert door.admit(PEER, link.hello(chain, PEER, USERS[0])) is None
    validators = (*chain.epochs.present.validators, newcomer)
    chain.epochs.append(chain.epochs.next(validators, 1))
    assert door.index_of(PEER) == 4
    assert door.validators_connected == 1


@pytest.mark.parametrize(
    ("case", "reason"),
    [("no proof", "proof"), ("another peer's proof", "proof"), ("our own key", "own key")],
)
def test_nobody_becomes_a_validator_without_its_key(chain: Chain, case: str, reason: str) -> None:
    honest = wire.decode(link.hello(chain, PEER, USERS[0]), wire.Hello)
    greeting = {
        "no proof": wire.encode(replace(honest, validator=chain.network.validator_addresses[2])),
        "another peer's proof": link.hello(chain, "12D3KooWOther", VALIDATORS[2]),
        "our own key": link.hello(chain, PEER, VALIDATORS[0]),
    }[case]
    door = link.Link(chain, OWN)
    with pytest.raises(InvalidMessage, match=reason):
        door.admit(PEER, greeting)
    assert not door.is_member(PEER)


@pytest.mark.parametrize(
    "words",
    [
        b"",
        wire.encode(wire.Hello(wire.PROTOCOL_VERSION + 1, CHAIN_ID, bytes(32), None, b"")),
        wire.encode(wire.Hello(wire.PROTOCOL_VERSION, CHAIN_ID, bytes(32), None, b"")),
    ],
)
def test_another_network_or_version_is_refused(chain: Chain, words: bytes) -> None:
    door = link.Link(chain, OWN)
    with pytest.raises(InvalidMessage):
        door.admit(PEER, words)
    assert not door.is_member(PEER)
