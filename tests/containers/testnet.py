"""The network of compose.yaml for real: five workers train, and who was paid is printed. Needs a container engine.

    make testnet-containers

It uses what docs/CONTAINERS.md shows: docker compose, and flnode inside the containers. The exit code is 0 if every
honest worker was paid in every round and the others forfeited in every round.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = "flnode-testnet"  # not the name in compose.yaml: a network that somebody uses stays as it is
HONEST: Final = ("validator-1", "validator-2", "validator-3")
DISHONEST: Final = ("copier", "lazy")
SERVER: Final = "server"
VALIDATORS: Final = 4
UP_LIMIT_S: Final = 180.0
JOB_LIMIT_S: Final = 400.0
POLL_S: Final = 2.0
LOG_LINES: Final = "30"


class Failed(Exception):
    """The network did not do what it should."""


def compose_command() -> list[str]:
    """`docker compose` where the plugin is installed, else the docker-compose of the virtual environment."""
    if shutil.which("docker") and subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0:
        return ["docker", "compose"]
    found = shutil.which("docker-compose", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        raise Failed("neither `docker compose` nor docker-compose is installed")
    return [found]


class Network:
    """The containers of one compose project."""

    def __init__(self) -> None:
        self._compose = [*compose_command(), "--project-name", PROJECT]

    def run(self, *arguments: str, quiet: bool = False) -> None:
        """One compose command, its output shown unless it is quiet."""
        done = subprocess.run([*self._compose, *arguments], cwd=ROOT, capture_output=quiet, check=False)
        if done.returncode:
            raise Failed(f"docker compose {' '.join(arguments)} failed with exit code {done.returncode}")

    def flnode(self, service: str, *arguments: str) -> Any:
        """What a flnode command prints as JSON in a node's container; None if it fails."""
        command = [*self._compose, "exec", "-T", service, "flnode", *arguments, "--json"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return json.loads(done.stdout) if done.returncode == 0 else None


def wait_for(what: str, limit_s: float, found: Callable[[], Any]) -> Any:
    """Ask until the answer is something. Raises Failed when the time is over."""
    deadline = time.monotonic() + limit_s
    while not (answer := found()):
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not after {limit_s:.0f} s")
        time.sleep(POLL_S)
    return answer


def train(network: Network) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Start the containers and run one job; the job, and each worker's part in it by name."""
    network.run("up", "--detach", "--no-build")

    def connected() -> bool:
        status = network.flnode(SERVER, "status")
        return status is not None and status["validators_connected"] == VALIDATORS

    wait_for("the server is connected to every validator", UP_LIMIT_S, connected)
    names = (*HONEST, *DISHONEST)
    addresses = {name: wait_for(name, UP_LIMIT_S, partial(network.flnode, name, "status"))["address"] for name in names}
    submitted = network.flnode(SERVER, "job", "submit", "/jobs/five-workers.toml")
    if submitted is None:
        raise Failed("the job was refused")
    print(f"the server posted job {submitted['job']}; it takes a minute or two", flush=True)

    def ended() -> dict[str, Any] | None:
        job: dict[str, Any] | None = network.flnode(SERVER, "job", "show", str(submitted["job"]))
        return job if job is not None and job["state"] == "ended" else None

    job = wait_for("the job has ended and its books are closed", JOB_LIMIT_S, ended)
    workers = {worker["address"]: worker for worker in job["workers"]}
    return job, {name: workers[address] for name, address in addresses.items()}


def judge(job: dict[str, Any], workers: dict[str, dict[str, Any]]) -> None:
    """Print who was paid. Raises Failed unless it is as it should be."""
    rounds = job["rounds_settled"]
    print(f"\njob {job['id']} ended ({job['end_reason']}): {rounds} rounds, accuracy {job['accuracy'][-1][1]:.4f}")
    print(f"model {job['base']}\n\n{'WORKER':<12} {'IN MAJORITY':>11} {'EARNED':>10} {'FORFEITED':>11}")
    for name, worker in workers.items():
        earned, forfeited = (int(worker[key]) / 10**18 for key in ("earned_wei", "forfeited_wei"))
        print(f"{name:<12} {worker['rounds_in_majority']:>11} {earned:>6.2f} flt {forfeited:>7.2f} flt")
    reward, stake = (int(job["terms"][key]) for key in ("reward_wei", "stake_wei"))
    for name, worker in workers.items():
        due = (rounds * reward, 0) if name in HONEST else (0, rounds * stake)
        if (int(worker["earned_wei"]), int(worker["forfeited_wei"])) != due:
            raise Failed(f"{name} should have earned and forfeited {due} wei")


def main() -> int:
    """Run the network once; whatever happens, its containers, volumes and network are removed."""
    try:
        network = Network()
        try:
            judge(*train(network))
        except Failed:
            network.run("ps", "--all")
            network.run("logs", "--tail", LOG_LINES)
            raise
        finally:
            network.run("down", "--volumes", "--timeout", "5", quiet=True)
    except Failed as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
