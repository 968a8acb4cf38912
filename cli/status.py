"""flnode status"""

from __future__ import annotations

import click
from rich.table import Table

from cli.amounts import format_wei
from cli.client import Client
from cli.options import node_command
from cli.output import duration, mebibytes, print_json, stdout, table
from node.api import schema


@click.command()
@node_command
def status(client: Client, as_json: bool) -> None:
    """How the node is, on one screen: heads, peers, jobs, balance, and what it waits for.

    \b
    flnode status --config ~/mynode
    flnode status --json | jq .finalised_head.number
    """
    found = client.call("fl_status", schema.Status)
    if as_json:
        print_json(found)
    else:
        stdout().print(_screen(found))


def _screen(s: schema.Status) -> Table:
    waiting = "nothing"
    if s.waiting_for is not None:
        waiting = s.waiting_for + (f", for {duration(s.waiting_since_s)}" if s.waiting_since_s is not None else "")
    refused = ", ".join(f"{count} {kind}" for kind, count in sorted(s.refused.items())) or "nothing"
    rows = [
        ("network", f"{s.network} (chain {s.chain_id}, genesis {s.genesis})"),
        ("node", f"flnode {s.version}, {', '.join(s.roles)}, up {duration(s.uptime_s)}"),
        ("account", f"{s.address}, {format_wei(s.balance_wei)}"),
        ("peer id", s.peer_id),
        ("listens on", ", ".join(s.addresses) or "nothing"),
        ("head", f"{s.head.number} {s.head.digest}"),
        ("finalised", f"{s.finalised_head.number} {s.finalised_head.digest}"),
        ("consensus", f"epoch {s.epoch}, view {s.view}, {s.validators_connected} of {s.validators} validators here"),
        ("peers", str(s.peers)),
        ("transactions", f"{s.pending_transactions} pending"),
        ("jobs", f"{s.jobs.open} open, {s.jobs.ended} ended, {s.jobs.owned} own, {s.jobs.enrolled} enrolled in"),
        ("learner", learner_in_words(s.learner)),
        ("memory", f"{mebibytes(s.memory.node_bytes)} node, {mebibytes(s.memory.learner_bytes)} learner"),
        ("refused", refused),
        ("waits for", waiting),
        *((f"declines job {job}", reason) for job, reason in s.declined.items()),
    ]
    return table(("", ""), rows)


def learner_in_words(learner: schema.LearnerInfo) -> str:
    """What it does, or why it does nothing, and which walls it lacks."""
    text: str = learner.state
    if learner.job is not None:
        text += f", job {learner.job} round {learner.round}"
    if learner.steps:
        text += f", step {learner.step} of {learner.steps}"
    if learner.reason:
        text += f": {learner.reason}"
    if learner.walls_missing:
        text += f"; its sandbox is not whole: {'; '.join(learner.walls_missing)}"
    return text
