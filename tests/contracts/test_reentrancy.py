"""The one call that hands over control, and an account that tries to be paid twice through it."""

from __future__ import annotations

import pytest
from eth_hash.auto import keccak

from chain.contracts import REPLICATED
from chain.contracts import bindings as b
from tests.contracts.evm_harness import Reverted
from tests.contracts.world import STAKE, STRANGER, TERMS, World

THIEF = b"\xee" * 20

SOURCE = """
# pragma version 0.4.3
interface Jobs:
    def withdraw(job: uint256): nonpayable
    def enrol(job: uint256): payable
    def leave(job: uint256): nonpayable

JOBS: constant(address) = 0x0000000000000000000000000000000000000f02
mode: uint256

@external
def act(mode: uint256, deposit: uint256):
    self.mode = mode
    if mode == 0:
        extcall Jobs(JOBS).enrol(1, value=deposit)
        extcall Jobs(JOBS).leave(1)
    else:
        extcall Jobs(JOBS).withdraw(1)

@external
@payable
def __default__():
    if self.mode == 1:
        extcall Jobs(JOBS).withdraw(1)
    elif self.mode == 2:
        call: Bytes[36] = abi_encode(convert(1, uint256), method_id=method_id("withdraw(uint256)"))
        assert not raw_call(JOBS, call, revert_on_failure=False)
    elif self.mode == 3:
        extcall Jobs(JOBS).enrol(1, value=msg.value)
    elif self.mode == 4:
        raise "no, thanks"
"""


@pytest.fixture(scope="module")
def thief_code() -> bytes:
    vyper = pytest.importorskip("vyper", reason="the Vyper compiler is a development extra")
    return bytes.fromhex(vyper.compile_code(SOURCE, output_formats=["bytecode_runtime"])["bytecode_runtime"][2:])


def act(world: World, mode: int, deposit: int = 0) -> list[b.Event]:
    data = keccak(b"act(uint256,uint256)")[:4] + mode.to_bytes(32, "big") + deposit.to_bytes(32, "big")
    return world.do(STRANGER, b.Call(THIEF, 0, data, 3_000_000))


@pytest.fixture
def world(thief_code: bytes) -> World:
    """The thief is owed two stakes, and others have money here too."""
    world = World()
    job = world.post()
    world.enrol(job, 1)
    world.evm.place(THIEF, thief_code)
    world.evm.fund(THIEF, 2 * STAKE)
    act(world, mode=0, deposit=2 * STAKE)
    assert world.owed(THIEF) == 2 * STAKE
    assert world.evm.balance(THIEF) == 0
    return world


def test_withdrawing_inside_a_withdrawal_reverts_all_of_it(world: World) -> None:
    with pytest.raises(Reverted):
        act(world, mode=1)
    assert world.owed(THIEF) == 2 * STAKE
    assert world.evm.balance(THIEF) == 0
    world.books()


def test_a_swallowed_second_withdrawal_gains_nothing(world: World) -> None:
    act(world, mode=2)
    assert world.evm.balance(THIEF) == 2 * STAKE
    assert world.owed(THIEF) == 0
    assert world.books().held == TERMS.escrow + 4 * STAKE


def test_depositing_again_inside_a_withdrawal_keeps_the_books(world: World) -> None:
    act(world, mode=3)
    assert world.evm.balance(THIEF) == 0
    assert world.evm.balance(REPLICATED) == world.books().held


def test_a_receiver_that_refuses_keeps_what_it_is_owed(world: World) -> None:
    with pytest.raises(Reverted, match="no, thanks"):
        act(world, mode=4)
    assert world.owed(THIEF) == 2 * STAKE
