"""Does this machine compute as the arithmetic asks? Asked once, before the first job, and by `flnode conformance`.

A machine that differs in one bit would lose every vote and every stake, so it had better not begin.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from typing import Final

import torch
from torch import Tensor

from learner import golden
from learner.exact.backends.choose import BACKENDS
from learner.machine import Machine
from learner.verdict import ANY_BACKEND, Verdict

Check = Callable[[Machine], bytes]

# Seconds matter at a worker's start: what has been seen to differ between machines, and one whole run.
_QUICK_PRODUCTS: Final = ("largest", "cancelling", "limbs", "saturating")
_QUICK_RUNS: Final = ("mlp",)


def function_checks() -> dict[str, Check]:
    """Checks that multiply no matrices, by name."""
    return {f"function {name}": functools.partial(_function, name) for name in golden.FUNCTIONS}


def backend_checks(quick: bool) -> dict[str, Check]:
    """Checks of a device with a backend, by name."""
    products = _QUICK_PRODUCTS if quick else tuple(golden.PRODUCTS)
    runs = _QUICK_RUNS if quick else tuple(golden.PRESETS)
    return {f"product {name}": functools.partial(_product, name) for name in products} | {
        f"run {name}": functools.partial(_run, name) for name in runs
    }


def judged(machine: Machine, backend: str, quick: bool, expected: dict[str, str]) -> Iterator[Verdict]:
    """Check a device with one backend.

    Args:
        backend: its name, for the verdicts; ANY_BACKEND does the checks that need none.
        expected: golden.recorded().
    """
    checks = function_checks() if backend == ANY_BACKEND else backend_checks(quick)
    for name, check in checks.items():
        started = time.perf_counter()
        try:
            found = hashlib.sha256(check(machine)).hexdigest()
        except (
            Exception
        ) as error:  # a device that cannot do it does not conform; the other checks still say what it can
            found = f"{type(error).__name__}: {error}".splitlines()[0]
        elapsed_ms = (time.perf_counter() - started) * 1e3
        wanted = expected.get(name, "nothing: the check is not recorded")
        yield Verdict(name, str(machine.device), backend, found == wanted, wanted, found, elapsed_ms)


def machine_with(device: torch.device, backend: str) -> Machine:
    """The device with a backend; ANY_BACKEND takes the first."""
    return Machine(device, BACKENDS[next(iter(BACKENDS)) if backend == ANY_BACKEND else backend])


def nonconformity(machine: Machine) -> str:
    """Empty when the machine conforms by the quick checks, else the first one that does not."""
    expected = golden.recorded()
    backends = BACKENDS.values() if machine.backend is None else (machine.backend,)
    one_by_one = [(each.name, Machine(machine.device, each)) for each in backends]
    for name, each in [(ANY_BACKEND, machine), *one_by_one]:
        for verdict in judged(each, name, True, expected):
            if not verdict.ok:
                return str(verdict)
    return ""


def _product(name: str, machine: Machine) -> bytes:
    return _bytes(golden.product(machine, name))


def _function(name: str, machine: Machine) -> bytes:
    return _bytes(golden.FUNCTIONS[name](machine))


def _run(name: str, machine: Machine) -> bytes:
    return golden.run(machine, name)


def _bytes(numbers: Tensor) -> bytes:
    """The numbers in order, little-endian; -0 as +0, which no step distinguishes."""
    return bytes((numbers.cpu() + 0.0).contiguous().flatten().view(torch.uint8).tolist())
