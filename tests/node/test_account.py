from __future__ import annotations

from typing import Any

import pytest
import trio
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from chain.contracts.bindings import Call
from chain.types import InvalidTransaction
from node.account import QUEUE_MAX, Account, Queue, QueueFull, TransactionFailed, push, refuse, settle

KEY, ADDRESS = b"\x11" * 32, b"\x22" * 20
CALL = Call(b"\x33" * 20, 0, b"data", 50_000)
CLAIM = b"\xc1" * 32


def sign(nonce: int, call: Call, fee: int) -> bytes:
    return repr((nonce, call, fee)).encode()


class World:
    """What an account touches: a disk, a wire, a chain."""

    def __init__(self) -> None:
        self.disk: bytes | None = None
        self.sent: list[bytes] = []
        self.outcomes: dict[bytes, bool] = {}
        self.invalid: str | None = None

    def account(self) -> Account:
        return Account(KEY, ADDRESS, 7, 7, lambda: self.disk, self._store, self._check, self._send, self.outcomes.get)

    def _store(self, data: bytes) -> None:
        self.disk = data

    def _check(self, raw: bytes) -> None:
        if self.invalid:
            raise InvalidTransaction(self.invalid)

    def _send(self, raws: list[bytes]) -> None:
        assert self.disk is not None, "stored before sent"
        self.sent += raws


async def start(nursery: trio.Nursery, account: Account, tag: str, claim: bytes | None = None) -> list[Any]:
    """Submit in the background; the list gets the receipt or the failure."""
    result: list[Any] = []

    async def submit() -> None:
        try:
            result.append(await account.submit(tag, CALL, claim))
        except TransactionFailed as error:
            result.append(error)

    nursery.start_soon(submit)
    await trio.testing.wait_all_tasks_blocked()
    return result


async def test_a_transaction_is_stored_sent_and_waited_for(nursery: trio.Nursery) -> None:
    world = World()
    account = world.account()
    result = await start(nursery, account, "commit 1")
    assert len(world.sent) == 1
    assert not result
    world.outcomes[keccak(world.sent[0])] = True
    account.on_finalised(1)
    await trio.testing.wait_all_tasks_blocked()
    assert result[0].transaction == keccak(world.sent[0])
    assert account.pending == 0


async def test_a_tag_is_sent_once_even_over_a_restart(nursery: trio.Nursery) -> None:
    world = World()
    first = await start(nursery, account := world.account(), "commit 1")
    second = await start(nursery, account, "commit 1")
    again = await start(nursery, restarted := world.account(), "commit 1")
    assert len(world.sent) == 1
    world.outcomes[keccak(world.sent[0])] = True
    account.on_finalised(1)
    restarted.on_finalised(1)
    await trio.testing.wait_all_tasks_blocked()
    assert len(first) == len(second) == len(again) == 1


async def test_a_reverted_transaction_fails(nursery: trio.Nursery) -> None:
    world = World()
    result = await start(nursery, account := world.account(), "x")
    world.outcomes[keccak(world.sent[0])] = False
    account.on_finalised(1)
    await trio.testing.wait_all_tasks_blocked()
    assert "reverted" in str(result[0])


async def test_a_transaction_that_can_never_be_included_fails_at_once_and_keeps_no_nonce(nursery: trio.Nursery) -> None:
    world = World()
    world.invalid = "balance too low"
    result = await start(nursery, account := world.account(), "x")
    assert "balance too low" in str(result[0])
    assert account.pending == 0
    assert world.disk is None  # a node that dies now does not find it again


async def test_a_refused_claim_gives_its_nonce_back_with_a_higher_fee(nursery: trio.Nursery) -> None:
    world = World()
    result = await start(nursery, account := world.account(), "reveal", CLAIM)
    account.on_refused(CLAIM)
    await trio.testing.wait_all_tasks_blocked()
    assert "false" in str(result[0])
    await start(nursery, account, "next")
    assert account.pending == 1
    assert len(world.sent) == 2
    account.on_refused(CLAIM)  # told twice
    assert account.pending == 1
    nursery.cancel_scope.cancel()


async def test_what_is_not_final_is_sent_again(nursery: trio.Nursery) -> None:
    world = World()
    await start(nursery, account := world.account(), "x")
    account.resend()
    assert world.sent[0] == world.sent[1]
    nursery.cancel_scope.cancel()


def test_a_refused_entry_with_others_behind_it_is_filled() -> None:
    queue = push(push(Queue(), "a", CALL, 10, sign, CLAIM), "b", CALL, 10, sign)
    queue, refused = refuse(queue, CLAIM, ADDRESS, sign)
    assert refused is not None
    assert refused.tag == "a"
    assert [entry.nonce for entry in queue.entries] == [0, 1]
    assert queue.entries[0].fee > 10
    assert b"b" not in queue.entries[0].tag.encode()


def test_the_queue_is_bounded() -> None:
    queue = Queue()
    for n in range(QUEUE_MAX):
        queue = push(queue, str(n), CALL, 1, sign)
    with pytest.raises(QueueFull):
        push(queue, "one more", CALL, 1, sign)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(["push", "claim", "settle", "refuse", "foreign"]), max_size=40), st.data())
def test_nonces_stay_without_gaps_and_never_go_back(steps: list[str], data: st.DataObject) -> None:
    queue, count = Queue(), 0
    for step in steps:
        before = queue.nonce
        match step:
            case "push" | "claim":
                count += 1
                queue = push(queue, str(count), CALL, 10, sign, count.to_bytes(32, "big") if step == "claim" else None)
            case "settle":
                queue, _ = settle(queue, data.draw(st.integers(queue.nonce, queue.next_nonce)))
            case "foreign":
                queue, _ = settle(queue, queue.next_nonce + 1)
            case "refuse":
                claims = [entry.claim for entry in queue.entries if entry.claim]
                queue, _ = refuse(queue, data.draw(st.sampled_from(claims)) if claims else CLAIM, ADDRESS, sign)
        assert queue.nonce >= before
        assert [entry.nonce for entry in queue.entries] == list(range(queue.nonce, queue.next_nonce))
