"""Blocks built and imported, ours beside stock py-evm; how long an import stalls the event loop: `-m benchmarks.chain`.

Every block is full at the default gas limit. Built means: of decoded transactions, as a proposer has them. Imported
means: from the block's bytes to a header that is compared with the block's own, signatures included ("seen": its
transactions were decoded before, as they are when they came through the pool). Both sides keep the state in memory, and
both make the same header of each block, or the run stops. CPU seconds count, the best of several rounds.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import rlp
import trio
from eth.consensus import ConsensusContext
from eth.db.atomic import AtomicDB
from eth.db.chain import ChainDB
from eth.vm.chain_context import ChainContext
from eth.vm.forks.cancun import CancunVM
from eth.vm.forks.cancun.blocks import CancunBlock
from eth.vm.forks.cancun.transactions import CancunTransactionBuilder
from eth_hash.auto import keccak

from benchmarks.evm import CALLEE, CASES, SUBJECT
from chain import evm, masking
from chain.contracts import REPLICATED, genesis_contracts
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.contracts.events import Terms, decode
from chain.evm import Account, Codec, Execution, Header, Layers, Rules
from chain.header import address_of_secret
from chain.receipts import logs_of
from chain.transaction import sign_transaction

GAS_LIMIT = 10_000_000  # a network file's default
RULES = Rules(chain_id=1337, gas_limit=GAS_LIMIT, base_fee_wei=7)
COINBASE = b"\xcb" * 20
TRANSFERS = GAS_LIMIT // 21_000
JOBS, SLOTS = 3, 27
TERMS = Terms(
    reward=1_000, stake=300, slots=SLOTS, workers_min=SLOTS, rounds_max=2, attempts_max=2, commit_window_s=60,
    reveal_window_s=40, last_call_s=20, grace_s=10, deadline=10**9, auto_finalise=False,
)  # fmt: skip
PEOPLE = [keccak(b"person %d" % index) for index in range(TRANSFERS)]
ADDRESSES = [address_of_secret(key) for key in PEOPLE]
WORST = "blake2f, 12 rounds"  # the slowest class of benchmarks.evm
TICK_S = 0.001


@dataclass(frozen=True)
class Node:
    """A chain in memory: its state and its newest header."""

    state: dict[bytes, bytes]
    head: Header

    def execution(self) -> Execution:
        layers = Layers((self.state,), lambda _: None)
        return Execution(RULES, self.head, self.head.timestamp + 1, COINBASE, layers, (self.head.hash,))

    def after(self, raws: Sequence[bytes]) -> tuple[Node, bytes, list[Any]]:
        """The next state, the block, and the events of its logs."""
        codec, execution = Codec(RULES), self.execution()
        for raw in raws:
            assert execution.run(codec.transaction(raw)).succeeded
        header, added = execution.finish(bytes(97))
        events = [decode(log) for log in logs_of(execution.receipts, header.block_number, header.hash)]
        return Node(self.state | added, header), evm.encode_block(header, raws), events


class Nonces:
    def __init__(self) -> None:
        self._next = dict.fromkeys(range(len(PEOPLE)), 0)

    def sign(self, person: int, call: Call) -> bytes:
        nonce = self._next[person]
        self._next[person] += 1
        key = PEOPLE[person]
        return sign_transaction(key, RULES.chain_id, nonce, call.to, call.value, call.data, call.gas, fee=20, tip=1)


def genesis() -> Node:
    accounts = {address: Account(balance=10**24) for address in ADDRESSES}
    accounts |= {bystander(index): Account(balance=1) for index in range(2_000)}
    accounts |= {at: Account(nonce=1, code=code, storage=slots) for at, (code, slots) in genesis_contracts().items()}
    case = CASES[WORST]
    accounts |= {SUBJECT: Account(nonce=1, code=case.code), CALLEE: Account(nonce=1, code=case.callee)}
    header, state = evm.genesis(RULES, 1_000, accounts, bytes(97))
    return Node(state, header)


def bystander(index: int) -> bytes:
    return keccak(b"bystander %d" % index)[:20]


def commit(job: int, round_: int, person: int) -> tuple[Call, Call]:
    """The commit and the reveal of a worker."""
    ctx = masking.context(RULES.chain_id, REPLICATED, job, round_, 1, ADDRESSES[person])
    r = masking.derive_r(PEOPLE[person], ctx)
    mask = masking.sign_mask(PEOPLE[person], RULES.chain_id, REPLICATED, ctx, r)
    ciphertext = keccak(b"C" + ADDRESSES[person])
    committed = b.commit(job, round_, 1, ciphertext, keccak(r), keccak(mask))
    return committed, b.reveal(job, round_, 1, r, mask, keccak(b"the right update"), False)


def blocks() -> Iterable[tuple[str, Node, bytes]]:
    """(workload, the node before it, its block)."""
    node, nonces = genesis(), Nonces()
    sent = [nonces.sign(i, Call(bystander(i), 1, b"", 21_000)) for i in range(TRANSFERS)]
    parent, (node, block, _) = node, node.after(sent)
    yield "transfers", parent, block
    jobs: list[int] = []
    for index in range(JOBS):
        node, _, events = node.after([nonces.sign(0, b.post(bytes(32), bytes(32), 1_000, keccak(b"seed"), TERMS))])
        jobs += [event.job for event in events if isinstance(event, b.JobPosted)]
        workers = range(index * SLOTS, (index + 1) * SLOTS)
        calls = [nonces.sign(person, b.enrol(jobs[-1], 4 * TERMS.stake)) for person in workers]
        for part in (calls[:14], calls[14:]):
            node, _, events = node.after(part)
    calls = [commit(jobs[person // SLOTS], 1, person) for person in range(JOBS * SLOTS)]
    for name, at in (("commits", 0), ("reveals", 1)):
        raws = [nonces.sign(person, each[at]) for person, each in enumerate(calls)]
        parent, (node, block, _) = node, node.after(raws)
        yield name, parent, block


def worst_block(node: Node) -> bytes:
    """One transaction that burns the block's gas in the class that takes longest for it."""
    raw = sign_transaction(PEOPLE[0], RULES.chain_id, 0, SUBJECT, 0, CASES[WORST].data, GAS_LIMIT, fee=20, tip=1)
    execution = node.execution()
    execution.run(Codec(RULES).transaction(raw))
    header, _ = execution.finish(bytes(97))
    return evm.encode_block(header, [raw])


