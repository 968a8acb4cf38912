"""The demo's progress on stderr: one live screen on a terminal, plain lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from cli.amounts import format_wei
from cli.output import percent, stderr, table
from node.api import schema

_BAR_WIDTH: Final = 40
_SAID_MAX: Final = 4  # lines of what was said that stay on the live screen


class View(Protocol):
    """Where the demo reports to while it runs."""

    def say(self, text: str) -> None: ...

    def node_up(self, name: str, up: int, count: int) -> None: ...

    def show(self, detail: schema.JobDetail, names: Mapping[str, str]) -> None:
        """The job as it is now; `names` by address."""
        ...


@contextmanager
def open_view() -> Iterator[View]:
    """The view that fits stderr."""
    console = stderr()
    if not sys.stderr.isatty():
        yield Lines(console)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield Screen(live)


class Lines:
    """One line for each thing that happens."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started = time.monotonic()
        self._job = 0
        self._rounds = 0
        self._void = 0

    def say(self, text: str) -> None:
        self._console.print(Text(f"{time.monotonic() - self._started:6.1f} s  {text}"))

    def node_up(self, name: str, up: int, count: int) -> None:
        self.say(f"{name} is up ({up} of {count})")

    def show(self, detail: schema.JobDetail, names: Mapping[str, str]) -> None:
        if detail.id != self._job:
            self._job, self._rounds, self._void = detail.id, 0, 0
        scores = dict(detail.accuracy)
        for each in detail.rounds:
            if each.settled_at is not None and each.round > self._rounds:
                self._rounds = each.round
                accuracy = percent(scores.get(each.round))
                self.say(f"round {each.round}: {each.votes} of {each.slots} agree, accuracy {accuracy}")
        if detail.void_rounds > self._void:
            self._void = detail.void_rounds
            self.say(f"a round was void, the {self._void}. so far")


class Screen:
    """A live table."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._said: list[str] = []

    def say(self, text: str) -> None:
        self._said = [*self._said, text][-_SAID_MAX:]
        self._live.update(self._head(), refresh=True)

    def node_up(self, name: str, up: int, count: int) -> None:
        self.say(f"{name} is up ({up} of {count})")

    def show(self, detail: schema.JobDetail, names: Mapping[str, str]) -> None:
        accuracy = detail.accuracy[-1][1] if detail.accuracy else 0.0
        goal = detail.goal_accuracy or 1.0
        bar = Table.grid(padding=(0, 1))
        bar.add_row(
            "accuracy", ProgressBar(goal, min(accuracy, goal), _BAR_WIDTH), f"{percent(accuracy)} of {percent(goal)}"
        )
        phase = f"round {detail.round} {detail.phase}"
        rounds = f"{detail.rounds_settled} settled, {detail.void_rounds} void; {phase}"
        bar.add_row("rounds", ProgressBar(detail.terms.rounds_max, detail.rounds_settled, _BAR_WIDTH), rounds)
        slots = {slot.worker: slot.state for slot in detail.slots}
        rows = [
            (
                names.get(worker.address, worker.address),
                slots.get(worker.address, ""),
                worker.rounds_in_majority,
                format_wei(worker.earned_wei),
                format_wei(worker.forfeited_wei),
            )
            for worker in sorted(detail.workers, key=lambda worker: names.get(worker.address, worker.address))
        ]
        workers = table(("WORKER", "NOW", ">IN MAJORITY", ">EARNED", ">FORFEITED"), rows)
        self._live.update(Group(self._head(), Text(), bar, Text(), workers), refresh=True)

    def _head(self) -> Text:
        return Text("\n".join(self._said), style="dim")
