"""What commands print: JSON for machines, tables and colours for people (colours only on a terminal)."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from typing import Final, TextIO

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

_PIPE_WIDTH: Final = 160  # columns when nobody looks at the screen's width


def colours(stream: TextIO) -> bool:
    """Only for a person at a terminal who has not set NO_COLOR (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def stdout() -> Console:
    return _console(sys.stdout)


def stderr() -> Console:
    return _console(sys.stderr)


def _console(stream: TextIO) -> Console:
    width = None if stream.isatty() else _PIPE_WIDTH
    return Console(file=stream, highlight=False, width=width, color_system="auto" if colours(stream) else None)


def print_json(value: object) -> None:
    """One JSON value on one line of stdout."""
    click.echo(msgspec.json.encode(value).decode())


def table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> Table:
    """A plain table; a column whose name starts with ">" is right-aligned. Cells are text, never markup."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for column in columns:
        result.add_column(column.removeprefix(">"), justify="right" if column.startswith(">") else "left", no_wrap=True)
    for row in rows:
        result.add_row(*(Text(str(cell)) for cell in row))
    return result


def short(digest: str) -> str:
    """0x12345678... -> the first eight digits, for tables."""
    return digest[:10] + "…" if len(digest) > 11 else digest


def duration(seconds: float) -> str:
    """In the two largest units: 4.2 s, 3 min 5 s, 2 h 10 min, 3 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    for size, name, part_size, part in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // part_size} {part}"
    raise AssertionError(seconds)


def percent(accuracy: float | None) -> str:
    return "–" if accuracy is None else f"{100 * accuracy:.1f} %"


def mebibytes(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
