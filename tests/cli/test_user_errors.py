"""Mistakes as people make them: each is one clear line on stderr that says what to do, and an exit code.

2 is for what the user must change (a file, an argument, an address), 1 for what the node or the machine met.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from chain.chain import Chain
from chain.genesis import load_network
from chain.store import Store
from cli.init import NodeKeys, create_node, dev_account_key, parse_roles, read_network
from cli.local_network import free_ports
from node.keys import new_p2p_key
from tests.cli.operations_kit import nodes_end, ok, ok_json, refused

DIGITS = Path(__file__).parent.parent.parent / "configs" / "jobs" / "digits.toml"
SOMEBODY = "0x52908400098527886E0F7030069857D2E4169EE7"


@dataclass(frozen=True)
class World:
    """What the mistakes are made with: an empty place, and a node that runs with HTTP on."""

    place: Path
    running: Path
    http: str  # host:port
    p2p: str  # multiaddress

    def node(self, name: str = "node", roles: str = "observer", number: int = 9) -> Path:
        """A new node's directory."""
        keys = NodeKeys(dev_account_key(number), new_p2p_key())
        return create_node(self.place / name, read_network("dev"), parse_roles(roles), keys).directory

    def edited(self, old: str, new: str, name: str = "node", file: str = "node.toml") -> Path:
        """A new node's directory with a line of a file changed."""
        directory = self.node(name)
        edit(directory / file, old, new)
        return directory

    def job(self, old: str, new: str) -> Path:
        """A job file with a line changed."""
        path = self.place / "job.toml"
        path.write_text(DIGITS.read_text())
        edit(path, old, new)
        return path


def edit(path: Path, old: str, new: str) -> None:
    text, count = re.subn(rf"(?m)^{old}.*$", lambda match: new, path.read_text())
    assert count == 1, f"{path} has no {old}"
    path.write_text(text)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str, str]]:
    """A node that validates alone and could post jobs."""
    root = tmp_path_factory.mktemp("running")
    p2p_port, http_port = free_ports(2)
    listen, http = f"/ip4/127.0.0.1/tcp/{p2p_port}", f"127.0.0.1:{http_port}"
    roles = ("--role", "validator,learning_server", "--dev-key", "0")
    ok("init", root / "node", "--network", "dev", *roles, "--listen", listen, "--http", http)
    with nodes_end(root):
        ok("start", "--detach", "--config", root / "node")
        yield root / "node", http, listen


@pytest.fixture
def world(tmp_path: Path, running: tuple[Path, str, str]) -> Iterator[World]:
    with nodes_end(tmp_path):
        yield World(tmp_path, *running)


def start(directory: Path) -> list[object]:
    return ["start", "--config", directory]


def other_network(world: World) -> Path:
    directory = world.node()
    store = Store(directory / "chain")
    Chain(store, load_network(directory / "network.toml"))
    store.close()
    edit(directory / "network.toml", "chain_id", "chain_id = 4")
    return directory


def replaced(path: Path, text: str = "") -> Path:
    """A file where there should be none, or another one."""
    if path.is_dir():
        shutil.rmtree(path)
    path.write_text(text)
    return path


def readable(world: World) -> Path:
    directory = world.node()
    (directory / "keys" / "p2p.key").chmod(0o644)
    return directory


def without(directory: Path, name: str) -> Path:
    (directory / name).unlink()
    return directory


