"""flnode start, flnode stop"""

from __future__ import annotations

import os
from pathlib import Path

import click

from cli import pidfile
from cli.client import Client, NodeUnreachable
from cli.errors import NodeError, UserError
from cli.options import config_option, json_option, node_command
from cli.output import print_json
from cli.processes import LOG_NAME, Spawned, end, end_nodes, spawn, wait_up
from cli.signals import interruptible, uninterrupted
from node.api import schema
from node.config import Config, load_config

STOP_WAIT_S = 15.0  # a node needs up to 3 seconds, a busy machine somewhat longer


@click.command()
@config_option
@click.option("--detach", "-d", is_flag=True, help="Run in the background: return when the node answers.")
@json_option
def start(config: Path, detach: bool, as_json: bool) -> int:
    """Run a node until Ctrl-C or SIGTERM, or in the background with --detach.

    In the background its output goes to the end of DIR/log. One directory holds one node.

    \b
    flnode start --config ~/mynode
    flnode start --config ~/mynode --detach
    FLNODE_LOG__LEVEL=debug flnode start --config ~/mynode
    """
    node = load_config(config, os.environ)
    if detach:
        _detach(config.absolute(), node, as_json)
        return 0
    with pidfile.held(node.directory):
        # Here and not above: the daemon's libraries take a second to import, and no other command needs them.
        from node.app import main

        return main(config)


def _detach(file: Path, node: Config, as_json: bool) -> None:
    if pidfile.is_running(node.directory):
        raise UserError(pidfile.already_running(node.directory))
    started: list[Spawned] = []
    with interruptible():
        try:
            with uninterrupted():  # a process that is not in the list would be left behind
                started.append(spawn(node, os.environ, file))
            status = wait_up(started)[0]
        except KeyboardInterrupt:
            with uninterrupted():
                end([each.process for each in started])
            raise
    pid = started[0].process.pid
    log = node.directory / LOG_NAME
    if as_json:
        print_json({"pid": pid, "address": status.address, "socket": str(node.socket_path), "log": str(log)})
        return
    click.echo(f"the node in {node.directory} is up (process id {pid}), its log is {log}")
    click.echo(f"see how it is: flnode status --config {node.directory}")
    click.echo(f"stop it:       flnode stop --config {node.directory}")


@click.command()
@click.option("--kill", is_flag=True, help="Do not ask: SIGTERM, and SIGKILL to a node that hangs.")
@node_command
def stop(client: Client, kill: bool, as_json: bool) -> None:
    """Stop a running node, and wait until it is gone.

    \b
    flnode stop --config ~/mynode
    flnode stop --config ~/mynode --kill           a node that does not answer
    """
    directory = client.endpoint.directory
    if kill:
        _kill(directory, as_json)
        return
    try:
        stopping = client.call("fl_stop", schema.Stopping)
    except NodeUnreachable as error:
        if directory is not None and pidfile.is_running(directory):
            raise NodeError(f"{error}; `flnode stop --config {directory} --kill` ends it") from None
        raise
    if directory is not None and not pidfile.wait_gone(directory, STOP_WAIT_S):
        text = f"the node in {directory} (process id {stopping.pid}) is still there after {STOP_WAIT_S:.0f} s"
        raise NodeError(f"{text}; `flnode stop --config {directory} --kill` ends it")
    if as_json:
        print_json(stopping)
    elif directory is None:  # asked over HTTP: its process may be anywhere
        click.echo(f"the node at {client.endpoint} is stopping (process id {stopping.pid})")
    else:
        click.echo(f"the node in {directory} has stopped (process id {stopping.pid})")


def _kill(directory: Path | None, as_json: bool) -> None:
    if directory is None:
        raise UserError("--kill ends a process on this machine; name its directory with --config, not --url")
    ended = end_nodes([directory])
    if not ended:
        raise NodeError(f"no node is running in {directory}")
    if as_json:
        print_json({"directory": str(directory), "how": ended[0][1]})
    else:
        click.echo(f"the node in {directory} was {ended[0][1]}")
