"""The mask, in Python and in the contract: same context, same digest, same refusals."""

from __future__ import annotations

import pytest
from coincurve import PrivateKey
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain import masking
from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from tests.contracts.evm_harness import CHAIN_ID, Reverted
from tests.contracts.world import GOOD, WORKER_KEYS, WORKERS, World, address_of, commit_call, secrets

# made with eth-account 0.14.0 (encode_typed_data, key 0x0102..20) and with its own parts only
KEY = bytes(range(1, 33))
WORKER = bytes.fromhex("6370ef2f4db3611d657b90667de398a2cc2a370c")
CTX = bytes.fromhex("01cddfe895c7e1f04028e5edf25a00ff1905a07539692313de13f671223802ed")
R = bytes.fromhex("f02cbcf42e3a4c44dcf88dfb7a2eab33cb9e65074afc0059400aa1fd4f53be0f")
DIGEST = bytes.fromhex("f68381d1d18931a7e56edb92ac27247918785516228293a3abb3c91705f21bdb")
MASK = bytes.fromhex(
    "edf20fe080c3a995470462535044c8950a928531ed00e50663f37db3e331b78c"
    "3737001070f25215d924962f79f7eaeb44faa0c3e7159432ac8b81d54dc33d2e01"
)
STREAM = bytes.fromhex("ffdd2a270315535dd3ab3da5a6f328adeaaf111260b2f1c59d4e00ccad5498a7")


def malleated(mask: bytes) -> bytes:
    """The other signature that recovers to the same key."""
    s = masking.SECP256K1_ORDER - int.from_bytes(mask[32:64], "big")
    return mask[:32] + s.to_bytes(32, "big") + bytes([mask[64] ^ 1])


def test_known_values_stay() -> None:
    assert address_of(KEY) == WORKER
    assert masking.context(1337, REPLICATED, 1, 2, 3, WORKER) == CTX
    assert masking.derive_r(KEY, CTX) == R
    assert masking.mask_digest(1337, REPLICATED, CTX, R) == DIGEST
    assert masking.sign_mask(KEY, 1337, REPLICATED, CTX, R) == MASK
    assert masking.apply_mask(bytes(32), CTX, MASK) == STREAM


def test_a_mask_recovers_to_its_signer() -> None:
    assert masking.recover_mask(1337, REPLICATED, CTX, R, MASK) == WORKER


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (b"", "65 bytes"),
        (MASK[:64], "65 bytes"),
        (MASK + b"\0", "65 bytes"),
        (MASK[:64] + b"\x1c", "v is 28"),
        (MASK[:64] + b"\x02", "v is 2"),
        (malleated(MASK), "lower one"),
        (bytes(65), "no valid signature"),
        (b"\xff" * 32 + MASK[32:], "no valid signature"),
    ],
)
def test_a_mask_of_another_form_is_refused(mask: bytes, reason: str) -> None:
    with pytest.raises(masking.InvalidMask, match=reason):
        masking.recover_mask(1337, REPLICATED, CTX, R, mask)


@settings(max_examples=100, deadline=None)
@given(mask=st.binary(min_size=60, max_size=70))
def test_garbage_never_recovers_to_a_worker_nor_raises_anything_else(mask: bytes) -> None:
    try:
        signer = masking.recover_mask(1337, REPLICATED, CTX, R, mask)
    except masking.InvalidMask:
        return
    assert signer != WORKER


@settings(max_examples=50, deadline=None)
@given(data=st.binary(max_size=1_000))
def test_masking_is_its_own_inverse_and_keeps_the_length(data: bytes) -> None:
    masked = masking.apply_mask(data, CTX, MASK)
    assert len(masked) == len(data)
    assert masking.apply_mask(masked, CTX, MASK) == data


def test_every_part_of_a_slot_changes_its_context() -> None:
    slot = (1337, REPLICATED, 1, 2, 3, WORKER)
    other = (1338, bytes(20), 9, 9, 9, bytes(20))
    contexts = {masking.context(*slot)}
    for place, value in enumerate(other):
        contexts.add(masking.context(*slot[:place], value, *slot[place + 1 :]))
    assert len(contexts) == 1 + len(other)


# ---- against the contract ----


def committing() -> tuple[World, int]:
    world = World()
    job = world.post()
    world.enrol(job, 3)
    return world, job


def reveal_committed(world: World, job: int, r: bytes, mask: bytes) -> list[b.Event]:
    """WORKERS[0] commits to exactly this opening, the others honestly; it reveals."""
    worker = WORKERS[0]
    world.do(worker, b.commit(job, 1, 1, keccak(b"C"), keccak(r), keccak(mask)))
    world.commit(job, workers=WORKERS[1:3])
    return world.do(worker, b.reveal(job, 1, 1, r, mask, GOOD))


