from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from learner import sandbox, seccomp
from learner.protocol import Walls
from learner.sandbox import WallMissing, raise_walls

MEMORY = 2**30
COLUMN = 1 if platform.machine() == "aarch64" else 0


def walled(folder: Path, attempt: str) -> str:
    """The name of the error that `attempt` meets behind the walls, or "done"."""
    program = (
        "import ctypes, mmap, os, resource, signal, socket, subprocess, sys, threading\n"
        "from pathlib import Path\n"
        "from learner.sandbox import raise_walls\n"
        "folder = Path(sys.argv[1]).resolve()\n"
        f"walls = raise_walls(folder / 'own', {MEMORY}, 'require', False)\n"
        "assert walls.missing == () and walls.landlock_abi and walls.seccomp and walls.limits\n"
        "def call(*words):\n"
        "    library = ctypes.CDLL(None, use_errno=True)\n"
        "    if library.syscall(*map(ctypes.c_long, words)) < 0:\n"
        "        code = ctypes.get_errno(); raise OSError(code, os.strerror(code))\n"
        f"try:\n    {attempt}\n    print('done')\n"
        "except Exception as error:\n    print(type(error).__name__)"
    )
    (folder / "own").mkdir()
    (folder / "key").write_text("secret")
    done = subprocess.run(
        [sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


@pytest.fixture(scope="module", autouse=True)
def _walls_can_be_raised_here(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("probe")
    program = (
        "import sys; from pathlib import Path; from learner.sandbox import raise_walls\n"
        f"print(*raise_walls(Path(sys.argv[1]), {MEMORY}, 'try', False).missing, sep='; ')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    if done.stdout.strip():
        pytest.skip(f"this kernel lacks a wall: {done.stdout.strip()}")


@pytest.mark.parametrize(
    "attempt",
    [
        "(folder / 'own' / 'file').write_bytes(b'x'); os.replace(folder / 'own' / 'file', folder / 'own' / 'other')",
        "thread = threading.Thread(target=print, args=['']); thread.start(); thread.join()",
        "os.urandom(8); open('/dev/null', 'w').write('x'); import sqlite3",
        "signal.pthread_kill(threading.get_ident(), 0); os.sched_setaffinity(0, os.sched_getaffinity(0))",
        "mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()",
    ],
)
def test_the_walls_leave_room_for_the_work(tmp_path: Path, attempt: str) -> None:
    assert walled(tmp_path, attempt) == "done"


@pytest.mark.parametrize(
    ("attempt", "error"),
    [
        ("(folder / 'key').read_text()", "PermissionError"),
        ("(folder / 'key').write_text('')", "PermissionError"),
        ("(folder / 'key').chmod(0o777)", "PermissionError"),
        ("(folder / 'key').unlink()", "PermissionError"),
        ("os.listdir(folder)", "PermissionError"),
        ("Path('/proc/1/environ').read_bytes()", "PermissionError"),
        ("os.symlink('/etc', folder / 'own' / 'link')", "PermissionError"),
        ("socket.socket()", "PermissionError"),
        ("socket.socket(socket.AF_UNIX)", "PermissionError"),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM)", "PermissionError"),
        ("socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)", "PermissionError"),
        ("socket.socket(socket.AF_INET6)", "PermissionError"),
        ("socket.socketpair()", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        (f"call({seccomp.ON_ITSELF['tgkill'][COLUMN]}, os.getppid(), os.getppid(), 0)", "PermissionError"),
        ("resource.prlimit(os.getppid(), resource.RLIMIT_DATA)", "PermissionError"),
        ("os.sched_setaffinity(os.getppid(), {0})", "PermissionError"),
        (f"call({seccomp.REFUSED['ptrace'][COLUMN]}, 16, os.getppid(), 0, 0)", "PermissionError"),
        (f"call({seccomp.REFUSED['io_uring_setup'][COLUMN]}, 1, 0)", "PermissionError"),
        (f"call({seccomp.REFUSED['shmget'][COLUMN]}, 0, 4096, 0o1600)", "PermissionError"),
        ("os.utime(folder / 'key')", "PermissionError"),
        ("os.truncate(folder / 'key', 0)", "PermissionError"),
        ("os.link(folder / 'key', folder / 'own' / 'link')", "OSError"),
        ("os.memfd_create('more')", "PermissionError"),
        ("mmap.mmap(-1, 4096)", "PermissionError"),
        ("os.setuid(12345)", "PermissionError"),
        ("os.execv(sys.executable, [sys.executable])", "PermissionError"),
        ("os.fork()", "PermissionError"),
        ("subprocess.run(['/bin/true'])", "PermissionError"),
        (f"bytearray({2 * MEMORY})", "MemoryError"),
        ("(folder / 'own' / 'big').write_bytes(bytes(65 * 2**20))", "OSError"),
    ],
)
def test_the_walls_stop_what_is_no_part_of_the_work(tmp_path: Path, attempt: str, error: str) -> None:
    assert walled(tmp_path, attempt) == error


def test_a_wall_that_cannot_be_raised_is_reported_or_with_require_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(38, "Function not implemented")

    for wall in ("_no_new_privileges", "_capabilities", "_limits", "_landlock", "_seccomp"):
        monkeypatch.setattr(sandbox, wall, refuse)
    walls = raise_walls(tmp_path, MEMORY, "try", uses_cuda=False)
    assert walls == Walls(missing=walls.missing)
    assert len(walls.missing) == 5
    with pytest.raises(WallMissing, match="landlock"):
        raise_walls(tmp_path, MEMORY, "require", uses_cuda=False)


def test_with_cuda_only_the_first_wall_stands_and_off_raises_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "_no_new_privileges", lambda: 1)
    walls = raise_walls(tmp_path, MEMORY, "try", uses_cuda=True)
    assert walls.no_new_privileges
    assert not walls.seccomp
    assert "CUDA" in walls.missing[0]
    assert raise_walls(tmp_path, MEMORY, "off", uses_cuda=False).missing == ("sandbox: switched off",)
