"""Nobody is paid for another's work: the argument of docs/PROTOCOL.md, case by case, over the real contract and masks.

A worker W has committed to (C, keccak R, keccak S) and later reveals (R, S), which makes M public. The impersonator X
holds a slot of the same round, and has committed too, before any of this was public.

The updates here are one byte long. So small a secret can be searched, which no real update's can: what an attack gains
by a weaker rule, it gains here for certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice

import pytest
from coincurve import PrivateKey
from eth_hash.auto import keccak

from chain import masking
from chain.claims import claim_digest
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.types import RevealClaim
from node import unixfs
from tests.adversaries.variants import EITHER_SIGNATURE, MASK_UNBOUND, Variant
from tests.adversaries.workers import malleated
from tests.contracts.changed import place_changed
from tests.contracts.evm_harness import CHAIN_ID, Reverted
from tests.contracts.world import BASE, KEYS, MANIFEST, OWNER, REWARD, SEED, STRANGER, TERMS, WORKERS, World, secrets

X, W, OTHER = WORKERS[:3]
SIZE = 1
EVERY_UPDATE = [bytes([value]) for value in range(256)]
RUBBISH = b"\x5a"


def ctx_of(worker: bytes) -> bytes:
    return masking.context(CHAIN_ID, REPLICATED, 1, 1, 1, worker)


def hidden(worker: bytes, update: bytes) -> bytes:
    """An honest worker's ciphertext."""
    return masking.apply_mask(update, ctx_of(worker), secrets(worker, 1, 1, 1)[1])


def is_true(claim: RevealClaim, ciphertext: bytes) -> bool:
    """What a validator that has the ciphertext finds out about a claim."""
    fits = unixfs.digest_of(ciphertext) == claim.ciphertext and len(ciphertext) == claim.size
    return fits and unixfs.digest_of(masking.apply_mask(ciphertext, claim.ctx, claim.mask)) == claim.update


class Round:
    """One round in which X commits first, to whatever it likes, and reveals last; W and another worker are honest."""

    def __init__(self, variant: Variant | None = None) -> None:
        self.world = World()
        if variant is not None:
            place_changed(self.world.evm, *variant.contract)
        self.world.do(OWNER, b.post(MANIFEST, BASE, SIZE, SEED, TERMS))
        self.world.enrol(1, 3)

    def play(self, update: bytes, ciphertext: bytes, committed: tuple[bytes, bytes], shown: tuple[bytes, bytes]) -> int:
        """What X gains.

        Args:
            update: the round's right one.
            committed: keccak(R) and keccak(S) of X.
            shown: R and S that X reveals.
        Raises:
            Reverted: by the contract; False claims are the validators' and raise ValueError.
        """
        world, before = self.world, self._wealth()
        world.do(X, b.commit(1, 1, 1, unixfs.digest_of(ciphertext), *committed))
        for worker in (W, OTHER):
            r, mask = secrets(worker, 1, 1, 1)
            digest = unixfs.digest_of(hidden(worker, update))
            world.do(worker, b.commit(1, 1, 1, digest, keccak(r), keccak(mask)))
        for worker in (W, OTHER):
            self._reveal(worker, *secrets(worker, 1, 1, 1), update, hidden(worker, update))
        self._reveal(X, *shown, update, ciphertext)
        world.do(OWNER, b.finalise(1, 1, 1, True))
        world.do(STRANGER, b.settle(1, X))
        return self._wealth() - before

    def _reveal(self, worker: bytes, r: bytes, mask: bytes, update: bytes, ciphertext: bytes) -> None:
        done = self.world.run(worker, b.reveal(1, 1, 1, r, mask, unixfs.digest_of(update)))
        (claim,) = (claim for log in done.logs if (claim := b.claim_of(log)) is not None)
        if not is_true(claim, ciphertext):
            raise ValueError("the claim is false")

    def _wealth(self) -> int:
        enrolment = self.world.enrolment(1, X)
        return enrolment.free + (enrolment.tail - enrolment.head) * TERMS.stake + self.world.owed(X)


def bound(r: bytes, mask: bytes) -> tuple[bytes, bytes]:
    return keccak(r), keccak(mask)


R0, S0 = secrets(W, 1, 1, 1)
OWN_R, OWN_S = secrets(X, 1, 1, 1)


def own_signature_over(r: bytes) -> bytes:
    return masking.sign_mask(KEYS[X], CHAIN_ID, REPLICATED, ctx_of(X), r)


def test_a_worker_that_knows_m_before_it_commits_is_paid() -> None:
    """So what follows fails for what it is about, and for nothing else."""
    assert Round().play(b"\x01", hidden(X, b"\x01"), bound(OWN_R, OWN_S), (OWN_R, OWN_S)) == REWARD


# ---- X learns M when W reveals it ----


