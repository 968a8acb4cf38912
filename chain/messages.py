"""Consensus messages as bytes: msgpack arrays, the first element a number that names the kind.

Every length and number has a limit, checked while decoding, before anything is built from it. Decoding garbage raises
InvalidVote, nothing else. That a message is well-formed says nothing about its signatures: see chain/certificate.py.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias, TypeVar

import msgspec
from msgspec import Meta

from chain.certificate import SIGNATURE_BYTES
from chain.consensus_types import (
    CERTIFICATES_MAX,
    Certificates,
    HaveBlock,
    Message,
    Proposal,
    Status,
    VoteMessage,
    WantBlock,
)
from chain.types import FINALISE, NOTARISE, TIMEOUT, Attestation, Block, Certificate, InvalidVote, Vote, VoteKind

PAYLOAD_BYTES_MAX: Final = 1 << 20  # the Ethereum block, RLP
VALIDATORS_MAX: Final = 128  # hence signatures in a certificate
ATTESTATIONS_MAX: Final = 16_384  # beside a block: some hundreds of claims, a quorum each
MESSAGE_BYTES_MAX: Final = 6 << 20  # a full block with all its attestations and certificates
NUMBER_MAX: Final = (1 << 53) - 1  # epochs, views, heights

_Number = Annotated[int, Meta(ge=0, le=NUMBER_MAX)]
_Index = Annotated[int, Meta(ge=0, lt=VALIDATORS_MAX)]
_Digest = Annotated[bytes, Meta(min_length=32, max_length=32)]
_Signature = Annotated[bytes, Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]
_Kind = Literal[1, 2, 3]

_KIND_NUMBER: Final[dict[VoteKind, _Kind]] = {NOTARISE: 1, FINALISE: 2, TIMEOUT: 3}
_KIND_NAME: Final[dict[_Kind, VoteKind]] = {1: NOTARISE, 2: FINALISE, 3: TIMEOUT}


# ---- what travels; the fields are those of chain/types.py ------------------------------------------------------------
class _Attestation(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    claim: _Digest
    verdict: bool
    signer: _Index
    signature: _Signature


class _Block(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    digest: _Digest
    epoch: _Number
    view: _Number
    parent: _Digest
    height: _Number
    payload: Annotated[bytes, Meta(max_length=PAYLOAD_BYTES_MAX)]
    attestations: Annotated[tuple[_Attestation, ...], Meta(max_length=ATTESTATIONS_MAX)]


class _Vote(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    epoch: _Number
    view: _Number
    kind: _Kind
    digest: _Digest
    voter: _Index
    signature: _Signature


class _Certificate(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    epoch: _Number
    view: _Number
    kind: _Kind
    digest: _Digest
    signatures: Annotated[tuple[tuple[_Index, _Signature], ...], Meta(max_length=VALIDATORS_MAX)]


_CertificateList = Annotated[tuple[_Certificate, ...], Meta(max_length=CERTIFICATES_MAX)]


class _Proposal(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=1):
    block: _Block
    vote: _Vote
    certificates: _CertificateList


class _VoteMessage(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=2):
    vote: _Vote
    certificate: _Certificate | None


class _Certificates(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=3):
    certificates: _CertificateList


class _Status(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=4):
    view: _Number
    final_view: _Number
    epoch: _Number
    entered: _Number


class _WantBlock(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=5):
    digest: _Digest


class _HaveBlock(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, tag=6):
    block: _Block


_Wire: TypeAlias = _Proposal | _VoteMessage | _Certificates | _Status | _WantBlock | _HaveBlock
_T = TypeVar("_T")
_message_decoder: Final[msgspec.msgpack.Decoder[_Wire]] = msgspec.msgpack.Decoder(_Wire)
_block_decoder: Final = msgspec.msgpack.Decoder(_Block)
_certificate_decoder: Final = msgspec.msgpack.Decoder(_Certificate)
_encoder: Final = msgspec.msgpack.Encoder()


# ---- messages -------------------------------------------------------------------------------------------------------
def encode(message: Message) -> bytes:
    """One message; the machine keeps to the limits, a longer list of certificates is our own bug."""
    match message:
        case Proposal(block, vote, certificates):
            assert len(certificates) <= CERTIFICATES_MAX
            return _encoder.encode(_Proposal(_wire_block(block), _wire_vote(vote), _wire_certificates(certificates)))
        case VoteMessage(vote, certificate):
            shown = None if certificate is None else _wire_certificate(certificate)
            return _encoder.encode(_VoteMessage(_wire_vote(vote), shown))
        case Certificates(certificates):
            assert len(certificates) <= CERTIFICATES_MAX
            return _encoder.encode(_Certificates(_wire_certificates(certificates)))
        case Status(view, final_view, epoch, entered):
            return _encoder.encode(_Status(view, final_view, epoch, entered))
        case WantBlock(digest):
            return _encoder.encode(_WantBlock(digest))
        case HaveBlock(block):
            return _encoder.encode(_HaveBlock(_wire_block(block)))


def decode(data: bytes) -> Message:
    """Raises InvalidVote for anything but one well-formed message within the limits."""
    wire: _Wire = _decode(_message_decoder, data)
    match wire:
        case _Proposal(block, vote, certificates):
            return Proposal(_block(block), _vote(vote), tuple(map(_certificate, certificates)))
        case _VoteMessage(vote, certificate):
            return VoteMessage(_vote(vote), None if certificate is None else _certificate(certificate))
        case _Certificates(certificates):
            return Certificates(tuple(map(_certificate, certificates)))
        case _Status(view, final_view, epoch, entered):
            return Status(view, final_view, epoch, entered)
        case _WantBlock(digest):
            return WantBlock(digest)
        case _HaveBlock(block):
            return HaveBlock(_block(block))


def votes_of(message: Message) -> tuple[Vote, ...]:
    """The votes whose signatures have to be verified before the machine sees the message."""
    return (message.vote,) if isinstance(message, Proposal | VoteMessage) else ()


def certificates_of(message: Message) -> tuple[Certificate, ...]:
    """The certificates that have to be verified, as votes_of."""
    if isinstance(message, VoteMessage):
        return () if message.certificate is None else (message.certificate,)
    return message.certificates if isinstance(message, Proposal | Certificates) else ()


def blocks_of(message: Message) -> tuple[Block, ...]:
    """The blocks whose fields have to be compared with their payload, as votes_of."""
    return (message.block,) if isinstance(message, Proposal | HaveBlock) else ()


def is_of_epoch(message: Message, epoch: int) -> bool:
    """Whether all that it holds belongs to one epoch; what names none does to any."""
    if isinstance(message, Status):
        return message.epoch == epoch
    parts: tuple[Vote | Certificate | Block, ...]
    parts = (*votes_of(message), *certificates_of(message), *blocks_of(message))
    return all(part.epoch == epoch for part in parts)


# ---- parts, for sync and storage ------------------------------------------------------------------------------------
def encode_block(block: Block) -> bytes:
    return _encoder.encode(_wire_block(block))


def decode_block(data: bytes) -> Block:
    """Raises InvalidVote, as decode."""
    return _block(_decode(_block_decoder, data))


def encode_certificate(certificate: Certificate) -> bytes:
    return _encoder.encode(_wire_certificate(certificate))


def decode_certificate(data: bytes) -> Certificate:
    """Raises InvalidVote, as decode."""
    return _certificate(_decode(_certificate_decoder, data))


def _decode(decoder: msgspec.msgpack.Decoder[_T], data: bytes) -> _T:
    if len(data) > MESSAGE_BYTES_MAX:
        raise InvalidVote(f"consensus message of {len(data)} bytes, at most {MESSAGE_BYTES_MAX}")
    try:
        return decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, OverflowError) as error:
        raise InvalidVote(f"malformed consensus message: {error}") from None


def _wire_block(block: Block) -> _Block:
    beside = tuple(_Attestation(a.claim, a.verdict, a.signer, a.signature) for a in block.attestations)
    return _Block(block.digest, block.epoch, block.view, block.parent, block.height, block.payload, beside)


def _block(wire: _Block) -> Block:
    beside = tuple(Attestation(a.claim, a.verdict, a.signer, a.signature) for a in wire.attestations)
    return Block(wire.digest, wire.epoch, wire.view, wire.parent, wire.height, wire.payload, beside)


def _wire_vote(vote: Vote) -> _Vote:
    return _Vote(vote.epoch, vote.view, _KIND_NUMBER[vote.kind], vote.digest, vote.voter, vote.signature)


def _vote(wire: _Vote) -> Vote:
    return Vote(wire.epoch, wire.view, _KIND_NAME[wire.kind], wire.digest, wire.voter, wire.signature)


def _wire_certificate(certificate: Certificate) -> _Certificate:
    kind = _KIND_NUMBER[certificate.kind]
    return _Certificate(certificate.epoch, certificate.view, kind, certificate.digest, certificate.signatures)


def _wire_certificates(certificates: tuple[Certificate, ...]) -> tuple[_Certificate, ...]:
    return tuple(map(_wire_certificate, certificates))


def _certificate(wire: _Certificate) -> Certificate:
    return Certificate(wire.epoch, wire.view, _KIND_NAME[wire.kind], wire.digest, wire.signatures)
