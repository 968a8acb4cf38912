"""Every check on every device and backend: `python -m learner.conformance [--quick]`, one JSON verdict a line.

`--write` records instead what the reference backend finds on the CPU; only a change of docs/EXACT.md, a new check or a
new preset is a reason to. Exit status: 0 when all is as recorded, 1 when something differs.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator

import msgspec
import torch

from learner import golden, selfcheck
from learner.exact.backends.choose import BACKENDS
from learner.verdict import ANY_BACKEND, Verdict


def devices() -> list[torch.device]:
    """The CPU, and every CUDA device."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [torch.device("cpu"), *(torch.device(f"cuda:{number}") for number in range(count))]


def verdicts(quick: bool, expected: dict[str, str]) -> Iterator[Verdict]:
    """All of them, device by device."""
    for device in devices():
        for backend in (ANY_BACKEND, *BACKENDS):
            yield from selfcheck.judged(selfcheck.machine_with(device, backend), backend, quick, expected)


def reference() -> dict[str, str]:
    """What the first backend, the reference, finds on the CPU now."""
    cpu = torch.device("cpu")
    return {
        verdict.check: verdict.found
        for backend in (ANY_BACKEND, next(iter(BACKENDS)))
        for verdict in selfcheck.judged(selfcheck.machine_with(cpu, backend), backend, False, {})
    }


def main(arguments: list[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="learner.conformance", description="Does this machine compute exactly?")
    parser.add_argument("--quick", action="store_true", help="only what a worker checks at its start")
    parser.add_argument("--write", action="store_true", help="record what the reference backend finds")
    options = parser.parse_args(arguments)
    torch.set_grad_enabled(False)
    torch.set_flush_denormal(False)
    if options.write:
        golden.GOLDEN_PATH.write_text(json.dumps(reference(), indent=2) + "\n", encoding="utf-8")
        return 0
    conforms = True
    for verdict in verdicts(options.quick, golden.recorded()):
        conforms &= verdict.ok
        print(msgspec.json.encode(verdict).decode(), flush=True)
    return 0 if conforms else 1


if __name__ == "__main__":
    sys.exit(main())
