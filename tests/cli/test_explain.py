"""A round explained from its logs, against what the contract booked."""

from __future__ import annotations

import json
from itertools import combinations_with_replacement
from pathlib import Path

import pytest
from eth_hash.auto import keccak

from chain.contracts import bindings as b
from chain.contracts.calls import Call
from cli.explain import (
    ABSENT,
    AUDIT_LOST,
    AUDIT_PAID,
    MINORITY,
    PAID,
    VOID_COMMITTED,
    VOID_REVEALED,
    WITHHELD,
    attempts_of,
    judge,
    tell,
)
from cli.history import entries_of
from cli.main import run
from node.api import schema
from node.feed import _told as told
from tests.contracts.audits_kit import ALWAYS, APPEALS, appeal, resolve
from tests.contracts.evm_harness import Done
from tests.contracts.world import BAD, GOOD, OWNER, STRANGER, TERMS, WORKERS, World

EXAMPLE = Path(__file__).parent.parent.parent / "configs" / "jobs" / "digits.toml"
ACTS = ("right", "wrong", "own", "withholds", "absent", "late")
TERMS_SHOWN = schema.Terms(
    reward_wei=str(TERMS.reward),
    stake_wei=str(TERMS.stake),
    slots=3,
    workers_min=3,
    rounds_max=2,
    attempts_max=2,
    commit_window_s=60,
    reveal_window_s=40,
    last_call_s=20,
    grace_s=10,
    deadline=TERMS.deadline,
)


