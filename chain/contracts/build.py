"""Compile the genesis contracts: `python -m chain.contracts.build` rewrites compiled.json beside this file.

The result is committed, so that a node needs no compiler; a test recompiles and compares. Vyper is imported only here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vyper import __version__ as vyper_version
from vyper.compiler import compile_from_file_input
from vyper.compiler.input_bundle import FilesystemInputBundle

HERE = Path(__file__).parent
OUTPUT = HERE / "compiled.json"
CONTRACTS = ("faucet", "finder", "replicated", "validators")


def compile_contracts() -> dict[str, Any]:
    """What compiled.json holds: compiler version, then per contract its runtime code (hex), ABI and storage layout."""
    sources = FilesystemInputBundle([HERE])
    result: dict[str, Any] = {"vyper": vyper_version}
    for name in CONTRACTS:
        compiled = compile_from_file_input(
            sources.load_file(HERE / f"{name}.vy"),
            input_bundle=sources,
            output_formats=["bytecode_runtime", "abi", "layout"],
        )
        layout = compiled["layout"]["storage_layout"]
        result[name] = {
            "runtime": compiled["bytecode_runtime"],
            "storage": {variable: entry["slot"] for variable, entry in layout.items()},
            "abi": compiled["abi"],
        }
    return result


def main() -> None:
    compiled = compile_contracts()
    OUTPUT.write_text(json.dumps(compiled, indent=1, sort_keys=True) + "\n")
    for name in CONTRACTS:
        print(f"{name}: {len(compiled[name]['runtime']) // 2 - 1} bytes")


if __name__ == "__main__":
    main()
