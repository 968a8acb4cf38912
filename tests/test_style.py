"""The house rules that a machine can check: linters, types, who imports whom, and the size of files and functions."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGES = ("chain", "cli", "learner", "node", "tests")
FILE_LINES_MAX = 400
TEST_LINES_MAX = 600  # tables of cases are long and simple
FUNCTION_LINES_MAX = 60
# A file or function that is better long than split, and why.
FILE_EXCEPTIONS: dict[str, str] = {
    "chain/consensus.py": "the protocol's rules and the machine that follows them are read side by side",
}
FUNCTION_EXCEPTIONS: dict[str, str] = {}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def lines_of(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Every function of a file as (file:name, lines without its docstring)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            docstring = ast.get_docstring(node, clean=False)
            lines = (node.end_lineno or 0) - node.lineno + 1
            yield f"{name_of(path)}:{node.name}", lines - (docstring.count("\n") + 1 if docstring else 0)


def run(*command: str) -> None:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"


def tool(name: str) -> str:
    return shutil.which(name, path=str(Path(sys.executable).parent)) or name


def test_ruff_finds_nothing() -> None:
    run(tool("ruff"), "check", ".")


def test_the_pure_packages_pass_mypy_in_strict_mode() -> None:
    run(sys.executable, "-m", "mypy")


def test_nobody_imports_what_the_architecture_forbids() -> None:
    run(tool("lint-imports"), "--no-logo", "--no-cache")


def test_the_dockerfile_passes_its_linter() -> None:
    run(tool("hadolint"), "Dockerfile")


def test_every_file_is_short() -> None:
    limits = {path: TEST_LINES_MAX if name_of(path).startswith("tests/") else FILE_LINES_MAX for path in sources()}
    long = {name_of(path): lines for path, limit in limits.items() if (lines := lines_of(path)) > limit}
    assert long.keys() - FILE_EXCEPTIONS.keys() == set(), long


def test_every_function_is_short() -> None:
    long = {name: lines for path in sources() for name, lines in functions(path) if lines > FUNCTION_LINES_MAX}
    assert long.keys() - FUNCTION_EXCEPTIONS.keys() == set(), long


def test_every_module_of_the_packages_says_what_it_is_for() -> None:
    silent = [
        name_of(path)
        for path in sources()
        if path.stat().st_size
        and not name_of(path).startswith("tests/")
        and ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) is None
    ]
    assert silent == []
