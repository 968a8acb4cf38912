"""The version of this installation, from the package's own metadata."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final


def _version() -> str:
    try:
        return version("flnode")
    except PackageNotFoundError:  # run from a source tree that was never installed
        return "0+source"


VERSION: Final = _version()
