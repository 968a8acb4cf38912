"""The faucet: who gets a grant, how often, and what it costs the network at most."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import chain.contracts
from chain.contracts import FAUCET, FaucetTerms, genesis_contracts
from chain.contracts import bindings as b
from tests.contracts.callers import FORWARDER, code_of
from tests.contracts.evm_harness import Reverted
from tests.contracts.world import STRANGER, WORKERS, World, of_type

VALIDATORS = WORKERS[:4]
AMOUNT, GRANTS_MAX, PERIOD_S = 1_000, 3, 100
TERMS = FaucetTerms(AMOUNT, GRANTS_MAX, PERIOD_S)
NEW = tuple(bytes([0xA0]) * 19 + bytes([number]) for number in range(20))  # accounts without a wei

Refusal = Callable[[World], object]
REFUSALS: list[tuple[str, Refusal]] = []


def refusal(reason: str) -> Callable[[Refusal], Refusal]:
    """Register a story whose last call must revert with exactly this."""

    def register(story: Refusal) -> Refusal:
        REFUSALS.append((reason, story))
        return story

    return register


def opened(funds: int = 100 * AMOUNT) -> World:
    world = World(VALIDATORS, faucet=TERMS)
    world.evm.fund(FAUCET, funds)
    return world


def grant(world: World, account: bytes, validator: bytes = VALIDATORS[0]) -> list[b.Event]:
    return world.do(validator, b.grant(account))


def test_a_newcomer_gets_a_grant_from_any_validator() -> None:
    world = opened()
    assert grant(world, NEW[0], VALIDATORS[3]) == [b.Granted(NEW[0], VALIDATORS[3], AMOUNT)]
    assert (world.evm.balance(NEW[0]), world.evm.balance(FAUCET)) == (AMOUNT, 99 * AMOUNT)
    assert world.evm.query(b.granted_at_view(NEW[0])) == world.evm.timestamp
    assert world.evm.query(b.grants_left_view()) == GRANTS_MAX - 1


def test_an_account_may_have_another_grant_after_a_period_if_it_spent_the_first() -> None:
    world = opened()
    grant(world, NEW[0])
    world.wait(PERIOD_S)
    world.evm.fund(NEW[0], AMOUNT - 1)
    grant(world, NEW[0])
    assert world.evm.balance(NEW[0]) == 2 * AMOUNT - 1


def test_a_removed_validator_makes_no_more_grants() -> None:
    world = opened()
    world.do(VALIDATORS[0], b.propose(VALIDATORS[3], False))
    for approver in VALIDATORS[1:3]:
        world.do(approver, b.approve(1))
    grant(world, NEW[0])
    with pytest.raises(Reverted, match="only a validator may grant"):
        grant(world, NEW[1], VALIDATORS[3])


@refusal("faucet: switched off")
def without_terms(world: World) -> None:
    world = World(VALIDATORS)
    world.evm.fund(FAUCET, AMOUNT)
    assert world.evm.query(b.grants_left_view()) == 0
    grant(world, NEW[0])


@refusal("faucet: only a validator may grant")
def for_oneself(world: World) -> None:
    world.do(STRANGER, b.grant(NEW[0]))


@refusal("faucet: a contract pays no fees")
def for_a_contract(world: World) -> None:
    world.evm.place(FORWARDER, code_of(FORWARDER))
    grant(world, FORWARDER)


@refusal("faucet: the account has coins")
def for_who_has_enough(world: World) -> None:
    world.evm.fund(NEW[0], AMOUNT)
    grant(world, NEW[0])


@refusal("faucet: one grant in a period")
def a_second_too_early(world: World) -> None:
    grant(world, NEW[0])
    world.evm.fund(NEW[0], 0)
    world.wait(PERIOD_S - 1)
    grant(world, NEW[0])


@refusal("faucet: no grants are left in this period")
def a_thousand_accounts_of_one_stranger(world: World) -> None:
    for number in range(20):
        grant(world, NEW[number], VALIDATORS[number % 4])


@refusal("faucet: it is empty")
def more_than_there_is(world: World) -> None:
    world.evm.fund(FAUCET, 2 * AMOUNT - 1)
    grant(world, NEW[0])
    grant(world, NEW[1])


@pytest.mark.parametrize(("reason", "story"), REFUSALS, ids=[story.__name__ for _, story in REFUSALS])
def test_a_grant_that_breaks_a_rule_reverts_with_its_reason(reason: str, story: Refusal) -> None:
    with pytest.raises(Reverted) as refused:
        story(opened())
    assert refused.value.reason == reason


def test_every_revert_string_of_the_faucet_has_its_story() -> None:
    source = (Path(chain.contracts.__file__).parent / "faucet.vy").read_text()
    assert set(re.findall(r'"(faucet: [^"]*)"', source)) == {reason for reason, _ in REFUSALS}


def test_the_faucet_is_switched_on_by_the_network_file_alone() -> None:
    assert genesis_contracts()[FAUCET][1] == {}
    assert set(genesis_contracts(faucet=TERMS)[FAUCET][1].values()) == {AMOUNT, GRANTS_MAX, PERIOD_S}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 60), st.sampled_from(NEW[:6]), st.sampled_from((*VALIDATORS, STRANGER)), st.booleans()
        ),
        max_size=25,
    )
)
def test_no_order_of_calls_fetches_more_than_the_rates_allow(
    calls: list[tuple[int, bytes, bytes, bool]],
) -> None:
    """The model: when each grant was made. Whoever gets one may spend it at once."""
    world = opened(funds=8 * AMOUNT)
    made: list[tuple[int, bytes]] = []
    for seconds, account, caller, spends in calls:
        world.wait(seconds)
        now = world.evm.timestamp
        may = (
            caller in VALIDATORS
            and world.evm.balance(account) < AMOUNT
            and all(now - at >= PERIOD_S for at, whose in made if whose == account)
            and sum(at // PERIOD_S == now // PERIOD_S for at, _ in made) < GRANTS_MAX
            and len(made) < 8
        )
        try:
            granted = of_type(world.do(caller, b.grant(account)), b.Granted)
        except Reverted:
            granted = []
        assert granted == ([b.Granted(account, caller, AMOUNT)] if may else [])
        if may:
            made.append((now, account))
            if spends:
                world.evm.fund(account, 0)
    assert world.evm.balance(FAUCET) == (8 - len(made)) * AMOUNT
