"""`flnode data`: files of a person's own become datasets of a node."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cli.main import run

FLOWERS = "petal,id,kind\n" + "".join(f"{i / 4},{i},{('iris', 'rose', 'tulip')[i % 3]}\n" for i in range(15))
Capture = pytest.CaptureFixture[str]


def ok(capsys: Capture, *arguments: object) -> str:
    code = run([str(each) for each in arguments])
    captured = capsys.readouterr()
    assert (code, captured.err) == (0, "")
    return captured.out


def failed(capsys: Capture, code: int, *arguments: object) -> str:
    assert run([str(each) for each in arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("flnode: ")
    assert captured.err.count("\n") == 1, captured.err
    return captured.err


@pytest.fixture
def flowers(tmp_path: Path) -> Path:
    path = tmp_path / "My Flowers.csv"
    path.write_text(FLOWERS)
    return path


def test_a_csv_file_is_added_listed_and_shown(directory: Path, capsys: Capture, flowers: Path) -> None:
    at = ("--config", directory)
    text = ok(capsys, "data", "add", flowers, "--drop", "id", *at)
    assert "dataset my-flowers: 1 features, 3 classes, 12 samples for training and 3 for testing" in text
    assert "flnode job new csv --dataset my-flowers" in text
    assert list(directory.glob("*.tmp")) == []
    listed = ok(capsys, "data", "list", *at).splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "digits", "my-flowers"]
    cid = listed[2].split()[-1]
    shown = ok(capsys, "data", "show", cid, *at)
    assert "my-flowers" in shown
    assert "3: iris, rose, tulip" in shown
    info = json.loads(ok(capsys, "data", "show", "my-flowers", "--json", *at))
    assert (info["cid"], info["features"], info["classes"], info["train"], info["test"]) == (cid, 1, 3, 12, 3)
    assert info["card"]["columns"] == ["petal"]
    assert json.loads(ok(capsys, "data", "show", info["digest"], "--json", *at)) == info
    assert [each["name"] for each in json.loads(ok(capsys, "data", "list", "--json", *at))] == ["digits", "my-flowers"]


def test_the_same_file_may_be_added_again_and_another_needs_a_name_of_its_own(
    directory: Path, capsys: Capture, flowers: Path
) -> None:
    add = ("data", "add", flowers, "--json", "--config", directory)
    first = json.loads(ok(capsys, *add))
    assert json.loads(ok(capsys, *add)) == first
    message = failed(capsys, 1, *add, "--seed", 1)
    assert f"another dataset is called my-flowers ({first['cid']}); choose --name, or --replace it" in message
    assert json.loads(ok(capsys, *add, "--seed", 1, "--replace"))["digest"] != first["digest"]
    assert json.loads(ok(capsys, *add, "--name", "old"))["digest"] == first["digest"]


def test_an_npz_file_is_added_and_comes_back_by_export(directory: Path, capsys: Capture, tmp_path: Path) -> None:
    at = ("--config", directory)
    x, y = np.arange(40, dtype=np.uint8).reshape(10, 2, 2), np.arange(10) % 2
    np.savez(tmp_path / "images.npz", x_train=x[:7], y_train=y[:7], x_test=x[7:], y_test=y[7:])
    ok(capsys, "data", "add", tmp_path / "images.npz", *at)
    assert "uint8 [2, 2]" in ok(capsys, "data", "show", "images", *at)
    out = tmp_path / "out.npz"
    assert "7 samples for training and 3 for testing" in ok(capsys, "data", "export", "images", "--out", out, *at)
    with np.load(out, allow_pickle=False) as back:
        assert np.array_equal(np.concatenate([back["x_train"], back["x_test"]]), x)
        assert np.array_equal(np.concatenate([back["y_train"], back["y_test"]]), y)
        assert float(back["scale"]) == 1 / 64


def test_built_in_datasets_are_exported_too(directory: Path, capsys: Capture, tmp_path: Path) -> None:
    out = tmp_path / "digits.npz"
    found = json.loads(ok(capsys, "data", "export", "digits", "--out", out, "--json", "--config", directory))
    assert found["cid"].startswith("bafkrei")
    with np.load(out) as back:
        assert back["x_test"].shape == (360, 8, 8)
        assert float(back["x_test"].max() * back["scale"]) == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none.csv"], "no file at {folder}/none.csv"),
        (["{folder}"], "no train-images-idx3-ubyte and train-labels-idx1-ubyte"),
        (["{folder}/x.xls"], "expected a file that ends in .csv or .npz, or a directory of IDX files"),
        (["{file}", "--label", "knd"], "My Flowers.csv: has no column `knd` (did you mean `kind`?)"),
        (["{file}", "--label", "petal", "--drop", "kind"], "column `petal` holds measurements such as 0.25"),
        (["{file}", "--drop", "kinds"], "has no column `kinds`"),
        (["{file}", "--test-share", "0"], "--test-share 0.0: expected a number between 0 and 1"),
        (["{file}", "--test-share", "nan"], "--test-share nan: expected a number between 0 and 1"),
        (["{file}", "--test-share", "0.01"], "15 rows and a test share of 0.01 leave none for testing"),
        (["{file}", "--name", "My Flowers"], "--name 'My Flowers': expected 1 to 40 of a-z"),
        (["{file}", "--name", "0xab"], "and not with 0x"),
        (["{file}", "--no-header"], "line 1, column `1`: 'petal' is not a number"),
        (["{folder}/x.npz", "--drop", "a"], "--drop and --header are for tables"),
    ],
)
def test_a_mistake_in_the_file_or_the_options_is_one_line_and_exit_code_two(
    directory: Path, capsys: Capture, flowers: Path, arguments: list[str], message: str
) -> None:
    places = {"folder": flowers.parent, "file": flowers}
    given = [each.format(**places) for each in arguments]
    assert message.format(**places) in failed(capsys, 2, "data", "add", *given, "--config", directory)


def test_what_the_node_does_not_know_is_exit_code_one(directory: Path, capsys: Capture, flowers: Path) -> None:
    at = ("--config", directory)
    assert "there is no dataset 'flowerz' here (known: digits)" in failed(capsys, 1, "data", "show", "flowerz", *at)
    unknown = "0x" + "ab" * 32
    assert f"dataset {unknown} is not here" in failed(capsys, 1, "data", "show", unknown, *at)
    assert "'digits' cannot name a dataset" in failed(capsys, 1, "data", "add", flowers, "--name", "digits", *at)
    assert "ends in .npz" in failed(capsys, 2, "data", "export", "digits", "--out", "x.csv", *at)


def test_over_http_adding_needs_the_token_and_reading_does_not(
    directory: Path, capsys: Capture, flowers: Path
) -> None:
    url = (directory / "url").read_text()
    assert "Unix socket or its token" in failed(capsys, 1, "data", "add", flowers, "--url", url)
    ok(capsys, "data", "add", flowers, "--url", url, "--token-file", directory / "api.token")
    assert "my-flowers" in ok(capsys, "data", "list", "--url", url)


def test_a_directory_of_idx_files_is_added(directory: Path, capsys: Capture, tmp_path: Path) -> None:
    at, folder = ("--config", directory), tmp_path / "Little Digits"
    folder.mkdir()
    for part, count in (("train", 6), ("t10k", 2)):
        header = b"\0\0\x08\x03" + np.array([count, 2, 2], ">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(range(4 * count)))
        labels = b"\0\0\x08\x01" + np.array([count], ">u4").tobytes() + bytes(i % 2 for i in range(count))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    text = ok(capsys, "data", "add", folder, *at)
    assert "dataset little-digits: 4 features, 2 classes, 6 samples for training and 2 for testing" in text
    assert "uint8 [2, 2]" in ok(capsys, "data", "show", "little-digits", *at)
    (folder / "t10k-labels-idx1-ubyte").unlink()
    assert "none with the labels" in failed(capsys, 2, "data", "add", folder, *at)
    assert "IDX files have labels of their own" in failed(capsys, 2, "data", "add", folder, "--label", "x", *at)
