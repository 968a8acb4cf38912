"""What became final, as the rest of the node reads it: the read model of jobs, and each job's story for the API."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

import trio

from chain.chain import Chain, FinalisedBlock
from chain.contracts import REPLICATED, bindings
from chain.types import Log
from node.api import schema
from node.jobs import Jobs, fold

BLOCK_LOGS_MAX: Final = 1_000_000  # more than the gas of any block can pay for
STORY_EVENTS_MAX: Final = 10_000  # of one job; older ones are forgotten here, not on the chain
_NOT_IN_DETAIL: Final = frozenset({"job", "round", "attempt", "worker", "mask", "seed", "terms"})


class Feed:
    """Follows the job contract's logs. `jobs` is frozen: readers keep it across checkpoints."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.jobs = Jobs()
        self.seen_at: dict[tuple[int, int], float] = {}  # (job, round) -> when we saw it settled
        self._events: dict[int, list[schema.JobEvent]] = {}
        self._changed = trio.Event()

    def replay(self) -> None:
        """Fold everything that is final already, at the start of the node."""
        head = self._chain.finalised
        for number in range(1, head.number + 1):
            if logs := self._chain.logs(number, number, addresses=[REPLICATED], limit=BLOCK_LOGS_MAX):
                self._fold(number, self._chain.timestamp(number), logs)
        self.jobs = dataclasses.replace(self.jobs, number=head.number, timestamp=head.timestamp)

    def apply(self, blocks: Iterable[FinalisedBlock], now: float) -> None:
        """Fold blocks that just became final."""
        for block in blocks:
            logs = [log for log in block.logs if log.address == REPLICATED]
            for key in self._fold(block.head.number, block.head.timestamp, logs):
                self.seen_at[key] = now
        self._changed.set()
        self._changed = trio.Event()

    def events(self, job: int, after: int) -> list[schema.JobEvent]:
        """The job's events with sequence above `after`, at most EVENTS_MAX."""
        story = self._events.get(job, [])
        first = story[0].sequence if story else 1
        start = max(after + 1 - first, 0)
        return story[start : start + schema.EVENTS_MAX]

    async def changed(self) -> None:
        """Wait for the next block."""
        await self._changed.wait()

    def _fold(self, number: int, timestamp: int, logs: Iterable[Log]) -> list[tuple[int, int]]:
        events = [event for log in logs if (event := bindings.decode(log)) is not None]
        self.jobs = fold(self.jobs, events, number, timestamp)
        settled = []
        for event in events:
            if (job := getattr(event, "job", None)) is not None:
                story = self._events.setdefault(job, [])
                story.append(_told(event, story[-1].sequence + 1 if story else 1, number, timestamp))
                if len(story) > 2 * STORY_EVENTS_MAX:
                    del story[:STORY_EVENTS_MAX]
            if isinstance(event, bindings.RoundSettled):
                settled.append((event.job, event.round))
        return settled


def _told(event: bindings.Event, sequence: int, number: int, timestamp: int) -> schema.JobEvent:
    """An event as the API shows it."""
    values = {field.name: getattr(event, field.name) for field in dataclasses.fields(event)}
    worker = values.get("worker")
    return schema.JobEvent(
        sequence=sequence,
        name=type(event).__name__,
        number=number,
        timestamp=timestamp,
        round=values.get("round", 0),
        attempt=values.get("attempt", 0),
        worker=None if worker is None else "0x" + worker.hex(),
        detail={name: _text(value) for name, value in values.items() if name not in _NOT_IN_DETAIL},
    )


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, list | tuple):
        return ",".join(map(_text, value))
    return str(value)
