"""What the demo trains over IDX files; with MNIST, to its goal, where FLNODE_MNIST says where that is."""

from __future__ import annotations

import gzip
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from cli.demo_job import IDX_GOALS, plan
from cli.errors import UserError
from learner import data
from learner.presets import cnn, mlp

LIMIT_S = 1500


def idx(folder: Path, shape: tuple[int, ...] = (8, 8)) -> Path:
    """The built-in digits as IDX files, split as they are."""
    digits = data.decode(data.digits())
    folder.mkdir()
    parts = (("train", 0, digits.train), ("t10k", digits.train, digits.train + digits.test))
    for name, start, end in parts:
        dimensions = (end - start, *shape)
        header = struct.pack(f">BBBB{len(dimensions)}I", 0, 0, 8, len(dimensions), *dimensions)
        pixels = bytes(digits.features[64 * start : 64 * end])
        (folder / f"{name}-images-idx{len(dimensions)}-ubyte.gz").write_bytes(gzip.compress(header + pixels))
        labels = struct.pack(">BBBBI", 0, 0, 8, 1, end - start) + bytes(digits.labels[2 * start : 2 * end : 2])
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def test_idx_files_make_one_job_for_each_model_over_one_dataset(tmp_path: Path) -> None:
    work = plan(idx(tmp_path / "digits"), None, None, 3, 9)
    assert work.dataset is not None
    dataset = data.decode(work.dataset)
    assert (dataset.train, dataset.test, dataset.shape, dataset.classes) == (1437, 360, (8, 8), 10)
    specs = [task.spec(0.0) for task in work.tasks]
    assert [task.name for task in work.tasks] == ["mlp", "cnn"]
    assert [spec.model for spec in specs] == [mlp((64, 128, 10)), cnn((1, 8, 8), 10)]
    assert [(spec.goal_accuracy, spec.seed, spec.bits) for spec in specs] == [(0.97, 3, 7), (IDX_GOALS["cnn"], 3, 7)]
    assert [task.name for task in plan(tmp_path / "digits", "cnn", 0.5, 0, 9).tasks] == ["cnn"]


def test_without_files_the_demo_trains_the_digits_and_takes_no_model() -> None:
    work = plan(None, None, 0.9, 0, 9)
    assert (work.dataset, [task.goal for task in work.tasks]) == (None, [0.9])
    with pytest.raises(UserError, match="--model is for --data"):
        plan(None, "mlp", None, 0, 9)


def test_what_is_no_image_is_refused_for_a_cnn(tmp_path: Path) -> None:
    flat = idx(tmp_path / "flat", (64,))
    assert plan(flat, "mlp", None, 0, 9).tasks[0].name == "mlp"
    with pytest.raises(UserError, match=r"flat: samples have the shape \[64\]; a cnn needs images"):
        plan(flat, "cnn", None, 0, 9)
    with pytest.raises(UserError, match="none: there is no such directory"):
        plan(tmp_path / "none", None, None, 0, 9)


def demo(folder: Path, *arguments: str) -> list[dict[str, object]]:
    """The reports of `flnode demo --data`."""
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "demo", "--data", str(folder), "--json", *arguments],
        capture_output=True, text=True, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reports: list[dict[str, object]] = json.loads(done.stdout)
    return reports


def check(report: dict[str, object], goal: float) -> None:
    """The goal is reached, and only who did the work is paid."""
    accuracy = report["accuracy"]
    assert isinstance(accuracy, float)
    assert accuracy >= goal
    workers = report["workers"]
    assert isinstance(workers, list)
    for worker in workers:
        assert (int(worker["earned_wei"]) > 0) == (worker["behaviour"] == "honest")


@pytest.mark.network
def test_a_network_trains_over_idx_files_that_only_the_server_has(tmp_path: Path) -> None:
    (report,) = demo(idx(tmp_path / "digits"), "--model", "mlp", "--goal", "0.8", "--rounds-max", "6")
    check(report, 0.8)


@pytest.mark.network
@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_mnist_is_learnt_to_97_percent(model: str) -> None:
    folder = os.environ.get("FLNODE_MNIST")
    if folder is None:
        pytest.skip("FLNODE_MNIST names no directory with MNIST as IDX files")
    (report,) = demo(Path(folder), "--model", model)
    check(report, 0.97)
