"""What the demo found out: the JSON object of `flnode demo --json`, and the table for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Final

import msgspec
from rich.console import Group
from rich.text import Text

from cli.amounts import format_wei
from cli.errors import NodeError
from cli.local_network import Behaviour, Node
from cli.output import duration, percent, table
from node.api import schema

_PERCENTILE: Final = 95


class Seconds(msgspec.Struct, frozen=True):
    """Of a sample of durations; p95 by the nearest rank."""

    median: float
    p95: float


class Worker(msgspec.Struct, frozen=True):
    """One worker's balance with the job."""

    address: str
    behaviour: Behaviour
    rounds_in_majority: int
    earned_wei: str
    forfeited_wei: str


class Report(msgspec.Struct, frozen=True):
    """`seconds_to_first_round` counts from the demo's start, processes included; `seconds_per_round` from one settled
    round to the next."""

    accuracy: float
    rounds: int
    seconds_to_first_round: float
    seconds_per_round: Seconds
    model_digest: str
    finalised_height: int
    void_rounds: int
    workers: list[Worker]
    accuracy_by_round: list[tuple[int, float]]


def report_of(detail: schema.JobDetail, status: schema.Status, nodes: Sequence[Node], started_at: float) -> Report:
    """Sum up an ended job.

    Args:
        nodes: those whose members work become rows, in this order.
        started_at: Unix time of the demo's start, by the clock that the nodes use too.
    Raises:
        NodeError: not one round was settled, so there is nothing to report.
    """
    settled = [_settled_at(each) for each in detail.rounds if each.settled_at is not None]
    if not settled or not detail.accuracy:
        raise NodeError(f"no round was settled: the job ended ({detail.end_reason}), {detail.void_rounds} rounds void")
    settled.sort()
    gaps = [later - earlier for earlier, later in pairwise(settled)]
    found = {each.address.lower(): each for each in detail.workers}
    return Report(
        accuracy=round(detail.accuracy[-1][1], 4),
        rounds=detail.rounds_settled,
        seconds_to_first_round=round(settled[0] - started_at, 3),
        seconds_per_round=seconds_of(gaps or [settled[0] - started_at]),
        model_digest=detail.base,
        finalised_height=status.finalised_head.number,
        void_rounds=detail.void_rounds,
        accuracy_by_round=[(number, round(accuracy, 4)) for number, accuracy in detail.accuracy],
        workers=[_worker(node, found.get(node.address.lower())) for node in nodes if node.member.works],
    )


def seconds_of(sample: Sequence[float]) -> Seconds:
    """Median and 95th percentile of at least one duration."""
    ordered = sorted(sample)
    rank = math.ceil(len(ordered) * _PERCENTILE / 100)
    return Seconds(round(median(ordered), 3), round(ordered[rank - 1], 3))


def report_screen(report: Report, names: Sequence[str], heading: str = "") -> Group:
    """The final table; `names` are those of the workers, in the report's order."""
    facts = [
        *([("model", heading)] if heading else []),
        ("accuracy", percent(report.accuracy)),
        ("rounds", f"{report.rounds}, and {report.void_rounds} void"),
        ("first round settled", f"{duration(report.seconds_to_first_round)} after the start"),
        (
            "seconds per round",
            f"{report.seconds_per_round.median:.2f} median, {report.seconds_per_round.p95:.2f} p95",
        ),
        ("finalised height", str(report.finalised_height)),
        ("model digest", report.model_digest),
    ]
    rows = [
        (
            name,
            worker.behaviour,
            worker.address,
            worker.rounds_in_majority,
            format_wei(worker.earned_wei),
            format_wei(worker.forfeited_wei),
        )
        for name, worker in zip(names, report.workers, strict=True)
    ]
    columns = ("WORKER", "BEHAVIOUR", "ADDRESS", ">IN MAJORITY", ">EARNED", ">FORFEITED")
    return Group(table(("", ""), facts), Text(), table(columns, rows))


def _settled_at(each: schema.RoundInfo) -> float:
    """This machine's clock where the server saw it happen, else the block's time in whole seconds."""
    if each.settled_seen_at is not None:
        return each.settled_seen_at
    assert each.settled_at is not None
    return float(each.settled_at)


def _worker(node: Node, found: schema.WorkerInfo | None) -> Worker:
    return Worker(
        address=node.address,
        behaviour=node.member.behaviour,
        rounds_in_majority=0 if found is None else found.rounds_in_majority,
        earned_wei="0" if found is None else found.earned_wei,
        forfeited_wei="0" if found is None else found.forfeited_wei,
    )
