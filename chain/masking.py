"""The commit-reveal mask: twin of contracts/mask.vy, and the stream that only Python needs.

    ctx = keccak(domain, chain id, contract, job, round, attempt, worker)     names one slot
    R   = HMAC-SHA256(worker's key, ctx)                                      nothing to remember across a restart
    S   = RFC 6979 secp256k1 signature of EIP-712 Mask(ctx, R)                65 bytes r || s || v, low s, v in {0, 1}
    C   = M xor AES-256-CTR(keccak("flnode/key/1", ctx, S))

A commit publishes the digest of C, keccak(R) and keccak(S). Binding keccak(S) is what makes it binding: RFC 6979
signatures are deterministic for the honest signer only, another nonce gives another S and opens C to another M. Binding
ctx is what makes a copied commit worthless to everybody else, and to its own maker in any other slot.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from typing import Final

from coincurve import PrivateKey, PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CTR
from eth_hash.auto import keccak

from chain.types import ChainError

MASK_SIZE: Final = 65
SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141

_CTX_TYPE: Final = keccak(b"flnode/ctx/1")
_AUDIT_TYPE: Final = keccak(b"flnode/audit/1")
_KEY_DOMAIN: Final = b"flnode/key/1"
_DOMAIN_TYPE: Final = keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)")
_DOMAIN_NAME: Final = keccak(b"flnode")
_DOMAIN_VERSION: Final = keccak(b"1")
_MASK_TYPE: Final = keccak(b"Mask(bytes32 ctx,bytes32 r)")


@dataclass(eq=False)
class InvalidMask(ChainError):
    """A mask is malformed, or no signature over its context."""

    reason: str

    def __str__(self) -> str:
        return self.reason


def audit_context(chain_id: int, contract: bytes, job: int, round_: int, attempt: int) -> bytes:
    """The 32 bytes that name the audit of one attempt of one round; no slot's are the same."""
    place = _word(job) + _word(round_) + _word(attempt)
    return keccak(_AUDIT_TYPE + _word(chain_id) + contract.rjust(32, b"\0") + place)


def context(chain_id: int, contract: bytes, job: int, round_: int, attempt: int, worker: bytes) -> bytes:
    """The 32 bytes that name one slot of one attempt of one round."""
    return keccak(
        _CTX_TYPE
        + _word(chain_id)
        + contract.rjust(32, b"\0")
        + _word(job)
        + _word(round_)
        + _word(attempt)
        + worker.rjust(32, b"\0")
    )


def derive_r(key: bytes, ctx: bytes) -> bytes:
    """R, 32 bytes, from the worker's 32-byte secp256k1 key."""
    return hmac.digest(key, ctx, "sha256")


def mask_digest(chain_id: int, contract: bytes, ctx: bytes, r: bytes) -> bytes:
    """What a mask signs: the EIP-712 digest of Mask(ctx, r) in the contract's domain."""
    domain = keccak(_DOMAIN_TYPE + _DOMAIN_NAME + _DOMAIN_VERSION + _word(chain_id) + contract.rjust(32, b"\0"))
    return keccak(b"\x19\x01" + domain + keccak(_MASK_TYPE + ctx + r))


def sign_mask(key: bytes, chain_id: int, contract: bytes, ctx: bytes, r: bytes) -> bytes:
    """S, 65 bytes: the same for the same arguments, always (RFC 6979)."""
    return PrivateKey(key).sign_recoverable(mask_digest(chain_id, contract, ctx, r), hasher=None)


def recover_mask(chain_id: int, contract: bytes, ctx: bytes, r: bytes, mask: bytes) -> bytes:
    """The address that signed a mask.

    Raises:
        InvalidMask: not 65 bytes, v above 1, high s, or no valid signature. Exactly what the contract refuses.
    """
    if len(mask) != MASK_SIZE:
        raise InvalidMask(f"a mask is {MASK_SIZE} bytes, not {len(mask)}")
    if mask[64] > 1:
        raise InvalidMask(f"v is {mask[64]}, not 0 or 1")
    if int.from_bytes(mask[32:64], "big") > SECP256K1_ORDER // 2:
        raise InvalidMask("s is not the lower one")
    try:
        public = PublicKey.from_signature_and_message(mask, mask_digest(chain_id, contract, ctx, r), hasher=None)
    except Exception as error:  # coincurve raises bare Exception and ValueError for what libsecp256k1 refuses
        raise InvalidMask("no valid signature") from error
    return keccak(public.format(compressed=False)[1:])[12:]


def apply_mask(data: bytes, ctx: bytes, mask: bytes) -> bytes:
    """Mask an update, or unmask a ciphertext: the operation is its own inverse. Length is kept."""
    key = keccak(_KEY_DOMAIN + ctx + mask)
    # the key is used for one message only, so the counter may start at zero
    stream = Cipher(AES256(key), CTR(bytes(16))).encryptor()
    return stream.update(data) + stream.finalize()


def _word(value: int) -> bytes:
    return value.to_bytes(32, "big")
