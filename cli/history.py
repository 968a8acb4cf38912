"""flnode account history: what became of this node's deposits, work and jobs, from finalised logs alone."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click
import msgspec

from cli.amounts import format_wei
from cli.client import Client
from cli.explain import story
from cli.options import node_command
from cli.output import print_json, stdout, table
from node.api import schema

END_REASONS = {"1": "finished", "2": "goal reached", "3": "cancelled", "4": "deadline", "5": "failed"}


class Entry(msgspec.Struct, frozen=True):
    """One thing that happened to the account; `wei` is what it earned, or forfeited if negative."""

    at: int
    number: int  # of the block
    job: int
    what: str
    round: int = 0
    attempt: int = 0
    wei: str = "0"


@click.command()
@node_command
def history(client: Client, as_json: bool) -> None:
    """What this account earned, forfeited and deposited in jobs, oldest first.

    Withdrawals and payments are not in it: they belong to no job.

    \b
    flnode account history --config ~/mynode
    """
    address = client.call("fl_account", schema.Account).address
    jobs = client.call("fl_jobs", list[schema.JobSummary])
    entries = [entry for job in jobs for event in story(client, job.id) for entry in entries_of(event, job, address)]
    entries.sort(key=lambda entry: (entry.at, entry.number))  # of one job they are in order already
    if as_json:
        print_json(entries)
    elif entries:
        columns = ("TIME", ">BLOCK", ">JOB", ">ROUND", ">AMOUNT", "WHAT")
        stdout().print(table(columns, (_row(entry) for entry in entries)))
        total = sum(int(entry.wei) for entry in entries)
        click.echo(f"\nearned less forfeited: {format_wei(total)}")
    else:
        click.echo("this account has had no part in a job yet")


def entries_of(event: schema.JobEvent, job: schema.JobSummary, address: str) -> Iterator[Entry]:
    """What an event of a job means to an account; nothing, mostly."""
    entry = Entry(event.timestamp, event.number, job.id, "", event.round, event.attempt)
    detail = event.detail
    if event.worker == address:
        match event.name:
            case "Enrolled":
                what = f"enrolled, free deposit {format_wei(detail['free'])}"
                yield msgspec.structs.replace(entry, what=what)
            case "Left":
                what = f"left, free deposit {format_wei(detail['released'])} released"
                yield msgspec.structs.replace(entry, what=what)
            case "Evicted":
                yield msgspec.structs.replace(entry, what="no longer enrolled: the deposit is below one stake")
            case "SeatSettled":
                wei = int(detail["earned"]) - int(detail["forfeited"])
                what = "paid for the round" if wei > 0 else "stake forfeited" if wei < 0 else "stake returned"
                yield msgspec.structs.replace(entry, what=what, wei=str(wei))
    if event.name == "AuditOpened" and detail["appellant"] == address:
        yield msgspec.structs.replace(entry, what="appealed against the majority: the bond is put up")
    if job.owner == address:
        match event.name:
            case "JobPosted":
                yield msgspec.structs.replace(entry, what="posted the job")
            case "JobToppedUp":
                yield msgspec.structs.replace(entry, what=f"job topped up to {detail['rounds_max']} rounds")
            case "JobEnded":
                reason = END_REASONS.get(detail["reason"], f"reason {detail['reason']}")
                yield msgspec.structs.replace(entry, what=f"job ended: {reason}")


def _row(entry: Entry) -> tuple[object, ...]:
    when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(entry.at))
    place = "" if not entry.round else f"{entry.round}" + (f".{entry.attempt}" if entry.attempt > 1 else "")
    amount = "" if entry.wei == "0" else format_wei(entry.wei)
    return when, entry.number, entry.job, place, amount, entry.what
