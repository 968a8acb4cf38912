"""One learner process as the node sees it: starting, talking, cancelling, killing. learner_pool decides when."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec
import trio

import learner as learner_package
from learner import protocol
from learner.protocol import (
    CANNOT_START,
    SPEAKS_FIRST,
    AnyReply,
    Cancel,
    Describe,
    FrameTooLong,
    Job,
    Progress,
    Ready,
    Scored,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus

CANCEL_GRACE_S: Final = 0.1
LOG_LINE_MAX: Final = 4096

_READ_BYTES: Final = 64 * 1024
_REASON_MAX: Final = 500  # characters
_COUNT_MAX: Final = 2**32 - 1  # of samples or steps
# What a msgpack decoder may raise for bytes from anywhere, besides its own errors: for text that is not UTF-8 (a
# ValueError), for deep nesting, for lengths beyond all bounds.
_UNDECODABLE: Final = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError, MemoryError)
_INHERITED: Final = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH", "NVIDIA_VISIBLE_DEVICES", "TZ")


class LearnerError(Exception):
    """A job has no result."""


class LearnerDied(LearnerError):
    """The process ended, or spoke nonsense and was killed. The next call starts another."""


class LearnerUnfit(LearnerError):
    """This machine does not compute as the arithmetic asks, lacks a wall, or cannot start the process at all."""


class NotAReply(Exception):
    """The process sent a frame that is none of the protocol's."""


class JobFailed(LearnerError):
    """The process refused the job.

    Attributes:
        kind: a kind of learner.errors.JobError, or "file", "memory", "busy", "timeout".
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class LearnerConfig:
    """How to run the process.

    Attributes:
        folder: its own folder, made if missing; files of jobs that are left in it are deleted.
        device: "auto", "cpu" or "cuda:N".
        sandbox: "require" refuses every job without all walls, "try" reports what is missing.
        start_timeout_s: for the imports and the self-check, on a busy machine.
        job_timeout_s: the longest that one job may take.
    """

    folder: Path
    threads: int = 1
    device: str = "auto"
    backend: Literal["auto", "f64", "f32", "int8"] = "auto"
    memory_max_mb: int = 2048
    sandbox: Literal["require", "try", "off"] = "require"
    start_timeout_s: float = 120.0
    job_timeout_s: float = 3600.0
    program: tuple[str, ...] = (sys.executable, "-P", "-m", "learner.process")


class Child:
    """One running process, and what it said of itself when it was ready."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._frames = protocol.FrameBuffer()
        self._killed = False
        self._introduced = False
        self.ready: Ready

    @classmethod
    async def start(cls, config: LearnerConfig, log: Callable[[str], None], nursery: trio.Nursery) -> Child:
        """Start a process, have `nursery` tend it, and await its ready frame.

        Raises:
            LearnerUnfit: the program cannot be run.
            LearnerDied: it ended, was too slow, or said something else.
        """
        child: Child = await nursery.start(_tend, config, log)
        try:
            with trio.fail_after(config.start_timeout_s):
                first = await child._receive()
            if not isinstance(first, Ready) or first.id != SPEAKS_FIRST:
                raise LearnerDied("killed: did not introduce itself")
        except trio.TooSlowError:
            child.kill()
            raise LearnerDied(f"killed: not ready after {config.start_timeout_s} s") from None
        except BaseException:
            child.kill()
            raise
        child.ready, child._introduced = first, True
        return child

    @property
    def pid(self) -> int:
        """Process id, and that of its session."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Ended, or on its way there."""
        return self._killed or self._process.poll() is not None

    def kill(self) -> None:
        """Kill the process and all that it may have started: it leads a session of its own."""
        if not self._killed:  # only once: later the number may be another's
            self._killed = True
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    async def tend(self, log: Callable[[str], None]) -> None:
        """Hand stderr to the log until the process ends; on cancellation kill it, and be sure that it is gone."""
        assert self._process.stderr is not None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_lines, self._process.stderr, log)
                await self._process.wait()
                self.kill()  # what it started may still hold stderr open
        finally:
            self.kill()
            with trio.CancelScope(shield=True):
                await self._process.wait()
                for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
                    if stream is not None:
                        await stream.aclose()

    async def converse(self, request: Job | Describe, progress: Callable[[Progress], None] | None) -> AnyReply:
        """Send and await the final reply. When cancelled, the job is cancelled; in doubt the process is killed."""
        sent = False
        try:
            await self._send(protocol.encode(request))
            sent = True
            while True:
                reply = await self._receive()
                if reply.id != request.id:
                    continue  # what was left to say about a cancelled job
                if not isinstance(reply, Progress):
                    return reply
                if progress is not None:
                    progress(reply)
        except BaseException as error:  # LearnerDied, Cancelled, or a fault of the caller's progress function
            if isinstance(error, LearnerError) or not sent or not await self._stop(request.id):
                self.kill()
            raise

    async def _stop(self, job_id: int) -> bool:
        """Ask the process to end a job; has it, within CANCEL_GRACE_S?"""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + CANCEL_GRACE_S):
            try:
                await self._send(protocol.encode(Cancel(id=job_id)))
                while True:
                    reply = await self._receive()
                    if reply.id == job_id and not isinstance(reply, Progress):
                        return True
            except LearnerError:
                return False
        return False

    async def _send(self, frame: bytes) -> None:
        assert self._process.stdin is not None
        try:
            await self._process.stdin.send_all(frame)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._died() from None

    async def _receive(self) -> AnyReply:
        assert self._process.stdout is not None
        try:
            while (body := self._frames.next()) is None:
                data = await self._process.stdout.receive_some(_READ_BYTES)
                if not data:
                    raise await self._died()
                self._frames.feed(bytes(data))
            return decode_reply(body)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise await self._died() from None
        except (FrameTooLong, NotAReply) as error:
            self.kill()
            raise LearnerDied(f"killed: not a reply: {error}") from None

    async def _died(self) -> LearnerError:
        """It closed a pipe: it is ending, or it is of no use any more."""
        with trio.move_on_after(CANCEL_GRACE_S):
            await self._process.wait()
        self.kill()
        status = await self._process.wait()
        if status == CANNOT_START and not self._introduced:
            return LearnerUnfit("it cannot start on this machine: its log says why")
        return LearnerDied(f"killed by signal {-status}" if status < 0 else f"exited with status {status}")