Case = tuple[int, Callable[[World], list[object]], list[str]]
CASES: dict[str, Case] = {
    "unknown key": (
        2, lambda w: start(w.edited("threads", "treads = 2")),
        ["unknown key `treads` in [learner] of", "node.toml", "did you mean `threads`?"],
    ),
    "unknown section": (2, lambda w: start(w.edited(r"\[learner\]", "[lerner]")), ["unknown section [lerner] in"]),
    "wrong type": (
        2, lambda w: start(w.edited("threads", 'threads = "two"')),
        ["`threads` in [learner] of", "node.toml", "expected int", "'two'"],
    ),
    "unknown role": (2, lambda w: start(w.edited("roles", 'roles = ["miner"]')), ["`roles` in [node]", "'miner'"]),
    "not TOML": (2, lambda w: start(w.edited("roles", "roles = [")), ["node.toml is not valid TOML"]),
    "network file: wrong type": (
        2, lambda w: start(w.edited("chain_id", 'chain_id = "x"', file="network.toml")), ["network.toml", "chain_id"],
    ),
    "network file missing": (2, lambda w: start(without(w.node(), "network.toml")), ["cannot read", "network.toml"]),
    "p2p port in use": (
        2, lambda w: start(w.edited("listen", f'listen = "{w.p2p}"')),
        ["cannot listen on /ip4/127.0.0.1/tcp/", "in use", "change `listen` in [p2p] of", "node.toml"],
    ),
    "http port in use": (
        2, lambda w: start(w.edited("http_listen", f'http_listen = "{w.http}"')),
        ["cannot listen on 127.0.0.1:", "in use", "change `http_listen` in [api]"],
    ),
    "directory in use": (2, lambda w: start(w.running), ["a node is already running in", "flnode stop --config"]),
    "data of another network": (
        2, lambda w: start(other_network(w)), ["belongs to another network", "node/chain", "network.toml"],
    ),
    "a checkpoint of another history": (
        2, lambda w: start(w.edited("checkpoint", f'checkpoint = "0:0x{"11" * 32}"')),
        ["up to block 0, does not lead to the trusted checkpoint", "compare `checkpoint` in [node] of", "node.toml"],
    ),
    "key file missing": (
        2, lambda w: start(without(w.node(), "keys/account.key")), ["no key file at", "account.key", "flnode init DIR"],
    ),
    "key file readable by all": (2, lambda w: start(readable(w)), ["p2p.key can be read by other users", "chmod 600"]),
    "key file without a key": (
        2, lambda w: start(replaced(w.node() / "keys" / "p2p.key", "12").parent.parent), ["p2p.key", "64 hex digits"],
    ),
    "a file in place of the chain": (
        1, lambda w: start(replaced(w.node() / "chain").parent), ["cannot open the chain database at", "node/chain"],
    ),
    "a file in place of the blobs": (1, lambda w: start(replaced(w.node() / "blobs").parent), ["node/blobs"]),
    "detached: the same words": (
        2, lambda w: ["start", "--detach", "--config", without(w.node(), "keys/account.key")],
        ["did not start (exit code 2): no key file at", "its log is", "node/log"],
    ),
    "job: unknown model": (
        2, lambda w: ["job", "submit", w.job("model", 'model = "gpt"'), "-c", w.running],
        ["`model` in [job] of", "job.toml", "unknown model 'gpt'"],
    ),
    "job: a typo": (
        2, lambda w: ["job", "submit", w.job("batch_size", "batchsize = 32"), "-c", w.running],
        ["unknown key `batchsize` in [job] of", "job.toml", "did you mean `batch_size`?"],
    ),
    "job: an amount with the wrong unit": (
        2, lambda w: ["job", "submit", w.job("stake", 'stake = "0.1 eth"'), "-c", w.running],
        ["`stake` in [terms] of", "job.toml", "unknown unit 'eth'", "use wei, gwei or flt"],
    ),
    "job: the escrow is more than there is": (
        1, lambda w: ["job", "submit", w.job("reward", 'reward = "900000 flt"'), "-c", w.running],
        ["escrow", "the account has"],
    ),
    "an amount without a unit": (
        2, lambda w: ["account", "send", SOMEBODY, "5", "-c", w.running], ["AMOUNT: '5'", 'such as "1.5 flt"'],
    ),
    "an amount with the wrong unit": (
        2, lambda w: ["account", "send", SOMEBODY, "5 gewi", "-c", w.running], ["AMOUNT", "did you mean gwei?"],
    ),
    "more than the balance": (
        1, lambda w: ["account", "send", SOMEBODY, "5000000 flt", "-c", w.running], ["balance"],
    ),
    "no address": (1, lambda w: ["account", "send", "0x12", "5 flt", "-c", w.running], ["'0x12' is not an address"]),
    "node not running": (
        1, lambda w: ["status", "-c", w.node()], ["no node is running here", "api.sock", "flnode start --config /"],
    ),
    "socket left behind": (1, lambda w: ["status", "-c", left_behind(w)], ["no node answers at", "flnode start"]),
    "not a socket": (
        1, lambda w: ["status", "-c", replaced(w.node() / "api.sock").parent], ["is not a socket", "`socket` in [api]"],
    ),
    "no node at the URL": (1, lambda w: ["status", "--url", "http://127.0.0.1:1"], ["no node answers at http://127."]),
    "not permitted without the token": (
        1, lambda w: ["account", "withdraw", "--url", f"http://{w.http}"], ["its token (Authorization: Bearer)"],
    ),
    "wrong token": (
        1,
        lambda w: ["account", "withdraw", "--url", f"http://{w.http}", "--token-file", w.node() / "keys" / "p2p.key"],
        ["answered 401", "the token is wrong"],
    ),
    "a testnet that is not there": (
        2, lambda w: ["testnet", "status", w.place / "none"], ["there is no testnet in", "flnode testnet up"],
    ),
    "a testnet where something else is": (
        2, lambda w: ["testnet", "up", w.node()], ["is not empty and holds no testnet; choose another DIR"],
    ),
    "a testnet at no address": (
        2, lambda w: ["testnet", "up", w.place / "new", "--host", "here"], ["--host: 'here' is not an IP address"],
    ),
}  # fmt: skip


