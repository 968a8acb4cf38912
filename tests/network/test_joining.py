"""A newcomer with nothing but a friend's network file, by the commands that a person types."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.amounts import parse_amount
from cli.local_network import Member, Node
from node.config import load_config
from tests.cli.operations_kit import ok, ok_json
from tests.network.kit import SERVER, VALIDATORS, WORKERS, Net, network

pytestmark = pytest.mark.network
NAME = "newcomer"
COINS = "5 flt"
WAITS_FOR = "validators: 0 of 4 reached, 3 needed"
REWARD = parse_amount("0.01 flt")
FEES_MAX = 10**9  # a grant, and more than all fees


def join(net: Net, root: Path) -> str:
    """`flnode init` with the friend's file and an account without coins, known to the kit from now on; its address."""
    friends_file = net.nodes["server"].config.network_path
    directory = root / NAME
    made = ok_json("init", directory, "--network", friends_file, "--role", "worker")
    net.nodes[NAME] = Node(Member(NAME, ("worker",)), made["address"], load_config(directory, {}))
    return str(made["address"])


def test_without_faucet_and_sponsors_a_newcomer_says_that_it_needs_coins_and_works_once_it_has_some(
    tmp_path: Path,
) -> None:
    with network(tmp_path, (*VALIDATORS, *WORKERS[:2], SERVER), joining=False) as net:
        # a network that has a history, and is down
        everybody = [each.name for each in (*VALIDATORS, *WORKERS[:2], SERVER)]
        net.start(*everybody)
        net.wait_connected("server")
        job = net.submit("server", rounds_max=3)
        net.wait_job("server", job, "the two to enrol", lambda detail: detail.enrolled == 2)
        height = net.wait("the server to answer", lambda: net.status("server")).finalised_head.number
        for name in everybody:
            net.terminate(name)

        # the newcomer is up before anyone else: it says what it waits for, and for how long
        address = join(net, tmp_path)
        at = ("--config", net.nodes[NAME].config.directory)
        net.start(NAME)
        first = net.wait("the newcomer to answer", lambda: net.status(NAME))
        assert first.finalised_head.number == 0
        assert first.waiting_for == WAITS_FOR
        net.wait("the wait to be counted", lambda: waiting_since(net) > (first.waiting_since_s or 0))
        assert f"{WAITS_FOR}, for " in ok("status", *at)
        assert "node.waiting" in net.nodes[NAME].log.read_text()

        # they come back, and it catches up; the job lacks a third worker, but that costs a deposit
        net.start(*everybody)
        net.wait("the newcomer to catch up", lambda: caught_up(net, height))
        waiting = net.job(NAME, job)
        assert (waiting.state, waiting.enrolled) == ("waiting", 2)
        assert f"coins: this account has 0 wei, and fees need 99000000; have somebody pay {address}" in ok(
            "status", *at
        )

        # coins, and with them a place in the job, work and pay
        friend = net.nodes["server"].config.directory
        assert f"{COINS} sent" in ok("account", "send", address, COINS, "--config", friend)
        detail = net.wait_ended("server", job)
        mine = next(worker for worker in detail.workers if worker.address == address)
        assert mine.rounds_in_majority == 3
        assert int(mine.earned_wei) == 3 * REWARD
        assert int(mine.forfeited_wei) == 0

        # home with it: what was earned can be fetched, and is more than what the friend gave
        net.wait_job(NAME, job, "the books to be closed", lambda detail: detail.state == "ended")
        ok("account", "withdraw", *at)
        balance = int(ok_json("account", "show", *at)["balance_wei"])
        assert parse_amount(COINS) < balance <= parse_amount(COINS) + 3 * REWARD


def test_a_newcomer_without_a_coin_gets_fees_and_a_sponsor_works_and_repays(tmp_path: Path) -> None:
    with network(tmp_path, (VALIDATORS[0], SERVER)) as net:
        net.start()
        net.wait_connected("server", validators=1)
        job = net.submit("server", rounds_max=3, slots=1, workers_min=1, stake="0.001 flt")
        address = join(net, tmp_path)
        at = ("--config", net.nodes[NAME].config.directory)
        net.start(NAME)
        detail = net.wait_ended("server", job)
        mine = next(worker for worker in detail.workers if worker.address == address)
        assert (mine.rounds_in_majority, int(mine.earned_wei)) == (3, 3 * REWARD)

        # what the sponsor put is back with it, and the newcomer has what it earned beyond that, and its deposit
        net.wait_job(NAME, job, "the books to be closed", lambda detail: detail.state == "ended")
        net.wait("the debt to be repaid", lambda: deposits(at)[0]["debt_wei"] == "0")
        ok("account", "withdraw", *at)
        balance = int(ok_json("account", "show", *at)["balance_wei"])
        assert 3 * REWARD - FEES_MAX < balance < 3 * REWARD + FEES_MAX
        story = ok("account", "history", *at)
        for told in ("asked for a sponsor", "a sponsor offers 0.004 flt", "repaid 0.004 flt"):
            assert told in story
        log = net.nodes[NAME].log.read_text()
        assert "the faucet: this account has no coins for fees" in log
        assert "grant.answered" in log


def deposits(at: tuple[object, ...]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = ok_json("account", "show", *at)["deposits"]
    return found


def waiting_since(net: Net) -> float:
    status = net.status(NAME)
    return 0.0 if status is None or status.waiting_since_s is None else status.waiting_since_s


def caught_up(net: Net, height: int) -> bool:
    status = net.status(NAME)
    if status is None or status.finalised_head.number < height:
        return False
    return status.waiting_for is not None and status.waiting_for.startswith("coins: ")
