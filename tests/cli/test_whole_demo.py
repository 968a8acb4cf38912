"""The demo as a user runs it: seven processes on loopback, their result, and that nothing is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "cli.main", "demo"]
LIMIT_S = 280


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a Unix socket's name has room for 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="demo-") as path:
        yield Path(path)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """The demo with its temporary files under `folder`."""
    environment = {**os.environ, "TMPDIR": str(folder), "FLNODE_P2P__LISTEN": "/ip4/127.0.0.1/tcp/1"}
    return subprocess.Popen(
        [*DEMO, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def processes_that_name(folder: Path) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_and_no_file(folder: Path, number: signal.Signals) -> None:
    demo = start(folder)
    assert demo.stderr is not None
    assert "starting 7 nodes" in demo.stderr.readline()
    demo.send_signal(number)
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert errors.endswith("flnode: interrupted\n")
    assert "Traceback" not in errors
    assert processes_that_name(folder) == []
    assert list(folder.iterdir()) == []


@pytest.mark.network
def test_honest_work_is_paid_and_copied_or_missing_work_forfeits(folder: Path) -> None:
    demo = start(folder, "--json", "--goal", "0.7", "--rounds-max", "8")
    output, errors = demo.communicate(timeout=LIMIT_S)
    assert demo.returncode == 0, errors
    report = json.loads(output)
    assert output.count("\n") == 1
    assert report["accuracy"] >= 0.7
    rounds = report["rounds"]
    reward, stake = 10**16, 10**17
    for worker in report["workers"]:
        honest = worker["behaviour"] == "honest"
        assert worker["rounds_in_majority"] == (rounds if honest else 0)
        assert worker["earned_wei"] == str(rounds * reward if honest else 0)
        assert int(worker["forfeited_wei"]) == (0 if honest else rounds * stake)
    assert sorted(worker["behaviour"] for worker in report["workers"]) == ["copier", *["honest"] * 3, "lazy"]
    assert processes_that_name(folder) == []
    assert list(folder.iterdir()) == []


def test_a_demo_that_cannot_reach_its_nodes_says_so_and_cleans_up(folder: Path) -> None:
    demo = start(folder, "--limit-s", "1")
    _, errors = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "out of time; not up yet" in errors.splitlines()[-1]
    assert processes_that_name(folder) == []
    assert list(folder.iterdir()) == []
