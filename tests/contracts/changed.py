"""The job contract with some passages changed: what it would be without one of its defences."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

import chain.contracts
from chain.contracts import REPLICATED
from tests.contracts.evm_harness import CODE_MAX, Evm

SOURCES = Path(chain.contracts.__file__).parent
Change = tuple[str, str]  # a passage that occurs once in the contract's sources, and what stands there instead
OPTIMISED: Change = ("# pragma optimize codesize", "# pragma optimize none")  # which is faster to compile


@cache
def compiled(changes: tuple[Change, ...]) -> bytes:
    """The changed contract's code, unoptimised."""
    compiler = pytest.importorskip("vyper.compiler", reason="the Vyper compiler is a development extra")
    bundle = pytest.importorskip("vyper.compiler.input_bundle", reason="part of the Vyper compiler")
    with changed_sources((*changes, OPTIMISED)) as folder, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Length of compiled bytecode")  # it is larger than it may be
        output = compiler.compile_code(
            (folder / "replicated.vy").read_text(),
            input_bundle=bundle.FilesystemInputBundle([folder]),
            output_formats=["bytecode_runtime"],
        )
    return bytes.fromhex(output["bytecode_runtime"][2:])


@contextmanager
def changed_sources(changes: tuple[Change, ...]) -> Iterator[Path]:
    """A folder with the contracts' sources, changed."""
    folder = Path(tempfile.mkdtemp(prefix="flnode-variant-"))
    try:
        texts = {path.name: path.read_text() for path in SOURCES.glob("*.vy")}
        for old, new in changes:
            found = [name for name, text in texts.items() if text.count(old) == 1]
            assert len(found) == 1, f"{old!r} is in {found}"
            texts[found[0]] = texts[found[0]].replace(old, new)
        for name, text in texts.items():
            (folder / name).write_text(text)
        yield folder
    finally:
        shutil.rmtree(folder)


def place_changed(evm: Evm, *changes: Change) -> None:
    """Put the changed contract where the real one is."""
    evm.place(REPLICATED, compiled(changes), code_max=2 * CODE_MAX)
