"""A pool of one among real nodes: every round is computed again by validators that have learners."""

from __future__ import annotations

from pathlib import Path

import pytest

from cli.amounts import parse_amount
from cli.local_network import Member, Node
from node.api import schema
from tests.cli.operations_kit import ok
from tests.network.kit import network

pytestmark = pytest.mark.network
REWARD, STAKE = parse_amount("0.01 flt"), parse_amount("0.1 flt")
# One owns the job, two work for pay, and one is there for audits only; all four have learners.
MEMBERS = (
    Member("owner", ("validator", "learning_server")),
    Member("honest", ("validator", "worker")),
    Member("lazy", ("validator", "worker"), "lazy"),
    Member("auditor", ("validator",)),
)


def recompute(node: Node) -> None:
    """Give the one without another role a learner, as its operator would."""
    path = node.config.directory / "node.toml"
    text = path.read_text()
    assert "\nrecompute = false\n" in text
    path.write_text(text.replace("\nrecompute = false\n", "\nrecompute = true\n"))


def test_alone_in_its_round_a_lazy_worker_forfeits_and_an_honest_one_is_paid(tmp_path: Path) -> None:
    with network(tmp_path, MEMBERS, recompute) as net:
        net.start()
        net.wait_connected("owner", len(MEMBERS))
        job = net.submit(
            "owner", slots=1, workers_min=1, rounds_max=40, reveal_window_s=5, audit=1.0, audit_fee="0.04 flt"
        )

        def both_were_drawn(detail: schema.JobDetail) -> bool:
            records = {worker.address: worker for worker in detail.workers}
            honest, lazy = (records.get(net.nodes[name].address) for name in ("honest", "lazy"))
            drawn = honest is not None and lazy is not None
            return drawn and int(honest.earned_wei) > 0 and int(lazy.forfeited_wei) > 0

        detail = net.wait_job("owner", job, "each of the two to be drawn alone", both_were_drawn)
        at = ("--config", net.nodes["owner"].config.directory)
        ok("job", "cancel", job, *at)
        detail = net.wait_ended("owner", job)
        records = {worker.address: worker for worker in detail.workers}
        honest, lazy = (records[net.nodes[name].address] for name in ("honest", "lazy"))
        assert (lazy.rounds_in_majority, lazy.earned_wei) == (0, "0")
        assert int(lazy.forfeited_wei) % STAKE == 0
        assert (int(honest.earned_wei), honest.forfeited_wei) == (REWARD * honest.rounds_in_majority, "0")
        events = net.call("owner", "fl_jobEvents", schema.JobEvents, id=job, after=0, wait_s=0.0).events
        lied_in = next(event.round for event in events if event.name == "RoundVoided")
        told = ok("job", "explain", job, lied_in, *at)
        assert "to be audited: drawn by lot" in told
        assert "revealed another update than the audit found" in told