def decode_reply(body: bytes) -> AnyReply:
    """A frame of the process, which may have been taken over.

    Raises:
        NotAReply: for any bytes but a reply, and for numbers that no sane process sends.
    """
    try:
        reply = protocol.decode_reply(body)
    except _UNDECODABLE as error:
        raise NotAReply(str(error)[:_REASON_MAX]) from None
    match reply:
        case Scored(correct=correct, total=total) if not 0 <= correct <= total <= _COUNT_MAX:
            raise NotAReply(f"{correct} right of {total} samples")
        case Progress(step=step, steps=steps) if not 0 <= step <= steps <= _COUNT_MAX:
            raise NotAReply(f"step {step} of {steps}")
    return reply


async def _tend(
    config: LearnerConfig, log: Callable[[str], None], task_status: TaskStatus[Child] = trio.TASK_STATUS_IGNORED
) -> None:
    """Start a process and own it to its end."""
    arguments = (
        *config.program,
        f"--folder={config.folder}",
        f"--threads={config.threads}",
        f"--device={config.device}",
        f"--backend={config.backend}",
        f"--memory-max-mb={config.memory_max_mb}",
        f"--sandbox={config.sandbox}",
    )
    # Shielded, because a cancelled spawn would leave a process that nobody knows.
    with trio.CancelScope(shield=True):
        try:
            process = await trio.lowlevel.open_process(
                arguments,
                stdin=-1,
                stdout=-1,
                stderr=-1,
                env=_environment(config),
                cwd=config.folder,
                start_new_session=True,
            )
        except OSError as error:
            raise LearnerUnfit(f"cannot start {config.program[0]}: {error}") from None
    child = Child(process)
    try:
        task_status.started(child)
        await child.tend(log)
    finally:
        child.kill()


def _environment(config: LearnerConfig) -> dict[str, str]:
    """No secret of the node's environment goes along."""
    assert learner_package.__file__ is not None
    kept = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    return kept | {
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": str(config.folder),
        "TMPDIR": str(config.folder),
        "PYTHONPATH": str(Path(learner_package.__file__).resolve().parent.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": str(config.threads),
        "MALLOC_ARENA_MAX": "1",
    }


async def _lines(stream: trio.abc.ReceiveStream, log: Callable[[str], None]) -> None:
    """Log each line of a stream until its end; a line that is too long is cut into several."""
    pending = b""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        async for data in stream:
            *whole, pending = (pending + data).split(b"\n")
            if len(pending) > LOG_LINE_MAX:
                whole.append(pending)
                pending = b""
            for line in whole:
                for start in range(0, len(line), LOG_LINE_MAX):
                    log(line[start : start + LOG_LINE_MAX].decode(errors="replace"))
    if pending:
        log(pending[:LOG_LINE_MAX].decode(errors="replace"))
