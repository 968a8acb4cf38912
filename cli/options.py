"""The options that commands share, and the way from them to a node's API."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from cli.client import Client, Endpoint
from node.config import load_config
from node.keys import read_secret

Command = Callable[..., Any]

config_option = click.option(
    "--config",
    "-c",
    type=click.Path(path_type=Path),
    default=".",
    envvar="FLNODE_CONFIG",
    show_default="the current directory",
    help="The node's directory, or its node.toml.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


def node_command(function: Command) -> Command:
    """Give a command the options that name a node, and call it with `client` in their place."""

    @config_option
    @click.option("--url", envvar="FLNODE_URL", help="Ask the node at this HTTP address instead of the Unix socket.")
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path),
        envvar="FLNODE_TOKEN_FILE",
        help="With --url: the node's api.token, for commands that change the node.",
    )
    @json_option
    @functools.wraps(function)
    def command(config: Path, url: str | None, token_file: Path | None, **arguments: Any) -> Any:
        with Client(endpoint(config, url, token_file)) as client:
            return function(client=client, **arguments)

    return command


def endpoint(config: Path, url: str | None, token_file: Path | None) -> Endpoint:
    """Where the options say that the API is."""
    if url is not None:
        return Endpoint(url=url, token=None if token_file is None else read_secret(token_file))
    found = load_config(config, os.environ)
    return Endpoint(socket=found.socket_path, directory=found.directory)
