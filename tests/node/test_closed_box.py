"""A learner that was taken over by what it was given: all that it tries is refused, and its node goes on with it."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
import trio

from cli.status import learner_in_words
from learner import data
from learner.machine import CPU
from learner.manifest import Manifest
from learner.presets import mlp
from learner.train import initial_bytes, load_samples, train_round
from node.learner_pool import JobFailed, Learner, LearnerConfig, LearnerUnfit, open_learner
from node.learner_screen import Activity, learner_info
from tests.learner.examples import DIGITS, digits_manifest

MANIFEST = digits_manifest(steps=5)
SEED = bytes(32)

# The real process and its real walls; before a job's work it does what its first argument says, and tells how it went.
TAKEN_OVER = """
import ctypes, os, socket, sys
from pathlib import Path
import learner.process, learner.workbench
place, attempts = Path(sys.argv.pop(1)), sys.argv.pop(1).splitlines()
honest = learner.workbench.Workbench.do
def do(bench, job, watch):
    for attempt in attempts:
        try: exec(attempt)
        except Exception as error: print(attempt, type(error).__name__, sep=" -> ", file=sys.stderr)
        else: print(attempt, "done", sep=" -> ", file=sys.stderr)
    return honest(bench, job, watch)
learner.workbench.Workbench.do = do
sys.exit(learner.process.main(sys.argv[1:]))
"""
ATTEMPTS = {
    "socket.create_connection(('127.0.0.1', 1))": "PermissionError",
    "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)": "PermissionError",
    "socket.socket(socket.AF_UNIX).connect(str(place / 'api.sock'))": "PermissionError",
    "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)": "PermissionError",
    "(place / 'account.key').read_text()": "PermissionError",
    "os.link(place / 'account.key', 'key')": "OSError",
    "(place / 'account.key').chmod(0o644)": "PermissionError",
    "(place / 'account.key').unlink()": "PermissionError",
    "(place / 'new').write_text('x')": "PermissionError",
    "Path('/tmp/flnode-was-here').write_text('x')": "PermissionError",
    "Path(f'/proc/{os.getppid()}/environ').read_bytes()": "PermissionError",
    "os.kill(os.getppid(), 9)": "PermissionError",
    "assert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0": "AssertionError",
    "os.fork()": "PermissionError",
    "os.execv('/bin/sh', ['sh', '-c', 'true'])": "PermissionError",
    "bytearray(2 ** 31)": "MemoryError",
    "Path('big').write_bytes(bytes(65 * 2 ** 20))": "OSError",
}


def taken_over(folder: Path, place: Path) -> LearnerConfig:
    program = (sys.executable, "-P", "-c", TAKEN_OVER, str(place), "\n".join(ATTEMPTS))
    return LearnerConfig(folder, device="cpu", memory_max_mb=1024, program=program)


async def trained(learner: Learner, manifest: Manifest) -> bytes:
    return await learner.train(manifest, await learner.init(manifest), DIGITS, SEED)


async def test_a_learner_that_was_taken_over_gets_nowhere_and_the_next_job_is_done_as_ever(tmp_path: Path) -> None:
    place, log = tmp_path / "node", list[str]()
    place.mkdir()
    (place / "account.key").write_text("secret")
    os.chmod(place / "account.key", 0o600)
    with socket.socket(socket.AF_UNIX) as api:
        api.bind(str(place / "api.sock"))
        api.listen()
        async with open_learner(taken_over(place / "learner", place), log.append) as learner:
            samples = load_samples(data.decode(DIGITS), CPU)
            expected = train_round(MANIFEST, initial_bytes(MANIFEST), samples, SEED)
            assert await trained(learner, MANIFEST) == expected
            with trio.fail_after(10):
                while len(log) < 2 * len(ATTEMPTS):
                    await trio.lowlevel.checkpoint()
    tried = dict(line.rsplit(" -> ", 1) for line in log)
    assert tried == ATTEMPTS
    assert (place / "account.key").read_text() == "secret"
    assert (place / "account.key").stat().st_mode & 0o777 == 0o600
    assert {each.name for each in place.iterdir()} == {"account.key", "api.sock", "learner"}


async def test_a_job_that_takes_too_much_memory_is_refused_and_the_same_process_does_the_next(tmp_path: Path) -> None:
    large = digits_manifest(model=mlp((64, 65536, 10)), batch_size=1024, steps=2)
    async with open_learner(LearnerConfig(tmp_path, device="cpu", memory_max_mb=512), print) as learner:
        expected = await trained(learner, MANIFEST)
        pid = learner.pid
        with pytest.raises(JobFailed, match="memory") as caught:
            await trained(learner, large)
        assert caught.value.kind == "memory"
        assert await trained(learner, MANIFEST) == expected
        assert learner.pid == pid


async def test_without_a_wall_no_job_is_done_unless_the_operator_says_so_and_status_says_why(tmp_path: Path) -> None:
    program = (
        "import sys, learner.sandbox, learner.process\n"
        "def refuse(folder): raise OSError(38, 'Function not implemented')\n"
        "learner.sandbox._landlock = refuse\n"
        "sys.exit(learner.process.main(sys.argv[1:]))"
    )
    for sandbox in ("require", "try"):
        config = LearnerConfig(
            tmp_path / sandbox,
            device="cpu",
            sandbox=sandbox,
            program=(sys.executable, "-P", "-c", program),  # type: ignore[arg-type]
        )
        async with open_learner(config, print) as learner:
            assert learner_info(Activity("idle"), learner).state == "starting"
            if sandbox == "require":
                with pytest.raises(LearnerUnfit, match=r"landlock: \[Errno 38\]"):
                    await learner.init(MANIFEST)
                told = learner_info(Activity("idle"), learner)
                assert told.state == "failed"
                assert "landlock" in learner_in_words(told)
            else:
                assert len(await learner.init(MANIFEST)) == MANIFEST.update_size()
                told = learner_info(Activity("idle"), learner)
                assert told.state == "idle"
                assert len(told.walls_missing) == 1
                assert "sandbox is not whole: landlock" in learner_in_words(told)
