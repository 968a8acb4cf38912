"""Receipts as they are stored, and the logs in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import msgspec

from chain.evm import Receipt
from chain.store import StoreDamaged
from chain.types import Log

_StoredReceipt: TypeAlias = tuple[bytes, bool, int, int, tuple[tuple[bytes, tuple[bytes, ...], bytes], ...]]


def logs_of(receipts: Sequence[Receipt], number: int, digest: bytes) -> Iterator[Log]:
    index = 0
    for receipt in receipts:
        for address, topics, data in receipt.logs:
            yield Log(address, topics, data, number, digest, receipt.transaction, index)
            index += 1


def encode_receipts(receipts: Sequence[Receipt]) -> bytes:
    return msgspec.msgpack.encode(
        [(r.transaction, r.succeeded, r.gas_used, r.gas_used_before, r.logs) for r in receipts]
    )


def decode_receipts(encoded: bytes) -> tuple[Receipt, ...]:
    try:
        return tuple(Receipt(*fields) for fields in msgspec.msgpack.decode(encoded, type=list[_StoredReceipt]))
    except msgspec.MsgspecError as error:
        raise StoreDamaged(f"receipts: {error}") from error
