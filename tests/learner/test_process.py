from __future__ import annotations

import array
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from learner import data, process, protocol
from learner.errors import Diverged
from learner.process import ParentGone, Pipe
from learner.protocol import (
    CANNOT_START,
    FRAME_BYTES_MAX,
    AnyReply,
    Cancel,
    Cancelled,
    Describe,
    Done,
    Evaluate,
    Failed,
    FrameBuffer,
    FrameTooLong,
    Init,
    Predict,
    Progress,
    Ready,
    Scored,
    Train,
    Walls,
)
from learner.train import CPU, initial_bytes, load_samples, train_round
from learner.workbench import Workbench
from tests.learner.examples import DIGITS, digits_manifest

MANIFEST = digits_manifest(steps=5)
TEXT = MANIFEST.encode()
READY = Ready(
    id=0,
    conforms=True,
    reason="",
    torch="0",
    device="cpu",
    backend="f64",
    threads=1,
    walls=Walls(),
    import_ms=0.0,
    check_ms=0.0,
)


class Parent:
    """The node's side of a `serve` that runs in a thread; leaving it ends stdin and awaits the loop's end."""

    def __init__(self, bench: Any, ready: Ready = READY, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.stdin, self.to_child = os.pipe()
        self.from_child, self.stdout = os.pipe()
        self.frames = FrameBuffer()
        self.end: BaseException | None = None

        def run() -> None:
            try:
                process.serve(Pipe(self.stdin, self.stdout), bench, ready, clock)
            except BaseException as error:
                self.end = error
                os.close(self.stdout)

        self.thread = threading.Thread(target=run)

    def __enter__(self) -> Parent:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.to_child)
        self.thread.join()
        os.close(self.stdin)
        os.close(self.from_child)

    def say(self, *requests: Any) -> None:
        os.write(self.to_child, b"".join(protocol.encode(request) for request in requests))

    def hear(self) -> AnyReply:
        while (body := self.frames.next()) is None:
            read = os.read(self.from_child, 65536)
            assert read, f"the process is gone: {self.end!r}"
            self.frames.feed(read)
        return protocol.decode_reply(body)

    def ask(self, request: Any) -> AnyReply:
        self.say(request)
        return self.hear()


class SteppingBench:
    """A job that lasts until it is stopped, or until `steps` steps are done."""

    def __init__(self, steps: int, fault: Exception | None = None) -> None:
        self.steps = steps
        self.fault = fault

    def do(self, job: Any, watch: Callable[[int, int, Callable[[], float]], bool]) -> Done:
        if self.fault is not None:
            raise self.fault
        for step in range(1, self.steps + 1):
            if watch(step, self.steps, lambda: 0.5):
                raise process.Stopped
        return Done(id=job.id, elapsed_ms=0.0)


@pytest.fixture
def bench(tmp_path: Path) -> Workbench:
    (tmp_path / "digits").write_bytes(DIGITS)
    (tmp_path / "base").write_bytes(initial_bytes(MANIFEST))
    return Workbench(tmp_path, CPU)


def training(job: int, **changes: Any) -> Train:
    fields = {"manifest": TEXT, "base": "base", "dataset": "digits", "batch_seed": bytes(32), "out": "next"}
    return Train(id=job, **fields | changes)


def test_every_kind_of_job_gives_what_the_library_computes(bench: Workbench, tmp_path: Path) -> None:
    with Parent(bench) as parent:
        assert isinstance(parent.ask(Init(id=1, manifest=TEXT, out="first")), Done)
        assert isinstance(parent.ask(training(2, base="first")), Done)
        score = parent.ask(Evaluate(id=3, manifest=TEXT, state="next", dataset="digits"))
        predicted = parent.ask(Predict(id=4, manifest=TEXT, state="next", dataset="digits", out="classes"))
        assert parent.ask(Describe(id=5)) == msgspec.structs.replace(READY, id=5)
    assert (tmp_path / "first").read_bytes() == initial_bytes(MANIFEST)
    samples = load_samples(data.decode(DIGITS), CPU)
    assert (tmp_path / "next").read_bytes() == train_round(MANIFEST, initial_bytes(MANIFEST), samples, bytes(32))
    assert isinstance(score, Scored)
    assert isinstance(predicted, Done)
    classes = array.array("H", (tmp_path / "classes").read_bytes())
    right = sum(a == b for a, b in zip(classes, samples.labels[samples.train :].tolist(), strict=True))
    assert (score.correct, score.total) == (right, 360)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("request_", "kind"),
    [
        (training(1, manifest=b"garbage"), "manifest"),
        (training(1, base="digits"), "state"),
        (training(1, dataset="base"), "dataset"),
        (training(1, base="missing"), "file"),
        (training(1, manifest=digits_manifest(bits=8).encode()), "state"),
        (training(1, manifest=digits_manifest(batch_size=1438).encode()), "dataset"),
    ],
)
def test_a_job_that_cannot_be_done_is_refused_with_its_kind_and_the_next_one_is_done(
    bench: Workbench, request_: Train, kind: str
) -> None:
    with Parent(bench) as parent:
        refusal = parent.ask(request_)
        assert isinstance(refusal, Failed)
        assert refusal.kind == kind
        assert isinstance(parent.ask(training(2)), Done)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Diverged("x"), "diverged"),
        (OSError("disk full"), "file"),
        (MemoryError(), "memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), "memory"),
    ],
)
def test_a_fault_of_the_surroundings_has_a_kind(fault: Exception, kind: str) -> None:
    with Parent(SteppingBench(1, fault)) as parent:
        assert parent.ask(training(1)).kind == kind  # type: ignore[union-attr]


