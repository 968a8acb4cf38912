"""Opens connections, and keeps those to addresses that the operator named."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import structlog
import trio

from node.p2p.config import P2PConfig
from node.p2p.links import Ended, Links
from node.p2p.peers import Address, Redial
from node.p2p.types import OUTBOUND

log = structlog.get_logger(__name__)


class Dialler:
    """
    Args:
        own: this node's peer id.
        nursery: where the tasks live that keep a connection.
    """

    def __init__(self, config: P2PConfig, links: Links, own: str, nursery: trio.Nursery) -> None:
        self._config, self._links, self._own, self._nursery = config, links, own, nursery
        self.kept: set[Address] = set()  # without their peers

    def keep(self, address: Address) -> None:
        """Keep a connection to an address from now on."""
        self.kept.add(replace(address, peer=None))
        self._nursery.start_soon(self.keep_dialling, address)

    async def keep_dialling(self, address: Address) -> None:
        """Keep a connection to an address for ever, unless it turns out to be this node."""
        config, peer = self._config, address.peer
        redial = Redial(config.redial_min_s, config.redial_max_s, config.redial_foreign_s)

        def learn(proven: str) -> None:
            nonlocal peer
            peer = proven

        while peer != self._own:
            connected = None if peer is None else self._links.by_peer.get(peer)
            if connected is not None:
                await connected.closed.wait()
            ended = await self.dial(address, learn)
            if peer is not None and peer in self._links.by_peer:
                continue
            pause_s = redial.pause_s(ended.session_s, ended.foreign, random.random())
            log.debug("peer.dial_ended", address=str(address), reason=ended.reason, pause_s=round(pause_s, 3))
            await trio.sleep(pause_s)
        log.debug("peer.dial_ended", address=str(address), reason="it is this node itself")

    async def dial(self, address: Address, learn: Callable[[str], None]) -> Ended:
        """Open a connection and carry it to its end; `learn` is told the peer's proven id."""
        socket = None
        try:
            with trio.move_on_after(self._config.dial_timeout_s):
                socket = await trio.open_tcp_stream(address.host, address.port)
        except OSError as error:
            return Ended(str(error))
        if socket is None:
            return Ended("no answer")
        return await self._links.carry(socket, address, OUTBOUND, learn)
