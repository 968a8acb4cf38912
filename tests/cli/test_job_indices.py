"""`batches` in a job file, and `flnode job indices`: which samples a round is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.main import run
from learner.batches import batches

Capture = pytest.CaptureFixture[str]
JOB = """[job]
dataset = "digits"
sizes = [64, 10]
batch_size = 3
steps = 2
learning_rate = 0.1
{batches}
[terms]
reward = "1 wei"
stake = "1 wei"
slots = 3
rounds_max = 2
"""
LISTED = "1,2,3\n4,5,6\n7,8,9\n10,11,12\n"


def flnode(capsys: Capture, *arguments: object, code: int = 0) -> str:
    """What a command prints, or the line with which it fails."""
    assert run([str(each) for each in arguments]) == code
    captured = capsys.readouterr()
    assert (captured.err if code == 0 else captured.out) == ""
    return captured.out or captured.err


def submit(capsys: Capture, directory: Path, folder: Path, batches: str, code: int = 0) -> str:
    (folder / "job.toml").write_text(JOB.format(batches=batches))
    return flnode(capsys, "job", "submit", folder / "job.toml", "--config", directory, code=code)


def test_the_batches_of_a_job_file_are_those_of_its_rounds(directory: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "b.csv").write_text(LISTED)
    submit(capsys, directory, tmp_path, 'batches = "b.csv"')
    at = ("--config", directory)
    assert flnode(capsys, "job", "indices", 1, 1, *at) + flnode(capsys, "job", "indices", 1, 2, *at) == LISTED
    assert flnode(capsys, "job", "indices", 1, 2, "--attempt", 2, *at) == "10,11,12\n7,8,9\n"
    told = json.loads(flnode(capsys, "job", "indices", 1, 1, "--json", *at))
    assert told["batches"] == [[1, 2, 3], [4, 5, 6]]
    # and by its digest, the same list serves another job
    submit(capsys, directory, tmp_path, f'batches = "{told["listed"]["digest"]}"')
    assert flnode(capsys, "job", "indices", 2, 1, *at) == "1,2,3\n4,5,6\n"


def test_without_a_list_they_are_what_the_learner_draws(directory: Path, tmp_path: Path, capsys: Capture) -> None:
    submit(capsys, directory, tmp_path, "")
    told = json.loads(flnode(capsys, "job", "indices", 1, 1, "--json", "--config", directory))
    assert told["listed"] is None
    assert told["batches"] == [batch.tolist() for batch in batches(bytes(32), 1437, 3, 2)]


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ('batches = "none.csv"', "none.csv, which `batches` of the job names"),
        ('batches = "bad.csv"', "bad.csv: line 2 has 2 samples, a batch has 3"),
        ('batches = "b.txt"', "`batches` in [job] of {folder}/job.toml: 'b.txt' is neither a .csv or .npy file nor"),
        ("batches = 3", "`batches` in [job] of {folder}/job.toml: expected a string, got 3"),
    ],
)
def test_a_mistake_is_one_line(directory: Path, tmp_path: Path, capsys: Capture, key: str, words: str) -> None:
    (tmp_path / "bad.csv").write_text("1,2,3\n4,5\n")
    said = submit(capsys, directory, tmp_path, key, code=2)
    assert words.format(folder=tmp_path) in said
    assert said.count("\n") == 1


def test_an_unknown_job_is_not_found(directory: Path, capsys: Capture) -> None:
    assert "there is no job 9" in flnode(capsys, "job", "indices", 9, 1, "--config", directory, code=1)
