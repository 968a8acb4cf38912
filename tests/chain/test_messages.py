from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import consensus, messages
from chain.consensus_types import CERTIFICATES_MAX
from chain.types import FINALISE, NOTARISE, TIMEOUT, Attestation, Block, Certificate, InvalidVote, Vote

digests = st.binary(min_size=32, max_size=32)
signatures = st.binary(min_size=65, max_size=65)
numbers = st.integers(0, messages.NUMBER_MAX)
indices = st.integers(0, messages.VALIDATORS_MAX - 1)
kinds = st.sampled_from([NOTARISE, FINALISE, TIMEOUT])
attestations = st.builds(Attestation, digests, st.booleans(), indices, signatures)
blocks = st.builds(
    Block, digests, numbers, numbers, digests, numbers, st.binary(max_size=64),
    st.lists(attestations, max_size=3).map(tuple),
)  # fmt: skip
votes = st.builds(Vote, numbers, numbers, kinds, digests, indices, signatures)
certificates = st.builds(
    Certificate, numbers, numbers, kinds, digests, st.lists(st.tuples(indices, signatures), max_size=3).map(tuple)
)
lists = st.lists(certificates, max_size=3).map(tuple)
everything = st.one_of(
    st.builds(consensus.Proposal, blocks, votes, lists),
    st.builds(consensus.VoteMessage, votes, st.none() | certificates),
    st.builds(consensus.Certificates, lists),
    st.builds(consensus.Status, numbers, numbers, numbers, numbers),
    st.builds(consensus.WantBlock, digests),
    st.builds(consensus.HaveBlock, blocks),
)

BLOCK = Block(b"d" * 32, 1, 2, b"p" * 32, 3, b"rlp", (Attestation(b"c" * 32, True, 1, b"s" * 65),))
VOTE = Vote(1, 2, NOTARISE, b"d" * 32, 0, b"s" * 65)
CERTIFICATE = Certificate(1, 1, TIMEOUT, bytes(32), ((0, b"s" * 65), (1, b"t" * 65)))
PROPOSAL = consensus.Proposal(BLOCK, VOTE, (CERTIFICATE,))


@settings(max_examples=150, deadline=None)
@given(everything)
def test_every_message_survives_the_wire(message: consensus.Message) -> None:
    assert messages.decode(messages.encode(message)) == message


@settings(max_examples=60, deadline=None)
@given(blocks, certificates)
def test_blocks_and_certificates_survive_alone(block: Block, certificate: Certificate) -> None:
    assert messages.decode_block(messages.encode_block(block)) == block
    assert messages.decode_certificate(messages.encode_certificate(certificate)) == certificate


garbage = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.floats(),
        st.binary(max_size=70),
        st.text(max_size=9),
    ),
    lambda inner: st.lists(inner, max_size=7) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.binary(max_size=300), garbage.map(msgpack.packb)))
def test_garbage_raises_invalid_vote_and_nothing_else(data: bytes) -> None:
    for decode in (messages.decode, messages.decode_block, messages.decode_certificate):
        with pytest.raises(InvalidVote):
            decode(data)


@settings(max_examples=200, deadline=None)
@given(everything, st.data())
def test_a_damaged_message_is_another_message_or_invalid(message: consensus.Message, data: st.DataObject) -> None:
    raw = bytearray(messages.encode(message))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        messages.decode(bytes(raw))
    except InvalidVote:
        return


def test_cut_and_padded_messages_are_refused() -> None:
    raw = messages.encode(PROPOSAL)
    for end in range(len(raw)):
        with pytest.raises(InvalidVote):
            messages.decode(raw[:end])
    with pytest.raises(InvalidVote):
        messages.decode(raw + b"\x00")


TOO_MUCH: list[tuple[str, consensus.Message]] = [
    ("payload", consensus.HaveBlock(replace(BLOCK, payload=bytes(messages.PAYLOAD_BYTES_MAX + 1)))),
    ("attestations", consensus.HaveBlock(replace(BLOCK, attestations=BLOCK.attestations * 16_385))),
    ("signatures", consensus.VoteMessage(VOTE, replace(CERTIFICATE, signatures=CERTIFICATE.signatures * 65))),
    ("voter", consensus.VoteMessage(replace(VOTE, voter=messages.VALIDATORS_MAX))),
    ("signature", consensus.VoteMessage(replace(VOTE, signature=b"s" * 64))),
    ("digest", consensus.WantBlock(b"d" * 33)),
    ("view", consensus.Status(messages.NUMBER_MAX + 1, 0, 0, 1)),
    ("negative", consensus.Status(0, -1, 0, 0)),
]


@pytest.mark.parametrize("message", [message for _, message in TOO_MUCH], ids=[name for name, _ in TOO_MUCH])
def test_what_exceeds_a_limit_is_refused(message: consensus.Message) -> None:
    raw = messages.encode(message)
    with pytest.raises(InvalidVote, match="malformed"):
        messages.decode(raw)


def test_too_many_certificates_are_refused() -> None:
    full = consensus.Certificates((CERTIFICATE,) * CERTIFICATES_MAX)
    raw = messages.encode(full)
    assert messages.decode(raw) == full
    wire: list[Any] = msgpack.unpackb(raw)
    wire[1].append(wire[1][0])
    with pytest.raises(InvalidVote, match="length <= 64"):
        messages.decode(msgpack.packb(wire))


def test_an_oversized_message_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidVote, match=f"at most {messages.MESSAGE_BYTES_MAX}"):
        messages.decode(bytes(messages.MESSAGE_BYTES_MAX + 1))


def test_the_fullest_message_fits() -> None:
    block = replace(
        BLOCK,
        payload=bytes(messages.PAYLOAD_BYTES_MAX),
        attestations=BLOCK.attestations * messages.ATTESTATIONS_MAX,
    )
    heavy = replace(CERTIFICATE, signatures=tuple((i, b"s" * 65) for i in range(messages.VALIDATORS_MAX)))
    proposal = consensus.Proposal(block, VOTE, (heavy,) * CERTIFICATES_MAX)
    assert messages.decode(messages.encode(proposal)) == proposal


def test_unknown_kinds_and_extra_fields_are_refused() -> None:
    wire: list[Any] = msgpack.unpackb(messages.encode(consensus.WantBlock(b"d" * 32)))
    for changed in ([99, *wire[1:]], [*wire, b"more"], wire[:1], []):
        with pytest.raises(InvalidVote):
            messages.decode(msgpack.packb(changed))


def test_the_parts_to_verify_are_found_in_every_kind_of_message() -> None:
    assert messages.votes_of(PROPOSAL) == (VOTE,)
    assert messages.certificates_of(PROPOSAL) == (CERTIFICATE,)
    assert messages.blocks_of(PROPOSAL) == (BLOCK,)
    ballot = consensus.VoteMessage(VOTE, CERTIFICATE)
    assert (messages.votes_of(ballot), messages.certificates_of(ballot)) == ((VOTE,), (CERTIFICATE,))
    assert messages.certificates_of(consensus.VoteMessage(VOTE)) == ()
    assert messages.certificates_of(consensus.Certificates((CERTIFICATE,))) == (CERTIFICATE,)
    assert messages.blocks_of(consensus.HaveBlock(BLOCK)) == (BLOCK,)
    for bare in (consensus.Status(1, 0, 1, 1), consensus.WantBlock(b"d" * 32)):
        assert [messages.votes_of(bare), messages.certificates_of(bare), messages.blocks_of(bare)] == [(), (), ()]
