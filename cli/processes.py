"""Nodes as processes of their own in the background: start, wait until they answer, end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cli
from cli import pidfile
from cli.client import Client, Endpoint
from cli.errors import USER_ERROR, CommandError, NodeError, UserError
from node.api import schema
from node.config import ENVIRONMENT_PREFIX, Config

LOG_NAME: Final = "log"
LOG_BYTES_MAX: Final = 64 << 20  # a longer one is put aside at the next start
STOP_S: Final = 3.0  # what a node may take to stop
KILL_S: Final = 10.0  # what the system may take to end a killed process on a busy machine
START_LIMIT_S: Final = 120.0
START_POLL_S: Final = 0.1
_TAIL_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Spawned:
    """A node's process that was started just now."""

    config: Config
    process: subprocess.Popen[bytes]
    log_start: int  # where in the log its output begins

    def check(self) -> None:
        """Raises the reason, in one line, if the process has ended."""
        code = self.process.poll()
        if code is None:
            return
        how = f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
        log = self.config.directory / LOG_NAME
        line = last_lines(log, 1, self.log_start)[0].removeprefix("flnode: ").strip()
        error = UserError if code == USER_ERROR else NodeError
        raise error(f"the node in {self.config.directory} did not start ({how}): {line}; its log is {log}")


def file_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """For nodes that are configured by their files alone: what the user set for other nodes stays out."""
    ours = [name for name in environ if name.startswith(ENVIRONMENT_PREFIX) and "__" in name]
    return {name: value for name, value in environ.items() if name not in ours}


def spawn(config: Config, environ: Mapping[str, str], file: Path | None = None) -> Spawned:
    """Start a node in a session of its own; its output goes to the end of its log.

    Args:
        environ: its environment; a bug's traceback will be in its log.
        file: its config file, if that is not the usual one in its directory.
    """
    packages = str(Path(cli.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (packages, environ.get("PYTHONPATH"))))
    log_path = config.directory / LOG_NAME
    try:
        if log_path.exists() and log_path.stat().st_size > LOG_BYTES_MAX:
            log_path.rename(log_path.with_name(f"{LOG_NAME}.1"))
        with log_path.open("ab") as log:
            log_start = log.tell()
            process = subprocess.Popen(
                # -P: the working directory holds data directories named like our packages
                [sys.executable, "-P", "-m", "cli.main", "start", "--config", str(file or config.directory)],
                cwd=config.directory,
                env={**environ, "PYTHONPATH": path, "FLNODE_DEBUG": "1"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C here does not reach it, and it outlives the terminal
            )
            return Spawned(config, process, log_start)
    except OSError as error:
        raise NodeError(f"cannot start the node in {config.directory}: {error}") from None


def wait_up(nodes: Sequence[Spawned], limit_s: float = START_LIMIT_S) -> list[schema.Status]:
    """Until the API of each answers; their status, in order.

    Raises:
        UserError, NodeError: one has ended, or does not answer in time. Nothing is stopped.
    """
    deadline = time.monotonic() + limit_s
    found = []
    for node in nodes:
        while (status := status_of(node.config)) is None:
            for each in nodes:
                each.check()
            if time.monotonic() > deadline:
                log = node.config.directory / LOG_NAME
                text = f"runs as process {node.process.pid}, but does not answer after {limit_s:.0f} s"
                raise NodeError(f"the node in {node.config.directory} {text}; its log is {log}")
            time.sleep(START_POLL_S)
        found.append(status)
    return found


def status_of(config: Config) -> schema.Status | None:
    """What the node says of itself; None while it does not answer."""
    if not config.socket_path.exists():
        return None
    try:
        with Client(Endpoint(socket=config.socket_path)) as client:
            return client.call("fl_status", schema.Status)
    except CommandError:
        return None


def end(processes: Sequence[subprocess.Popen[bytes]], limit_s: float = STOP_S) -> None:
    """SIGTERM to our own children; after `limit_s` SIGKILL to the sessions of those that are left."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + limit_s
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()
        _kill_group(process.pid)  # a learner that outlived its node, if any


def end_nodes(directories: Iterable[Path], limit_s: float = STOP_S) -> list[tuple[Path, str]]:
    """End whichever nodes run in these directories, exactly those: SIGTERM, after `limit_s` SIGKILL.

    Returns:
        The directories where one ran, and what happened: "stopped" or "killed".
    Raises:
        NodeError: one cannot be ended; the others have been.
    """
    ended: list[tuple[Path, str]] = []
    left: list[str] = []
    with ExitStack() as handles:
        found: list[tuple[Path, pidfile.NodeProcess]] = []
        for directory in directories:
            try:
                process = handles.enter_context(pidfile.node_process(directory))
            except NodeError as error:
                left.append(str(error))
                continue
            if process is not None:
                process.send(signal.SIGTERM)
                found.append((directory, process))
        deadline = time.monotonic() + limit_s
        for directory, process in found:
            if process.wait(deadline - time.monotonic()):
                ended.append((directory, "stopped"))
                continue
            process.send(signal.SIGKILL)
            if process.wait(KILL_S):
                ended.append((directory, "killed"))
            else:
                left.append(f"process {process.pid} of the node in {directory} does not end")
    if left:
        raise NodeError("; ".join(left))
    return ended


def last_lines(path: Path, count: int, start: int = 0) -> list[str]:
    """The end of a log from byte `start` on, without empty lines; a log that is missing or empty says so."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        lines = []
    return [line for line in lines if line.strip()][-count:] or ["(nothing)"]


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return
