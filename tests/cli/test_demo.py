"""The demo's parts that need no network: its directories, its processes' end, its report."""

from __future__ import annotations

import io
import json
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from api_kit import NOW, ended_job
from rich.console import Console
from rich.live import Live

from chain.genesis import parse_network
from cli.demo_job import JOB, TERMS
from cli.demo_network import MEMBERS, Running
from cli.demo_report import report_of, report_screen, seconds_of
from cli.demo_view import Lines, Screen
from cli.errors import NodeError
from cli.jobfile import job_spec
from cli.local_network import PORTS, Node, Plan, create_nodes, free_ports
from cli.processes import end, file_environment, last_lines
from cli.signals import interruptible, uninterrupted
from node.api import schema
from node.config import load_config, require_development
from node.keys import account_address, load_account_key, load_p2p_key, peer_id

SPEC = job_spec(dict(JOB, seed=1, goal_accuracy=0.95), dict(TERMS, rounds_max=10), NOW, "test")


@pytest.fixture
def nodes(tmp_path: Path) -> list[Node]:
    return create_nodes(tmp_path, Plan("demo", MEMBERS, deposit_stakes=20))


def test_the_networks_file_fits_the_nodes_keys(nodes: list[Node]) -> None:
    texts = {node.config.network_path.read_text() for node in nodes}
    assert len(texts) == 1
    network = parse_network(texts.pop())
    assert network.development
    validators = [node for node in nodes if node.member.validates]
    assert len(validators) == 4
    for entry, node in zip(network.validators, validators, strict=True):
        config = load_config(node.config.directory, {})
        assert entry.address == account_address(load_account_key(config.account_key_path))
        assert entry.p2p == f"{config.p2p.listen}/p2p/{peer_id(load_p2p_key(config.p2p_key_path))}"
    assert len({node.address for node in nodes}) == len(network.balances) == 7


def test_only_the_copier_and_the_lazy_misbehave_and_neither_validates(nodes: list[Node]) -> None:
    behaviour = {node.member.name: load_config(node.config.directory, {}).misbehaviour.behaviour for node in nodes}
    assert {name: each for name, each in behaviour.items() if each != "none"} == {"copier": "copier", "lazy": "lazy"}
    assert not any(node.member.validates for node in nodes if node.member.behaviour != "honest")
    for node in nodes:
        require_development(node.config, "demo", development=True)
        assert stat.S_IMODE(node.config.account_key_path.stat().st_mode) == 0o600


def test_honest_workers_are_more_than_half_of_the_slots() -> None:
    honest = sum(member.works and member.behaviour == "honest" for member in MEMBERS)
    assert TERMS["slots"] == TERMS["workers_min"] == 5
    assert 2 * honest > 5


def test_free_ports_are_distinct_and_free() -> None:
    ports = free_ports(4)
    assert len(set(ports)) == 4
    assert all(port in PORTS for port in ports)


def test_what_the_user_set_for_other_nodes_stays_out_of_the_demo() -> None:
    given = {"FLNODE_P2P__LISTEN": "/ip4/0.0.0.0/tcp/1", "FLNODE_CONFIG": "x", "HOME": "/root", "PYTHONPATH": "/x"}
    assert file_environment(given) == {"FLNODE_CONFIG": "x", "HOME": "/root", "PYTHONPATH": "/x"}


def process(program: str) -> subprocess.Popen[bytes]:
    """A Python process in its own group that has said it is ready."""
    started = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True)
    assert started.stdout is not None
    assert started.stdout.readline() == b"ready\n"
    started.stdout.close()
    return started


SLEEPER = "print('ready', flush=True); import signal; signal.pause()"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER
PARENT = f"import signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', {STUBBORN!r}]); signal.pause()"


