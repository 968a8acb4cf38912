"""Every program of the line-up at once against real nodes: processes of their own, real training, real blobs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chain.contracts import REPLICATED
from chain.header import address_of_secret
from chain.transaction import sign_transaction
from cli.client import Client, Endpoint, NodeRefused
from cli.demo_network import Running
from cli.local_network import BALANCE_WEI, CHAIN_ID, Member, Node
from cli.processes import file_environment
from node.api import schema
from node.keys import load_account_key
from tests.adversaries.den import ELSEWHERE
from tests.adversaries.lineup import (
    CLAIM_REFUSED,
    GAMES,
    REVERTED,
    REWARD_WEI,
    STAKE_WEI,
    job_of,
    key_of,
)
from tests.adversaries.table import revealed_elsewhere
from tests.network.kit import SERVER, Net, network

pytestmark = pytest.mark.network

HONEST = tuple(Member(f"validator-{n}", ("validator", "worker")) for n in (1, 2, 3))
DEN = Member("den", ("validator", "learning_server"))
NAMES = [name for game in GAMES for name in game.players]
FEES_MAX_WEI = 10**12  # what anybody here spends on gas, and far below a reward
LIMIT_S = 240.0


def endow(node: Node) -> None:
    """Give the adversaries coins, and let the node log for machines."""
    lines = [f'"0x{address_of_secret(key_of(name)).hex()}" = "{BALANCE_WEI}"\n' for name in NAMES]
    with (node.config.directory / "network.toml").open("a") as file:
        file.writelines(lines)  # the balances are its last table
    path = node.config.directory / "node.toml"
    path.write_text(path.read_text().replace('format = "console"', 'format = "json"'))


@contextmanager
def den(net: Net) -> Iterator[None]:
    """Have the den run among the nodes, as one of them."""
    node = net.nodes[DEN.name]
    keys = [load_account_key(net.nodes[each.name].config.account_key_path) for each in HONEST]
    found = {
        name: revealed_elsewhere(keys, chain_id, contract, job_of(name))
        for name, chain_id, contract in (
            ("from another chain", CHAIN_ID + 1, REPLICATED),
            ("from another contract", CHAIN_ID, bytes(20)),
        )
    }
    (node.config.directory / ELSEWHERE).write_bytes(msgspec.json.encode(found))
    root = str(Path(__file__).parent.parent.parent)
    command = [sys.executable, "-P", "-m", "tests.adversaries.den", "--config", str(node.config.directory)]
    with node.log.open("ab") as log, Client(Endpoint(socket=node.config.socket_path)) as client:
        process = subprocess.Popen(
            command, cwd=root, env={**file_environment(os.environ), "PYTHONPATH": root, "FLNODE_DEBUG": "1"},
            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        net.running[DEN.name] = Running(node, process, client)
        yield


def said(net: Net) -> list[dict[str, Any]]:
    """What the adversaries did, or failed to do."""
    lines = net.nodes[DEN.name].log.read_bytes().split(b"\n")
    return [msgspec.json.decode(line) for line in lines if b'"adversary.' in line]


def gained(net: Net, name: str) -> int:
    """Wei that an identity has more than in the beginning, gas paid."""
    address = "0x" + address_of_secret(key_of(name)).hex()
    return int(net.call("server", "eth_getBalance", str, address=address), 16) - BALANCE_WEI


def job_of_owner(net: Net, name: str) -> int:
    owner = "0x" + address_of_secret(key_of(name)).hex()
    jobs = net.call("server", "fl_jobs", list[schema.JobSummary])
    return next((each.id for each in jobs if each.owner == owner), 0)


def wait_over(net: Net, game: int) -> schema.JobDetail:
    """Until a game's job has ended; one that nobody can do is over when every honest worker has said so."""
    job, owned = game + 1, GAMES[game].owner
    if owned is not None:
        job = net.wait(f"game {game} to be posted", lambda: job_of_owner(net, owned[0]), LIMIT_S)
    if GAMES[game].bent:
        for each in HONEST:
            net.wait(f"{each.name} to decline", lambda name=each.name: str(job) in net.status(name).declined, LIMIT_S)
        return net.job("server", job)
    ended = lambda: (detail := net.job("server", job)).state == "ended" and detail  # noqa: E731
    return net.wait(f"game {game} to end", ended, LIMIT_S)


def wait_home(net: Net) -> None:
    """Until whoever plays in a game that has ended has withdrawn."""
    expected = {name for game in GAMES if not game.bent for name in game.players}

    def home() -> bool:
        done = {each["who"] for each in said(net) if each["what"].startswith("last withdrawal")}
        return expected <= done

    net.wait("the adversaries to take home what is theirs", home, LIMIT_S)


def judge(net: Net, number: int, detail: schema.JobDetail) -> None:
    """Who was paid in one game."""
    game = GAMES[number]
    addresses = {net.nodes[each.name].address for each in HONEST}
    honest = [each for each in detail.workers if each.address in addresses]
    purse = {name: gained(net, name) for name in game.players}
    if game.bent:
        assert not detail.workers, number
    elif game.together:
        assert -FEES_MAX_WEI < sum(purse.values()) <= 0, (number, purse)
    elif "identity 1" in game.foes:
        assert all(REWARD_WEI - FEES_MAX_WEI < each < REWARD_WEI for each in purse.values()), purse
    elif game.owner is not None:
        assert all(-3 * REWARD_WEI - FEES_MAX_WEI < each <= -3 * REWARD_WEI for each in purse.values()), purse
    else:  # each of them held a slot, and it cost one stake; but who copies all calls may not see an `enrol` wait
        for name, wei in purse.items():
            address = "0x" + address_of_secret(key_of(name)).hex()
            seated = any(each.address == address and each.slots_held for each in detail.workers)
            assert seated or name == "runs in front", name
            assert -FEES_MAX_WEI < wei + STAKE_WEI * seated <= 0, purse
    if not game.bent and not game.together:
        assert all(int(each.forfeited_wei) == 0 for each in honest), number
        assert all(int(each.earned_wei) == each.slots_held * REWARD_WEI for each in honest), number
        assert sum(each.slots_held for each in honest) >= 2, number


def judge_acts(net: Net) -> None:
    """That the attacks were made, and why those failed that are not even taken."""
    failed = [each for each in said(net) if each["event"] == "adversary.failed"]
    for expected, reason in ((CLAIM_REFUSED, "its claim to be false"), (REVERTED, "it reverted")):
        assert expected <= {each["who"] for each in failed if reason in each["reason"]}, failed


def refuses_transactions_of_another_chain(net: Net) -> None:
    """A call that somebody signed for another network is not even taken in here."""
    raw = sign_transaction(key_of(NAMES[0]), CHAIN_ID + 1, 0, REPLICATED, 0, b"", 100_000, 100, 1)
    with pytest.raises(NodeRefused, match="chain"):
        net.call("server", "eth_sendRawTransaction", str, raw="0x" + raw.hex())


def test_no_adversary_earns_anything_and_every_honest_slot_is_paid(tmp_path: Path) -> None:
    with network(tmp_path, (*HONEST, DEN, SERVER), endow) as net, den(net):
        net.start(*(each.name for each in (*HONEST, SERVER)))
        net.wait_connected("server")
        jobs = [net.submit("server", **game.job_terms) for game in GAMES if game.owner is None]
        assert jobs == list(range(1, len(jobs) + 1))
        details = [wait_over(net, number) for number in range(len(GAMES))]
        wait_home(net)
        for number, detail in enumerate(details):
            judge(net, number, detail)
        judge_acts(net)
        refuses_transactions_of_another_chain(net)
