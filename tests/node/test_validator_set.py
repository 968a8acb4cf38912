"""Changing the validators from a node: what is asked before sending, and what is said when others were faster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.chain import Chain
from chain.contracts import bindings as b
from chain.evm import Reverted
from chain.header import address_of_secret
from chain.store import Store
from chain.transaction import sign_transaction
from chain.types import Transaction
from node.api import schema
from node.api.backend import BackendError
from node.outcome import submitted
from node.validator_set import ValidatorSet
from tests.chain.chain_kit import CHAIN_ID, RICH, VALIDATORS, close, extend, make_network

ACCOUNTS = tuple(map(address_of_secret, VALIDATORS))
NEW, OTHER = b"\x0a" * 20, b"\x0b" * 20
HEX = ["0x" + account.hex() for account in ACCOUNTS[:4]]


class Council:
    """A chain on which the validators' calls become final one block each; `meanwhile` comes first in the block."""

    def __init__(self, folder: Path, validators: int) -> None:
        network = make_network(validators, balances=dict.fromkeys(ACCOUNTS, RICH))
        self.chain = Chain(Store(folder, 1 << 28), network)
        self.meanwhile: list[tuple[int, b.Call]] = []
        self.sent: list[str] = []

    def signed(self, index: int, call: b.Call) -> Transaction:
        nonce = self.chain.nonce(ACCOUNTS[index])
        return self.chain.decode_transaction(
            sign_transaction(VALIDATORS[index], CHAIN_ID, nonce, call.to, call.value, call.data, call.gas, 20, 1)
        )

    def node(self, index: int) -> ValidatorSet:
        async def send(tag: str, call: b.Call) -> schema.Submitted:
            self.sent.append(tag)
            own = self.signed(index, call)
            extend(self.chain, [*(self.signed(*each) for each in self.meanwhile), own])
            if self.chain.receipt(own.hash) is None:  # what came first has ended the epoch, and so the block
                extend(self.chain, [own])
            done = self.chain.receipt(own.hash)
            assert done is not None
            if not done.succeeded:
                raise BackendError("the transaction failed: it reverted")
            return submitted(own.hash, done.logs)

        return ValidatorSet(self.chain, ACCOUNTS[index], ACCOUNTS[1:2], send)


@pytest.fixture
def council(tmp_path: Path) -> Iterator[Council]:
    four = Council(tmp_path / "four", 4)
    yield four
    close(four.chain)


async def test_a_change_takes_three_of_four_and_every_step_says_what_it_did(council: Council) -> None:
    made = await council.node(0).propose(NEW, admit=True)
    assert (made.final, made.proposal, made.epoch, made.job) == (True, 1, None, None)
    assert (await council.node(1).approve(1)).epoch is None
    shown = council.node(2).show()
    assert shown.proposals == [
        schema.Proposal(1, "0x" + NEW.hex(), True, HEX[0], approvals=HEX[:2], needed=3, approved=False)
    ]
    decided = await council.node(3).approve(1)
    assert (decided.proposal, decided.epoch) == (1, 1)
    assert [each.address for each in council.node(2).show().validators] == [*HEX, "0x" + NEW.hex()]


async def test_a_node_shows_itself_as_connected_and_others_as_they_are(council: Council) -> None:
    shown = council.node(0).show().validators
    assert [each.connected for each in shown] == [True, True, False, False]
    assert [each.me for each in shown] == [True, False, False, False]


async def test_all_open_proposals_are_shown_on_however_many_pages(
    council: Council, monkeypatch: pytest.MonkeyPatch
) -> None:
    council.meanwhile = [(index, b.propose(bytes([index + 20]) * 20, True)) for index in (1, 2, 3)]
    await council.node(0).propose(NEW, admit=True)
    for page in (1, 2, 3, 4, 5):
        monkeypatch.setattr(b, "PROPOSALS_PAGE_MAX", page)
        assert sorted(each.id for each in council.node(0).show().proposals) == [1, 2, 3, 4]


async def test_on_a_new_network_no_epoch_has_just_ended(council: Council) -> None:
    call = b.propose(NEW, True)
    assert council.chain.finalised.number == 0
    assert council.chain.call(call.to, call.data, sender=ACCOUNTS[0])[-1] == 1


async def test_right_after_a_change_the_next_one_can_be_proposed(tmp_path: Path) -> None:
    """At the finalised block the contract still says that the epoch has just ended; the transaction comes later."""
    council = Council(tmp_path, 1)
    assert (await council.node(0).propose(NEW, admit=True)).epoch == 1
    call = b.propose(OTHER, True)
    with pytest.raises(Reverted, match="the epoch has just ended"):
        council.chain.call(call.to, call.data, sender=ACCOUNTS[0])
    asked: list[str] = []

    async def send(tag: str, call: b.Call) -> schema.Submitted:
        asked.append(tag)
        return schema.Submitted("0x", final=False)

    node = ValidatorSet(council.chain, ACCOUNTS[0], (), send)
    assert not (await node.propose(OTHER, admit=True)).final
    assert len(asked) == 1
    close(council.chain)


async def test_a_call_that_would_be_refused_is_not_sent(council: Council) -> None:
    with pytest.raises(BackendError, match=r"cannot remove 0x(0a){20}: it is no validator"):
        await council.node(0).propose(NEW, admit=False)
    with pytest.raises(BackendError, match="cannot approve proposal 1: there is no such proposal"):
        await council.node(0).approve(1)
    assert council.sent == []


async def test_who_was_overtaken_by_others_is_told_what_they_did(council: Council) -> None:
    await council.node(0).propose(NEW, admit=True)
    await council.node(0).propose(OTHER, admit=True)
    council.meanwhile = [(1, b.approve(1)), (2, b.approve(1))]
    with pytest.raises(BackendError, match="cannot approve proposal 1: the proposal's epoch has ended"):
        await council.node(3).approve(1)
