from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coincurve import PrivateKey
from eth_hash.auto import keccak

from chain import certificate as c
from chain.types import FINALISE, NO_DIGEST, NOTARISE, TIMEOUT, Block, Certificate, InvalidVote, Vote, VoteKind

CHAIN_ID = 424242
GENESIS = b"g" * 32
DIGEST = b"d" * 32
KEYS = [keccak(bytes([i])) for i in range(4)]
VALIDATORS = tuple(keccak(PrivateKey(key).public_key.format(compressed=False)[1:])[12:] for key in KEYS)
QUORUM = c.quorum(4)


def signed(voter: int, kind: VoteKind = NOTARISE, view: int = 7, digest: bytes = DIGEST) -> Vote:
    return Vote(1, view, kind, digest, voter, c.sign_vote(KEYS[voter], CHAIN_ID, GENESIS, 1, view, kind, digest))


def made(*voters: int, kind: VoteKind = NOTARISE) -> Certificate:
    return Certificate(1, 7, kind, DIGEST, tuple((voter, signed(voter, kind).signature) for voter in voters))


def verify(each: Certificate) -> None:
    c.verify_certificate(each, VALIDATORS, QUORUM, CHAIN_ID, GENESIS)


def test_a_quorum_is_more_than_two_thirds() -> None:
    assert [c.quorum(n) for n in range(1, 11)] == [1, 2, 3, 3, 4, 5, 5, 6, 7, 7]
    for n in range(1, 200):
        faulty = (n - 1) // 3
        assert 2 * c.quorum(n) - n > faulty, "two quorums share an honest validator"
        assert c.quorum(n) <= n - faulty, "the honest alone are a quorum"


def test_the_network_may_raise_the_quorum_but_not_lower_it() -> None:
    assert c.quorum(10, 0.5) == 7
    assert c.quorum(10, 0.7) == 7
    assert c.quorum(10, 0.71) == 8
    assert c.quorum(10, 1.0) == 10
    for validators, ratio in ((0, 0.7), (4, 1.1), (4, -0.1)):
        with pytest.raises(ValueError, match="quorum"):
            c.quorum(validators, ratio)


def test_what_is_signed_is_the_documented_preimage() -> None:
    preimage = (
        b"flnode/vote/1" + CHAIN_ID.to_bytes(32, "big") + GENESIS + (1).to_bytes(8, "big") + (7).to_bytes(8, "big")
        + b"\x02" + DIGEST
    )  # fmt: skip
    assert c.vote_digest(CHAIN_ID, GENESIS, 1, 7, FINALISE, DIGEST) == keccak(preimage)


def test_a_vote_is_valid_in_its_own_place_only() -> None:
    good = signed(2)
    c.verify_vote(good, VALIDATORS, CHAIN_ID, GENESIS)
    changes: list[dict[str, Any]] = [
        {"epoch": 2}, {"view": 8}, {"kind": FINALISE}, {"digest": b"e" * 32}, {"voter": 1},
        {"signature": signed(1).signature},
    ]  # fmt: skip
    for change in changes:
        with pytest.raises(InvalidVote, match="not signed by"):
            c.verify_vote(replace(good, **change), VALIDATORS, CHAIN_ID, GENESIS)
    for chain_id, genesis in ((CHAIN_ID + 1, GENESIS), (CHAIN_ID, b"h" * 32)):
        with pytest.raises(InvalidVote, match="not signed by"):
            c.verify_vote(good, VALIDATORS, chain_id, genesis)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"voter": 4}, "voter 4 of 4"),
        ({"voter": -1}, "voter -1 of 4"),
        ({"signature": b"s" * 64}, "64 bytes"),
        ({"signature": b"\xff" * 65}, "does not recover"),
        ({"signature": bytes(65)}, "does not recover"),
        ({"digest": NO_DIGEST}, "cannot name"),
        ({"kind": TIMEOUT}, "cannot name"),
        ({"kind": "other"}, "cannot name"),
        ({"digest": b"d"}, "cannot name"),
        ({"view": 0}, "out of range"),
        ({"view": 1 << 64}, "out of range"),
        ({"epoch": -1}, "out of range"),
    ],
)
def test_a_malformed_vote_is_refused_with_its_reason(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(InvalidVote, match=reason):
        c.verify_vote(replace(signed(2), **change), VALIDATORS, CHAIN_ID, GENESIS)


def test_a_timeout_names_no_block() -> None:
    c.verify_vote(signed(0, TIMEOUT, digest=NO_DIGEST), VALIDATORS, CHAIN_ID, GENESIS)


def test_a_certificate_needs_a_quorum_of_different_voters_in_order() -> None:
    verify(made(0, 1, 2))
    verify(made(0, 1, 2, 3))
    for voters, reason in (((0, 1), "2 votes, quorum is 3"), ((0, 1, 1), "ascending"), ((2, 1, 0), "ascending")):
        with pytest.raises(InvalidVote, match=reason):
            verify(made(*voters))


def test_one_wrong_signature_spoils_a_certificate() -> None:
    good = made(0, 1, 2)
    stolen = (*good.signatures[:2], (3, good.signatures[2][1]))
    with pytest.raises(InvalidVote, match="not signed by"):
        verify(replace(good, signatures=stolen))
    with pytest.raises(InvalidVote, match="not signed by"):
        verify(replace(good, view=8))


def test_only_a_finalise_certificate_of_this_block_makes_it_final() -> None:
    block = Block(DIGEST, 1, 7, bytes(32), 3, b"")
    good = made(0, 1, 2, kind=FINALISE)
    c.verify_finalisation(good, block, VALIDATORS, QUORUM, CHAIN_ID, GENESIS)
    for wrong in (made(0, 1, 2), replace(good, digest=b"e" * 32), replace(good, view=8)):
        with pytest.raises(InvalidVote, match="does not make block 3 final"):
            c.verify_finalisation(wrong, block, VALIDATORS, QUORUM, CHAIN_ID, GENESIS)
    with pytest.raises(InvalidVote, match="quorum"):
        c.verify_finalisation(made(0, 1, kind=FINALISE), block, VALIDATORS, QUORUM, CHAIN_ID, GENESIS)


def test_verified_signatures_are_remembered_and_forged_ones_are_not() -> None:
    c._verify_signer.cache_clear()
    vote = signed(2)
    for _ in range(3):
        c.verify_vote(vote, VALIDATORS, CHAIN_ID, GENESIS)
        with pytest.raises(InvalidVote):
            c.verify_vote(replace(vote, voter=1), VALIDATORS, CHAIN_ID, GENESIS)
    known = c._verify_signer.cache_info()
    assert (known.currsize, known.hits) == (1, 2)
    assert known.maxsize == c.VERIFIED_MAX
