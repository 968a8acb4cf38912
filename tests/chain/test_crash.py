"""kill -9 at any point: the database opens cleanly and nothing that was reported as written is gone."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from chain.chain import Chain
from tests.chain.chain_kit import ADDRESSES, COUNTER, close, finalise, open_chain
from tests.chain.crash_child import EPOCH_BLOCKS, MEMBERS, TRANSACTIONS, child_of, empty

KILLS = 4
LINES_MAX = 60
Said = dict[str, tuple[int, int]]


def run_until_killed(path: Path, lines: int) -> Said:
    """Kill the child once it has printed so many lines; the last that it printed of each kind."""
    said = {"floor": (0, 0), "vote": (0, 0), "final": (0, 0)}

    def take(line: str) -> None:
        kind, first, second = line.split()
        said[kind] = int(first), int(second)

    with subprocess.Popen(
        [sys.executable, "-m", "tests.chain.crash_child", str(path)], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        for _ in range(lines):
            take(child.stdout.readline())
        child.kill()
        for line in child.stdout:  # what it wrote before the signal arrived; the last line may be cut
            if line.endswith("\n"):
                take(line)
    assert child.returncode == -9
    return said


def check_chain(chain: Chain) -> None:
    head = chain.finalised
    assert chain.nonce(ADDRESSES[0]) == head.number * TRANSACTIONS
    assert chain.storage(COUNTER, int.from_bytes(ADDRESSES[0], "big")) == head.number * TRANSACTIONS
    for number in range(max(1, head.number - 3), head.number + 1):
        assert all(receipt.succeeded for receipt in chain.receipts(number))
        assert chain.nonce(ADDRESSES[0], number) == number * TRANSACTIONS
    items = chain.blocks_from(head.number, 1, 1 << 20)
    assert items[-1][1] == chain.finalised_certificate is not None
    assert items[-1][1].digest == items[-1][0].digest  # of the head, or of the empty block that proves it


def check_epochs(chain: Chain) -> None:
    """Each ended with its last block, in the same write."""
    head = chain.finalised
    assert chain.epochs.present.number == head.number // EPOCH_BLOCKS
    for number in range(1, chain.epochs.present.number + 1):
        last = number * EPOCH_BLOCKS
        assert chain.epochs[number].first == last + 1
        assert len(chain.epochs[number].validators) == len(MEMBERS)
        assert [block.parent for block in chain._store.tail(last)] == [chain.head(last).digest]
        assert chain.head(last).epoch == number - 1


def check_votes(chain: Chain, said: Said) -> None:
    log, head = chain._store.vote_log(), chain.finalised
    above = (head.epoch, head.view) if head.epoch == chain.epochs.present.number else (head.epoch + 1, 0)
    voted = {(vote.epoch, vote.view) for vote in log.votes}
    assert all(place > above for place in voted)
    assert {vote.digest for vote in log.votes} == {block.digest for block in log.blocks}
    assert {(proof.epoch, proof.view) for proof in log.certificates} == voted  # logged together, dropped together
    assert said["vote"] <= above or said["vote"] in voted
    assert log.floor is not None
    assert log.floor >= said["floor"]
    for block in log.blocks:
        chain.add(block, None)


def go_on(chain: Chain) -> None:
    block = child_of(chain, None)
    finalise(chain, block, *([empty(chain, block)] if block.height % EPOCH_BLOCKS == 0 else []))


def test_a_killed_node_reopens_with_all_that_it_had_said_was_written(tmp_path: Path) -> None:
    choose = random.Random(20240229)
    highest = 0
    for _ in range(KILLS):
        said = run_until_killed(tmp_path, choose.randrange(1, LINES_MAX))
        chain = open_chain(tmp_path)
        assert chain.finalised.number >= max(said["final"][1], highest)
        check_chain(chain)
        check_epochs(chain)
        check_votes(chain, said)
        go_on(chain)
        highest = chain.finalised.number
        close(chain)
    assert highest > EPOCH_BLOCKS
