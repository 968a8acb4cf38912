# pragma version 0.4.3
"""
@title Commit-reveal mask
@license Apache-2.0
@notice What a mask is bound to, and who signed it. A mask S is the deterministic signature of EIP-712 Mask(ctx, R),
        and ctx names chain, contract, job, round, attempt and worker: a mask opens the commit that it was made for and
        no other.
@dev chain/masking.py is the twin of these rules; tests hold the two together.
"""

# --- constants ---

CTX_TYPE: constant(bytes32) = keccak256("flnode/ctx/1")
AUDIT_TYPE: constant(bytes32) = keccak256("flnode/audit/1")
DOMAIN_TYPE: constant(bytes32) = keccak256(
    "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)
DOMAIN_NAME: constant(bytes32) = keccak256("flnode")
DOMAIN_VERSION: constant(bytes32) = keccak256("1")
MASK_TYPE: constant(bytes32) = keccak256("Mask(bytes32 ctx,bytes32 r)")

# half of the order of secp256k1: of s and n - s only the lower one is taken (EIP-2)
S_MAX: constant(uint256) = 57896044618658097711785492504343953926418782139537452191302581570759080747168

SIZE: constant(uint256) = 65


# --- internal functions ---

@internal
@view
def _context(job: uint256, round: uint256, attempt: uint256, worker: address) -> bytes32:
    """
    @notice The 32 bytes that name one slot of one attempt of one round, on this chain only.
    """
    return keccak256(abi_encode(CTX_TYPE, chain.id, self, job, round, attempt, worker))


@internal
@view
def _audit_context(job: uint256, round: uint256, attempt: uint256) -> bytes32:
    """
    @notice The 32 bytes that name the audit of one attempt of one round, on this chain only; no slot's name is one.
    """
    return keccak256(abi_encode(AUDIT_TYPE, chain.id, self, job, round, attempt))


@internal
@view
def _signed_by(worker: address, ctx: bytes32, r: bytes32, mask: Bytes[SIZE]) -> bool:
    """
    @notice Whether the mask is the worker's canonical signature over Mask(ctx, r).
    @param mask r || s || v with v 0 or 1 and low s; any other form is not taken.
    """
    if len(mask) != SIZE:
        return False
    s: uint256 = extract32(mask, 32, output_type=uint256)
    v: uint256 = convert(slice(mask, 64, 1), uint256)
    if v > 1 or s > S_MAX:
        return False
    domain: bytes32 = keccak256(abi_encode(DOMAIN_TYPE, DOMAIN_NAME, DOMAIN_VERSION, chain.id, self))
    digest: bytes32 = keccak256(concat(x"1901", domain, keccak256(abi_encode(MASK_TYPE, ctx, r))))
    # ecrecover gives the zero address for an invalid signature; the worker is a caller, which zero never is
    return ecrecover(digest, v + 27, extract32(mask, 0, output_type=uint256), s) == worker
