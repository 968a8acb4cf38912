"""flnode demo: a whole network of separate processes on this machine trains a model, and shows what each earned."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
import msgspec

from cli.demo_network import MEMBERS, Running, running
from cli.demo_report import report_of, report_screen
from cli.demo_view import View, open_view
from cli.errors import NodeError, UserError
from cli.jobfile import job_spec
from cli.local_network import Plan, create_nodes
from cli.output import print_json, stdout
from cli.signals import interruptible, uninterrupted
from node.api import schema

START_POLL_S: Final = 0.25
EVENTS_WAIT_S: Final = 0.5  # also how soon a dead node is noticed
START_LIMIT_S: Final = 120.0
CLOSE_LIMIT_S: Final = 90.0  # from the last settled round until its late reveals are over
SUBMIT_WAIT_S: Final = 30.0
DEPOSIT_SPARE_STAKES: Final = 10  # beyond one stake for every round
WORKERS: Final = sum(member.works for member in MEMBERS)
JOB: Final = {
    "dataset": "digits",
    "sizes": [64, 64, 10],
    "batch_size": 32,
    "steps": 30,
    "learning_rate": 0.01,
    "momentum": 0.9,
}
# Every worker holds a slot in every round, so the three honest ones are a majority. A slow machine must not void a
# round, therefore the windows are far longer than anything takes; the reveal window is what the demo waits for at
# its end, because the copier never reveals.
TERMS: Final = {
    "reward": "0.01 flt",
    "stake": "0.1 flt",
    "slots": WORKERS,
    "workers_min": WORKERS,
    "attempts_max": 5,
    "commit_window_s": 120,
    "reveal_window_s": 10,
    "last_call_s": 2,
    "grace_s": 60,
    "deadline_s": 3600,
}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout; progress goes to stderr.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Decides the model.")
@click.option("--goal", type=click.FloatRange(0.2, 1.0), default=0.951, show_default=True, help="Accuracy to reach.")
@click.option("--rounds-max", type=click.IntRange(1, 900), default=60, show_default=True, help="Rounds at most.")
@click.option("--limit-s", type=click.FloatRange(min=1), default=300.0, show_default=True, help="Seconds at most.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Put the nodes' files here and keep them.")
def demo(as_json: bool, seed: int, goal: float, rounds_max: int, limit_s: float, keep: Path | None) -> int:
    """Seven nodes that do not trust each other train a model of handwritten digits on this machine.

    Four validators, three of them also honest workers; a worker that copies and one that does not train, which both
    want to be paid; and the learning server that pays. Nothing is left behind unless --keep is given.

    \b
    flnode demo
    flnode demo --json 2>/dev/null | jq .workers
    flnode demo --keep /tmp/look                   then read /tmp/look/copier/log
    """
    started_at = time.time()
    with interruptible(), _directory(keep) as root, open_view() as view:
        # enough for every round, so that even who forfeits in each of them stays in the draw
        nodes = create_nodes(root, Plan("demo", MEMBERS, deposit_stakes=rounds_max + DEPOSIT_SPARE_STAKES))
        job = dict(JOB, seed=seed, goal_accuracy=goal)
        spec = job_spec(job, dict(TERMS, rounds_max=rounds_max), started_at, "the demo's job")
        view.say(f"starting {len(nodes)} nodes in {root}")
        with running(nodes) as network:
            deadline = time.monotonic() + limit_s
            _wait_until_up(network, view, min(deadline, time.monotonic() + START_LIMIT_S))
            server = next(each for each in network if "learning_server" in each.node.member.roles)
            job_id = _submit(server, spec)
            view.say(f"the server posted job {job_id}")
            detail = _follow(network, server, job_id, view, deadline)
            status = server.client.call("fl_status", schema.Status)
            report = report_of(detail, status, nodes, started_at)
    if as_json:
        print_json(report)
    else:
        stdout().print(report_screen(report, [each.member.name for each in nodes if each.member.works]))
        if keep is not None:
            click.echo(f"the nodes' files are in {root}")
    if not detail.goal_reached:
        raise NodeError(f"the goal of {goal} was not reached: the job ended ({detail.end_reason}) after its rounds")
    return 0


def _wait_until_up(network: Sequence[Running], view: View, deadline: float) -> None:
    """Until every node answers and the server is connected to every validator."""
    waiting = {each.node.member.name: each for each in network}
    validators = sum(member.validates for member in MEMBERS)
    while waiting:
        _check(network, deadline, f"not up yet: {', '.join(waiting)}")
        for name, each in list(waiting.items()):
            status = _status(each)
            if status is not None and status.validators_connected == validators:
                del waiting[name]
                view.node_up(name, len(network) - len(waiting), len(network))
        if waiting:
            time.sleep(START_POLL_S)


def _status(each: Running) -> schema.Status | None:
    """None while the node does not answer yet."""
    if not each.node.config.socket_path.exists():
        return None
    try:
        return each.client.call("fl_status", schema.Status)
    except NodeError:
        return None


def _submit(server: Running, spec: schema.JobSpec) -> int:
    params = {"spec": msgspec.to_builtins(spec), "wait_s": SUBMIT_WAIT_S}
    done = server.client.call("fl_submitJob", schema.Submitted, params, wait_s=SUBMIT_WAIT_S)
    if done.job is None:
        raise NodeError(f"the job was not on the chain after {SUBMIT_WAIT_S:.0f} s; --keep DIR keeps the logs")
    return done.job


def _follow(network: Sequence[Running], server: Running, job: int, view: View, deadline: float) -> schema.JobDetail:
    """Show progress until the job has ended and the books of every round are closed."""
    names = {each.node.address: each.node.member.name for each in network}
    closing = False
    seen = 0
    while True:
        detail = server.client.call("fl_job", schema.JobDetail, {"id": job})
        view.show(detail, names)
        if detail.state == "ended":
            return detail
        if detail.state == "closing" and not closing:
            closing = True
            deadline = min(deadline, time.monotonic() + CLOSE_LIMIT_S)
            view.say("the job has ended; its last round stays open for late reveals")
        place = f"round {detail.round}, {detail.phase}" + (f": {detail.waiting_for}" if detail.waiting_for else "")
        _check(network, deadline, f"the job is still {detail.state} ({place})")
        params = {"id": job, "after": seen, "wait_s": EVENTS_WAIT_S}
        seen = server.client.call("fl_jobEvents", schema.JobEvents, params, wait_s=EVENTS_WAIT_S).next


def _check(network: Sequence[Running], deadline: float, state: str) -> None:
    """Raises NodeError if a node has died or the time is over."""
    for each in network:
        each.check()
    if time.monotonic() > deadline:
        raise NodeError(f"out of time; {state}. Run again with --keep DIR and read DIR/*/log")


@contextmanager
def _directory(keep: Path | None) -> Iterator[Path]:
    """Where the nodes' files are: a temporary directory that goes away, or the user's, which must be empty."""
    if keep is None:
        root = Path(tempfile.mkdtemp(prefix="flnode-demo-"))
        try:
            yield root
        finally:
            with uninterrupted():
                shutil.rmtree(root)
        return
    try:
        keep.mkdir(parents=True, exist_ok=True)
        occupied = any(keep.iterdir())
    except OSError as error:
        raise UserError(f"--keep {keep}: {error.strerror}") from None
    if occupied:
        raise UserError(f"--keep {keep}: the directory is not empty")
    yield keep.absolute()
