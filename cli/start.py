"""flnode start, flnode stop"""

from __future__ import annotations

from pathlib import Path

import click

from cli.client import Client
from cli.options import config_option, node_command
from cli.output import print_json
from node.api import schema


@click.command()
@config_option
def start(config: Path) -> int:
    """Run a node in the foreground until Ctrl-C or SIGTERM.

    \b
    flnode start --config ~/mynode
    FLNODE_LOG__LEVEL=debug flnode start --config ~/mynode
    """
    # Here and not above: the daemon's libraries take a second to import, and no other command needs them.
    from node.app import main

    return main(config)


@click.command()
@node_command
def stop(client: Client, as_json: bool) -> None:
    """Ask a running node to stop; it needs up to 3 seconds.

    \b
    flnode stop --config ~/mynode
    """
    stopping = client.call("fl_stop", schema.Stopping)
    if as_json:
        print_json(stopping)
    else:
        click.echo(f"node with process id {stopping.pid} is stopping")