# -- the two sides ---------------------------------------------------------------------------------------------------


def build(node: Node, transactions: Sequence[Any]) -> Header:
    execution = node.execution()
    for transaction in transactions:
        execution.run(transaction)
    return execution.finish(bytes(97))[0]


def import_block(node: Node, block: bytes, codec: Codec) -> Header:
    decoded = evm.decode_block(block, GAS_LIMIT, b"")
    header = build(node, [codec.transaction(raw) for raw in decoded.transactions])
    assert header.hash == decoded.header.hash
    return header


class Stock:
    """CancunVM as it comes, on a database that holds a node's state."""

    def __init__(self, node: Node) -> None:
        self._db = AtomicDB()
        for key, value in node.state.items():
            self._db[key] = value
        self._chaindb = ChainDB(self._db)
        self._node = node
        if node.head.block_number:
            self._chaindb.persist_checkpoint_header(node.head, 0)
        else:
            self._chaindb.persist_header(node.head)

    def _vm(self) -> CancunVM:
        head = self._node.head
        blank = evm.blank_header(RULES, head, head.timestamp + 1, COINBASE).copy(extra_data=bytes(97))
        return CancunVM(blank, self._chaindb, ChainContext(RULES.chain_id), ConsensusContext(self._db))

    def build(self, transactions: Sequence[Any]) -> Header:
        vm = self._vm()
        filled, receipts, _ = vm.apply_all_transactions(transactions, vm.get_header())
        block = vm.set_block_transactions_and_withdrawals(vm.get_block(), filled, transactions, receipts)
        return vm.finalize_block(block).block.header

    def import_block(self, payload: bytes) -> Header:
        block = rlp.decode(payload, sedes=CancunBlock)
        header = self.build(block.transactions)
        assert header.hash == block.header.hash
        return header


