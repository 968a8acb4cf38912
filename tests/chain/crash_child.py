"""A process that makes blocks final until it is killed: `python -m tests.chain.crash_child DIR`.

One line on stdout for every write that has returned: "vote VIEW" or "final NUMBER".
"""

from __future__ import annotations

import sys
from pathlib import Path

from chain.types import NOTARISE, Vote
from tests.chain.chain_kit import COUNTER, build, finalise, open_chain, tx

TRANSACTIONS = 3  # in each block


def main(path: Path) -> None:
    chain = open_chain(path)
    while True:
        head = chain.finalised
        nonces = range(head.number * TRANSACTIONS, (head.number + 1) * TRANSACTIONS)
        block = build(chain, head.digest, head.view + 1, [tx(chain, 0, nonce, COUNTER) for nonce in nonces])
        chain._store.log_votes([(Vote(0, block.view, NOTARISE, block.digest, 0, bytes(65)), block)])
        print("vote", block.view, flush=True)
        if block.view % 3:
            batch = [block]
        else:  # every third time two blocks under one certificate
            nonces = range((head.number + 1) * TRANSACTIONS, (head.number + 2) * TRANSACTIONS)
            child = build(chain, block.digest, block.view + 1, [tx(chain, 0, nonce, COUNTER) for nonce in nonces])
            batch = [block, child]
        finalise(chain, *batch)
        print("final", chain.finalised.number, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
