"""`flnode job model` and `predict`: files that other programs read, checked against the chain."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from api_kit import UPDATE, WEIGHTS, TinyNode
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load
from safetensors.numpy import load_file as load_safetensors

from cli.main import run
from cli.tensors import Tensor, npz, safetensors

ROOT = Path(__file__).parent.parent.parent
JOB = ROOT / "configs" / "jobs" / "digits.toml"
FLOWERS = "petal,leaf,kind\n" + "".join(f"{i},{-i * i},{('iris', 'rose', 'tulip')[i % 3]}\n" for i in range(15))
Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = run([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def node(directory: Path, capsys: Capture, tmp_path: Path) -> Path:
    """A node with a finished job and the dataset `flowers`."""
    (tmp_path / "flowers.csv").write_text(FLOWERS)
    assert call(capsys, "job", "submit", JOB, "--config", directory)[0] == 0
    assert call(capsys, "data", "add", tmp_path / "flowers.csv", "--config", directory)[0] == 0
    return directory


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        return found, json.loads(str(found.pop("metadata")))
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return load_safetensors(path), header["__metadata__"]


@pytest.mark.parametrize("suffix", ["safetensors", "npz"])
def test_a_model_is_weights_and_biases_with_what_they_are(
    node: Path, capsys: Capture, tmp_path: Path, suffix: str
) -> None:
    out = tmp_path / f"model.{suffix}"
    code, text, err = call(capsys, "job", "model", 1, "--round", 1, "--out", out, "--config", node)
    assert (code, err) == (0, "")
    assert "the model of job 1, round 1, 19 of 20 test samples right" in text
    tensors, metadata = read(out)
    assert sorted(tensors) == ["00.bias", "00.weight", "input.scale", "input.shift"]
    assert tensors["00.weight"].tolist() == np.array(WEIGHTS).reshape(3, 2).tolist()
    assert {each.dtype for each in tensors.values()} == {np.dtype("float32")}
    assert metadata["update_digest"] == UPDATE
    assert (metadata["job"], metadata["round"], metadata["bits"]) == ("1", "1", "14")
    assert (metadata["correct"], metadata["total"]) == ("19", "20")
    assert json.loads(metadata["classes"]) == ["iris", "rose", "tulip"]
    assert json.loads(metadata["columns"]) == ["petal", "leaf"]
    assert json.loads(metadata["model"]) == {"kind": "mlp", "sizes": [2, 3]}


def test_shift_and_scale_turn_the_persons_numbers_into_features(node: Path, capsys: Capture, tmp_path: Path) -> None:
    out, data = tmp_path / "m.npz", tmp_path / "d.npz"
    assert call(capsys, "job", "model", 1, "--out", out, "--config", node)[0] == 0
    assert call(capsys, "data", "export", "flowers", "--out", data, "--config", node)[0] == 0
    tensors, _ = read(out)
    raw = np.loadtxt(FLOWERS.splitlines()[1:], delimiter=",", usecols=(0, 1))
    features = ((raw - tensors["input.shift"]) * tensors["input.scale"]).astype(np.float32)
    with np.load(data) as exported:
        there = np.concatenate([exported["x_train"], exported["x_test"]]) * exported["scale"]
    assert {tuple(row) for row in features} == {tuple(row) for row in there}


def test_a_node_that_sends_another_model_is_found_out(
    node: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TinyNode.blob_part

    async def lying(self: TinyNode, digest: bytes, index: int) -> Any:
        self.lying = "0x" + digest.hex() == UPDATE
        return await original(self, digest, index)

    monkeypatch.setattr(TinyNode, "blob_part", lying)
    out = tmp_path / "m.npz"
    code, _, err = call(capsys, "job", "model", 1, "--out", out, "--config", node)
    assert code == 1
    assert f"is not the blob {UPDATE}: its digest differs" in err
    assert not out.exists()


def test_a_node_whose_model_is_not_the_chains_is_found_out(
    node: Path, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = TinyNode.model

    async def other(self: TinyNode, job: int, round: int | None, wait_s: float) -> Any:
        return msgspec.structs.replace(await original(self, job, round, wait_s), update_digest="0x" + "77" * 32)

    monkeypatch.setattr(TinyNode, "model", other)
    code, _, err = call(capsys, "job", "model", 1, "--out", tmp_path / "m.npz", "--config", node)
    assert code == 1
    assert "does not agree with its finalised chain" in err


def test_rows_of_a_file_are_classified_by_name(node: Path, capsys: Capture, tmp_path: Path) -> None:
    new = tmp_path / "new.csv"
    new.write_text("leaf,petal\n-1,0\n\n-5,14\n-3,1\n")
    at = ("--config", node)
    code, text, err = call(capsys, "job", "predict", 1, "--data", new, *at)
    assert (code, err) == (0, "")
    assert [line.split() for line in text.splitlines()[1:]] == [["2", "tulip"], ["4", "rose"], ["5", "tulip"]]
    found = json.loads(call(capsys, "job", "predict", 1, "--data", new, "--json", *at)[1])
    assert found[1] == {"line": 4, "class": 1, "name": "rose"}
    assert list(node.glob("*.tmp")) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["model", "1", "--out", "m.pt"], 2, "--out m.pt: expected a name that ends in .safetensors or .npz"),
        (["model", "1", "--out", "{folder}/none/m.npz"], 2, "cannot write {folder}/none/m.npz"),
        (["model", "9", "--out", "m.npz"], 1, "there is no job 9"),
        (["model", "1"], 2, "Missing option '--out'"),
        (["predict", "1", "--data", "{folder}/none.csv"], 2, "no file at {folder}/none.csv"),
        (["predict", "1", "--data", "{folder}/bad.csv"], 2, "bad.csv: line 2, column `leaf`: a value is missing"),
        (["predict", "1", "--data", "{folder}"], 2, "cannot read {folder}: Is a directory"),
    ],
)
def test_mistakes_are_one_line(
    node: Path, capsys: Capture, tmp_path: Path, arguments: list[str], code: int, message: str
) -> None:
    (tmp_path / "bad.csv").write_text("petal,leaf\n1,\n")
    given = [each.format(folder=tmp_path) for each in arguments]
    found, out, err = call(capsys, "job", *given, "--config", node)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert message.format(folder=tmp_path) in err


def test_the_documented_script_scores_a_model_without_flnode(node: Path, capsys: Capture, tmp_path: Path) -> None:
    at = ("--config", node)
    model, data = tmp_path / "m.safetensors", tmp_path / "d.npz"
    assert call(capsys, "job", "model", 1, "--out", model, *at)[0] == 0
    assert call(capsys, "data", "export", "flowers", "--out", data, *at)[0] == 0
    command = [sys.executable, "-I", str(ROOT / "docs" / "score.py"), str(model), str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [("exact", "3"), ("float32", "3"), ("chain", "20")]


# ---- the formats ----
@st.composite
def named_arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    found = {}
    for name in draw(st.sets(st.text(st.sampled_from("abc.09"), min_size=1, max_size=8), min_size=1, max_size=4)):
        shape = tuple(draw(st.lists(st.integers(1, 4), max_size=3)))
        dtype = draw(st.sampled_from(["float32", "uint8", "uint16"]))
        found[name] = np.arange(np.prod(shape, dtype=int)).astype(dtype).reshape(shape)
    return found


@given(named_arrays())
@settings(max_examples=40, deadline=None)
def test_both_formats_are_read_by_their_own_libraries(expected: dict[str, np.ndarray]) -> None:
    tensors = {name: Tensor(x.dtype.name, x.shape, x.tobytes()) for name, x in expected.items()}  # type: ignore[arg-type]
    for found in (load(safetensors(tensors, {"k": "v"})), np.load(io.BytesIO(npz(tensors, {})), allow_pickle=False)):
        assert set(found) == set(expected)
        for name, x in expected.items():
            assert (found[name].dtype, found[name].shape) == (x.dtype, x.shape)
            assert np.array_equal(found[name], x)


def test_the_same_tensors_make_the_same_file() -> None:
    tensors = {"a": Tensor("float32", (2,), bytes(8)), "b": Tensor("uint8", (1,), b"x")}
    again = dict(reversed(tensors.items()))
    assert npz(tensors, {"k": "ü"}) == npz(again, {"k": "ü"})
    assert safetensors(tensors, {}) == safetensors(again, {})
