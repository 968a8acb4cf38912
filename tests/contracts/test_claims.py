"""Claims, and what validators sign about them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import masking
from chain.claims import (
    Attestations,
    claim_digest,
    has_quorum,
    sign_attestation,
    verify_attestation,
)
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from chain.types import Attestation, AuditClaim, InvalidVote, RevealClaim
from tests.contracts.evm_harness import CHAIN_ID
from tests.contracts.world import (
    BASE,
    GOOD,
    MANIFEST,
    SEED,
    STRANGER,
    UPDATE_SIZE,
    WORKER_KEYS,
    WORKERS,
    World,
    address_of,
    secrets,
)

KEYS = WORKER_KEYS[:4]
VALIDATORS = tuple(map(address_of, KEYS))
GENESIS = keccak(b"genesis")
CLAIM = RevealClaim(
    contract=REPLICATED,
    job=1,
    round=2,
    attempt=1,
    worker=WORKERS[0],
    ctx=keccak(b"ctx"),
    ciphertext=keccak(b"C"),
    size=1_000,
    mask=b"\x05" * 65,
    update=keccak(b"M"),
)
DIGEST = claim_digest(CLAIM, 1337, GENESIS)
AUDIT = AuditClaim(
    contract=REPLICATED,
    job=1,
    round=2,
    attempt=1,
    ctx=keccak(b"ctx"),
    manifest=keccak(b"manifest"),
    base=keccak(b"base"),
    batch_seed=keccak(b"batches"),
    size=1_000,
    update=keccak(b"M"),
)


def unsigned(claim: bytes, verdict: bool, signer: int) -> Attestation:
    return Attestation(claim, verdict, signer, bytes(65))


def test_a_reveal_logs_the_claim_and_the_bindings_read_it_from_log_and_event() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    worker = WORKERS[1]
    r, mask = secrets(worker, job, 1, 1)
    done = world.run(worker, b.reveal(job, 1, 1, r, mask, GOOD))
    claims = [claim for log in done.logs if (claim := b.claim_of(log)) is not None]
    (claim,) = claims
    assert (claim.contract, claim.job, claim.round, claim.attempt) == (REPLICATED, job, 1, 1)
    assert (claim.worker, claim.mask, claim.update, claim.size) == (worker, mask, GOOD, UPDATE_SIZE)
    assert claim.ciphertext == keccak(b"C" + worker)
    assert b.claim_of(done.events[0]) == claim


def test_a_verdict_logs_a_claim_that_names_all_that_it_takes_to_recompute_it() -> None:
    world = World()
    job = world.post(slots=1, workers_min=1, audit_ppm=10**6)
    world.enrol(job, 1)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: GOOD})
    done = world.run(STRANGER, b.resolve(job, 1, 1, GOOD))
    (claim,) = [claim for log in done.logs if (claim := b.claim_of(log)) is not None]
    batch_seed = keccak(SEED + (1).to_bytes(32, "big") * 2)
    ctx = masking.audit_context(CHAIN_ID, REPLICATED, job, 1, 1)
    assert claim == AuditClaim(REPLICATED, job, 1, 1, ctx, MANIFEST, BASE, batch_seed, UPDATE_SIZE, GOOD)
    assert b.claim_of(done.events[0]) == claim
    assert b.claim_of(replace(done.logs[0], address=b"\x01" * 20)) is None


@pytest.mark.parametrize("field", ["ctx", "manifest", "base", "batch_seed", "size", "update"])
def test_every_fact_of_an_audit_is_in_its_digest(field: str) -> None:
    other = 1_001 if field == "size" else bytes(32)
    assert claim_digest(replace(AUDIT, **{field: other}), 1337, GENESIS) != claim_digest(AUDIT, 1337, GENESIS)
    assert claim_digest(AUDIT, 1338, GENESIS) != claim_digest(AUDIT, 1337, GENESIS)


def test_no_audit_has_the_digest_of_a_reveal() -> None:
    """Not even with the same bytes throughout, which no chain would log: a domain keeps them apart."""
    reveal = replace(CLAIM, ciphertext=bytes(32), mask=b"", update=bytes(32))
    audit = replace(AUDIT, manifest=reveal.ciphertext, base=bytes(32), batch_seed=bytes(32), update=bytes(32))
    assert claim_digest(audit, 1337, GENESIS) != claim_digest(reveal, 1337, GENESIS)
    parts = (AUDIT.ctx, AUDIT.manifest, AUDIT.base, AUDIT.batch_seed, AUDIT.size.to_bytes(32, "big"), AUDIT.update)
    known = keccak(keccak(b"flnode/claim/audit/1") + (1337).to_bytes(32, "big") + GENESIS + b"".join(parts))
    assert claim_digest(AUDIT, 1337, GENESIS) == known


def test_the_same_log_of_another_contract_is_no_claim() -> None:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    worker = WORKERS[1]
    (log, *_) = world.run(worker, b.reveal(job, 1, 1, *secrets(worker, job, 1, 1), GOOD)).logs
    assert b.claim_of(replace(log, address=b"\x01" * 20)) is None
    assert b.claim_of(replace(log, topics=())) is None
    (log, *_) = world.run(WORKERS[5], b.enrol(job, 1_000)).logs
    assert b.claim_of(log) is None


def test_the_digest_of_a_known_claim_stays() -> None:
    parts = (
        keccak(b"flnode/claim/1"),
        (1337).to_bytes(32, "big"),
        GENESIS,
        CLAIM.ctx,
        CLAIM.ciphertext,
        CLAIM.size.to_bytes(32, "big"),
        keccak(CLAIM.mask),
        CLAIM.update,
    )
    assert keccak(b"".join(parts)) == DIGEST


@pytest.mark.parametrize(
    "changed",
    [
        {"ctx": bytes(32)},
        {"ciphertext": bytes(32)},
        {"size": 1_001},
        {"mask": b"\x06" * 65},
        {"update": bytes(32)},
    ],
)
def test_every_fact_of_a_claim_is_in_its_digest(changed: dict[str, object]) -> None:
    assert claim_digest(replace(CLAIM, **changed), 1337, GENESIS) != DIGEST


def test_a_claim_on_another_chain_has_another_digest() -> None:
    assert claim_digest(CLAIM, 1338, GENESIS) != DIGEST
    assert claim_digest(CLAIM, 1337, keccak(GENESIS)) != DIGEST


@pytest.mark.parametrize("verdict", [True, False])
def test_a_validators_verdict_is_verified(verdict: bool) -> None:
    for signer, key in enumerate(KEYS):
        verify_attestation(sign_attestation(key, signer, DIGEST, verdict), VALIDATORS)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"verdict": False}, "not signed by validator 1"),
        ({"signer": 2}, "not signed by validator 2"),
        ({"signer": 4}, "no validator 4 among 4"),
        ({"signer": -1}, "no validator -1 among 4"),
        ({"claim": keccak(DIGEST)}, "not signed by validator 1"),
        ({"claim": DIGEST[:31]}, "32 bytes, not 31"),
        ({"signature": b""}, "65 bytes, not 0"),
        ({"signature": bytes(65)}, "no valid signature"),
        ({"signature": b"\xff" * 65}, "no valid signature"),
    ],
)
def test_a_changed_verdict_is_refused(changed: dict[str, object], reason: str) -> None:
    attestation = replace(sign_attestation(KEYS[1], 1, DIGEST, True), **changed)
    with pytest.raises(InvalidVote, match=reason):
        verify_attestation(attestation, VALIDATORS)


def test_a_quorum_is_of_different_signers_that_attest_this_claim() -> None:
    votes = [unsigned(DIGEST, True, 0), unsigned(DIGEST, True, 0), unsigned(DIGEST, True, 1)]
    others = [unsigned(DIGEST, False, 2), unsigned(keccak(DIGEST), True, 3)]
    assert not has_quorum([*votes, *others], DIGEST, 3)
    assert has_quorum([*votes, *others, unsigned(DIGEST, True, 2)], DIGEST, 3)


def test_verdicts_are_counted_once_per_signer() -> None:
    book = Attestations(validators=4, quorum=3)
    assert book.add(unsigned(DIGEST, True, 0))
    assert not book.add(unsigned(DIGEST, True, 0))
    assert not book.add(unsigned(DIGEST, False, 0))
    assert book.add(unsigned(DIGEST, True, 3))
    assert not book.quorum(DIGEST)
    assert book.add(unsigned(DIGEST, True, 1))
    assert book.quorum(DIGEST)
    assert [attestation.signer for attestation in book.of(DIGEST)] == [0, 1, 3]


@pytest.mark.parametrize(("validators", "refusals"), [(1, 1), (3, 1), (4, 2), (6, 2), (7, 3)])
def test_a_claim_is_refused_by_one_more_than_may_be_faulty(validators: int, refusals: int) -> None:
    book = Attestations(validators, quorum=2 * validators // 3 + 1)
    for signer in range(refusals):
        assert not book.refused(DIGEST)
        book.add(unsigned(DIGEST, False, signer))
    assert book.refused(DIGEST)
    assert not book.quorum(DIGEST)


def test_a_block_gets_exactly_a_quorum_for_each_of_its_claims() -> None:
    book = Attestations(validators=4, quorum=3)
    other = keccak(DIGEST)
    for signer in range(4):
        book.add(unsigned(DIGEST, signer != 1, signer))
        book.add(unsigned(other, True, signer))
    chosen = book.beside([DIGEST, other])
    assert [(each.claim, each.signer) for each in chosen] == [
        *((DIGEST, signer) for signer in (0, 2, 3)),
        *((other, signer) for signer in (0, 1, 2)),
    ]


def test_a_signer_of_nonsense_displaces_only_its_own_verdicts() -> None:
    book = Attestations(validators=4, quorum=3, per_signer_max=2)
    for signer in range(4):
        book.add(unsigned(DIGEST, True, signer))
    for number in range(1_000):
        book.add(unsigned(keccak(number.to_bytes(4, "big")), True, 3))
    assert [attestation.signer for attestation in book.of(DIGEST)] == [0, 1, 2]
    assert book.quorum(DIGEST)
    assert len(book) == 3


@settings(max_examples=50, deadline=None)
@given(
    acts=st.lists(
        st.tuples(st.sampled_from(("add", "forget")), st.integers(0, 5), st.booleans(), st.integers(0, 3)), max_size=60
    )
)
def test_the_collection_stays_within_its_bounds(acts: list[tuple[str, int, bool, int]]) -> None:
    book = Attestations(validators=4, quorum=3, per_signer_max=3)
    for act, number, verdict, signer in acts:
        claim = keccak(bytes([number]))
        if act == "add":
            known = {attestation.signer for attestation in book.of(claim)}
            assert book.add(unsigned(claim, verdict, signer)) == (signer not in known)
        else:
            book.forget(claim)
            assert book.of(claim) == ()
        held = [each for n in range(6) for each in book.of(keccak(bytes([n])))]
        for each in range(4):
            assert sum(attestation.signer == each for attestation in held) <= 3
        assert len(book) == len({attestation.claim for attestation in held})
