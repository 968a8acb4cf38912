"""Who is let in, and as whom."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio
from msgspec.structs import replace
from structlog.testing import capture_logs

from chain.chain import Chain
from chain.header import address_of_secret
from node import link, wire
from node.p2p.types import PeerConnected, PeerLost
from node.wire import InvalidMessage
from tests.chain.chain_kit import CHAIN_ID, USERS, VALIDATORS, open_chain
from tests.p2p.p2p_kit import PATIENCE_S, Node, key, start

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


@pytest.mark.parametrize("words", [[3], [3, "whatever", {"version": 2}], [2**40] * 9])
def test_of_another_version_only_the_number_is_read(words: list[object]) -> None:
    with pytest.raises(InvalidMessage, match=f"peer speaks protocol version {words[0]}, here 2$"):
        wire.decode_hello(msgspec.msgpack.encode(words))


@pytest.mark.parametrize("words", [b"", b"\xc1", b"\x90", b"\x91\x02", msgspec.msgpack.encode({"version": 2})])
def test_nonsense_is_of_no_version(words: bytes) -> None:
    with pytest.raises(InvalidMessage, match="not a Hello"):
        wire.decode_hello(words)


async def test_peers_of_two_versions_tell_each_other_and_leave_each_other_alone(chain: Chain) -> None:
    newer = msgspec.msgpack.encode([3, CHAIN_ID, chain.genesis_digest, None, b"", ["new"]])
    patience = {"redial_foreign_s": 1000.0}
    async with trio.open_nursery() as nursery:
        with capture_logs() as logs:
            ours = await start(nursery, key(1), link.hello(chain, PEER, None))
            theirs = await start(nursery, key(2), newer, bootstrap=ours.network.addresses, **patience)
            mine = await turned_away(ours, chain)
            # the other side heard ours before it was dropped, and would say "peer speaks protocol version 2, here 3"
            assert (await theirs.until(PeerConnected)).hello == link.hello(chain, PEER, None)
            await theirs.until(PeerLost)
            # and as the one that dials: once
            dialler = await start(
                nursery, key(3), link.hello(chain, PEER, None), bootstrap=theirs.network.addresses, **patience
            )
            dialling = await turned_away(dialler, chain)
            with trio.fail_after(PATIENCE_S):
                while not (pauses := [each["pause_s"] for each in logs if each.get("pause_s", 0) > 1]):
                    await trio.lowlevel.checkpoint()
        assert mine == dialling == "peer speaks protocol version 3, here 2"
        assert pauses[0] >= 500
        said = [each for each in logs if each["event"] == "peer.turned_away"]
        assert [(each["log_level"], each["reason"]) for each in said] == [("warning", mine)] * 2
        nursery.cancel_scope.cancel()


async def turned_away(node: Node, chain: Chain) -> str:
    """Greet the next peer as the daemon does; why it was lost."""
    door = link.Link(chain, OWN)
    door.attach(node.network, {})
    event = await node.until(PeerConnected)
    with pytest.raises(InvalidMessage) as refused:
        door.admit(event.peer, event.hello)
    node.network.turn_away(event.peer, str(refused.value))
    return (await node.until(PeerLost)).reason
