"""Models of torch and ONNX files as layers: the same numbers, every operation named that there is no layer for."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import Tensor, nn

from learner.architecture import CrossEntropy, MeanSquaredError, every
from learner.errors import Diverged
from learner.exact.backends.choose import REFERENCE
from learner.foreign import graph as graphs
from learner.foreign import pt2_file
from learner.foreign.graph import InvalidModelFile
from learner.foreign.importing import Imported, NotConvertible, read_model
from learner.manifest import Manifest
from learner.models import Network
from learner.tensors import decode_parameters
from learner.train import parameters_of
from tests.learner.foreign_models import EXAMPLES, FILES, Example, save_onnx, save_pt2

BITS = 14
TOLERANCE = 2e-3  # of the largest output: fourteen bits, a few layers deep
SAVE: dict[str, Callable[..., None]] = {"pt2": save_pt2, "onnx": save_onnx}


def outputs(found: Imported, samples: Tensor) -> Tensor:
    """As a job would have them, from the bytes of the state that a job's `weights` name."""
    seed = bytes(32)
    manifest = Manifest(
        model=found.model, dataset=seed, dataset_size=1, batch_size=4, steps=1, learning_rate=0.1, init_seed=seed
    )
    parameters = parameters_of(decode_parameters(found.state(BITS), manifest))
    network = Network(found.model.placed(), BITS, lambda placed: REFERENCE)
    return network.forward(parameters, samples.float().flatten(1))[0]


def agree(found: Imported, samples: Tensor, expected: Tensor) -> None:
    expected = expected.detach()
    difference = (outputs(found, samples) - expected).abs().max() / expected.abs().max()
    assert float(difference) < TOLERANCE
    wrong = (outputs(found, samples.flip(0)) - expected).abs().max() / expected.abs().max()
    assert float(wrong) > 10 * TOLERANCE, "these samples cannot tell"


@pytest.mark.parametrize("how", SAVE)
@pytest.mark.parametrize("name", EXAMPLES)
def test_a_module_that_was_exported_gives_the_same_outputs_as_layers(name: str, how: str, tmp_path: Path) -> None:
    example = EXAMPLES[name]
    SAVE[how](example, tmp_path / "model", fixed=name == "words")
    loss = MeanSquaredError(5) if name == "linear regression" else CrossEntropy()
    found = read_model(tmp_path / "model", loss)
    assert " ".join(placed.layer.kind for placed in every(found.model.placed())) == example.kinds
    assert found.model.input == ((1, 8, 8) if name == "a residual network" else example.shape)
    assert any("gelu" in note for note in found.notes) == (name == "torch's encoder layer")
    agree(found, example.samples(), example.module()(example.samples()))


@pytest.mark.parametrize("name", ["cnn", "transformer"])
def test_files_of_torchs_newer_exporter_are_read_too_with_weights_beside_them(name: str) -> None:
    found = read_model(FILES / f"{name}.onnx", CrossEntropy())
    assert " ".join(placed.layer.kind for placed in every(found.model.placed())) == EXAMPLES[name].kinds
    with np.load(FILES / f"{name}.npz") as stored:
        samples, expected = (torch.from_numpy(stored[key]) for key in ("samples", "outputs"))
    agree(found, samples, expected)


