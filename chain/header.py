"""What a block's header must be before anything is executed: its vanity, its seal, its place behind its parent.

    extra_data = epoch (16 bytes, big-endian) || view (16 bytes) || proposer's signature (65 bytes, r || s || v)

The signature is over the keccak of the header without those 65 bytes; the proposer of view v is validators[v mod n],
and the header's coinbase. epoch and view in the header keep two empty blocks of different views from being one.
"""

from __future__ import annotations

from typing import Final

import coincurve
from eth_hash.auto import keccak

from chain import evm
from chain.evm import VANITY_BYTES, Header
from chain.types import Block, Head, InvalidBlock

SIGNATURE_BYTES: Final = 65
VIEW_MAX: Final = (1 << 63) - 1
TIMESTAMP_MAX: Final = (1 << 40) - 1  # seconds
_HALF_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141 // 2


def vanity(epoch: int, view: int) -> bytes:
    assert 0 <= epoch <= VIEW_MAX
    assert 0 < view <= VIEW_MAX
    return epoch.to_bytes(16, "big") + view.to_bytes(16, "big")


def epoch_and_view(header: Header) -> tuple[int, int]:
    """From the vanity; genesis, whose vanity is the network's digest, has (0, 0)."""
    if header.block_number == 0:
        return 0, 0
    return int.from_bytes(header.extra_data[:16], "big"), int.from_bytes(header.extra_data[16:32], "big")


def head_of(header: Header) -> Head:
    epoch, view = epoch_and_view(header)
    return Head(
        number=header.block_number,
        digest=header.hash,
        parent=header.parent_hash,
        timestamp=header.timestamp,
        state_root=header.state_root,
        epoch=epoch,
        view=view,
    )


def block_of(header: Header, payload: bytes) -> Block:
    """A block as consensus sees it; genesis has no payload."""
    epoch, view = epoch_and_view(header)
    body = payload if header.block_number else b""
    return Block(header.hash, epoch, view, header.parent_hash, header.block_number, body)


def seal(header: Header, key: bytes) -> Header:
    """Put the proposer's signature into a header that has only its vanity."""
    signature = coincurve.PrivateKey(key).sign_recoverable(evm.seal_hash(header), hasher=None)
    return header.copy(extra_data=header.extra_data[:VANITY_BYTES] + signature)


def address_of(key: coincurve.PublicKey) -> bytes:
    return keccak(key.format(compressed=False)[1:])[-20:]


def address_of_secret(key: bytes) -> bytes:
    return address_of(coincurve.PrivateKey(key).public_key)


def check_identity(block: Block, header: Header) -> None:
    """What the sender says of the block is what its bytes say. Raises InvalidBlock, as all below do."""
    if header.hash != block.digest:
        raise InvalidBlock(block.digest, "digest", header.hash, block.digest)
    if header.block_number == 0:
        raise InvalidBlock(block.digest, "another genesis")
    if len(header.extra_data) != VANITY_BYTES + SIGNATURE_BYTES:
        raise InvalidBlock(block.digest, "extra_data", VANITY_BYTES + SIGNATURE_BYTES, len(header.extra_data))
    epoch, view = epoch_and_view(header)
    if not (epoch <= VIEW_MAX and 0 < view <= VIEW_MAX):
        raise InvalidBlock(block.digest, "epoch or view is out of range")
    claimed = (block.epoch, block.view, block.parent, block.height)
    if claimed != (epoch, view, header.parent_hash, header.block_number):
        raise InvalidBlock(block.digest, "epoch, view, parent or height differ from the header's")


def check_seal(header: Header, validators: tuple[bytes, ...]) -> None:
    """The proposer of the view signed it, in the one form that a signature has."""
    proposer = validators[epoch_and_view(header)[1] % len(validators)]
    if header.coinbase != proposer:
        raise InvalidBlock(header.hash, "coinbase is not the proposer of the view", proposer, header.coinbase)
    signature = header.extra_data[VANITY_BYTES:]
    if int.from_bytes(signature[32:64], "big") > _HALF_ORDER or signature[64] > 1:
        raise InvalidBlock(header.hash, "proposer's signature is malleable")
    try:
        signer = coincurve.PublicKey.from_signature_and_message(signature, evm.seal_hash(header), hasher=None)
    except Exception as error:  # coincurve raises bare Exception and ValueError for bytes that are no signature
        raise InvalidBlock(header.hash, "proposer's signature is malformed") from error
    if address_of(signer) != proposer:
        raise InvalidBlock(header.hash, "proposer's signature", proposer, address_of(signer))


def check_parent(header: Header, parent: Header, parent_ends_epoch: bool) -> None:
    """It may follow its parent: next number, same epoch and later view, time not before the parent's.

    `parent_ends_epoch`: the parent is final and its epoch's last block, so the next epoch begins, in any view.
    """
    epoch, view = epoch_and_view(header)
    parent_epoch, parent_view = epoch_and_view(parent)
    if header.block_number != parent.block_number + 1:
        raise InvalidBlock(header.hash, "number", parent.block_number + 1, header.block_number)
    if epoch != parent_epoch + parent_ends_epoch:
        raise InvalidBlock(header.hash, "epoch", parent_epoch + parent_ends_epoch, epoch)
    if view <= parent_view and not parent_ends_epoch:
        raise InvalidBlock(header.hash, "view", f"above {parent_view}", view)
    if not parent.timestamp <= header.timestamp <= TIMESTAMP_MAX:
        raise InvalidBlock(header.hash, "time", f"at least {parent.timestamp}", header.timestamp)


def check_time(header: Header, now: int, drift_s: float) -> None:
    """Its time is within the drift bound of this node's clock."""
    if abs(header.timestamp - now) > drift_s:
        raise InvalidBlock(header.hash, f"time is more than {drift_s} s from this node's clock", now, header.timestamp)


def check_equal(header: Header, ours: Header) -> None:
    """The header is, bit by bit, the one that our execution gave."""
    for field in ("transaction_root", "gas_used", "receipt_root", "bloom", "state_root"):
        expected, actual = getattr(ours, field), getattr(header, field)
        if expected != actual:
            raise InvalidBlock(header.hash, field.replace("_", " "), expected, actual)
    if ours.hash != header.hash:
        raise InvalidBlock(header.hash, "a constant field of the header")
