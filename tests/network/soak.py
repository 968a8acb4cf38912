"""A network under a steady load whose validators are killed and started again, over and over: `make soak MINUTES=5`.

Four validators on loopback, one process each. A seed says who is killed (never more than one third at once, but now and
then all together) and for how long. At the end every transaction that a node accepted has to be final exactly once,
without a gap in nonces; heads and state roots have to be equal; and nobody may have contradicted itself.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from chain.header import address_of_secret
from chain.store import Store
from cli.client import NodeRefused
from cli.errors import NodeError
from node.api import schema
from tests.network.kit import VALIDATORS, Net, network
from tests.network.stream import KEYS, Stream, prepare

PER_S: Final = 15.0
CALM_S: Final = (2.0, 6.0)  # between two outages, with everybody up
OUTAGE_S: Final = (0.2, 5.0)  # from the kill to the start
ALL_SHARE: Final = 0.25  # of the outages hit everybody
USED: Final = "is used"  # in the refusal of a nonce that is final


class SoakFailed(Exception):
    """What a soak run promises did not hold; the message says which part."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in bytes: its resident set, and the part that is its own, without the database's map."""

    resident: int
    private: int

    @classmethod
    def of(cls, pid: int) -> Memory:
        found: Counter[str] = Counter()
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if value.endswith("kB"):
                found[name] += int(value.split()[0]) << 10
        return cls(found["Rss"], found["Anonymous"])

    def __str__(self) -> str:
        return f"{self.resident / 2**20:.1f} MiB resident, {self.private / 2**20:.1f} MiB private"


@dataclass(slots=True)
class Report:
    """What a run came to."""

    seconds: float = 0.0
    kills: int = 0
    accepted: int = 0
    height: int = 0
    began: dict[str, Memory] = field(default_factory=dict)  # in the first process of each validator, when it was up
    ended: dict[str, Memory] = field(default_factory=dict)  # in its last process