class Unconvertible(nn.Module):
    """Five operations that there is no layer for, and others between them that there is one for."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped, self.norm = nn.Conv2d(2, 4, 3, groups=2), nn.LayerNorm(4, eps=1e-3)
        self.one, self.two = nn.Linear(144, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(self.grouped(x)).relu().flatten(1)
        x = self.norm(self.one(x))
        out: Tensor = torch.softmax(self.two(x) * x, -1)
        return out


OPS_OF_TORCH = ["conv2d", "sigmoid", "layer_norm", "mul", "softmax"]
OPS_OF_ONNX = ["conv", "sigmoid", "layernormalization", "mul", "softmax"]


def test_a_position_of_zeros_is_a_layer_too_and_shared_weights_are_told(tmp_path: Path) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.twice, self.position = nn.Linear(8, 8), nn.Parameter(torch.zeros(4, 8))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.twice(self.twice(x) + self.position).flatten(1)
            return out

    save_pt2(Example(Module, (4, 8), ""), tmp_path / "model.pt2")
    found = read_model(tmp_path / "model.pt2", CrossEntropy())
    assert [layer.kind for layer in found.model.layers] == ["linear", "position", "linear", "flatten"]
    assert len(found.notes) == 1
    assert "share" in found.notes[0]


@pytest.mark.parametrize("how", SAVE)
def test_every_operation_that_no_layer_does_is_named_at_once(how: str, tmp_path: Path) -> None:
    SAVE[how](Example(Unconvertible, (2, 8, 8), ""), tmp_path / "model")
    with pytest.raises(NotConvertible) as caught:
        read_model(tmp_path / "model", CrossEntropy())
    ops = [each.op.lower() for each in caught.value.problems]
    assert ops == (OPS_OF_TORCH if how == "pt2" else OPS_OF_ONNX)
    reasons = [each.reason for each in caught.value.problems]
    assert reasons[:3] == ["groups=2: only 1", "no layer does this", "eps=0.001: only 1e-05"]
    assert "of two activations" in reasons[3]
    assert all(each.node for each in caught.value.problems)
    assert len({each.node for each in caught.value.problems}) == 5


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda x: x.mean(1), "over dimensions"),
        (lambda x: x[:, 0], "order that no layer gives"),
        (lambda x: x.transpose(1, 2).flatten(1), "order that no layer gives"),
        (lambda x: x.flip(1).flatten(1), "no layer does this"),
        (lambda x: x.reshape(2, -1).reshape(4, -1)[:2].repeat(2, 1), "no layer does this"),
        (lambda x: nn.functional.scaled_dot_product_attention(x, x, x).flatten(1), "without an output projection"),
        (lambda x: attend(x.relu())[0].flatten(1), "without projections"),
        (lambda x: nn.functional.gelu(x).flatten(1) + x.relu().flatten(1), "only x + layers(x)"),
        (lambda x: nn.functional.dropout(x, 0.5, True).flatten(1), "after model.eval()"),
        (lambda x: x.long().float().flatten(1), "rounded to whole ones"),
        (lambda x: x.half().float().flatten(1), "to torch's type 6"),
    ],
)
def test_what_layers_would_compute_otherwise_is_refused(
    make: Callable[[Tensor], Tensor], reason: str, tmp_path: Path
) -> None:
    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return make(self.first(x))

    save_pt2(Example(Module, (4, 8), ""), tmp_path / "model.pt2", fixed=True)
    with pytest.raises(NotConvertible, match=reason.replace("(", r"\(").replace(")", r"\)").replace("+", r"\+")):
        read_model(tmp_path / "model.pt2", CrossEntropy())


def attend(x: Tensor) -> tuple[Tensor, ...]:
    out = nn.functional.scaled_dot_product_attention(x, x, x)
    return (nn.functional.linear(out, torch.eye(8)),)


class Trap:
    """Runs when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("opened"),)


def test_a_pickle_is_never_opened_and_the_refusal_says_how_to_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "old.pt").write_bytes(pickle.dumps(Trap()))
    torch.save(Trap(), tmp_path / "new.pt")
    for name in ("old.pt", "new.pt"):
        with pytest.raises(InvalidModelFile, match=r"(?s)torch\.export\.save\(.*torch\.onnx\.export\("):
            read_model(tmp_path / name, CrossEntropy())
    save_pt2(EXAMPLES["mlp"], tmp_path / "m.pt2")
    rewrite(tmp_path / "m.pt2", "sample_inputs", lambda content: pickle.dumps(Trap()))
    read_model(tmp_path / "m.pt2", CrossEntropy())
    rewrite(tmp_path / "m.pt2", "weights_config", lambda content: content.replace(b"false", b"true"))
    with pytest.raises(InvalidModelFile, match="pickled"):
        read_model(tmp_path / "m.pt2", CrossEntropy())
    assert not (tmp_path / "opened").exists()


