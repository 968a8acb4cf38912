"""Structured logs on stderr: facts, not sentences (`block.finalised number=7 view=9`)."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any

import structlog

from node.config import LogConfig


def configure_logging(config: LogConfig) -> None:
    """Set up structlog, and let the libraries speak only from warnings on."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    text = "%(name)s %(levelname)s %(message)s"
    stream: Any = _Stderr()
    logging.basicConfig(level=max(level, logging.WARNING), stream=stream, format=text)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if config.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )


def say(line: str) -> None:
    """A line on stderr, if there is room for it."""
    _Stderr().write(line + "\n")


class _Stderr:
    """The process's stderr, unbuffered. A full disk under a log, or a pipe that nobody reads any more, must not stop
    the node: such lines are lost."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            os.write(sys.stderr.fileno(), text.encode(errors="replace"))

    def flush(self) -> None:
        """Nothing is buffered."""
