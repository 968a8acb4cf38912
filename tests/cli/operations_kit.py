"""Commands as processes, and nodes in the background of which none is left behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cli.processes import end_nodes

LIMIT_S: Final = 180


def flnode(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run one command line as a user does; FLNODE_ variables of whoever runs the tests stay out."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("FLNODE_")}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, arguments)],
        env={**environ, **environment}, capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip


def ok(*arguments: object, **environment: str) -> str:
    """What a command that succeeds prints."""
    done = flnode(*arguments, **environment)
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def ok_json(*arguments: object) -> Any:
    """The JSON that a command that succeeds prints."""
    return json.loads(ok(*arguments, "--json"))


def refused(code: int, *arguments: object, **environment: str) -> str:
    """The one line of a command that fails."""
    done = flnode(*arguments, **environment)
    assert done.returncode == code, done
    assert done.stdout == ""
    assert done.stderr.startswith("flnode: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@contextmanager
def nodes_end(root: Path) -> Iterator[None]:
    """On the way out, whatever the reason, no node whose directory is somewhere under `root` is left."""
    try:
        yield
    finally:
        end_nodes(path.parent for path in root.rglob("node.pid"))


def processes_that_name(folder: Path) -> list[str]:
    """The command lines of whatever runs with this folder in its arguments."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found.append(command)
    return found
