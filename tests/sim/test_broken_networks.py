"""That the checks can fail: each network here is broken in one way, and some seed shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

import chain.consensus
import chain.epochs
import node.importer
from chain.epochs import Epochs
from chain.store import Store, VoteLog
from node.roles import attestor, auditor
from node.roles.common import Attest
from node.validator import Validator
from tests.sim.disk import CrashingStore
from tests.sim.run import Simulation, first_caught
from tests.sim.scenario import Scenario
from tests.sim.work import Worksite

STORM = Scenario(
    byzantine=1, transactions=6, calm_from_s=8.0, latency_s=0.05, crash_chance=0.01, blackouts=2, breaks_rate=0.1,
    partitions=3, end_s=60.0,
)  # fmt: skip


def caught(scenario: Scenario, seeds: int, words: str, prepare: Callable[[Simulation], None] = lambda _: None) -> None:
    """Some seed exposes it, and the first one to do so does it with these words."""
    found = first_caught(range(seeds), scenario=scenario, prepare=prepare)
    assert found is not None
    assert any(each in found[1] for each in words.split("|")), found


def lies(*which: str) -> Callable[[Simulation], None]:
    def prepare(simulation: Simulation) -> None:
        for liar in simulation.world.liars.values():
            liar.lies = frozenset(which)

    return prepare


def forgets(monkeypatch: pytest.MonkeyPatch, change: Callable[[VoteLog], VoteLog]) -> None:
    kept = Store.vote_log
    monkeypatch.setattr(Store, "vote_log", lambda store: change(kept(store)))


def trusts_memory(simulation: Simulation) -> None:
    simulation.world.referee.watches_memory = False


def watches_only_memory(simulation: Simulation) -> None:
    simulation.world.referee.watches_votes = False


def test_a_quorum_of_half_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.epochs, "quorum", lambda n, _ratio=0.0: max(1, n // 2))
    monkeypatch.setattr(chain.consensus, "least_quorum", lambda n: max(1, n // 2))
    caught(STORM, 5, "not proven by a quorum")


def test_a_quorum_of_half_makes_two_final_blocks_at_one_height(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chain.epochs, "quorum", lambda n, _ratio=0.0: max(1, n // 2))
    monkeypatch.setattr(chain.consensus, "least_quorum", lambda n: max(1, n // 2))

    def prepare(simulation: Simulation) -> None:
        lies("equivocates")(simulation)
        simulation.world.referee.watches_votes = False
        simulation.world.referee._check_proof = lambda *_: None  # type: ignore[method-assign]
        simulation.world.referee._check_claim = lambda *_: None  # type: ignore[method-assign]

    caught(STORM, 40, "two final blocks|ForkedFinality|conflicts with the finalised chain", prepare)


def test_a_vote_log_that_forgets_is_noticed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    forgets(monkeypatch, lambda log: replace(log, votes=()))
    caught(STORM, 10, "forgot its", watches_only_memory)


def test_a_vote_log_that_forgets_makes_a_validator_vote_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    forgets(monkeypatch, lambda log: replace(log, votes=()))
    caught(STORM, 40, "cast two|both finalised and timed out", trusts_memory)


def test_bodies_and_certificates_that_are_forgotten_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as context:
        forgets(context, lambda log: replace(log, blocks=()))
        caught(STORM, 20, "forgot the body")
    forgets(monkeypatch, lambda log: replace(log, certificates=()))
    caught(STORM, 20, "forgot that view")


def test_a_vote_that_leaves_before_it_is_on_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "_persist", lambda _validator, _effects: None)
    caught(replace(STORM, byzantine=0), 3, "not on its disk")


def test_a_block_whose_claims_nobody_checks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "_claims_attested", lambda _validator, _block: True)
    caught(STORM, 20, "a claim at height", lies("unattested"))


def test_a_validator_that_votes_at_once_after_its_disk_was_wiped_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    forgets(monkeypatch, lambda log: replace(log, floor=log.floor or (0, 0)))
    caught(replace(STORM, byzantine=0, wipes=True), 60, "cast two|both finalised and timed out|evidence against")


def test_an_epoch_that_keeps_counting_the_votes_of_removed_validators_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    following = Epochs.next
    monkeypatch.setattr(Epochs, "next", lambda self, _new, first: following(self, self.present.validators, first))
    caught(replace(STORM, epochs=1), 10, "is not proven by a quorum of its epoch")


def test_a_finalised_head_that_is_told_before_it_is_on_disk_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    write, late = CrashingStore.write_finalised, dict[str, Any]()

    def write_later(store: CrashingStore, *arguments: Any) -> None:
        held = late.pop(store._name, None)
        late[store._name] = arguments
        if held is not None:
            write(store, *held)

    monkeypatch.setattr(CrashingStore, "write_finalised", write_later)
    caught(replace(STORM, byzantine=0), 3, "before it is on disk|unknown block|lacks block")


def test_a_finalised_head_that_goes_back_over_a_restart_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "finalised", lambda store: store.genesis())
    caught(replace(STORM, byzantine=0), 10, "went back")


def test_a_node_that_believes_what_no_certificate_proves_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.importer.certificate, "verify_finalisation", lambda *_: None)
    caught(replace(STORM, followers=2), 40, "is not proven by a quorum", lies("misleads"))


ALONE = Scenario(jobs=True, lazy=1, alone=True, audit_ppm=10**6, calm_from_s=1.0, followers=0)


def test_a_network_that_audits_a_lone_lazy_worker_pays_it_nothing() -> None:
    assert first_caught(range(3), scenario=ALONE) is None


def test_a_lazy_worker_that_is_alone_and_not_audited_is_noticed() -> None:
    caught(replace(ALONE, audit_ppm=0), 6, "was won by an update that is not the work's result")


def test_auditors_that_believe_what_a_lazy_worker_says_of_itself_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It states that its audited update is the true one; nobody computes it again before attesting that."""
    honest = auditor.step

    def believe(state: auditor.AuditorState, event: Any) -> Any:
        if isinstance(event, auditor.VerdictFound):
            return state, (Attest(event.digest, True),)
        return honest(state, event)

    monkeypatch.setattr(auditor, "step", believe)
    caught(ALONE, 6, "was won by an update that is not the work's result")


def test_attestors_that_believe_a_copier_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It commits to another's ciphertext and claims what that worker reveals."""

    def believe(site: Worksite, effect: attestor.CheckClaim, _ciphertext: bytes) -> None:
        site._feed("attestor", attestor.ClaimChecked(effect.digest, True))

    monkeypatch.setattr(Worksite, "_checked", believe)
    scenario = Scenario(jobs=True, copiers=1, calm_from_s=1.0, followers=0)
    caught(scenario, 4, "which is copier, revealed the right update")
