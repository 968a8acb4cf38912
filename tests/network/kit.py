"""Real networks for tests: ordinary `flnode start` processes on loopback, that can be killed and started again."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from cli import audit_terms
from cli.client import Client, Endpoint
from cli.demo_network import Running, spawn_node
from cli.errors import NodeError
from cli.jobfile import job_spec
from cli.local_network import Member, Node, Plan, create_nodes
from cli.processes import end, last_lines
from node.api import schema

T = TypeVar("T")
LIMIT_S: Final = 120.0  # nothing that is waited for takes so long, even on a busy machine
POLL_S: Final = 0.05
JOB: Final = {
    "dataset": "digits", "sizes": [64, 16, 10], "batch_size": 32, "steps": 5, "learning_rate": 0.1, "momentum": 0.5,
}  # fmt: skip
TERMS: Final = {
    "reward": "0.01 flt", "stake": "0.1 flt", "slots": 3, "workers_min": 3, "rounds_max": 3, "attempts_max": 5,
    "commit_window_s": 60, "reveal_window_s": 60, "last_call_s": 2, "grace_s": 30, "deadline_s": 3600,
}  # fmt: skip

VALIDATORS: Final = tuple(Member(f"validator-{n}", ("validator",)) for n in range(1, 5))
WORKERS: Final = tuple(Member(f"worker-{n}", ("worker",)) for n in range(1, 4))
SERVER: Final = Member("server", ("learning_server",))


class Net:
    """A network under test. Every wait fails, with the log of the node in question, instead of going on for ever."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.nodes = {node.member.name: node for node in nodes}
        self.running: dict[str, Running] = {}

    def start(self, *names: str) -> None:
        for name in names or self.nodes:
            node = self.nodes[name]
            client = Client(Endpoint(socket=node.config.socket_path))
            self.running[name] = Running(node, spawn_node(node), client)

    def kill(self, name: str) -> None:
        """kill -9, learner included: as if the machine lost power."""
        running = self.running.pop(name)
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        running.client.__exit__()

    def terminate(self, name: str) -> float:
        """SIGTERM, and how many seconds it took the node to stop cleanly."""
        running = self.running.pop(name)
        began = time.monotonic()
        running.process.terminate()
        assert running.process.wait(LIMIT_S) == 0
        running.client.__exit__()
        return time.monotonic() - began

    def stop(self) -> None:
        end([each.process for each in self.running.values()])
        for each in self.running.values():
            each.client.__exit__()

    def call(self, name: str, method: str, kind: type[T], **params: object) -> T:
        return self.running[name].client.call(method, kind, params)

    def status(self, name: str) -> schema.Status | None:
        """None while the node does not answer."""
        if not self.nodes[name].config.socket_path.exists():
            return None
        try:
            return self.call(name, "fl_status", schema.Status)
        except NodeError:
            return None

    def wait(self, what: str, condition: Callable[[], T | None], limit_s: float = LIMIT_S) -> T:
        """Poll until `condition` gives something true."""
        deadline = time.monotonic() + limit_s
        while not (found := condition()):
            for each in self.running.values():
                each.check()
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {limit_s:.0f} s in vain for: {what}\n{self._logs()}")
            time.sleep(POLL_S)
        return found

    def wait_connected(self, name: str, validators: int = len(VALIDATORS)) -> None:
        def connected() -> bool:
            status = self.status(name)
            return status is not None and status.validators_connected >= validators

        self.wait(f"{name} to reach {validators} validators", connected)

    def submit(self, name: str, **changes: object) -> int:
        about_terms = TERMS.keys() | audit_terms.KEYS.keys()
        terms = {**TERMS, **{key: value for key, value in changes.items() if key in about_terms}}
        job = {**JOB, "seed": 1, **{key: value for key, value in changes.items() if key not in about_terms}}
        spec = job_spec(job, terms, time.time(), "test")
        params = {"spec": msgspec.to_builtins(spec), "wait_s": 60.0}
        submitted = self.running[name].client.call("fl_submitJob", schema.Submitted, params, wait_s=60.0)
        assert submitted.job is not None
        return submitted.job

    def job(self, name: str, job: int) -> schema.JobDetail:
        return self.call(name, "fl_job", schema.JobDetail, id=job)

    def wait_job(
        self, name: str, job: int, what: str, condition: Callable[[schema.JobDetail], bool]
    ) -> schema.JobDetail:
        def check() -> schema.JobDetail | None:
            try:
                detail = self.job(name, job)
            except NodeError:
                return None  # the node is starting, or has not heard of the job yet
            return detail if condition(detail) else None

        return self.wait(what, check)

    def wait_ended(self, name: str, job: int) -> schema.JobDetail:
        return self.wait_job(name, job, "the job to end", lambda detail: detail.state in ("closing", "ended"))

    def _logs(self) -> str:
        return "\n".join(
            "\n".join([f"--- {name}", *last_lines(node.log, 12)]) for name, node in self.nodes.items()
        )


@contextmanager
def network(
    root: Path, members: Sequence[Member], change: Callable[[Node], None] | None = None
) -> Iterator[Net]:
    """A network that is not started yet; on the way out nothing of it is left running.

    Args:
        change: called with each node's directory before anything starts, to edit its files.
    """
    nodes = create_nodes(root, Plan("test", members, deposit_stakes=20))
    if change is not None:
        for node in nodes:
            change(node)
    net = Net(nodes)
    try:
        yield net
    finally:
        net.stop()
