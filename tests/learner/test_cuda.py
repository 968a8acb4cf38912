"""On a GPU training ends in the very digests of the CPU. The checks of `flnode conformance` are in test_conformance.py,
which takes every device that there is."""

from __future__ import annotations

import pytest
import torch

from learner import golden, selfcheck
from tests.learner import sweep

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(),
    reason="no CUDA device: `make test TESTS=tests/learner` where there is one, and torch is built for it",
)
SETTINGS = [each for each in sweep.SETTINGS if each.device != "cpu"]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_training_on_a_gpu_ends_in_the_digests_of_the_cpu(setting: sweep.Setting) -> None:
    exact, _ = sweep.by_job([sweep.digests(setting, golden.PRESETS)])
    assert exact == {name: {golden.recorded()[f"run {name}"]} for name in golden.PRESETS}


def test_every_backend_of_a_gpu_gives_the_digest_of_the_cpu_for_a_wide_model() -> None:
    jobs = (sweep.WIDE,)
    exact, _ = sweep.by_job([sweep.digests(each, jobs) for each in (sweep.SETTINGS[0], *SETTINGS)])
    assert len(exact[sweep.WIDE]) == 1, f"{len(selfcheck.BACKENDS)} backends"
