"""Users outside of the network: each has transactions to send, and sends them again until they are final."""

from __future__ import annotations

from dataclasses import dataclass, field

from chain.transaction import sign_transaction
from chain.types import InvalidTransaction
from node.ledger import Ledger
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, COUNTER, LOGGER, USERS

SINK = b"\x51" * 20
RESEND_S = 2.0
FEE, FEE_AGAIN = 20, 30


@dataclass
class Client:
    """
    Attributes:
        home: the node that it talks to.
        claimed: for a transaction with a claim, what it claims.
    """

    user: int
    home: str
    raws: list[bytes] = field(default_factory=list)  # by nonce
    values: list[int] = field(default_factory=list)  # what each pays to the sink
    claimed: list[bytes | None] = field(default_factory=list)

    def _sign(self, nonce: int, to: bytes, value: int, data: bytes, fee: int) -> bytes:
        return sign_transaction(USERS[self.user], CHAIN_ID, nonce, to, value, data, 300_000, fee=fee, tip=1)

    def want(self, to: bytes, value: int = 0, data: bytes = b"") -> bytes:
        raw = self._sign(len(self.raws), to, value, data, FEE)
        self.raws.append(raw)
        self.values.append(value)
        self.claimed.append(data[:32] if to == LOGGER else None)
        return raw

    def pay(self) -> bytes:
        return self.want(SINK, 1)

    def count(self) -> bytes:
        return self.want(COUNTER)

    def claim(self, name: bytes) -> bytes:
        """What its claim states is true if the first byte of its name is even."""
        return self.want(LOGGER, data=name)

    def refused(self, name: bytes) -> None:
        """The validators found this claim to be false: use its nonce for a payment."""
        for nonce, claimed in enumerate(self.claimed):
            if claimed == name:
                self.claimed[nonce], self.values[nonce] = None, 1
                self.raws[nonce] = self._sign(nonce, SINK, 1, b"", FEE_AGAIN)

    def resend(self, ledger: Ledger, now: float) -> None:
        nonce = ledger.chain.nonce(ADDRESSES[self.user])
        for raw in self.raws[nonce:]:
            try:
                ledger.submit(raw, now)
            except InvalidTransaction:  # the one before it is not here yet, or a replaced one still is
                continue

    def is_done(self, ledger: Ledger) -> bool:
        return ledger.chain.nonce(ADDRESSES[self.user]) == len(self.raws)
