"""Dials known peers while too few are connected, asks newcomers where they listen, and keeps the book on disk."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

import structlog
import trio

from node.p2p.addresses import AddressBook, InvalidBook, Known
from node.p2p.config import P2PConfig
from node.p2p.dialler import Dialler
from node.p2p.libp2p_gossip import told_addresses
from node.p2p.links import Link, Links
from node.p2p.peers import Address
from node.p2p.requests import open_requested
from node.p2p.types import OUTBOUND, ConnectionEnded, PeerFault

log = structlog.get_logger(__name__)

IDENTIFY: Final = "/ipfs/id/1.0.0"
_IDENTIFY_BYTES_MAX: Final = 8192
_DIALS_MAX: Final = 4  # at the same time
_SAVE_PAUSE_S: Final = 5.0
_REST_S: Final = 3600.0  # with nobody to dial


class Seeker:
    """
    Args:
        file: where the book is kept; None: nowhere.
        clock: unix seconds.
    """

    def __init__(
        self,
        config: P2PConfig,
        file: Path | None,
        links: Links,
        dialler: Dialler,
        clock: Callable[[], float],
    ) -> None:
        self.book = AddressBook(config.known_max, config.known_redial_max_s)
        self._config, self._file, self._links, self._dialler, self._clock = config, file, links, dialler, clock
        self._dialling: dict[str, bool] = {}  # peer -> whether it turned out to be of our network
        self._met: dict[str, tuple[Address, bool]] = {}  # connected, and where we dialled them
        self._changed, self._to_save = trio.Event(), trio.Event()
        self._load()

    def lost(self, peer: str) -> None:
        """A peer's session is over."""
        if (met := self._met.pop(peer, None)) is not None:
            self.book.prove(peer, *met, self._clock())  # it was there until now
            self._to_save.set()
        self._changed.set()

    def admitted(self, link: Link, validator: bool) -> None:
        """The peer of this link is of our network."""
        if link.peer in self._dialling:
            self._dialling[link.peer] = True
        if link.direction == OUTBOUND:
            self._met[link.peer] = (link.address, validator)
            self.book.prove(link.peer, link.address, validator, self._clock())
            self._to_save.set()
        else:
            link.nursery.start_soon(self._ask, link)

    async def run(self) -> None:
        """Dial and save until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_saved)
            while True:
                for known in self._due():
                    self._dialling[known.peer] = False
                    nursery.start_soon(self._try, known.peer, known.address)
                with trio.move_on_after(self._rest_s()):
                    await self._changed.wait()
                self._changed = trio.Event()

    # ---- dialling ---------------------------------------------------------------------------------------------------
    @property
    def _missing(self) -> int:
        return min(_DIALS_MAX - len(self._pending()), self._config.peers_wanted - len(self._busy()))

    def _pending(self) -> set[str]:
        return self._dialling.keys() - self._links.by_peer.keys()

    def _busy(self) -> set[str]:
        return self._dialling.keys() | self._links.by_peer.keys()

    def _due(self) -> list[Known]:
        return self.book.due(self._busy(), self._dialler.kept, self._missing, self._clock())

    def _rest_s(self) -> float:
        next_at = self.book.next_at(self._busy(), self._dialler.kept) if self._missing > 0 else None
        return _REST_S if next_at is None else max(next_at - self._clock(), 0.01)

    async def _try(self, peer: str, address: Address) -> None:
        try:
            ended = await self._dialler.dial(replace(address, peer=peer), lambda _peer: None)
            if not self._dialling[peer] and peer not in self._links.by_peer:
                self.book.fail(peer, address, random.random(), self._clock())
                self._to_save.set()
                log.debug("peer.dial_ended", peer=peer, address=str(address), reason=ended.reason)
        finally:
            del self._dialling[peer]
            self._changed.set()

    async def _ask(self, link: Link) -> None:
        """Have a peer that dialled us say where it can be dialled."""
        try:
            with trio.move_on_after(self._config.handshake_timeout_s):
                stream, reader = await open_requested(link, IDENTIFY, b"")
                try:
                    addresses = told_addresses(await reader.sized(_IDENTIFY_BYTES_MAX))
                finally:
                    stream.reset()
                self.book.tell(link.peer, addresses, link.address.host, self._clock())
                self._to_save.set()
        except (ConnectionEnded, PeerFault) as error:
            log.debug("peer.not_identified", peer=link.peer, reason=str(error))

    # ---- the file ---------------------------------------------------------------------------------------------------
    def _load(self) -> None:
        try:
            if self._file is not None:
                self.book.load(self._file.read_bytes())
        except FileNotFoundError:
            pass
        except (OSError, InvalidBook) as error:  # it is a help, not a need
            log.warning("peers.not_loaded", path=str(self._file), reason=str(error))

    async def _keep_saved(self) -> None:
        """What is new is written at once, what follows it shortly after together, and the rest at the end."""
        try:
            while True:
                await self._to_save.wait()
                self._save()
                await trio.sleep(_SAVE_PAUSE_S)
        finally:
            if self._to_save.is_set():
                self._save()

    def _save(self) -> None:
        self._to_save = trio.Event()
        if self._file is not None:
            try:
                _replace(self._file, self.book.encode())
            except OSError as error:
                log.warning("peers.not_saved", path=str(self._file), reason=error.strerror or str(error))


def _replace(path: Path, data: bytes) -> None:
    """The file appears under its name whole or not at all."""
    draft = path.with_suffix(".new")
    draft.write_bytes(data)
    draft.replace(path)
