"""The [p2p] section of a node's configuration; parsed once, frozen, refused loudly."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from node.p2p.peers import parse_address

KIB = 1024
MIB = 1024 * KIB


class P2PConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Addresses, and a limit on everything that a stranger can make this node spend."""

    listen: Annotated[str, Meta(description="Port 0: any free port.")] = "/ip4/127.0.0.1/tcp/0"
    bootstrap: Annotated[tuple[str, ...], Meta(description="Dialled for ever; best with /p2p/PEER at the end.")] = ()

    announce: Annotated[
        tuple[str, ...], Meta(description="Where peers are told to dial this node; empty: where it listens.")
    ] = ()

    peers_wanted: Annotated[
        int, Meta(ge=0, description="While fewer are connected, known peers are dialled, besides those in bootstrap.")
    ] = 8
    known_max: Annotated[
        int, Meta(gt=0, description="Addresses to remember of peers met there; as many that peers only told of.")
    ] = 512
    peers_max: Annotated[
        int, Meta(gt=0, description="Connections of both directions; addresses in bootstrap are dialled regardless.")
    ] = 64
    inbound_per_address_max: Annotated[int, Meta(gt=0, description="Inbound connections from one IP address.")] = 32
    streams_per_peer_max: Annotated[
        int, Meta(gt=0, description="Streams that one peer may have open towards us; each may buffer 256 KiB.")
    ] = 64

    hello_bytes_max: Annotated[int, Meta(gt=0, description="Largest first message of a peer, in bytes.")] = 64 * KIB
    message_bytes_max: Annotated[int, Meta(gt=0, description="One message of the persistent stream.")] = 4 * MIB
    send_queue_max: Annotated[
        int, Meta(gt=0, description="Messages waiting for one peer; beyond, it is too slow and disconnected.")
    ] = 4096
    send_queue_bytes_max: Annotated[
        int, Meta(gt=0, description="Bytes waiting for one peer; beyond, it is too slow and disconnected.")
    ] = 32 * MIB
    events_max: Annotated[
        int, Meta(gt=0, description="Events waiting for the node; gossip may fill half. As many of validators.")
    ] = 4096
    events_bytes_max: Annotated[int, Meta(gt=0, description="Bytes of messages among these events.")] = 64 * MIB

    gossip_bytes_max: Annotated[int, Meta(gt=0, description="Payload of one gossip message.")] = 64 * KIB
    gossip_per_peer_per_s_max: Annotated[
        float, Meta(gt=0, description="Messages a second that one peer may hand us; the rest is dropped.")
    ] = 200.0
    gossip_topics_max: Annotated[int, Meta(gt=0, description="Topics a peer may subscribe to.")] = 32

    request_bytes_max: Annotated[int, Meta(gt=0, description="A request that we serve.")] = 1 * MIB
    request_timeout_s: Annotated[
        float, Meta(gt=0, description="From asking to the end of the answer, unless the caller says otherwise.")
    ] = 30.0
    serve_timeout_s: Annotated[float, Meta(gt=0, description="For answering one request.")] = 60.0

    dial_timeout_s: Annotated[float, Meta(gt=0, description="Seconds for opening a TCP connection.")] = 5.0
    handshake_timeout_s: Annotated[float, Meta(gt=0, description="From an open socket to both hellos.")] = 10.0
    keepalive_s: Annotated[float, Meta(gt=0, description="An idle peer is asked for a sign of life this often.")] = 5.0
    silence_max_s: Annotated[float, Meta(gt=0, description="A peer that says nothing for so long is gone.")] = 20.0
    stall_s: Annotated[float, Meta(gt=0, description="A peer that takes no bytes for so long is gone.")] = 20.0
    probe_s: Annotated[
        float, Meta(gt=0, description="Time for a sign of life when the same peer connects a second time.")
    ] = 2.0
    redial_min_s: Annotated[
        float, Meta(gt=0, description="First pause after a failed dial; doubles with every failure.")
    ] = 0.1
    redial_max_s: Annotated[
        float, Meta(gt=0, description="Longest pause between dials of a bootstrap address where nobody is.")
    ] = 1.0
    redial_foreign_s: Annotated[
        float, Meta(gt=0, description="Longest pause where somebody is who is not of our network, or sends us away.")
    ] = 60.0
    known_redial_max_s: Annotated[
        float, Meta(gt=0, description="Longest pause between dials of a known peer, not in bootstrap and no validator.")
    ] = 600.0

    refusals_max: Annotated[int, Meta(gt=0, description="Faults within ban_s seconds that get a peer banned.")] = 100
    ban_s: Annotated[float, Meta(gt=0, description="Seconds for which a banned peer is not let in.")] = 60.0

    blob_fetch_bytes_max: Annotated[
        int, Meta(ge=MIB, description="Memory of all blobs being fetched; a larger blob is fetched alone.")
    ] = 512 * MIB
    blob_fetches_max: Annotated[
        int, Meta(gt=0, description="Fetches that ask peers at the same time; others wait, the oldest is next.")
    ] = 256
    blob_relay_bytes_max: Annotated[
        int, Meta(gt=0, description="A blob that is fetched on a peer's behalf; all of them share an eighth.")
    ] = 64 * MIB
    blob_holders_max: Annotated[
        int, Meta(gt=0, description="Peers that one fetch downloads from at the same time.")
    ] = 4
    blob_wants_max: Annotated[int, Meta(gt=0, description="Peers that one fetch asks at the same time.")] = 16
    blob_relays_max: Annotated[
        int, Meta(gt=0, description="Fetches at the same time on behalf of peers, 2 for each.")
    ] = 8
    blob_want_timeout_s: Annotated[float, Meta(gt=0, description="For asking a peer whether it has a blob.")] = 5.0
    blob_relay_timeout_s: Annotated[
        float, Meta(gt=0, description="How long a peer looks on our behalf, and we on a peer's.")
    ] = 10.0
    blob_chunks_timeout_s: Annotated[float, Meta(gt=0, description="For one request of up to 4 MiB of leaves.")] = 30.0

    def __post_init__(self) -> None:
        lists = {"listen": (self.listen,), "bootstrap": self.bootstrap, "announce": self.announce}
        for key, text in ((key, text) for key, texts in lists.items() for text in texts):
            try:
                parse_address(text)
            except ValueError as error:
                raise ValueError(f"p2p.{key}: {error}") from None
        if self.redial_min_s > self.redial_max_s:
            raise ValueError("p2p.redial_min_s: is above redial_max_s")
        if self.redial_min_s > self.redial_foreign_s:
            raise ValueError("p2p.redial_min_s: is above redial_foreign_s")
        if self.keepalive_s >= self.silence_max_s:
            raise ValueError("p2p.keepalive_s: must be below silence_max_s")
