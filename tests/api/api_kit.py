"""A tiny real node for the API's tests: it has all the validators' keys and seals a block for each transaction at once.

Its account is RICH for all but one thing: it proposes and approves changes of the validators as the first of them.
"""

from __future__ import annotations

import os
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import msgspec
import trio

from chain.chain import Chain
from chain.contracts.bindings import Call
from chain.genesis import Network, ValidatorEntry
from chain.store import Store
from chain.transaction import sign_transaction
from chain.types import FINALISE, Certificate
from learner import canonical, data, manifest
from learner.card import Card
from learner.presets import mlp
from node.api import schema
from node.api.backend import BackendError, NotFound
from node.api.http import ApiAddresses, serve_api
from node.blob_store import BlobStore
from node.config import Config, parse_config
from node.datasets import Datasets, read_plain
from node.keys import account_address
from node.outcome import submitted
from node.unixfs import digest_of
from node.validator_set import ValidatorSet

VALIDATOR_KEYS = tuple(bytes([number]) * 32 for number in (1, 2, 3, 4))
VALIDATORS = tuple(map(account_address, VALIDATOR_KEYS))
RICH_KEY = b"\x77" * 32
RICH = account_address(RICH_KEY)
BALANCE = 10**24
CHAIN_ID = 4747
NOW = 1_800_000_000

NETWORK = Network(
    name="test",
    chain_id=CHAIN_ID,
    timestamp=NOW - 10,
    validators=tuple(map(ValidatorEntry, VALIDATORS)),
    balances={RICH: BALANCE, **dict.fromkeys(VALIDATORS, 10**18)},
)

# The model of TinyNode's jobs: over the dataset `flowers` of two features and three classes.
MANIFEST = manifest.Manifest(
    model=mlp((2, 3)), dataset=b"\x44" * 32, dataset_size=100, batch_size=1, steps=1, learning_rate=0.5,
    momentum=0.5, init_seed=bytes(32),
)  # fmt: skip
WEIGHTS = (1.0, -2.0, 0.5, 0.25, 3.0, 0.0)
STATE = canonical.join(
    14,
    [
        (field, struct.pack(f"<{field.nbytes // 4}f", *(WEIGHTS if field.name.endswith("weight") else (0, 1, 2))))
        for field in MANIFEST.state_fields()
    ],
)
UPDATE, POSTED = ("0x" + digest_of(blob).hex() for blob in (STATE, MANIFEST.encode()))


