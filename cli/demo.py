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

from cli.demo_job import GOAL, IDX_GOALS, IDX_LIMIT_S, LIMIT_S, MODELS, Work, plan
from cli.demo_network import MEMBERS, Running, running
from cli.demo_report import Report, report_of, report_screen
from cli.demo_view import View, open_view
from cli.errors import NodeError, UserError
from cli.local_network import Plan, create_nodes
from cli.output import print_json, stdout
from cli.signals import interruptible, uninterrupted
from node.api import schema

START_POLL_S: Final = 0.25
EVENTS_WAIT_S: Final = 0.5  # also how soon a dead node is noticed
START_LIMIT_S: Final = 120.0
CLOSE_LIMIT_S: Final = 120.0  # from the last settled round until its late reveals are over
SUBMIT_WAIT_S: Final = 30.0
DEPOSIT_SPARE_STAKES: Final = 10  # beyond one stake for every round

@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout; progress goes to stderr.")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), default=0, show_default=True, help="Decides the model.")
@click.option(
    "--data", "folder", type=click.Path(path_type=Path), metavar="DIR",
    help="Train over the IDX files in this directory, such as MNIST's, instead of the built-in digits.",
)  # fmt: skip
@click.option("--model", type=click.Choice(MODELS), help="With --data.  [default: mlp, and then cnn]")
@click.option(
    "--goal", type=click.FloatRange(0.2, 1.0), help=f"Accuracy to reach.  [default: {GOAL}; with --data {IDX_GOALS}]"
)
@click.option("--rounds-max", type=click.IntRange(1, 900), default=60, show_default=True, help="Rounds at most.")
@click.option(
    "--limit-s", type=click.FloatRange(min=1),
    help=f"Seconds at most.  [default: {LIMIT_S:g}; with --data {IDX_LIMIT_S:g}]",
)  # fmt: skip
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Put the nodes' files here and keep them.")
def demo(
    as_json: bool, seed: int, folder: Path | None, model: str | None, goal: float | None, rounds_max: int,
    limit_s: float | None, keep: Path | None,
) -> int:  # fmt: skip
    """Seven nodes that do not trust each other train a model of handwritten digits on this machine.

    Four validators, three of them also honest workers; a worker that copies and one that does not train, which both
    want to be paid; and the learning server that pays. Nothing is left behind unless --keep is given.

    With --data the workers have to fetch the dataset from the server, and --json prints an array, an object for each
    model.

    \b
    flnode demo
    flnode demo --json 2>/dev/null | jq .workers
    flnode demo --keep /tmp/look                   then read /tmp/look/copier/log
    flnode demo --data mnist --model cnn
    """
    started_at = time.time()
    work = plan(folder, model, goal, seed, rounds_max)
    if limit_s is None:
        limit_s = LIMIT_S if folder is None else IDX_LIMIT_S
    with interruptible(), _directory(keep) as root, open_view() as view:
        # enough for every round, so that even who forfeits in each of them stays in the draw
        nodes = create_nodes(root, Plan("demo", MEMBERS, deposit_stakes=rounds_max + DEPOSIT_SPARE_STAKES))
        view.say(f"starting {len(nodes)} nodes in {root}")
        with running(nodes) as network:
            done = _carry_out(work, network, view, started_at, time.monotonic() + limit_s)
    reports = [report for report, _ in done]
    if as_json:
        print_json(reports[0] if folder is None else reports)
    else:
        for task, report in zip(work.tasks, reports, strict=True):
            heading = "" if folder is None else task.name
            stdout().print(report_screen(report, [each.member.name for each in nodes if each.member.works], heading))
        if keep is not None:
            click.echo(f"the nodes' files are in {root}")
    for task, (_, detail) in zip(work.tasks, done, strict=True):
        if not detail.goal_reached:
            text = f"the job ended ({detail.end_reason}) after its rounds"
            raise NodeError(f"the goal of {task.goal} was not reached: {text}")
    return 0


def _carry_out(
    work: Work, network: Sequence[Running], view: View, started_at: float, deadline: float
) -> list[tuple[Report, schema.JobDetail]]:
    """Every task of the demo, one after the other, over one network.

    Args:
        started_at: Unix time from which the first task's first round counts.
        deadline: monotonic time for all of it.
    """
    wait_until_up(network, view, min(deadline, time.monotonic() + START_LIMIT_S))
    server = next(each for each in network if "learning_server" in each.node.member.roles)
    work.hand_in(server.client)
    done = []
    for task in work.tasks:
        job_id = submit(server, task.spec(time.time()))
        view.say(f"the server posted job {job_id}" + ("" if work.dataset is None else f": {task.name}"))
        detail = _follow(network, server, job_id, view, deadline)
        status = server.client.call("fl_status", schema.Status)
        done.append((report_of(detail, status, [each.node for each in network], started_at), detail))
        started_at = time.time()
    return done


def wait_until_up(network: Sequence[Running], view: View | None, deadline: float) -> None:
    """Until every node answers and is connected to every validator."""
    waiting = {each.node.member.name: each for each in network}
    validators = sum(member.validates for member in MEMBERS)
    while waiting:
        _check(network, deadline, f"not up yet: {', '.join(waiting)}")
        for name, each in list(waiting.items()):
            status = _status(each)
            if status is not None and status.validators_connected == validators:
                del waiting[name]
                if view is not None:
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


def submit(server: Running, spec: schema.JobSpec) -> int:
    """Post a job; its number."""
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