def rewrite(path: Path, part: str, change: Callable[[bytes], bytes]) -> None:
    """Change the member of an archive whose name has `part` in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert any(part in name for name in members)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, change(content) if part in name else content)


def test_weights_are_read_from_beside_the_file_and_from_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(1440))
    for location in ("../secret", "/etc/hostname", "missing", "."):
        model = onnx.load_model(str(FILES / "cnn.onnx"), load_external_data=False)
        for tensor in model.graph.initializer:
            for each in tensor.external_data:
                each.value = location if each.key == "location" else each.value
        (tmp_path / "sub").mkdir(exist_ok=True)
        (tmp_path / "sub" / "model.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(InvalidModelFile, match=r"not a file beside the model|its weights are in missing"):
            read_model(tmp_path / "sub" / "model.onnx", CrossEntropy())
    (tmp_path / "sub" / "cnn.onnx.data").symlink_to(tmp_path / "secret")
    (tmp_path / "sub" / "model.onnx").write_bytes((FILES / "cnn.onnx").read_bytes())
    with pytest.raises(InvalidModelFile, match=r"its weights are in cnn\.onnx\.data"):
        read_model(tmp_path / "sub" / "model.onnx", CrossEntropy())


def tiny_onnx(nodes: list[onnx.NodeProto], shape: list[int | str], **constants: np.ndarray[Any, Any]) -> bytes:
    tensors = [onnx.numpy_helper.from_array(values, name) for name, values in constants.items()]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    content: bytes = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]).SerializeToString()
    return content


HUGE = np.array([2**40], np.int64)
WEIGHT = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "opset 0"),
        (b"layers please", "neither"),
        (b"PK\x03\x04 and no more", "damaged archive"),
        (tiny_onnx([], ["n", "m"]), "all other sizes fixed"),
        (tiny_onnx([], [2, 8]), "nothing computes|no layer|activation"),
        (tiny_onnx([helper.make_node("Gemm", ["x", "w"], ["y"])], [2, 8]), "reads 'w'"),
        (tiny_onnx([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], [2, 8], w=WEIGHT * np.nan), "not finite"),
        (tiny_onnx([helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)], [2, 9], w=WEIGHT), "8 inputs, but gets"),
        (tiny_onnx([helper.make_node("Gemm", ["x", "w"], ["y"])], [2, 8], w=WEIGHT.astype(np.int64)), "type int64"),
        (tiny_onnx([helper.make_node("Expand", ["x", "s"], ["y"])], [2, 8], s=np.array([2**40, 2, 8])), "at most"),
        (tiny_onnx([helper.make_node("ConstantOfShape", ["s"], ["y"])], [2, 8], s=HUGE), "at most"),
        (tiny_onnx([helper.make_node("Reshape", ["x", "s"], ["y"])], [2, 8], s=np.array([7, 7])), "cannot be read"),
        (tiny_onnx([helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[0, 0])], [1, 1, 4, 4]), "kernel 0"),
        (tiny_onnx([helper.make_node("Relu", ["y"], ["y"])], [2, 8]), "reads 'y'"),
    ],
)
def test_what_is_no_model_gets_one_clear_reason(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "model").write_bytes(content)
    with pytest.raises((InvalidModelFile, NotConvertible), match=message):
        read_model(tmp_path / "model", CrossEntropy())


def archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytearray:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members.items():
            made.writestr(f"m/{name}", content)
    return bytearray(file.getvalue())


def refusal(content: bytearray, path: Path) -> str:
    path.write_bytes(content)
    with pytest.raises(InvalidModelFile) as refused:
        pt2_file.read_pt2(path)
    return str(refused.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compressed_archive_is_refused_before_anything_is_unpacked(method: int, tmp_path: Path) -> None:
    """Each way of packing has errors of its own, and room for bombs."""
    content = archive({"models/model.json": b"{}" * 2000}, method)
    content[52:58] = bytes(6)
    assert "compressed or encrypted" in refusal(content, tmp_path / "x.pt2")


def test_an_encrypted_archive_and_one_of_a_later_format_are_refused(tmp_path: Path) -> None:
    content = archive({"models/model.json": b"{}"})
    entry = content.find(b"PK\x01\x02")
    encrypted, later = bytearray(content), bytearray(content)
    encrypted[entry + 8] |= 1
    later[entry + 6] = 99
    assert "compressed or encrypted" in refusal(encrypted, tmp_path / "x.pt2")
    assert "cannot be read: zip file version 9.9" in refusal(later, tmp_path / "x.pt2")


@pytest.mark.parametrize("field", ["sizes", "strides", "storage_offset"])
def test_weights_of_impossible_shape_are_refused(field: str, tmp_path: Path) -> None:
    meta = {"dtype": 7, "sizes": [{"as_int": 2}], "strides": [{"as_int": 1}], "storage_offset": {"as_int": 0}}
    meta[field] = {"as_int": 10**30} if field == "storage_offset" else [{"as_int": 10**30}]
    weights = {"config": {"w": {"use_pickle": False, "path_name": "w", "tensor_meta": meta}}}
    content = archive(
        {
            "models/model.json": b'{"schema_version": {"major": 8}, "graph_module": {}}',
            "data/weights/model_weights_config.json": json.dumps(weights).encode(),
            "data/weights/w": bytes(16),
        }
    )
    assert "do not lie in 4" in refusal(content, tmp_path / "x.pt2")


def test_the_stride_of_a_single_value_does_not_matter() -> None:
    entry = {
        "use_pickle": False, "path_name": "w",
        "tensor_meta": {
            "dtype": 7, "sizes": [{"as_int": 1}], "strides": [{"as_int": 10**30}], "storage_offset": {"as_int": 0},
        },
    }  # fmt: skip
    with zipfile.ZipFile(io.BytesIO(archive({"w": np.float32(3).tobytes()}))) as opened:
        assert pt2_file._tensor(opened, {"w": "m/w"}, "", "w", entry).tolist() == [3.0]


def test_a_file_beyond_a_limit_is_refused_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "large.onnx").open("wb") as file:
        file.truncate(graphs.FILE_BYTES_MAX + 1)
    with pytest.raises(InvalidModelFile, match="at most"):
        read_model(tmp_path / "large.onnx", CrossEntropy())
    monkeypatch.setattr(pt2_file, "FILE_BYTES_MAX", 1000)
    with zipfile.ZipFile(tmp_path / "bomb.pt2", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/models/model.json", bytes(1001))
    with pytest.raises(InvalidModelFile, match="more than"):
        read_model(tmp_path / "bomb.pt2", CrossEntropy())
    names = ["x", *(f"v{place}" for place in range(99)), "y"]
    relu = [helper.make_node("Relu", [before], [after]) for before, after in pairwise(names)]
    (tmp_path / "long.onnx").write_bytes(tiny_onnx(relu, [2, 8]))
    with pytest.raises(NotConvertible, match="more than 64 layers"):
        read_model(tmp_path / "long.onnx", CrossEntropy())
    monkeypatch.setattr(graphs, "NODES_MAX", 99)
    with pytest.raises(InvalidModelFile, match="100 operations, at most 99"):
        read_model(tmp_path / "long.onnx", CrossEntropy())


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an archive."""
    folder = tmp_path_factory.mktemp("sound")
    save_pt2(EXAMPLES["attention by hand"], folder / "sound.pt2")
    return folder


