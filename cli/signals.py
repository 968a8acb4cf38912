"""Ctrl-C, SIGTERM and SIGHUP, for commands that start things and must not leave them behind."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def interruptible() -> Iterator[None]:
    """Within, the first of them raises KeyboardInterrupt. Later ones do nothing: clean-up has begun and is bounded."""
    interrupted = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    with _handled(interrupt):
        yield


@contextmanager
def uninterrupted() -> Iterator[None]:
    """For what must be finished: signals are only noted, and on the way out one becomes a KeyboardInterrupt."""
    noted: list[int] = []
    with _handled(lambda number, frame: noted.append(number)):
        yield
    if noted:
        raise KeyboardInterrupt


@contextmanager
def _handled(handler: Callable[[int, object], None]) -> Iterator[None]:
    before = {each: signal.signal(each, handler) for each in _ENDING}
    try:
        yield
    finally:
        for each, old in before.items():
            signal.signal(each, old)
