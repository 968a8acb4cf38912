"""One TOML file (and the environment) -> one frozen, validated `Config`; whatever it does not understand it refuses.

Every key is a field of a section below, with its meaning in the field's `Meta`: `render_config` writes the commented
file of `flnode init` from it, so file, documentation and code cannot differ. Precedence: environment variable
FLNODE_SECTION__KEY, then the file, then the default. Paths in the file are relative to the file's directory.
"""

from __future__ import annotations

import difflib
import ipaddress
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

import msgspec
from msgspec import Meta

from node.p2p.config import P2PConfig
from node.roles.config import AuditConfig

Role = Literal["validator", "worker", "learning_server", "observer"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)
CONFIG_NAME: Final = "node.toml"
ENVIRONMENT_PREFIX: Final = "FLNODE_"
SOCKET_PATH_BYTES_MAX: Final = 107  # sun_path of Linux, less its terminating zero
_CONFIG_BYTES_MAX: Final = 1 << 20
_LINE_WIDTH: Final = 110


class ConfigError(Exception):
    """The operator's file or environment is wrong; the message names the key and the file and fits one line."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of the sections: immutable, no unknown keys."""


class NodeConfig(_Section, frozen=True):
    """What this node is, and where its files are."""

    roles: Annotated[
        tuple[Role, ...],
        Meta(description="Any mix of validator, worker, learning_server, observer. An observer only follows."),
    ] = ("observer",)
    network: Annotated[str, Meta(description="The network file: equal on all nodes of one network.")] = "network.toml"
    account_key: Annotated[
        str, Meta(description="The secp256k1 key that signs transactions and votes (hex, mode 0600).")
    ] = "keys/account.key"
    p2p_key: Annotated[str, Meta(description="The Ed25519 seed that the peer id comes from (hex, mode 0600).")] = (
        "keys/p2p.key"
    )
    chain: Annotated[str, Meta(description="Directory of the chain database.")] = "chain"
    blobs: Annotated[str, Meta(description="Directory of the blob store (datasets, models, updates).")] = "blobs"
    learner: Annotated[str, Meta(description="Directory that the trainer may write to; emptied at every start.")] = (
        "learner"
    )
    checkpoint: Annotated[
        str,
        Meta(
            pattern=r"^(|[0-9]{1,15}:0x[0-9a-fA-F]{64})$",
            description="A block that you know to be final, as NUMBER:0xDIGEST: `flnode status` of a node that you "
            "trust shows one. A new node takes only history that leads there; empty = it trusts the first validators.",
        ),
    ] = ""
    chain_bytes_max: Annotated[int, Meta(ge=1 << 24, description="Largest size of the chain database, in bytes.")] = (
        16 << 30
    )
    blobs_bytes_max: Annotated[int, Meta(ge=1 << 20, description="Largest size of the blob store, in bytes.")] = 8 << 30


class ApiConfig(_Section, frozen=True):
    """The JSON-RPC API. The Unix socket is always there; HTTP is off unless given an address."""

    http_listen: Annotated[
        str, Meta(description='Loopback address for HTTP clients, such as "127.0.0.1:8645"; empty = off.')
    ] = ""
    socket: Annotated[str, Meta(description="Unix socket that the command line uses (mode 0600).")] = "api.sock"
    token: Annotated[
        str, Meta(description="File with the bearer token that lets HTTP clients change the node (mode 0600).")
    ] = "api.token"
    body_bytes_max: Annotated[int, Meta(ge=1 << 10, description="Largest request body, in bytes.")] = 4 << 20
    batch_max: Annotated[int, Meta(ge=1, description="Most calls in one batch request.")] = 100
    logs_max: Annotated[int, Meta(ge=1, description="Most logs that one eth_getLogs returns.")] = 10_000


class WorkerConfig(_Section, frozen=True):
    """Training for pay. Used only with the role worker."""

    enrol: Annotated[bool, Meta(description="Enrol in every open job that this machine can train.")] = True
    deposit_stakes: Annotated[
        int, Meta(ge=1, le=1000, description="Standing deposit in a job, as a multiple of the job's stake per slot.")
    ] = 16
    deposit_gwei_max: Annotated[
        int, Meta(ge=0, description="Most to deposit in one job, in gwei (1 flt = 1,000,000,000 gwei).")
    ] = 1000 * 10**9


class LearnerConfig(_Section, frozen=True):
    """The trainer's subprocess, which workers and learning servers use."""

    threads: Annotated[int, Meta(ge=1, le=256, description="Threads for training.")] = 1
    device: Annotated[str, Meta(pattern=r"^(auto|cpu|cuda:\d+)$", description="auto, cpu or cuda:N.")] = "auto"
    backend: Annotated[
        Literal["auto", "f64", "f32", "int8"],
        Meta(description="How integers are multiplied; auto measures. Same results, other speed."),
    ] = "auto"
    memory_max_mb: Annotated[int, Meta(ge=256, description="Private memory, in MB; larger jobs are declined.")] = 2048
    sandbox: Annotated[
        Literal["require", "try", "off"],
        Meta(description="Walls around the process: require refuses to train without all of them, try reports."),
    ] = "require"
    start_timeout_s: Annotated[float, Meta(gt=0, description="For its imports and self-check.")] = 120.0
    job_timeout_s: Annotated[float, Meta(gt=0, description="For one round; slower jobs are declined.")] = 3600.0


