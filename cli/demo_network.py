"""The demo's network: seven ordinary nodes on loopback for as long as the demo runs."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from cli.client import Client, Endpoint
from cli.errors import NodeError
from cli.local_network import BALANCE_WEI, Member, Node
from cli.processes import end, file_environment, last_lines, spawn
from cli.signals import uninterrupted

__all__ = ["BALANCE_WEI", "MEMBERS", "Member", "Running", "running", "spawn_node"]  # the plan, also for containers

LOG_LINES: Final = 15

MEMBERS: Final = (
    Member("validator-1", ("validator", "worker")),
    Member("validator-2", ("validator", "worker")),
    Member("validator-3", ("validator", "worker")),
    Member("validator-4", ("validator",)),
    Member("copier", ("worker",), "copier"),
    Member("lazy", ("worker",), "lazy"),
    Member("server", ("learning_server",)),
)


@dataclass(frozen=True, slots=True)
class Running:
    """A node with its process and a client of its API."""

    node: Node
    process: subprocess.Popen[bytes]
    client: Client

    def check(self) -> None:
        """Raises NodeError, with the end of the log, if the node has died."""
        code = self.process.poll()
        if code is not None:
            how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
            lines = "\n".join(f"  {line}" for line in last_lines(self.node.log, LOG_LINES))
            raise NodeError(f"node {self.node.member.name} died ({how}); the end of {self.node.log}:\n{lines}")


@contextmanager
def running(nodes: Sequence[Node]) -> Iterator[list[Running]]:
    """Start every node as a process of its own; on the way out, whatever the reason, none of them is left."""
    started: list[Running] = []
    with ExitStack() as clients:
        try:
            for node in nodes:
                client = clients.enter_context(Client(Endpoint(socket=node.config.socket_path)))
                with uninterrupted():  # a process that is not in the list would be left behind
                    started.append(Running(node, spawn_node(node), client))
            yield started
        finally:
            with uninterrupted():
                end([each.process for each in started])


def spawn_node(node: Node) -> subprocess.Popen[bytes]:
    """Start a node that is configured by its files alone."""
    return spawn(node.config, file_environment(os.environ)).process
