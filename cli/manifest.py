"""flnode manifest from-torch"""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from cli.blob import write_file
from cli.errors import UserError
from cli.job_model import STATE_SUFFIX
from cli.options import json_option
from cli.output import print_json
from learner import manifest as manifests
from learner.architecture import CrossEntropy, Loss, MeanSquaredError, Model, every
from learner.canonical import STATE_BYTES_MAX, TENSORS_MAX


@click.group()
def manifest() -> None:
    """What a job trains, as data: turn a model of another tool into it.

    \b
    flnode manifest from-torch model.onnx
    """


@manifest.command(name="from-torch")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The layers.  [default: FILE's name with .json]")
@click.option("--weights", type=click.Path(path_type=Path), help="The weights.  [default: --out with .flstate]")
@click.option("--levels", type=click.IntRange(min=2), help="For a model with one output: labels are 0 to LEVELS - 1.")
@click.option("--scale", type=int, default=0, show_default=True, help="With --levels: outputs are label * 2**SCALE.")
@json_option
def from_torch(
    file: Path, out: Path | None, weights: Path | None, levels: int | None, scale: int, as_json: bool
) -> None:
    """Turn the model in FILE (.onnx, or .pt2 of torch.export) into a list of layers and its weights.

    Nothing in FILE is run or unpickled. If layers cannot do all that the model does, every such operation is named, and
    nothing is written. The model ends before the loss: cross-entropy contains its softmax.

    \b
    flnode manifest from-torch model.onnx
    flnode manifest from-torch model.pt2 --out model.json --weights model.flstate
    flnode job new own --model model.json --weights model.flstate --dataset images
    """
    out = out or Path(file.with_suffix(".json").name)
    weights = weights or out.with_suffix(STATE_SUFFIX)
    if out.suffix != ".json" or weights.suffix != STATE_SUFFIX:
        raise UserError(f"--out must end in .json and --weights in {STATE_SUFFIX}: a job file knows them by that")
    if scale and levels is None:
        raise UserError("--scale goes with --levels")
    loss = CrossEntropy() if levels is None else MeanSquaredError(levels, scale)
    model, state, notes = _converted(file, loss, as_json)
    write_file(out, msgspec.json.format(msgspec.json.encode(model), indent=2) + b"\n")
    write_file(weights, state)
    if as_json:
        print_json({"model": str(out), "weights": str(weights), "notes": notes, "problems": []})
        return
    kinds = [placed.layer.kind for placed in every(model.placed())]
    parameters = sum(field.nbytes // 4 for field in model.parameters())
    shape = " x ".join(map(str, model.input))
    click.echo(f"{out}: {len(kinds)} layers from {shape} to {model.outputs}: {', '.join(kinds)}")
    click.echo(f"{weights}: {parameters} parameters")
    for note in notes:
        click.echo(f"note: {note}")
    click.echo(f"make a job of it with `flnode job new own --model {out} --weights {weights} --dataset NAME`")


def _converted(file: Path, loss: Loss, as_json: bool) -> tuple[Model, bytes, tuple[str, ...]]:
    """(layers, weights, notes); raises UserError after naming what cannot be converted."""
    try:
        from learner.foreign.graph import InvalidModelFile
        from learner.foreign.importing import NotConvertible, read_model
        from learner.foreign.onnx_file import OnnxMissing
    except ImportError:
        raise UserError("numpy is needed to read models: pip install 'flnode[learner]'") from None
    try:
        found = read_model(file, loss)
    except FileNotFoundError:
        raise UserError(f"no file at {file}") from None
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from None
    except (InvalidModelFile, OnnxMissing) as error:
        raise UserError(f"{file}: {error}") from None
    except NotConvertible as error:
        if as_json:
            print_json({"model": None, "weights": None, "notes": [], "problems": [_named(p) for p in error.problems]})
        else:
            for problem in error.problems:
                click.echo(f"  {problem}", err=True)
        count = len(error.problems)
        raise UserError(f"{file}: {count} operation{'s' * (count > 1)} that no layer does") from None
    _check_size(found.model, file)
    return found.model, found.state(manifests.BITS_DEFAULT), found.notes


def _named(problem: object) -> dict[str, str]:
    return {key: str(getattr(problem, key)) for key in ("node", "op", "reason")}


def _check_size(model: Model, file: Path) -> None:
    """What no job could have, said here rather than when it is posted."""
    fields = model.parameters()
    if sum(field.nbytes for field in fields) > STATE_BYTES_MAX or len(fields) > TENSORS_MAX:
        raise UserError(f"{file}: parameters of more than {STATE_BYTES_MAX} bytes or {TENSORS_MAX} tensors")
    size = len(msgspec.msgpack.encode(model))
    if size > manifests.MANIFEST_BYTES_MAX // 2:
        raise UserError(f"{file}: a list of layers of {size} bytes, at most {manifests.MANIFEST_BYTES_MAX // 2}")
