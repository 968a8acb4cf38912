"""How fast a node catches up, with real processes on loopback: `python -m benchmarks.sync`.

The chain library makes the history, with one transfer in each block, and four validators start with it on their disks.
Then a new node without any history and one that has been off for most of it start, one after the other. Stalls of the
event loop are seen from outside: the longest time that the node's API took to answer `fl_status`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path

from chain import certificate
from chain.chain import Chain
from chain.genesis import load_network
from chain.store import Store
from chain.transaction import sign_transaction
from chain.types import FINALISE, Certificate
from cli.local_network import Member, Node
from node.keys import load_account_key
from tests.network.kit import VALIDATORS, Net, network
from tests.network.stream import FEE_WEI, GAS, KEYS, SINK, prepare

FRESH = Member("fresh", ("observer",))
LATE = Member("late", ("observer",))
POLL_S = 0.02
LIMIT_S = 500.0
QUORUM = 3


def make_history(node: Node, keys: list[bytes], blocks: int, stop_at: int, copy: Path) -> float:
    """Blocks on the disk of `node`, of which `copy` gets the first `stop_at`; how many a second."""
    store = Store(node.config.chain_path)
    chain = Chain(store, load_network(node.config.network_path))
    began = time.monotonic()
    for number in range(1, blocks + 1):
        head, view = chain.finalised, number
        raw = sign_transaction(KEYS[0], chain.network.chain_id, number - 1, SINK, 1, b"", GAS, FEE_WEI, 1)
        transactions = [chain.decode_transaction(raw)]
        block = chain.build(head.digest, view, 0, transactions, int(time.time()), keys[view % len(keys)])
        chain.finalise([block], prove(chain, keys, view, block.digest))
        if number == stop_at:
            shutil.copytree(node.config.chain_path, copy, dirs_exist_ok=True)
    store.close()
    return blocks / (time.monotonic() - began)


def prove(chain: Chain, keys: list[bytes], view: int, digest: bytes) -> Certificate:
    signatures = tuple(
        (
            index,
            certificate.sign_vote(key, chain.network.chain_id, chain.genesis_digest, 0, view, FINALISE, digest),
        )
        for index, key in enumerate(keys[:QUORUM])
    )
    return Certificate(0, view, FINALISE, digest, signatures)


def catch_up(net: Net, name: str, blocks: int, have: int) -> None:
    """Start a node and print how it went."""
    net.start(name)
    client, deadline = net.running[name].client, time.monotonic() + LIMIT_S
    waits, first, last, stall_s, shown = [], None, 0.0, 0.0, set[str]()
    while time.monotonic() < deadline:
        asked = time.monotonic()
        status = net.status(name)
        answered = time.monotonic()
        if status is not None:
            first = answered if first is None else first
            waits.append(answered - asked)
            stall_s = max(stall_s, answered - asked)
            last = answered
            if status.waiting_for is not None:
                shown.add(status.waiting_for)
            if status.finalised_head.number >= blocks:
                break
        net.running[name].check()
        time.sleep(POLL_S)
    else:
        raise SystemExit(f"{name} did not catch up: {client.endpoint}")
    assert first is not None
    took = last - first
    progress = net.nodes[name].log.read_text().count("sync.progressed")
    waits.sort()
    rate, p50_ms = (blocks - have) / took, 1000 * waits[len(waits) // 2]
    print(f"{name}: {blocks - have} blocks in {took:.1f} s, {rate:.0f} blocks/s; load {os.getloadavg()[0]:.1f}")
    print(f"    fl_status answered after {p50_ms:.0f} ms (p50), {1000 * stall_s:.0f} ms (longest)")
    print(f"    {progress} lines of progress in the log, {len(shown)} in the status, one: {max(shown, default='none')}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Print how fast a node catches up over real sockets.")
    parser.add_argument("--blocks", type=int, default=5100)
    parser.add_argument("--late", type=int, default=100, help="what the node has that was off for the rest")
    options = parser.parse_args()
    members = (*VALIDATORS, FRESH, LATE)
    with tempfile.TemporaryDirectory(prefix="sync-") as root, network(Path(root), members, prepare) as net:
        first, *others = (net.nodes[each.name] for each in VALIDATORS)
        keys = [load_account_key(node.config.account_key_path) for node in (first, *others)]
        per_s = make_history(first, keys, options.blocks, options.late, net.nodes[LATE.name].config.chain_path)
        print(f"{os.cpu_count()} cores; the library made {options.blocks} blocks, {per_s:.0f} a second", flush=True)
        for node in others:
            shutil.copytree(first.config.chain_path, node.config.chain_path, dirs_exist_ok=True)
        net.start(*(each.name for each in VALIDATORS))
        for each in VALIDATORS:
            net.wait_connected(each.name)
        catch_up(net, FRESH.name, options.blocks, 0)
        catch_up(net, LATE.name, options.blocks, options.late)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
