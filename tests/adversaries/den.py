"""A real node with the adversaries of the line-up in it: `python -m tests.adversaries.den --config DIR`.

It is one of the validators, and its consensus is honest. But it reads its pool for them, sends whatever they want
sent, and bids so that they come first in its blocks as in others'. Each identity has a key and an account of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog
import trio

from chain.chain import FinalisedBlock
from chain.claims import claim_digest
from chain.contracts import bindings as b
from chain.header import address_of_secret
from chain.transaction import sign_transaction
from learner import manifest as manifests
from learner.manifest import Manifest
from node import app
from node.account import Account, QueueFull, TransactionFailed
from node.jobs import RoundView
from node.performer import Performer
from tests.adversaries.lineup import GAMES, Game, key_of
from tests.adversaries.owners import Offer
from tests.adversaries.program import Act, Program, Scene, Send, Serve

log = structlog.get_logger()

LOOK_S = 0.25
AGAIN_S = 3.0
ELSEWHERE = "elsewhere.json"  # in the node's directory: what was revealed in other places, and who knows of it


class Bidder(Account):
    """Pays more to come first."""

    def _sign(self, nonce: int, call: b.Call, fee: int) -> bytes:
        arguments: dict[str, Any] = {"to": call.to, "value": call.value, "data": call.data, "gas": call.gas}
        return sign_transaction(self._key, self._chain_id, nonce, fee=fee + 10, tip=10, **arguments)


@dataclass
class Foe:
    name: str
    key: bytes
    game: int  # place in the line-up
    program: Program | None  # None: of an owner that has not seen an honest job yet
    account: Account
    done: set[str] = field(default_factory=set)

    @property
    def address(self) -> bytes:
        return self.account.address


class Den(app.Node):
    """A node with adversaries."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        found = (self._config.directory / ELSEWHERE).read_bytes()
        self._elsewhere = msgspec.json.decode(found, type=dict[str, list[b.Revealed]])
        self._reveals: list[b.Revealed] = []
        self._changed = trio.Event()
        self._asked: set[object] = set()
        self._worked: dict[object, bytes] = {}
        games = list(enumerate(GAMES))
        self._foes = [self._foe(name, n, program) for n, game in games for name, program in game.foes.items()]
        self._foes += [self._foe(game.owner[0], n, None) for n, game in games if game.owner]

    def _foe(self, name: str, game: int, program: Program | None) -> Foe:
        key = key_of(name)
        account = Bidder(
            key, address_of_secret(key), self._chain.network.chain_id, self._chain.network.base_fee_wei,
            load=lambda: None, store=lambda _queue: None, check=self._ledger.check, send=self._submit,
            outcome=self._outcome,
        )  # fmt: skip
        return Foe(name, key, game, program, account)

    # ---- what the node tells ----------------------------------------------------------------------------------------
    def _start_roles(self, nursery: trio.Nursery, performer: Performer) -> None:
        super()._start_roles(nursery, performer)
        self._performer, self._nursery = performer, nursery
        nursery.start_soon(self._prowl)

    def _on_final(self, blocks: list[FinalisedBlock]) -> None:
        super()._on_final(blocks)
        events = [event for block in blocks for log in block.logs if (event := b.decode(log)) is not None]
        self._reveals += [event for event in events if isinstance(event, b.Revealed)]
        for foe in self._foes:
            foe.account.on_finalised(self._chain.nonce(foe.address))
        self._changed.set()

    def _on_refused(self, claim: bytes) -> None:
        super()._on_refused(claim)
        for foe in self._foes:
            foe.account.on_refused(claim)

    # ---- the adversaries --------------------------------------------------------------------------------------------
    async def _prowl(self) -> None:
        while True:
            with trio.move_on_after(LOOK_S):
                await self._changed.wait()
            self._changed = trio.Event()
            for foe in self._foes:
                if foe.program is None:
                    foe.program = await self._owner_program(GAMES[foe.game])
                elif foe.account.pending < 200:
                    for act in foe.program(self._scene(foe)):
                        self._do(foe, act)
                self._take_home(foe)

    def _scene(self, foe: Foe) -> Scene:
        pool = self._ledger.mempool
        reveals = self._reveals + self._elsewhere.get(foe.name, [])
        friends = {each.address for each in self._foes}
        pending = [tx for digest in pool.hashes() if (tx := pool.get(digest)) is not None and tx.sender not in friends]
        return Scene(
            self._feed.jobs, self._job_of(foe), self._chain.network.chain_id, foe.key,
            foe.address, reveals, pending, lambda digest: self._blob(foe, digest),
            lambda view, steps: self._work(view, steps),
        )  # fmt: skip

    def _job_of(self, foe: Foe) -> int:
        """The honest server posts its games in order; the others come when their owners do."""
        owned = GAMES[foe.game].owner
        if owned is None:
            return foe.game + 1
        owner = address_of_secret(key_of(owned[0]))
        return next((number for number, job in self._feed.jobs.by_id.items() if job.owner == owner), 0)

    async def _owner_program(self, game: Game) -> Program | None:
        """Post what the honest server posted first, with this game's terms and bends, once all its jobs are there."""
        honest = sum(each.owner is None for each in GAMES)
        if len(self._feed.jobs.by_id) < honest:
            return None
        posted = self._feed.jobs.by_id[1].posted
        manifest = await self._performer.exchange.fetch(posted.manifest, manifests.MANIFEST_BYTES_MAX)
        terms = game.job_terms
        counts = {name: terms[name] for name in terms if name not in ("reward", "stake")}
        offer = Offer(
            manifest, posted.manifest, posted.base, posted.update_size, replace(posted.terms, **counts)
        )  # fmt: skip
        assert game.owner is not None
        return game.owner[1](replace(offer, **game.bent))  # type: ignore[arg-type]

    def _do(self, foe: Foe, act: Act) -> None:
        match act:
            case Serve(content):
                self._performer.blobs.put(content, public=True)
            case Send() if act.tag not in foe.done and foe.account.hash_of(act.tag) is None:
                foe.done.add(act.tag)
                self._nursery.start_soon(self._send, foe, act)

    async def _send(self, foe: Foe, act: Send) -> None:
        claim = act.claim and claim_digest(act.claim, self._chain.network.chain_id, self._chain.genesis_digest)
        try:
            await foe.account.submit(act.tag, act.call, claim)
            log.info("adversary.did", who=foe.name, what=act.tag)
        except (TransactionFailed, QueueFull) as error:
            log.info("adversary.failed", who=foe.name, what=act.tag, reason=str(error))
            if act.again:
                await trio.sleep(AGAIN_S)
                foe.done.discard(act.tag)

    def _take_home(self, foe: Foe) -> None:
        job = self._feed.jobs.by_id.get(self._job_of(foe))
        if job is not None and job.state == "ended":
            self._do(foe, Send(f"last withdrawal {job.job}", b.withdraw(job.job)))

    # ---- what they need ---------------------------------------------------------------------------------------------
    def _blob(self, foe: Foe, digest: bytes) -> bytes | None:
        if self._performer.blobs.has(digest):
            return self._performer.blobs.get(digest)
        size = self._feed.jobs.by_id[self._job_of(foe)].posted.update_size
        self._once(digest, lambda: self._performer.exchange.fetch(digest, size, size=size))
        return None

    def _work(self, view: RoundView, steps: int | None) -> bytes | None:
        key = (view.key, steps)
        self._once(key, lambda: self._train(view, steps))
        return self._worked.get(key)

    def _once(self, key: object, fetch: Any) -> None:
        async def run() -> None:
            self._worked[key] = await fetch()
            self._changed.set()

        if key not in self._asked:
            self._asked.add(key)
            self._nursery.start_soon(run)

    async def _train(self, view: RoundView, steps: int | None) -> bytes:
        exchange, learner = self._performer.exchange, self._performer.learner
        assert learner is not None
        posted = self._feed.jobs.by_id[view.key.job].posted
        manifest: Manifest = manifests.decode(await exchange.fetch(posted.manifest, manifests.MANIFEST_BYTES_MAX))
        base = await exchange.fetch(view.base, posted.update_size, size=posted.update_size)
        dataset = await exchange.fetch(manifest.dataset, manifest.dataset_size, size=manifest.dataset_size)
        told = manifest if steps is None else msgspec.structs.replace(manifest, steps=steps)
        return await learner.train(told, base, dataset, view.batch_seed)


def main(arguments: Sequence[str]) -> int:
    option, directory = arguments
    assert option == "--config"
    app.Node = Den  # type: ignore[misc]
    return app.main(Path(directory))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