def left_behind(world: World) -> Path:
    """A node's directory with the socket of a node that was killed."""
    directory = world.node()
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(directory / "api.sock"))
    return directory


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_mistake_is_one_line_that_says_what_to_do(world: World, case: Case) -> None:
    code, arguments, fragments = case
    line = refused(code, *arguments(world), FLNODE_LOG__LEVEL="error")
    assert [each for each in fragments if each not in line] == [], line
    assert "bug" not in line


@contextmanager
def service(path: Path, answer: bytes) -> Iterator[None]:
    """Something that listens on a socket and gives one answer to everybody."""
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(path))
        door.listen()

        def serve() -> None:
            caller, _ = door.accept()
            with caller:
                asked = b""
                while not asked.endswith(b"}"):
                    asked += caller.recv(1 << 16)
                caller.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join(30)


def http(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"220 mail.example ESMTP ready\r\n", "is no flnode node of this version"),
        (b"", "is no flnode node of this version"),
        (http(b"<html>"), "is no flnode node of this version"),
        (http(b"[1, 2]"), "is no flnode node of this version"),
        (http(b'{"jsonrpc": "2.0", "id": 1, "result": 5}'), "is no flnode node of this version"),
        (http(b'{"jsonrpc": "2.0", "id": 1, "error": "no"}'), "is no flnode node of this version"),
        (http(b'{"jsonrpc": "2.0", "id": 1, "error": {"code": 1, "message": "two\\nlines"}}'), "flnode: two lines\n"),
        (http(b"[" * 100_000), "is no flnode node of this version"),
        (http(b"\xff\xfe"), "is no flnode node of this version"),
        (http(b"not\nhere", "404 Not Found"), "answered 404: not\n"),
    ],
    ids=["mail", "silence", "web page", "list", "number", "text error", "long error", "brackets", "bytes", "404"],
)
def test_another_service_at_the_socket_is_one_line(tmp_path: Path, answer: bytes, message: str) -> None:
    (tmp_path / "node.toml").write_text("")
    with service(tmp_path / "api.sock", answer):
        assert message in refused(1, "status", "--config", tmp_path)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[" * 100_000, b"null", b'{"method": 5}'])
def test_bad_json_to_the_node_is_answered_and_the_node_lives_on(running: tuple[Path, str, str], body: bytes) -> None:
    host, _, port = running[1].partition(":")
    head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    with socket.create_connection((host, int(port)), timeout=30) as caller:
        caller.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
        answer = b"".join(iter(lambda: caller.recv(1 << 16), b""))
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert error["code"] in (-32700, -32600)
    assert "\n" not in error["message"]
    assert ok_json("status", "--config", running[0])["finalised_head"]["number"] >= 0


def test_output_that_cannot_be_written_is_one_line() -> None:
    command = [sys.executable, "-m", "cli.main", "completion", "bash"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "flnode: cannot write the output: No space left on device\n"


def test_a_name_that_the_system_refuses_is_one_line(tmp_path: Path) -> None:
    assert "File name too long" in refused(2, "init", tmp_path / ("x" * 300), "--network", "dev")
