"""`flnode job new`: files that `flnode job submit` takes as they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cli.job_new import DIGITS, render
from cli.jobfile import load_job
from cli.main import run
from learner import presets
from learner.architecture import Model
from learner.presets import mlp
from node.api import schema

ROOT = Path(__file__).parent.parent.parent
NOW = 1_800_000_000.0
FLOWERS = "petal,leaf,kind\n" + "".join(f"{i / 4},{-i},{('iris', 'rose')[i % 2]}\n" for i in range(20))
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    return path


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = run([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def made(capsys: Capture, *arguments: object) -> str:
    code, out, err = call(capsys, "job", "new", *arguments)
    assert (code, err) == (0, "")
    return out


def test_the_example_in_configs_is_what_the_digits_preset_writes(folder: Path, capsys: Capture) -> None:
    example = (ROOT / "configs" / "jobs" / "digits.toml").read_text()
    assert render(DIGITS) == example
    assert "flnode job submit digits.toml" in made(capsys, "digits")
    assert (folder / "digits.toml").read_text() == example.replace("configs/jobs/digits.toml", "digits.toml")


@pytest.mark.parametrize(("preset", "sizes"), [("digits", [64, 64, 10]), ("logistic", [64, 10])])
def test_built_in_presets_need_no_node(folder: Path, capsys: Capture, preset: str, sizes: list[int]) -> None:
    made(capsys, preset, "--out", "job.toml", "--slots", 5, "--rounds", 7)
    spec = load_job(Path("job.toml"), NOW)
    assert spec.model == mlp(sizes)
    assert (spec.terms.slots, spec.terms.workers_min, spec.terms.rounds_max) == (5, 5, 7)


@pytest.mark.parametrize(("preset", "sizes"), [("csv", [2, 32, 2]), ("logistic", [2, 2])])
def test_a_job_over_ones_own_dataset_fits_it_and_is_accepted_unchanged(
    folder: Path, directory: Path, capsys: Capture, preset: str, sizes: list[int]
) -> None:
    (folder / "flowers.csv").write_text(FLOWERS)
    at = ("--config", directory)
    assert call(capsys, "data", "add", "flowers.csv", *at)[0] == 0
    made(capsys, preset, "--dataset", "flowers", *at)
    spec = load_job(folder / "flowers.toml", NOW)
    assert (spec.dataset, spec.model, spec.batch_size, spec.goal_accuracy) == ("flowers", mlp(sizes), 16, None)
    code, out, err = call(capsys, "job", "submit", "flowers.toml", *at)
    assert (code, err) == (0, "")
    assert "job 1 posted" in out


@pytest.mark.parametrize(
    ("preset", "model"),
    [("cnn", presets.cnn((1, 8, 8), 10)), ("transformer", presets.transformer((8, 8), 10))],
)
def test_images_can_have_convolutions_or_a_transformer(
    folder: Path, capsys: Capture, preset: str, model: Model
) -> None:
    made(capsys, preset, "--out", "job.toml")
    assert load_job(Path("job.toml"), NOW).model == model


def test_a_table_is_no_image(folder: Path, directory: Path, capsys: Capture) -> None:
    (folder / "flowers.csv").write_text(FLOWERS)
    at = ("--config", directory)
    assert call(capsys, "data", "add", "flowers.csv", *at)[0] == 0
    code, _, err = call(capsys, "job", "new", "cnn", "--dataset", "flowers", *at)
    assert (code, err) == (2, "flnode: a sample of flowers has the shape [2], which is no image\n")


def test_a_dataset_may_be_named_by_its_cid_or_digest(folder: Path, directory: Path, capsys: Capture) -> None:
    (folder / "flowers.csv").write_text(FLOWERS)
    at = ("--config", directory)
    assert call(capsys, "data", "add", "flowers.csv", *at)[0] == 0
    cid = call(capsys, "data", "list", *at)[1].split()[-1]
    made(capsys, "csv", "--dataset", cid, "--out", "a.toml", *at)
    assert load_job(Path("a.toml"), NOW).dataset == cid


def test_nothing_is_overwritten(folder: Path, capsys: Capture) -> None:
    (folder / "digits.toml").write_text("mine")
    code, _, err = call(capsys, "job", "new", "digits")
    assert code == 2
    assert err == "flnode: digits.toml exists already and is left as it is; choose another --out\n"
    assert (folder / "digits.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["mnist"], 2, "'mnist' is not one of"),
        (["csv"], 2, "the preset csv needs --dataset; `flnode data list` shows the names"),
        (["csv", "--dataset", "x"], 2, "no config file at"),
        (["digits", "--dataset", "x"], 2, "for x use `flnode job new csv`"),
        (["digits", "--slots", "4"], 2, "--slots 4: expected an odd number"),
        (["digits", "--slots", str(schema.SLOTS_MAX + 1)], 2, "is not in the range"),
        (["digits", "--out", "none/job.toml"], 2, "cannot write none/job.toml"),
        (["csv", "--dataset", "x", "--url", "http://127.0.0.1:1"], 1, "no node answers"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_no_file(
    folder: Path, capsys: Capture, arguments: list[str], code: int, message: str
) -> None:
    found, out, err = call(capsys, "job", "new", *arguments)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message in err
    assert os.listdir(folder) == []
