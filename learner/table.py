"""Tables of numbers in CSV files. Every cell counts: what is missing or no number is an error that names its place.

Comma, semicolon or tab, whichever the first line has first in this order; UTF-8; quotes as in RFC 4180; blank lines
are skipped. The first line is a header if none of its cells is a number (docs/DATA.md).
"""

from __future__ import annotations

import array
import csv
import difflib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from learner.card import NAME_MAX, VALUE_MAX, Card
from learner.errors import InvalidDataset

CSV_BYTES_MAX: Final = 2**30
CELLS_MAX: Final = 2**25
COLUMNS_MAX: Final = 10_000
LABEL_NAMES: Final = ("label", "class", "target", "y")  # a column of this name is the label, the first found wins
_DELIMITERS: Final = (",", ";", "\t")
_MISSING: Final = frozenset({"", "?", "na", "n/a", "nan", "null", "none", "-"})


@dataclass(frozen=True, slots=True)
class Table:
    """The numbers of a file.

    Attributes:
        columns: of the features, in order.
        values: float64, row-major.
        lines: the line of each row in the file.
        labels: as they are written; empty if none were asked for.
        label, header, width: as in Card.
    """

    source: str
    columns: tuple[str, ...]
    values: array.array[float]
    lines: array.array[int]
    labels: list[str]
    label: str
    header: bool
    width: int

    def place(self, row: int, feature: int) -> str:
        """Names a cell in errors."""
        return _place(self.source, self.lines[row], self.columns[feature])


def read_labelled(path: Path, label: str | None, drop: Sequence[str] = (), header: bool | None = None) -> Table:
    """A table whose column `label` says the classes.

    Args:
        label: name or number (from 1) of the column; None: the first of LABEL_NAMES that there is, else the last.
        drop: columns that are no features.
        header: whether the first line names the columns; None: found out.
    Raises:
        InvalidDataset: names the line and the column.
        OSError.
    """
    with _open(path) as file:
        sheet = _Sheet(file, path.name, header)
        labels_at = sheet.label() if label is None else sheet.find(label)
        dropped = {sheet.find(each) for each in drop} | {labels_at}
        features = [at for at in range(sheet.width) if at not in dropped]
        if not features:
            raise InvalidDataset(f"{path.name}: has no column of numbers beside the label `{sheet.names[labels_at]}`")
        return sheet.read(features, labels_at)


def read_features(path: Path, card: Card | None, features: int) -> Table:
    """The samples of a file that fits a dataset; a label column and other columns may be there.

    Args:
        card: None if the dataset came without: then every column is a feature.
        features: of a sample.
    Raises:
        InvalidDataset: names the line and the column.
        OSError.
    """
    with _open(path) as file:
        sheet = _Sheet(file, path.name, None)
        if sheet.header and card is not None and card.header:
            wanted = [sheet.find(column) for column in card.columns]
        elif card is not None and card.columns and not card.header and sheet.width == card.width:
            wanted = [int(column) - 1 for column in card.columns]
        elif sheet.width == features:
            wanted = list(range(features))
        else:
            raise InvalidDataset(f"{path.name}: has {sheet.width} columns, the model takes {features} features")
        return sheet.read(wanted, None)


def _open(path: Path) -> TextIO:
    size = path.stat().st_size
    if size > CSV_BYTES_MAX:
        raise InvalidDataset(f"{path.name}: {size} bytes, at most {CSV_BYTES_MAX}; store it as .npz")
    return path.open(encoding="utf-8-sig", newline="")


