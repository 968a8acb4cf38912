"""Which jobs this machine declines because they ask for more than its operator gives (pure)."""

from __future__ import annotations

from learner.data import Dataset
from learner.manifest import Manifest
from learner.needs import Speed, memory_bytes, round_s
from learner.protocol import Ready
from node.learner_child import LearnerConfig


def unsuitable(
    manifest: Manifest, dataset: Dataset | None, config: LearnerConfig, ready: Ready, commit_window_s: float
) -> str:
    """Why a job's rounds would not be done here; empty if they would, as far as can be foretold.

    Args:
        dataset: None while it is not here yet.
        ready: what the learner's process measured; without a measurement no time is foretold.
        commit_window_s: the job's; who commits later forfeits.
    """
    needed_mb = memory_bytes(manifest, dataset, config.threads) / 2**20
    if needed_mb > config.memory_max_mb:
        return f"it needs about {needed_mb:.0f} MB of memory; `memory_max_mb` in [learner] is {config.memory_max_mb}"
    seconds = foretold_s(manifest, ready)
    threads = f"{config.threads} thread" + ("s" if config.threads > 1 else "")
    takes = f"a round takes about {seconds:.3g} s with {threads} of this machine"
    if seconds > config.job_timeout_s:
        return f"{takes}; `job_timeout_s` in [learner] is {config.job_timeout_s:g}"
    if seconds > commit_window_s:
        return f"{takes}; its commit window is {commit_window_s:g} s"
    return ""


def foretold_s(manifest: Manifest, ready: Ready) -> float:
    """Seconds that a job's rounds will take here, roughly; 0 without a measurement."""
    if not (ready.multiplications_per_s > 0 and ready.step_ms >= 0):  # also for NaN
        return 0.0
    return round_s(manifest, Speed(ready.step_ms, ready.multiplications_per_s))