class Told(World):
    """A world whose events are kept as the API shows them."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[schema.JobEvent] = []

    def run(self, sender: bytes, call: Call) -> Done:
        done = super().run(sender, call)
        for event in done.events:
            if hasattr(event, "job"):
                self.events.append(told(event, len(self.events) + 1, self.evm.number, self.evm.timestamp))
        return done

    def play_audited(self, acts: tuple[str, ...], truth: bytes) -> int:
        """The same with an audit that finds `truth`."""
        job = self.post(attempts_max=1, rounds_max=1, **ALWAYS)
        self.enrol(job, 3)
        self.commit(job)
        self.wait(1)
        for worker, act in zip(WORKERS, acts, strict=False):
            self.reveal(job, {worker: {"right": GOOD, "wrong": BAD}.get(act, keccak(worker))})
        if self.round(job).phase == b.REVEAL:
            self.expire_and_close(job)
        resolve(self, job, truth)
        if self.round(job).grace_until:
            self.do(OWNER, b.finalise(job, 1, 1, False))
        else:
            self.expire_and_close(job)
        for worker in WORKERS[:3]:
            self.do(STRANGER, b.settle(job, worker))
        return job

    def play(self, acts: tuple[str, ...]) -> int:
        """A round in which each of three workers does one thing; to the end of its books."""
        job = self.post(attempts_max=1, rounds_max=1)
        self.enrol(job, 3)
        did = dict(zip(WORKERS, acts, strict=False))
        self.commit(job, workers=[worker for worker, act in did.items() if act != "absent"])
        if self.round(job).phase == b.COMMIT:
            self.expire_and_close(job)
        if self.round(job).phase == b.REVEAL:
            updates = {"right": GOOD, "wrong": BAD}
            for worker, act in did.items():
                if act in ("right", "wrong", "own"):
                    self.reveal(job, {worker: updates.get(act, keccak(worker))})
            if self.round(job).grace_until:
                self.do(OWNER, b.finalise(job, 1, 1, False))
                for worker, act in did.items():
                    if act == "late":
                        self.reveal(job, {worker: GOOD})
            if self.round(job).phase not in (b.CLOSED, b.VOID):
                self.expire_and_close(job)
        for worker in did:
            self.do(STRANGER, b.settle(job, worker))
        return job


def test_every_slot_ends_as_the_contract_booked_it() -> None:
    for acts in combinations_with_replacement(ACTS, 3):
        world = Told()
        job = world.play(acts)
        (attempt,) = attempts_of(world.events, job, 1)
        judge(attempt, TERMS_SHOWN)
        assert (attempt.winner is not None) == (attempt.phase == "CLOSED")
        booked = {each.worker: each.detail for each in world.events if each.name == "SeatSettled"}
        for slot in attempt.slots:
            assert slot.settled
            assert (slot.earned_wei, slot.forfeited_wei) == (
                booked[slot.worker]["earned"], booked[slot.worker]["forfeited"],
            ), acts  # fmt: skip


@pytest.mark.parametrize(
    ("acts", "reasons"),
    [
        (("right", "right", "wrong"), (PAID, PAID, MINORITY)),
        (("right", "right", "late"), (PAID, PAID, PAID)),
        (("right", "right", "withholds"), (PAID, PAID, WITHHELD)),
        (("right", "right", "absent"), (PAID, PAID, ABSENT)),
        (("right", "wrong", "withholds"), (VOID_REVEALED, VOID_REVEALED, WITHHELD)),
        (("right", "absent", "absent"), (VOID_COMMITTED, ABSENT, ABSENT)),
    ],
)
def test_each_is_told_why(acts: tuple[str, ...], reasons: tuple[str, ...]) -> None:
    world = Told()
    job = world.play(acts)
    (attempt,) = attempts_of(world.events, job, 1)
    judge(attempt, TERMS_SHOWN)
    assert tuple(slot.reason for slot in attempt.slots) == reasons
    assert [slot.late for slot in attempt.slots] == [act == "late" for act in acts]


@pytest.mark.parametrize(
    ("acts", "reasons"),
    [
        (("right", "wrong", "wrong"), (AUDIT_PAID, AUDIT_LOST, AUDIT_LOST)),
        (("right", "right", "wrong"), (AUDIT_PAID, AUDIT_PAID, AUDIT_LOST)),
        (("right", "wrong", "own"), (AUDIT_PAID, AUDIT_LOST, AUDIT_LOST)),
        (("wrong", "wrong", "own"), (AUDIT_LOST, AUDIT_LOST, AUDIT_LOST)),
    ],
)
def test_what_an_audit_found_is_told_as_the_contract_booked_it(acts: tuple[str, ...], reasons: tuple[str, ...]) -> None:
    world = Told()
    job = world.play_audited(acts, GOOD)
    (attempt,) = attempts_of(world.events, job, 1)
    judge(attempt, TERMS_SHOWN)
    assert tuple(slot.reason for slot in attempt.slots) == reasons
    booked = {each.worker: each.detail for each in world.events if each.name == "SeatSettled"}
    for slot in attempt.slots:
        detail = booked[slot.worker]
        assert (slot.earned_wei, slot.forfeited_wei) == (detail["earned"], detail["forfeited"])


def test_an_audit_is_told_in_plain_lines(capsys: pytest.CaptureFixture[str]) -> None:
    world = Told()
    (attempt,) = attempts_of(world.events, world.play_audited(("wrong", "wrong", "right"), GOOD), 1)
    judge(attempt, TERMS_SHOWN)
    tell(attempt)
    text = capsys.readouterr().out
    assert "to be audited: drawn by lot" in text
    assert f"the audit found 0x{GOOD.hex()[:8]}" in text
    assert "and nothing else is paid" in text


def test_an_open_round_is_not_judged() -> None:
    world = Told()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: GOOD})
    (attempt,) = attempts_of(world.events, job, 1)
    judge(attempt, TERMS_SHOWN)
    assert (attempt.phase, attempt.winner, attempt.votes) == ("REVEAL", None, {"0x" + GOOD.hex(): 1})
    assert {slot.outcome for slot in attempt.slots} == {"open"}


def test_a_void_round_and_its_second_attempt_are_both_told() -> None:
    world = Told()
    job = world.post()
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: GOOD, WORKERS[1]: BAD})
    world.expire_and_close(job)
    world.commit(job, 1, 2)
    world.reveal(job, dict.fromkeys(world.slots, GOOD), 1, 2)
    world.do(OWNER, b.finalise(job, 1, 2, False))
    assert [(each.attempt, each.phase) for each in attempts_of(world.events, job, 1)] == [(1, "VOID"), (2, "CLOSED")]
    assert attempts_of(world.events, job, 7) == []


def test_the_story_for_people_has_times_votes_and_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    world = Told()
    job = world.play(("right", "right", "wrong"))
    (attempt,) = attempts_of(world.events, job, 1)
    judge(attempt, TERMS_SHOWN)
    tell(attempt)
    out = capsys.readouterr().out
    for text in (
        f"job {job}, round 1, attempt 1: CLOSED",
        "3 of 3 have committed: reveals are open",
        f"0x{WORKERS[2].hex()[:8]}… revealed 0x{BAD.hex()[:8]}…",
        "2 of 3 slots revealed",
        f"the vote: 0x{GOOD.hex()[:8]}… by 2, 0x{BAD.hex()[:8]}… by 1; more than half of 3 slots wins",
        "paid 1000 wei",
        "forfeits 300 wei",
        MINORITY,
    ):
        assert text in out
    assert "not booked" not in out


def test_a_round_that_was_not_opened_is_one_line(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["job", "submit", str(EXAMPLE), "--config", str(directory)]) == 0
    capsys.readouterr()
    assert run(["job", "explain", "1", "1", "--config", str(directory)]) == 2
    assert "round 1 of job 1 has not been opened" in capsys.readouterr().err
    assert run(["job", "explain", "9", "1", "--config", str(directory)]) == 1


def summary_of(job: int) -> schema.JobSummary:
    return schema.JobSummary(
        id=job, kind="replicated", owner="0x" + OWNER.hex(), state="ended", phase="CLOSED", round=1, attempt=1,
        rounds_settled=1, rounds_max=1, enrolled=3, accuracy=None, reward_wei="1", deadline=1,
    )  # fmt: skip


def test_the_history_of_an_account_adds_up_to_what_it_earned_and_forfeited() -> None:
    world = Told()
    job = world.play(("right", "right", "wrong"))
    sums = {}
    for account in (*WORKERS[:3], OWNER):
        address = "0x" + account.hex()
        entries = [entry for event in world.events for entry in entries_of(event, summary_of(job), address)]
        sums[account] = sum(int(entry.wei) for entry in entries)
        told_of = [entry.what for entry in entries]
        if account == OWNER:
            assert told_of == ["posted the job", "job ended: finished"]
        else:
            assert told_of[0].startswith("enrolled, free deposit")
    assert list(sums.values()) == [TERMS.reward, TERMS.reward, -TERMS.stake, 0]


def test_an_appeal_is_in_the_appellants_history() -> None:
    world = Told()
    job = world.post(**APPEALS)
    world.enrol(job, 3)
    world.commit(job)
    world.reveal(job, {WORKERS[0]: BAD, WORKERS[1]: BAD, WORKERS[2]: GOOD})
    appeal(world, job, WORKERS[2])
    summary = summary_of(job)
    for worker in WORKERS[:3]:
        address = "0x" + worker.hex()
        told_of = [entry.what for event in world.events for entry in entries_of(event, summary, address)]
        assert ("appealed against the majority: the bond is put up" in told_of) == (worker == WORKERS[2])


def test_the_history_of_a_running_node(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at = ("--config", str(directory))
    assert run(["account", "history", *at]) == 0
    assert capsys.readouterr().out == "this account has had no part in a job yet\n"
    assert run(["job", "submit", str(EXAMPLE), *at]) == 0
    capsys.readouterr()
    assert run(["account", "history", *at, "--json"]) == 0
    assert [entry["what"] for entry in json.loads(capsys.readouterr().out)] == [
        "posted the job", "job ended: goal reached",
    ]  # fmt: skip
