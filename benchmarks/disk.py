"""How the chain's database grows with the rounds of a job: `python -m benchmarks.disk`.

Real rounds of the genesis contract go through chain.chain, without a network: a block with all commits, one with all
reveals and their attestations, and one that finalises, each under a certificate of three of four validators; then once
more with a block for every transaction, the most that a round can take. Nothing is ever pruned.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lmdb

from chain import certificate, claims
from chain.chain import Chain, FinalisedBlock
from chain.contracts import bindings as b
from chain.contracts.calls import Call
from chain.genesis import Network, ValidatorEntry
from chain.header import address_of_secret
from chain.store import Store
from chain.transaction import sign_transaction
from chain.types import FINALISE, Block, Certificate
from tests.contracts.evm_harness import CHAIN_ID
from tests.contracts.world import (
    BASE,
    GOOD,
    KEYS,
    MANIFEST,
    NOW,
    OWNER,
    SEED,
    STAKE,
    TERMS,
    UPDATE_SIZE,
    WORKERS,
    commit_call,
    reveal_call,
)

VALIDATORS = [bytes([number]) * 32 for number in range(1, 5)]
QUORUM = 3
FEE_WEI = 20
ENROLLED_FACTOR = 2  # enrolled workers for each slot
WARM_ROUNDS = 10


class Rounds:
    """One job on one chain."""

    def __init__(self, path: Path, slots: int, spread: bool) -> None:
        network = Network(
            name="disk",
            chain_id=CHAIN_ID,
            timestamp=NOW,
            validators=tuple(ValidatorEntry(address_of_secret(key)) for key in VALIDATORS),
            balances=dict.fromkeys(KEYS, 10**24),
        )
        self.store = Store(path)
        self.chain, self.slots, self.spread = Chain(self.store, network), slots, spread
        self.nonces = dict.fromkeys(KEYS, 0)
        self.workers: tuple[bytes, ...] = ()
        terms = replace(TERMS, slots=slots, rounds_max=1_000_000, reward=1)
        self.send([(OWNER, b.post(MANIFEST, BASE, UPDATE_SIZE, SEED, terms))])
        for worker in WORKERS[: ENROLLED_FACTOR * slots]:
            self.send([(worker, b.enrol(1, 4 * STAKE))])

    def play(self, round_: int) -> None:
        self.send([(worker, commit_call(worker, 1, round_, 1)) for worker in self.workers])
        self.send([(worker, reveal_call(worker, 1, round_, 1, GOOD)) for worker in self.workers])
        self.send([(OWNER, b.finalise(1, round_, 1, False))])

    def send(self, calls: Sequence[tuple[bytes, Call]]) -> None:
        """Make them final: in one block, or each in one of its own."""
        for batch in [[each] for each in calls] if self.spread else [calls]:
            self.block([self.signed(sender, call) for sender, call in batch])

    def signed(self, sender: bytes, call: Call) -> bytes:
        nonce = self.nonces[sender]
        self.nonces[sender] += 1
        return sign_transaction(
            KEYS[sender], CHAIN_ID, nonce, call.to, call.value, call.data, call.gas, fee=FEE_WEI, tip=1
        )

    def block(self, raws: Sequence[bytes]) -> None:
        chain, head = self.chain, self.chain.finalised
        view = head.view + 1
        transactions = [chain.decode_transaction(raw) for raw in raws]
        block = chain.build(head.digest, view, 0, transactions, NOW + view, VALIDATORS[view % len(VALIDATORS)])
        digests = [chain.claim_digest(claim) for claim in chain.claims(block.digest)]
        attestations = tuple(
            claims.sign_attestation(key, index, digest, True)
            for digest in digests
            for index, key in enumerate(VALIDATORS[:QUORUM])
        )
        done = chain.finalise([replace(block, attestations=attestations)], self.certificate(block))
        self.look(done, len(raws))

    def certificate(self, block: Block) -> Certificate:
        signatures = tuple(
            (
                index,
                certificate.sign_vote(
                    key, CHAIN_ID, self.chain.genesis_digest, 0, block.view, FINALISE, block.digest
                ),
            )
            for index, key in enumerate(VALIDATORS[:QUORUM])
        )
        return Certificate(0, block.view, FINALISE, block.digest, signatures)

    def look(self, done: Sequence[FinalisedBlock], transactions: int) -> None:
        for block in done:
            assert all(each.succeeded for each in self.chain.receipts(block.head.number))
            assert len(block.transactions) == transactions
            for log in block.logs:
                if isinstance(event := b.decode(log), b.RoundOpened):
                    self.workers = event.workers


def sizes(path: Path) -> dict[str, int]:
    """Bytes of pages in use, by sub-database; of a copy, because a process may open a database once."""
    copied = shutil.copy(path / "data.mdb", path / "copy.mdb")
    with (
        lmdb.open(str(copied), subdir=False, max_dbs=64, readonly=True, lock=False) as environment,
        environment.begin() as transaction,
    ):
        names = [bytes(key) for key, _ in transaction.cursor()]
        found = {}
        for name in names:
            stat = transaction.stat(environment.open_db(name, txn=transaction, create=False))
            pages = stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"]
            found[name.decode()] = pages * stat["psize"]
        return found


def grow(root: Path, slots: int, rounds: int, spread: bool) -> tuple[Mapping[str, float], float, float]:
    """Bytes a round by sub-database, blocks a round, seconds."""
    path = root / f"{slots}-{spread}"
    played = Rounds(path, slots, spread)
    for round_ in range(1, WARM_ROUNDS + 1):
        played.play(round_)
    before, height, began = sizes(path), played.chain.finalised.number, time.monotonic()
    for round_ in range(WARM_ROUNDS + 1, WARM_ROUNDS + rounds + 1):
        played.play(round_)
    after, blocks = sizes(path), played.chain.finalised.number - height
    played.store.close()
    growth = {name: (size - before.get(name, 0)) / rounds for name, size in after.items()}
    return growth, blocks / rounds, time.monotonic() - began


def main() -> int:
    parser = argparse.ArgumentParser(description="Print bytes on disk for each round, by sub-database.")
    parser.add_argument("--rounds", type=int, default=300)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="disk-") as root:
        for slots, spread in ((3, False), (5, False), (3, True), (5, True)):
            growth, blocks, seconds = grow(Path(root), slots, options.rounds, spread)
            total = sum(growth.values())
            print(f"{slots} slots, {blocks:.1f} blocks a round: {total:,.0f} bytes a round,", end=" ")
            print(f"{total * 1000 / 2**20:.1f} MiB for 1,000 rounds ({options.rounds} rounds in {seconds:.0f} s)")
            for name, size in sorted(growth.items(), key=lambda item: -item[1]):
                if size:
                    print(f"    {name:14s}{size:9,.0f} {100 * size / total:5.1f} %", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
