"""What nodes say to each other on their persistent streams and by gossip, apart from consensus itself.

msgpack arrays, decoded strictly: anything else raises InvalidMessage and is counted against the peer that sent it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Final, TypeVar

import coincurve
import msgspec
from eth_hash.auto import keccak
from msgspec import Meta

from chain.types import Attestation

PROTOCOL_VERSION: Final = 2
HELLO_BYTES_MAX: Final = 1024
TRANSACTIONS_MAX: Final = 512  # in one batch
TRANSACTION_BYTES_MAX: Final = 60 * 1024  # as chain.evm takes them
GOSSIP_BYTES_MAX: Final = 64 * 1024
ATTESTATIONS_MAX: Final = 1024
GOSSIP_REFUSALS_MAX: Final = 16  # in one message; a validator gossips them one by one
BLOCKS_MAX: Final = 128  # asked for at once
ITEMS_MAX: Final = 1024  # in one answer: with the empty blocks that prove the last one of an epoch
BLOCKS_BYTES_MAX: Final = 900_000  # of one answer to WantBlocks

CONSENSUS: Final = "consensus"
TRANSACTIONS: Final = "transactions"
ATTESTATIONS: Final = "attestations"
HEAD: Final = "head"
WANT_BLOCKS: Final = "want_blocks"
BLOCKS: Final = "blocks"
KINDS: Final = frozenset({CONSENSUS, TRANSACTIONS, ATTESTATIONS, HEAD, WANT_BLOCKS, BLOCKS})

Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
RawTransaction = Annotated[bytes, Meta(max_length=TRANSACTION_BYTES_MAX)]
Signature = Annotated[bytes, Meta(min_length=65, max_length=65)]


class InvalidMessage(Exception):
    """A peer sent something that is not what its kind says."""


class _Wire(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    pass


class _Version(msgspec.Struct, frozen=True, array_like=True):
    """What a hello of any version begins with."""

    version: int


class Hello(_Wire, frozen=True):
    """First words of a connection; `proof` shows that the peer holds the key of `validator`, an address."""

    version: int
    chain_id: int
    genesis: Digest
    validator: Annotated[bytes, Meta(min_length=20, max_length=20)] | None
    proof: bytes


class Transactions(_Wire, frozen=True):
    raws: Annotated[tuple[RawTransaction, ...], Meta(max_length=TRANSACTIONS_MAX)]


class WireAttestation(_Wire, frozen=True):
    claim: Digest
    verdict: bool
    signer: Annotated[int, Meta(ge=0)]
    signature: Signature


class Attestations(_Wire, frozen=True):
    items: Annotated[tuple[WireAttestation, ...], Meta(max_length=ATTESTATIONS_MAX)]


class Head(_Wire, frozen=True):
    """The sender's finalised head."""

    number: Annotated[int, Meta(ge=0)]
    digest: Digest


class WantBlocks(_Wire, frozen=True):
    first: Annotated[int, Meta(ge=1)]
    count: Annotated[int, Meta(ge=1, le=BLOCKS_MAX)]


class Blocks(_Wire, frozen=True):
    """Finalised blocks in order, each with the certificate that is kept for it, if any; the last one has one.

    Encoded with chain.messages, so that blocks have one form on the wire.
    """

    first: int
    items: Annotated[tuple[tuple[bytes, bytes | None], ...], Meta(max_length=ITEMS_MAX)]


class WantGrant(_Wire, frozen=True):
    """A request for the faucet's coins; `proof` shows that the asking peer holds the account's key."""

    account: Annotated[bytes, Meta(min_length=20, max_length=20)]
    proof: Signature


class GrantAnswer(_Wire, frozen=True):
    """`reason`: why not; None if the validator calls the faucet."""

    reason: Annotated[str, Meta(max_length=200)] | None


Message = TypeVar("Message", bound=_Wire)
_encoder = msgspec.msgpack.Encoder()


