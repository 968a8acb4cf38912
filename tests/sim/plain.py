"""Who acts in a run without jobs: users that pay, count and claim, and one that changes the validators."""

from __future__ import annotations

import random

from chain.certificate import quorum
from chain.chain import FinalisedBlock
from chain.types import Claim, Log
from tests.chain.chain_kit import ADDRESSES, CHANGER, CONTRACTS, LOGGER, VALIDATORS, change
from tests.node.ledger_world import ADDRESS_OF
from tests.sim.checks import Violation
from tests.sim.clients import RESEND_S, SINK, Client
from tests.sim.world import SimWorld

CHANGING_USER = 6
USERS_COUNT = 3


class Plain:
    def __init__(self, world: SimWorld) -> None:
        self.world = world
        scenario = world.scenario
        self._clients: list[Client] = []
        self._planned = scenario.transactions
        self._reigns: list[list[int]] = []
        self._checked: dict[str, dict[bytes, bool | None]] = {}  # verdicts of this life, or None yet, by node
        world.on_claim, world.on_refused, world.on_boot = self._on_claim, self._on_refused, self._on_boot
        world.on_final = self._on_final

    def begin(self) -> None:
        world, scenario, rng = self.world, self.world.scenario, self.world.rng
        names = [f"validator-{index}" for index in range(scenario.validators)]
        names += [f"follower-{index}" for index in range(scenario.followers)]
        self._reigns = self._draw_reigns()
        newest = max((max(reign) for reign in self._reigns), default=0)
        names += [f"validator-{index}" for index in range(scenario.validators, newest + 1)]
        for name in names:
            world.at(rng.uniform(0, 0.2) if scenario.calm_from_s else 0.0, lambda name=name: world.start(name))
        homes = [name for name in names if name not in world.liars]
        self._clients = [Client(user, rng.choice(homes)) for user in range(USERS_COUNT)]
        self._clients.append(Client(CHANGING_USER, rng.choice(homes)))
        for _ in range(scenario.transactions):
            world.at(rng.uniform(0.3, max(0.9 * scenario.calm_from_s, 1.0)), self._want_something)
        if self._reigns:
            world.at(rng.uniform(0.3, max(scenario.calm_from_s / 2, 1.0)), self._begin_reign)
        world.at(RESEND_S, self._resend)

    # ---- users ------------------------------------------------------------------------------------------------------
    def _want_something(self) -> None:
        rng = self.world.rng
        client = rng.choice(self._clients[:-1])
        match rng.randrange(5):
            case 0 | 1:
                client.pay()
            case 2:
                client.count()
            case _:
                client.claim(rng.randbytes(32))
        self._planned -= 1
        self.world.trace.note(self.world.now, "user", client.user, "wants", len(client.raws))
        self._send(client)

    def _send(self, client: Client) -> None:
        world = self.world
        if client.home in world.members:
            world.do(client.home, lambda: client.resend(world.members[client.home].ledger, world.now))

    def _resend(self) -> None:
        for client in self._clients:
            self._send(client)
        self.world.at(self.world.now + RESEND_S, self._resend)

    # ---- the validators ---------------------------------------------------------------------------------------------
    def _draw_reigns(self) -> list[list[int]]:
        """Lists of validators that may follow each other, each with no more liars than it tolerates."""
        world, rng = self.world, random.Random(self.world.rng.random())
        present = list(range(world.scenario.validators))
        reigns = []
        for _ in range(world.scenario.epochs):
            for _ in range(20):
                wanted = list(present)
                if rng.random() < 0.5 and len(wanted) > 1:
                    wanted.remove(rng.choice(wanted))
                if rng.random() < 0.6 and len(wanted) < len(VALIDATORS):
                    wanted.append(next(index for index in range(len(VALIDATORS)) if index not in wanted))
                rng.shuffle(wanted)
                if wanted != present and self._is_tolerable(wanted):
                    reigns.append(wanted)
                    present = wanted
                    break
        return reigns

    def _is_tolerable(self, reign: list[int]) -> bool:
        n = len(reign)
        liars = sum(f"validator-{index}" in self.world.liars for index in reign)
        return liars <= min((n - 1) // 3, n - quorum(n, self.world.scenario.ratio or 0.0))

    def _begin_reign(self) -> None:
        """The next one, unless the one before has not begun yet."""
        world, number = self.world, self.world.referee.epoch + 1
        if not self._reigns or len(self._clients[-1].raws) != number - 1:
            return
        epochs = [member.ledger.chain.epochs.present.number for member in world.members.values()]
        if set(world.members) != set(world.names) or set(epochs) != {number - 1}:
            # CHANGER, unlike the real contract, would end two epochs in one block of somebody who has yet to end one
            world.at(world.now + 0.5, self._begin_reign)
            return
        self.world.trace.note(self.world.now, "reign", number, self._reigns[0])
        keys = [VALIDATORS[index] for index in self._reigns.pop(0)]
        self._clients[-1].want(CHANGER, data=change(number, keys))
        self._send(self._clients[-1])

    def _on_final(self, name: str, blocks: list[FinalisedBlock]) -> None:
        if any(self.world.system.validators_of(log) for block in blocks for log in block.logs):
            self.world.at(self.world.now + self.world.rng.uniform(0, 3), self._begin_reign)

    # ---- claims -----------------------------------------------------------------------------------------------------
    def _on_boot(self, name: str) -> None:
        self._checked[name] = {}

    def _on_claim(self, name: str, digest: bytes, claim: Claim) -> None:
        """Check it a little later, once its blob can be seen; say again what is known, as the real attestor does."""
        world, checked = self.world, self._checked.setdefault(name, {})
        known, wire = checked.get(digest), world.members[name].wire
        if known is not None:
            world.call(0.0, wire, lambda: world.attest(name, digest, known))
        if digest in checked:
            return
        checked[digest] = None
        delay = world.rng.uniform(0.001, 0.3)
        if world.scenario.withheld_blobs and world.rng.random() < 0.3:
            delay = max(delay, world.scenario.calm_from_s - world.now + delay)

        def find_out() -> None:
            verdict = checked[digest] = claim.update[0] % 2 == 0
            world.attest(name, digest, verdict)

        world.call(delay, wire, find_out)

    def _on_refused(self, name: str, claim: bytes) -> None:
        for client in self._clients:
            if client.home == name:
                for claimed in [each for each in client.claimed if each is not None]:
                    if self._digest(claimed) == claim:
                        client.refused(claimed)

    def _digest(self, claimed: bytes) -> bytes:
        """Of the claim with this name, as the network's contract states it."""
        world = self.world
        claim = world.system.claim_of(Log(LOGGER, (claimed,), b"", 0, b"", b"", 0))
        assert claim is not None
        return world.system.claim_digest(claim, world.network.chain_id, world.genesis_digest)

    # ---- the end ----------------------------------------------------------------------------------------------------
    def unsettled(self) -> str:
        """What is not done yet, in words; empty if nothing."""
        world = self.world
        if self._planned or self._reigns:
            return "not everything was asked for yet"
        for name in world.honest:
            if name not in world.members:
                return f"{name} is down"
            for client in self._clients:
                if not client.is_done(world.members[name].ledger):
                    height = world.members[name].height
                    return f"{name} at height {height} lacks transactions of user {client.user}"
        return ""

    def judge(self) -> None:
        world = self.world
        for name in world.honest:
            member = world.members[name]
            paid = member.ledger.chain.balance(SINK)
            if paid != sum(sum(client.values) for client in self._clients):
                raise Violation(f"{paid} were paid, {sum(sum(client.values) for client in self._clients)} were asked")
        accounts = [*ADDRESSES, *ADDRESS_OF.values(), SINK, *CONTRACTS]
        world.referee.conserved(member, accounts, world.issued)
        if world.referee.epoch != world.members[world.honest[0]].ledger.chain.epochs.present.number:
            raise Violation("an epoch that the blocks do not tell of")
