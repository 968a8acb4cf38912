"""What federated learning costs on a chain: `python -m benchmarks.results --data DIR` (MNIST as IDX files).

First `flnode demo --data` as it is: two models to their goal, over seven daemons, of which two cheat. Then, over five
honest ones (four validators, three of them workers, and a server), a few rounds of models of growing size, which train
only a few steps: what remains is what a round costs because of its update's size. All figures of a job are from the
round that was settled first to the one that was settled last, divided by the rounds between:

    seconds   the machine's clock          CPU    of all processes of all nodes, the learners included
    gas       of all blocks                chain  of the blocks as they are sent (certificates and attestations not)
    wire      all bytes that nodes sent    disk   what the chain's database and the blob store of a validator grew

The machine's load is printed with each job: on a busy machine only gas, bytes and CPU say something.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.demo import submit, wait_until_up
from cli.demo_job import MODELS, TERMS, Task, plan
from cli.demo_network import MEMBERS, Running, running
from cli.errors import NodeError
from cli.local_network import Member, Plan, create_nodes
from learner.manifest import Manifest
from node.api import schema

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
HONEST: Final = tuple(member for member in MEMBERS if member.behaviour == "honest")
SIZES: Final = {  # layers of a multilayer perceptron over the built-in digits, for states of about so many bytes
    "100 kB": (64, 330, 10),
    "1 MB": (64, 470, 470, 10),
    "10 MB": (64, 1540, 1540, 10),
    "64 MiB": (64, 4050, 4050, 10),  # the largest that a manifest may have
}
ROUNDS: Final = 4  # of each size
ROUNDS_MAX: Final = 60  # of a job with a goal
LIMIT_S: Final = 3600.0
POLL_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Mark:
    """What a network has spent so far."""

    at: float  # monotonic seconds
    height: int
    cpu_s: float
    sent_bytes: int
    chain_bytes: int  # of one validator's disk
    blob_bytes: int


@dataclass
class Result:
    """Of one job; all but the first five per round."""

    name: str
    update_bytes: int
    slots: int
    rounds: int
    accuracy: list[tuple[int, float]]
    seconds: float = 0.0
    cpu_s: float = 0.0
    gas: float = 0.0
    transactions: float = 0.0
    block_bytes: float = 0.0
    wire_bytes: float = 0.0
    chain_disk_bytes: float = 0.0
    blob_disk_bytes: float = 0.0
    load: float = 0.0
    seconds_by_round: list[float] = field(default_factory=list)


def mark(network: Sequence[Running]) -> Mark:
    """Ask every node, and look at the first one's disk."""
    peers = [peer for each in network for peer in each.client.call("fl_peers", list[schema.Peer])]
    config = network[0].node.config
    status = network[0].client.call("fl_status", schema.Status)
    return Mark(
        time.monotonic(), status.finalised_head.number, cpu_s([each.process.pid for each in network]),
        sum(peer.bytes_out for peer in peers), allocated(config.chain_path), allocated(config.blobs_path),
    )  # fmt: skip


def cpu_s(pids: Sequence[int]) -> float:
    """CPU seconds so far of these processes and all below them that live: nodes and their learners."""
    ticks, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(") ")[2].split()
        except OSError:
            continue
        pid = int(path.parent.name)
        parents[pid], ticks[pid] = int(fields[1]), int(fields[11]) + int(fields[12])
    wanted = set(pids)
    while more := {pid for pid, parent in parents.items() if parent in wanted} - wanted:
        wanted |= more
    return sum(ticks.get(pid, 0) for pid in wanted) / TICKS_PER_S


def allocated(folder: Path) -> int:
    """Bytes of the disk that a folder's files take."""
    return sum(512 * path.stat().st_blocks for path in folder.rglob("*") if path.is_file())


def measured(network: Sequence[Running], task: Task, update_bytes: int) -> Result:
    """Do a job and see what its rounds took."""
    server = next(each for each in network if "learning_server" in each.node.member.roles)
    job = submit(server, task.spec(time.time()))
    first, last, seen = None, None, 0
    deadline = time.monotonic() + LIMIT_S
    while last is None:
        detail = server.client.call("fl_job", schema.JobDetail, {"id": job})
        if first is None and detail.rounds_settled:
            first, rounds_before = mark(network), detail.rounds_settled
        if detail.state in ("closing", "ended"):
            last = mark(network)
        for each in network:
            each.check()
        if time.monotonic() > deadline:
            raise NodeError(f"{task.name}: out of time in round {detail.round}, {detail.phase} ({detail.waiting_for})")
        params = {"id": job, "after": seen, "wait_s": POLL_S}
        seen = server.client.call("fl_jobEvents", schema.JobEvents, params, wait_s=POLL_S).next
    assert first is not None
    rounds = detail.rounds_settled - rounds_before
    if rounds < 1:
        raise NodeError(f"{task.name}: the job ended after its first round: nothing to divide by")
    result = Result(task.name, update_bytes, detail.terms.slots, detail.rounds_settled, detail.accuracy)
    spend(result, first, last, rounds)
    blocks = [block(network[0], number) for number in range(first.height + 1, last.height + 1)]
    result.gas = sum(int(each["gasUsed"], 16) for each in blocks) / rounds
    result.block_bytes = sum(int(each["size"], 16) for each in blocks) / rounds
    result.transactions = sum(len(each["transactions"]) for each in blocks) / rounds
    settled = [each.settled_seen_at or 0.0 for each in detail.rounds if each.settled_at is not None]
    result.seconds_by_round = [round(b - a, 2) for a, b in pairwise(settled)]
    return result


