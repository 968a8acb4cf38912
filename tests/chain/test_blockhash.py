"""What contracts may rest on: BLOCKHASH gives the digests of sealed blocks, as far back as it says, and the coinbase is
the proposer of the view. Audits are drawn from the one and paid to the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chain import evm
from chain.chain import Chain
from chain.header import address_of_secret
from tests.chain.chain_kit import (
    ARCHIVIST,
    HASHER,
    VALIDATORS,
    build,
    close,
    extend,
    finalise,
    make_network,
    open_chain,
    tx,
)

DEPTH = 256


@pytest.fixture
def chain(tmp_path: Path) -> Iterator[Chain]:
    opened = open_chain(tmp_path / "chain", make_network())
    yield opened
    close(opened)


def test_blockhash_is_that_of_the_sealed_block(chain: Chain) -> None:
    """Its proposer has signed it: the same block with another signature has another hash."""
    parent = build(chain, chain.genesis_digest, 1)
    child = build(chain, parent.digest, 2, [tx(chain, 0, 0, HASHER)])  # above a parent that is not final
    assert chain.storage(HASHER, 0, child.digest) == int.from_bytes(parent.digest, "big")
    finalise(chain, parent, child)
    header = evm.peek_header(parent.payload, parent.digest)
    forged = header.copy(extra_data=header.extra_data[:-1] + bytes([header.extra_data[-1] ^ 1]))
    assert header.hash == parent.digest != forged.hash
    assert evm.seal_hash(header) == evm.seal_hash(forged)
    assert header.coinbase == address_of_secret(VALIDATORS[1])


def test_blockhash_reaches_back_as_far_as_the_job_contract_takes_it_to(chain: Chain) -> None:
    digests = [chain.genesis_digest]
    for _ in range(DEPTH + 1):
        digests.append(extend(chain).digest)
    block = len(digests)
    for nonce, back in enumerate((1, 2, DEPTH, DEPTH + 1, 0)):
        number = block + nonce - back
        wanted = number.to_bytes(32, "big")
        digests.append(extend(chain, [tx(chain, 0, nonce, ARCHIVIST, wanted)]).digest)
        expected = digests[number] if 1 <= back <= DEPTH else bytes(32)
        assert chain.storage(ARCHIVIST, 1) == int.from_bytes(expected, "big"), back