def test_a_bug_is_not_hidden_but_ends_the_process() -> None:
    bug = RuntimeError("shape mismatch")
    with Parent(SteppingBench(1, bug)) as parent:
        parent.say(training(1))
        parent.thread.join()
    assert parent.end is bug


def test_a_cancelled_job_ends_without_a_file_and_the_process_goes_on(bench: Workbench, tmp_path: Path) -> None:
    endless = digits_manifest(steps=100_000).encode()
    with Parent(bench) as parent:
        parent.say(training(1, manifest=endless), Cancel(id=1))
        assert parent.hear() == Cancelled(id=1)
        assert not (tmp_path / "next").exists()
        assert isinstance(parent.ask(training(2)), Done)


def test_a_cancel_for_another_job_and_one_that_is_late_change_nothing() -> None:
    with Parent(SteppingBench(3)) as parent:
        parent.say(Cancel(id=9), training(1), Cancel(id=8))
        assert parent.hear() == Done(id=1, elapsed_ms=0.0)
        parent.say(Cancel(id=1))
        assert parent.ask(training(2)) == Done(id=2, elapsed_ms=0.0)


def test_a_second_job_is_refused_while_one_runs() -> None:
    with Parent(SteppingBench(10**9)) as parent:
        parent.say(training(1), training(2))
        busy = parent.hear()
        assert isinstance(busy, Failed)
        assert (busy.id, busy.kind) == (2, "busy")
        parent.say(Cancel(id=1))
        assert parent.hear() == Cancelled(id=1)


def test_progress_is_told_at_most_every_hundred_milliseconds() -> None:
    ticks = iter(range(10**6))
    with Parent(SteppingBench(30), clock=lambda: next(ticks) * 0.03) as parent:
        parent.say(training(1))
        told: list[Progress] = []
        while isinstance(reply := parent.hear(), Progress):
            told.append(reply)
    assert reply == Done(id=1, elapsed_ms=0.0)
    assert [p.loss for p in told] == [0.5] * len(told)
    gaps = [b.step - a.step for a, b in pairwise(told)]
    assert told
    assert all(gap >= 3 for gap in gaps)


def test_a_machine_that_does_not_conform_describes_itself_and_refuses_every_job(bench: Workbench) -> None:
    unfit = msgspec.structs.replace(READY, conforms=False, reason="an integer matrix product is wrong")
    with Parent(bench, unfit) as parent:
        described = parent.ask(Describe(id=1))
        refusal = parent.ask(training(2))
    assert isinstance(described, Ready)
    assert not described.conforms
    assert refusal == Failed(id=2, kind="nonconforming", message=unfit.reason)


@pytest.mark.parametrize("nonsense", [b"\xff\xff\xff\xff", b"\0\0\0\1\xc1", b"\0\0\0\0"])
def test_nonsense_on_stdin_ends_the_process(nonsense: bytes) -> None:
    with Parent(SteppingBench(1)) as parent:
        os.write(parent.to_child, nonsense)
        parent.thread.join()
    assert isinstance(parent.end, ParentGone)


@pytest.mark.parametrize("name", ["../keys", "/etc/passwd", ".hidden", "a/b", "A", "", "x\n", "x" * 101])
def test_a_file_name_that_could_leave_the_folder_is_no_request(name: str) -> None:
    body = msgspec.msgpack.encode(msgspec.to_builtins(training(1)) | {"op": "train", "base": name})
    with pytest.raises(msgspec.ValidationError):
        protocol.decode_request(body)


def test_frames_are_cut_however_they_arrive_and_an_endless_one_is_refused() -> None:
    messages = [Describe(id=number) for number in range(5)]
    stream = b"".join(protocol.encode(message) for message in messages)
    frames = FrameBuffer()
    found = []
    for byte in stream:
        frames.feed(bytes([byte]))
        if (body := frames.next()) is not None:
            found.append(protocol.decode_request(body))
    assert found == messages
    frames.feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(FrameTooLong):
        frames.next()
    with pytest.raises(FrameTooLong):
        protocol.encode(Failed(id=1, kind="x", message="y" * FRAME_BYTES_MAX))


def test_the_real_process_refuses_jobs_where_its_golden_run_differs_and_keeps_prints_out_of_the_frames(
    tmp_path: Path,
) -> None:
    program = (
        "import sys, learner.golden, learner.process\n"
        "learner.golden.recorded = lambda recorded=learner.golden.recorded: recorded() | {'run mlp': '00' * 32}\n"
        "from learner import sandbox\n"
        "sandbox.raise_walls = lambda *_: print('a stray print') or learner.process.protocol.Walls()\n"
        "sys.exit(learner.process.main(['--folder', sys.argv[1], '--device', 'cpu']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        input=protocol.encode(training(7)),
        capture_output=True,
        timeout=60,
        check=True,
    )
    frames = FrameBuffer()
    frames.feed(done.stdout)
    replies = [protocol.decode_reply(frames.next() or b"") for _ in range(2)]
    assert isinstance(replies[0], Ready)
    assert not replies[0].conforms
    assert "run mlp on cpu with f64: expected 0000" in replies[0].reason
    assert isinstance(replies[1], Failed)
    assert replies[1].kind == "nonconforming"
    assert b"a stray print" in done.stderr


def test_a_missing_torch_is_one_clear_line(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from learner.process import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, "--folder", str(tmp_path), "--device", "cpu"],
        input=b"",
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == CANNOT_START
    assert b"learner: cannot start" in done.stderr
    assert len(done.stderr.splitlines()) == 1
