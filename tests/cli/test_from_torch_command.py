"""`flnode manifest from-torch`: from a file of torch's to a posted job."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import onnx
import pytest

from cli.errors import UserError
from cli.job_model import STATE_SUFFIX
from cli.jobfile import load_job
from cli.main import run
from learner.architecture import MeanSquaredError
from learner.canonical import Field, join
from node import unixfs

FILES = Path(__file__).parent.parent / "learner" / "files"
NOW = 1_800_000_000.0
Capture = pytest.CaptureFixture[str]


def call(capsys: Capture, *arguments: object) -> tuple[int, str, str]:
    code = run([str(each) for each in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def digits_onnx(outputs: int = 10, op: str = "Relu") -> bytes:
    """64 -> 12 -> outputs, with one kind of operation between."""
    helper = onnx.helper
    shapes = {"a": (12, 64), "b": (12,), "c": (outputs, 12), "d": (outputs,)}
    weights = [
        helper.make_tensor(name, 1, shape, [0.01 * (each % 7) for each in range(math.prod(shape))])
        for name, shape in shapes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "a", "b"], ["h"], "first", transB=1),
        helper.make_node(op, ["h"], ["r"], "between"),
        helper.make_node("Gemm", ["r", "c", "d"], ["y"], "last", transB=1),
    ]
    ends = [helper.make_tensor_value_info(name, 1, ["n", size]) for name, size in (("x", 64), ("y", outputs))]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return content


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a model over the digits."""
    path = tmp_path / "work"
    path.mkdir()
    monkeypatch.chdir(path)
    (path / "digits.onnx").write_bytes(digits_onnx())
    return path


def test_an_onnx_file_becomes_a_job_that_begins_with_its_weights(
    folder: Path, directory: Path, capsys: Capture
) -> None:
    code, out, err = call(capsys, "manifest", "from-torch", "digits.onnx", "--out", "model.json")
    assert (code, err) == (0, "")
    assert "model.json: 3 layers from 64 to 10: linear, relu, linear" in out
    assert f"model.flstate: {64 * 12 + 12 + 12 * 10 + 10} parameters" in out
    again = out.splitlines()[-1].partition("`flnode ")[2].partition("`")[0].replace("NAME", "digits").split()
    (folder / "jobs").mkdir()
    assert call(capsys, *again, "--slots", 1, "--out", "jobs/job.toml")[0] == 0
    spec = load_job(Path("jobs/job.toml"), NOW)
    assert [layer.kind for layer in spec.model.layers] == ["linear", "relu", "linear"]
    assert spec.weights == str(folder / "model.flstate")
    code, out, err = call(capsys, "job", "submit", "jobs/job.toml", "--config", directory)
    assert (code, err) == (0, "")
    assert "job 1 posted" in out
    digest = unixfs.digest_of((folder / "model.flstate").read_bytes()).hex()
    assert [path for path in (directory / "blobs").rglob("*") if path.name == digest]


def test_a_model_with_one_output_says_what_it_is_near(folder: Path, capsys: Capture) -> None:
    (folder / "one.onnx").write_bytes(digits_onnx(1))
    assert call(capsys, "manifest", "from-torch", "one.onnx", "--levels", 10, "--scale", -1)[0] == 0
    assert call(capsys, "job", "new", "own", "--model", "one.json")[0] == 0
    assert load_job(Path("digits.toml"), NOW).model.loss == MeanSquaredError(10, -1)


def test_every_operation_without_a_layer_is_named_and_nothing_is_written(folder: Path, capsys: Capture) -> None:
    (folder / "tanh.onnx").write_bytes(digits_onnx(op="Tanh"))
    code, out, err = call(capsys, "manifest", "from-torch", "tanh.onnx")
    assert (code, out) == (2, "")
    assert err.splitlines() == [
        "  between (Tanh): no layer does this", "flnode: tanh.onnx: 1 operation that no layer does"
    ]  # fmt: skip
    code, out, _ = call(capsys, "manifest", "from-torch", "tanh.onnx", "--json")
    assert code == 2
    assert json.loads(out)["problems"] == [{"node": "between", "op": "Tanh", "reason": "no layer does this"}]
    assert sorted(path.name for path in folder.iterdir()) == ["digits.onnx", "tanh.onnx"]


def test_json_says_where_the_files_are(folder: Path, capsys: Capture) -> None:
    shutil.copy(FILES / "transformer.onnx", folder)
    code, out, _ = call(capsys, "manifest", "from-torch", "transformer.onnx", "--json")
    assert code == 0
    expected = {"model": "transformer.json", "weights": "transformer.flstate", "notes": [], "problems": []}
    assert json.loads(out) == expected


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.onnx"], 2, "no file at none.onnx"),
        (["/dev/null"], 2, "not an ordinary file"),
        (["digits.onnx", "--out", "model.toml"], 2, "--out must end in .json"),
        (["digits.onnx", "--scale", "2"], 2, "--scale goes with --levels"),
        (["digits.onnx", "--levels", "10"], 2, "must have 1 output, has 10"),
        (["digits.onnx", "--out", "none/model.json"], 2, "cannot write none/model.json"),
    ],
)
def test_a_mistake_is_said_and_leaves_no_file(
    folder: Path, capsys: Capture, arguments: list[str], code: int, message: str
) -> None:
    found, out, err = call(capsys, "manifest", "from-torch", *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert [path.name for path in folder.iterdir()] == ["digits.onnx"]


def test_job_files_whose_weights_do_not_fit_their_layers_say_which(folder: Path, capsys: Capture) -> None:
    assert call(capsys, "manifest", "from-torch", "digits.onnx")[0] == 0
    assert call(capsys, "job", "new", "own", "--model", "digits.json", "--weights", "digits.flstate")[0] == 0
    fields = [("00.weight", (12, 64)), ("00.bias", (12,)), ("01.weight", (10, 13)), ("01.bias", (10,))]
    parts = [(Field(f"parameter/{name}", shape), bytes(Field("x", shape).nbytes)) for name, shape in fields]
    contents = {
        "parameter/01.weight: the model needs [10, 12], the file has [10, 13]": join(14, parts),
        "parameter/01.bias: the model needs [10], the file has none": join(14, parts[:-1]),
        "wrong magic": bytes(100),
    }
    for message, content in contents.items():
        (folder / f"digits{STATE_SUFFIX}").write_bytes(content)
        with pytest.raises(UserError, match=re.escape(message)):
            load_job(Path("digits.toml"), NOW)
    (folder / "digits.flstate").unlink()
    with pytest.raises(UserError, match="cannot read"):
        load_job(Path("digits.toml"), NOW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["own"], "the preset own needs --model"),
        (["digits", "--model", "digits.json"], "no other preset takes them"),
        (["own", "--model", "none.json"], "cannot read none.json"),
        (["own", "--model", "digits.onnx"], "digits.onnx: expected a name that ends in .json"),
        (["own", "--model", "not.json"], "does not list layers"),
        (["own", "--model", "words.json"], "has 6 inputs and 5 classes, the dataset digits 64 and 10"),
    ],
)
def test_job_new_checks_the_layers_against_the_dataset(
    folder: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    text = '{"input": [6], "layers": [{"kind": "linear", "outputs": 5}], "loss": {"kind": "cross_entropy"}}'
    (folder / "words.json").write_text(text)
    (folder / "not.json").write_text("{}")
    code, _, err = call(capsys, "job", "new", *arguments)
    assert (code, message in err) == (2, True), err
    assert not list(folder.glob("*.toml"))
