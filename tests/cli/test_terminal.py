"""What a person at a terminal gets: colours unless unwanted, completion that completes."""

from __future__ import annotations

import os
import pty
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.testnet_network import Size, create
from tests.cli.operations_kit import ok

COMMAND = [sys.executable, "-m", "cli.main"]
ESCAPE = "\x1b["


def at_a_terminal(*arguments: object, **environment: str) -> str:
    """What a command shows when its output is a terminal."""
    ours, its = pty.openpty()
    environ = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR")}
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env={**environ, "TERM": "xterm-256color", **environment}, stdin=its, stdout=its, stderr=its,
    )  # fmt: skip
    os.close(its)
    shown = b""
    try:
        while chunk := os.read(ours, 1 << 16):
            shown += chunk
    except OSError:  # Linux' way to say that the other end is closed
        pass
    process.wait(60)
    os.close(ours)
    return shown.decode()


@pytest.fixture
def testnet(tmp_path: Path) -> Path:
    """A testnet's directory of which no node runs: enough for a table."""
    return create(tmp_path / "net", Size(nodes=1, workers=0, servers=1, host=None, seed=1)).directory


def test_tables_and_errors_have_colours_at_a_terminal_and_nowhere_else(testnet: Path) -> None:
    assert ESCAPE in at_a_terminal("testnet", "status", testnet)
    assert ESCAPE in at_a_terminal("status", "--config", testnet / "server-1")
    assert ESCAPE not in ok("testnet", "status", testnet)


def test_no_color_is_honoured(testnet: Path) -> None:
    for arguments in (["testnet", "status", testnet], ["status", "--config", testnet / "server-1"]):
        shown = at_a_terminal(*arguments, NO_COLOR="1")
        assert shown
        assert ESCAPE not in shown


def test_a_nodes_log_has_no_colours_with_no_color(tmp_path: Path) -> None:
    ok("init", tmp_path / "node", "--network", "dev")
    (tmp_path / "node" / "network.toml").write_text("")
    shown = at_a_terminal("start", "--config", tmp_path / "node", NO_COLOR="1")
    assert "network.toml" in shown
    assert ESCAPE not in shown


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("flnode te", {"testnet"}),
        ("flnode testnet ", {"up", "status", "faucet", "down"}),
        ("flnode completion ", {"bash", "zsh", "fish"}),
        ("flnode start --det", {"--detach"}),
    ],
)
def test_completion_gives_what_can_come_next(words: str, expected: set[str]) -> None:
    given = words.split(" ")
    bash = {"_FLNODE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(given) - 1)}
    assert {line.partition(",")[2] for line in ok(**bash).splitlines()} == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_itself_accepts_its_script(shell: str, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(ok("completion", shell))
    assert "_FLNODE_COMPLETE" in script.read_text()
    if (program := shutil.which(shell)) is None:
        pytest.skip(f"{shell} is not installed")
    done = subprocess.run([program, "-n", str(script)], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
