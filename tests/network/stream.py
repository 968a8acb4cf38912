"""A stream of transactions into a network of real processes, and when each of them was final.

Accounts of its own pay for it. When a block became final a node says itself, in its log, to the microsecond; so nothing
here adds to what is measured by asking again and again.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from eth_hash.auto import keccak

from chain.header import address_of_secret
from chain.transaction import sign_transaction
from cli.client import Client
from cli.errors import NodeError
from cli.local_network import BALANCE_WEI, CHAIN_ID, Node

FEE_WEI: Final = 20
GAS: Final = 21_000
POLL_S: Final = 0.002
KEYS: Final = tuple((10**9 + number).to_bytes(32, "big") for number in range(1, 9))
SINK: Final = b"\x11" * 20


def prepare(node: Node) -> None:
    """Give the stream's accounts coins in the network file, and let the node log for machines."""
    lines = [f'"0x{address_of_secret(key).hex()}" = "{BALANCE_WEI}"\n' for key in KEYS]
    with (node.config.directory / "network.toml").open("a") as file:
        file.writelines(lines)  # the balances are its last table
    path = node.config.directory / "node.toml"
    path.write_text(path.read_text().replace('format = "console"', 'format = "json"'))


@dataclass(frozen=True, slots=True)
class Sent:
    """A transaction that a node has accepted; `at`: unix seconds, before it was sent."""

    hash: str
    node: str
    sender: int
    nonce: int
    at: float


@dataclass(slots=True)
class Stream:
    """Signs and sends; each account has one transaction more on its way after each call of `send`."""

    nonces: list[int] = field(default_factory=lambda: [0] * len(KEYS))
    sent: list[Sent] = field(default_factory=list)

    def raw(self, sender: int) -> bytes:
        """The next transaction of an account, always the same bytes until it was accepted."""
        return sign_transaction(KEYS[sender], CHAIN_ID, self.nonces[sender], SINK, 1, b"", GAS, FEE_WEI, 1)

    def send(self, client: Client, node: str, sender: int) -> Sent:
        """Raises NodeError if the node does not accept it, or does not say so."""
        raw, at = self.raw(sender), time.time()
        digest = client.call("eth_sendRawTransaction", str, {"raw": "0x" + raw.hex()})
        return self._sent(digest, node, sender, at)

    def took(self, node: str, sender: int) -> Sent:
        """An account's next transaction is known to have come in, although nobody said so."""
        return self._sent("0x" + keccak(self.raw(sender)).hex(), node, sender, time.time())

    def _sent(self, digest: str, node: str, sender: int, at: float) -> Sent:
        found = Sent(digest, node, sender, self.nonces[sender], at)
        self.nonces[sender] += 1
        self.sent.append(found)
        return found


@dataclass(slots=True)
class Follower:
    """Reads what a node adds to its log, and keeps when each block became final there."""

    path: Path
    final: dict[int, float] = field(default_factory=dict)  # unix seconds by height
    started: list[float] = field(default_factory=list)  # when the node opened its API, once for each process
    _at: int = 0
    _rest: bytes = b""

    def read(self) -> None:
        with self.path.open("rb") as file:
            file.seek(self._at)
            found = file.read()
        self._at += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if b'"block.finalised"' not in line and b'"node.started"' not in line:
            return
        said: dict[str, Any] = msgspec.json.decode(line)
        at = datetime.fromisoformat(said["timestamp"]).timestamp()
        if said["event"] == "node.started":
            self.started.append(at)
        else:
            self.final[said["number"]] = at

    def wait_above(self, height: int, limit_s: float) -> None:
        """Until a block above `height` is final; raises TimeoutError."""
        deadline = time.monotonic() + limit_s
        while max(self.final, default=0) <= height:
            if time.monotonic() > deadline:
                raise TimeoutError(f"no block above {height} was final within {limit_s:.0f} s: {self.path}")
            time.sleep(POLL_S)
            self.read()


def transactions(client: Client, first: int, last: int) -> Iterator[tuple[int, str]]:
    """(height, hash) of all that is final in the blocks first..last, in order."""
    for number in range(first, last + 1):
        block = client.call("eth_getBlockByNumber", dict[str, Any], {"block": hex(number)})
        yield from ((number, digest) for digest in block["transactions"])


def latencies_ms(sent: Sequence[Sent], client: Client, follower: Follower) -> list[float]:
    """From before a transaction was sent to the time at which its block was final at the same node, ascending."""
    follower.read()
    heights = {digest: height for height, digest in transactions(client, 1, max(follower.final))}
    if lacking := [each.hash for each in sent if each.hash not in heights]:
        raise NodeError(f"{len(lacking)} transactions are not final, the first is {lacking[0]}")
    return sorted(1000 * (follower.final[heights[each.hash]] - each.at) for each in sent)
