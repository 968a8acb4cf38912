"""Transactions that wait: bounded, per sender in nonce order, across senders by what they pay. Pure.

A sender's transactions queue by nonce from the account's finalised nonce on; only those without a gap before them are
candidates. Room in a full pool is made at the tail of a queue, never at its front, which would strand what waits
behind it, and by these rules, in this order:

1. Whoever holds most gives way, whatever it pays, as long as it has two transactions and holds more than the newcomer's
   sender then would. What a sender holds is its share of the count or of the bytes, the larger one (Ghodsi et al.,
   Dominant Resource Fairness, NSDI 2011).
2. The newcomer's sender gives up what waits behind the newcomer.
3. A sender that has nothing here yet may outbid one transaction of a sender that holds as much as it then would.

So whatever one sender sends and pays, it holds no more than the others leave, keeps no newcomer out, and takes at most
one place of somebody who has only one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from chain.types import InvalidTransaction, Transaction

REPLACE_PERCENT: Final = 10  # how much more fee a transaction must offer to take another's place


@dataclass(frozen=True, slots=True)
class MempoolLimits:
    transactions_max: int = 4096
    bytes_max: int = 16 << 20
    per_sender_max: int = 256  # also how far a nonce may lie ahead of the account's
    lifetime_s: float = 3600.0


@dataclass(slots=True)
class _Entry:
    transaction: Transaction
    added: float
    order: int  # of arrival

    def cost(self) -> int:
        return _cost(self.transaction)

    @property
    def size(self) -> int:
        return len(self.transaction.raw)


@dataclass(slots=True)
class _Queue:
    nonce: int  # the account's, finalised
    entries: dict[int, _Entry]  # by nonce
    size: int = 0  # bytes

    def without(self, gone: _Entry) -> _Queue:
        """What it would be, were this entry gone already."""
        rest = {nonce: entry for nonce, entry in self.entries.items() if entry is not gone}
        return _Queue(self.nonce, rest, self.size - gone.size)

    @property
    def tail(self) -> _Entry:
        """The entry of the highest nonce."""
        return self.entries[max(self.entries)]


class Mempool:
    """
    Attributes:
        version: rises whenever what the pool holds changes.
    """

    def __init__(self, limits: MempoolLimits | None = None, base_fee_wei: int = 0) -> None:
        self.limits = MempoolLimits() if limits is None else limits
        self.version = 0
        self._base_fee_wei = base_fee_wei
        self._queues: dict[bytes, _Queue] = {}
        self._by_hash: dict[bytes, Transaction] = {}
        self._bytes = 0
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._by_hash)

    def __contains__(self, digest: object) -> bool:
        return digest in self._by_hash

    @property
    def size_bytes(self) -> int:
        """Sum of the raw sizes."""
        return self._bytes

    def get(self, digest: bytes) -> Transaction | None:
        return self._by_hash.get(digest)

    def hashes(self) -> tuple[bytes, ...]:
        return tuple(self._by_hash)

    def senders(self) -> tuple[bytes, ...]:
        return tuple(self._queues)

    def next_nonce(self, sender: bytes, account_nonce: int) -> int:
        """The first nonce from `account_nonce` on that none of the sender's waiting transactions has."""
        queue = self._queues.get(sender)
        while queue is not None and account_nonce in queue.entries:
            account_nonce += 1
        return account_nonce

    def add(self, transaction: Transaction, account_nonce: int, balance: int, now: float) -> None:
        """Take a transaction in; one that is here already changes nothing.

        Args:
            account_nonce, balance: the sender's, in the finalised state.

        Raises:
            InvalidTransaction: stale or far nonce, too little balance or fee, or a limit; the pool is unchanged.
        """
        if transaction.hash in self._by_hash:
            return
        queue = self._queues.get(transaction.sender, _Queue(account_nonce, {}))
        replaced = queue.entries.get(transaction.nonce)
        self._check(transaction, queue, max(account_nonce, queue.nonce), balance, replaced)
        victims = [] if replaced is None else [replaced.transaction]
        victims += self._make_room(transaction, queue, replaced)
        for victim in victims:
            self._drop(victim)
        self._arrivals += 1
        self._by_hash[transaction.hash] = transaction
        self._bytes += len(transaction.raw)
        queue.entries[transaction.nonce] = _Entry(transaction, now, self._arrivals)
        queue.size += len(transaction.raw)
        self._queues[transaction.sender] = queue
        self.version += 1
        self.set_nonce(transaction.sender, account_nonce)

    def check(self, transaction: Transaction, account_nonce: int, balance: int) -> None:
        """What `add` would raise for the transaction itself; that the pool is full is not looked at."""
        if transaction.hash not in self._by_hash:
            queue = self._queues.get(transaction.sender, _Queue(account_nonce, {}))
            replaced = queue.entries.get(transaction.nonce)
            self._check(transaction, queue, max(account_nonce, queue.nonce), balance, replaced)

    def candidates(self) -> tuple[Transaction, ...]:
        """Everything that is not behind a gap: best-paying first, each sender's in nonce order."""
        heap: list[tuple[int, int, int, bytes]] = []

        def offer(sender: bytes, nonce: int) -> None:
            entry = self._queues[sender].entries.get(nonce)
            if entry is not None:
                heapq.heappush(heap, (-self._price(entry.transaction), entry.order, nonce, sender))

        for sender, queue in self._queues.items():
            offer(sender, queue.nonce)
        found: list[Transaction] = []
        while heap:
            _, _, nonce, sender = heapq.heappop(heap)
            found.append(self._queues[sender].entries[nonce].transaction)
            offer(sender, nonce + 1)
        return tuple(found)

    def remove(self, digest: bytes) -> None:
        """Let a transaction go, if it is here."""
        if (transaction := self._by_hash.get(digest)) is not None:
            self._drop(transaction)

    def set_nonce(self, sender: bytes, nonce: int) -> None:
        """The sender's finalised nonce is `nonce`: what is below it goes."""
        queue = self._queues.get(sender)
        if queue is None or nonce <= queue.nonce:
            return
        queue.nonce = nonce
        self.version += 1  # what waited behind a gap may be a candidate now
        for stale in [entry.transaction for at, entry in queue.entries.items() if at < nonce]:
            self._drop(stale)

    def expire(self, now: float) -> None:
        """What has waited longer than the lifetime goes."""
        oldest = now - self.limits.lifetime_s
        for entry in [entry for entry in self._entries() if entry.added < oldest]:
            self._drop(entry.transaction)

    def _entries(self) -> Iterator[_Entry]:
        for queue in self._queues.values():
            yield from queue.entries.values()

    def _price(self, transaction: Transaction) -> int:
        """Wei per gas that its block's proposer would get."""
        return min(transaction.tip, transaction.fee - self._base_fee_wei)

    def _check(
        self, transaction: Transaction, queue: _Queue, nonce: int, balance: int, replaced: _Entry | None
    ) -> None:
        if transaction.nonce < nonce:
            raise InvalidTransaction(f"nonce {transaction.nonce} is used, the account's next is {nonce}")
        if transaction.nonce >= nonce + self.limits.per_sender_max:
            raise InvalidTransaction(f"nonce {transaction.nonce} is too far ahead of the account's {nonce}")
        if transaction.fee < self._base_fee_wei:
            raise InvalidTransaction(f"fee {transaction.fee} is below the base fee of {self._base_fee_wei} wei")
        earlier = sum(entry.cost() for at, entry in queue.entries.items() if nonce <= at < transaction.nonce)
        if earlier + _cost(transaction) > balance:
            raise InvalidTransaction(
                f"balance of {balance} wei is below the {earlier + _cost(transaction)} that this transaction and those "
                "waiting before it may take"
            )
        if replaced is not None:
            old = replaced.transaction
            if transaction.fee * 100 < old.fee * (100 + REPLACE_PERCENT) or transaction.tip < old.tip:
                raise InvalidTransaction(f"another transaction waits on this nonce; offer {REPLACE_PERCENT} % more fee")

    def _make_room(self, newcomer: Transaction, own: _Queue, replaced: _Entry | None) -> list[Transaction]:
        """Whom to let go, beside the one replaced, so that the newcomer fits in; see the module's rules.

        Args:
            own: the sender's queue.

        Raises:
            InvalidTransaction: nobody has to make room for it.
        """
        room = _Room(
            self.limits, len(self) + 1 - (replaced is not None),
            self._bytes + len(newcomer.raw) - (0 if replaced is None else replaced.size),
        )  # fmt: skip
        if room.fits:
            return []
        if replaced is not None:
            own = own.without(replaced)
        share = room.share(len(own.entries) + 1, own.size + len(newcomer.raw))
        others = {sender: queue for sender, queue in self._queues.items() if sender != newcomer.sender}
        large = ((sender, queue) for sender, queue in others.items() if len(queue.entries) > 1)
        heap = [(-room.share_of(queue), self._offer(queue.tail), sender) for sender, queue in large]
        heapq.heapify(heap)
        while not room.fits and heap and -heap[0][0] > share:
            sender = heapq.heappop(heap)[2]
            queue = others[sender] = room.without_tail(others[sender])
            if len(queue.entries) > 1:
                heapq.heappush(heap, (-room.share_of(queue), self._offer(queue.tail), sender))
        first = not own.entries and replaced is None
        while not room.fits and own.entries and own.tail.transaction.nonce > newcomer.nonce:
            own = room.without_tail(own)
        if not room.fits and first:
            equals = (queue for queue in others.values() if room.share_of(queue) >= share)
            outbid = min(equals, key=lambda queue: self._offer(queue.tail), default=own)
            if outbid is not own and self._price(outbid.tail.transaction) < self._price(newcomer):
                room.without_tail(outbid)
        if not room.fits:
            raise InvalidTransaction("the pool is full of transactions that have as much right to be there")
        return room.victims

    def _offer(self, entry: _Entry) -> tuple[int, int]:
        """Orders tails: the worst-paying first, of those the youngest; no two are equal."""
        return self._price(entry.transaction), -entry.order

    def _drop(self, transaction: Transaction) -> None:
        queue = self._queues[transaction.sender]
        queue.size -= queue.entries.pop(transaction.nonce).size
        if not queue.entries:
            del self._queues[transaction.sender]
        del self._by_hash[transaction.hash]
        self._bytes -= len(transaction.raw)
        self.version += 1


@dataclass(slots=True)
class _Room:
    """A pool that is too full by one newcomer, while it is decided who leaves."""

    limits: MempoolLimits
    count: int
    size: int
    victims: list[Transaction] = field(default_factory=list)

    @property
    def fits(self) -> bool:
        return self.count <= self.limits.transactions_max and self.size <= self.limits.bytes_max

    def share(self, count: int, size: int) -> int:
        """Of the pool, by count or by bytes, in units of 1 / (transactions_max * bytes_max)."""
        return max(count * self.limits.bytes_max, size * self.limits.transactions_max)

    def share_of(self, queue: _Queue) -> int:
        return self.share(len(queue.entries), queue.size)

    def without_tail(self, queue: _Queue) -> _Queue:
        """Let the last one of a queue go; what is left of it."""
        entry = queue.tail
        self.count -= 1
        self.size -= entry.size
        self.victims.append(entry.transaction)
        return queue.without(entry)


def _cost(transaction: Transaction) -> int:
    """The most that it may take from its sender."""
    return transaction.gas * transaction.fee + transaction.value
