"""Key files: made once, readable by their owner alone, and what follows from them."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from eth_account import Account

from node import keys
from node.config import ConfigError


def test_a_key_file_is_its_owners_alone_and_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "account.key"
    key = keys.new_account_key()
    keys.write_key(path, key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.load_account_key(path) == key


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "account.key"
    keys.write_key(path, b"\x01" * 32)
    with pytest.raises(ConfigError, match="never overwritten"):
        keys.write_key(path, b"\x02" * 32)
    assert keys.load_account_key(path) == b"\x01" * 32


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_key_that_others_can_touch_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "account.key"
    keys.write_key(path, b"\x01" * 32)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        keys.load_account_key(path)


@pytest.mark.parametrize("text", ["", "zz" * 32, "01" * 31, "01" * 33, "00" * 32, "ff" * 32, "ü"])
def test_what_is_not_an_account_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "account.key"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match=r"account\.key"):
        keys.load_account_key(path)


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="flnode init"):
        keys.load_p2p_key(tmp_path / "p2p.key")


def test_the_address_is_the_one_that_ethereum_computes() -> None:
    for number in range(1, 6):
        key = number.to_bytes(32, "big")
        assert "0x" + keys.account_address(key).hex() == Account.from_key(key).address.lower()


def test_the_peer_id_is_the_one_that_libp2p_computes() -> None:
    from libp2p.crypto.ed25519 import create_new_key_pair
    from libp2p.peer.id import ID

    for seed in (bytes(32), b"\x07" * 32):
        assert keys.peer_id(seed) == str(ID.from_pubkey(create_new_key_pair(seed).public_key))


def test_the_token_is_made_once(tmp_path: Path) -> None:
    path = tmp_path / "api.token"
    token = keys.ensure_token(path)
    assert len(token) == 64
    assert keys.ensure_token(path) == token
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
