"""Sole owner of one key's nonce: one queue of transactions, counted from the finalised nonce.

An entry is on disk before it is sent, is sent again until it is final, and is known by a tag that says what it does
("commit 3/7/1"), so that asking twice, or asking again after a restart, does not send twice. A refused entry gives its
nonce back: the next transaction is signed on it, with a higher fee so that a pool that still holds the old one lets go
of it; when later entries wait behind it, a transfer of nothing to ourselves fills the gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import structlog
import trio
from eth_hash.auto import keccak

from chain.contracts.bindings import Call
from chain.transaction import sign_transaction
from chain.types import InvalidTransaction

log = structlog.get_logger()

FEE_BUMP: Final = 1.25  # mempools ask for a tenth more
QUEUE_MAX: Final = 256
GAS_TRANSFER: Final = 21_000


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One transaction on its way."""

    nonce: int
    tag: str
    raw: bytes
    fee: int
    claim: bytes | None = None  # the claim that it logs, if it logs one

    @property
    def hash(self) -> bytes:
        return keccak(self.raw)


class Queue(msgspec.Struct, frozen=True, array_like=True):
    """The pure part: entries in nonce order, without gaps, the first one at `nonce`."""

    nonce: int = 0  # the finalised one
    entries: tuple[Entry, ...] = ()
    fee_floor: int = 0  # the least fee for the nonce that a refusal freed

    @property
    def next_nonce(self) -> int:
        return self.nonce + len(self.entries)

    def find(self, tag: str) -> Entry | None:
        return next((entry for entry in self.entries if entry.tag == tag), None)


class QueueFull(Exception):
    """More than QUEUE_MAX transactions of this account wait to become final."""


