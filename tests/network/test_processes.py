"""Whole networks of real processes: what a demo shows, and what happens when its members die."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from chain.store import Store
from chain.types import FINALISE, TIMEOUT
from cli.local_network import Member, Node
from node.api import schema
from tests.network.kit import SERVER, VALIDATORS, WORKERS, Net, network

pytestmark = pytest.mark.network
EVERYBODY = (*VALIDATORS, *WORKERS, SERVER)


def submitted(net: Net, **changes: object) -> int:
    """Start everybody and post a job."""
    net.start()
    net.wait_connected("server")
    return net.submit("server", **changes)


def test_killed_workers_and_servers_come_back_and_the_job_finishes(tmp_path: Path) -> None:
    with network(tmp_path, EVERYBODY) as net:
        job = submitted(net, rounds_max=4)
        net.wait_job("server", job, "a commit in round 2", lambda d: d.round == 2 and d.phase in ("COMMIT", "REVEAL"))
        net.kill("worker-1")
        net.start("worker-1")
        net.wait_job("server", job, "round 3", lambda d: d.round == 3)
        net.kill("server")
        net.start("server")
        detail = net.wait_ended("server", job)
        assert detail.end_reason == "finished"
        assert detail.rounds_settled == 4
        assert [score for _, score in detail.accuracy][-1] > 0.3
        assert {worker.rounds_in_majority for worker in detail.workers} == {4}
        assert detail.void_rounds == 0


def test_validators_killed_together_keep_their_votes_and_the_chain_goes_on(tmp_path: Path) -> None:
    def change(node: Node) -> None:
        config = node.config.directory / "node.toml"
        config.write_text(config.read_text().replace('level = "info"', 'level = "debug"'))

    with network(tmp_path, EVERYBODY, change) as net:
        job = submitted(net, rounds_max=5)
        net.wait_job("server", job, "round 2", lambda d: d.round == 2)
        heights = {v.name: net.call(v.name, "fl_status", schema.Status).finalised_head.number for v in VALIDATORS}
        one, two, *others = (validator.name for validator in VALIDATORS)
        for name in others:
            net.kill(name)  # without a quorum no view ends, so what the other two say next stays in their logs
        net.call("server", "fl_send", schema.Submitted, to="0x" + "11" * 20, value_wei="1")  # work for them
        before = len(_persisted(net.nodes[one]))
        net.wait("a vote for the timeout of a view", lambda: "timeout" in _persisted(net.nodes[one])[before:])
        for name in (one, two):
            net.kill(name)
        assert _votes(net.nodes[one]) > 0
        for name in (two, *others):
            _votes(net.nodes[name])
        net.start(one, two, *others)
        detail = net.wait_ended("server", job)
        assert detail.rounds_settled == 5
        for validator in VALIDATORS:
            status = net.wait(f"{validator.name} to be up", lambda name=validator.name: net.status(name))
            assert status.finalised_head.number >= heights[validator.name]


def _persisted(node: Node) -> list[str]:
    """The kinds of the votes that a node's log tells of, in order."""
    return re.findall(r"vote\.persisted +kind=(\w+)", node.log.read_text(errors="replace"))


def _votes(node: Node) -> int:
    """Check the vote log that a killed validator left: every named block has its body, no rule was broken."""
    store = Store(node.config.chain_path)
    try:
        votes, blocks = store.vote_log().votes, store.vote_log().blocks
    finally:
        store.close()
    bodies = {block.digest for block in blocks}
    kinds = [(vote.view, vote.kind) for vote in votes]
    assert len(kinds) == len(set(kinds))
    assert not {view for view, kind in kinds if kind == FINALISE} & {view for view, kind in kinds if kind == TIMEOUT}
    assert all(vote.digest in bodies for vote in votes if vote.kind == "notarise")
    return len(votes)


def test_a_node_stops_within_three_seconds_of_sigterm_and_goes_on_where_it_was(tmp_path: Path) -> None:
    with network(tmp_path, EVERYBODY) as net:
        job = submitted(net, rounds_max=4)
        net.wait_job("server", job, "round 2", lambda d: d.round == 2)
        for name in ("worker-2", "validator-1"):
            assert net.terminate(name) < 3.0
            net.start(name)
        assert net.wait_ended("server", job).rounds_settled == 4


def test_a_validator_without_a_learner_needs_less_than_150_mb(tmp_path: Path) -> None:
    with network(tmp_path, EVERYBODY) as net:
        job = submitted(net, rounds_max=3)
        net.wait_ended("server", job)
        used = net.call("validator-4", "fl_status", schema.Status).memory
        assert used.learner_bytes == 0
        assert used.node_bytes < 150 * 10**6


def test_jobs_and_commits_of_a_node_two_hops_from_every_validator_arrive(tmp_path: Path) -> None:
    """far (server and worker) knows only the relay; the relay knows the validators."""
    far = Member("far", ("worker", "learning_server"))
    relay = Member("relay", ("observer",))

    def change(node: Node) -> None:
        if node.member.name == "far":
            text = (node.config.directory / "network.toml").read_text()
            (node.config.directory / "network.toml").write_text(re.sub(r'(?m)^p2p = .*\n', "", text))

    with network(tmp_path, (*VALIDATORS, *WORKERS[:2], relay, far), change) as net:
        net.start(*(name for name in net.nodes if name != "far"))
        net.wait_connected("relay")
        address = net.call("relay", "fl_status", schema.Status).addresses[0]
        config = net.nodes["far"].config.directory / "node.toml"
        config.write_text(re.sub(r"(?m)^bootstrap = .*$", f'bootstrap = ["{address}"]', config.read_text()))
        net.start("far")
        net.wait("far to reach the relay", lambda: (s := net.status("far")) is not None and s.peers == 1)
        job = net.submit("far", rounds_max=2)
        detail = net.wait_ended("far", job)
        status = net.call("far", "fl_status", schema.Status)
        assert status.peers == 1
        assert status.validators_connected == 0
        mine = next(worker for worker in detail.workers if worker.address == status.address)
        assert mine.rounds_in_majority == 2