class LogConfig(_Section, frozen=True):
    """What the node writes to stderr."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error.")
    ] = "info"
    format: Annotated[
        Literal["console", "json"], Meta(description="console for people, json for machines: one object a line.")
    ] = "console"


class MisbehaviourConfig(_Section, frozen=True):
    """Wrong behaviour on purpose, for demos and tests. Refused unless the network file says `development = true`."""

    behaviour: Annotated[
        Literal["none", "copier", "lazy"],
        Meta(description="none, copier (passes others' results off as its own) or lazy (does not train)."),
    ] = "none"


class Config(msgspec.Struct, frozen=True):
    """A node's whole configuration. `directory` (absolute) is where the file lies; relative paths start there."""

    directory: Path
    node: NodeConfig = NodeConfig()
    p2p: P2PConfig = P2PConfig()
    api: ApiConfig = ApiConfig()
    worker: WorkerConfig = WorkerConfig()
    audit: AuditConfig = AuditConfig()
    learner: LearnerConfig = LearnerConfig()
    log: LogConfig = LogConfig()
    misbehaviour: MisbehaviourConfig = MisbehaviourConfig()

    @property
    def file(self) -> Path:
        """Where `flnode init` puts the config file; for messages."""
        return self.directory / CONFIG_NAME

    @property
    def network_path(self) -> Path:
        return self.directory / self.node.network

    @property
    def account_key_path(self) -> Path:
        return self.directory / self.node.account_key

    @property
    def p2p_key_path(self) -> Path:
        return self.directory / self.node.p2p_key

    @property
    def chain_path(self) -> Path:
        return self.directory / self.node.chain

    @property
    def blobs_path(self) -> Path:
        return self.directory / self.node.blobs

    @property
    def learner_path(self) -> Path:
        return self.directory / self.node.learner

    @property
    def socket_path(self) -> Path:
        return self.directory / self.api.socket

    @property
    def token_path(self) -> Path:
        return self.directory / self.api.token

    def has_role(self, role: Role) -> bool:
        return role in self.node.roles

    @property
    def needs_learner(self) -> bool:
        """Whether any role of this node trains or scores."""
        audits = self.has_role("validator") and self.audit.recompute
        return audits or self.has_role("worker") or self.has_role("learning_server")


SECTIONS: Final[Mapping[str, type[msgspec.Struct]]] = {
    field.name: field.type for field in msgspec.structs.fields(Config) if field.name != "directory"
}


