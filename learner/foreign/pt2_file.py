"""torch.export archives (.pt2): a zip with the graph as JSON and each weight as raw bytes. Nothing is unpickled.

Source: torch/_export/serde/schema.py and torch/export/pt2_archive/constants.py of torch 2.9 to 2.13. An archive also
holds its sample inputs as a pickle, which is never opened; weights that are pickled are refused.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from learner.foreign.graph import FILE_BYTES_MAX, RANK_MAX, Array, Graph, InvalidModelFile, Node, Ref, Shape

SCHEMA: Final = 8  # major version
_JSON_BYTES_MAX: Final = 64 * 2**20
_MEMBERS_MAX: Final = 10_000
_ENCODED: Final = 0x61  # a member's flags for encryption, patches and strong encryption (APPNOTE 4.4.4)
# torch/_export/serde/schema.py, ScalarType
_TYPES: Final[Mapping[int, str]] = {
    1: "u1", 2: "i1", 3: "<i2", 4: "<i4", 5: "<i8", 6: "<f2", 7: "<f4", 8: "<f8", 12: "?",
}  # fmt: skip
HOW: Final = (
    "it holds a pickle, which can run code and is never opened. Where the model is at home, run\n"
    "    torch.export.save(torch.export.export(model.eval(), (sample,)), 'model.pt2')\n"
    "or  torch.onnx.export(model.eval(), (sample,), 'model.onnx')\n"
    "and give that file"
)


def read_pt2(path: Path) -> Graph:
    """The graph of an archive.

    Raises:
        InvalidModelFile, OSError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive)
    except (zipfile.BadZipFile, EOFError) as error:
        raise InvalidModelFile(f"a damaged archive: {error}") from None
    except NotImplementedError as error:  # by zipfile, of an archive that asks for a later version of the format
        raise InvalidModelFile(f"an archive that cannot be read: {error}") from None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InvalidModelFile(f"not the archive of a torch.export graph (schema {SCHEMA}): {what}") from None


def _read(archive: zipfile.ZipFile) -> Graph:
    members = archive.infolist()
    if len(members) > _MEMBERS_MAX or sum(member.file_size for member in members) > FILE_BYTES_MAX:
        raise InvalidModelFile(f"more than {_MEMBERS_MAX} members or {FILE_BYTES_MAX} bytes")
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & _ENCODED for member in members):
        raise InvalidModelFile("compressed or encrypted members; torch.export stores them plain")
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    models = [name for name in names if name.startswith("models/") and name.endswith(".json")]
    if not models:
        raise InvalidModelFile(HOW if "data.pkl" in names else "an archive without the graph of torch.export")
    if len(models) > 1:
        raise InvalidModelFile(f"{len(models)} models, expected one")
    program = _json(archive, names[models[0]])
    version = program["schema_version"]["major"]
    if version != SCHEMA:
        raise InvalidModelFile(f"schema version {version} of torch.export, expected {SCHEMA}: export with torch 2.13")
    model = models[0].removeprefix("models/").removesuffix(".json")
    payloads: dict[str, Array] = {}
    for kind in ("weights", "constants"):
        config = names.get(f"data/{kind}/{model}_{kind}_config.json")
        entries = {} if config is None else _json(archive, config)["config"]
        for name, entry in entries.items():
            payloads[name] = _tensor(archive, names, f"data/{kind}/", name, entry)
    return _graph(program["graph_module"], payloads)


def _json(archive: zipfile.ZipFile, name: str) -> Any:
    if archive.getinfo(name).file_size > _JSON_BYTES_MAX:
        raise InvalidModelFile(f"{name}: more than {_JSON_BYTES_MAX} bytes")
    return json.loads(archive.read(name))


