"""flnode job model, flnode job predict"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import click
import msgspec

from cli.blob import fetch, handed_over, write_file
from cli.client import Client
from cli.errors import NodeError, UserError
from cli.options import node_command
from cli.output import print_json, stdout, table
from cli.tensors import SUFFIXES, Tensor, encode
from learner import canonical, convert, manifest, presets
from learner.architecture import Model
from learner.card import Card
from learner.errors import InvalidDataset, InvalidManifest, InvalidState
from learner.manifest import MANIFEST_BYTES_MAX, Manifest
from learner.table import Table, read_features
from node.api import schema

WAIT_S = 30.0

_job = click.argument("job", metavar="ID", type=click.IntRange(min=1))
_round = click.option("--round", "number", type=click.IntRange(min=1), help="A settled round.  [default: the last]")


@click.command()
@_job
@_round
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A .safetensors or .npz file to write.")
@node_command
def model(client: Client, job: int, number: int | None, out: Path, as_json: bool) -> None:
    """Write the model of a job's last (or --round's) settled round to a file; its digest is checked.

    \b
    flnode job model 1 --out digits.safetensors --config ~/server
    flnode job model 1 --round 3 --out digits.npz
    """
    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: expected a name that ends in {' or '.join(SUFFIXES)}")
    info, described = find_model(client, job, number)
    state = fetch(client, info.update_digest, described.update_size())
    try:
        _, parts = canonical.split(state)
    except InvalidState as error:
        raise NodeError(str(error)) from None
    write_file(out, encode(out.suffix, _tensors(info, described, parts), _metadata(info, described)))
    if as_json:
        print_json({"file": str(out), "model": info})
        return
    score = "" if info.correct is None else f", {info.correct} of {info.total} test samples right"
    click.echo(f"{out}: the model of job {info.job}, round {info.round}{score}")
    click.echo(f"its digest {info.update_digest} is the one on the chain")


@click.command()
@_job
@click.option("--data", "file", required=True, type=click.Path(path_type=Path), help="A CSV file; one sample a line.")
@_round
@node_command
def predict(client: Client, job: int, number: int | None, file: Path, as_json: bool) -> None:
    """Classify the rows of a CSV file with the model of a job's last (or --round's) settled round.

    The columns are those of the file that the dataset was made from, in any order; a label and others may be there.

    \b
    flnode job predict 1 --data new-flowers.csv --config ~/server
    """
    info, described = find_model(client, job, number)
    rows, samples = _samples(file, info, described)
    with handed_over(client, convert.unlabelled(samples, described.model.features, described.model.classes)) as path:
        params = {"id": job, "round": info.round, "path": path, "wait_s": WAIT_S}
        found = client.call("fl_predict", schema.Prediction, params, wait_s=WAIT_S)
    card = _card(info)
    names = card.classes if card.classes else tuple(map(str, range(described.model.classes)))
    if as_json:
        lines = zip(rows.lines, found.classes, strict=True)
        print_json([{"line": line, "class": each, "name": names[each]} for line, each in lines])
        return
    shown = [(line, names[each]) for line, each in zip(rows.lines, found.classes, strict=True)]
    stdout().print(table((">LINE", "CLASS"), shown))


def find_model(client: Client, job: int, number: int | None) -> tuple[schema.ModelInfo, Manifest]:
    """What the node says about a model, as far as the finalised chain agrees, and the job's manifest."""
    params = {"id": job, "round": number, "wait_s": WAIT_S}
    info = client.call("fl_model", schema.ModelInfo, params, wait_s=2 * WAIT_S)
    detail = client.call("fl_job", schema.JobDetail, {"id": job})
    settled = next((each for each in detail.rounds if each.round == info.round), None)
    if settled is None or settled.update_digest != info.update_digest or detail.manifest != info.manifest:
        raise NodeError(f"what {client.endpoint} says about job {job} does not agree with its finalised chain")
    content = fetch(client, detail.manifest, MANIFEST_BYTES_MAX)
    try:
        return info, manifest.decode(content)
    except InvalidManifest as error:
        raise NodeError(str(error)) from None


def _samples(file: Path, info: schema.ModelInfo, described: Manifest) -> tuple[Table, bytes]:
    """The rows of a person's file, and their features as float32."""
    known = None if info.dataset_info is None else info.dataset_info.card
    features = described.model.features
    try:
        rows = read_features(file, known, features)
        return rows, _card(info).features(rows.values, features, rows.place)
    except FileNotFoundError:
        raise UserError(f"no file at {file}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except InvalidDataset as error:
        raise UserError(str(error)) from None


def _card(info: schema.ModelInfo) -> Card:
    """How the person's numbers become features; without a card they are the dataset's elements."""
    if info.dataset_info is None:
        return Card(label="", classes=())
    return info.dataset_info.card or Card(label="", classes=(), scale=(2.0**info.dataset_info.scale,))


def _tensors(
    info: schema.ModelInfo, described: Manifest, parts: list[tuple[canonical.Field, memoryview]]
) -> dict[str, Tensor]:
    """Weights and biases, without the optimiser's velocities; and, if known, what to do to a sample first."""
    found = {}
    for field, values in parts:
        group, _, name = field.name.partition("/")
        if group == "parameter":
            found[name] = Tensor("float32", field.shape, values)
    if info.dataset_info is not None:
        features = described.model.features
        shift, scale = _card(info).shift_and_scale(features)
        found["input.shift"] = Tensor("float32", (features,), shift)
        found["input.scale"] = Tensor("float32", (features,), scale)
    return found


def _metadata(info: schema.ModelInfo, described: Manifest) -> dict[str, str]:
    """What a file says about itself; text only, as safetensors wants it."""
    card = _card(info)
    score = {} if info.correct is None else {"correct": str(info.correct), "total": str(info.total)}
    return {
        "format": "flnode model 1",
        "job": str(info.job),
        "round": str(info.round),
        "update_digest": info.update_digest,
        "manifest_digest": "0x" + hashlib.sha256(described.encode()).hexdigest(),
        "dataset_digest": info.dataset,
        "model": _model_text(described.model),
        "bits": str(described.bits),
        "classes": json.dumps(card.classes),
        "columns": json.dumps(card.columns),
        **score,
    }


def _model_text(model: Model) -> str:
    """A multilayer perceptron by its sizes, anything else layer by layer."""
    sizes = presets.sizes_of(model)
    if sizes is not None:
        return json.dumps({"kind": "mlp", "sizes": sizes})
    return str(msgspec.json.encode(model), "utf-8")
