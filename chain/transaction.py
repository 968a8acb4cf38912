"""Signing EIP-1559 transactions with an ordinary Ethereum key (EIP-1559, EIP-2718)."""

from __future__ import annotations

from typing import Final

import coincurve
import rlp
from eth_hash.auto import keccak

_TYPE: Final = b"\x02"


def sign_transaction(
    key: bytes, chain_id: int, nonce: int, to: bytes, value: int, data: bytes, gas: int, fee: int, tip: int
) -> bytes:
    """The raw bytes of a signed type-2 transaction.

    Args:
        key: 32-byte secp256k1 secret.
        to: 20 bytes; empty to create a contract.
        fee: max fee per gas, wei.
        tip: max priority fee per gas, wei.
    """
    fields = [chain_id, nonce, tip, fee, gas, to, value, data, []]
    signature = coincurve.PrivateKey(key).sign_recoverable(keccak(_TYPE + rlp.encode(fields)), hasher=None)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")
    return bytes(_TYPE + rlp.encode([*fields, signature[64], r, s]))
