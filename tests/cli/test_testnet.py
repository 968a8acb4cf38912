"""flnode testnet: made, seen, paid from, taken again, stopped exactly, removed exactly."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chain.genesis import load_network
from cli.errors import UserError
from cli.pidfile import wait_gone
from cli.testnet_network import FAUCET_WEI, Size, create, open_testnet, remove, start_nodes
from node.config import load_config
from node.keys import account_address, load_account_key
from tests.cli.operations_kit import LIMIT_S, nodes_end, ok, ok_json, refused

SOMEBODY = "0x" + "5a" * 20
SMALL = Size(nodes=2, workers=1, servers=1, host=None, seed=None)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """Where a testnet may be; none of its nodes is left running."""
    with nodes_end(tmp_path):
        yield tmp_path / "net"


def states(place: Path) -> dict[str, str]:
    return {each["name"]: each["state"] for each in ok_json("testnet", "status", place)}


@pytest.mark.network
def test_a_testnet_from_up_to_down(place: Path) -> None:
    size = ("--nodes", "1", "--workers", "1")
    made = ok_json("testnet", "up", place, *size)
    pids = {each["name"]: each["pid"] for each in made["nodes"]}
    assert list(pids) == ["validator-1", "worker-1", "server-1"]
    assert {os.getsid(pid) for pid in pids.values()} == set(pids.values())
    assert load_network(Path(made["network"])).name == "testnet"

    # the newcomer's coins
    assert "2 flt sent" in ok("testnet", "faucet", SOMEBODY, "2 flt", place)
    shown = ok("testnet", "status", place)
    assert [line.split()[1] for line in shown.splitlines()[1:]] == ["up"] * 3
    assert "MiB" in shown
    assert "999997.99" in shown  # the faucet, which also paid a fee

    # up again starts what is down, and only that
    os.kill(pids["worker-1"], signal.SIGKILL)
    assert wait_gone(place / "worker-1", LIMIT_S)
    assert states(place) == {"validator-1": "up", "worker-1": "down", "server-1": "up"}
    again = {each["name"]: each["pid"] for each in ok_json("testnet", "up", place)["nodes"]}
    assert {name for name in pids if pids[name] != again[name]} == {"worker-1"}
    assert "made with --nodes 1, not 3" in refused(2, "testnet", "up", place, "--nodes", "3")

    # down ends exactly these, also one that hangs
    os.kill(again["validator-1"], signal.SIGSTOP)
    assert "3 of 3 nodes were running, and have been stopped (validator-1 had to be killed)" in ok(
        "testnet", "down", place
    )
    assert set(states(place).values()) == {"down"}
    message = refused(1, "testnet", "faucet", SOMEBODY, "1 flt", place)
    assert f"server-1, which owns the faucet account: no node is running here: there is no socket at {place}" in message

    # what is final stays
    ok("testnet", "up", place)
    assert ok_json("testnet", "status", place)[0]["status"]["finalised_head"]["number"] == 1
    (place / "mine.txt").write_text("not of the network")
    removed = ok("testnet", "down", place, "--remove")
    assert "3 of 3 nodes" in removed
    assert "but not what is not of it: mine.txt" in removed
    assert [path.name for path in place.iterdir()] == ["mine.txt"]


def test_a_network_that_does_not_come_up_says_which_node_and_leaves_none(place: Path) -> None:
    net = create(place, SMALL)
    (place / "worker-1" / "keys" / "p2p.key").unlink()
    message = refused(2, "testnet", "up", place)
    assert f"the node in {place}/worker-1 did not start (exit code 2): no key file at" in message
    assert set(states(place).values()) == {"down"}
    assert remove(net) == []
    assert not place.exists()


def test_every_member_has_the_friends_file_its_role_and_its_coins(place: Path) -> None:
    net = create(place, SMALL)
    network = load_network(place / "network.toml")
    assert list(net.members) == ["validator-1", "validator-2", "worker-1", "server-1"]
    accounts = {}
    for name, config in net.members.items():
        assert config.network_path.read_bytes() == (place / "network.toml").read_bytes()
        accounts[name] = account_address(load_account_key(config.account_key_path))
    assert network.validator_addresses == (accounts["validator-1"], accounts["validator-2"])
    assert account_address(load_account_key(place / "faucet.key")) == accounts["server-1"]
    assert network.balances[accounts["server-1"]] == FAUCET_WEI
    assert network.balances[accounts["worker-1"]] == 1000 * 10**18
    assert net.members["server-1"].node.roles == ("learning_server",)
    assert stat.S_IMODE((place / "faucet.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_a_seed_gives_the_same_keys_and_another_one_others(tmp_path: Path) -> None:
    def accounts(name: str, seed: int | None) -> list[bytes]:
        net = create(tmp_path / name, Size(nodes=1, workers=1, servers=2, host=None, seed=seed))
        return [load_account_key(config.account_key_path) for config in net.members.values()]

    seeded = accounts("a", 7)
    assert accounts("b", 7) == seeded
    for other in (accounts("c", 8), accounts("d", None), accounts("e", None)):
        assert not set(seeded) & set(other)
    assert len(set(seeded)) == 4


def test_a_host_that_others_reach_is_in_the_friends_file(place: Path) -> None:
    create(place, Size(nodes=1, workers=0, servers=1, host="127.0.0.2", seed=None))
    validator = load_network(place / "network.toml").validators[0]
    assert validator.p2p is not None
    assert validator.p2p.startswith("/ip4/127.0.0.2/tcp/")
    assert load_config(place / "server-1", {}).p2p.listen == "/ip4/127.0.0.2/tcp/0"


@pytest.mark.parametrize("name", ["nodes", "workers", "servers", "host", "seed"])
def test_a_testnet_of_another_size_is_not_taken_for_the_one_that_is_wanted(place: Path, name: str) -> None:
    net = create(place, SMALL)
    same: dict[str, Any] = {"nodes": 2, "workers": 1, "servers": 1, "host": "127.0.0.1", "seed": None}
    net.require(Size(**same))
    net.require(Size(None, None, None, None, None))
    other: Any = "127.0.0.2" if name == "host" else 5
    with pytest.raises(UserError, match=f"made with --{name} .*, not {other}"):
        net.require(Size(**{**same, name: other}))


def test_a_testnet_that_was_interrupted_while_it_was_made_can_be_removed(place: Path) -> None:
    create(place, SMALL)
    (place / "network.toml").unlink()  # it is written last
    net = open_testnet(place)
    assert net.members == {}
    with pytest.raises(UserError, match="is not complete"):
        start_nodes(net)
    assert "removed the network" in ok("testnet", "down", place, "--remove")
    assert not place.exists()
