"""Key files: 32 secret bytes as hex in a file that only its owner can read, and the names that follow from them."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path
from typing import Final

import base58
from coincurve import PrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from eth_hash.auto import keccak

from node.config import ConfigError

KEY_BYTES: Final = 32
_SECP256K1_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
# libp2p's peer id of an Ed25519 key: identity multihash (code 0, 36 bytes) over the protobuf {1: ED25519, 2: key}
_PEER_ID_PREFIX: Final = bytes.fromhex("002408011220")


def new_account_key() -> bytes:
    """A random secp256k1 secret."""
    while True:
        key = secrets.token_bytes(KEY_BYTES)
        if 0 < int.from_bytes(key, "big") < _SECP256K1_ORDER:
            return key


def new_p2p_key() -> bytes:
    """A random Ed25519 seed."""
    return secrets.token_bytes(KEY_BYTES)


def account_address(key: bytes) -> bytes:
    """The 20-byte Ethereum address of a secp256k1 secret."""
    return keccak(PrivateKey(key).public_key.format(compressed=False)[1:])[-20:]


def peer_id(seed: bytes) -> str:
    """The libp2p peer id (12D3Koo...) of an Ed25519 seed."""
    public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return base58.b58encode(_PEER_ID_PREFIX + public).decode()


def write_secret(path: Path, text: str) -> None:
    """Write a new file with mode 0600. Raises ConfigError if it is already there: secrets are never overwritten."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text + "\n")
    except FileExistsError:
        raise ConfigError(f"{path} exists already and is never overwritten") from None
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror or error}") from None


def write_key(path: Path, key: bytes) -> None:
    """Write a new key file; see `write_secret`."""
    write_secret(path, key.hex())


def read_secret(path: Path) -> str:
    """The text of a secret file. Raises ConfigError if it is missing or if others may read it."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            raise ConfigError(f"{path} can be read by other users (mode {mode:04o}); run: chmod 600 {path}")
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        raise ConfigError(f"no key file at {path}; `flnode init DIR` makes one, or name it in [node]") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def load_account_key(path: Path) -> bytes:
    """The secp256k1 secret in `path`, checked."""
    key = _load_key(path)
    if not 0 < int.from_bytes(key, "big") < _SECP256K1_ORDER:
        raise ConfigError(f"{path} does not hold a valid secp256k1 key")
    return key


def load_p2p_key(path: Path) -> bytes:
    """The Ed25519 seed in `path`, checked."""
    return _load_key(path)


def _load_key(path: Path) -> bytes:
    text = read_secret(path).removeprefix("0x")
    try:
        key = bytes.fromhex(text)
    except ValueError:
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(f"{path} does not hold a key: expected {2 * KEY_BYTES} hex digits")
    return key


def ensure_token(path: Path) -> str:
    """The API's bearer token, made on first use."""
    if not path.exists():
        write_secret(path, secrets.token_hex(KEY_BYTES))
    return read_secret(path)


def mark_new_key(chain_path: Path) -> None:
    """Say, in the directory of a chain database yet to be made, that this node's account key has never voted.

    A validator whose database is gone does not know what it has voted; only a new one may vote at once.
    """
    from chain.store import mark_new  # loads the database

    mark_new(chain_path)
