from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio

from learner.manifest import Mlp
from node import learner_pool
from node.learner_pool import (
    JobFailed,
    Learner,
    LearnerConfig,
    LearnerDied,
    LearnerUnfit,
    Score,
    open_learner,
)
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
print("started", os.getpid())
while True:
    try: request = pipe.receive()
    except ParentGone: sys.exit(0)
    if isinstance(request, Describe): pipe.send(msgspec.structs.replace(ready, id=request.id))
    elif isinstance(request, Train):
        pipe.send(Progress(id=request.id, step=1, steps=5, loss=0.5))
        if behaviour == "crash": os.abort()
        if behaviour == "nonsense": os.write(pipe._stdout, b"\\0\\0\\0\\1\\xc1")
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


async def cancelled_during(learner: Learner) -> float:
    """Cancel a training at its first progress; returns the seconds until the call was over."""
    cancelled_at = 0.0
    with trio.CancelScope() as scope:

        def cancel(_: object) -> None:
            nonlocal cancelled_at
            cancelled_at = cancelled_at or trio.current_time()
            scope.cancel()

        await learner.train(ENDLESS, await_base(), DIGITS, SEED, cancel)
    assert scope.cancelled_caught
    return trio.current_time() - cancelled_at


def await_base() -> bytes:
    return BASE[0]


BASE = [b""]


async def test_the_real_learner_does_every_kind_of_job_cancels_one_and_outlives_a_kill(tmp_path: Path) -> None:
    log = Log()
    async with open_learner(LearnerConfig(tmp_path, device="cpu"), log.append) as learner:
        ready = await learner.describe()
        assert ready.conforms
        assert ready.device == "cpu"
        base = BASE[0] = await learner.init(MANIFEST)
        assert len(base) == MANIFEST.update_size()
        state = await learner.train(MANIFEST, base, DIGITS, SEED)
        assert state == await learner.train(MANIFEST, base, DIGITS, SEED)
        assert state != base
        assert await learner.evaluate(MANIFEST, state, DIGITS) == Score(93, 360)
        classes = await learner.predict(MANIFEST, state, DIGITS)
        assert len(classes) == 360

        pid = learner.pid
        assert await cancelled_during(learner) < 0.2
        assert await learner.evaluate(MANIFEST, state, DIGITS) == Score(93, 360)
        assert learner.pid == pid  # the cancelled job did not cost the process its life

        with pytest.raises(JobFailed, match="magic") as caught:
            await learner.train(MANIFEST, b"x" * 100, DIGITS, SEED)
        assert caught.value.kind == "state"

        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(LearnerDied, match="signal 9"):
            await learner.train(ENDLESS, base, DIGITS, SEED)
        assert await learner.train(MANIFEST, base, DIGITS, SEED) == state
        last = learner.pid
    assert last is not None
    assert not is_running(last)
    assert [path.suffix for path in tmp_path.iterdir()] == [".fldata"]
    assert log == []


async def test_a_learner_that_does_not_answer_a_cancel_is_killed_in_time_with_all_its_children(tmp_path: Path) -> None:
    log = Log()
    async with open_learner(fake(tmp_path, "stuck"), log.append) as learner:
        assert await cancelled_during(learner) < 0.2
        await learner.describe()
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
        with pytest.raises(LearnerDied, match="longer than"):
            await learner.train(MANIFEST, b"base", DIGITS, SEED)


async def test_leaving_the_block_in_the_middle_of_a_job_leaves_no_process(tmp_path: Path) -> None:
    log = Log()
    started = trio.Event()
    with pytest.raises(ZeroDivisionError):
        async with open_learner(fake(tmp_path, "stuck"), log.append) as learner, trio.open_nursery() as nursery:

            async def work() -> None:
                await learner.train(MANIFEST, b"base", DIGITS, SEED, lambda _: started.set())

            nursery.start_soon(work)
            await started.wait()
            await learner_logged(log)
            nursery.cancel_scope.cancel()
            await leave()
    assert not is_running(log.pid())


async def leave() -> None:
    raise ZeroDivisionError


async def learner_logged(log: Log) -> None:
    while not log:
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
    manifest = digits_manifest(model=Mlp((4, 3)), batch_size=2, steps=1)
    datasets = [small_dataset(scale=-scale).encode() for scale in range(3)]
    async with open_learner(LearnerConfig(tmp_path, device="cpu"), print) as learner:
        base = await learner.init(manifest)
        states = [await learner.train(manifest, base, dataset, SEED) for dataset in datasets]
        assert len(list(tmp_path.glob("*.fldata"))) == 2
        assert [await learner.train(manifest, base, dataset, SEED) for dataset in datasets] == states
    assert (tmp_path / "mine.txt").exists()
    assert not (tmp_path / "old.state").exists()
