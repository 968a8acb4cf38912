"""A machine declines what is too much for it before it spends anything, and says what would have to change."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner import data
from learner.machine import CPU
from learner.needs import Speed, memory_bytes, round_s
from learner.presets import mlp
from learner.protocol import Ready, Walls
from learner.speed import measured
from node.learner_child import LearnerConfig
from node.suitability import unsuitable
from tests.learner.examples import DIGITS, digits_manifest

CONFIG = LearnerConfig(Path("/nowhere"), threads=2, memory_max_mb=1024, job_timeout_s=60.0)
READY = Ready(
    id=0, conforms=True, reason="", torch="0", device="cpu", backend="f64", threads=2, walls=Walls(), import_ms=0.0,
    check_ms=0.0, step_ms=1.0, multiplications_per_s=1e9,
)  # fmt: skip
SMALL = digits_manifest(steps=100)
WIDE = digits_manifest(model=mlp((64, 65536, 10)), batch_size=1024, steps=1)


def test_a_job_within_all_limits_is_not_declined() -> None:
    assert unsuitable(SMALL, None, CONFIG, READY, 10.0) == ""
    assert unsuitable(SMALL, data.decode(DIGITS), CONFIG, READY, 10.0) == ""


def test_a_job_beyond_the_memory_is_declined_by_its_model_or_by_its_dataset() -> None:
    assert "`memory_max_mb` in [learner] is 1024" in unsuitable(WIDE, None, CONFIG, READY, 1e6)
    assert unsuitable(WIDE, None, dataclasses.replace(CONFIG, memory_max_mb=4096), READY, 1e6) == ""
    large = msgspec.structs.replace(SMALL, dataset_size=2**29)
    assert "it needs about 1256 MB" in unsuitable(large, None, CONFIG, READY, 1e6)
    loaded = dataclasses.replace(data.decode(DIGITS), train=3_000_000)  # as float32 and its scaled copy
    assert unsuitable(SMALL, loaded, CONFIG, READY, 1e6).startswith("it needs about 1698 MB")


def test_a_round_that_takes_too_long_here_is_declined_by_the_operator_s_limit_or_the_job_s_window() -> None:
    long = msgspec.structs.replace(SMALL, steps=70_000)
    assert "with 2 threads of this machine; `job_timeout_s` in [learner] is 60" in unsuitable(
        long, None, CONFIG, READY, 1e6
    )
    window = unsuitable(SMALL, None, CONFIG, msgspec.structs.replace(READY, step_ms=200.0), 10.0)
    assert window == "a round takes about 20 s with 2 threads of this machine; its commit window is 10 s"
    slow = msgspec.structs.replace(READY, multiplications_per_s=1e6)
    assert "about" in unsuitable(WIDE, None, dataclasses.replace(CONFIG, memory_max_mb=4096), slow, 1e6)


@given(st.floats(), st.floats())
def test_no_speed_that_a_process_may_claim_breaks_the_judgement(step_ms: float, rate: float) -> None:
    ready = msgspec.structs.replace(READY, step_ms=step_ms, multiplications_per_s=rate)
    assert isinstance(unsuitable(SMALL, None, CONFIG, ready, 10.0), str)


@pytest.mark.parametrize("axis", ["steps", "batch_size"])
def test_more_work_is_more_time_and_never_less_memory(axis: str) -> None:
    speed = Speed(1.0, 1e9)
    more = msgspec.structs.replace(SMALL, **{axis: 2 * getattr(SMALL, axis)})
    assert round_s(more, speed) > round_s(SMALL, speed)
    assert memory_bytes(more, None, 1) >= memory_bytes(SMALL, None, 1)


def test_this_machine_s_speed_can_be_measured() -> None:
    with torch.no_grad():
        speed = measured(CPU)
    assert speed.step_ms > 0
    assert 1e6 < speed.multiplications_per_s < 1e15
