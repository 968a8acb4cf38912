"""The peers as the API shows them."""

from __future__ import annotations

from collections.abc import Sequence

from node.api import schema
from node.link import Link
from node.p2p.host import Network


def peers(network: Network, link: Link, validators: Sequence[bytes]) -> list[schema.Peer]:
    """Connected peers, validators first by index, then who has been here longest."""
    found = []
    for info in network.peers():
        index = link.index_of(info.peer)
        found.append(
            schema.Peer(
                peer_id=info.peer,
                address=info.address,
                direction="in" if info.direction == "inbound" else "out",
                connected_s=round(info.connected_since_s, 3),
                bytes_in=info.bytes_in,
                bytes_out=info.bytes_out,
                refused=info.refused,
                account=None if index is None else "0x" + validators[index].hex(),
                validator=index,
            )
        )
    return sorted(found, key=lambda peer: (peer.validator is None, peer.validator or 0, -peer.connected_s))


def known_peers(network: Network, now: float) -> list[schema.KnownPeer]:
    """The peer book; `now` in unix seconds."""
    lonely = not network.peers()
    return [
        schema.KnownPeer(
            peer_id=known.peer,
            address=str(known.address),
            validator=known.validator,
            connected=network.is_connected(known.peer),
            met_s=None if known.proven_at is None else round(max(now - known.proven_at, 0.0), 1),
            told_s=round(max(now - known.told_at, 0.0), 1),
            failures=known.failures,
            retry_in_s=round(max(known.retry_at(lonely) - now, 0.0), 1),
        )
        for known in network.known()
    ]