class Soak:
    """One run; `run` returns when all was checked."""

    def __init__(self, net: Net, seed: int, calm: bool) -> None:
        self.net, self.calm, self.stream, self.report = net, calm, Stream(), Report()
        self.random, self.choose = random.Random(seed), random.Random(seed)  # of kills; of who gets a transaction
        self.down: dict[str, float] = {}  # when who is to be started again, monotonic

    def run(self, seconds: float) -> Report:
        """Raises SoakFailed."""
        self.net.start()
        self._wait_all_up()
        self.report.began = self._memory()
        began = time.monotonic()
        next_kill, number = began + self.random.uniform(*CALM_S), 0
        while (now := time.monotonic()) < began + seconds:
            self._start_due(now)
            if not self.calm and not self.down and now >= next_kill:
                self._kill(now)
                next_kill = max(self.down.values()) + self.random.uniform(*CALM_S)
            self._send(number)
            number += 1
            time.sleep(max(0.0, began + number / PER_S - time.monotonic()))
        self.report.seconds = time.monotonic() - began
        self._start_due(float("inf"))
        self._wait_all_up()
        self._wait_final()
        self.report.ended = self._memory()
        self._check()
        return self.report

    # -- load and outages ----------------------------------------------------------------------------------------
    def _kill(self, now: float) -> None:
        names = list(self.net.running)
        victims = names if self.random.random() < ALL_SHARE else [self.random.choice(names)]
        for name in victims:
            self.net.kill(name)
            self.down[name] = now + self.random.uniform(*OUTAGE_S)
        self.report.kills += len(victims)

    def _start_due(self, now: float) -> None:
        for name in [name for name, at in self.down.items() if at <= now]:
            del self.down[name]
            self.net.start(name)

    def _send(self, number: int) -> None:
        """The next transaction of the next account to a validator that runs; who gets no answer sends it again later,
        byte by byte the same."""
        sender = number % len(KEYS)
        up = [name for name in self.net.running if self.net.nodes[name].config.socket_path.exists()]
        if not up:
            return
        name = self.choose.choice(up)
        try:
            self.stream.send(self.net.running[name].client, name, sender)
        except NodeRefused as error:
            if USED not in str(error):
                raise SoakFailed(f"{name} refused a transaction: {error}") from None
            # It had come in with a call whose answer was lost.
            self.stream.took(name, sender)
        except NodeError:
            return  # it is being killed, or is not up yet

    # -- the end -------------------------------------------------------------------------------------------------
    def _wait_all_up(self) -> None:
        for name in self.net.nodes:
            self.net.wait_connected(name)

    def _memory(self) -> dict[str, Memory]:
        return {name: Memory.of(running.process.pid) for name, running in self.net.running.items()}

    def _wait_final(self) -> None:
        """Until a quiet network agrees on one head, with nothing left in its pools."""

        def agreed() -> bool:
            found = [self.net.status(name) for name in self.net.nodes]
            heads = {each and each.finalised_head.digest for each in found}
            return len(heads) == 1 and all(each and not each.pending_transactions for each in found)

        self.net.wait("all validators to agree, with nothing pending", agreed)

    def _check(self) -> None:
        found = {name: self._seen(name) for name in self.net.nodes}
        first, *others = found
        for name in others:
            if found[name] != found[first]:
                raise SoakFailed(f"{first} and {name} have different chains")
        roots, final = found[first]
        times = Counter(final)
        for each in self.stream.sent:
            if times[each.hash] != 1:
                raise SoakFailed(f"{each.hash}, accepted by {each.node}, is final {times[each.hash]} times")
        self.report.accepted, self.report.height = len(self.stream.sent), len(roots) - 1
        self._check_nonces()
        self.net.stop()
        self._check_disks()

    def _seen(self, name: str) -> tuple[list[str], list[str]]:
        """State roots by height, and the hashes of all final transactions in order."""
        client = self.net.running[name].client
        roots, hashes = [], []
        for number in range(self.net.call(name, "fl_status", schema.Status).finalised_head.number + 1):
            block = client.call("eth_getBlockByNumber", dict[str, Any], {"block": hex(number)})
            roots.append(block["stateRoot"])
            hashes += block["transactions"]
        return roots, hashes

    def _check_nonces(self) -> None:
        sent = Counter(each.sender for each in self.stream.sent)
        for sender, key in enumerate(KEYS):
            address = "0x" + address_of_secret(key).hex()
            for name in self.net.nodes:
                client = self.net.running[name].client
                nonce = int(client.call("eth_getTransactionCount", str, {"address": address}), 16)
                # the last one may be final although nobody said so: it was taken by a node that died over its answer
                if nonce not in (sent[sender], sent[sender] + 1):
                    raise SoakFailed(f"{name}: account {sender} has nonce {nonce}, of it {sent[sender]} were accepted")

    def _check_disks(self) -> None:
        for name, node in self.net.nodes.items():
            store = Store(node.config.chain_path)
            try:
                if evidence := store.evidence():
                    raise SoakFailed(f"{name} holds evidence against validator {evidence[0][0].voter}: {evidence[0]}")
            finally:
                store.close()


def run(root: Path, seed: int, seconds: float, calm: bool = False) -> Report:
    """A whole run in the directory `root`; `calm`: nobody is killed. Whatever happens, no process of it is left.

    Raises:
        SoakFailed
    """
    with network(root, VALIDATORS, prepare) as net:
        return Soak(net, seed, calm).run(seconds)


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill and restart validators under load, then check that all is well.")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--calm", action="store_true", help="kill nobody: shows what a process's memory does")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    print(f"seed {seed}: `make soak MINUTES={options.minutes:g} SEED={seed}` kills in the same order", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="soak-") as root:
        try:
            report = run(Path(root), seed, 60 * options.minutes, options.calm)
        except (SoakFailed, AssertionError, NodeError) as error:
            print(f"soak: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("soak: interrupted", file=sys.stderr)
            return 130
    print(f"{report.accepted} transactions accepted and final, {report.height} blocks, {report.kills} kills")
    for name in report.began:
        print(f"  {name}: {report.began[name]} at the begin, {report.ended[name]} at the end")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
