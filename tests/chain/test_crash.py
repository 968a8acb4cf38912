"""kill -9 at any point: the database opens cleanly and nothing that was reported as written is gone."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from tests.chain.chain_kit import ADDRESSES, COUNTER, close, extend, open_chain, tx
from tests.chain.crash_child import TRANSACTIONS

KILLS = 4
LINES_MAX = 60


def run_until_killed(path: Path, lines: int) -> tuple[int, int]:
    """Kill the child once it has printed so many lines; the last (view voted, number final) that it printed."""
    said = {"vote": 0, "final": 0}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.chain.crash_child", str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(lines):
            kind, number = child.stdout.readline().split()
            said[kind] = int(number)
        child.kill()
        for line in child.stdout:  # what it wrote before the signal arrived; the last line may be cut
            if line.endswith("\n"):
                kind, number = line.split()
                said[kind] = int(number)
    assert child.returncode == -9
    return said["vote"], said["final"]


def test_a_killed_node_reopens_with_all_that_it_had_said_was_written(tmp_path: Path) -> None:
    choose = random.Random(20240229)
    highest = 0
    for _ in range(KILLS):
        voted, final = run_until_killed(tmp_path, choose.randrange(1, LINES_MAX))
        chain = open_chain(tmp_path)
        head = chain.finalised
        assert head.number >= max(final, highest)
        highest = head.number
        assert chain.nonce(ADDRESSES[0]) == head.number * TRANSACTIONS
        assert chain.storage(COUNTER, int.from_bytes(ADDRESSES[0], "big")) == head.number * TRANSACTIONS
        for number in range(max(1, head.number - 3), head.number + 1):
            assert all(receipt.succeeded for receipt in chain.receipts(number))
            assert chain.nonce(ADDRESSES[0], number) == number * TRANSACTIONS
        assert chain.blocks_from(head.number, 1, 1 << 20)[0][1] == chain.finalised_certificate
        votes, blocks = chain._store.vote_log().votes, chain._store.vote_log().blocks
        assert all(vote.view > head.view for vote in votes)
        assert {vote.digest for vote in votes} == {block.digest for block in blocks}
        assert voted <= head.view or voted in {vote.view for vote in votes}
        for block in blocks:
            chain.add(block, None)
        extend(chain, [tx(chain, 0, chain.nonce(ADDRESSES[0]) + index, COUNTER) for index in range(TRANSACTIONS)])
        highest = chain.finalised.number
        close(chain)
    assert highest > KILLS
