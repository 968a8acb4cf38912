"""What a job will need of a machine, roughly, before any of it is spent. Needs no torch.

Seconds are a line through two measurements of the machine (learner.speed), memory is counted from sizes. Both are for
declining what is far too much: a job that is only a little beyond the truth is found out by the process's own limits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from learner.data import Dataset
from learner.manifest import Manifest

_PROCESS_BYTES: Final = 192 * 2**20  # of a process that has imported torch and done its checks
_THREAD_BYTES: Final = 20 * 2**20  # its stack, and that of a thread of the other pool


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast a machine trains, with its threads.

    Attributes:
        step_ms: of a step so small that only its overhead counts.
        multiplications_per_s: of the matrix products of larger steps, all else that they do included; positive.
    """

    step_ms: float
    multiplications_per_s: float


def round_s(manifest: Manifest, speed: Speed) -> float:
    """Seconds for one round: training alone."""
    return manifest.steps * (speed.step_ms / 1e3 + manifest.cost().multiplications / speed.multiplications_per_s)


def memory_bytes(manifest: Manifest, dataset: Dataset | None, threads: int) -> int:
    """Private memory of the process at its highest.

    Args:
        dataset: None while it is not here: then it counts with the least that its size can mean.
    """
    size = manifest.dataset_size
    # The file and its copy, and twice as float32: before and after the scale.
    loaded = 2 * size
    if dataset is not None:
        loaded += 8 * (dataset.train + dataset.test) * dataset.sample_features
    return _PROCESS_BYTES + threads * _THREAD_BYTES + loaded + manifest.cost().memory_bytes
