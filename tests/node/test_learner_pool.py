from __future__ import annotations

import dataclasses
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import example, given, settings
from hypothesis import strategies as st

from learner import protocol
from learner.presets import mlp
from learner.protocol import Done, Failed, Progress, Ready, Reply, Scored, Walls
from node import learner_child, learner_pool
from node.learner_pool import (
    JobFailed,
    Learner,
    LearnerConfig,
    LearnerDied,
    LearnerUnfit,
    Score,
    open_learner,
)
from tests.learner import numpy_twin as twin
from tests.learner.examples import DIGITS, digits_manifest, small_dataset

SEED = bytes(32)
MANIFEST = digits_manifest(steps=5)
ENDLESS = digits_manifest(steps=100_000)

# A stand-in for the process that imports no torch: it speaks the protocol, and its behaviour is named by its argument.
FAKE = """
import os, sys, time, msgspec
from learner import protocol
from learner.process import ParentGone, Pipe
from learner.protocol import *
behaviour = sys.argv[1]
pipe = Pipe.take_over()
if behaviour == "mute":
    time.sleep(60)
if behaviour == "stillborn":
    print("no such device", file=sys.stderr); sys.exit(CANNOT_START)
if behaviour == "babble":
    os.write(pipe._stdout, b"\\xff" * 16)
ready = Ready(id=0, conforms=behaviour != "unfit", reason="an integer matrix product is wrong", torch="0", device="cpu",
              backend="f64", threads=1, walls=Walls(), import_ms=0.0, check_ms=0.0)
pipe.send(ready)
if os.fork() == 0:
    os.close(1); time.sleep(60)  # a grandchild in the same session
print("started", os.getpid(), flush=True)
while True:
    try: request = pipe.receive()
    except ParentGone: sys.exit(0)
    if isinstance(request, Describe): pipe.send(msgspec.structs.replace(ready, id=request.id))
    elif isinstance(request, Train):
        pipe.send(Progress(id=request.id, step=1, steps=5, loss=0.5))
        if behaviour == "crash": os.abort()
        if behaviour == "frame": os.write(pipe._stdout, bytes.fromhex(sys.argv[2]))
        if behaviour == "quits": sys.exit(CANNOT_START)
        if behaviour == "nonsense": os.write(pipe._stdout, b"\\0\\0\\0\\1\\xc1")
        if behaviour in ("empty-handed", "short", "link"):
            if behaviour == "short": open(request.out, "wb").write(b"x")
            if behaviour == "link": os.symlink(sys.executable, request.out)
            pipe.send(Done(id=request.id, elapsed_ms=0.0)); continue
        if behaviour == "other": pipe.send(Scored(id=request.id, correct=1, total=1)); continue
        time.sleep(60)  # stuck: never looks at stdin
"""


class Log(list[str]):
    """Collects the lines of stderr."""

    def pid(self) -> int:
        return int(self[-1].removeprefix("started "))


def fake(folder: Path, behaviour: str, **changes: object) -> LearnerConfig:
    fields = {"program": (sys.executable, "-P", "-c", FAKE, behaviour), "start_timeout_s": 20.0, "sandbox": "off"}
    return LearnerConfig(folder, **fields | changes)  # type: ignore[arg-type]


