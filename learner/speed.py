"""How fast this machine trains: measured once, at the learner's start, so that it can decline what takes too long."""

from __future__ import annotations

import functools
from typing import Final

from learner import golden
from learner.exact.backends.choose import seconds_of
from learner.golden import Preset
from learner.machine import Machine
from learner.needs import Speed
from learner.presets import mlp
from learner.train import initial_bytes, load_samples, train_round

_RUNS: Final = 2  # the first also chooses the backends
_STEPS_SMALL, _STEPS_LARGE, _BATCH_LARGE = 10, 1, 64
LARGE: Final = Preset(mlp((512, 512, 10)), (512,), 10)


def measured(machine: Machine) -> Speed:
    """From a run of steps that are nearly all overhead, and one of steps that are nearly all products: about 0.2 s."""
    small = _step_s(machine, "small", golden.PRESETS["mlp"], _STEPS_SMALL, 16)
    large = _step_s(machine, "large", LARGE, _STEPS_LARGE, _BATCH_LARGE)
    manifest, _ = golden.made_up_job("large", LARGE, 1, _BATCH_LARGE)
    return Speed(small * 1e3, manifest.cost().multiplications / max(large - small, large / 10))


def _step_s(machine: Machine, name: str, preset: Preset, steps: int, batch_size: int) -> float:
    """Seconds of a step, in the best of a few runs: what else the machine did counts least there."""
    manifest, dataset = golden.made_up_job(name, preset, steps, batch_size)
    base, samples = initial_bytes(manifest), load_samples(dataset, machine)
    once = functools.partial(train_round, manifest, base, samples, golden.SEED, machine)
    return min(seconds_of(once, machine.device) for _ in range(_RUNS)) / steps
