"""The genesis contracts: where they live, and the code and storage that the network file places there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any, Final

from eth_hash.auto import keccak

FINDER: Final = bytes.fromhex("0000000000000000000000000000000000000F01")
REPLICATED: Final = bytes.fromhex("0000000000000000000000000000000000000F02")

REPLICATED_KIND: Final = 1  # what the finder lists replicated jobs under


@cache
def compiled() -> dict[str, Any]:
    """What `build` wrote: per contract `runtime` (hex), `abi` and `storage` (variable -> slot)."""
    text = (Path(__file__).parent / "compiled.json").read_text()
    result: dict[str, Any] = json.loads(text)
    return result


def genesis_contracts() -> dict[bytes, tuple[bytes, dict[int, int]]]:
    """Address -> (runtime code, storage) of every contract that exists from the first block on."""
    kinds = compiled()["finder"]["storage"]["kinds"]
    return {
        FINDER: (_code("finder"), {_mapping_slot(kinds, REPLICATED): REPLICATED_KIND}),
        REPLICATED: (_code("replicated"), {}),
    }


def _code(name: str) -> bytes:
    return bytes.fromhex(compiled()[name]["runtime"].removeprefix("0x"))


def _mapping_slot(slot: int, key: bytes) -> int:
    """Where Vyper keeps a HashMap's value: the hash of the map's slot and the key (Solidity has the key first)."""
    return int.from_bytes(keccak(slot.to_bytes(32, "big") + key.rjust(32, b"\0")), "big")
