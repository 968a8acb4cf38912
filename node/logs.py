"""Structured logs on stderr: facts, not sentences (`block.finalised number=7 view=9`)."""

from __future__ import annotations

import logging
import sys

import structlog

from node.config import LogConfig


def configure_logging(config: LogConfig) -> None:
    """Set up structlog, and let the libraries speak only from warnings on."""
    level = logging.getLevelNamesMapping()[config.level.upper()]
    text = "%(name)s %(levelname)s %(message)s"
    logging.basicConfig(level=max(level, logging.WARNING), stream=sys.stderr, format=text)
    renderer: structlog.typing.Processor = structlog.processors.JSONRenderer()
    if config.format == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