class TinyNode:
    """node.api.backend.Backend over a real chain; its jobs are what was submitted."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / "chain", 1 << 26)
        self.chain = Chain(self._store, NETWORK)
        self.blobs = BlobStore(folder / "blobs", 1 << 26)
        for blob in (STATE, MANIFEST.encode()):
            self.blobs.put(blob)
        self.named = Datasets(self._store, self.blobs, None)  # type: ignore[arg-type]  # no peers
        self.waiting: dict[bytes, int] = {}
        self.specs: list[schema.JobSpec] = []
        self.stopped = False
        self.on_stop: Callable[[], None] = lambda: None
        self.broken = False
        self.lying = False  # about blobs

    def close(self) -> None:
        self._store.close()

    def pending_nonce(self, address: bytes) -> int:
        return self.chain.nonce(address) + self.waiting.get(address, 0)

    async def submit_transaction(self, raw: bytes) -> bytes:
        transaction = self.chain.decode_transaction(raw)
        head = self.chain.finalised
        view = head.view + 1
        block = self.chain.build(head.digest, view, 0, [transaction], NOW, VALIDATOR_KEYS[view % len(VALIDATOR_KEYS)])
        self.chain.finalise([block], Certificate(0, block.view, FINALISE, block.digest, ()))
        return transaction.hash

    async def status(self) -> schema.Status:
        if self.broken:
            raise RuntimeError("the disk is on fire")
        head = self.chain.finalised
        info = schema.HeadInfo(head.number, "0x" + head.digest.hex(), head.timestamp)
        return schema.Status(
            version="1",
            network=NETWORK.name,
            chain_id=CHAIN_ID,
            genesis="0x" + self.chain.genesis_digest.hex(),
            address="0x" + RICH.hex(),
            peer_id="12D3KooW",
            addresses=["/ip4/127.0.0.1/tcp/9000"],
            roles=["validator"],
            uptime_s=65.0,
            head=info,
            finalised_head=info,
            epoch=0,
            view=head.view,
            validators=1,
            peers=0,
            validators_connected=1,
            pending_transactions=0,
            jobs=schema.JobsInfo(open=len(self.specs), ended=0, owned=0, enrolled=0),
            balance_wei=str(self.chain.balance(RICH)),
            learner=schema.LearnerInfo("off"),
            memory=schema.MemoryInfo(90 << 20),
            waiting_for="workers: 0 enrolled, 3 needed",
            waiting_since_s=12.5,
            refused={"block": 2},
        )

    async def peers(self) -> list[schema.Peer]:
        address = "/ip4/127.0.0.1/tcp/9001"
        return [
            schema.Peer("12D3KooWx", address, "out", 3.0, 1 << 20, 2 << 20, 5, "0x" + "ab" * 20, 2),
            schema.Peer("12D3KooWy", address, "in", 65.0, 100, 2048),
        ]

    async def known_peers(self) -> list[schema.KnownPeer]:
        return [
            schema.KnownPeer("12D3KooWx", "/ip4/127.0.0.1/tcp/9001", True, True, 3.0, 90.0),
            schema.KnownPeer("12D3KooWz", "/ip4/127.0.0.1/tcp/9002", False, False, None, 7.0, 2, 1.5),
        ]

    async def jobs(self) -> list[schema.JobSummary]:
        return [
            schema.JobSummary(
                id=number,
                kind="replicated",
                owner="0x" + RICH.hex(),
                state="waiting",
                phase="WAITING",
                round=0,
                attempt=0,
                rounds_settled=0,
                rounds_max=spec.terms.rounds_max,
                enrolled=0,
                accuracy=None,
                reward_wei=spec.terms.reward_wei,
                deadline=spec.terms.deadline,
            )
            for number, spec in reversed(list(enumerate(self.specs, 1)))
        ]

    async def job(self, job: int) -> schema.JobDetail:
        if not 1 <= job <= len(self.specs):
            raise NotFound(f"there is no job {job}")
        return ended_job(job, self.specs[job - 1])

    async def job_events(self, job: int, after: int, wait_s: float) -> schema.JobEvents:
        await self.job(job)
        events = [
            schema.JobEvent(1, "JobPosted", 1, NOW, detail={"owner": "0x" + RICH.hex()}),
            schema.JobEvent(2, "JobEnded", 9, NOW + 9, detail={"reason": "2"}),
        ]
        return schema.JobEvents([event for event in events if event.sequence > after], 2)

    async def account(self) -> schema.Account:
        deposits = [schema.Deposit(1, True, str(10**18), str(2 * 10**18))]
        return schema.Account("0x" + RICH.hex(), 0, str(BALANCE), str(15 * 10**17), deposits, 0)

    async def datasets(self) -> list[schema.DatasetInfo]:
        return self.named.list()

    async def dataset(self, dataset: str) -> schema.DatasetInfo:
        return await self.named.info(dataset)

    async def blob_part(self, digest: bytes, index: int) -> schema.BlobPart:
        if not self.blobs.has(digest):
            raise NotFound(f"blob {digest.hex()} is not here")
        part = self.blobs.leaf(digest, index)
        return schema.BlobPart(self.blobs.size(digest), part[:-1] + b"!" if self.lying else part)

    async def add_dataset(self, path: str, name: str, card: Card, replace: bool) -> schema.DatasetInfo:
        return await self.named.add(path, name, card, replace)

    async def model(self, job: int, round: int | None, wait_s: float) -> schema.ModelInfo:
        detail = await self.job(job)
        info = next((each for each in self.named.list() if each.name == "flowers"), None)
        return schema.ModelInfo(
            job=job, round=round or 2, update_digest=UPDATE, size=len(STATE), manifest=detail.manifest,
            dataset="0x" + "44" * 32, correct=19, total=20, dataset_info=info,
        )  # fmt: skip

    async def predict(self, job: int, round: int | None, path: str, wait_s: float) -> schema.Prediction:
        """Class 1 for samples whose first feature is above 0, else 2."""
        parts = data.decode(read_plain(path, 1 << 20))
        values = struct.unpack(f"<{len(parts.features) // 4}f", parts.features)
        first = values[parts.sample_features :: parts.sample_features]  # without the sample for training
        return schema.Prediction(job, round or 2, UPDATE, [1 if value > 0 else 2 for value in first])

    async def submit_job(self, spec: schema.JobSpec, wait_s: float) -> schema.Submitted:
        if int(spec.terms.reward_wei) * spec.terms.slots * spec.terms.rounds_max > BALANCE:
            raise BackendError("the escrow is more than the account's balance")
        self.specs.append(spec)
        return schema.Submitted("0x" + "ab" * 32, True, len(self.specs))

    async def cancel_job(self, job: int, wait_s: float) -> schema.Submitted:
        await self.job(job)
        return schema.Submitted("0x" + "cd" * 32, True)

    async def appeal_job(self, job: int, wait_s: float) -> schema.Submitted:
        await self.job(job)
        return schema.Submitted("0x" + "d4" * 32, True)

    async def top_up_job(self, job: int, rounds: int, wait_s: float) -> schema.Submitted:
        await self.job(job)
        return schema.Submitted("0x" + "ce" * 32, True)

    async def withdraw(self, wait_s: float) -> schema.Submitted:
        return schema.Submitted("0x" + "cf" * 32, False)

    async def send(self, to: bytes, value: int, wait_s: float) -> schema.Submitted:
        if value > BALANCE:
            raise BackendError("the balance does not cover this")
        return schema.Submitted("0x" + "d0" * 32, True)

    async def validators(self) -> schema.Validators:
        return self._validator_set().show()

    async def propose_validator(self, subject: bytes, admit: bool, wait_s: float) -> schema.Submitted:
        return await self._validator_set().propose(subject, admit)

    async def approve_validator(self, proposal: int, wait_s: float) -> schema.Submitted:
        return await self._validator_set().approve(proposal)

    def _validator_set(self) -> ValidatorSet:
        return ValidatorSet(self.chain, VALIDATORS[0], VALIDATORS[1:3], self._send_as_validator)

    async def _send_as_validator(self, tag: str, call: Call) -> schema.Submitted:
        transaction = await self.submit_transaction(signed_by_validator(0, self.chain.nonce(VALIDATORS[0]), call))
        done = self.chain.receipt(transaction)
        assert done is not None
        if not done.succeeded:
            raise BackendError("the transaction failed: it reverted")
        return submitted(transaction, done.logs)

    async def stop(self) -> schema.Stopping:
        self.stopped = True
        self.on_stop()
        return schema.Stopping(os.getpid())


def signed_by_validator(index: int, nonce: int, call: Call) -> bytes:
    return sign_transaction(
        VALIDATOR_KEYS[index], CHAIN_ID, nonce, call.to, call.value, call.data, call.gas, fee=15, tip=1
    )


def ended_job(job: int, spec: schema.JobSpec) -> schema.JobDetail:
    """A job that reached its goal in two rounds."""
    worker = schema.WorkerInfo("0x" + RICH.hex(), True, 2, 2, str(2 * 10**16), "0", str(10**18), "0")
    rounds = [
        schema.RoundInfo(number, 1, "CLOSED", NOW, 3, 3, 3, UPDATE, 2, number + 5, NOW + number, NOW + 0.5)
        for number in (1, 2)
    ]
    return schema.JobDetail(
        id=job,
        kind="replicated",
        owner="0x" + RICH.hex(),
        manifest=POSTED,
        terms=spec.terms,
        state="ended",
        phase="CLOSED",
        round=2,
        attempt=1,
        base=UPDATE,
        rounds_settled=2,
        rounds_unclosed=0,
        void_rounds=0,
        enrolled=1,
        slots=[schema.Slot("0x" + RICH.hex(), "majority", UPDATE)],
        workers=[worker],
        rounds=rounds,
        accuracy=[(1, 0.9), (2, 0.96)],
        escrow_wei="0",
        posted_at=NOW,
        goal_accuracy=spec.goal_accuracy,
        goal_reached=True,
        end_reason="goal reached",
    )


def config_in(folder: Path, text: str = "") -> Config:
    """A node's config in `folder`, also on disk for the command line."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "node.toml"
    path.write_text(text)
    return parse_config(text, path, {})


@asynccontextmanager
async def serving(config: Config, node: TinyNode) -> AsyncIterator[ApiAddresses]:
    """The API while the context lasts."""
    async with trio.open_nursery() as nursery:
        addresses: ApiAddresses = await nursery.start(serve_api, config, node)
        yield addresses
        nursery.cancel_scope.cancel()


async def call(client: httpx.AsyncClient, method: str, *params: object) -> dict[str, object]:
    """One JSON-RPC call; the whole answer."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
    response = await client.post("/", content=msgspec.json.encode(request), headers=JSON)
    assert response.status_code == 200, response.text
    answer: dict[str, object] = response.json()
    return answer


JSON = {"Content-Type": "application/json"}
