"""A testnet's directory and processes.

    DIR/testnet.json    the names of its nodes; written first, so that whatever follows can be removed again
    DIR/NAME/           one directory for each node
    DIR/faucet.key      the account key of server-1
    DIR/network.toml    for those who join; written last, so that without it the network is not complete
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import msgspec

from cli import pidfile
from cli.errors import NodeError, UserError
from cli.init import NodeKeys
from cli.local_network import LOOPBACK, Member, Plan, create_nodes
from cli.processes import (
    LOG_NAME,
    START_LIMIT_S,
    START_POLL_S,
    end,
    end_nodes,
    file_environment,
    spawn,
    status_of,
    wait_up,
)
from cli.signals import interruptible, uninterrupted
from node.api import schema
from node.config import Config, Role, load_config

MARKER: Final = "testnet.json"
NETWORK_FILE: Final = "network.toml"
FAUCET_KEY: Final = "faucet.key"
FAUCET_MEMBER: Final = "server-1"
FAUCET_WEI: Final = 1_000_000 * 10**18
DEPOSIT_STAKES: Final = 16

_ROLES: Final[Mapping[str, Role]] = {"validator": "validator", "worker": "worker", "server": "learning_server"}

State = Literal["up", "down", "hangs"]


@dataclass(frozen=True, slots=True)
class Size:
    """What `up` was asked for; None where it was not said."""

    nodes: int | None
    workers: int | None
    servers: int | None
    host: str | None
    seed: int | None


class _Marker(msgspec.Struct, frozen=True):
    """DIR/testnet.json."""

    nodes: int
    workers: int
    servers: int
    host: str
    seed: int | None

    @property
    def names(self) -> list[str]:
        counts = zip(_ROLES, (self.nodes, self.workers, self.servers), strict=True)
        return [f"{kind}-{number}" for kind, count in counts for number in range(1, count + 1)]


@dataclass(frozen=True, slots=True)
class Testnet:
    """A testnet that is there; `members` by name is empty when it is not complete."""

    directory: Path
    marker: _Marker
    members: Mapping[str, Config]

    __test__ = False  # it is named Test..., but is none of pytest's

    @property
    def faucet(self) -> str:
        """The node whose account the faucet is."""
        return FAUCET_MEMBER

    def require(self, wanted: Size) -> None:
        """Raises UserError where the user asked for another network than this one."""
        names = {"nodes": "--nodes", "workers": "--workers", "servers": "--servers", "host": "--host", "seed": "--seed"}
        for field, option in names.items():
            asked, has = getattr(wanted, field), getattr(self.marker, field)
            if asked is not None and asked != has:
                raise UserError(
                    f"{self.directory} holds a testnet made with {option} {has}, not {asked}; leave {option} out, "
                    f"choose another DIR, or `flnode testnet down {self.directory} --remove` first"
                )


class NodeState(msgspec.Struct, frozen=True):
    """One node of a testnet, as `testnet status --json` prints it."""

    name: str
    state: State
    pid: int | None
    status: schema.Status | None


def exists(directory: Path) -> bool:
    """Whether there is a testnet, complete or not. Raises UserError if something else is there."""
    if (directory / MARKER).exists():
        return True
    try:
        if directory.exists() and any(directory.iterdir()):
            raise UserError(f"{directory} is not empty and holds no testnet; choose another DIR")
    except OSError as error:
        raise UserError(f"cannot use {directory}: {error.strerror}") from None
    return False


def open_testnet(directory: Path) -> Testnet:
    """The testnet in `directory`. Raises UserError if there is none."""
    path = directory / MARKER
    try:
        marker = msgspec.json.decode(path.read_bytes(), type=_Marker)
    except FileNotFoundError:
        raise UserError(f"there is no testnet in {directory}; `flnode testnet up {directory}` makes one") from None
    except (OSError, msgspec.DecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from None
    if not (directory / NETWORK_FILE).exists():
        return Testnet(directory, marker, {})
    return Testnet(directory, marker, {name: load_config(directory / name, {}) for name in marker.names})


def create(directory: Path, wanted: Size) -> Testnet:
    """Write a new testnet; nothing is started."""
    marker = _Marker(
        4 if wanted.nodes is None else wanted.nodes,
        3 if wanted.workers is None else wanted.workers,
        1 if wanted.servers is None else wanted.servers,
        wanted.host or LOOPBACK,
        wanted.seed,
    )
    try:
        ipaddress.ip_address(marker.host)
    except ValueError:
        raise UserError(f"--host: {marker.host!r} is not an IP address") from None
    members = [_member(name) for name in marker.names]
    plan = Plan(
        "testnet",
        members,
        DEPOSIT_STAKES,
        host=marker.host,
        keys={name: _keys(wanted.seed, name) for name in marker.names},
        balances_wei={FAUCET_MEMBER: FAUCET_WEI},
        adjust=_with_faucet_key,
    )
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (directory / MARKER).write_bytes(msgspec.json.encode(marker))
        nodes = create_nodes(directory, plan)
        (directory / NETWORK_FILE).write_bytes(nodes[0].config.network_path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    return open_testnet(directory)


def start_nodes(net: Testnet) -> dict[str, schema.Status]:
    """Start those that do not run, and wait until all reach every validator; their status by name.

    Raises:
        UserError, NodeError: one does not come up. Those that were started here have been stopped again.
    """
    if not net.members:
        raise UserError(
            f"the testnet in {net.directory} is not complete; `flnode testnet down {net.directory} --remove` first"
        )
    environment = file_environment(os.environ)
    with interruptible():
        started = []
        try:
            for config in net.members.values():
                if not pidfile.is_running(config.directory):
                    with uninterrupted():  # a process that is not in the list would be left behind
                        started.append(spawn(config, environment))
            wait_up(started)
            return _wait_connected(net)
        except BaseException:
            with uninterrupted():
                end([each.process for each in started])
            raise


def _wait_connected(net: Testnet) -> dict[str, schema.Status]:
    deadline = time.monotonic() + START_LIMIT_S
    while True:
        found: dict[str, schema.Status] = {}
        for each in states(net):
            if each.status is None:
                where = net.members[each.name].directory
                if each.state == "hangs":
                    raise NodeError(f"{each.name} does not answer; `flnode stop --config {where} --kill` ends it")
                raise NodeError(f"{each.name} has ended; its log is {where / LOG_NAME}")
            found[each.name] = each.status
        apart = [name for name, its in found.items() if its.validators_connected < its.validators]
        if not apart:
            return found
        if time.monotonic() > deadline:
            text = f"{', '.join(apart)} did not reach all validators within {START_LIMIT_S:.0f} s"
            raise NodeError(f"{text}; see {net.directory}/*/{LOG_NAME}")
        time.sleep(START_POLL_S)


def states(net: Testnet) -> list[NodeState]:
    """How each node is, asked of all at once."""

    def look(item: tuple[str, Config]) -> NodeState:
        name, config = item
        pid = pidfile.running_pid(config.directory)
        if pid is None:
            return NodeState(name, "down", None, None)
        status = status_of(config)
        return NodeState(name, "hangs" if status is None else "up", pid, status)

    with ThreadPoolExecutor(max(1, len(net.members))) as pool:
        return list(pool.map(look, net.members.items()))


def stop_nodes(net: Testnet) -> dict[str, str]:
    """End the nodes that run; "stopped" or "killed" by name."""
    names = net.members or net.marker.names
    return {path.name: how for path, how in end_nodes(net.directory / name for name in names)}


def remove(net: Testnet) -> list[str]:
    """Remove the network's files; the names of what is left because it is not of the network."""
    try:
        for name in net.marker.names:
            if (net.directory / name).exists():
                shutil.rmtree(net.directory / name)
        for name in (FAUCET_KEY, NETWORK_FILE, MARKER):  # the marker last: what is interrupted can be done again
            (net.directory / name).unlink(missing_ok=True)
        left = sorted(path.name for path in net.directory.iterdir())
        if not left:
            net.directory.rmdir()
    except OSError as error:
        raise NodeError(f"cannot remove {error.filename}: {error.strerror}") from None
    return left


def _member(name: str) -> Member:
    return Member(name, (_ROLES[name.partition("-")[0]],))


def _keys(seed: int | None, name: str) -> NodeKeys:
    if seed is None:
        return NodeKeys.new()

    def key(kind: str) -> bytes:
        return hashlib.sha256(f"flnode testnet {seed} {name} {kind}".encode()).digest()

    return NodeKeys(account=key("account"), p2p=key("p2p"))


def _with_faucet_key(config: Config, member: Member) -> Config:
    if member.name != FAUCET_MEMBER:
        return config
    return msgspec.structs.replace(config, node=msgspec.structs.replace(config.node, account_key=f"../{FAUCET_KEY}"))
