"""Transactions that clients handed to this node: on disk until they are final, expired or refused.

The API answers a client once its transaction has been admitted here and written to the journal's file. The file is not
synced for each one: a node that is killed loses nothing, a machine that loses power may lose the last seconds. Whoever
must know that a payment took place waits for its receipt, as everywhere.

The file is a row of records: length and CRC-32 of what follows, 4 bytes each, big-endian, then msgpack [unix time,
raw transaction]. What a crash left half-written at the end is cut off. It is written anew when most of it is history.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from chain.types import InvalidTransaction, Transaction
from node.ledger import Ledger

log = structlog.get_logger()

NAME: Final = "transactions.journal"
TRANSACTIONS_MAX: Final = 4096
BYTES_MAX: Final = 16 << 20
LIFETIME_S: Final = 3600.0  # as the mempool's
_SLACK_BYTES: Final = 1 << 16  # of history, before the file is written anew
_HEADER: Final = struct.Struct(">II")


class JournalFull(Exception):
    """Too many transactions of clients wait to become final."""


class _Record(msgspec.Struct, frozen=True, array_like=True):
    added_at: float  # unix seconds
    raw: bytes


class Journal:
    """
    Args:
        submit: hands raw transactions to the ledger, which admits and forwards them; raises InvalidTransaction.
        clock: unix seconds.

    Raises:
        OSError: the file cannot be read or written.
    """

    def __init__(
        self, path: Path, ledger: Ledger, submit: Callable[[list[bytes]], None], clock: Callable[[], float]
    ) -> None:
        self._path, self._ledger, self._submit, self._clock = path, ledger, submit, clock
        self._waiting: dict[tuple[bytes, int], tuple[Transaction, float]] = {}  # by sender and nonce; the newest counts
        for record in self._read():
            try:
                self._add(ledger.chain.decode_transaction(record.raw), record.added_at)
            except InvalidTransaction as error:
                log.warning("journal.entry_dropped", reason=str(error))
        self._write_anew()

    def __len__(self) -> int:
        return len(self._waiting)

    def submit(self, raw: bytes) -> bytes:
        """Admit a client's transaction, keep it and send it on its way; its hash.

        Raises:
            InvalidTransaction: it can never be included as it stands.
            JournalFull: nothing was done.
            OSError: it is on its way, but is not kept.
        """
        transaction = self._ledger.chain.decode_transaction(raw)
        if transaction.hash in self._ledger.refused_transactions:
            raise InvalidTransaction("the validators found its claim to be false")
        if len(self) >= TRANSACTIONS_MAX or self._live_bytes + len(raw) > BYTES_MAX:
            raise JournalFull(f"{len(self)} transactions of clients wait here to become final; try again later")
        self._submit([raw])
        known = self._waiting.get((transaction.sender, transaction.nonce))
        if known is None or known[0].hash != transaction.hash:
            now = self._clock()
            self._add(transaction, now)
            self._append(_Record(now, raw))
        return transaction.hash

    def tick(self) -> None:
        """Forget what is done, and hand to the ledger again what left its pool without being done."""
        oldest = self._clock() - LIFETIME_S
        for key, (transaction, added_at) in list(self._waiting.items()):
            if transaction.hash in self._ledger.mempool:
                continue
            used = transaction.nonce < self._ledger.chain.nonce(transaction.sender)
            if used or added_at < oldest or transaction.hash in self._ledger.refused_transactions:
                del self._waiting[key]
                continue
            try:
                self._submit([transaction.raw])
            except InvalidTransaction as error:  # admissible once, and may be again
                log.debug("transaction.waits", transaction="0x" + transaction.hash.hex(), reason=str(error))
        if self._file_bytes > 2 * self._live_bytes + _SLACK_BYTES:
            self._write_anew()

    @property
    def _live_bytes(self) -> int:
        return sum(len(transaction.raw) for transaction, _ in self._waiting.values())

    def _add(self, transaction: Transaction, added_at: float) -> None:
        self._waiting[transaction.sender, transaction.nonce] = (transaction, added_at)

    # ---- the file ---------------------------------------------------------------------------------------------------
    def _read(self) -> Iterator[_Record]:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return
        at = 0
        while at < len(data):
            header, begin = data[at : at + _HEADER.size], at + _HEADER.size
            size, checksum = _HEADER.unpack(header) if len(header) == _HEADER.size else (0, 1)
            body = data[begin : begin + size]
            if len(body) != size or zlib.crc32(body) != checksum:
                log.warning("journal.cut", path=str(self._path), at=at, lost_bytes=len(data) - at)
                return
            yield msgspec.msgpack.decode(body, type=_Record)
            at = begin + size

    def _append(self, record: _Record) -> None:
        data = _encode(record)
        try:
            with self._path.open("ab") as file:
                file.write(data)
        except OSError:
            os.truncate(self._path, self._file_bytes)  # half a record would hide those after it
            raise
        self._file_bytes += len(data)

    def _write_anew(self) -> None:
        """The file as it would be without its history; appears under its name whole or not at all."""
        draft = self._path.with_suffix(".new")
        data = b"".join(_encode(_Record(added_at, each.raw)) for each, added_at in self._waiting.values())
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._path)
        self._file_bytes = len(data)


def _encode(record: _Record) -> bytes:
    body = msgspec.msgpack.encode(record)
    return _HEADER.pack(len(body), zlib.crc32(body)) + body
