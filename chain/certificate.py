"""Votes and certificates: what is signed, by whom, and how many make a quorum.

A vote is a secp256k1 signature over

    keccak256("flnode/vote/1" || chain id (32) || genesis hash (32) || epoch (8) || view (8) || kind (1) || digest (32))

with big-endian numbers; kind is 1 notarise, 2 finalise, 3 timeout. So a vote cannot be carried to another network,
epoch, view or purpose. The signature is 65 bytes, r || s || v with v in 0..3; the signer's address is recovered.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import Final

from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak

from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, Certificate, InvalidVote, Vote, VoteKind

DOMAIN: Final = b"flnode/vote/1"
SIGNATURE_BYTES: Final = 65
VERIFIED_MAX: Final = 8192  # signatures remembered as good
_KIND_BYTE: Final[dict[VoteKind, bytes]] = {NOTARISE: b"\x01", FINALISE: b"\x02", TIMEOUT: b"\x03"}


def quorum(validators: int, ratio: float = 0.0) -> int:
    """Votes in a certificate: more than two thirds, or `ratio` of all, rounded up, where that is more.

    Raises:
        ValueError: no validators, or a ratio above 1.
    """
    if validators < 1 or not 0.0 <= ratio <= 1.0:
        raise ValueError(f"quorum of {validators} validators at ratio {ratio}")
    raised = -(-Fraction(str(ratio)) * validators // 1)  # exact: 0.7 of 10 is 7
    return max(2 * validators // 3 + 1, int(raised))


def vote_digest(chain_id: int, genesis: bytes, epoch: int, view: int, kind: VoteKind, digest: bytes) -> bytes:
    """The 32 bytes that a vote signs. Numbers must be non-negative, genesis and digest 32 bytes."""
    assert len(genesis) == len(digest) == 32
    numbers = chain_id.to_bytes(32, "big") + genesis + epoch.to_bytes(8, "big") + view.to_bytes(8, "big")
    return bytes(keccak(DOMAIN + numbers + _KIND_BYTE[kind] + digest))


def sign_vote(key: bytes, chain_id: int, genesis: bytes, epoch: int, view: int, kind: VoteKind, digest: bytes) -> bytes:
    """65 bytes; deterministic (RFC 6979)."""
    signed = vote_digest(chain_id, genesis, epoch, view, kind, digest)
    return PrivateKey(key).sign_recoverable(signed, hasher=None)


def verify_vote(vote: Vote, validators: Sequence[bytes], chain_id: int, genesis: bytes) -> None:
    """Check one vote against the addresses of its epoch's validators.

    Raises:
        InvalidVote: malformed, or not signed by the voter that it names.
    """
    signed = _signed(vote.epoch, vote.view, vote.kind, vote.digest, chain_id, genesis)
    _verify(vote.voter, vote.signature, signed, validators)


def verify_certificate(
    certificate: Certificate, validators: Sequence[bytes], quorum: int, chain_id: int, genesis: bytes
) -> None:
    """Check that a quorum of different validators cast the vote that a certificate states.

    Raises:
        InvalidVote: malformed, too few voters, a voter twice or out of order, or a wrong signature.
    """
    voters = [voter for voter, _ in certificate.signatures]
    if len(voters) < quorum:
        raise InvalidVote(f"certificate of view {certificate.view}: {len(voters)} votes, quorum is {quorum}")
    if any(a >= b for a, b in pairwise(voters)):
        raise InvalidVote(f"certificate of view {certificate.view}: voters are not ascending")
    signed = _signed(certificate.epoch, certificate.view, certificate.kind, certificate.digest, chain_id, genesis)
    for voter, signature in certificate.signatures:
        _verify(voter, signature, signed, validators)


def verify_finalisation(
    certificate: Certificate, block: Block, validators: Sequence[bytes], quorum: int, chain_id: int, genesis: bytes
) -> None:
    """Check that a certificate makes this very block final.

    Raises:
        InvalidVote: as verify_certificate, or it is about something else.
    """
    stated = (certificate.kind, certificate.epoch, certificate.view, certificate.digest)
    if stated != (FINALISE, block.epoch, block.view, block.digest):
        raise InvalidVote(f"certificate of view {certificate.view} does not make block {block.height} final")
    verify_certificate(certificate, validators, quorum, chain_id, genesis)


def _signed(epoch: int, view: int, kind: VoteKind, digest: bytes, chain_id: int, genesis: bytes) -> bytes:
    if kind not in _KIND_BYTE or len(digest) != 32 or (kind == TIMEOUT) != (digest == NO_DIGEST):
        raise InvalidVote(f"vote of view {view}: a {kind} vote cannot name {digest.hex() or 'nothing'}")
    if not (0 <= epoch < 1 << 64 and 0 < view < 1 << 64):
        raise InvalidVote(f"vote of epoch {epoch}, view {view}: out of range")
    return vote_digest(chain_id, genesis, epoch, view, kind, digest)


def _verify(voter: int, signature: bytes, signed: bytes, validators: Sequence[bytes]) -> None:
    if not 0 <= voter < len(validators):
        raise InvalidVote(f"voter {voter} of {len(validators)} validators")
    if len(signature) != SIGNATURE_BYTES:
        raise InvalidVote(f"signature of voter {voter}: {len(signature)} bytes")
    _verify_signer(validators[voter], signature, signed)


@lru_cache(maxsize=VERIFIED_MAX)
def _verify_signer(address: bytes, signature: bytes, signed: bytes) -> None:
    """Remembers success only, since what raises is not cached: so a forger cannot push good entries out."""
    try:
        public = PublicKey.from_signature_and_message(signature, signed, hasher=None)
    except Exception:  # coincurve raises bare Exception and ValueError for points that are not on the curve
        raise InvalidVote("signature does not recover") from None
    if keccak(public.format(compressed=False)[1:])[12:] != address:
        raise InvalidVote(f"not signed by 0x{address.hex()}")
