"""flnode testnet up, status, faucet, down: an own network of ordinary nodes in the background of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click
import msgspec

from cli.account import FINAL_WAIT_S
from cli.account import report as report_transaction
from cli.amounts import format_wei, parse_amount
from cli.client import Client, Endpoint
from cli.errors import NodeError
from cli.options import json_option
from cli.output import mebibytes, print_json, stdout, table
from cli.testnet_network import (
    FAUCET_KEY,
    NETWORK_FILE,
    Size,
    Testnet,
    create,
    exists,
    open_testnet,
    remove,
    start_nodes,
    states,
    stop_nodes,
)
from node.api import schema

DEFAULT_DIRECTORY: Final = Path("~/.flnode/testnet")
MEMBERS_MAX: Final = 64  # of each role

directory_argument = click.argument(
    "directory", metavar="[DIR]", type=click.Path(path_type=Path), default=DEFAULT_DIRECTORY
)


class UpNode(msgspec.Struct, frozen=True):
    """One node of a testnet that is up."""

    name: str
    roles: tuple[str, ...]
    address: str
    pid: int
    socket: str


class Up(msgspec.Struct, frozen=True):
    """What `testnet up --json` prints."""

    directory: str
    network: str
    faucet_key: str
    faucet: str
    nodes: list[UpNode]


@click.group()
def testnet() -> None:
    """An own network on this machine, in the background, for trying things; DIR is ~/.flnode/testnet by default.

    \b
    flnode testnet up --nodes 4 --workers 3
    flnode testnet down --remove
    """


@testnet.command()
@directory_argument
@click.option("--nodes", type=click.IntRange(1, MEMBERS_MAX), help="Validators.  [default: 4]")
@click.option("--workers", type=click.IntRange(0, MEMBERS_MAX), help="Workers.  [default: 3]")
@click.option("--servers", type=click.IntRange(1, MEMBERS_MAX), help="Learning servers.  [default: 1]")
@click.option("--host", metavar="IP", help="Where the nodes listen; others must reach it.  [default: 127.0.0.1]")
@click.option("--seed", type=click.IntRange(min=0), help="Make the keys from this number; who knows it, has them.")
@json_option
def up(
    directory: Path,
    nodes: int | None,
    workers: int | None,
    servers: int | None,
    host: str | None,
    seed: int | None,
    as_json: bool,
) -> None:
    """Make a network in DIR, or take the one that is there, and start all of its nodes in the background.

    Besides validators, workers and learning servers there is a faucet account with many coins, DIR/faucet.key; the
    node server-1 pays from it.

    \b
    flnode testnet up
    flnode testnet up /tmp/net --nodes 4 --workers 5
    flnode testnet up --host 192.168.1.7           others in the local network can join
    """
    directory = directory.expanduser().absolute()
    wanted = Size(nodes, workers, servers, host, seed)
    if exists(directory):
        net = open_testnet(directory)
        net.require(wanted)
    else:
        net = create(directory, wanted)
    statuses = start_nodes(net)
    pids = {state.name: state.pid or 0 for state in states(net)}
    members = [
        UpNode(name, config.node.roles, statuses[name].address, pids[name], str(config.socket_path))
        for name, config in net.members.items()
    ]
    faucet = next(each.address for each in members if each.name == net.faucet)
    found = Up(str(directory), str(directory / NETWORK_FILE), str(directory / FAUCET_KEY), faucet, members)
    if as_json:
        print_json(found)
    else:
        _show_up(found, net)


def _show_up(found: Up, net: Testnet) -> None:
    rows = [(each.name, ", ".join(each.roles), each.address, each.pid, each.socket) for each in found.nodes]
    stdout().print(table(("NAME", "ROLES", "ADDRESS", ">PID", "SOCKET"), rows), soft_wrap=True)
    where = "" if net.directory == DEFAULT_DIRECTORY.expanduser().absolute() else f" {net.directory}"
    lines = [
        "",
        f"network file  {found.network}",
        f"faucet        {found.faucet_key}, {found.faucet}",
        "",
        f"join it       flnode init DIR --network {found.network} --role worker",
        f"pay somebody  flnode testnet faucet ADDRESS \"5 flt\"{where}",
        f"see it        flnode testnet status{where}",
        f"end it        flnode testnet down{where}",
    ]
    click.echo("\n".join(lines))


@testnet.command()
@directory_argument
@json_option
def status(directory: Path, as_json: bool) -> None:
    """One line for each node: up, down or hanging, height, peers, balance, memory.

    \b
    flnode testnet status
    flnode testnet status /tmp/net --json | jq '.[] | select(.state != "up").name'
    """
    found = states(open_testnet(directory.expanduser().absolute()))
    if as_json:
        print_json(found)
        return
    rows = []
    for each in found:
        facts: tuple[object, ...] = ("", "", "", "", "")
        if (its := each.status) is not None:
            memory = mebibytes(its.memory.node_bytes + its.memory.learner_bytes)
            waits = its.waiting_for or ""
            facts = (its.finalised_head.number, its.peers, format_wei(its.balance_wei), memory, waits)
        rows.append((each.name, each.state, each.pid or "", *facts))
    columns = ("NAME", "STATE", ">PID", ">HEIGHT", ">PEERS", ">BALANCE", ">MEMORY", "WAITS FOR")
    stdout().print(table(columns, rows), soft_wrap=True)


@testnet.command()
@click.argument("address")
@click.argument("amount")
@directory_argument
@json_option
def faucet(address: str, amount: str, directory: Path, as_json: bool) -> None:
    """Pay AMOUNT to ADDRESS from the faucet account, so that a newcomer can work or post a job.

    \b
    flnode testnet faucet 0x52908400098527886E0F7030069857D2E4169EE7 "5 flt"
    """
    value = parse_amount(amount, "AMOUNT")
    net = open_testnet(directory.expanduser().absolute())
    socket = net.members[net.faucet].socket_path
    params = {"to": address, "value_wei": str(value), "wait_s": FINAL_WAIT_S}
    try:
        with Client(Endpoint(socket=socket)) as client:
            done = client.call("fl_send", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    except NodeError as error:
        raise NodeError(f"{net.faucet}, which owns the faucet account: {error}") from None
    report_transaction(done, f"{format_wei(value)} sent to {address}", as_json)


@testnet.command()
@directory_argument
@click.option("--remove", "remove_files", is_flag=True, help="Also remove the network's files: its chain and its keys.")
@json_option
def down(directory: Path, remove_files: bool, as_json: bool) -> None:
    """Stop all nodes of the network in DIR: exactly those, SIGTERM first, SIGKILL to one that hangs.

    \b
    flnode testnet down
    flnode testnet down /tmp/net --remove
    """
    net = open_testnet(directory.expanduser().absolute())
    ended = stop_nodes(net)
    left = remove(net) if remove_files else []
    if as_json:
        print_json({"directory": str(net.directory), "ended": ended, "removed": remove_files})
        return
    killed = [name for name, how in ended.items() if how == "killed"]
    text = f"{len(ended)} of {len(net.members)} nodes were running, and have been stopped"
    click.echo(text + (f" ({', '.join(killed)} had to be killed)" if killed else ""))
    if remove_files:
        kept = f", but not what is not of it: {', '.join(left)}" if left else ""
        click.echo(f"removed the network in {net.directory}{kept}")
    else:
        click.echo(f"its files are in {net.directory}; --remove removes them")
