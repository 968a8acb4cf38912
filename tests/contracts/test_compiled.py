"""What is committed is what the sources say."""

from __future__ import annotations

import pytest

from chain.contracts import compiled, genesis_contracts
from tests.contracts.evm_harness import CODE_MAX


def test_compiled_contracts_are_those_of_the_sources() -> None:
    pytest.importorskip("vyper", reason="the Vyper compiler is a development extra")
    from chain.contracts.build import compile_contracts

    assert compile_contracts() == compiled(), "run python -m chain.contracts.build"


def test_the_code_fits_the_limit_of_eip_170() -> None:
    for code, _ in genesis_contracts().values():
        assert 0 < len(code) <= CODE_MAX


def test_no_constructor_would_have_to_run() -> None:
    for name in set(compiled()) - {"vyper"}:
        assert all(entry["type"] != "constructor" for entry in compiled()[name]["abi"])
