"""flnode data add, list, show, export"""

from __future__ import annotations

import re
import struct
from pathlib import Path

import click
import msgspec

from cli.blob import fetch, handed_over, write_file
from cli.client import Client
from cli.errors import NodeError, UserError
from cli.options import node_command
from cli.output import mebibytes, print_json, stdout, table
from cli.tensors import Tensor, npz
from learner import convert
from learner import data as datasets
from learner.card import Card
from learner.errors import InvalidDataset
from learner.idx import read_idx
from learner.manifest import DATASET_BYTES_MAX
from learner.npz import NumpyMissing, read_npz
from learner.table import read_labelled
from node.api import schema

TABLES = (".csv", ".tsv", ".txt")
HAND_OVER_S = 120.0  # for the node to read, check and store the largest dataset
SHOWN_MAX = 12


@click.group()
def data() -> None:
    """Datasets: turn a file of yours into one, and see which there are.

    \b
    flnode data add flowers.csv --config ~/mynode
    flnode data list --config ~/mynode
    """


@data.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--label", help="Column or array with the classes.  [default: label, class, target, y, or the last]")
@click.option("--name", help="How job files call it.  [default: the file's name]")
@click.option("--test-share", default=0.2, show_default=True, help="Part of each class that is only for testing.")
@click.option("--seed", type=click.IntRange(0, (1 << 63) - 1), default=0, show_default=True, help="Of the split.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="Leave a column out. May be repeated.")
@click.option("--header/--no-header", default=None, help="Whether the first line names the columns.  [default: look]")
@click.option("--private-card", is_flag=True, help="Keep column names, class names and scaling at the node.")
@click.option("--replace", is_flag=True, help="Let the name mean this dataset from now on.")
@node_command
def add(
    client: Client, file: Path, label: str | None, name: str | None, test_share: float, seed: int,
    drop: tuple[str, ...], header: bool | None, private_card: bool, replace: bool, as_json: bool,
) -> None:  # fmt: skip
    """Turn FILE (.csv, .npz, or a directory of IDX files) into a dataset, keep it at the node and serve it to workers.

    \b
    flnode data add flowers.csv --config ~/server
    flnode data add people.csv --label income --drop id --name people
    flnode data add images.npz --test-share 0.1
    flnode data add mnist                          a directory with train-images-idx3-ubyte.gz and the like
    """
    if not 0 < test_share < 1:
        raise UserError(f"--test-share {test_share}: expected a number between 0 and 1")
    name = name_of(file) if name is None else name
    if not re.fullmatch(schema.DATASET_NAME, name):
        raise UserError(f"--name {name!r}: expected {schema.DATASET_NAME_RULE}")
    content, card = convert_file(file, label, drop, header, test_share, seed, not private_card)
    with handed_over(client, content) as path:
        params = {"path": path, "name": name, "replace": replace}
        if private_card:
            params["card"] = msgspec.to_builtins(card)
        info = client.call("fl_addDataset", schema.DatasetInfo, params, wait_s=HAND_OVER_S)
    if as_json:
        print_json(info)
        return
    click.echo(f"dataset {info.name}: {info.features} features, {info.classes} classes, {_samples(info)}")
    click.echo(f"{info.cid} ({info.size} bytes)")
    click.echo(f"make a job over it with `flnode job new csv --dataset {info.name}`")


@data.command(name="list")
@node_command
def list_datasets(client: Client, as_json: bool) -> None:
    """The datasets that have a name at this node.

    \b
    flnode data list --config ~/server
    """
    found = client.call("fl_datasets", list[schema.DatasetInfo])
    if as_json:
        print_json(found)
        return
    columns = ("NAME", ">FEATURES", ">CLASSES", ">TRAIN", ">TEST", ">SIZE", "CID")
    rows = [
        (each.name or "", each.features, each.classes, each.train, each.test, _size(each.size), each.cid)
        for each in found
    ]
    stdout().print(table(columns, rows))


@data.command()
@click.argument("dataset")
@node_command
def show(client: Client, dataset: str, as_json: bool) -> None:
    """One dataset, by its name, CID or 0x digest.

    \b
    flnode data show flowers --config ~/server
    """
    info = client.call("fl_dataset", schema.DatasetInfo, {"dataset": dataset})
    if as_json:
        print_json(info)
        return
    card = info.card
    rows = [
        ("name", (info.name or "none") + (" (built in)" if info.built_in else "")),
        ("features", f"{info.features}, {info.element}" + ("" if len(info.shape) == 1 else f" {info.shape}")),
        ("classes", f"{info.classes}" + ("" if card is None else f": {_some(card.classes)}")),
        ("samples", _samples(info)),
        ("size", f"{info.size} bytes"),
        ("cid", info.cid),
        ("digest", info.digest),
    ]
    if card is not None and card.columns:
        rows.insert(2, ("columns", _some(card.columns)))
        rows.insert(3, ("label", card.label))
    stdout().print(table(("", ""), rows))


@data.command()
@click.argument("dataset")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@node_command
def export(client: Client, dataset: str, out: Path, as_json: bool) -> None:
    """Write a dataset as .npz: x_train, y_train, x_test, y_test; a feature is x * scale.

    \b
    flnode data export flowers --out flowers.npz --config ~/server
    """
    if out.suffix != ".npz":
        raise UserError(f"--out {out}: expected a name that ends in .npz")
    info = client.call("fl_dataset", schema.DatasetInfo, {"dataset": dataset})
    content = fetch(client, info.digest, DATASET_BYTES_MAX) if not info.built_in else datasets.digits()
    try:
        parts = datasets.decode(content)
    except InvalidDataset as error:
        raise NodeError(str(error)) from None
    write_file(out, npz(_tensors(parts), {"dataset_digest": info.digest, "dataset_cid": info.cid}))
    if as_json:
        print_json({"file": str(out), "digest": info.digest, "cid": info.cid})
    else:
        click.echo(f"{out}: {_samples(info)} of dataset {info.cid}")


def convert_file(
    file: Path, label: str | None, drop: tuple[str, ...], header: bool | None, test_share: float, seed: int,
    enclosed: bool,
) -> tuple[bytes, Card]:  # fmt: skip
    """Canonical bytes and card of a person's file. Raises UserError: names the line and column, or the array."""
    try:
        if file.is_dir():
            if drop or header is not None or label is not None:
                raise UserError("--label, --drop and --header are for files; IDX files have labels of their own")
            return convert.from_arrays(read_idx(file), test_share, seed, enclosed)
        if file.suffix.lower() in TABLES:
            return convert.from_table(read_labelled(file, label, drop, header), test_share, seed, enclosed)
        if file.suffix.lower() != ".npz":
            raise UserError(f"{file}: expected a file that ends in .csv or .npz, or a directory of IDX files")
        if drop or header is not None:
            raise UserError("--drop and --header are for tables; an .npz file has arrays")
        return convert.from_arrays(read_npz(file, label), test_share, seed, enclosed)
    except FileNotFoundError:
        raise UserError(f"no file at {file}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (InvalidDataset, NumpyMissing) as error:
        raise UserError(str(error)) from None


def name_of(file: Path) -> str:
    """A name for a dataset from its file's: "My Data.csv" -> "my-data"."""
    return re.sub(r"[^a-z0-9._-]+", "-", file.resolve().stem.lower()).strip("-._")[:40]


def _tensors(parts: datasets.Dataset) -> dict[str, Tensor]:
    """The arrays of an exported dataset."""
    split = len(parts.features) // (parts.train + parts.test) * parts.train
    found = {}
    for part, count, x, y in (
        ("train", parts.train, parts.features[:split], parts.labels[: 2 * parts.train]),
        ("test", parts.test, parts.features[split:], parts.labels[2 * parts.train :]),
    ):
        found[f"x_{part}"] = Tensor(parts.element, (count, *parts.shape), x)
        found[f"y_{part}"] = Tensor("uint16", (count,), y)
    return {**found, "scale": Tensor("float32", (), struct.pack("<f", 2.0**parts.scale))}


def _samples(info: schema.DatasetInfo) -> str:
    return f"{info.train} samples for training and {info.test} for testing"


def _size(size: int) -> str:
    return mebibytes(size) if size >= 10 << 20 else f"{size / 1024:.1f} KiB"


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - SHOWN_MAX} more" if len(names) > SHOWN_MAX else ""
    return ", ".join(names[:SHOWN_MAX]) + more
