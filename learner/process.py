"""The learner's process: `python -m learner.process --folder DIR`. Frames on stdin and stdout, logs on stderr.

It puts up its walls, imports torch, checks that the machine conforms, says `Ready`, and then does jobs one at a time
until stdin ends. A `Cancel` is seen between two steps. A machine that does not conform, or has not all the walls that
are required, refuses every job. A bug is
a traceback on stderr and a dead process; the node starts another.
"""

from __future__ import annotations

import argparse
import os
import select
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from learner import protocol, sandbox
from learner.errors import JobError, Stopped
from learner.protocol import (
    CANNOT_START,
    PROGRESS_INTERVAL_S,
    SPEAKS_FIRST,
    AnyReply,
    AnyRequest,
    Cancel,
    Cancelled,
    Describe,
    Failed,
    FrameTooLong,
    Job,
    Progress,
    Ready,
    Walls,
)

if TYPE_CHECKING:
    from learner.workbench import Workbench

_READ_BYTES = 64 * 1024


class ParentGone(Exception):
    """Stdin ended or makes no sense: there is nobody left to work for."""


class Pipe:
    """The two ends of the conversation."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._frames = protocol.FrameBuffer()

    @classmethod
    def take_over(cls) -> Pipe:
        """Keep stdin and stdout for frames; from now on a stray print goes to stderr and a stray read gets nothing."""
        stdin, stdout = os.dup(0), os.dup(1)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.close(nothing)
        os.dup2(2, 1)
        return cls(stdin, stdout)

    def receive(self) -> AnyRequest:
        """The next request, waiting for it.

        Raises:
            ParentGone: stdin ended, or holds something else than frames of requests.
        """
        while (request := self._next()) is None:
            self._fill()
        return request

    def poll(self) -> AnyRequest | None:
        """The next request if it is there already; raises like receive."""
        if (request := self._next()) is not None:
            return request
        if not select.select([self._stdin], [], [], 0)[0]:
            return None
        self._fill()
        return self._next()

    def send(self, reply: AnyReply) -> None:
        """Write one frame; raises ParentGone when nobody reads any more."""
        left = memoryview(protocol.encode(reply))
        try:
            while left:
                left = left[os.write(self._stdout, left) :]
        except BrokenPipeError:
            raise ParentGone("stdout is closed") from None

    def _next(self) -> AnyRequest | None:
        try:
            body = self._frames.next()
            return None if body is None else protocol.decode_request(body)
        except (FrameTooLong, msgspec.DecodeError) as error:
            raise ParentGone(f"not a request: {error}") from None

    def _fill(self) -> None:
        data = os.read(self._stdin, _READ_BYTES)
        if not data:
            raise ParentGone("stdin ended")
        self._frames.feed(data)


def serve(
    pipe: Pipe, workbench: Workbench | None, ready: Ready, clock: Callable[[], float] = time.monotonic
) -> NoReturn:
    """Answer requests until the parent is gone (ParentGone).

    Args:
        workbench: None only where ready.conforms is false.
        clock: seconds, for the spacing of progress.
    """
    while True:
        request = pipe.receive()
        match request:
            case Cancel():
                continue  # the job that it names has ended
            case Describe():
                pipe.send(msgspec.structs.replace(ready, id=request.id))
            case _ if workbench is None or not ready.conforms:
                pipe.send(Failed(id=request.id, kind="nonconforming", message=ready.reason))
            case _:
                pipe.send(_do(pipe, workbench, request, clock))


def _do(pipe: Pipe, workbench: Workbench, job: Job, clock: Callable[[], float]) -> AnyReply:
    reported_at = clock()

    def watch(step: int, steps: int, loss: Callable[[], float]) -> bool:
        nonlocal reported_at
        if _cancelled(pipe, job.id):
            return True
        if clock() - reported_at >= PROGRESS_INTERVAL_S:
            reported_at = clock()
            pipe.send(Progress(id=job.id, step=step, steps=steps, loss=loss()))
        return False

    try:
        return workbench.do(job, watch)
    except Stopped:
        return Cancelled(id=job.id)
    except JobError as error:
        return Failed(id=job.id, kind=error.kind, message=str(error))
    except OSError as error:
        return Failed(id=job.id, kind="file", message=str(error))
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        return Failed(id=job.id, kind="memory", message=f"out of memory: {error}"[:500])


def _cancelled(pipe: Pipe, job_id: int) -> bool:
    while (request := pipe.poll()) is not None:
        if not isinstance(request, Cancel):
            pipe.send(Failed(id=request.id, kind="busy", message=f"job {job_id} is running"))
        elif request.id == job_id:
            return True
    return False


def _is_memory(error: Exception) -> bool:
    """Torch has a type of its own only for CUDA; on the CPU it is a RuntimeError that says so."""
    return isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error)


def _prepare(options: argparse.Namespace, folder: Path) -> tuple[Workbench | None, Ready]:
    """Walls first, then torch: nothing that a library does at import escapes them.

    Raises:
        ImportError: torch is missing.
    """
    device, has_cuda = options.device, Path("/dev/nvidiactl").exists()
    if device == "auto" and has_cuda and options.sandbox == "require":
        print('learner: a GPU is here, but not with all walls: sandbox = "try" would use it', file=sys.stderr)
        device = "cpu"
    may_use_cuda = device.startswith("cuda") or (device == "auto" and has_cuda)
    try:
        walls = sandbox.raise_walls(folder, options.memory_max_mb * 2**20, options.sandbox, may_use_cuda)
    except sandbox.WallMissing as error:
        return None, _unfit(options, str(error))
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch

    from learner.exact.backends.choose import BACKENDS
    from learner.machine import Machine
    from learner.selfcheck import nonconformity
    from learner.speed import measured
    from learner.workbench import Workbench

    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(False)
    if device == "auto":
        device = "cuda:0" if may_use_cuda and torch.cuda.is_available() else "cpu"
    machine = Machine(torch.device(device), BACKENDS.get(options.backend))  # "auto" is none of them
    imported = time.monotonic()
    reason = nonconformity(machine)
    speed = None if reason else measured(machine)
    ready = Ready(
        id=SPEAKS_FIRST,
        conforms=not reason,
        reason=reason,
        torch=str(torch.__version__),
        device=device,
        backend=options.backend,
        threads=options.threads,
        walls=walls,
        import_ms=(imported - started) * 1e3,
        check_ms=(time.monotonic() - imported) * 1e3,
        step_ms=0.0 if speed is None else speed.step_ms,
        multiplications_per_s=0.0 if speed is None else speed.multiplications_per_s,
    )
    return Workbench(folder, machine), ready


def _unfit(options: argparse.Namespace, reason: str) -> Ready:
    """What a process says that will do no job, and therefore need not import torch."""
    return Ready(
        id=SPEAKS_FIRST, conforms=False, reason=reason, torch="", device=options.device, backend=options.backend,
        threads=options.threads, walls=Walls(), import_ms=0.0, check_ms=0.0,
    )  # fmt: skip


def _device(text: str) -> str:
    number = text.removeprefix("cuda:")
    if text in ("auto", "cpu") or (number != text and number.isascii() and number.isdigit()):
        return text
    raise argparse.ArgumentTypeError(f"{text!r}: auto, cpu or cuda:N")


def main(arguments: list[str] | None = None) -> int:
    """Run the process; returns the exit status: 0 when stdin ended, CANNOT_START when trying again is no use."""
    parser = argparse.ArgumentParser(prog="learner.process", description="Does training jobs for a node.")
    parser.add_argument("--folder", type=Path, required=True, help="where jobs' files are; nothing else is writable")
    parser.add_argument("--threads", type=int, default=1, choices=range(1, 257), metavar="N")
    parser.add_argument("--device", type=_device, default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--backend", choices=("auto", "f64", "f32", "int8"), default="auto")
    parser.add_argument("--memory-max-mb", type=int, default=2048, metavar="N")
    parser.add_argument("--sandbox", choices=sandbox.MODES, default="require")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve(strict=True)
    pipe = Pipe.take_over()
    try:
        workbench, ready = _prepare(options, folder)
    except ImportError as error:
        print(f"learner: cannot start: {error}", file=sys.stderr)
        return CANNOT_START
    try:
        pipe.send(ready)
        serve(pipe, workbench, ready)
    except ParentGone:
        return 0


if __name__ == "__main__":
    sys.exit(main())
