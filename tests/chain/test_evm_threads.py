"""What the event loop and the thread that executes blocks share: nothing that one could spoil for the other."""

from __future__ import annotations

import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chain import evm, evm_codec, evm_interpreter
from chain.evm import Account, Codec, Execution, Header, Layers, Rules
from chain.store import Store, StoredBlock
from tests.chain import chain_kit, evm_programs
from tests.chain.chain_kit import ADDRESSES, CHAIN_ID, CLOCK, COUNTER, FURNACE, GENESIS_TIME, SPIRAL, USERS, sign
from tests.chain.test_evm_stock import transactions

RULES = Rules(CHAIN_ID, gas_limit=15_000_000, base_fee_wei=7)
THREADS = 3


@pytest.fixture(autouse=True)
def _threads_take_turns_all_the_time() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


def together(*works: Callable[[], object]) -> list[object]:
    """What each returns, all running at once in threads of their own."""
    gate = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        gate.wait()
        return work()

    with ThreadPoolExecutor(len(works)) as pool:
        return [future.result() for future in [pool.submit(run, work) for work in works]]


def stored(path: Path, accounts: dict[bytes, Account]) -> tuple[Store, Header]:
    header, nodes = evm.genesis(RULES, GENESIS_TIME, accounts, bytes(32))
    store = Store(path, map_size=1 << 26)
    store.write_genesis(StoredBlock(0, header.hash, evm.encode_block(header, ()), nodes, b"\x90", 0, ()))
    return store, header


def test_blocks_executed_beside_each_other_come_out_as_alone(tmp_path: Path) -> None:
    """One codec, one store; random programs; the caches of codes and transactions too small for what is asked."""
    choose = random.Random(5)
    store, parent = stored(tmp_path, evm_programs.accounts(choose))
    raws = list(transactions(choose, [0] * len(USERS), 40))
    codec = Codec(RULES)

    def execute() -> Header:
        layers = Layers((), store.state)
        execution = Execution(RULES, parent, GENESIS_TIME + 1, evm_programs.COINBASE, layers, (parent.hash,))
        for raw in raws:
            execution.run(codec.transaction(raw))
        return execution.finish(b"")[0]

    def ask() -> list[int]:
        found = []
        for index in range(60):
            snapshot = evm.Snapshot(parent, Layers((), store.state), CHAIN_ID)
            found.append(snapshot.balance(ADDRESSES[index % 8]) + snapshot.nonce(ADDRESSES[index % 8]))
            for actor in evm_programs.ACTORS[:2]:
                try:
                    found.append(snapshot.call(ADDRESSES[0], actor, b"", 0, 100_000)[1])
                except (evm.Reverted, evm.ExecutionFailed):
                    found.append(-1)
        return found

    alone = (execute(), ask())
    for _ in range(2):
        evm_interpreter.boundaries.cache_clear()
        codec = Codec(RULES)
        assert together(execute, ask, execute) == [alone[0], alone[1], alone[0]]
    store.close()


class Guarded(OrderedDict[bytes, Any]):
    """Looked into and changed under the lock only; a race would show too seldom."""

    def __init__(self, lock: Any) -> None:
        super().__init__()
        self._lock = lock

    def get(self, key: bytes, default: Any = None) -> Any:
        assert self._lock.locked()
        return super().get(key, default)

    def move_to_end(self, key: bytes, last: bool = True) -> None:
        assert self._lock.locked()
        super().move_to_end(key, last)

    def popitem(self, last: bool = True) -> tuple[bytes, Any]:
        assert self._lock.locked()
        return super().popitem(last)


def test_transactions_are_decoded_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache holds three of them: every look into it is beside somebody who throws that very entry out."""
    monkeypatch.setattr(evm_codec, "_CACHE_BYTES_MAX", 3 * 2200)
    codec = Codec(RULES)
    codec._seen = Guarded(codec._lock)
    raws = [sign(0, nonce) for nonce in range(5)]
    digests = [Codec(RULES).transaction(raw).hash for raw in raws]

    def decode() -> int:
        for turn in range(600):
            index = turn * 7 % 4 if turn % 3 else 4
            assert codec.transaction(raws[index]).hash == digests[index]
        return codec._seen_bytes

    together(*[decode] * THREADS)
    assert codec._seen_bytes == sum(size for _, size in codec._seen.values()) <= 3 * 2200


def test_calls_are_as_deep_in_a_thread_as_in_the_main_thread() -> None:
    parent, state = evm.genesis(
        RULES, GENESIS_TIME, dict.fromkeys(ADDRESSES, Account(balance=10**24)) | chain_kit.CONTRACTS, bytes(32)
    )

    def execute() -> tuple[Header, int]:
        layers = Layers((state,), lambda _: None)
        execution = Execution(RULES, parent, GENESIS_TIME + 1, evm_programs.COINBASE, layers, (parent.hash,))
        codec = Codec(RULES)
        done = execution.run(codec.transaction(sign(0, 0, SPIRAL, gas=14_000_000)))
        for user, to in ((1, COUNTER), (2, FURNACE), (3, CLOCK)):
            execution.run(codec.transaction(sign(user, 0, to)))
        return execution.finish(b"")[0], done.gas_used

    alone = execute()
    assert alone[1] > 50_000
    assert together(*[execute] * THREADS) == [alone] * THREADS
