"""A process that makes blocks final until it is killed: `python -m tests.chain.crash_child DIR`.

One line on stdout for every write that has returned: "floor EPOCH VIEW", "vote EPOCH VIEW" or "final 0 NUMBER".
"""

from __future__ import annotations

import sys
from pathlib import Path

from chain.chain import Chain
from chain.types import NOTARISE, Block, Certificate, Vote
from tests.chain.chain_kit import CHANGER, COUNTER, NOW, VALIDATORS, change, finalise, open_chain, tx

TRANSACTIONS = 3  # in each block, of the first user
EPOCH_BLOCKS = 5  # an epoch ends at every multiple of it
MEMBERS = VALIDATORS[:4]


def main(path: Path) -> None:
    chain = open_chain(path)
    chain._store.log_votes([], [], floor(chain))
    print("floor", *floor(chain), flush=True)
    while True:
        block = child_of(chain, None)
        proof = Certificate(block.epoch, block.view, NOTARISE, block.digest, ())
        vote = Vote(block.epoch, block.view, NOTARISE, block.digest, 0, bytes(65))
        chain._store.log_votes([(vote, block)], [proof])
        print("vote", block.epoch, block.view, flush=True)
        if block.height % EPOCH_BLOCKS == 0:
            batch = [block, empty(chain, block)]  # which proves the epoch's last block final
        elif block.view % 3 == 0 and (block.height + 1) % EPOCH_BLOCKS:
            batch = [block, child_of(chain, block)]  # two blocks under one certificate
        else:
            batch = [block]
        finalise(chain, *batch)
        print("final", 0, chain.finalised.number, flush=True)


def floor(chain: Chain) -> tuple[int, int]:
    """Rises with the chain."""
    return chain.epochs.present.number, chain.finalised.number


def child_of(chain: Chain, parent: Block | None) -> Block:
    """The next block on `parent`, or on the finalised head."""
    epoch, head = chain.epochs.present.number, chain.finalised
    digest, height = (head.digest, head.number) if parent is None else (parent.digest, parent.height)
    view = head.view if parent is None else parent.view
    view = view + 1 if head.epoch == epoch else 1
    nonces = range(height * TRANSACTIONS, (height + 1) * TRANSACTIONS)
    transactions = [tx(chain, 0, nonce, COUNTER) for nonce in nonces]
    if (height + 1) % EPOCH_BLOCKS == 0:
        transactions.append(tx(chain, 1, epoch, CHANGER, change(epoch + 1, MEMBERS)))
    return chain.build(digest, view, epoch, transactions, NOW, MEMBERS[view % len(MEMBERS)])


def empty(chain: Chain, parent: Block) -> Block:
    view = parent.view + 1
    return chain.build(parent.digest, view, parent.epoch, (), NOW, MEMBERS[view % len(MEMBERS)])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
