"""The directories of the network that compose.yaml runs: the demo's members, which reach each other by service name.

    python -m cli.compose_network /network --owner 10001

It runs once, before the nodes, in a container that sees all their volumes; each node sees only its own.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec

from cli.demo_network import MEMBERS
from cli.errors import CommandError, UserError
from cli.init import NodeKeys, create_node
from cli.local_network import BALANCE_WEI, Member
from node.config import CONFIG_NAME, Config, ConfigError, MisbehaviourConfig, WorkerConfig

NETWORK_NAME: Final = "compose"
CHAIN_ID: Final = 474_748
PORT: Final = 9000
DEPOSIT_STAKES: Final = 80  # a forfeit in every round of the job leaves the copier and the lazy one in the draw


def create_compose_network(root: Path, members: Sequence[Member], timestamp: int) -> list[Path]:
    """Write ROOT/NAME for each member; each of them may be an empty volume already.

    Args:
        timestamp: of the genesis block, seconds since the epoch.
    Returns:
        The directories written; none if all of them hold a node.
    Raises:
        UserError: some of them hold a node and others do not; no file of those that do is changed.
    """
    there = [member.name for member in members if (root / member.name / CONFIG_NAME).exists()]
    if there and len(there) < len(members):
        raise UserError(f"{root} holds only a part of a network ({', '.join(there)}); remove all its volumes")
    if there:
        return []
    keys = {member.name: NodeKeys.new() for member in members}
    text = network_text(members, keys, timestamp)
    return [_create(root / member.name, member, keys[member.name], text) for member in members]


def network_text(members: Sequence[Member], keys: dict[str, NodeKeys], timestamp: int) -> str:
    """The network file: a member that validates is dialled at the service of its name."""
    lines = [
        "# The network of compose.yaml; misbehaviour is allowed here.",
        f'name = "{NETWORK_NAME}"',
        f"chain_id = {CHAIN_ID}",
        "development = true",
        f"timestamp = {timestamp}",
    ]
    for member in members:
        if member.validates:
            own = keys[member.name]
            address = f"/dns4/{member.name}/tcp/{PORT}/p2p/{own.peer_id}"
            lines += ["", "[[validators]]", f'address = "{own.address}"', f'p2p = "{address}"']
    lines += ["", "[balances]", *(f'"{own.address}" = "{BALANCE_WEI}" # {name}' for name, own in keys.items())]
    return "\n".join(lines) + "\n"


def _create(directory: Path, member: Member, keys: NodeKeys, network: str) -> Path:
    def adjust(config: Config) -> Config:
        behaviour = "none" if member.behaviour == "honest" else member.behaviour
        return msgspec.structs.replace(
            config,
            p2p=msgspec.structs.replace(config.p2p, listen=f"/ip4/0.0.0.0/tcp/{PORT}"),
            worker=WorkerConfig(deposit_stakes=DEPOSIT_STAKES),
            misbehaviour=MisbehaviourConfig(behaviour=behaviour),
        )

    return create_node(directory, network, member.roles, keys, adjust).directory


def give_to(owner: int, directory: Path) -> None:
    """Let a user, by id, have a directory and all that is in it."""
    for path in (directory, *directory.rglob("*")):
        os.chown(path, owner, -1)


@click.command()
@click.argument("root", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--owner", type=click.IntRange(min=0), required=True, help="The nodes' user id.")
def main(root: Path, owner: int) -> None:
    """Write DIR/NAME for every node of compose.yaml, unless they are there already."""
    try:
        created = create_compose_network(root, MEMBERS, int(time.time()))
    except (CommandError, ConfigError) as error:
        raise click.ClickException(str(error)) from None
    for directory in created:
        give_to(owner, directory)
    click.echo(f"{len(created)} nodes made in {root}" if created else f"the nodes in {root} are there already")


if __name__ == "__main__":
    main()