def test_the_contract_takes_what_python_signs_and_logs_the_same_context() -> None:
    world, job = committing()
    r, mask = secrets(WORKERS[0], job, 1, 1)
    event = reveal_committed(world, job, r, mask)[0]
    assert isinstance(event, b.Revealed)
    assert event.ctx == masking.context(CHAIN_ID, REPLICATED, job, 1, 1, WORKERS[0])
    assert (event.r, event.mask) == (r, mask)


def test_many_masks_are_taken_by_the_contract() -> None:
    """31 keys: both values of v, and r and s of any leading byte."""
    world = World()
    job = world.post(slots=31, workers_min=31)
    world.enrol(job, 31)
    world.commit(job)
    world.reveal(job, {worker: keccak(worker) for worker in world.slots})
    assert world.round(job).reveals == 31
    assert {secrets(worker, job, 1, 1)[1][64] for worker in world.slots} == {0, 1}


OWN_R, OWN_MASK = secrets(WORKERS[0], 1, 1, 1)


@pytest.mark.parametrize(
    ("r", "mask"),
    [
        pytest.param(OWN_R, malleated(OWN_MASK), id="the other s"),
        pytest.param(OWN_R, OWN_MASK[:64] + bytes([OWN_MASK[64] + 27]), id="v of 27 or 28"),
        pytest.param(OWN_R, OWN_MASK[:64] + bytes([OWN_MASK[64] ^ 1]), id="the other v"),
        pytest.param(OWN_R, OWN_MASK[:64], id="64 bytes"),
        pytest.param(OWN_R, b"", id="nothing"),
        pytest.param(OWN_R, bytes(65), id="zeros"),
        pytest.param(OWN_R, b"\xff" * 64 + b"\0", id="ones"),
        pytest.param(keccak(OWN_R), OWN_MASK, id="another r"),
        pytest.param(*secrets(WORKERS[1], 1, 1, 1), id="another worker's commit"),
        pytest.param(*secrets(WORKERS[0], 1, 2, 1), id="another round"),
        pytest.param(*secrets(WORKERS[0], 1, 1, 2), id="another attempt"),
        pytest.param(*secrets(WORKERS[0], 2, 1, 1), id="another job"),
    ],
)
def test_the_contract_refuses_a_committed_mask_that_is_not_the_workers_for_this_slot(r: bytes, mask: bytes) -> None:
    world, job = committing()
    with pytest.raises(Reverted, match="mask is not signed by the caller"):
        reveal_committed(world, job, r, mask)


def test_the_contract_refuses_a_mask_for_another_chain_or_contract() -> None:
    key, worker = WORKER_KEYS[0], WORKERS[0]
    for chain_id, contract in ((CHAIN_ID + 1, REPLICATED), (CHAIN_ID, b"\x0f" * 20)):
        world, job = committing()
        ctx = masking.context(chain_id, contract, job, 1, 1, worker)
        r = masking.derive_r(key, ctx)
        with pytest.raises(Reverted, match="mask is not signed by the caller"):
            reveal_committed(world, job, r, masking.sign_mask(key, chain_id, contract, ctx, r))


def test_another_nonce_signs_another_mask_which_the_commit_does_not_open_to() -> None:
    """Why keccak(S) is committed: a worker can sign the same R in many ways, each unmasking C to another update."""
    world, job = committing()
    worker = WORKERS[0]
    world.do(worker, commit_call(worker, job, 1, 1))
    world.commit(job, workers=WORKERS[1:3])
    r, mask = secrets(worker, job, 1, 1)
    ctx = masking.context(CHAIN_ID, REPLICATED, job, 1, 1, worker)
    second = sign_with_another_nonce(WORKER_KEYS[0], masking.mask_digest(CHAIN_ID, REPLICATED, ctx, r))
    assert second != mask
    assert masking.recover_mask(CHAIN_ID, REPLICATED, ctx, r, second) == worker
    with pytest.raises(Reverted, match="mask is not the committed one"):
        world.do(worker, b.reveal(job, 1, 1, r, second, GOOD))


def sign_with_another_nonce(key: bytes, digest: bytes) -> bytes:
    """ECDSA as written in the book, with the nonce 2."""
    order = masking.SECP256K1_ORDER
    point = PrivateKey((2).to_bytes(32, "big")).public_key.point()
    x = point[0] % order
    s = pow(2, -1, order) * (int.from_bytes(digest, "big") + x * int.from_bytes(key, "big")) % order
    v = point[1] % 2
    if s > order // 2:
        s, v = order - s, v ^ 1
    return x.to_bytes(32, "big") + s.to_bytes(32, "big") + bytes([v])
