"""The genesis contracts: where they live, and the code and storage that the network file places there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

from eth_hash.auto import keccak

FINDER: Final = bytes.fromhex("0000000000000000000000000000000000000F01")
REPLICATED: Final = bytes.fromhex("0000000000000000000000000000000000000F02")
VALIDATORS: Final = bytes.fromhex("0000000000000000000000000000000000000F03")
FAUCET: Final = bytes.fromhex("0000000000000000000000000000000000000F04")

REPLICATED_KIND: Final = 1  # what the finder lists replicated jobs under


@dataclass(frozen=True, slots=True)
class FaucetTerms:
    """What the faucet gives: `amount` wei an account, at most `grants_max` times in each period of `period_s`."""

    amount: int
    grants_max: int
    period_s: int


@cache
def compiled() -> dict[str, Any]:
    """What `build` wrote: per contract `runtime` (hex), `abi` and `storage` (variable -> slot)."""
    text = (Path(__file__).parent / "compiled.json").read_text()
    result: dict[str, Any] = json.loads(text)
    return result


def genesis_contracts(
    validators: Sequence[bytes] = (), sponsors: bool = False, faucet: FaucetTerms | None = None
) -> dict[bytes, tuple[bytes, dict[int, int]]]:
    """Address -> (runtime code, storage) of every contract that exists from the first block on.

    Args:
        validators: the accounts of the first epoch, by index; without them nobody can ever propose one.
        sponsors: whether workers may ask for somebody to put their deposits.
        faucet: None: it is switched off.
    """
    kinds = compiled()["finder"]["storage"]["kinds"]
    return {
        FINDER: (_code("finder"), {_mapping_slot(kinds, REPLICATED): REPLICATED_KIND}),
        REPLICATED: (_code("replicated"), _values("replicated", sponsors=int(sponsors))),
        VALIDATORS: (_code("validators"), _array(compiled()["validators"]["storage"]["members"], validators)),
        FAUCET: (_code("faucet"), {} if faucet is None else _values("faucet", **asdict(faucet))),
    }


def _code(name: str) -> bytes:
    return bytes.fromhex(compiled()[name]["runtime"].removeprefix("0x"))


def _values(contract: str, **values: int) -> dict[int, int]:
    """Storage in which these variables have these values."""
    return {compiled()[contract]["storage"][name]: value for name, value in values.items() if value}


def _array(slot: int, accounts: Sequence[bytes]) -> dict[int, int]:
    """How Vyper keeps a DynArray of addresses: its length, then each in a slot of its own."""
    values = (len(accounts), *(int.from_bytes(account, "big") for account in accounts))
    return {slot + offset: value for offset, value in enumerate(values) if value}


def _mapping_slot(slot: int, key: bytes) -> int:
    """Where Vyper keeps a HashMap's value: the hash of the map's slot and the key (Solidity has the key first)."""
    return int.from_bytes(keccak(slot.to_bytes(32, "big") + key.rjust(32, b"\0")), "big")