def living(group: int) -> list[str]:
    """Processes of a group that are more than a zombie, which only its parent can remove."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, process_group = path.read_text().rpartition(") ")[2].split()[:3]
        except OSError:
            continue
        if int(process_group) == group and state != "Z":
            found.append(path.parent.name)
    return found


def test_stopping_ends_the_willing_the_stubborn_and_their_children() -> None:
    processes = [process(program) for program in (SLEEPER, STUBBORN, PARENT)]
    end(processes, limit_s=0.3)
    assert [each.returncode for each in processes] == [-signal.SIGTERM, -signal.SIGKILL, -signal.SIGTERM]
    assert [living(each.pid) for each in processes] == [[], [], []]


def test_a_node_that_died_is_named_with_the_end_of_its_log(nodes: list[Node]) -> None:
    dead = subprocess.Popen([sys.executable, "-c", "import sys; sys.exit(3)"])
    dead.wait()
    nodes[5].log.write_text("".join(f"line {n}\n" for n in range(100)))
    with pytest.raises(NodeError) as caught:
        Running(nodes[5], dead, None).check()  # type: ignore[arg-type]  # nobody is asked
    message = str(caught.value)
    assert "node lazy died (exit code 3)" in message
    assert "line 99" in message
    assert "line 84" not in message


def test_a_log_that_is_not_there_is_said_so(tmp_path: Path) -> None:
    assert last_lines(tmp_path / "none", 3) == ["(nothing)"]


def test_the_first_signal_interrupts_and_later_ones_do_not() -> None:
    with interruptible():
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_what_must_be_finished_is_finished_before_the_interruption() -> None:
    done = []

    def work() -> None:
        with uninterrupted():
            signal.raise_signal(signal.SIGTERM)
            done.append("finished")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["finished"]


STATUS = schema.Status(
    version="1", network="demo", chain_id=1, genesis="0x", address="0x", peer_id="", addresses=[], roles=[], uptime_s=1,
    head=schema.HeadInfo(9, "0x", 0), finalised_head=schema.HeadInfo(8, "0x", 0), epoch=0, view=9, validators=4,
    peers=6, validators_connected=4, pending_transactions=0, jobs=schema.JobsInfo(0, 1, 1, 0), balance_wei="0",
    learner=schema.LearnerInfo("off"), memory=schema.MemoryInfo(1),
)  # fmt: skip


def test_the_report_is_the_object_that_was_promised(nodes: list[Node]) -> None:
    detail = ended_job(1, SPEC)
    first = nodes[0].address
    workers = [msgspec.structs.replace(detail.workers[0], address=first.upper().replace("0X", "0x"))]
    rounds = [msgspec.structs.replace(each, settled_seen_at=NOW + 5.0 + each.round) for each in detail.rounds]
    detail = msgspec.structs.replace(detail, workers=workers, rounds=rounds)
    report = report_of(detail, STATUS, nodes, NOW + 0.5)
    found = json.loads(msgspec.json.encode(report))
    assert list(found) == [
        "accuracy", "rounds", "seconds_to_first_round", "seconds_per_round", "model_digest", "finalised_height",
        "void_rounds", "workers", "accuracy_by_round",
    ]  # fmt: skip
    assert found["seconds_to_first_round"] == 5.5
    assert found["accuracy_by_round"] == [[1, 0.9], [2, 0.96]]
    assert found["seconds_per_round"] == {"median": 1.0, "p95": 1.0}
    assert (found["accuracy"], found["rounds"], found["finalised_height"]) == (0.96, 2, 8)
    assert [worker["behaviour"] for worker in found["workers"]] == ["honest", "honest", "honest", "copier", "lazy"]
    assert found["workers"][0] == {
        "address": first, "behaviour": "honest", "rounds_in_majority": 2, "earned_wei": str(2 * 10**16),
        "forfeited_wei": "0",
    }  # fmt: skip
    assert found["workers"][3]["earned_wei"] == "0"
    console = Console(width=160, record=True)
    console.print(report_screen(report, ["a", "b", "c", "d", "e"]))
    assert "0.02 flt" in console.export_text()


def test_a_job_without_a_settled_round_has_no_report(nodes: list[Node]) -> None:
    detail = msgspec.structs.replace(ended_job(1, SPEC), rounds=[], accuracy=[], void_rounds=5)
    with pytest.raises(NodeError, match=r"no round was settled.*5 rounds void"):
        report_of(detail, STATUS, nodes, NOW)


@pytest.mark.parametrize(
    ("sample", "median", "p95"),
    [([2.0], 2.0, 2.0), ([1.0, 3.0], 2.0, 3.0), ([float(n) for n in range(1, 101)], 50.5, 95.0)],
)
def test_percentiles_are_by_the_nearest_rank(sample: list[float], median: float, p95: float) -> None:
    assert seconds_of(sample) == (found := seconds_of(sample[::-1]))
    assert (found.median, found.p95) == (median, p95)


def test_every_round_is_told_once() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    view = Lines(console)
    for _ in range(3):
        view.show(ended_job(1, SPEC), {})
    lines = console.export_text().splitlines()
    assert [line.split(" s  ")[1].split(":")[0] for line in lines] == ["round 1", "round 2"]


def test_the_rounds_of_the_next_job_are_told_too() -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    view = Lines(console)
    for job in (1, 2):
        view.show(ended_job(job, SPEC), {})
    assert [line.split(" s  ")[1].split(":")[0] for line in console.export_text().splitlines()] == [
        "round 1", "round 2", "round 1", "round 2",
    ]  # fmt: skip


def test_the_live_screen_shows_accuracy_rounds_and_workers(nodes: list[Node]) -> None:
    detail = ended_job(1, SPEC)
    output = io.StringIO()
    console = Console(width=120, file=output, force_terminal=True, color_system=None)
    with Live(console=console, auto_refresh=False) as live:
        view = Screen(live)
        view.node_up("validator-1", 1, 7)
        view.show(detail, {detail.workers[0].address: "validator-1"})
    shown = output.getvalue()
    assert "validator-1 is up (1 of 7)" in shown
    assert "96.0 % of 95.0 %" in shown
    assert "2 settled, 0 void; round 2 CLOSED" in shown
    assert "0.02 flt" in shown
