"""Between the ledger and the p2p network: who of the connected peers is which validator.

The first words of a connection (wire.Hello) say which chain a peer follows and, for a validator, prove its key. A
peer of another network or version is told so and dropped; nothing it sent reaches the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from chain.chain import Chain
from chain.header import address_of_secret
from node import wire
from node.p2p.gossip import Check
from node.p2p.host import Network
from node.p2p.types import MessageTooLarge

log = structlog.get_logger()


def hello(chain: Chain, peer_id: str, key: bytes | None) -> bytes:
    """What this node says first; `key` if it validates whenever it is in the list."""
    chain_id, genesis = chain.network.chain_id, chain.genesis_digest
    proof = b"" if key is None else wire.prove(key, chain_id, genesis, peer_id)
    address = None if key is None else address_of_secret(key)
    return wire.encode(wire.Hello(wire.PROTOCOL_VERSION, chain_id, genesis, address, proof))


class Link:
    """The ledger's wire; see ledger.LedgerWire for what each method means."""

    def __init__(self, chain: Chain, own_address: bytes) -> None:
        self._chain, self._own_address = chain, own_address
        self._network: Network | None = None
        self._members: dict[str, bytes | None] = {}  # peers of our network -> the address whose key they proved

    def attach(self, network: Network, topics: Mapping[str, Check]) -> None:
        """The network is up: follow these topics of it, and relay what their checks let pass."""
        self._network = network
        for topic, check in topics.items():
            network.subscribe(self._topic(topic), check)

    def topic_of(self, full: str) -> str:
        """Our name of a topic on the wire, which also names the network."""
        return full.removeprefix(self._topic(""))

    def _topic(self, topic: str) -> str:
        return f"flnode/{self._chain.genesis_digest.hex()[:16]}/{topic}"

    def admit(self, peer: str, greeting: bytes) -> int | None:
        """Check a peer's first words; its validator index, if it has one.

        Raises:
            InvalidMessage: it does not belong here, and why.
        """
        said = wire.decode_hello(greeting)
        if (said.chain_id, said.genesis) != (self._chain.network.chain_id, self._chain.genesis_digest):
            raise wire.InvalidMessage("it follows another network")
        if said.validator is not None:
            if said.validator == self._own_address:
                raise wire.InvalidMessage("it validates with this node's own key")
            if not wire.proves(said.proof, said.validator, said.chain_id, said.genesis, peer):
                raise wire.InvalidMessage(f"wrong proof of having the key of 0x{said.validator.hex()}")
        self._members[peer] = said.validator
        self._tell_network(peer)
        return self.index_of(peer)

    def _tell_network(self, peer: str) -> None:
        if self._network is not None:
            self._network.admit(peer, self.index_of(peer) is not None)

    def lose(self, peer: str) -> bool:
        """The peer is gone; whether it had been admitted."""
        known = peer in self._members
        self._members.pop(peer, None)
        return known

    def is_member(self, peer: str) -> bool:
        return peer in self._members

    def index_of(self, peer: str) -> int | None:
        """Its place among the present validators, if it has one."""
        address, validators = self._members.get(peer), self._chain.epochs.present.validators
        return validators.index(address) if address in validators else None

    @property
    def members(self) -> int:
        """Connected peers of our network."""
        return len(self._members)

    # ---- LedgerWire -------------------------------------------------------------------------------------------------
    @property
    def validators_connected(self) -> int:
        return len({*self._members.values()} & {*self._chain.epochs.present.validators})

    def epoch_began(self) -> None:
        for peer in self._members:
            self._tell_network(peer)

    def to_validator(self, index: int, kind: str, payload: bytes) -> None:
        wanted = self._chain.epochs.present.validators[index]
        for peer, address in self._members.items():
            if address == wanted:
                self._send(peer, kind, payload)

    def to_validators(self, kind: str, payload: bytes) -> None:
        validators = self._chain.epochs.present.validators
        for peer, address in self._members.items():
            if address in validators:
                self._send(peer, kind, payload)

    def to_peer(self, peer: str, kind: str, payload: bytes) -> None:
        self._send(peer, kind, payload)

    def to_all(self, kind: str, payload: bytes) -> None:
        for peer in self._members:
            self._send(peer, kind, payload)

    def gossip(self, topic: str, payload: bytes) -> None:
        if self._network is None:
            return
        try:
            self._network.publish_nowait(self._topic(topic), payload)  # False: too much; it is repeated anyway
        except MessageTooLarge as error:
            log.error("gossip.too_large", topic=topic, reason=str(error))

    def drop(self, peer: str, reason: str) -> None:
        if self._network is not None:
            self._network.disconnect(peer, reason)

    def refuse(self, peer: str, reason: str) -> None:
        if self._network is not None:
            self._network.refuse(peer, reason)

    def _send(self, peer: str, kind: str, payload: bytes) -> None:
        if self._network is None:
            return
        try:
            self._network.send(peer, kind, payload)
        except MessageTooLarge as error:
            log.error("message.too_large", kind=kind, reason=str(error))
