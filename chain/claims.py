"""Claims: what a contract's log states about blobs, and what validators sign about it.

A claim is a log of a genesis contract ("unmasking C with S gives M", "the round computed again gives M") that the EVM
cannot check. Validators recompute it
off the clock of consensus and sign an attestation, or a refusal; a block that logs a claim is valid only with a quorum
of attestations beside it. What is signed names no block and no view, so that it survives a new proposal.

    claim digest = keccak(domain, chain id, genesis hash, ctx, digest(C), size, keccak(S), digest(M))
      of an audit  keccak(domain', chain id, genesis hash, ctx, manifest, base, batch seed, size, digest(M))
    signed       = keccak(domain, claim digest, verdict)

Nothing here recomputes a claim: that needs blobs, and is the node's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from coincurve import PrivateKey, PublicKey
from eth_hash.auto import keccak

from chain.types import Attestation, Claim, InvalidVote, RevealClaim

SIGNATURE_SIZE: Final = 65
ATTESTATIONS_PER_SIGNER_MAX: Final = 4096

_CLAIM_DOMAIN: Final = keccak(b"flnode/claim/1")
_AUDIT_DOMAIN: Final = keccak(b"flnode/claim/audit/1")
_ATTESTATION_DOMAIN: Final = keccak(b"flnode/attestation/1")


def claim_digest(claim: Claim, chain_id: int, genesis: bytes) -> bytes:
    """The 32 bytes that name a claim on one chain; `genesis` is the hash of its first block."""
    chain, size = chain_id.to_bytes(32, "big") + genesis, claim.size.to_bytes(32, "big")
    if isinstance(claim, RevealClaim):
        return keccak(_CLAIM_DOMAIN + chain + claim.ctx + claim.ciphertext + size + keccak(claim.mask) + claim.update)
    work = claim.manifest + claim.base + claim.batch_seed + size
    return keccak(_AUDIT_DOMAIN + chain + claim.ctx + work + claim.update)


def sign_attestation(key: bytes, signer: int, claim: bytes, verdict: bool) -> Attestation:
    """A validator's verdict on a claim digest; `signer` is its index in the epoch's list."""
    signature = PrivateKey(key).sign_recoverable(_signed(claim, verdict), hasher=None)
    return Attestation(claim=claim, verdict=verdict, signer=signer, signature=signature)


def verify_attestation(attestation: Attestation, validators: Sequence[bytes]) -> None:
    """Check that the signer is a validator, by address, and signed this.

    Raises:
        InvalidVote: it did not.
    """
    if len(attestation.claim) != 32:
        raise InvalidVote(f"attestation: a claim digest is 32 bytes, not {len(attestation.claim)}")
    if len(attestation.signature) != SIGNATURE_SIZE:
        raise InvalidVote(f"attestation: a signature is {SIGNATURE_SIZE} bytes, not {len(attestation.signature)}")
    if not 0 <= attestation.signer < len(validators):
        raise InvalidVote(f"attestation: no validator {attestation.signer} among {len(validators)}")
    signed = _signed(attestation.claim, attestation.verdict)
    try:
        public = PublicKey.from_signature_and_message(attestation.signature, signed, hasher=None)
    except Exception as error:  # coincurve raises bare Exception and ValueError for what libsecp256k1 refuses
        raise InvalidVote("attestation: no valid signature") from error
    if keccak(public.format(compressed=False)[1:])[12:] != validators[attestation.signer]:
        raise InvalidVote(f"attestation: not signed by validator {attestation.signer}")


def has_quorum(attestations: Iterable[Attestation], claim: bytes, quorum: int) -> bool:
    """Whether `quorum` different signers attest a claim digest; signatures are verified before."""
    signers = {attestation.signer for attestation in attestations if attestation.claim == claim and attestation.verdict}
    return len(signers) >= quorum


class Attestations:
    """Verdicts of one epoch's validators, at most one of each on each claim, first come.

    Bounded per signer: a validator that signs nonsense without end displaces its own verdicts and nobody else's.
    """

    def __init__(self, validators: int, quorum: int, per_signer_max: int = ATTESTATIONS_PER_SIGNER_MAX) -> None:
        """`quorum` attests; one more than the faults that n validators tolerate refuses."""
        assert 1 <= quorum <= validators
        assert per_signer_max >= 1
        self._quorum = quorum
        self._refusals = (validators - 1) // 3 + 1
        self._per_signer_max = per_signer_max
        self._by_claim: dict[bytes, dict[int, Attestation]] = {}
        self._by_signer: dict[int, dict[bytes, None]] = {signer: {} for signer in range(validators)}

    def add(self, attestation: Attestation) -> bool:
        """Take a verified verdict; False if this signer's verdict on this claim is known already."""
        signers = self._by_claim.setdefault(attestation.claim, {})
        if attestation.signer in signers:
            return False
        signers[attestation.signer] = attestation
        mine = self._by_signer[attestation.signer]
        mine[attestation.claim] = None
        if len(mine) > self._per_signer_max:
            self._drop(next(iter(mine)), attestation.signer)
        return True

    def quorum(self, claim: bytes) -> bool:
        """Whether a block may hold this claim."""
        return self._count(claim, verdict=True) >= self._quorum

    def with_quorum(self) -> frozenset[bytes]:
        """The claims that a block may hold now."""
        return frozenset(filter(self.quorum, self._by_claim))

    def refused(self, claim: bytes) -> bool:
        """Whether so many refuse that one of them is honest."""
        return self._count(claim, verdict=False) >= self._refusals

    def of(self, claim: bytes) -> tuple[Attestation, ...]:
        """All verdicts on a claim, ascending by signer."""
        return tuple(attestation for _, attestation in sorted(self._by_claim.get(claim, {}).items()))

    def by(self, signer: int) -> tuple[Attestation, ...]:
        """All verdicts of one validator that are still wanted, oldest first."""
        return tuple(self._by_claim[claim][signer] for claim in self._by_signer[signer])

    def beside(self, claims: Iterable[bytes]) -> tuple[Attestation, ...]:
        """A quorum for each claim, no more, as it travels beside a block that logs them; each must have one."""
        chosen: list[Attestation] = []
        for claim in claims:
            attesting = [attestation for attestation in self.of(claim) if attestation.verdict]
            assert len(attesting) >= self._quorum
            chosen.extend(attesting[: self._quorum])
        return tuple(chosen)

    def forget(self, claim: bytes) -> None:
        """Drop what is known of a claim, once its block is final."""
        for signer in tuple(self._by_claim.get(claim, ())):
            self._drop(claim, signer)

    def __len__(self) -> int:
        return len(self._by_claim)

    def _count(self, claim: bytes, verdict: bool) -> int:
        return sum(attestation.verdict is verdict for attestation in self._by_claim.get(claim, {}).values())

    def _drop(self, claim: bytes, signer: int) -> None:
        del self._by_signer[signer][claim]
        signers = self._by_claim[claim]
        del signers[signer]
        if not signers:
            del self._by_claim[claim]


def _signed(claim: bytes, verdict: bool) -> bytes:
    return keccak(_ATTESTATION_DOMAIN + claim + int(verdict).to_bytes(32, "big"))
