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
_NO_MATCH: Final = 1.5  # times the best: slower by more than what a run's time varies by


def fastest(run: Callable[[Backend], object], device: torch.device) -> Backend:
    """The backend with which `run` takes the least time: the best of a few runs, of those that are no match just one.

    The choice changes no result, so that it may depend on the machine and on what else it does.
    """
    runs = {name: functools.partial(run, backend) for name, backend in BACKENDS.items()}
    for each in runs.values():
        each()
    seconds = {name: seconds_of(each, device) for name, each in runs.items()}
    for _ in range(_RUNS - 1):
        limit = _NO_MATCH * min(seconds.values())
        for name, each in runs.items():
            if seconds[name] <= limit:
                seconds[name] = min(seconds[name], seconds_of(each, device))
    return BACKENDS[min(seconds, key=seconds.__getitem__)]


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """How long a run takes.

    Of a single thread the CPU's time is what counts: then it does not matter what else the machine does, such as the
    checks of other learners that started with this one.
    """
    clock = time.thread_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return clock() - started