def cpu_s(rounds: int, prepare: Callable[[], Callable[[], Header]], expected: bytes) -> float:
    best = float("inf")
    for _ in range(rounds):
        run = prepare()
        started = time.process_time()
        header = run()
        best = min(best, time.process_time() - started)
        assert header.hash == expected
    return best


def compare(name: str, node: Node, block: bytes, rounds: int) -> None:
    decoded = evm.decode_block(block, GAS_LIMIT, b"")
    raws, digest, gas = decoded.transactions, decoded.header.hash, decoded.header.gas_used
    seen = Codec(RULES)
    ours = [seen.transaction(raw) for raw in raws]

    def theirs() -> list[Any]:
        transactions = [CancunTransactionBuilder.decode(raw) for raw in raws]
        for transaction in transactions:
            _ = transaction.sender  # remembered on the object
        return transactions

    def stock_build() -> Callable[[], Header]:
        stock, transactions = Stock(node), theirs()
        return lambda: stock.build(transactions)

    def stock_import() -> Callable[[], Header]:
        stock = Stock(node)
        return lambda: stock.import_block(block)

    def fresh_import() -> Callable[[], Header]:
        codec = Codec(RULES)
        return lambda: import_block(node, block, codec)

    slow_build = cpu_s(rounds, stock_build, digest)
    slow_import = cpu_s(rounds, stock_import, digest)
    sides = (
        ("build", lambda: lambda: build(node, ours), slow_build),
        ("import", fresh_import, slow_import),
        ("import, seen", lambda: lambda: import_block(node, block, seen), slow_import),
    )
    for act, prepare, slow in sides:
        fast = cpu_s(rounds, prepare, digest)
        print(
            f"{name:10s} {act:13s} {len(raws):4d} tx {gas / 1e6:5.2f} Mgas   ours {len(raws) / fast:6.0f} tx/s "
            f"{gas / fast / 1e6:6.1f} Mgas/s   stock {len(raws) / slow:5.0f} tx/s   {slow / fast:5.1f}x"
        )


# -- the event loop --------------------------------------------------------------------------------------------------


async def stall(node: Node, block: bytes, threaded: bool) -> tuple[float, float]:
    """(longest time between two ticks, time of the import), seconds."""
    longest = 0.0
    codec = Codec(RULES)
    async with trio.open_nursery() as nursery:

        async def tick() -> None:
            nonlocal longest
            before = time.perf_counter()
            while True:
                await trio.sleep(TICK_S)
                now = time.perf_counter()
                longest = max(longest, now - before)
                before = now

        nursery.start_soon(tick)
        await trio.sleep(0.05)
        longest = 0.0
        started = time.perf_counter()
        if threaded:
            await trio.to_thread.run_sync(import_block, node, block, codec)
        else:
            import_block(node, block, codec)
        took = time.perf_counter() - started
        await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    return longest, took


def stalls(rounds: int, name: str, node: Node, block: bytes) -> None:
    default = sys.getswitchinterval()
    for threaded, interval_s in ((False, default), (True, default), (True, 0.001), (True, 0.0002)):
        sys.setswitchinterval(interval_s)
        found = [trio.run(stall, node, block, threaded) for _ in range(rounds)]
        sys.setswitchinterval(default)
        where = f"in a thread, switching every {interval_s * 1e3:g} ms" if threaded else "inline"
        longest, took = (sorted(each)[len(found) // 2] for each in zip(*found, strict=True))
        print(f"{name:10s} {where:38s} loop stalled {longest * 1e3:7.1f} ms at most, import took {took:5.2f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Print what building and importing blocks costs, beside stock py-evm.")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{platform.python_implementation()} {platform.python_version()}, one of {os.cpu_count()} cores")
    made = list(blocks())
    for name, node, block in made:
        compare(name, node, block, options.rounds)
    print(
        f"\nThe longest time between two ticks of an event loop that ticks every {TICK_S * 1e3:g} ms (median of runs):"
    )
    stalls(options.rounds, *made[0])
    node = made[0][1]
    stalls(1, "worst", node, worst_block(node))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
