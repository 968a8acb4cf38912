"""The validators of a running network change, by the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.local_network import Member, Node
from node.api import schema
from node.config import load_config
from tests.cli.operations_kit import ok, ok_json
from tests.network.kit import SERVER, VALIDATORS, Net, network

pytestmark = pytest.mark.network
NAME = "newcomer"


def join(net: Net, root: Path) -> str:
    """A new validator's directory, made with the network file; its address."""
    directory = root / NAME
    network_file = next(iter(net.nodes.values())).config.network_path
    made = ok_json("init", directory, "--network", network_file, "--role", "validator")
    net.nodes[NAME] = Node(Member(NAME, ("validator",)), made["address"], load_config(directory, {}))
    return str(made["address"])


def send_coin(net: Net, name: str = "server") -> None:
    """One more block."""
    done = net.call(name, "fl_send", schema.Submitted, to="0x" + "11" * 20, value_wei="1", wait_s=60.0)
    assert done.final


def listed(net: Net, name: str) -> schema.Validators:
    return net.call(name, "fl_validators", schema.Validators)


def in_epoch(net: Net, name: str, epoch: int) -> bool:
    status = net.status(name)
    return status is not None and status.epoch == epoch


def test_a_validator_is_admitted_is_needed_and_another_is_removed(tmp_path: Path) -> None:
    with network(tmp_path, (*VALIDATORS, SERVER)) as net:
        net.start()
        net.wait_connected("server")
        address = join(net, tmp_path)
        net.start(NAME)
        waiting = net.wait("the newcomer to say why it does not vote", lambda: waits_for(net))
        assert waiting.startswith("validators: this node's account is not among them")

        at = {v.name: ("--config", net.nodes[v.name].config.directory) for v in VALIDATORS}
        assert "proposal 1" in ok("validator", "propose", address, *at["validator-1"])
        ok("validator", "approve", "1", *at["validator-2"])
        assert in_epoch(net, "validator-2", 0)
        ok("validator", "approve", "1", *at["validator-3"])
        for name in (*at, NAME):
            net.wait(f"{name} to be in the next epoch", lambda name=name: in_epoch(net, name, 1))
        assert [each.address for each in listed(net, "server").validators][4] == address
        assert listed(net, "server").quorum == 4
        net.kill("validator-4")
        # the newcomer's vote is needed now; and it will need coins for the fee of its own
        ok("account", "send", address, "1 flt", "--config", net.nodes["server"].config.directory)

        gone = net.nodes["validator-4"].address
        proposal = ok_json("validator", "propose", gone, "--remove", *at["validator-1"])["proposal"]
        for name in ("validator-2", "validator-3"):
            ok("validator", "approve", str(proposal), *at[name])
        ok("validator", "approve", str(proposal), "--config", net.nodes[NAME].config.directory)
        net.wait("the third epoch", lambda: in_epoch(net, "server", 2))
        assert gone not in [each.address for each in listed(net, "server").validators]
        net.start("validator-4")
        net.wait("the removed one to follow", lambda: in_epoch(net, "validator-4", 2))
        send_coin(net, "validator-4")


def waits_for(net: Net) -> str | None:
    """What the newcomer waits for, once it has reached the others."""
    status = net.status(NAME)
    waiting = None if status is None else status.waiting_for
    return None if waiting is None or "reached" in waiting else waiting
