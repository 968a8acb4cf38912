"""The network file: constants that must be equal on all nodes, and the state that the chain begins with.

The genesis digest commits to everything in the file but the ways to reach peers (`p2p`, `bootstrap`): balances and
contracts through the state root, the rest through its keccak in the header's extra_data. So two nodes with the same
genesis digest agree on the rules.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from eth_hash.auto import keccak

from chain.certificate import quorum
from chain.types import ChainError

GAS_LIMIT_MIN: Final = 1_000_000
GAS_LIMIT_MAX: Final = 100_000_000
VALIDATORS_MAX: Final = 100
BOOTSTRAP_MAX: Final = 64
BALANCES_MAX: Final = 100_000
FILE_BYTES_MAX: Final = 16 << 20
CHAIN_ID_MAX: Final = (1 << 52) - 1  # wallets keep it in a double
WEI_MAX: Final = 1 << 128
QUORUM_MIN: Final = 0.67
GRANT_GAS_MIN: Final = 20_000_000  # of calls on their way, each has to be covered to its gas limit at twice the fee
GRANT_GAS_MAX: Final = 1_000_000_000
GRANTS_MAX: Final = 1_000_000
PERIOD_MAX_S: Final = 365 * 86_400
_DIGEST_DOMAIN: Final = "flnode/network/1"


class InvalidNetwork(ChainError):
    """The network file is refused; the text names key and reason."""


class ValidatorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One validator: its account's address, and where its node can be dialled."""

    address: bytes  # 20 bytes
    p2p: str | None = None  # multiaddress with /p2p/