def spend(result: Result, first: Mark, last: Mark, rounds: int) -> None:
    """Fill in what lies between two marks."""
    result.seconds = (last.at - first.at) / rounds
    result.cpu_s = (last.cpu_s - first.cpu_s) / rounds
    result.wire_bytes = (last.sent_bytes - first.sent_bytes) / rounds
    result.chain_disk_bytes = (last.chain_bytes - first.chain_bytes) / rounds
    result.blob_disk_bytes = (last.blob_bytes - first.blob_bytes) / rounds
    result.load = os.getloadavg()[0]


def block(node: Running, number: int) -> dict[str, Any]:
    """A final block as Ethereum's API shows it."""
    return node.client.call("eth_getBlockByNumber", dict[str, Any], {"block": hex(number)})


@contextmanager
def started(members: Sequence[Member]) -> Iterator[Sequence[Running]]:
    """A network of these on loopback, connected; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="flnode-results-") as root:
        nodes = create_nodes(Path(root), Plan("demo", members, deposit_stakes=ROUNDS_MAX + 10))
        with running(nodes) as network:
            wait_until_up(network, None, time.monotonic() + LIMIT_S)
            yield network


def models(folder: Path, names: Sequence[str]) -> list[Result]:
    """MNIST over the demo's network, to the demo's goals."""
    results = []
    for name in names:
        work = plan(folder, name, None, 0, ROUNDS_MAX)
        with started(MEMBERS) as network:
            work.hand_in(next(each for each in network if each.node.member.name == "server").client)
            results.append(measured(network, work.tasks[0], update_bytes(work.tasks[0])))
        show(results[-1])
    return results


def sizes(names: Sequence[str]) -> list[Result]:
    """Models of growing size over an honest network."""
    workers = sum(member.works for member in HONEST)
    terms = {
        **TERMS, "slots": workers, "workers_min": workers, "rounds_max": ROUNDS, "commit_window_s": 1800,
        "reveal_window_s": 1800,
    }  # fmt: skip
    results = []
    for name in names:
        job = {
            "dataset": "digits", "sizes": list(SIZES[name]), "batch_size": 32, "steps": 2, "learning_rate": 0.01,
            "bits": 7, "seed": 0,
        }  # fmt: skip
        task = Task(name, job, terms)
        with started(HONEST) as network:
            results.append(measured(network, task, update_bytes(task)))
        show(results[-1])
    return results


def update_bytes(task: Task) -> int:
    """Length of every state of the job."""
    spec = task.spec(time.time())
    manifest = Manifest(
        model=spec.model, dataset=bytes(32), dataset_size=1, batch_size=spec.batch_size, steps=spec.steps,
        learning_rate=spec.learning_rate, momentum=spec.momentum, bits=spec.bits, init_seed=bytes(32),
    )  # fmt: skip
    return manifest.update_size()


def show(result: Result) -> None:
    """One job's figures."""
    size = result.update_bytes
    print(f"\n{result.name}: {result.rounds} rounds of {result.slots} slots, update {size:,} bytes")
    if result.accuracy:
        print("  accuracy      " + " ".join(f"{accuracy:.4f}" for _, accuracy in result.accuracy))
    print("  seconds       " + " ".join(f"{each:.1f}" for each in result.seconds_by_round))
    print(f"  per round     {result.seconds:.1f} s, {result.cpu_s:.1f} CPU-s, load {result.load:.1f}")
    transactions = f"{result.transactions:.1f} transactions, {result.block_bytes:,.0f} B"
    print(f"  on chain      {result.gas:,.0f} gas in {transactions}")
    print(f"  over the wire {result.wire_bytes:,.0f} B, {result.wire_bytes / size:.1f} updates")
    print(
        f"  on disk       {result.chain_disk_bytes:,.0f} B of chain, {result.blob_disk_bytes:,.0f} B of blobs"
        f" ({result.blob_disk_bytes / size:.1f} updates) at a validator",
        flush=True,
    )


def tables(results: Sequence[Result]) -> str:
    """The figures as docs/RESULTS.md has them."""
    lines = [
        "| update | slots | gas | on chain | over the wire | in updates | blobs on disk | CPU | seconds | load |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for each in results:
        size = each.update_bytes
        name = f" ({each.name})" if each.name in MODELS else ""
        cells = (
            amount(size) + name, each.slots, f"{each.gas / 1e6:.2f}M", amount(each.block_bytes),
            amount(each.wire_bytes), f"{each.wire_bytes / size:.1f}", amount(each.blob_disk_bytes),
            f"{each.cpu_s:.1f} s", f"{each.seconds:.1f}", f"{each.load:.0f}",
        )  # fmt: skip
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def amount(size: float) -> str:
    """Bytes for people, in powers of ten."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.0f} B"


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the IDX files of MNIST; without it only the sizes")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=list(SIZES))
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here, too")
    parser.add_argument("--tables", nargs="+", type=Path, metavar="FILE", help="only print the tables of such files")
    options = parser.parse_args()
    if options.tables:
        read = [msgspec.json.decode(file.read_bytes(), type=list[Result]) for file in options.tables]
        print(tables([each for results in read for each in results]))
        return
    print(f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f} before it began", flush=True)
    results = models(options.data, options.models) if options.data else []
    results += sizes(options.sizes)
    if options.json:
        options.json.write_bytes(msgspec.json.encode(results))
    print(f"\n{tables(results)}")


if __name__ == "__main__":
    main()