def _tensor(
    archive: zipfile.ZipFile, names: Mapping[str, str], folder: str, name: str, entry: Mapping[str, Any]
) -> Array:  # fmt: skip
    """A weight's values; a view of shared storage is copied out of it."""
    if entry["use_pickle"]:
        raise InvalidModelFile(f"{name}: pickled. {HOW}")
    meta = entry["tensor_meta"]
    if meta["dtype"] not in _TYPES:
        raise InvalidModelFile(f"{name}: values of torch's type {meta['dtype']}, expected float32")
    dtype = np.dtype(_TYPES[meta["dtype"]])
    sizes, strides = _ints(meta["sizes"]), _ints(meta["strides"])
    offset = _ints([meta["storage_offset"]])[0]
    if len(sizes) != len(strides) or len(sizes) > RANK_MAX or min((*sizes, *strides, offset, 0)) < 0:
        raise InvalidModelFile(f"{name}: sizes {list(sizes)} and strides {list(strides)}")
    storage = np.frombuffer(archive.read(names[folder + entry["path_name"]]), np.uint8)
    storage = storage[: len(storage) // dtype.itemsize * dtype.itemsize].view(dtype)
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if 0 in sizes or last >= len(storage) or math.prod(sizes) > len(storage):
        raise InvalidModelFile(f"{name}: {list(sizes)} values do not lie in {len(storage)}")
    steps = tuple(stride * dtype.itemsize if size > 1 else 0 for size, stride in zip(sizes, strides, strict=True))
    return np.lib.stride_tricks.as_strided(storage[offset:], sizes, steps).copy()


def _ints(values: Iterable[Mapping[str, Any]]) -> Shape:
    found = tuple(value["as_int"] for value in values)
    if not all(type(value) is int for value in found):
        raise ValueError("sizes that are no whole numbers")
    return found


def _graph(module: Mapping[str, Any], payloads: Mapping[str, Array]) -> Graph:
    graph, constants, inputs = module["graph"], dict[str, Array](), dict[str, tuple[int | None, ...]]()
    shapes = {name: _shape(meta) for name, meta in graph["tensor_values"].items()}
    for spec in module["signature"]["input_specs"]:
        (kind, given), *_ = spec.items()
        if kind == "user_input":
            name = str(given["arg"]["as_tensor"]["name"] if "as_tensor" in given["arg"] else given["arg"])
            inputs[name] = shapes.get(name, ())
            continue
        source = given.get("parameter_name") or given.get("buffer_name") or given.get("tensor_constant_name")
        if source not in payloads:
            raise InvalidModelFile(f"{kind} {source}: no values in the archive")
        constants[str(given["arg"]["name"])] = payloads[source]
    outputs = tuple(
        str(spec["user_output"]["arg"]["as_tensor"]["name"])
        for spec in module["signature"]["output_specs"]
        if "user_output" in spec
    )
    return Graph(constants, inputs, outputs, tuple(map(_node, graph["nodes"])), shapes)


def _shape(meta: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(size.get("as_int") for size in meta["sizes"])


def _node(node: Mapping[str, Any]) -> Node:
    target = node["target"]
    op = target.removeprefix("torch.ops.aten.").rpartition(".")[0] if target.startswith("torch.ops.aten.") else target
    if op.startswith("_operator."):
        op = op.removeprefix("_")
    given = {each["name"]: _argument(each["arg"]) for each in node["inputs"]}
    outputs: list[str] = []
    for output in node["outputs"]:
        (kind, value), *_ = output.items()
        named = value if kind == "as_tensors" else [value]
        outputs += [str(each.get("name") or each.get("as_name")) for each in named if isinstance(each, dict)]
    return Node(str(node.get("name") or outputs[0]), op, (), given, tuple(outputs))


def _argument(argument: Mapping[str, Any]) -> Any:
    """Plain values, Refs, and lists of these."""
    (kind, value), *_ = argument.items()
    match kind:
        case "as_none":
            return None
        case "as_tensor" | "as_sym_int":
            return _named(value)
        case "as_tensors" | "as_sym_ints" | "as_optional_tensors":
            return [_argument(each) if kind == "as_optional_tensors" else _named(each) for each in value]
        case "as_float":
            return float(value)  # infinities are text
        case _:
            return value


def _named(value: Mapping[str, Any]) -> Any:
    if "as_int" in value:
        return value["as_int"]
    return Ref(str(value.get("name") or value["as_name"]))


