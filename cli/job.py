"""flnode job new, submit, list, show, watch, explain, cancel, top-up, model, predict"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from cli.account import FINAL_WAIT_S, report
from cli.amounts import format_wei
from cli.client import Client
from cli.explain import explain
from cli.job_new import new
from cli.jobfile import escrow_wei, load_job
from cli.model import model, predict
from cli.options import node_command
from cli.output import duration, percent, print_json, short, stdout, table
from node.api import schema

POLL_S = 30.0

job_id = click.argument("job", metavar="ID", type=click.IntRange(min=1))


@click.group()
def job() -> None:
    """Training jobs: post one, look at one, follow one, end one, get its model.

    \b
    flnode job new digits
    flnode job submit digits.toml --config ~/mynode
    flnode job watch 1 --config ~/mynode
    """


for each_command in (new, explain, model, predict):
    job.add_command(each_command)


@job.command()
@click.argument("file", type=click.Path(path_type=Path))
@node_command
def submit(client: Client, file: Path, as_json: bool) -> None:
    """Post the job in FILE (TOML), paying its whole escrow from the node's account.

    With `reward = "auto"` in [terms] the reward is what `flnode economics` would post; [economics] says for which cost.

    \b
    flnode job submit digits.toml --config ~/server
    """
    spec = load_job(file, time.time(), lambda text: click.echo(text, err=as_json))
    params = {"spec": msgspec.to_builtins(spec), "wait_s": FINAL_WAIT_S}
    done = client.call("fl_submitJob", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    cost = format_wei(escrow_wei(spec.terms))
    report(done, f"job {done.job} posted, escrow {cost}; follow it with `flnode job watch {done.job}`", as_json)


@job.command(name="list")
@node_command
def list_jobs(client: Client, as_json: bool) -> None:
    """All jobs on the chain, newest first.

    \b
    flnode job list --config ~/mynode
    """
    found = client.call("fl_jobs", list[schema.JobSummary])
    if as_json:
        print_json(found)
        return
    if not found:
        click.echo("there are no jobs yet")
        return
    columns = (">ID", "STATE", "PHASE", ">ROUNDS", ">ACCURACY", ">WORKERS", ">REWARD", "OWNER")
    rows = [
        (
            each.id,
            each.end_reason or each.state,
            each.phase,
            f"{each.rounds_settled}/{each.rounds_max}",
            percent(each.accuracy),
            each.enrolled,
            format_wei(each.reward_wei),
            each.owner,
        )
        for each in found
    ]
    stdout().print(table(columns, rows))


@job.command()
@job_id
@node_command
def show(client: Client, job: int, as_json: bool) -> None:
    """Everything about one job: terms, the open round, workers, accuracy.

    \b
    flnode job show 1 --config ~/mynode
    """
    found = client.call("fl_job", schema.JobDetail, {"id": job})
    if as_json:
        print_json(found)
        return
    out = stdout()
    out.print(table(("", ""), _facts(found)))
    if found.slots:
        rows = [(slot.worker, slot.state, short(slot.update_digest or "")) for slot in found.slots]
        out.print()
        out.print(table(("SLOT", "STATE", "UPDATE"), rows))
    if found.workers:
        out.print()
        out.print(workers_table(found.workers))


@job.command()
@job_id
@node_command
def watch(client: Client, job: int, as_json: bool) -> None:
    """Follow a job event by event until it has ended. With --json one event a line.

    \b
    flnode job watch 1 --config ~/mynode
    """
    for event in events(client, job):
        if as_json:
            print_json(event)
        else:
            place = f"round {event.round}" if event.round else ""
            place += f" attempt {event.attempt}" if event.attempt > 1 else ""
            detail = " ".join(f"{key}={short(value)}" for key, value in event.detail.items())
            clock = time.strftime("%H:%M:%S", time.localtime(event.timestamp))
            who = short(event.worker) if event.worker else ""
            click.echo(" ".join(part for part in (clock, f"#{event.number}", event.name, place, who, detail) if part))


@job.command()
@job_id
@node_command
def cancel(client: Client, job: int, as_json: bool) -> None:
    """End a job of this node's account; an open round is still paid.

    \b
    flnode job cancel 1 --config ~/server
    """
    done = client.call("fl_cancelJob", schema.Submitted, {"id": job, "wait_s": FINAL_WAIT_S}, wait_s=FINAL_WAIT_S)
    report(done, f"job {job} cancelled", as_json)


@job.command()
@job_id
@node_command
def appeal(client: Client, job: int, as_json: bool) -> None:
    """Have the present majority of a job audited, against the bond of its terms; a wrong appeal loses it.

    \b
    flnode job appeal 1 --config ~/server
    """
    done = client.call("fl_appealJob", schema.Submitted, {"id": job, "wait_s": FINAL_WAIT_S}, wait_s=FINAL_WAIT_S)
    report(done, f"appealed against the majority of job {job}; `flnode job watch {job}` shows the audit", as_json)


@job.command(name="top-up")
@job_id
@click.argument("rounds", type=click.IntRange(min=1))
@node_command
def top_up(client: Client, job: int, rounds: int, as_json: bool) -> None:
    """Pay for ROUNDS more rounds of a job.

    \b
    flnode job top-up 1 20 --config ~/server
    """
    params = {"id": job, "rounds": rounds, "wait_s": FINAL_WAIT_S}
    done = client.call("fl_topUpJob", schema.Submitted, params, wait_s=FINAL_WAIT_S)
    report(done, f"{rounds} more rounds of job {job} paid for", as_json)


def events(client: Client, job: int) -> Iterator[schema.JobEvent]:
    """The job's events as they become final, until it has ended and its last round is closed."""
    after = 0
    while True:
        # Asked before the events: what ends the job is then among the events of this turn or an earlier one.
        ended = client.call("fl_job", schema.JobDetail, {"id": job}).state == "ended"
        params = {"id": job, "after": after, "wait_s": 0.0 if ended else POLL_S}
        page = client.call("fl_jobEvents", schema.JobEvents, params, wait_s=POLL_S)
        yield from page.events
        if ended and not page.events:
            return
        after = page.next


