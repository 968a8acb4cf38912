"""Validators are killed under load, for a short time; `make soak MINUTES=5` does it for longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.network import soak

pytestmark = pytest.mark.network
SECONDS = 15.0
SEED = 3  # kills one, then all


def test_validators_killed_under_load_lose_nothing_and_contradict_nothing(tmp_path: Path) -> None:
    report = soak.run(tmp_path, SEED, SECONDS)
    assert report.kills > 0
    assert report.accepted > 0
    assert report.height > 0
