"""The documents are true: their commands run, and what they name exists.

Every ```sh and ```python block of README.md and docs/*.md is run in order, a page in one shell, as a reader would: in a
directory like a fresh clone, with a home of its own, the README first. `flnode start` goes to the background, as in a
terminal of its own. A block that cannot run here says why: ```sh no-test: the reason.
"""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from cli.main import cli
from node import config_doc

ROOT = Path(__file__).parent.parent
RUN = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGES = [*RUN, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]
PACKAGES = ("chain", "cli", "learner", "node")
LIMIT_S = 240
NO_TEST = "no-test:"
UNTESTED_MAX = 8  # of all blocks: a page whose commands nobody runs is a page that lies some day
COMMANDS = ("flnode", "make", "docker", "python", "python3", "pip", "cast", "curl", "sh", "git", ".venv/bin/flnode")
# A reader has one more terminal for it; here it goes to the background.
PRELUDE = """
set -e -o pipefail
flnode() {
    case " $* " in
    *" --detach "*) command flnode "$@" ;;
    " start "*) command flnode "$@" --detach ;;
    *) command flnode "$@" ;;
    esac
}
"""


@dataclass(frozen=True)
class Block:
    """A fenced block. `info` is all that follows the fence."""

    page: str
    line: int
    info: str
    text: str

    @property
    def language(self) -> str:
        return self.info.split(" ")[0]

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def untested(self) -> str | None:
        """The reason why the block is not run; None if it is."""
        _, marker, reason = self.info.partition(NO_TEST)
        return reason.strip() if marker else None


def blocks(page: Path) -> Iterator[Block]:
    info: str | None = None
    start, lines = 0, list[str]()
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fence = line.strip()
        if info is None and fence.startswith("```"):
            info, start, lines = fence.removeprefix("```").strip(), number, []
        elif info is not None and fence == "```":
            yield Block(page.name, start, info, "\n".join(lines) + "\n")
            info = None
        elif info is not None:
            lines.append(line)
    assert info is None, f"{page.name}:{start}: the block does not end"


ALL_BLOCKS = {page.name: list(blocks(page)) for page in PAGES}


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"(?ms)^\s*```.*?^\s*```$", "", page.read_text(encoding="utf-8"))


def code_spans(page: Path) -> list[str]:
    return [" ".join(found[1].split()) for found in re.findall(r"(?s)(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)", prose(page))]


def run_on_a_page() -> list[str]:
    return [page.name for page in RUN if any(each.untested is None for each in runnable(page.name))]


def runnable(page: str) -> list[Block]:
    return [each for each in ALL_BLOCKS[page] if each.language in ("sh", "python")]


@dataclass(frozen=True)
class Walk:
    """A directory like a fresh clone after `make setup`, and how the README's commands went there."""

    clone: Path
    readme: tuple[int, str]  # exit code and output


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    """Who reads another page has walked through the README; whatever was started with the home ends with the tests."""
    root = Path(tempfile.mkdtemp(prefix="docs-"))  # a short path, because sockets must fit into 107 bytes
    clone = root / "flnode"
    clone.mkdir()
    (root / "home").mkdir()
    for name in ("configs", "docs"):
        shutil.copytree(ROOT / name, clone / name)
    (clone / ".venv").symlink_to(sys.prefix)
    try:
        yield Walk(clone, run_page("README.md", clone))
    finally:
        for process in processes_with_home(root / "home"):
            os.kill(process, signal.SIGKILL)
        shutil.rmtree(root)


def processes_with_home(home: Path) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"HOME={home}".encode() in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def script(page: str) -> str:
    parts = [PRELUDE]
    for number, block in enumerate(each for each in runnable(page) if each.untested is None):
        parts.append(f"echo '--- {block.place}' >&2\n")
        if block.language == "python":
            parts.append(f"cat > ../block-{number}.py <<'END-OF-BLOCK'\n{block.text}END-OF-BLOCK\n")
            parts.append(f"python ../block-{number}.py\n")
        else:
            parts.append(block.text)
    return "".join(parts)