class Joining(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How newcomers without coins may start. All of it enters the state that the chain begins with."""

    sponsors: bool = False  # a job's owner, or anybody, may put a worker's deposit
    faucet: bool = False
    faucet_wei: int = 0  # what the faucet begins with
    grant_gas: int = 40_000_000  # what a grant pays for, at the base fee and a tip of 1 wei
    grants_max: int = 100  # in a period, to all accounts
    period_s: int = 86_400  # after which an account may have another grant


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A parsed network file. Amounts in wei, times in seconds."""

    name: str
    chain_id: int
    timestamp: int  # of the genesis block, seconds since the epoch, UTC
    validators: tuple[ValidatorEntry, ...]  # a validator's index is its place here
    development: bool = False
    gas_limit: int = 10_000_000  # of a block
    base_fee_wei: int = 7
    block_delay_s: float = 0.1  # lower bound of consensus' delay estimate
    time_drift_s: float = 15.0  # a block's time may differ by so much from a voter's clock
    quorum: float | None = None  # share of the validators; raises the quorum above two thirds, never lowers it
    bootstrap: tuple[str, ...] = ()
    balances: Mapping[bytes, int] = {}
    joining: Joining = Joining()

    @property
    def grant_wei(self) -> int:
        """What the faucet gives an account."""
        return self.joining.grant_gas * (self.base_fee_wei + 1)

    @property
    def validator_addresses(self) -> tuple[bytes, ...]:
        """The validators' addresses, by index."""
        return tuple(validator.address for validator in self.validators)

    @property
    def bootstrap_addresses(self) -> tuple[str, ...]:
        """Whom a new node can dial: the bootstrap nodes, then the validators that say where they are."""
        dialled = (*self.bootstrap, *(validator.p2p for validator in self.validators if validator.p2p is not None))
        return tuple(dict.fromkeys(dialled))

    @property
    def quorum_size(self) -> int:
        """How many of the first epoch's validators make a quorum."""
        return quorum(len(self.validators), self.quorum or 0.0)

    def digest(self) -> bytes:
        """Keccak of the constants; the genesis header carries it."""
        constants = [
            _DIGEST_DOMAIN, self.name, self.chain_id, self.timestamp, self.validator_addresses, self.development,
            self.gas_limit, self.base_fee_wei, self.block_delay_s, self.time_drift_s, self.quorum_size,
        ]  # fmt: skip
        return keccak(msgspec.msgpack.encode(constants))


def load_network(path: Path) -> Network:
    """Read a network file.

    Raises:
        InvalidNetwork: unreadable, too large, or refused by parse_network.
    """
    try:
        with path.open("rb") as file:
            content = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InvalidNetwork(f"cannot read {path}: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise InvalidNetwork(f"{path} is larger than {FILE_BYTES_MAX} bytes")
    try:
        return parse_network(content.decode())
    except UnicodeDecodeError as error:
        raise InvalidNetwork(f"{path} is not UTF-8 text") from error


def parse_network(text: str) -> Network:
    """Parse and check the TOML of a network file.

    Raises:
        InvalidNetwork: names the key and what is wrong with it.
    """
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidNetwork(f"network file: {error}") from error
    balances = values.get("balances")
    if isinstance(balances, dict):
        values["balances"] = {
            _address(key, "balances"): _wei(f"balances.{key}", amount) for key, amount in balances.items()
        }
        if len(values["balances"]) != len(balances):
            raise InvalidNetwork("balances: an address is listed twice")
    joining = values.get("joining")
    if isinstance(joining, dict) and "faucet_wei" in joining:
        joining["faucet_wei"] = _wei("joining.faucet_wei", joining["faucet_wei"])
    validators = values.get("validators")
    if isinstance(validators, list):
        for index, entry in enumerate(validators):
            if isinstance(entry, dict) and "address" in entry:
                entry["address"] = _address(entry["address"], f"validators[{index}].address")
    try:
        network = msgspec.convert(values, Network, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise InvalidNetwork(f"network file: {_plain(str(error))}") from error
    _check(network)
    return network


def format_network(network: Network) -> str:
    """The TOML that parses to `network`."""

    def line(key: str, value: object) -> str:
        return f"{key} = {str(value).lower() if isinstance(value, bool) else value}"

    def quoted(text: str) -> str:
        return msgspec.json.encode(text).decode()  # JSON strings are TOML basic strings

    keys = ("chain_id", "development", "timestamp", "gas_limit", "base_fee_wei", "block_delay_s", "time_drift_s")
    lines = [line("name", quoted(network.name)), *(line(key, getattr(network, key)) for key in keys)]
    if network.quorum is not None:
        lines.append(line("quorum", network.quorum))
    lines.append(line("bootstrap", "[" + ", ".join(map(quoted, network.bootstrap)) + "]"))
    for validator in network.validators:
        lines += ["", "[[validators]]", line("address", f'"0x{validator.address.hex()}"')]
        if validator.p2p is not None:
            lines.append(line("p2p", quoted(validator.p2p)))
    if network.joining != Joining():
        lines += ["", "[joining]"]
        for key, value in msgspec.structs.asdict(network.joining).items():
            lines.append(line(key, f'"{value}"' if key == "faucet_wei" else value))
    lines += ["", "[balances]"]
    lines += [line(f'"0x{address.hex()}"', f'"{amount}"') for address, amount in network.balances.items()]
    return "\n".join(lines) + "\n"


def _check(network: Network) -> None:
    bounds: tuple[tuple[str, float, float, float], ...] = (
        ("chain_id", network.chain_id, 1, CHAIN_ID_MAX),
        ("timestamp", network.timestamp, 0, 1 << 40),
        ("gas_limit", network.gas_limit, GAS_LIMIT_MIN, GAS_LIMIT_MAX),
        ("base_fee_wei", network.base_fee_wei, 0, 10**18),
        ("block_delay_s", network.block_delay_s, 0.001, 600),
        ("time_drift_s", network.time_drift_s, 1, 3600),
        ("quorum", 1.0 if network.quorum is None else network.quorum, QUORUM_MIN, 1.0),
        ("number of validators", len(network.validators), 1, VALIDATORS_MAX),
        ("number of bootstrap addresses", len(network.bootstrap), 0, BOOTSTRAP_MAX),
        ("number of balances", len(network.balances), 0, BALANCES_MAX),
        ("joining.grant_gas", network.joining.grant_gas, GRANT_GAS_MIN, GRANT_GAS_MAX),
        ("joining.grants_max", network.joining.grants_max, 1, GRANTS_MAX),
        ("joining.period_s", network.joining.period_s, 1, PERIOD_MAX_S),
    )
    for key, value, least, most in bounds:
        if not least <= value <= most:
            raise InvalidNetwork(f"{key} is {value}, must be between {least} and {most}")
    if network.joining.faucet and network.joining.faucet_wei < network.grant_wei:
        raise InvalidNetwork(
            f"joining.faucet_wei is {network.joining.faucet_wei}, less than a grant, {network.grant_wei}"
        )
    if not 1 <= len(network.name) <= 64 or not network.name.isprintable():
        raise InvalidNetwork("name must have 1 to 64 printable characters")
    if len(set(network.validator_addresses)) != len(network.validators):
        raise InvalidNetwork("validators: an address is listed twice")


def _address(text: object, where: str) -> bytes:
    """Parse 0x and 40 hexadecimal digits; in mixed case the EIP-55 checksum must hold."""
    if not isinstance(text, str) or len(text) != 42 or text[:2] != "0x":
        raise InvalidNetwork(f"{where}: {text!r} is not an address (0x and 40 hexadecimal digits)")
    digits = text[2:]
    try:
        address = bytes.fromhex(digits)
    except ValueError as error:
        raise InvalidNetwork(f"{where}: {text!r} is not an address (0x and 40 hexadecimal digits)") from error
    if len(address) != 20:  # fromhex skips spaces
        raise InvalidNetwork(f"{where}: {text!r} is not an address (0x and 40 hexadecimal digits)")
    mixed = digits not in (digits.lower(), digits.upper())
    if mixed and digits != _checksummed(digits.lower()):
        raise InvalidNetwork(f"{where}: {text} fails its checksum (EIP-55)")
    return address


def _checksummed(digits: str) -> str:
    mask = keccak(digits.encode()).hex()
    return "".join(d.upper() if int(nibble, 16) >= 8 else d for d, nibble in zip(digits, mask, strict=False))


def _wei(where: str, amount: object) -> int:
    digits = amount if isinstance(amount, str) and len(amount) <= len(str(WEI_MAX)) else ""
    if not (digits.isascii() and digits.isdigit() and int(digits) <= WEI_MAX):
        raise InvalidNetwork(f"{where}: {amount!r} is not a string of digits, at most {WEI_MAX} wei")
    return int(digits)


def _plain(message: str) -> str:
    """msgspec's words in ours: "Object contains unknown field `x` - at `$.y`" becomes "unknown key `x` at y"."""
    message = message.replace("Object contains unknown field", "unknown key")
    message = message.replace("Object missing required field", "missing key").replace("`$.", "`")
    return message.replace(" - at `", " at `")