def encode(message: _Wire) -> bytes:
    return _encoder.encode(message)


def decode(payload: bytes, kind: type[Message]) -> Message:
    """Raises InvalidMessage."""
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:  # ValidationError is a DecodeError
        raise InvalidMessage(f"not a {kind.__name__}: {error}") from None


def decode_hello(payload: bytes) -> Hello:
    """A peer's first words, if it speaks this version.

    Whatever a version says in its hello, the first element is its number. So both sides can say what is wrong.

    Raises:
        InvalidMessage.
    """
    if len(payload) > HELLO_BYTES_MAX:
        raise InvalidMessage(f"not a Hello: {len(payload)} bytes, at most {HELLO_BYTES_MAX}")
    try:
        # Typed, and the rest skipped: what is decoded without a type nests as deeply as a stranger likes.
        version = msgspec.msgpack.decode(payload, type=_Version).version
    except (msgspec.DecodeError, UnicodeDecodeError):
        version = PROTOCOL_VERSION  # of none: the next line says what is wrong
    if version != PROTOCOL_VERSION:
        raise InvalidMessage(f"peer speaks protocol version {version}, here {PROTOCOL_VERSION}")
    return decode(payload, Hello)


def batches(raws: Iterable[bytes]) -> list[bytes]:
    """Transactions messages of at most what gossip carries."""
    groups: list[list[bytes]] = [[]]
    size = 0
    for raw in raws:
        item = len(raw) + 5  # with its msgpack header
        if size + item > GOSSIP_BYTES_MAX - 1024 or len(groups[-1]) >= TRANSACTIONS_MAX:
            groups.append([])
            size = 0
        groups[-1].append(raw)
        size += item
    return [encode(Transactions(tuple(group))) for group in groups if group]


def to_wire(attestation: Attestation) -> WireAttestation:
    return WireAttestation(attestation.claim, attestation.verdict, attestation.signer, attestation.signature)


def from_wire(item: WireAttestation) -> Attestation:
    return Attestation(item.claim, item.verdict, item.signer, item.signature)


def _proof_digest(chain_id: int, genesis: bytes, peer_id: str) -> bytes:
    return keccak(b"flnode/hello/1" + chain_id.to_bytes(32, "big") + genesis + peer_id.encode())


def prove(key: bytes, chain_id: int, genesis: bytes, peer_id: str) -> bytes:
    """Show that whoever speaks as `peer_id` (which the noise handshake authenticates) holds a validator's key."""
    return coincurve.PrivateKey(key).sign_recoverable(_proof_digest(chain_id, genesis, peer_id), hasher=None)


def proves(proof: bytes, address: bytes, chain_id: int, genesis: bytes, peer_id: str) -> bool:
    return _is_signed(proof, _proof_digest(chain_id, genesis, peer_id), address)


def _grant_digest(chain_id: int, genesis: bytes, peer_id: str) -> bytes:
    return keccak(b"flnode/grant/1" + chain_id.to_bytes(32, "big") + genesis + peer_id.encode())


def sign_want_grant(key: bytes, chain_id: int, genesis: bytes, peer_id: str) -> bytes:
    """The account whose key this is wants a grant, and asks as `peer_id`, of this network's validators only."""
    return coincurve.PrivateKey(key).sign_recoverable(_grant_digest(chain_id, genesis, peer_id), hasher=None)


def grant_is_wanted_by(account: bytes, proof: bytes, chain_id: int, genesis: bytes, peer_id: str) -> bool:
    return _is_signed(proof, _grant_digest(chain_id, genesis, peer_id), account)


def _is_signed(proof: bytes, digest: bytes, address: bytes) -> bool:
    if len(proof) != 65:
        return False
    try:
        public = coincurve.PublicKey.from_signature_and_message(proof, digest, hasher=None)
    except Exception:  # coincurve raises bare Exception for signatures that recover to no point
        return False
    return keccak(public.format(compressed=False)[1:])[-20:] == address
