"""A node that runs out of room stops with one line and exit code 1, and opens clean when there is room again."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from chain.store import Store, StoreFull
from node.config import load_config
from tests.cli.operations_kit import LIMIT_S, flnode, nodes_end, ok, ok_json, refused

SOMEBODY = "0x52908400098527886E0F7030069857D2E4169EE7"
MIB = 1 << 20
PAGES_MAX = 200


class Foreground:
    """A node as it runs in a terminal, with only errors on stderr."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "start", "--config", str(directory)],
            env={**os.environ, "FLNODE_LOG__LEVEL": "info"}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stderr is not None
        while "node.started" not in self.process.stderr.readline():
            assert self.process.poll() is None

    def end(self) -> tuple[int, list[str]]:
        """Wait for the node's own end; exit code, and the lines on stderr that are no log."""
        _, errors = self.process.communicate(timeout=LIMIT_S)
        return self.process.returncode, [line for line in errors.splitlines() if "[info " not in line]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """A node that validates alone, and is not started."""
    ok("init", tmp_path / "node", "--network", "dev", "--role", "validator", "--dev-key", "0")
    with nodes_end(tmp_path):
        yield tmp_path / "node"


def pay(directory: Path) -> str:
    return ok("account", "send", SOMEBODY, "1 flt", "--config", directory)


def heads(directory: Path) -> int:
    return int(ok_json("status", "--config", directory)["finalised_head"]["number"])


def test_a_full_disk_stops_the_node_and_it_reopens_clean(directory: Path) -> None:
    node = Foreground(directory)
    pay(directory)
    size = (directory / "chain" / "data.mdb").stat().st_size
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (size, size))
    for _ in range(PAGES_MAX):  # the database uses the pages that it has, and needs another one soon
        if flnode("account", "send", SOMEBODY, "1 flt", "--config", directory).returncode:
            break
    code, lines = node.end()
    assert code == 1
    assert len(lines) == 1
    assert lines[0].startswith("flnode: the chain database cannot be written: ")
    assert lines[0].endswith(f" ({directory / 'chain'}); make room on the disk, or check it, and start again")
    ok("start", "--detach", "--config", directory)
    before = heads(directory)
    assert before >= 1
    pay(directory)
    assert heads(directory) > before


def test_a_database_at_its_own_limit_stops_the_node_and_names_the_key(directory: Path) -> None:
    path = directory / "node.toml"
    text = path.read_text()
    limit = 16 * MIB
    default = load_config(directory, {}).node.chain_bytes_max
    path.write_text(text.replace(f"chain_bytes_max = {default}", f"chain_bytes_max = {limit}"))
    ok("start", "--detach", "--config", directory)
    pay(directory)
    ok("stop", "--config", directory)
    fill(directory / "chain", limit)
    line = refused_by_a_full_node(directory)
    assert "the chain database has reached its largest size" in line
    assert f"({limit} bytes, {directory / 'chain'})" in line
    assert f"raise `chain_bytes_max` in [node] of {path}" in line
    path.write_text(text)
    ok("start", "--detach", "--config", directory)
    pay(directory)
    assert heads(directory) >= 2


def fill(chain: Path, limit: int) -> None:
    """Take the room that is left in a database, down to the last pages."""
    store = Store(chain, limit)
    for size in (MIB, 64 << 10, 4 << 10, 1):
        number = 0
        try:
            while True:
                store.kv_put("ballast", b"%d/%d" % (size, number), bytes(size))
                number += 1
        except StoreFull:
            continue
    store.close()


def refused_by_a_full_node(directory: Path) -> str:
    """Start a node that cannot write anything; what it says, at its start or at its first payment."""
    node = Foreground(directory)
    assert "the node stops" in refused(1, "account", "send", SOMEBODY, "1 flt", "--config", directory)
    code, lines = node.end()
    assert code == 1
    assert len(lines) == 1
    return lines[0]
