"""Fixtures of the API's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from api_kit import TinyNode


@pytest.fixture
def node(tmp_path: Path) -> Iterator[TinyNode]:
    tiny = TinyNode(tmp_path)
    yield tiny
    tiny.close()
