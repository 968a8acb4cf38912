"""The demo's network: directories, keys and processes of seven ordinary nodes on loopback, and their end."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

import cli
from cli.client import Client, Endpoint
from cli.errors import NodeError
from cli.init import NodeKeys, create_node
from cli.signals import uninterrupted
from node.config import ENVIRONMENT_PREFIX, Config, LearnerConfig, MisbehaviourConfig, Role, WorkerConfig

Behaviour = Literal["honest", "copier", "lazy"]

STOP_S: Final = 3.0  # what a node may take to stop
LOG_LINES: Final = 15
BALANCE_WEI: Final = 1000 * 10**18
CHAIN_ID: Final = 474_747
# Below the range from which systems take the ports of outgoing connections, so that nothing else grabs ours
# between choosing and binding.
PORTS: Final = range(20_000, 30_000)
_PORT_ATTEMPTS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Member:
    """One node of the network as it is planned."""

    name: str
    roles: tuple[Role, ...]
    behaviour: Behaviour = "honest"

    @property
    def works(self) -> bool:
        return "worker" in self.roles

    @property
    def validates(self) -> bool:
        return "validator" in self.roles


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
class Node:
    """A member that has a directory."""

    member: Member
    address: str
    config: Config

    @property
    def log(self) -> Path:
        return self.config.directory / "log"


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


def create_nodes(root: Path, members: Sequence[Member], deposit_stakes: int) -> list[Node]:
    """Write each member's directory under `root`, all with one network file.

    Args:
        deposit_stakes: standing deposit of each worker, in stakes; enough for every round of the demo's job, so
            that even who forfeits in each of them stays in the draw.
    """
    keys = {member.name: NodeKeys.new() for member in members}
    validators = [member for member in members if member.validates]
    ports = dict(zip((member.name for member in validators), free_ports(len(validators)), strict=True))
    network = _network_text(validators, keys, ports)
    nodes = []
    for member in members:

        def adjust(config: Config, member: Member = member) -> Config:
            port = ports.get(member.name, 0)
            behaviour = "none" if member.behaviour == "honest" else member.behaviour
            return msgspec.structs.replace(
                config,
                p2p=msgspec.structs.replace(config.p2p, listen=f"/ip4/127.0.0.1/tcp/{port}"),
                worker=WorkerConfig(deposit_stakes=deposit_stakes),
                learner=LearnerConfig(threads=1, device="cpu"),
                misbehaviour=MisbehaviourConfig(behaviour=behaviour),
            )

        config = create_node(root / member.name, network, member.roles, keys[member.name], adjust)
        nodes.append(Node(member, keys[member.name].address, config))
    return nodes


@contextmanager
def running(nodes: Sequence[Node]) -> Iterator[list[Running]]:
    """Start every node as a process of its own; on the way out, whatever the reason, none of them is left."""
    started: list[Running] = []
    with ExitStack() as clients:
        try:
            for node in nodes:
                client = clients.enter_context(Client(Endpoint(socket=node.config.socket_path)))
                with uninterrupted():  # a process that is not in the list would be left behind
                    started.append(Running(node, spawn(node), client))
            yield started
        finally:
            with uninterrupted():
                stop([each.process for each in started])


def environment_of_nodes(environ: Mapping[str, str]) -> dict[str, str]:
    """The demo's nodes are configured by their files alone: what the user set for other nodes stays out."""
    environment = {
        name: value for name, value in environ.items() if not (name.startswith(ENVIRONMENT_PREFIX) and "__" in name)
    }
    packages = str(Path(cli.__file__).parent.parent)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (packages, environment.get("PYTHONPATH"))))
    environment["FLNODE_DEBUG"] = "1"  # if a node dies of a bug, its log shall say where
    return environment


def spawn(node: Node) -> subprocess.Popen[bytes]:
    """Start a node; its output goes to the end of its log."""
    with node.log.open("ab") as log:
        return subprocess.Popen(
            # -P: the working directory holds data directories named like our packages
            [sys.executable, "-P", "-m", "cli.main", "start", "--config", str(node.config.directory)],
            cwd=node.config.directory,
            env=environment_of_nodes(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the demo alone, and a node's whole group can be ended
        )


def stop(processes: Sequence[subprocess.Popen[bytes]], limit_s: float = STOP_S) -> None:
    """SIGTERM to all; after `limit_s` SIGKILL to the groups of those that are left."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + limit_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()
        _kill_group(process.pid)  # a learner that outlived its node, if any


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def free_ports(count: int) -> list[int]:
    """Distinct TCP ports of 127.0.0.1 that nobody listens on."""
    with ExitStack() as bound:
        ports: list[int] = []
        for port in random.sample(PORTS, _PORT_ATTEMPTS_MAX):
            probe = bound.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise NodeError(f"found no {count} free ports between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def last_lines(path: Path, count: int) -> list[str]:
    """The end of a log; a log that is missing or empty says so."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64 * 1024))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return lines[-count:] or ["(nothing)"]


def _network_text(validators: Sequence[Member], keys: dict[str, NodeKeys], ports: dict[str, int]) -> str:
    lines = [
        "# The network of `flnode demo`; misbehaviour is allowed here.",
        'name = "demo"',
        f"chain_id = {CHAIN_ID}",
        "development = true",
        f"timestamp = {int(time.time())}",
    ]
    for member in validators:
        own = keys[member.name]
        address = f"/ip4/127.0.0.1/tcp/{ports[member.name]}/p2p/{own.peer_id}"
        lines += ["", "[[validators]]", f'address = "{own.address}"', f'p2p = "{address}"']
    lines += ["", "[balances]", *(f'"{own.address}" = "{BALANCE_WEI}"' for own in keys.values())]
    return "\n".join(lines) + "\n"