def is_running(pid: int) -> bool:
    """Is any process of this session left? A zombie of init's is not."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[3] == str(pid) and fields[0] != "Z":
                return True
    return False


async def cancelled_during(learner: Learner, base: bytes) -> float:
    """Cancel a training at its first progress; returns the seconds until the call was over."""
    cancelled_at: list[float] = []
    with trio.CancelScope() as scope:

        def cancel(_: object) -> None:
            cancelled_at.append(trio.current_time())
            scope.cancel()

        await learner.train(ENDLESS, base, DIGITS, SEED, cancel)
    assert scope.cancelled_caught
    return trio.current_time() - cancelled_at[0]


def twin_result() -> tuple[bytes, tuple[int, int]]:
    """State and score of one round of MANIFEST, by the numpy version."""
    job = twin.Job(MANIFEST.encode())
    features, labels, train = twin.dataset(DIGITS)
    state = twin.train(job, twin.initial(job), features[:train], labels[:train], SEED)
    return twin.canonical(state, job.bits), twin.score(job, state, features[train:], labels[train:])


async def test_the_real_learner_does_every_kind_of_job_cancels_one_and_outlives_a_kill(tmp_path: Path) -> None:
    log = Log()
    expected, score = twin_result()
    async with open_learner(LearnerConfig(tmp_path, device="cpu"), log.append) as learner:
        ready = await learner.describe()
        assert ready.conforms
        assert ready.device == "cpu"
        base = await learner.init(MANIFEST)
        assert len(base) == MANIFEST.update_size()
        assert await learner.train(MANIFEST, base, DIGITS, SEED) == expected
        assert await learner.evaluate(MANIFEST, expected, DIGITS) == Score(*score)
        assert len(await learner.predict(MANIFEST, expected, DIGITS)) == 360

        pid = learner.pid
        assert pid is not None
        assert await cancelled_during(learner, base) < 10  # the job would take far longer
        assert await learner.evaluate(MANIFEST, expected, DIGITS) == Score(*score)
        assert learner.pid == pid  # the cancelled job did not cost the process its life

        with pytest.raises(JobFailed, match="magic") as caught:
            await learner.train(MANIFEST, b"x" * 100, DIGITS, SEED)
        assert caught.value.kind == "state"

        with pytest.raises(LearnerDied, match="signal 9"):
            await learner.train(ENDLESS, base, DIGITS, SEED, lambda _: os.kill(pid, signal.SIGKILL))
        assert await learner.train(MANIFEST, base, DIGITS, SEED) == expected
        last = learner.pid
        assert last is not None
        assert last != pid
    assert not is_running(last)
    assert {name.rpartition(".")[2] for name in os.listdir(tmp_path)} == {"fldata"}
    assert log == []


async def test_a_learner_that_does_not_answer_a_cancel_is_killed_in_time_with_all_its_children(tmp_path: Path) -> None:
    log = Log()
    async with open_learner(fake(tmp_path, "stuck"), log.append) as learner:
        assert await cancelled_during(learner, b"base") < 10  # it would never end
        await learner.describe()
        await logged(log, 2)
        first, second = (int(line.removeprefix("started ")) for line in log[:2])
        assert not is_running(first)
        assert is_running(second)
    assert not is_running(second)


@pytest.mark.parametrize(
    ("behaviour", "words"), [("crash", "signal 6"), ("nonsense", "not a reply"), ("babble", "not a reply")]
)
async def test_a_learner_that_crashes_or_babbles_is_a_typed_error_and_the_next_call_starts_another(
    tmp_path: Path, behaviour: str, words: str
) -> None:
    log = Log()
    async with open_learner(fake(tmp_path, behaviour), log.append) as learner:
        for _ in range(2):
            with pytest.raises(LearnerDied, match=words):
                await learner.train(MANIFEST, b"base", DIGITS, SEED)


@pytest.mark.parametrize(
    "body",
    [
        msgspec.msgpack.encode({"type": "failed", "id": 2, "kind": "x", "message": "#"}).replace(b"#", b"\xff"),
        b"\x81\xa1x" * 20_000,  # maps in maps
        b"\xdf\xff\xff\xff\xff",  # a map of 4 billion entries
        b"\xc6\xff\xff\xff\xff",
        b"",
        protocol.encode(Scored(id=1, correct=2**63, total=-1))[4:],
        protocol.encode(Progress(id=1, step=-1, steps=2**60, loss=0.0))[4:],
    ],
    ids=["text", "nested", "map", "bytes", "empty", "score", "progress"],
)
async def test_no_frame_whatever_is_in_it_is_worse_than_a_dead_learner(tmp_path: Path, body: bytes) -> None:
    frame = len(body).to_bytes(4, "big") + body
    config = fake(tmp_path, "frame")
    config = dataclasses.replace(config, program=(*config.program, frame.hex()))
    async with open_learner(config, print) as learner:
        with pytest.raises(LearnerDied, match="not a reply"):
            await learner.train(MANIFEST, b"base", DIGITS, SEED)
        assert learner.pid is None


REPLIES = st.sampled_from(
    [
        Ready(id=0, conforms=True, reason="", torch="0", device="cpu", backend="f64", threads=1,
              walls=Walls(missing=("all",)), import_ms=0.0, check_ms=0.0),
        Progress(id=1, step=1, steps=5, loss=0.5),
        Done(id=1, elapsed_ms=1.0),
        Scored(id=1, correct=1, total=2),
        Failed(id=1, kind="state", message="no"),
    ]
)  # fmt: skip
TREES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["type", "id", "walls"]), inner),
)
EDITS = st.lists(st.tuples(st.integers(0, 300), st.integers(0, 3), st.binary(max_size=6)), max_size=4)


def edited(reply: Reply, edits: list[tuple[int, int, bytes]]) -> bytes:
    raw = msgspec.msgpack.encode(reply)
    for at, cut, added in edits:
        at %= len(raw) + 1
        raw = raw[:at] + added + raw[at + cut :]
    return raw


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=100) | TREES.map(msgspec.msgpack.encode) | st.builds(edited, REPLIES, EDITS))
@example(b"\x91" * 60_000)
@example(b"\xdd\xff\xff\xff\xff")
@example(b"\x82\xa4type\xa5ready\xa5walls" + b"\x81\xa1z" * 20_000)
@example(b"\x82\xa4type\xa5ready\xa5walls\x81\xa7missing\xdd\xff\xff\xff\xff")
@example(b"\x81\xd9\x04\xff\xff\xff\xff\xa1x")
def test_whatever_a_process_sends_is_a_reply_or_not_a_reply(body: bytes) -> None:
    with suppress(learner_child.NotAReply):
        assert isinstance(learner_child.decode_reply(body), Reply)


async def test_a_learner_that_ends_in_the_middle_of_a_job_has_died_whatever_it_says_by_its_status(
    tmp_path: Path,
) -> None:
    async with open_learner(fake(tmp_path, "quits"), print) as learner:
        with pytest.raises(LearnerDied, match="exited with status 78"):
            await learner.train(MANIFEST, b"base", DIGITS, SEED)
        with trio.CancelScope() as scope:
            await learner.train(MANIFEST, b"base", DIGITS, SEED, lambda _: scope.cancel())
        assert scope.cancelled_caught


async def test_a_learner_that_cannot_start_or_does_not_conform_says_so(tmp_path: Path) -> None:
    log = Log()
    for config, words in (
        (fake(tmp_path, "stillborn"), "its log says why"),
        (fake(tmp_path, "unfit"), "product is wrong"),
        (LearnerConfig(tmp_path, program=("/no/such/program",)), "cannot start"),
    ):
        async with open_learner(config, log.append) as learner:
            with pytest.raises(LearnerUnfit, match=words):
                await learner.describe()
    assert "no such device" in log


async def test_a_learner_that_is_not_ready_in_time_is_killed(tmp_path: Path) -> None:
    async with open_learner(fake(tmp_path, "mute", start_timeout_s=0.2), print) as learner:
        with pytest.raises(LearnerDied, match="not ready"):
            await learner.describe()


async def test_a_job_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    async with open_learner(fake(tmp_path, "stuck", job_timeout_s=0.2), print) as learner:
        with pytest.raises(JobFailed, match="longer than") as caught:
            await learner.train(MANIFEST, b"base", DIGITS, SEED)
        assert caught.value.kind == "timeout"
        assert learner.pid is None


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("empty-handed", "left no result"),
        ("short", "not of 38708 bytes"),
        ("link", "left no result"),
        ("other", "Train with Scored"),
    ],
)
async def test_a_process_that_was_taken_over_cannot_pass_off_a_wrong_result(
    tmp_path: Path, behaviour: str, words: str
) -> None:
    async with open_learner(fake(tmp_path, behaviour), print) as learner:
        with pytest.raises(LearnerDied, match=words):
            await learner.train(MANIFEST, b"base", DIGITS, SEED)
        assert learner.pid is None


async def test_leaving_the_block_ends_the_jobs_of_other_tasks_and_every_process(tmp_path: Path) -> None:
    log = Log()
    started = trio.Event()
    ends: list[str] = []

    async def work(learner: Learner) -> None:
        try:
            await learner.train(MANIFEST, b"base", DIGITS, SEED, lambda _: started.set())
        except LearnerDied as error:
            ends.append(str(error))

    async with trio.open_nursery() as nursery, open_learner(fake(tmp_path, "stuck"), log.append) as learner:
        nursery.start_soon(work, learner)
        nursery.start_soon(work, learner)  # waits its turn, which never comes
        await started.wait()
        await logged(log, 1)
    assert ends == ["killed by signal 9", "closed"]
    assert not is_running(log.pid())


async def test_an_exception_leaves_the_block_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with open_learner(fake(tmp_path, "stuck"), print):
            raise ZeroDivisionError


async def logged(log: Log, lines: int) -> None:
    with trio.fail_after(10):
        while len(log) < lines:
            await trio.lowlevel.checkpoint()


async def test_callers_wait_their_turn_and_a_faulty_progress_function_is_the_caller_s_own_error(tmp_path: Path) -> None:
    def faulty(_: object) -> None:
        raise KeyError("mine")

    async with open_learner(LearnerConfig(tmp_path, device="cpu"), print) as learner:
        base = await learner.init(MANIFEST)
        pid = learner.pid
        with pytest.raises(KeyError, match="mine"):
            await learner.train(ENDLESS, base, DIGITS, SEED, faulty)
        results: dict[int, bytes] = {}

        async def work(number: int) -> None:
            results[number] = await learner.train(MANIFEST, base, DIGITS, bytes([number]) * 32)

        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(work, number)
        assert len(set(results.values())) == 4
        assert learner.pid == pid


async def test_only_the_datasets_used_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learner_pool, "DATASETS_MAX", 2)
    (tmp_path / "old.state").write_bytes(b"left by a node that was killed")
    (tmp_path / "mine.txt").write_bytes(b"not ours")
    manifest = digits_manifest(model=mlp((4, 3)), batch_size=2, steps=1)
    datasets = [small_dataset(scale=-scale).encode() for scale in range(3)]
    async with open_learner(LearnerConfig(tmp_path, device="cpu"), print) as learner:
        base = await learner.init(manifest)
        states = [await learner.train(manifest, base, dataset, SEED) for dataset in datasets]
        assert sum(name.endswith(".fldata") for name in os.listdir(tmp_path)) == 2
        assert [await learner.train(manifest, base, dataset, SEED) for dataset in datasets] == states
    assert (tmp_path / "mine.txt").exists()
    assert not (tmp_path / "old.state").exists()
