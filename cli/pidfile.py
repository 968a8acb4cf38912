"""The pid file of a running node, DIR/node.pid, and its process.

The node holds a lock on the file for as long as it lives, so a file that a killed node left behind deceives nobody,
and two nodes cannot run in one directory. Whether a node runs, and as which process, is asked of the lock: the system
knows who holds it. The number in the file is for people.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cli.errors import NodeError, UserError

PID_NAME: Final = "node.pid"
POLL_S: Final = 0.05
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type, whence, start, length (0 = all), pid of the holder


@dataclass(frozen=True, slots=True)
class NodeProcess:
    """The process of a node. The handle (a pidfd) means this process even after its number went to another."""

    pid: int
    handle: int

    def send(self, number: signal.Signals) -> None:
        """Send a signal; to a process that has ended nothing happens."""
        try:
            signal.pidfd_send_signal(self.handle, number)
        except ProcessLookupError:
            return

    def wait(self, limit_s: float) -> bool:
        """Whether the process has ended within `limit_s`."""
        poll = select.poll()
        poll.register(self.handle, select.POLLIN)
        return bool(poll.poll(max(0.0, limit_s) * 1000))


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """Within, this process is the node of `directory`; to be entered once in a process.

    Raises:
        UserError: another node runs there. NodeError: the file cannot be written.
    """
    path = directory / PID_NAME
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise NodeError(f"cannot write {path}: {error.strerror}") from None
    try:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(already_running(directory)) from None
        try:
            os.ftruncate(file, 0)
            os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise NodeError(f"cannot write {path}: {error.strerror}") from None
        yield
        os.ftruncate(file, 0)  # emptied, not removed: somebody may be about to lock it
    finally:
        os.close(file)


def already_running(directory: Path) -> str:
    """What to tell a user who starts a second node."""
    pid = running_pid(directory)
    number = f" (process id {pid})" if pid else ""
    return f"a node is already running in {directory}{number}; stop it with `flnode stop --config {directory}`"


def running_pid(directory: Path) -> int | None:
    """The process that is the node of `directory`; None when none runs, 0 when it is in another container."""
    try:
        file = os.open(directory / PID_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    finally:
        os.close(file)
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def is_running(directory: Path) -> bool:
    """Whether a node runs in `directory`, in whichever container."""
    return running_pid(directory) is not None


def wait_gone(directory: Path, limit_s: float) -> bool:
    """Whether the node of `directory` has ended within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while is_running(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


@contextmanager
def node_process(directory: Path) -> Iterator[NodeProcess | None]:
    """The process of the node that runs in `directory`; None when none does.

    Raises:
        NodeError: one runs in another container, out of reach.
    """
    pid = running_pid(directory)
    if pid is None:
        yield None
        return
    if pid == 0:
        raise NodeError(f"the node in {directory} runs in another container; stop it there")
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # Opened first, looked at again then: the handle means the holder, not somebody who got its number since.
        yield NodeProcess(pid, handle) if running_pid(directory) == pid else None
    finally:
        os.close(handle)
