"""flnode conformance: does this machine compute as docs/EXACT.md says, to the bit?"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import msgspec
from rich.table import Table

import learner
from cli.errors import NodeError
from cli.output import print_json, stdout, table
from learner.verdict import ANY_BACKEND, Verdict

# In a process of its own: only a learner's process imports torch.
PROGRAM: Final = (sys.executable, "-P", "-m", "learner.conformance")


@click.command()
@click.option("--quick", is_flag=True, help="Only what a worker checks at its start.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
def conformance(quick: bool, as_json: bool) -> None:
    """Check that this machine computes exactly, on every device and with every backend.

    Products of matrices at their extremes, tables of functions and golden training runs must give the recorded bits.
    A worker that differs in one would lose its stakes, so it refuses jobs. Exit code 1 if anything differs.

    \b
    flnode conformance
    flnode conformance --quick --json | jq '.[] | select(.ok | not)'
    """
    found = list(_verdicts((*PROGRAM, *(["--quick"] if quick else []))))
    if as_json:
        print_json(found)
    else:
        stdout().print(_screen(found))
    wrong = [verdict for verdict in found if not verdict.ok]
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise NodeError(f"this machine does not conform: {wrong[0]}{more}")


def _verdicts(command: tuple[str, ...]) -> Iterator[Verdict]:
    """Run the checks; raises NodeError when they cannot run to their end."""
    assert learner.__file__ is not None
    environment = os.environ | {"PYTHONPATH": str(Path(learner.__file__).resolve().parent.parent)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode not in (0, 1) or not done.stdout:
        reason = done.stderr.strip().splitlines()[-1:] or [f"ended with status {done.returncode}"]
        raise NodeError(f"the checks cannot run here: {reason[0]}; they need the extra `learner` (torch)")
    for line in done.stdout.splitlines():
        yield msgspec.json.decode(line, type=Verdict)


def _screen(found: list[Verdict]) -> Table:
    """A row for each check, a column for each device and backend."""
    places = list(dict.fromkeys((verdict.device, verdict.backend) for verdict in found))
    by_place = {(verdict.check, verdict.device, verdict.backend): verdict for verdict in found}
    columns = ("CHECK", *(device if backend == ANY_BACKEND else f"{device} {backend}" for device, backend in places))
    rows = []
    for check in dict.fromkeys(verdict.check for verdict in found):
        cells = (by_place.get((check, *place)) for place in places)
        rows.append((check, *("" if cell is None else "equal" if cell.ok else "DIFFERS" for cell in cells)))
    return table(columns, rows)