class _Sheet:
    """A file whose first line has been looked at."""

    def __init__(self, file: TextIO, source: str, header: bool | None) -> None:
        self.source = source
        try:
            start = file.readline()
            file.seek(0)
        except UnicodeDecodeError as error:
            raise self._not_text(error) from None
        delimiter = next((each for each in _DELIMITERS if each in start), ",")
        self._rows = csv.reader(file, delimiter=delimiter, strict=True)
        first = next(self._lines(), None)
        if first is None:
            raise InvalidDataset(f"{source}: is empty")
        self._first_line, self._first = first
        self.width = len(self._first)
        if self.width > COLUMNS_MAX:
            raise InvalidDataset(f"{source}: {self.width} columns, at most {COLUMNS_MAX}; store it as .npz")
        self.header = not any(map(_is_number, self._first)) if header is None else header
        self.names = [str(at) for at in range(1, self.width + 1)]
        if self.header:
            self.names = [cell.strip()[:NAME_MAX] or name for cell, name in zip(self._first, self.names, strict=True)]
        for at, name in enumerate(self.names):
            if name in self.names[:at]:
                raise InvalidDataset(f"{source}: line {self._first_line} has two columns called `{name}`")

    def find(self, column: str) -> int:
        """The place of a column given by its name or its number."""
        if column in self.names:
            return self.names.index(column)
        if column.isdecimal() and 1 <= int(column) <= self.width:
            return int(column) - 1
        close = difflib.get_close_matches(column, self.names, n=1)
        hint = f"did you mean `{close[0]}`?" if close else f"there are {', '.join(self.names[:10])}"
        raise InvalidDataset(f"{self.source}: has no column `{column}` ({hint})")

    def label(self) -> int:
        """The place of the label when nobody says."""
        lower = [name.lower() for name in self.names]
        return next((lower.index(name) for name in LABEL_NAMES if name in lower), self.width - 1)

    def read(self, features: Sequence[int], label: int | None) -> Table:
        values, lines, labels = array.array("d"), array.array("L"), list[str]()
        for line, cells in self._body():
            if len(cells) != self.width:
                where = f"{self.source}: line {line}"
                raise InvalidDataset(f"{where} has {len(cells)} cells, line {self._first_line} has {self.width}")
            try:
                values.extend([float(cells[at]) for at in features])
                if label is not None:
                    labels.append(self._class(cells[label], line, self.names[label]))
            except ValueError:
                raise self._bad_cell(line, cells, features) from None
            lines.append(line)
            if len(values) > CELLS_MAX:
                raise InvalidDataset(f"{self.source}: more than {CELLS_MAX} numbers; store it as .npz")
        if not lines:
            raise InvalidDataset(f"{self.source}: has no row of numbers")
        name = "" if label is None else self.names[label]
        columns = tuple(self.names[at] for at in features)
        table = Table(self.source, columns, values, lines, labels, name, self.header, self.width)
        _check_range(table)
        return table

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        if not self.header:
            yield self._first_line, self._first
        yield from self._lines()

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """(number, cells) of every line that is not blank."""
        try:
            for cells in self._rows:
                if len(cells) > 1 or (cells and cells[0].strip()):
                    yield self._rows.line_num, cells
        except csv.Error as error:
            raise InvalidDataset(f"{self.source}: line {self._rows.line_num}: {error}") from None
        except UnicodeDecodeError as error:
            raise self._not_text(error) from None

    def _class(self, cell: str, line: int, column: str) -> str:
        text = cell.strip()
        if text.lower() in _MISSING:
            raise InvalidDataset(f"{_place(self.source, line, column)}: the class is missing ({text!r})")
        if len(text) > NAME_MAX:
            raise InvalidDataset(f"{_place(self.source, line, column)}: a class name of {len(text)} characters")
        return text

    def _bad_cell(self, line: int, cells: list[str], features: Sequence[int]) -> InvalidDataset:
        at = next(at for at in features if not _is_number(cells[at]))
        place, text = _place(self.source, line, self.names[at]), cells[at].strip()
        if text.lower() in _MISSING:
            return InvalidDataset(f"{place}: a value is missing ({text!r}); fill it in or leave the row out")
        return InvalidDataset(f"{place}: {text[:40]!r} is not a number; leave the column out with --drop")

    def _not_text(self, error: UnicodeDecodeError) -> InvalidDataset:
        return InvalidDataset(f"{self.source}: is not UTF-8 text ({error.reason}); is it a CSV file?")


def _check_range(table: Table) -> None:
    """float() also reads nan, inf and numbers that float32 cannot hold."""
    if all(-VALUE_MAX <= value <= VALUE_MAX for value in table.values):
        return
    bad = next(at for at, value in enumerate(table.values) if not -VALUE_MAX <= value <= VALUE_MAX)
    row, feature = divmod(bad, len(table.columns))
    raise InvalidDataset(f"{table.place(row, feature)}: {table.values[bad]} is not a number that can be used")


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _place(source: str, line: int, column: str) -> str:
    return f"{source}: line {line}, column `{column}`"
