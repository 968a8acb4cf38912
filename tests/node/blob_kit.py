"""Stores and exchanges on real networks in one trio run, and holders that lie."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from node.blob_store import BlobStore
from node.blobs import BlobExchange
from node.p2p.config import P2PConfig
from node.p2p.host import Network, run_network

PATIENCE_S = 20.0
MIB = 1 << 20


BLOCK = bytes((low * 7 + (low >> 8) * 13) & 255 for low in range(1 << 16))


def pattern(size: int) -> bytes:
    """Bytes with byte i = (i * 7 + (i >> 8) * 13 + (i >> 16) * 31) mod 256."""
    blocks = range(-(-size // len(BLOCK)))
    return b"".join(BLOCK.translate(bytes((byte + 31 * block) & 255 for byte in range(256))) for block in blocks)[:size]


class Holder:
    """A node with a network and, unless it only lies, a store and an exchange."""

    def __init__(self, network: Network, store: BlobStore) -> None:
        self.network, self.store = network, store
        self.exchange: BlobExchange
        self.scope: trio.CancelScope

    @property
    def peer(self) -> str:
        return self.network.peer_id

    async def drain(self) -> None:
        async for _ in self.network.events:
            pass


async def start(
    nursery: trio.Nursery,
    path: Path,
    seed: int,
    bootstrap: tuple[str, ...] = (),
    *,
    honest: bool = True,
    is_member: Callable[[str], bool] = lambda _peer: True,
    bytes_max: int = 1 << 30,
    **changes: Any,
) -> Holder:
    """Start a node; `honest` false: without an exchange, its protocol may be served by hand."""
    config = P2PConfig(bootstrap=bootstrap, redial_min_s=0.02, redial_max_s=0.1, **changes)
    scope = trio.CancelScope()

    async def run(*, task_status: Any) -> None:
        with scope:
            await run_network(config, bytes([seed]) * 32, b"", task_status=task_status)

    holder = Holder(await nursery.start(run), BlobStore(path / str(seed), bytes_max))
    holder.scope = scope
    if honest:
        holder.exchange = await nursery.start(partial(BlobExchange.serve, holder.store, holder.network, is_member))
    return holder


@asynccontextmanager
async def holders(path: Path, *specs: dict[str, Any]) -> AsyncIterator[list[Holder]]:
    """Nodes 1, 2, ...; `to` in a spec: indices of the nodes it is connected to."""
    with trio.fail_after(3 * PATIENCE_S):
        async with trio.open_nursery() as nursery:
            made: list[Holder] = []
            for seed, spec in enumerate(specs, 1):
                changes = dict(spec)
                targets = [made[index] for index in changes.pop("to", ())]
                addresses = tuple(target.network.addresses[0] for target in targets)
                made.append(await start(nursery, path, seed, addresses, **changes))
                await connected(made[-1], *targets)
            for holder in made:
                nursery.start_soon(holder.drain)
            yield made
            nursery.cancel_scope.cancel()


async def connected(holder: Holder, *others: Holder) -> None:
    """Wait until both sides know of each connection."""
    with trio.fail_after(PATIENCE_S):
        for other in others:
            while not (holder.network.is_connected(other.peer) and other.network.is_connected(holder.peer)):
                await trio.lowlevel.checkpoint()


__all__ = ["MIB", "PATIENCE_S", "Holder", "connected", "holders", "pattern", "start"]