def test_what_was_committed_opens_to_one_update_only_whatever_m_turns_out_to_be() -> None:
    """Assumes that nobody finds another S with the same keccak(S)."""
    digest = unixfs.digest_of(RUBBISH)
    claimed = (REPLICATED, 1, 1, 1, X, ctx_of(X), digest, SIZE, OWN_S)
    opens = [RevealClaim(*claimed, unixfs.digest_of(update)) for update in EVERY_UPDATE]
    true = [update for update, claim in zip(EVERY_UPDATE, opens, strict=True) if is_true(claim, RUBBISH)]
    assert len(true) == 1
    assert Round().play(true[0], RUBBISH, bound(OWN_R, OWN_S), (OWN_R, OWN_S)) == REWARD
    for update in EVERY_UPDATE[true[0][0] - 1], EVERY_UPDATE[true[0][0] - 2]:
        with pytest.raises(ValueError, match="the claim is false"):
            Round().play(update, RUBBISH, bound(OWN_R, OWN_S), (OWN_R, OWN_S))


def test_a_mask_that_was_found_when_m_was_known_is_not_the_committed_one() -> None:
    """The hole of the original scheme, where S is as long as M: S = C xor M. Here it takes a search, which succeeds."""
    update = b"\x07"
    found = next(mask for mask in signatures() if masking.apply_mask(RUBBISH, ctx_of(X), mask) == update)
    with pytest.raises(Reverted, match="mask is not the committed one"):
        Round().play(update, RUBBISH, bound(OWN_R, OWN_S), (OWN_R, found))
    assert Round(MASK_UNBOUND).play(update, RUBBISH, bound(OWN_R, OWN_S), (OWN_R, found)) == REWARD


def test_without_a_bound_mask_every_commit_can_be_opened_to_every_update() -> None:
    opened = {masking.apply_mask(RUBBISH, ctx_of(X), mask) for mask in islice(signatures(), 4_000)}
    assert opened == set(EVERY_UPDATE)


def signatures() -> Iterator[bytes]:
    """X's valid masks for its slot, one for each nonce: ECDSA is deterministic for the honest only."""
    digest = int.from_bytes(masking.mask_digest(CHAIN_ID, REPLICATED, ctx_of(X), OWN_R), "big")
    order, key = masking.SECP256K1_ORDER, int.from_bytes(KEYS[X], "big")
    for nonce in count(2):
        point = PrivateKey(nonce.to_bytes(32, "big")).public_key.point()
        x, v = point[0] % order, point[1] % 2
        s = pow(nonce, -1, order) * (digest + x * key) % order
        if s > order // 2:
            s, v = order - s, v ^ 1
        yield x.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])


def test_the_other_form_of_the_own_signature_opens_nothing() -> None:
    """Where both forms are taken and S is not bound, a commit has two openings: the round may turn out to be either."""
    other = malleated(OWN_S)
    lucky = masking.apply_mask(RUBBISH, ctx_of(X), other)
    for committed in (bound(OWN_R, OWN_S), bound(OWN_R, other)):
        with pytest.raises(Reverted, match="mask is not"):
            Round().play(lucky, RUBBISH, committed, (OWN_R, other))
    assert Round(EITHER_SIGNATURE).play(lucky, RUBBISH, bound(OWN_R, OWN_S), (OWN_R, other)) == REWARD


# ---- X produces (R', S0): W's mask with another R ----


@pytest.mark.parametrize("r", [OWN_R, R0, keccak(R0)], ids=["its own R", "R0 itself", "some R"])
def test_anothers_mask_is_no_signature_of_ones_own(r: bytes) -> None:
    """Assumes that ECDSA cannot be forged: S0 recovers to X over no (ctx of X, R') that X can find."""
    with pytest.raises(Reverted, match="mask is not signed by the caller"):
        Round().play(b"\x01", hidden(W, b"\x01"), bound(r, S0), (r, S0))


# ---- X produces (R0, S'): its own signature over W's R ----


def test_ones_own_mask_over_anothers_r_opens_anothers_ciphertext_to_something_else() -> None:
    """Assumes that the stream under a key that X has is independent of the one under W's: M is in C0 for W's S0 only.

    Of 256 one-byte updates one would come out by chance; which one does not depend on M.
    """
    mine = own_signature_over(R0)
    shift = {
        masking.apply_mask(hidden(W, update), ctx_of(X), mine)[0] ^ update[0] for update in EVERY_UPDATE
    }  # fmt: skip
    assert len(shift) == 1
    assert shift != {0}
    with pytest.raises(ValueError, match="the claim is false"):
        Round().play(b"\x01", hidden(W, b"\x01"), bound(R0, mine), (R0, mine))


# ---- X makes the validators believe something else ----


def test_an_attestation_is_about_one_slot_ciphertext_mask_and_update_only() -> None:
    """What validators signed for W's reveal cannot stand beside X's: every part of it is another."""
    claim = RevealClaim(REPLICATED, 1, 1, 1, W, ctx_of(W), keccak(b"C"), SIZE, S0, keccak(b"M"))
    mine = RevealClaim(REPLICATED, 1, 1, 1, X, ctx_of(X), keccak(b"C"), SIZE, S0, keccak(b"M"))
    assert claim_digest(claim, CHAIN_ID, bytes(32)) != claim_digest(mine, CHAIN_ID, bytes(32))