def run_page(page: str, clone: Path) -> tuple[int, str]:
    """Run a page's blocks; the shell's exit code and all that was said."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("FLNODE_", "PYTEST_"))}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["HOME"] = str(clone.parent / "home")
    (clone.parent / "script").write_text(script(page))
    shell = subprocess.Popen(
        ["bash", str(clone.parent / "script")], cwd=clone, env=environment, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = shell.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(shell.pid, signal.SIGKILL)
        output, _ = shell.communicate()
        return 124, f"{output}\n{page}: not done after {LIMIT_S} s"
    return shell.returncode, output


@pytest.mark.network
@pytest.mark.parametrize("page", run_on_a_page())
def test_every_command_block_of_a_page_runs(page: str, walk: Walk) -> None:
    code, output = walk.readme if page == "README.md" else run_page(page, walk.clone)
    assert code == 0, output
    assert "Traceback" not in output, output


def test_a_page_fails_with_its_first_failing_command_and_start_does_not_block_it(tmp_path: Path) -> None:
    (tmp_path / "flnode").write_text('#!/bin/sh\necho "called: $*"\ntest "$1" != break\n')
    (tmp_path / "flnode").chmod(0o700)
    commands = "flnode start --config one\nA=1 flnode status\nflnode start --detach\nflnode break\nflnode status\n"
    done = subprocess.run(
        ["bash", "-c", PRELUDE + commands], env={"PATH": f"{tmp_path}:{os.environ['PATH']}"}, capture_output=True,
        text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    called = [line.removeprefix("called: ") for line in done.stdout.splitlines()]
    assert called == ["start --config one --detach", "status", "start --detach", "break"]


@pytest.mark.parametrize("page", [page.name for page in RUN])
def test_a_block_of_commands_is_marked_so_that_it_is_run(page: str) -> None:
    for block in ALL_BLOCKS[page]:
        assert not block.info or block.language in ("sh", "python", "toml", "text", "json"), block.place
        first = block.text.lstrip().removeprefix("$ ").split(" ")[0].strip()
        assert block.language in ("sh", "text") or first not in COMMANDS, f"{block.place}: mark it ```sh"
    untested = [each for each in runnable(page) if each.untested is not None]
    for block in untested:
        assert len((block.untested or "").split()) >= 3, f"{block.place}: say why it is not run"


def test_most_blocks_are_run() -> None:
    untested = [each.place for page in RUN for each in runnable(page.name) if each.untested is not None]
    assert len(untested) <= UNTESTED_MAX, untested


# ---- what the pages name ---------------------------------------------------------------------------------------------
def commands_named(page: Path) -> list[str]:
    """Every command line of flnode in a page's blocks and code spans."""
    lines = [line for block in ALL_BLOCKS[page.name] if block.language == "sh" for line in block.text.splitlines()]
    parts = [part for line in (*lines, *code_spans(page)) for part in re.split(r"\s[|>&;]+\s|\$\(|#\s", line)]
    words = (re.sub(r"^(\$ |\w+=\S* |exec (-T )?\S+ |.*docker compose exec (-T )?\S+ )*", "", part) for part in parts)
    return [line for line in words if re.match(r"(\.venv/bin/)?flnode(\s|$)", line)]


def refusal(line: str) -> str | None:
    """Why a command line is none of flnode's, as far as its form tells."""
    try:
        words = shlex.split(line.replace("…", "X"))[1:]
    except ValueError:
        return "its quotes do not match"
    command: click.Command = cli
    while words and isinstance(command, click.Group) and not words[0].startswith("-"):
        name = words.pop(0)
        if name == "COMMAND":
            return None
        for each in name.split("|"):
            if each not in command.commands:
                return f"there is no {each!r} in {command.name!r}"
        command = command.commands[name.split("|")[0]]
    options = {option for param in command.params for option in (*param.opts, *param.secondary_opts)} | {"--help", "-h"}
    given = [word.split("=")[0].rstrip("],") for word in words if word.startswith("-") and len(word) > 1]
    unknown = [option for option in given if option not in options]
    return f"{command.name!r} has no option {unknown[0]}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_that_is_named_exists_with_its_options(page: Path) -> None:
    refused = {line: reason for line in commands_named(page) if (reason := refusal(line)) is not None}
    assert refused == {}


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert refusal("flnode job frobnicate 1") == "there is no 'frobnicate' in 'job'"
    assert refusal("flnode status --colour") == "'status' has no option --colour"
    assert refusal("flnode job list|show|sow") == "there is no 'sow' in 'job'"
    assert refusal("flnode status --json --config DIR") is None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_target_of_make_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    lines = [line for block in ALL_BLOCKS[page.name] for line in block.text.splitlines()]
    named = {found for line in (*lines, *code_spans(page)) for found in re.findall(r"^\s*make ([a-z0-9-]+)", line)}
    assert named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = page.parent / path if path else page
        assert found.exists(), f"{page.name}: {target}"
        if anchor:
            assert anchor in anchors(found), f"{page.name}: {target}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as code forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_of_the_project_that_is_named_exists(page: Path) -> None:
    tops = "node|chain|learner|cli|configs|tests|docs"
    named = re.findall(rf"(?<![\w/.-])(?:{tops})/[\w./-]*\w/?", page.read_text(encoding="utf-8"))
    missing = [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [page.name for page in RUN[1:] if f"(docs/{page.name})" not in readme] == []


def test_the_configuration_page_is_what_the_structs_say() -> None:
    written = (ROOT / "docs" / "CONFIG.md").read_text(encoding="utf-8")
    assert written == config_doc.document(), "run `make docs`"


# ---- troubleshooting -------------------------------------------------------------------------------------------------
def messages(package: str) -> Iterator[str]:
    """Every string of a package's code, with … for what is filled in."""
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "…" for part in node.values]
                yield "".join(str(part) for part in parts)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_symptom_of_the_troubleshooting_page_is_a_line_that_flnode_says() -> None:
    page = ROOT / "docs" / "TROUBLESHOOTING.md"
    said = "\n".join(re.sub("…+", "…", text) for package in PACKAGES for text in messages(package))
    headings = re.findall(r"^#{3,} (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    symptoms = [found[1].strip() for heading in headings for found in re.findall(r"(?<!`)(`+)(?!`)(.+?)\1", heading)]
    assert len(symptoms) > 20
    assert [symptom for symptom in symptoms if re.sub("…+", "…", symptom) not in said] == []
