"""Text of a config file: values as TOML writes them, comments in lines of bounded length."""

from __future__ import annotations

from typing import Final

import msgspec

_LINE_WIDTH: Final = 110


def wrapped(text: str) -> list[str]:
    """A comment's lines."""
    lines: list[str] = []
    for word in text.split():
        if lines and len(lines[-1]) + 1 + len(word) <= _LINE_WIDTH:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return lines


def toml_value(value: object) -> str:
    """As TOML writes it."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return msgspec.json.encode(value).decode()  # TOML's basic strings take JSON's escapes
        case tuple() | list():
            return "[" + ", ".join(toml_value(item) for item in value) + "]"
        case _:
            return repr(value)
