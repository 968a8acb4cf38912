"""A newcomer and a validator on a real connection: what is asked, what is answered, and what is sent for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from chain.chain import Chain
from chain.contracts import FAUCET
from chain.contracts import bindings as b
from chain.genesis import Joining
from chain.header import address_of_secret
from chain.store import Store
from chain.system import genesis_system
from node import coins, link, wire
from node.account import Account
from node.config import Config, NodeConfig, WorkerConfig
from node.faucet import PROTOCOL, Faucet
from node.jobs import Jobs
from node.p2p.types import PeerConnected, RequestFailed
from node.roles import newcomer
from node.roles.newcomer import AskGrant, GrantAnswered, NewcomerState
from tests.chain.chain_kit import ADDRESSES, GENESIS_TIME, USERS, VALIDATORS, make_network
from tests.node.jobs_kit import OWNER, TERMS, job_of
from tests.p2p.p2p_kit import Node, key, start

NEWCOMER = bytes(31) + b"\x2a"  # a key whose account has nothing
ON = Joining(sponsors=True, faucet=True, faucet_wei=10**18)


class Side:
    """One node: a chain at genesis, a connection, and whatever it would send to the network."""

    def __init__(self, node: Node, chain: Chain, secret: bytes) -> None:
        self.node, self.chain, self.sent = node, chain, list[bytes]()
        self.address = address_of_secret(secret)
        self.link = link.Link(chain, self.address)
        self.link.attach(node.network, {})
        self.account = Account(
            secret, self.address, chain.network.chain_id, chain.network.base_fee_wei,
            load=lambda: None, store=lambda queue: None, check=lambda raw: None, send=self.sent.extend,
            outcome=lambda transaction: True,
        )  # fmt: skip
        fee = self.account.fee
        self.faucet = Faucet(chain, self.link, node.network, self.account, secret, fee, lambda: GENESIS_TIME + 100.0)


@asynccontextmanager
async def two(root: Path, validator: bytes, **network: Any) -> AsyncIterator[tuple[Side, Side]]:
    """(newcomer, validator), connected; the validator answers."""
    changes = {"balances": dict.fromkeys(map(address_of_secret, VALIDATORS[:2]), 10**12), "joining": ON, **network}
    chains = [
        Chain(Store(root / name, map_size=1 << 24), make_network(**changes), genesis_system()) for name in ("a", "b")
    ]
    async with trio.open_nursery() as nursery:
        asked = await start(nursery, key(2), b"hello")
        hello = link.hello(chains[0], asked.peer, validator)
        await asked.stop()
        asked = await start(nursery, key(2), hello)
        asking = await start(nursery, key(1), link.hello(chains[1], "", None), bootstrap=asked.network.addresses)
        sides = Side(asking, chains[1], NEWCOMER), Side(asked, chains[0], validator)
        for one, other in (sides, sides[::-1]):
            event = await one.node.until(PeerConnected, peer=other.node.peer)
            one.link.admit(event.peer, event.hello)
        nursery.start_soon(sides[1].faucet.serve)
        await trio.testing.wait_all_tasks_blocked()
        yield sides
        nursery.cancel_scope.cancel()
    for chain in chains:
        chain._store.close()


async def test_a_validator_that_is_asked_calls_the_faucet_once_and_the_account_gets_its_grant(tmp_path: Path) -> None:
    async with two(tmp_path, VALIDATORS[0]) as (new, validator):
        seen = new.faucet.look()
        assert (seen.balance, seen.validators) == (0, (validator.node.peer,))
        state, effects = new.faucet.step(NewcomerState(enough=1), seen)
        assert effects == (AskGrant(validator.node.peer),)
        assert await new.faucet.perform(effects[0]) == GrantAnswered(validator.node.peer, None)
        await trio.testing.wait_all_tasks_blocked()
        (raw,) = validator.sent
        sent = validator.chain.decode_transaction(raw)
        assert sent.sender == validator.address
        call = b.grant(new.address)
        validator.chain.call(call.to, call.data, sender=validator.address)  # and it would be done
        # asking at once again is not heard, and costs nobody anything
        answer = await new.faucet.perform(AskGrant(validator.node.peer))
        assert answer == GrantAnswered(validator.node.peer, "asked again within 10 s")
        assert len(validator.sent) == 1
        assert newcomer.step(state, GrantAnswered(validator.node.peer, None))[0].said == "a validator has agreed"


@pytest.mark.parametrize(
    ("validator", "network", "reason"),
    [
        (USERS[0], {}, "not a validator now"),
        (VALIDATORS[2], {}, "this validator has no coins for the call"),
        (VALIDATORS[0], {"joining": Joining()}, "this network has no faucet"),
        (VALIDATORS[0], {"balances": {address_of_secret(NEWCOMER): 10**12}}, "the account has coins"),
    ],
    ids=["no validator", "poor", "off", "rich newcomer"],
)
async def test_a_validator_says_why_it_does_not_call_the_faucet(
    tmp_path: Path, validator: bytes, network: dict[str, object], reason: str
) -> None:
    async with two(tmp_path, validator, **network) as (new, other):
        assert await new.faucet.perform(AskGrant(other.node.peer)) == GrantAnswered(other.node.peer, reason)
        assert other.sent == []


@pytest.mark.parametrize("case", ["garbage", "another's account", "another's request"])
async def test_a_request_that_proves_nothing_counts_against_its_sender(tmp_path: Path, case: str) -> None:
    async with two(tmp_path, VALIDATORS[0]) as (new, validator):
        here = new.chain.network.chain_id, new.chain.genesis_digest
        own = wire.sign_want_grant(NEWCOMER, *here, new.node.peer)
        request = {
            "garbage": b"\xc1" * 90,
            "another's account": wire.encode(wire.WantGrant(ADDRESSES[3], own)),
            "another's request": wire.encode(
                wire.WantGrant(new.address, wire.sign_want_grant(NEWCOMER, *here, "another peer"))
            ),
        }[case]
        with pytest.raises(RequestFailed):
            await new.node.network.request(validator.node.peer, PROTOCOL, request, 1000)
        await trio.testing.wait_all_tasks_blocked()
        assert validator.sent == []
        assert [info.refused for info in validator.node.network.peers()] == [1]


def nothing(*_: object) -> None:
    """An account that sends nothing."""


@pytest.mark.parametrize(
    ("joining", "jobs", "balance", "said"),
    [
        (ON, Jobs(), 0, "the faucet: this account has no coins for fees, and asks validators for a grant (no)"),
        (Joining(), Jobs(), 5, "coins: this account has 5 wei, and fees need 99000000; have somebody pay 0x"),
        (ON, job_of(), 10**8, "a sponsor: the deposit in job 1 is "),
        (Joining(), job_of(), 10**8, "coins: the deposit in job 1 is "),
        (ON, job_of(b.SponsorWanted(1, OWNER)), 10**30, None),
    ],
)
def test_status_says_which_coins_are_lacking(
    tmp_path: Path, joining: Joining, jobs: Jobs, balance: int, said: str | None
) -> None:
    address = address_of_secret(NEWCOMER)
    network = make_network(balances={address: balance}, joining=joining)
    chain = Chain(Store(tmp_path / "chain", map_size=1 << 24), network, genesis_system())
    account = Account(NEWCOMER, address, 1, 7, nothing, nothing, nothing, nothing, nothing)
    # a deposit that is more than what is left after the fees
    config = Config(tmp_path, NodeConfig(("worker",)), worker=WorkerConfig(deposit_stakes=10**7 // TERMS.stake))
    told = coins.lacking(config, chain, jobs, account, NewcomerState(1, said="no"), ())
    assert told is None if said is None else told is not None and told.startswith(said)
    assert coins.lacking(Config(tmp_path), chain, jobs, account, NewcomerState(1), ()) is None  # no worker
    if jobs.by_id and said:
        assert coins.lacking(config, chain, jobs, account, NewcomerState(1), {1}) is None
    assert FAUCET not in network.balances
    chain._store.close()
