"""The backends by name, and the choice among them by measuring."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Final

import torch

from learner.exact.backends import Backend
from learner.exact.backends.f32 import Float32
from learner.exact.backends.f64 import Float64
from learner.exact.backends.int8 import Int8

BACKENDS: Final[dict[str, Backend]] = {each.name: each for each in (Float64(), Float32(), Int8())}
REFERENCE: Final = BACKENDS["f64"]
_RUNS: Final = 3


def fastest(run: Callable[[Backend], object], device: torch.device) -> Backend:
    """The backend with which `run` takes the least time: the best of a few runs each.

    The choice changes no result, so that it may depend on the machine and on what else it does.
    """
    return min(BACKENDS.values(), key=lambda backend: _seconds(functools.partial(run, backend), device))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    best = float("inf")
    # Of a single thread the CPU's time is what counts: others on the machine cannot spoil it.
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    run()
    for _ in range(_RUNS):
        started = clock()
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, clock() - started)
    return best