def workers_table(workers: list[schema.WorkerInfo]) -> object:
    """Who worked on a job, and what came of it."""
    columns = ("WORKER", "ENROLLED", ">SLOTS", ">IN MAJORITY", ">EARNED", ">FORFEITED", ">DEPOSIT", ">LOCKED")
    rows = [
        (
            each.address,
            "yes" if each.enrolled else "no",
            each.slots_held,
            each.rounds_in_majority,
            format_wei(each.earned_wei),
            format_wei(each.forfeited_wei),
            format_wei(each.deposit_wei),
            format_wei(each.locked_wei),
        )
        for each in workers
    ]
    return table(columns, rows)


def _audits(terms: schema.Terms) -> str:
    parts = []
    if terms.audit_ppm:
        parts.append(f"{terms.audit_ppm / 10**4:.4g} % of the rounds")
    if terms.appeal_window_s:
        bond = format_wei(terms.appeal_bond_wei)
        parts.append(f"appeals within {duration(terms.appeal_window_s)}, bond {bond}")
    return ", ".join(parts) + f", fee {format_wei(terms.audit_fee_wei)}" if parts else "none"


def _facts(found: schema.JobDetail) -> list[tuple[str, str]]:
    terms = found.terms
    now = time.time()
    rows = [
        ("job", f"{found.id} ({found.kind}), posted by {found.owner} {duration(max(0, now - found.posted_at))} ago"),
        ("state", f"{found.state}, {found.phase}" + (f" ({found.end_reason})" if found.end_reason else "")),
        ("round", f"{found.round}, attempt {found.attempt}"),
        ("rounds", f"{found.rounds_settled} of {terms.rounds_max} settled, {found.void_rounds} void"),
        ("accuracy", percent(found.accuracy[-1][1] if found.accuracy else None)),
        ("goal", "none" if found.goal_accuracy is None else percent(found.goal_accuracy)),
        ("reward", f"{format_wei(terms.reward_wei)} a slot and round, stake {format_wei(terms.stake_wei)}"),
        ("slots", f"{terms.slots}, at least {terms.workers_min} workers; {found.enrolled} enrolled"),
        ("audits", _audits(terms)),
        ("escrow", format_wei(found.escrow_wei)),
        ("deadline", time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(terms.deadline))),
        ("manifest", found.manifest),
        ("dataset", found.dataset or "not known here yet"),
        ("model", found.base),
    ]
    if found.phase_deadline_at is not None and found.state == "running":
        left = found.phase_deadline_at - now
        rows.insert(3, ("phase ends", f"in {duration(left)}" if left > 0 else f"was due {duration(-left)} ago"))
    if found.waiting_for is not None:
        rows.append(("waits for", found.waiting_for))
    if found.declined is not None:
        rows.append(("declined here", found.declined))
    return rows
