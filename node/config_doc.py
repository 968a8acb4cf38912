"""docs/CONFIG.md, written from the structs that parse the files: `python -m node.config_doc` prints it.

A node's keys, types, limits and defaults are those of `node.config`; the network file's are those of `chain.genesis`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from msgspec import inspect

from chain.genesis import Joining, Network, ValidatorEntry
from node.config import ENVIRONMENT_PREFIX, SECTIONS

_HEAD: Final = """\
# Configuration

<!-- `make docs` writes this page from the structs that parse the files, and a test compares: change the structs. -->

A node has two files: `node.toml` is its operator's choice, `network.toml` is equal on all nodes of a network. Whatever
flnode does not understand in them it refuses, with one line that names the key.

## node.toml

`flnode init` writes it with every key, each with its default and meaning. Precedence: an environment variable, then the
file, then the default. Paths are relative to the file's directory.

Every key is also an environment variable, `{prefix}SECTION__KEY`: strings as they are, lists as `a,b`, everything else
as in TOML.

```sh
flnode init mynode --network dev
{prefix}LOG__LEVEL=debug {prefix}P2P__PEERS_MAX=16 flnode start --config mynode --detach
flnode stop --config mynode
```
"""

_NETWORK_HEAD: Final = """\
## network.toml

The genesis digest commits to everything in it but the ways to reach peers (`p2p` and `bootstrap`), so nodes whose files
differ elsewhere refuse each other. [configs/networks/dev.toml](../configs/networks/dev.toml) is an example.
"""

_COMMANDS_HEAD: Final = """\
## Environment variables of commands

| variable | instead of |
|---|---|
| `FLNODE_CONFIG` | `--config`: the node's directory, or its `node.toml` |
| `FLNODE_URL` | `--url`: the HTTP address of a node's API |
| `FLNODE_TOKEN_FILE` | `--token-file`: the node's `api.token`, for commands that change the node |
| `FLNODE_DEBUG` | set to 1, a bug of flnode shows its traceback |
"""

_NETWORK_MEANINGS: Final = {
    "name": "1 to 64 printable characters.",
    "chain_id": "The EVM's chain id; signatures of one network mean nothing on another.",
    "timestamp": "Of the genesis block, in Unix seconds.",
    "validators": "`[[validators]]` tables; a validator's index is its place in the list.",
    "development": "Allows public keys (`--dev-key`) and misbehaviour on purpose.",
    "gas_limit": "Of a block. Three block delays must exceed the time to execute a full block.",
    "base_fee_wei": "For a unit of gas; fixed.",
    "block_delay_s": "Lower bound of the consensus' estimate of the network's delay, in seconds.",
    "time_drift_s": "A block's time may differ by so much from a voter's clock, in seconds.",
    "quorum": "Share of the validators, 0.67 to 1; raises the quorum above floor(2n/3) + 1, never lowers it.",
    "bootstrap": "Multiaddresses that every node dials, besides the validators'.",
    "balances": "`[balances]`: what accounts begin with, address = string of wei.",
    "joining": "`[joining]`: how newcomers without coins may start; see below.",
}
_JOINING_MEANINGS: Final = {
    "sponsors": "A job's owner, or anybody, may put the deposit of a worker that asks; repaid from its first rewards.",
    "faucet": "Validators grant newcomers the coins for their first fees, from the faucet's funds.",
    "faucet_wei": "The faucet's funds, a string of wei; what is granted is lost to it.",
    "grant_gas": "20,000,000 to 1,000,000,000: what one grant pays for, at the base fee and a tip of 1 wei for each.",
    "grants_max": "1 to 1,000,000: grants to all accounts in a period, which bounds what strangers can fetch.",
    "period_s": "In seconds; an account gets one grant in it.",
}
_VALIDATOR_MEANINGS: Final = {
    "address": "Of the account whose key signs its blocks and votes.",
    "p2p": "Multiaddress where its node is dialled, with /p2p/PEER; empty: it dials the others.",
}
_NETWORK_TYPES: Final = {
    "validators": "tables",
    "balances": "table",
    "joining": "table",
    "address": "address",
    "faucet_wei": "wei",
}


def document() -> str:
    """The whole page."""
    parts = [_HEAD.format(prefix=ENVIRONMENT_PREFIX)]
    for name, kind in SECTIONS.items():
        parts.append(f"### [{name}]\n\n{_purpose(kind)}\n\n{_table(kind, {})}\n")
    parts.append(f"{_NETWORK_HEAD}\n{_table(Network, _NETWORK_MEANINGS)}\n")
    parts.append(f"### [[validators]]\n\n{_table(ValidatorEntry, _VALIDATOR_MEANINGS)}\n")
    parts.append(f"### [joining]\n\n{_purpose(Joining)}\n\n{_table(Joining, _JOINING_MEANINGS)}\n")
    parts.append(_COMMANDS_HEAD)
    return "\n".join(parts)


def _purpose(kind: type[msgspec.Struct]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def _table(kind: type[msgspec.Struct], meanings: dict[str, str]) -> str:
    """A row for each key; `meanings` stands in for descriptions in the struct, and must then name every key."""
    info = inspect.type_info(kind)
    assert isinstance(info, inspect.StructType)
    assert not meanings or meanings.keys() == {field.name for field in info.fields}, meanings.keys()
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for field in info.fields:
        kind_name = _NETWORK_TYPES.get(field.name, "") if meanings else ""
        described = meanings.get(field.name) or _description(field.type)
        cells = (f"`{field.name}`", kind_name or _type(field.type), _default(field), described.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _description(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.Metadata) and kind.extra_json_schema:
        return str(kind.extra_json_schema.get("description", ""))
    return ""


def _type(kind: inspect.Type) -> str:
    """What a person writes there, with its limits."""
    match kind:
        case inspect.Metadata(type=inner):
            return _type(inner)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"integer{_limits(kind)}"
        case inspect.FloatType():
            return f"number{_limits(kind)}"
        case inspect.StrType():
            return "string"
        case inspect.LiteralType(values=values):
            return ", ".join(f"`{value}`" for value in values)
        case inspect.VarTupleType(item_type=item):
            return f"list of {_type(item)}"
        case inspect.UnionType(types=types):
            return " or ".join(_type(each) for each in types if not isinstance(each, inspect.NoneType))
        case _:
            raise TypeError(f"no words for {kind}")


def _limits(kind: inspect.IntType | inspect.FloatType) -> str:
    limits = ((">", kind.gt), ("≥", kind.ge), ("<", kind.lt), ("≤", kind.le))
    return "".join(f" {sign} {limit}" for sign, limit in limits if limit is not None)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    value: Any = field.default if field.default_factory is msgspec.NODEFAULT else field.default_factory()
    if value is None or value in ({}, Joining()):
        return "none"
    return f"`{msgspec.json.encode(value).decode().replace(',', ', ')}`"  # TOML writes these values as JSON does


if __name__ == "__main__":
    print(document(), end="")
