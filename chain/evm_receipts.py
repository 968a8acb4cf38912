"""What a transaction did, and its encoding and bloom, by which a block commits to it."""

from __future__ import annotations

from dataclasses import dataclass

from eth_hash.auto import keccak

from chain.evm_trie import encode


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a transaction did."""

    transaction: bytes  # hash
    succeeded: bool
    gas_used: int
    gas_used_before: int  # by the block's earlier transactions
    logs: tuple[tuple[bytes, tuple[bytes, ...], bytes], ...]  # (address, topics, data)


def bloom_bits(item: bytes) -> int:
    """The three bits of the yellow paper's log bloom, section 4.3.1."""
    hashed = keccak(item)
    bits = 0
    for at in (0, 2, 4):
        bits |= 1 << (int.from_bytes(hashed[at : at + 2], "big") & 2047)
    return bits


def bloom_of(receipt: Receipt) -> int:
    bloom = 0
    for address, topics, _ in receipt.logs:
        bloom |= bloom_bits(address)
        for topic in topics:
            bloom |= bloom_bits(topic)
    return bloom


def encode_receipt(receipt: Receipt, kind: int, bloom: int) -> bytes:
    """The receipt of EIP-658 and EIP-2718."""
    cumulative = receipt.gas_used_before + receipt.gas_used
    fields = [
        b"\x01" if receipt.succeeded else b"",
        cumulative.to_bytes((cumulative.bit_length() + 7) // 8, "big"),
        bloom.to_bytes(256, "big"),
        [[address, list(topics), data] for address, topics, data in receipt.logs],
    ]
    return (bytes((kind,)) if kind else b"") + encode(fields)