class TransactionFailed(Exception):
    """A transaction was refused by the validators, or was included and reverted."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """A transaction of ours that is final and succeeded."""

    transaction: bytes


@dataclass
class _Waiter:
    done: trio.Event = field(default_factory=trio.Event)
    failure: str | None = None
    transaction: bytes = b""


Sign = Callable[[int, Call, int], bytes]  # (nonce, call, fee) -> raw


def push(queue: Queue, tag: str, call: Call, fee: int, sign: Sign, claim: bytes | None = None) -> Queue:
    """Append a transaction on the next nonce."""
    if len(queue.entries) >= QUEUE_MAX:
        raise QueueFull(f"{QUEUE_MAX} transactions of this account are not final yet")
    fee = max(fee, queue.fee_floor)
    entry = Entry(queue.next_nonce, tag, sign(queue.next_nonce, call, fee), fee, claim)
    return Queue(queue.nonce, (*queue.entries, entry))


def settle(queue: Queue, nonce: int) -> tuple[Queue, tuple[Entry, ...]]:
    """The finalised nonce is now `nonce`: the entries below it are done."""
    done = tuple(entry for entry in queue.entries if entry.nonce < nonce)
    rest = queue.entries[len(done) :]
    return Queue(max(nonce, queue.nonce), rest, queue.fee_floor if rest or not done else 0), done


def refuse(queue: Queue, claim: bytes, own: bytes, sign: Sign) -> tuple[Queue, Entry | None]:
    """The validators refused `claim`: take its transaction out and reuse its nonce.

    Args:
        own: this account's address, which fills a gap with a transfer of nothing.
    """
    at = next((i for i, entry in enumerate(queue.entries) if entry.claim == claim), None)
    if at is None:
        return queue, None
    refused = queue.entries[at]
    fee = math.ceil(refused.fee * FEE_BUMP)
    if at == len(queue.entries) - 1:
        return Queue(queue.nonce, queue.entries[:at], fee), refused
    nonce, nothing = refused.nonce, Call(own, 0, b"", GAS_TRANSFER)
    filler = Entry(nonce, f"filler {nonce}", sign(nonce, nothing, fee), fee)
    return Queue(queue.nonce, (*queue.entries[:at], filler, *queue.entries[at + 1 :]), queue.fee_floor), refused


class Account:
    """The queue with its disk, its wire and those who wait for an outcome.

    Args:
        load, store: the queue's place on disk (msgpack bytes; None when there is nothing yet).
        check: raises InvalidTransaction for a raw transaction that the ledger would not admit.
        send: hands raw transactions to the ledger, which admits and forwards them.
        outcome: the receipt status of a final transaction; None if it never became final.
    """

    def __init__(
        self,
        key: bytes,
        address: bytes,
        chain_id: int,
        base_fee: int,
        load: Callable[[], bytes | None],
        store: Callable[[bytes], None],
        check: Callable[[bytes], None],
        send: Callable[[list[bytes]], None],
        outcome: Callable[[bytes], bool | None],
    ) -> None:
        self.address = address
        self._key, self._chain_id, self._base_fee = key, chain_id, base_fee
        self._store, self._check, self._send, self._outcome = store, check, send, outcome
        saved = load()
        self._queue = Queue() if saved is None else msgspec.msgpack.decode(saved, type=Queue)
        self._waiters: dict[str, _Waiter] = {}

    @property
    def fee(self) -> int:
        """Wei for a unit of gas that a call of this account has to be covered with; most of it is not spent."""
        return 2 * self._base_fee + 1

    @property
    def pending(self) -> int:
        return len(self._queue.entries)

    async def submit(self, tag: str, call: Call, claim: bytes | None = None) -> Receipt:
        """Send a transaction and wait until it is final; a tag that is on its way already is only waited for.

        Raises:
            TransactionFailed: it was refused, or it reverted; QueueFull.
        """
        waiter = self._waiters.get(tag)
        if waiter is None:
            waiter = self._waiters[tag] = _Waiter()
            entry = self._queue.find(tag)
            if entry is None:
                try:
                    entry = self._append(tag, call, claim)
                except BaseException:
                    del self._waiters[tag]
                    raise
            waiter.transaction = entry.hash
        await waiter.done.wait()
        if waiter.failure is not None:
            raise TransactionFailed(waiter.failure)
        return Receipt(waiter.transaction)

    def _append(self, tag: str, call: Call, claim: bytes | None) -> Entry:
        """Sign, check, store, send: in this order, so that nothing inadmissible is ever in the queue."""
        queue = push(self._queue, tag, call, self.fee, self._sign, claim)
        entry = queue.entries[-1]
        try:
            self._check(entry.raw)
        except InvalidTransaction as error:
            raise TransactionFailed(str(error)) from None
        self._replace(queue)
        log.debug("transaction.queued", tag=tag, nonce=entry.nonce)
        self._send_one(entry)
        return entry

    def hash_of(self, tag: str) -> bytes | None:
        """The transaction hash of a tag that is on its way."""
        entry = self._queue.find(tag)
        return None if entry is None else entry.hash

    def on_finalised(self, nonce: int) -> None:
        """The finalised state counts `nonce` transactions of this account."""
        if nonce <= self._queue.nonce:
            return
        queue, done = settle(self._queue, nonce)
        self._replace(queue)
        for entry in done:
            status = self._outcome(entry.hash)
            why = "it reverted" if status is False else "its nonce was used by another transaction"
            self._finish(entry, None if status else why)

    def on_refused(self, claim: bytes) -> None:
        """More than a third of the validators refused this claim."""
        queue, refused = refuse(self._queue, claim, self.address, self._sign)
        if refused is not None:
            self._replace(queue)
            self.resend()
            self._finish(refused, "the validators found its claim to be false")

    def resend(self) -> None:
        """Send everything that is not final again."""
        for entry in self._queue.entries:
            self._send_one(entry)

    def _send_one(self, entry: Entry) -> None:
        try:
            self._send([entry.raw])
        except InvalidTransaction as error:  # admissible once, and will be again
            log.info("transaction.waits", tag=entry.tag, reason=str(error))

    def _finish(self, entry: Entry, failure: str | None) -> None:
        log.info("transaction.ended", tag=entry.tag, nonce=entry.nonce, failure=failure)
        waiter = self._waiters.pop(entry.tag, None)
        if waiter is not None:
            waiter.failure, waiter.transaction = failure, entry.hash
            waiter.done.set()

    def _replace(self, queue: Queue) -> None:
        self._store(msgspec.msgpack.encode(queue))
        self._queue = queue

    def _sign(self, nonce: int, call: Call, fee: int) -> bytes:
        arguments: dict[str, Any] = {"to": call.to, "value": call.value, "data": call.data, "gas": call.gas}
        return sign_transaction(self._key, self._chain_id, nonce, fee=fee, tip=1, **arguments)
