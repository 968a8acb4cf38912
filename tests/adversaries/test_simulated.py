"""Every attack of the table, in the simulator, from a seed: it earns nothing, and without its defence it succeeds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.validator import Validator
from tests.adversaries import workers
from tests.adversaries.arena import GAS_MAX, REWARD, STAKE, Cast, play
from tests.adversaries.table import ATTACKS, COLLUDER, FIVE, PAST_THE_POOL, Attack
from tests.sim.checks import Referee

EACH = pytest.mark.parametrize("attack", ATTACKS, ids=[each.name for each in ATTACKS])
LIAR_SEED = 3  # by which the validator of the adversary is the one that lies


@EACH
def test_an_attack_earns_nothing_and_honest_workers_are_paid(attack: Attack) -> None:
    played = play(attack.cast(), attack.seed)
    assert not attack.succeeds(played), played
    assert played.gained <= -attack.loses
    assert played.gained < 0
    assert played.locked == 0
    if attack.pays_honest:
        assert (played.unpaid, played.forfeited, played.wrong) == ((), 0, 0)
    assert played.declined == (3 if "unusable" in attack.name else 0)


@EACH
def test_without_its_defence_an_attack_succeeds(attack: Attack, monkeypatch: pytest.MonkeyPatch) -> None:
    attack.variant.place(monkeypatch)
    played = play(attack.cast(), attack.seed)
    assert attack.succeeds(played), played


# ---- past the pool: what validators would not admit, in a block that one of them makes all the same ----


@pytest.mark.parametrize("attack", PAST_THE_POOL, ids=[each.name for each in PAST_THE_POOL])
def test_a_validators_own_block_does_not_help_a_false_claim(
    attack: Attack, monkeypatch: pytest.MonkeyPatch
) -> None:
    cast = replace(attack.cast(), lies=frozenset({"unattested"}))
    played = play(cast, LIAR_SEED)
    assert played.gained <= -STAKE
    assert (played.unpaid, played.forfeited, played.wrong) == ((), 0, 0)
    # the block was made: with validators that do not look beside it, it is final, and the adversary is paid
    monkeypatch.setattr(Validator, "_claims_attested", lambda _validator, _block: True)
    monkeypatch.setattr(Referee, "_check_claim", lambda *_: None)
    assert play(cast, LIAR_SEED).gained > REWARD - GAS_MAX


# ---- what remains possible, at the price that docs/PROTOCOL.md and docs/ECONOMICS.md state ----


@pytest.mark.parametrize("identities", [1, 2])
def test_identities_that_share_one_honest_computation_earn_a_reward_each_and_no_more(identities: int) -> None:
    shares = [workers.with_update("the work's result")] * identities
    terms = replace(FIVE, workers_min=3 + identities)
    played = play(Cast(foes=shares, terms=terms))
    assert identities * REWARD - GAS_MAX < played.gained < identities * REWARD
    assert (played.unpaid, played.forfeited, played.wrong) == ((), 0, 0)


def test_identities_beyond_the_majority_win_the_round_and_one_less_lose_all_their_stakes() -> None:
    won = play(Cast(foes=[COLLUDER] * 3, honest=2, terms=FIVE))
    assert 3 * REWARD - GAS_MAX < won.gained < 3 * REWARD
    assert (won.wrong, won.forfeited) == (1, 2 * STAKE)
    lost = play(Cast(foes=[COLLUDER] * 2, honest=3, terms=FIVE))
    assert -2 * STAKE - GAS_MAX < lost.gained < -2 * STAKE
    assert (lost.wrong, lost.forfeited, lost.unpaid) == (0, 0, ())
