"""A member of the network that sends garbage everywhere; the network must finalise a round all the same."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio

from chain.chain import Chain
from chain.claims import sign_attestation
from chain.genesis import load_network
from chain.store import Store
from node import link, wire
from node.blobs import PROTOCOL as BLOBS
from node.ledger import TOPIC_REFUSALS, TOPIC_TRANSACTIONS
from node.p2p.config import P2PConfig
from node.p2p.host import Network, run_network
from node.p2p.libp2p_noise import Identity
from node.p2p.peers import parse_address
from node.p2p.types import ConnectionEnded, PeerConnected, RequestFailed
from tests.network.kit import LIMIT_S, SERVER, VALIDATORS, WORKERS, Net, network
from tests.p2p.p2p_kit import stranger

pytestmark = pytest.mark.network
KINDS = (*wire.KINDS, "nonsense", "")


def garbage(seed: int) -> list[bytes]:
    """Payloads that are wrong each in a way of its own."""
    rng = random.Random(seed)
    wrong_types = [[], [[b"x"] * 3], [1, 2, 3, 4], [b"\x00" * 32] * 4, {"a": 1}, [[[]]], [2**63, b""], [-1, -1]]
    truncated = wire.encode(wire.Head(7, bytes(32)))[:-5]
    lie = wire.to_wire(sign_attestation(b"\x01" * 32, 0, bytes(32), True))
    return [
        b"",
        b"\xc1" * 40,
        rng.randbytes(3000),
        truncated,
        *[msgspec.msgpack.encode(each) for each in wrong_types],
        wire.encode(wire.Attestations((lie,))),
        wire.encode(wire.Transactions((rng.randbytes(200), b"\x02" + rng.randbytes(90), b""))),
        wire.encode(wire.WantBlocks(10**9, 5)),
        wire.encode(wire.Blocks(1, ((rng.randbytes(50), rng.randbytes(50)),))),
    ]


async def connected_peers(network: Network, count: int) -> list[str]:
    """Wait until `count` peers are connected; their ids."""
    peers: list[str] = []
    async for event in network.events:
        if isinstance(event, PeerConnected):
            peers.append(event.peer)
        if len(peers) == count:
            break
    return peers


async def attack(chain: Chain, addresses: list[str]) -> None:
    """Everything that a member can send, each kind as another member (many faults get one kept out); then strangers."""
    hello = link.hello(chain, "", None)
    for number, kind in enumerate(KINDS):
        async with trio.open_nursery() as nursery:
            config = P2PConfig(bootstrap=tuple(addresses))
            member: Network = await nursery.start(run_network, config, bytes([100 + number]) * 32, hello)
            for peer in await connected_peers(member, len(addresses)):
                for payload in garbage(number):
                    member.send(peer, kind, payload)
                # the answer shows that everything before it was taken in
                assert await member.request(peer, BLOBS, msgspec.msgpack.encode([0, bytes(32), 0, 9]), 1000, LIMIT_S)
                for payload in garbage(number)[:4]:
                    with pytest.raises(RequestFailed):
                        await member.request(peer, BLOBS, payload, 1000, LIMIT_S)
            for payload in garbage(number):
                for topic in (TOPIC_TRANSACTIONS, TOPIC_REFUSALS):
                    await member.publish(f"flnode/{chain.genesis_digest.hex()[:16]}/{topic}", payload)
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        for address in addresses:
            await strangers(nursery, address, hello)
        nursery.cancel_scope.cancel()


async def strangers(nursery: trio.Nursery, address: str, hello: bytes) -> None:
    """Wrong hellos, an invalid protobuf on the gossip protocol, noise on the port."""
    place = parse_address(address)
    target: Any = SimpleNamespace(network=SimpleNamespace(addresses=(address,)), peer=place.peer)
    for number, words in enumerate((b"", b"\xff" * 50, wire.encode(wire.Hello(9, 1, bytes(32), None, b"")), hello)):
        seed = bytes([number + 1]) * 32
        visitor = await stranger(nursery, target, seed)
        with trio.fail_after(LIMIT_S):
            session = visitor.session(Identity(seed).peer < place.peer, words)
            if words == hello:
                await session
                stream, _ = await visitor.open("/meshsub/1.1.0")
                await stream.send(b"\x10" + bytes(range(1, 17)))
            else:
                with suppress(ConnectionEnded):  # perhaps before we have read what it says of itself
                    await session
            await visitor.closed.wait()
    for noise in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 500, b""):
        async with await trio.open_tcp_stream(place.host, place.port) as tcp:
            if noise:
                await tcp.send_all(noise)


def test_garbage_to_every_topic_and_stream_stops_nothing(tmp_path: Path) -> None:
    with network(tmp_path, (*VALIDATORS, *WORKERS, SERVER)) as net:
        net.start()
        net.wait_connected("server")
        addresses = [net.status(v.name).addresses[0] for v in VALIDATORS]  # type: ignore[union-attr]
        store = Store(tmp_path / "attacker")
        try:
            chain = Chain(store, load_network(net.nodes["server"].config.network_path))
            trio.run(attack, chain, addresses)
        finally:
            store.close()
        api_garbage(net)
        job = net.submit("server", rounds_max=1)
        assert net.wait_ended("server", job).rounds_settled == 1
        for validator in VALIDATORS:
            status = net.status(validator.name)
            assert status is not None
            assert {*wire.KINDS, "unknown", "gossip"} - set(status.refused) <= {wire.BLOCKS}
            assert status.finalised_head.number > 0


def api_garbage(net: Net) -> None:
    """The API answers nonsense with an error and goes on."""
    for running in net.running.values():
        http = running.client._http
        wrong_params = b'{"jsonrpc":"2.0","id":1,"method":"fl_job","params":{"id":-1}}'
        for body in (b"", b"{", b"[]", b"null", wrong_params, b"\xff" * 99):
            answer = http.post("http://localhost/", content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (200, 400)
