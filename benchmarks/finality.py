"""Milliseconds from submit to final, over real daemons on loopback: `python -m benchmarks.finality`.

    submit   a client's clock before it calls eth_sendRawTransaction of a validator, over its Unix socket
    final    the time at which the same validator logs the block as final: it is on that validator's disk by then

So the call itself is part of what is measured, and the answer's way back is not. All scenarios are of one run, each is
compared with "4 validators, idle" of the same run. CPU is of all nodes together, for each block: on a machine that has
other work, too, it says more than the milliseconds do.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.local_network import Member, Node
from tests.network.kit import Net, network
from tests.network.stream import KEYS, Follower, Sent, Stream, latencies_ms, prepare

LIMIT_S: Final = 60.0
TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
OUTAGE_S: Final = 15.0  # many times the longest view on an idle network
SETTLE_S: Final = 2.0  # after the start, for imports and identify to be over


@dataclass(frozen=True, slots=True)
class Figures:
    """One scenario."""

    name: str
    millis: Sequence[float]  # ascending
    blocks_per_s: float
    cpu_ms_per_block: float  # of all nodes that are alive
    load: float  # the machine's load average at its end

    def percentile(self, share: float) -> float:
        return self.millis[min(len(self.millis) - 1, int(share * len(self.millis)))]


@dataclass(frozen=True, slots=True)
class Mark:
    """How far a network was at a time."""

    at: float  # monotonic seconds
    height: int
    cpu_s: float


class Bench:
    """A network of validators, and a stream into those that are alive."""

    def __init__(self, net: Net) -> None:
        self.net, self.stream = net, Stream()
        self.followers = {name: Follower(node.log) for name, node in net.nodes.items()}

    @property
    def alive(self) -> list[str]:
        return list(self.net.running)

    def one_at_a_time(self, name: str, count: int) -> Figures:
        """Each is sent, to the next validator each time, when the one before is final."""
        began, sent = self.mark(), []
        for number in range(count):
            node = self.alive[number % len(self.alive)]
            follower = self.followers[node]
            follower.read()
            while max(follower.final, default=0) < self.height:
                follower.wait_above(max(follower.final, default=0), LIMIT_S)
            height = max(follower.final, default=0)
            sent.append(self.send(node, number % len(KEYS)))
            follower.wait_above(height, LIMIT_S)
        return self.figures(name, sent, began)

    def steady(self, name: str, per_s: float, seconds: float) -> Figures:
        """At a steady pace, whatever becomes of them, to the next validator each time."""
        began, sent = self.mark(), []
        for number in range(int(per_s * seconds)):
            time.sleep(max(0.0, began.at + number / per_s - time.monotonic()))
            sent.append(self.send(self.alive[number % len(self.alive)], number % len(KEYS)))
        return self.figures(name, sent, began)

    def recovery(self) -> tuple[float, float]:
        """Seconds to the next final block after two of four validators come back: from the first of them being up,
        and from the start of its process."""
        victims = self.alive[2:4]
        for name in victims:
            self.net.kill(name)
        survivor = self.followers[self.alive[0]]
        survivor.read()
        height = max(survivor.final)
        self.send(self.alive[0], 0)
        time.sleep(OUTAGE_S)
        survivor.read()
        assert max(survivor.final) == height, "a block was final without a quorum"
        self.read()
        for name in victims:
            self.followers[name].started.clear()
        began = time.time()
        self.net.start(*victims)
        survivor.wait_above(height, LIMIT_S)
        final = survivor.final[height + 1]
        ups = []
        for name in victims:
            self.net.wait_connected(name)
            self.followers[name].read()
            ups += self.followers[name].started
        return final - min(ups), final - began

    def send(self, node: str, sender: int) -> Sent:
        return self.stream.send(self.net.running[node].client, node, sender)

    def read(self) -> None:
        for follower in self.followers.values():
            follower.read()

    @property
    def height(self) -> int:
        return max(max(self.followers[name].final, default=0) for name in self.alive)

    def mark(self) -> Mark:
        self.read()
        return Mark(time.monotonic(), self.height, self.cpu_s())

    def cpu_s(self) -> float:
        """Of all nodes, since their starts."""
        found = 0.0
        for running in self.net.running.values():
            fields = Path(f"/proc/{running.process.pid}/stat").read_text().rpartition(")")[2].split()
            found += (int(fields[11]) + int(fields[12])) / TICKS_PER_S
        return found

    def figures(self, name: str, sent: list[Sent], began: Mark) -> Figures:
        self.drain()
        ended = self.mark()
        blocks = ended.height - began.height
        found: list[float] = []
        for node in self.alive:
            mine = [each for each in sent if each.node == node]
            found += latencies_ms(mine, self.net.running[node].client, self.followers[node])
        per_s, cpu_ms = blocks / (ended.at - began.at), 1000 * (ended.cpu_s - began.cpu_s) / blocks
        return Figures(name, sorted(found), per_s, cpu_ms, os.getloadavg()[0])

    def drain(self) -> None:
        """Until all that was sent is final everywhere."""
        def done() -> bool:
            statuses = [self.net.status(name) for name in self.alive]
            heights = {each and each.finalised_head.number for each in statuses}
            return len(heights) == 1 and all(each and not each.pending_transactions for each in statuses)

        self.net.wait("everything to be final", done)
        self.read()


@contextmanager
def bench(validators: int, block_delay_s: float) -> Iterator[Bench]:
    def change(node: Node) -> None:
        prepare(node)
        path = node.config.directory / "network.toml"
        path.write_text(path.read_text().replace("development", f"block_delay_s = {block_delay_s}\ndevelopment", 1))

    members = [Member(f"validator-{number}", ("validator",)) for number in range(1, validators + 1)]
    with tempfile.TemporaryDirectory(prefix="fin-") as root, network(Path(root), members, change) as net:
        net.start()
        for name in net.nodes:
            net.wait_connected(name, validators)
        time.sleep(SETTLE_S)
        yield Bench(net)


@contextmanager
def busy_cores() -> Iterator[None]:
    """Every core has something else to do."""
    burners = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    try:
        yield
    finally:
        for each in burners:
            each.kill()
            each.wait()


def show(figures: Figures, base: Figures) -> None:
    p50, p99 = figures.percentile(0.5), figures.percentile(0.99)
    values = (
        p50, p99, figures.millis[-1], figures.blocks_per_s, figures.cpu_ms_per_block, p50 / base.percentile(0.5),
        p99 / base.percentile(0.99), figures.load,
    )  # fmt: skip
    print(f"{figures.name:32s}{len(figures.millis):9d}" + "".join(f"{value:9.2f}" for value in values), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Print milliseconds from submit to final over real daemons.")
    parser.add_argument("--count", type=int, default=100, help="transactions of each scenario, one at a time")
    parser.add_argument("--per-s", type=float, default=20.0, help="of the steady stream")
    parser.add_argument("--seconds", type=float, default=10.0, help="of the steady stream")
    parser.add_argument("--block-delay-s", type=float, default=0.2, help="of the network file; a dead proposer costs 3")
    options = parser.parse_args()
    machine = f"{platform.python_implementation()} {platform.python_version()}, {os.cpu_count()} cores"
    print(f"{machine}; block_delay_s {options.block_delay_s:g}; data in {tempfile.gettempdir()}; load average last")
    columns = ("tx", "p50 ms", "p99 ms", "max ms", "blocks/s", "CPU ms", "p50 x", "p99 x", "load")
    print(" " * 32 + "".join(f"{column:>9s}" for column in columns))
    with bench(4, options.block_delay_s) as four:
        base = four.one_at_a_time("4 validators, idle", options.count)
        show(base, base)
        show(four.steady(f"4 validators, {options.per_s:g} tx/s", options.per_s, options.seconds), base)
        with busy_cores():
            show(four.one_at_a_time("4 validators, all cores busy", options.count), base)
        four.net.kill("validator-4")
        show(four.one_at_a_time("4 validators, one of them dead", options.count), base)
        four.net.start("validator-4")
        four.net.wait_connected("validator-4")
        up, process = four.recovery()
        outage = f"recovery after {OUTAGE_S:.0f} s without a quorum"
        print(f"{outage}: {up:.2f} s after a node was up again, {process:.2f} s after its process began", flush=True)
    with bench(7, options.block_delay_s) as seven:
        show(seven.one_at_a_time("7 validators, idle", options.count), base)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
