"""Commands as a person types them: what they print, and how they fail."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest

from chain.genesis import parse_network
from cli.init import NETWORKS
from cli.main import cli, run
from node.config import load_config
from node.keys import account_address, load_account_key

ROOT = Path(__file__).parent.parent.parent
JOB = str(ROOT / "configs" / "jobs" / "digits.toml")
Capture = pytest.CaptureFixture[str]


def ok(capsys: Capture, *arguments: str) -> str:
    code = run(list(arguments))
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


def failed(capsys: Capture, code: int, *arguments: str) -> str:
    assert run(list(arguments)) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("flnode: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every command by its words."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += leaves(command, (*path, name)) if isinstance(command, click.Group) else [(*path, name)]
    return found


@pytest.mark.parametrize("path", leaves(cli), ids=" ".join)
def test_every_command_has_help_with_an_example(capsys: Capture, path: tuple[str, ...]) -> None:
    text = ok(capsys, *path, "--help")
    assert f"flnode {' '.join(path)}" in text.split("\n", 2)[2]


def test_a_new_node_can_be_started_from_what_init_wrote(tmp_path: Path, capsys: Capture) -> None:
    folder = tmp_path / "one"
    arguments = ("--network", "dev", "--dev-key", "0", "--role", "validator,learning-server", "--json")
    found = json.loads(ok(capsys, "init", str(folder), *arguments))
    config = load_config(folder, {})
    assert config.node.roles == ("validator", "learning_server")
    network = parse_network(config.network_path.read_text())
    key = load_account_key(config.account_key_path)
    assert account_address(key) == network.validators[0].address == bytes.fromhex(found["address"][2:])
    assert stat.S_IMODE(config.account_key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_init_takes_a_network_file_and_an_existing_key(tmp_path: Path, capsys: Capture) -> None:
    ok(capsys, "init", str(tmp_path / "a"), "--network", "dev")
    key = tmp_path / "a" / "keys" / "account.key"
    network = str(tmp_path / "a" / "network.toml")
    listen, http = "/ip4/127.0.0.1/tcp/9009", "127.0.0.1:8645"
    arguments = ("--network", network, "--account-key", str(key), "--listen", listen, "--http", http)
    text = ok(capsys, "init", str(tmp_path / "b"), *arguments)
    assert "flnode start --config" in text
    config = load_config(tmp_path / "b", {})
    assert (config.p2p.listen, config.api.http_listen) == (listen, http)
    assert load_account_key(config.account_key_path) == load_account_key(key)


@pytest.mark.parametrize("path", NETWORKS.glob("*.toml"), ids=lambda path: path.stem)
def test_every_built_in_network_is_valid(path: Path) -> None:
    assert parse_network(path.read_text()).name == path.stem


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["init", "{new}", "--network", "dve"], "no built-in network of that name (known: dev)"),
        (["init", "{new}", "--network", "{job}"], "is not a network file: it has no `name`"),
        (["init", "{new}", "--network", "dev", "--role", "miner"], "unknown role 'miner'"),
        (["init", "{new}", "--network", "dev", "--role", ","], "--role is empty"),
        (["init", "{new}", "--network", "dev", "--listen", "here"], "p2p.listen"),
        (["init", "{new}", "--network", "dev", "--http", "0.0.0.0:1"], "0.0.0.0 is not a loopback address"),
        (["init", "{new}", "--network", "dev", "--account-key", "{new}/k"], "no key file at"),
        (["init", "{new}", "--network", "dev", "--account-key", "k", "--dev-key", "0"], "not both"),
        (["init", "{job}/x", "--network", "dev"], "cannot write"),
        (["init", "{new}"], "Missing option '--network'"),
        (["start", "--config", "{new}"], "no config file at"),
        (["status", "--config", "{new}"], "no config file at"),
        (["statsu"], "No such command 'statsu'"),
        (["job", "submit", "{new}.toml", "--config", "{empty}"], "no job file at"),
        (["job", "show", "0", "--config", "{empty}"], "0 is not in the range"),
        (["job", "show", "x", "--config", "{empty}"], "'x' is not a valid integer"),
        (["account", "send", "0x00", "5", "--config", "{empty}"], "AMOUNT: '5' is not an amount"),
        (["status", "--url", "nonsense"], "is not a URL of a node"),
        (["status", "--url", "http://127.0.0.1:1", "--token-file", "{job}"], "can be read by other users"),
        (["demo", "--keep", "{job}"], "--keep"),
        (["demo", "--keep", "{root}"], "the directory is not empty"),
        (["demo", "--rounds-max", "0"], "0 is not in the range"),
    ],
)
def test_a_users_mistake_is_one_line_and_exit_code_two(
    tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "node.toml").write_text("")
    job = shutil.copy(JOB, tmp_path / "job.toml")
    Path(job).chmod(0o644)
    places = {"new": tmp_path / "new", "empty": tmp_path / "empty", "job": job, "root": ROOT}
    assert message in failed(capsys, 2, *(each.format(**places) for each in arguments))


def test_a_second_init_overwrites_nothing(tmp_path: Path, capsys: Capture) -> None:
    ok(capsys, "init", str(tmp_path / "one"), "--network", "dev")
    key = (tmp_path / "one" / "keys" / "account.key").read_text()
    assert "already holds a node" in failed(capsys, 2, "init", str(tmp_path / "one"), "--network", "dev")
    assert (tmp_path / "one" / "keys" / "account.key").read_text() == key


def test_public_keys_are_for_development_networks_only(tmp_path: Path, capsys: Capture) -> None:
    real = tmp_path / "real.toml"
    real.write_text((NETWORKS / "dev.toml").read_text().replace("development = true", "development = false"))
    message = failed(capsys, 2, "init", str(tmp_path / "one"), "--network", str(real), "--dev-key", "0")
    assert "everybody knows these keys" in message


def test_a_node_that_is_not_there_is_exit_code_one(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "node.toml").write_text("")
    assert "no node is running here" in failed(capsys, 1, "status", "--config", str(tmp_path))
    (tmp_path / "api.sock").write_text("")
    assert "is not a socket" in failed(capsys, 1, "status", "--config", str(tmp_path))
    assert "no node answers at http://127.0.0.1:1" in failed(capsys, 1, "status", "--url", "http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["status"], ["workers: 0 enrolled, 3 needed, for 12.5 s", "2 block", "1 of 1 validators", "90 MiB"]),
        (["peers"], ["12D3KooWx", "2 0xabababab…", "out", "2.0 MiB", "/ip4/127.0.0.1/tcp/9001", "100 B", "1 min"]),
        (["peers"], ["2 connected; 1 met and 1 told addresses in the peer book (--known)"]),
        (["peers", "--known"], ["12D3KooWz", "/ip4/127.0.0.1/tcp/9002", "never", "7.0 s ago", "1.5 s", "yes"]),
        (["job", "list"], ["there are no jobs yet"]),
        (["account", "show"], ["1000000 flt", "1.5 flt", "LOCKED STAKES"]),
        (["account", "withdraw"], ["not final after 30 s"]),
        (["account", "send", "0x" + "11" * 20, "1.5 flt"], ["1.5 flt sent"]),
        (["stop"], ["has stopped"]),
    ],
)
def test_what_a_node_answers_is_shown(
    directory: Path, capsys: Capture, arguments: list[str], expected: list[str]
) -> None:
    text = ok(capsys, *arguments, "--config", str(directory))
    assert [each for each in expected if each not in text] == []
    assert "\x1b" not in text  # nobody looks: no colours


def test_a_job_is_posted_listed_shown_watched_cancelled_and_topped_up(directory: Path, capsys: Capture) -> None:
    at = ("--config", str(directory))
    assert "job 1 posted, escrow 1.8 flt" in ok(capsys, "job", "submit", JOB, *at)
    listed = ok(capsys, "job", "list", *at)
    assert "0/60" in listed
    assert "0.01 flt" in listed
    shown = ok(capsys, "job", "show", "1", *at)
    assert "96.0 %" in shown
    assert "ended, CLOSED (goal reached)" in shown
    watched = ok(capsys, "job", "watch", "1", *at).splitlines()
    assert [line.split()[2] for line in watched] == ["JobPosted", "JobEnded"]
    assert "job 1 cancelled" in ok(capsys, "job", "cancel", "1", *at)
    assert "appealed against the majority of job 1" in ok(capsys, "job", "appeal", "1", *at)
    assert "20 more rounds of job 1" in ok(capsys, "job", "top-up", "1", "20", *at)
    assert "there is no job 7" in failed(capsys, 1, "job", "show", "7", *at)


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["peers"], ["peers", "--known"], ["job", "list"], ["account", "show"], ["account", "withdraw"]],
)
def test_json_is_one_value_on_stdout(directory: Path, capsys: Capture, arguments: list[str]) -> None:
    text = ok(capsys, *arguments, "--json", "--config", str(directory))
    assert text.count("\n") == 1
    json.loads(text)


def test_the_nodes_refusal_is_shown_as_it_is(directory: Path, capsys: Capture, tmp_path: Path) -> None:
    dear = tmp_path / "dear.toml"
    dear.write_text(Path(JOB).read_text().replace('"0.01 flt"', '"900000 flt"'))
    message = failed(capsys, 1, "job", "submit", str(dear), "--config", str(directory))
    assert message == "flnode: the escrow is more than the account's balance\n"


def test_over_http_a_change_needs_the_token(directory: Path, capsys: Capture) -> None:
    url = (directory / "url").read_text()
    assert "Unix socket or its token" in failed(capsys, 1, "account", "withdraw", "--url", url)
    ok(capsys, "account", "withdraw", "--url", url, "--token-file", str(directory / "api.token"))
    ok(capsys, "status", "--url", url)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(capsys: Capture, shell: str) -> None:
    assert "_FLNODE_COMPLETE" in ok(capsys, "completion", shell)


def test_the_command_line_never_loads_the_daemons_libraries() -> None:
    program = "import cli.main, sys; print([m for m in ('torch', 'trio', 'libp2p', 'eth', 'web3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


def test_version_is_that_of_the_project(capsys: Capture) -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] in ok(capsys, "--version")
