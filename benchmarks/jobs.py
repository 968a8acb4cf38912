"""Rounds per minute with one job and with several on the same workers: `python -m benchmarks.jobs`.

Real daemons on loopback. A round is a chain of steps that wait for each other (train, commit, reveal, score, finalise),
so one job leaves its workers idle most of the time; rounds of other jobs fill the gaps, as far as there are cores.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

from cli.local_network import Member
from tests.network.kit import SERVER, VALIDATORS, Net, network

LIMIT_S = 600.0


def rounds_per_minute(net: Net, jobs: int, rounds: int, steps: int) -> float:
    """Of all jobs together, from the time that each has settled its first round until all have ended."""
    numbers = [net.submit("server", rounds_max=rounds, steps=steps, seed=seed) for seed in range(jobs)]

    def settled() -> list[int]:
        return [net.job("server", job).rounds_settled for job in numbers]

    net.wait("every job's first round", lambda: min(settled()) > 0, LIMIT_S)
    began, before = time.monotonic(), sum(settled())
    net.wait("every job to end", lambda: min(settled()) == rounds, LIMIT_S)
    return (jobs * rounds - before) / (time.monotonic() - began) * 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=12, help="of each job")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 200], help="of a round; a step is about 0.5 ms")
    options = parser.parse_args()
    workers = [Member(f"worker-{number}", ("worker",)) for number in range(1, options.workers + 1)]
    print(f"{os.cpu_count()} cores; {len(VALIDATORS)} validators, {len(workers)} workers, 1 learning server")
    print(f"{'steps':>6s}{'1 job':>10s}{f'{options.jobs} jobs':>10s}{'ratio':>8s}{'load':>8s}   rounds per minute")
    members = (*VALIDATORS, *workers, SERVER)
    with tempfile.TemporaryDirectory(prefix="jobs-") as root, network(Path(root), members) as net:
        net.start()
        for name in net.nodes:
            net.wait_connected(name)
        for steps in options.steps:
            one = rounds_per_minute(net, 1, options.rounds, steps)
            several = rounds_per_minute(net, options.jobs, options.rounds, steps)
            print(f"{steps:6d}{one:10.1f}{several:10.1f}{several / one:8.2f}{os.getloadavg()[0]:8.1f}", flush=True)


if __name__ == "__main__":
    main()
