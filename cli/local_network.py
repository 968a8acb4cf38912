"""A network of ordinary nodes on this machine as it is planned and written down: keys, ports, directories."""

from __future__ import annotations

import ipaddress
import random
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from cli.errors import NodeError
from cli.init import NodeKeys, create_node
from cli.processes import LOG_NAME
from node.config import Config, LearnerConfig, MisbehaviourConfig, Role, WorkerConfig

Behaviour = Literal["honest", "copier", "lazy"]

LOOPBACK: Final = "127.0.0.1"
BALANCE_WEI: Final = 1000 * 10**18
FAUCET_WEI: Final = 10**18  # some three billion grants
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


@dataclass(frozen=True, slots=True)
class Node:
    """A member that has a directory."""

    member: Member
    address: str
    config: Config

    @property
    def log(self) -> Path:
        return self.config.directory / LOG_NAME


@dataclass(frozen=True, slots=True)
class Plan:
    """What a network shall be.

    Attributes:
        deposit_stakes: standing deposit of each worker in each job, in stakes.
        host: the address that all nodes listen on.
        keys: by member; new ones for who is not there.
        balances_wei: what members begin with, by name; BALANCE_WEI for who is not there.
        adjust: a last change of a member's configuration.
        joining: whether newcomers without coins get fees from the faucet and may have sponsors.
    """

    name: str
    members: Sequence[Member]
    deposit_stakes: int
    host: str = LOOPBACK
    keys: Mapping[str, NodeKeys] | None = None
    balances_wei: Mapping[str, int] | None = None
    adjust: Callable[[Config, Member], Config] = lambda config, member: config
    joining: bool = True


def create_nodes(root: Path, plan: Plan) -> list[Node]:
    """Write each member's directory under `root`, all with one network file."""
    given = plan.keys or {}
    keys = {member.name: given.get(member.name) or NodeKeys.new() for member in plan.members}
    validators = [member for member in plan.members if member.validates]
    numbers = free_ports(len(validators), plan.host)
    ports = {member.name: port for member, port in zip(validators, numbers, strict=True)}
    network = _network_text(plan, keys, ports)
    nodes = []
    for member in plan.members:

        def adjust(config: Config, member: Member = member) -> Config:
            behaviour = "none" if member.behaviour == "honest" else member.behaviour
            return plan.adjust(
                msgspec.structs.replace(
                    config,
                    p2p=msgspec.structs.replace(config.p2p, listen=_listen(plan.host, ports.get(member.name, 0))),
                    worker=WorkerConfig(deposit_stakes=plan.deposit_stakes),
                    learner=LearnerConfig(threads=1, device="cpu", sandbox="try"),  # it trains our own jobs
                    misbehaviour=MisbehaviourConfig(behaviour=behaviour),
                ),
                member,
            )

        config = create_node(root / member.name, network, member.roles, keys[member.name], adjust)
        nodes.append(Node(member, keys[member.name].address, config))
    return nodes


def free_ports(count: int, host: str = LOOPBACK) -> list[int]:
    """Distinct TCP ports of `host` that nobody listens on. Raises NodeError; `host` must be an IP address."""
    family = socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    with ExitStack() as bound:
        ports: list[int] = []
        for port in random.sample(PORTS, _PORT_ATTEMPTS_MAX):
            probe = bound.enter_context(socket.socket(family, socket.SOCK_STREAM))
            try:
                probe.bind((host, port))
            except OSError:
                continue
            ports.append(port)
            if len(ports) == count:
                return ports
    raise NodeError(f"found no {count} free ports between {PORTS.start} and {PORTS.stop} on {host}")


def _listen(host: str, port: int) -> str:
    return f"/ip{ipaddress.ip_address(host).version}/{host}/tcp/{port}"


def _network_text(plan: Plan, keys: Mapping[str, NodeKeys], ports: Mapping[str, int]) -> str:
    lines = [
        f"# A network made by `flnode {plan.name}`; its coins are worth nothing, and misbehaviour is allowed here.",
        f'name = "{plan.name}"',
        f"chain_id = {CHAIN_ID}",
        "development = true",
        f"timestamp = {int(time.time())}",
    ]
    for name, port in ports.items():
        own = keys[name]
        lines += ["", "[[validators]]", f'address = "{own.address}"']
        lines.append(f'p2p = "{_listen(plan.host, port)}/p2p/{own.peer_id}"')
    if plan.joining:
        lines += ["", "[joining]", "sponsors = true", "faucet = true", f'faucet_wei = "{FAUCET_WEI}"']
    balances = plan.balances_wei or {}
    lines += ["", "[balances]"]
    lines += [f'"{own.address}" = "{balances.get(name, BALANCE_WEI)}"' for name, own in keys.items()]
    return "\n".join(lines) + "\n"
