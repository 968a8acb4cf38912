"""A node whose database the disk has changed stops with one line, and says what to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.chain.test_damage import damage
from tests.cli.operations_kit import LIMIT_S, nodes_end, ok

SOMEBODY = "0x52908400098527886E0F7030069857D2E4169EE7"


def test_a_node_with_a_damaged_database_says_so_in_one_line_and_stops(tmp_path: Path) -> None:
    directory = tmp_path / "node"
    ok("init", directory, "--network", "dev", "--role", "validator", "--dev-key", "0")
    with nodes_end(tmp_path):
        ok("start", "--detach", "--config", directory)
        ok("account", "send", SOMEBODY, "1 flt", "--config", directory)
        ok("stop", "--config", directory)
        damage(directory / "chain", "state")
        done = subprocess.run(
            [sys.executable, "-m", "cli.main", "start", "--config", directory],
            capture_output=True, text=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if "[info " not in line]
    assert done.returncode == 1
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("flnode: the chain database is damaged: ")
    assert lines[0].endswith(f"move {directory / 'chain'} away and start again: the chain comes back from the peers")