def read_or_refuse(path: Path) -> None:
    try:
        found = read_model(path, CrossEntropy())
        outputs(found, torch.zeros(2, *found.model.input))
    except (InvalidModelFile, NotConvertible, Diverged):
        pass  # whatever is wrong with a file, these are what it may raise


JUNK = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(max_size=4) | st.just([]) | st.just({})


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_graph_of_nonsense_is_refused_and_nothing_else_happens(data: st.DataObject, sound: Path) -> None:
    def spoil(content: bytes) -> bytes:
        program = json.loads(content)
        place: Any = program["graph_module"]
        while isinstance(place, dict | list) and place:
            keys = sorted(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if data.draw(st.integers(0, 5)) == 0 or not isinstance(place[key], dict | list) or not place[key]:
                place[key] = data.draw(JUNK)
                break
            place = place[key]
        return json.dumps(program).encode()

    path = sound / "spoilt.pt2"
    path.write_bytes((sound / "sound.pt2").read_bytes())
    rewrite(path, "models/model.json", spoil)
    read_or_refuse(path)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 2**20), byte=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_onnx_file_is_refused_and_nothing_else_happens(place: int, byte: int, cut: bool, sound: Path) -> None:
    content = bytearray((FILES / "transformer.onnx").read_bytes())
    place %= len(content)
    content[place] = byte
    (sound / "spoilt.onnx").write_bytes(bytes(content[:place] if cut else content))
    read_or_refuse(sound / "spoilt.onnx")


def test_views_of_shared_storage_stay_inside_it(tmp_path: Path) -> None:
    save_pt2(EXAMPLES["mlp"], tmp_path / "m.pt2")
    for old, new in (("20", "2000"), ("0", "-9")):
        path = tmp_path / "n.pt2"
        path.write_bytes((tmp_path / "m.pt2").read_bytes())
        numbers = [f'"as_int": {each}}}'.encode() for each in (old, new)]
        rewrite(path, "weights_config", lambda content, numbers=numbers: content.replace(*numbers))  # type: ignore[misc]
        with pytest.raises(InvalidModelFile, match=r"do not lie in|strides"):
            read_model(path, CrossEntropy())
