"""Nodes in the background: started, found, refused a second time, stopped, killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli import pidfile
from cli.errors import NodeError, UserError
from cli.processes import LOG_NAME, end_nodes, spawn
from node.config import load_config
from tests.cli.operations_kit import nodes_end, ok, ok_json, processes_that_name, refused

HOLDER = """
import signal, sys
from pathlib import Path
from cli import pidfile
if sys.argv[2] == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with pidfile.held(Path(sys.argv[1])):
    print("ready", flush=True)
    signal.pause()
"""


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Path]:
    """The directory of a node that is not started; it is ended afterwards if a test started it."""
    directory = tmp_path / "node"
    ok("init", directory, "--network", "dev")
    with nodes_end(tmp_path):
        yield directory


def holder(directory: Path, manner: str = "willing") -> subprocess.Popen[bytes]:
    """A process that holds the pid file as a node does."""
    directory.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(directory), manner], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.stdout.close()
    return process


def test_a_detached_node_runs_alone_in_its_directory_until_it_is_stopped(node: Path) -> None:
    started = ok_json("start", "--detach", "--config", node)
    pid = started["pid"]
    assert pidfile.running_pid(node) == pid
    assert os.getsid(pid) == pid  # it outlives this terminal
    assert started["address"] in (node / LOG_NAME).read_text()
    for arguments in (["start"], ["start", "--detach"]):
        message = refused(2, *arguments, "--config", node)
        assert f"a node is already running in {node} (process id {pid})" in message
        assert f"flnode stop --config {node}" in message
    assert "Traceback" not in (node / LOG_NAME).read_text()
    assert f"has stopped (process id {pid})" in ok("stop", "--config", node)
    assert pidfile.running_pid(node) is None
    assert (node / pidfile.PID_NAME).read_text() == ""
    assert not (node / "api.sock").exists()
    assert "no node is running here" in refused(1, "stop", "--config", node)


def test_a_node_that_hangs_is_killed_and_starts_again(node: Path) -> None:
    pid = ok_json("start", "--detach", "--config", node)["pid"]
    os.kill(pid, signal.SIGSTOP)
    assert "was killed" in ok("stop", "--kill", "--config", node)
    assert pidfile.running_pid(node) is None
    assert (node / pidfile.PID_NAME).read_text() == f"{pid}\n"  # it had no chance to empty it, and nobody minds
    assert "is up" in ok("start", "--detach", "--config", node)
    assert "was stopped" in ok("stop", "--kill", "--config", node)
    assert f"no node is running in {node}" in refused(1, "stop", "--kill", "--config", node)


def test_an_interrupted_detach_leaves_no_node(node: Path) -> None:
    command = [sys.executable, "-m", "cli.main", "start", "--detach", "--config", str(node)]
    starting = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    log = node / LOG_NAME
    while not log.exists() and starting.poll() is None:
        pass  # the node is spawned once its log is there
    starting.send_signal(signal.SIGINT)
    _, errors = starting.communicate(timeout=60)
    assert (starting.returncode, errors.strip()) == (130, "flnode: interrupted")
    assert processes_that_name(node) == []


def test_a_detached_start_that_fails_says_why_with_the_nodes_exit_code(node: Path) -> None:
    (node / "keys" / "account.key").unlink()
    message = refused(2, "start", "--detach", "--config", node)
    assert f"did not start (exit code 2): no key file at {node}/keys/account.key" in message
    assert f"its log is {node / LOG_NAME}" in message


def test_only_what_this_start_wrote_to_the_log_is_told(node: Path) -> None:
    (node / LOG_NAME).write_text("flnode: an old story\n")
    (node / "network.toml").write_text("")
    message = refused(2, "start", "--detach", "--config", node)
    assert "old story" not in message
    assert "network.toml" in message


def test_a_log_that_has_grown_too_long_is_put_aside(node: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.processes.LOG_BYTES_MAX", 3)
    (node / LOG_NAME).write_text("long")
    (node / "network.toml").write_text("")
    spawn(load_config(node, {}), os.environ).process.wait(60)
    assert (node / f"{LOG_NAME}.1").read_text() == "long"
    assert "long" not in (node / LOG_NAME).read_text()


def test_kill_is_for_nodes_of_this_machine() -> None:
    assert "not --url" in refused(2, "stop", "--kill", "--url", "http://127.0.0.1:1")


def test_the_lock_and_not_the_number_in_the_file_says_whether_a_node_runs(tmp_path: Path) -> None:
    assert pidfile.running_pid(tmp_path) is None
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        (tmp_path / pidfile.PID_NAME).write_text(str(bystander.pid))
        assert pidfile.running_pid(tmp_path) is None
        assert end_nodes([tmp_path]) == []
        assert bystander.poll() is None
        process = holder(tmp_path)
        (tmp_path / pidfile.PID_NAME).write_text(str(bystander.pid))  # whoever writes there changes nothing
        assert pidfile.running_pid(tmp_path) == process.pid
        assert end_nodes([tmp_path]) == [(tmp_path, "stopped")]
        assert process.wait(10) == -signal.SIGTERM
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_ending_nodes_is_sigterm_first_and_sigkill_to_the_stubborn(tmp_path: Path) -> None:
    processes = [holder(tmp_path / manner, manner) for manner in ("willing", "stubborn")]
    directories = [tmp_path / name for name in ("willing", "stubborn", "nobody")]
    assert end_nodes(directories, limit_s=0.3) == [(directories[0], "stopped"), (directories[1], "killed")]
    assert [each.wait(10) for each in processes] == [-signal.SIGTERM, -signal.SIGKILL]


def test_one_process_at_a_time_holds_a_directory(tmp_path: Path) -> None:
    process = holder(tmp_path)
    message = f"already running in {tmp_path} .process id {process.pid}"
    with pytest.raises(UserError, match=message), pidfile.held(tmp_path):
        pass
    assert not pidfile.wait_gone(tmp_path, 0)
    process.kill()
    assert pidfile.wait_gone(tmp_path, 10)
    process.wait()
    with pidfile.held(tmp_path):
        assert (tmp_path / pidfile.PID_NAME).read_text() == f"{os.getpid()}\n"


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match=r"cannot write .*node\.pid"), pidfile.held(tmp_path / "missing"):
        pass
