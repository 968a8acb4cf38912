"""flnode init: a node's directory with keys, a commented config and the network file."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click
import msgspec

from cli.errors import UserError
from cli.output import print_json
from node.config import CONFIG_NAME, ROLES, Config, NodeConfig, Role, parse_config, render_config
from node.keys import account_address, load_account_key, mark_new_key, new_account_key, new_p2p_key, peer_id, write_key

NETWORKS: Final = Path(__file__).parent.parent / "configs" / "networks"
NETWORK_BYTES_MAX: Final = 4 << 20


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """A node's two secrets."""

    account: bytes
    p2p: bytes

    @classmethod
    def new(cls) -> NodeKeys:
        return cls(new_account_key(), new_p2p_key())

    @property
    def address(self) -> str:
        return "0x" + account_address(self.account).hex()

    @property
    def peer_id(self) -> str:
        return peer_id(self.p2p)


@click.command()
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--network", required=True, metavar="FILE|NAME", help="The network file, or the name of a built-in one.")
@click.option(
    "--role", "roles", default="observer", show_default=True, metavar="ROLE[,ROLE]", help=f"Any of {', '.join(ROLES)}."
)
@click.option(
    "--account-key",
    type=click.Path(path_type=Path),
    help="Copy this key file instead of making a new key, for example that of a validator in the network file.",
)
@click.option(
    "--dev-key",
    type=click.IntRange(0, 9),
    help="Use this public key of a development network; everybody knows it.",
)
@click.option("--listen", metavar="MULTIADDR", help="Where peers reach this node, such as /ip4/0.0.0.0/tcp/9000.")
@click.option("--http", metavar="HOST:PORT", help="Also serve the API over HTTP, such as 127.0.0.1:8645.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def init(
    directory: Path,
    network: str,
    roles: str,
    account_key: Path | None,
    dev_key: int | None,
    listen: str | None,
    http: str | None,
    as_json: bool,
) -> None:
    """Make a node in DIR: new keys, a config with every key commented, and the network file.

    \b
    flnode init ~/mynode --network friends.toml --role worker
    flnode init ~/one --network dev --dev-key 0 --role validator,worker,learning_server
    flnode init ~/server --network friends.toml --role learning_server --http 127.0.0.1:8645
    """
    chosen = parse_roles(roles)
    text = read_network(network)
    keys = NodeKeys(_account_key(account_key, dev_key, text), new_p2p_key())

    def adjust(config: Config) -> Config:
        p2p = config.p2p if listen is None else msgspec.structs.replace(config.p2p, listen=listen)
        api = config.api if http is None else msgspec.structs.replace(config.api, http_listen=http)
        return msgspec.structs.replace(config, p2p=p2p, api=api)

    config = create_node(directory, text, chosen, keys, adjust, has_voted=account_key is not None)
    if as_json:
        print_json({"directory": str(config.directory), "address": keys.address, "peer_id": keys.peer_id})
        return
    click.echo(f"{config.directory}: a node with the roles {', '.join(chosen)}")
    click.echo(f"  account  {keys.address}")
    click.echo(f"  peer id  {keys.peer_id}")
    click.echo(f"start it with: flnode start --config {directory}")


def dev_account_key(number: int) -> bytes:
    """The public secret keys of development networks; configs/networks/dev.toml endows the first ten."""
    return hashlib.sha256(f"flnode dev key {number}".encode()).digest()


def _account_key(file: Path | None, number: int | None, network_text: str) -> bytes:
    if number is None:
        return load_account_key(file) if file is not None else new_account_key()
    if file is not None:
        raise UserError("give --account-key or --dev-key, not both")
    if tomllib.loads(network_text).get("development") is not True:
        raise UserError("--dev-key is for networks marked `development = true`: everybody knows these keys")
    return dev_account_key(number)


def create_node(
    directory: Path,
    network_text: str,
    roles: tuple[Role, ...],
    keys: NodeKeys,
    adjust: Callable[[Config], Config] = lambda config: config,
    has_voted: bool = False,
) -> Config:
    """Write a node's directory.

    Args:
        directory: made if missing; must not hold a node yet.
        network_text: the network file, copied into the directory.
        adjust: changes the default config before it is written.
        has_voted: the account key is not new: some validator may have voted with it before.
    Raises:
        UserError, ConfigError: nothing of an existing node is ever overwritten.
    """
    directory = directory.absolute()
    path = directory / CONFIG_NAME
    try:
        occupied = path.exists()
    except OSError as error:  # such as a name that is too long
        raise UserError(f"cannot use {directory}: {error.strerror}") from None
    if occupied:
        raise UserError(f"{directory} already holds a node; choose another directory")
    try:
        config = adjust(Config(directory=directory, node=NodeConfig(roles=roles)))
    except ValueError as error:  # a section's own check
        raise UserError(str(error)) from None
    text = render_config(config)
    parse_config(text, path, {})  # what start will check, before anything is written
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_key(config.account_key_path, keys.account)
        write_key(config.p2p_key_path, keys.p2p)
        config.network_path.write_text(network_text, encoding="utf-8")
        path.write_text(text, encoding="utf-8")
        if not has_voted:
            mark_new_key(config.chain_path)
    except OSError as error:
        raise UserError(f"cannot write {error.filename or directory}: {error.strerror}") from None
    return config


def parse_roles(text: str) -> tuple[Role, ...]:
    """ "validator,worker" -> roles; dashes are as good as underscores."""
    known: dict[str, Role] = {role: role for role in ROLES}
    names = [name.strip().lower().replace("-", "_") for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise UserError(f"unknown role {name!r} (known: {', '.join(ROLES)})")
    if not names:
        raise UserError(f"--role is empty (known: {', '.join(ROLES)})")
    return tuple(known[name] for name in dict.fromkeys(names))


def read_network(name: str) -> str:
    """The text of a network file, by path or by the name of a built-in one."""
    path = Path(name)
    if not path.is_file() and (NETWORKS / f"{name}.toml").exists():
        path = NETWORKS / f"{name}.toml"
    try:
        if path.is_file() and path.stat().st_size > NETWORK_BYTES_MAX:
            raise UserError(f"{path} is larger than {NETWORK_BYTES_MAX} bytes; is it a network file?")
        text = path.read_text(encoding="utf-8")
        found = tomllib.loads(text)
    except FileNotFoundError:
        known = ", ".join(sorted(each.stem for each in NETWORKS.glob("*.toml")))
        raise UserError(f"no network file at {name}, and no built-in network of that name (known: {known})") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the network file {path}: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"the network file {path} is not valid TOML: {error}") from None
    for key in ("name", "chain_id", "validators"):
        if key not in found:
            raise UserError(f"{path} is not a network file: it has no `{key}`")
    return text