def load_config(path: Path, environ: Mapping[str, str]) -> Config:
    """Read and validate the node's file.

    Args:
        path: the TOML file, or the directory that holds a `node.toml`.
        environ: the process environment; only names like FLNODE_P2P__LISTEN matter.
    Raises:
        ConfigError: one line that names the file, the key and what was expected.
    """
    path = path / CONFIG_NAME if path.is_dir() else path
    try:
        if path.stat().st_size > _CONFIG_BYTES_MAX:
            raise ConfigError(f"{path} is larger than {_CONFIG_BYTES_MAX} bytes; is it a config file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"no config file at {path}; `flnode init DIR` makes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    return parse_config(text, path.absolute(), environ)


def parse_config(text: str, path: Path, environ: Mapping[str, str]) -> Config:
    """As `load_config`, from the file's text; `path` gives the directory and is named in errors."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    found: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"key `{name}` stands outside any section in {path}")
        if name not in SECTIONS:
            raise ConfigError(f"unknown section [{name}] in {path}{_suggest(name, SECTIONS, '[{}]')}")
        fields = _fields(SECTIONS[name])
        for key, value in table.items():
            if key not in fields:
                raise ConfigError(f"unknown key `{key}` in [{name}] of {path}{_suggest(key, fields)}")
            found[name][key] = _convert(value, fields[key].type, f"`{key}` in [{name}] of {path}")
    for name, key, value in _from_environment(environ):
        found[name][key] = value
    sections: dict[str, Any] = {name: _section(name, kind, found[name], path) for name, kind in SECTIONS.items()}
    config = Config(directory=path.parent, **sections)
    _check(config, path)
    return config


def require_development(config: Config, network_name: str, development: bool) -> None:
    """Refuse a configured misbehaviour on a network that is not marked for development."""
    if config.misbehaviour.behaviour != "none" and not development:
        raise ConfigError(
            f"`behaviour` in [misbehaviour] is {config.misbehaviour.behaviour!r}, but network {network_name!r} "
            "is not marked `development = true`"
        )


def parse_listen(text: str) -> tuple[str, int]:
    """ "127.0.0.1:8645" or "[::1]:8645" -> (host, port). Raises ValueError unless it is a loopback address."""
    host, colon, port = text.rpartition(":")
    address = ipaddress.ip_address(host.strip("[]"))
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError("the port is missing or not a number up to 65535")
    if not address.is_loopback:
        raise ValueError(f"{address} is not a loopback address")
    return str(address), int(port)


def render_config(config: Config) -> str:
    """The commented TOML text of `config`: every section and every key, each with its meaning."""
    lines = ["# flnode: this node's configuration. Every key may also be given as an environment variable,",
             "# FLNODE_SECTION__KEY; for example FLNODE_LOG__LEVEL=debug.", ""]  # fmt: skip
    for name, kind in SECTIONS.items():
        section = getattr(config, name)
        purpose = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        lines += [f"# {line}" for line in _wrap(purpose)]
        lines.append(f"[{name}]")
        for key, field in _fields(kind).items():
            lines += [f"# {line}" for line in _wrap(_description(field.type))]
            lines.append(f"{key} = {_toml(getattr(section, key))}")
        lines.append("")
    return "\n".join(lines)


def _check(config: Config, path: Path) -> None:
    """The rules that one key's type cannot say."""
    if not config.node.roles:
        raise ConfigError(f'`roles` in [node] of {path} is empty; use ["observer"] for a node that only follows')
    if config.api.http_listen:
        try:
            parse_listen(config.api.http_listen)
        except ValueError as error:
            raise ConfigError(f"`http_listen` in [api] of {path}: {error}; write it like 127.0.0.1:8645") from None
    if len(str(config.socket_path).encode()) > SOCKET_PATH_BYTES_MAX:
        raise ConfigError(
            f"`socket` in [api] of {path}: {config.socket_path} is longer than {SOCKET_PATH_BYTES_MAX} bytes, "
            "which the system cannot bind; give a shorter absolute path"
        )


def _section(name: str, kind: type[msgspec.Struct], values: dict[str, Any], path: Path) -> msgspec.Struct:
    try:
        return kind(**values)
    except ValueError as error:  # rules that span keys, from the section's __post_init__
        raise ConfigError(f"[{name}] of {path}: {error}") from None


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, str, Any]]:
    """(section, key, value) of every FLNODE_SECTION__KEY variable; other FLNODE_ names are not ours to judge."""
    found = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or "__" not in variable:
            continue
        name, _, key = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if name not in SECTIONS or key not in (fields := _fields(SECTIONS[name])):
            known = [_variable(section, each) for section, kind in SECTIONS.items() for each in _fields(kind)]
            raise ConfigError(f"unknown environment variable {variable}{_suggest(variable, known)}")
        kind = fields[key].type
        where = f"environment variable {variable}"
        found.append((name, key, _convert(_environment_value(text, kind, where), kind, where)))
    return found


def _variable(section: str, key: str) -> str:
    return f"{ENVIRONMENT_PREFIX}{section.upper()}__{key.upper()}"


def _environment_value(text: str, kind: Any, where: str) -> object:
    """Strings stand as they are, lists may be written a,b; all else is read as a TOML value."""
    plain = _plain(kind)
    if plain is str or get_origin(plain) is Literal:
        return text
    if get_origin(plain) in (tuple, list) and not text.lstrip().startswith("["):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        raise ConfigError(f"{where}: {text!r} is not a TOML value") from None


def _convert(value: object, kind: Any, where: str) -> object:
    plain = _plain(kind)
    item = get_args(plain)[0] if get_origin(plain) is tuple else plain
    if get_origin(item) is Literal:
        for each in value if plain is not item and isinstance(value, list) else [value]:
            if each not in get_args(item):
                raise ConfigError(f"{where}: {each!r} is none of {', '.join(map(str, get_args(item)))}")
    if plain is float and type(value) is int:  # a person writes `1` for 1.0
        value = float(value)
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if "regex" in message:  # the description says it in words
            raise ConfigError(f"{where}: {value!r} is wrong; use {_description(kind)}") from None
        message = (message[:1].lower() + message[1:]).replace("`", "").replace(" - at $", " at $")
        raise ConfigError(f"{where}: {message} (the value is {value!r})") from None


def _fields(kind: type[msgspec.Struct]) -> dict[str, msgspec.structs.FieldInfo]:
    return {field.name: field for field in msgspec.structs.fields(kind)}


def _plain(kind: Any) -> Any:
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def _description(kind: Any) -> str:
    metas = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((meta.description for meta in metas if isinstance(meta, Meta) and meta.description), "")


def _suggest(name: str, known: Any, form: str = "`{}`") -> str:
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean {form.format(close[0])}?)" if close else f" (known: {', '.join(known)})"


def _wrap(text: str) -> list[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= _LINE_WIDTH:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return msgspec.json.encode(value).decode()  # TOML's basic strings take JSON's escapes
        case tuple() | list():
            return "[" + ", ".join(_toml(item) for item in value) + "]"
        case _:
            return repr(value)
