"""The model of a job file: a preset with its sizes, or a JSON file that lists the layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from cli.errors import UserError
from learner import presets
from learner.architecture import WIDTH_MAX, Model
from learner.canonical import STATE_BYTES_MAX, split
from learner.errors import InvalidManifest, InvalidState
from learner.manifest import MANIFEST_BYTES_MAX

STATE_SUFFIX: Final = ".flstate"  # of a file of weights, as `flnode manifest from-torch` writes it

# key -> (type, default); a preset says which of them it needs or takes
KEYS: Final[Mapping[str, tuple[type, Any]]] = {
    "sizes": (list, None),
    "input": (list, None),
    "classes": (int, None),
    "channels": (list, None),
    "hidden": (int, None),
    "width": (int, None),
    "heads": (int, None),
    "blocks": (int, None),
    "causal": (bool, None),
}


@dataclass(frozen=True, slots=True)
class Preset:
    """What makes a model from the keys of a job file."""

    needs: tuple[str, ...]
    takes: tuple[str, ...]
    build: Callable[..., Model]
    about: str


def _from_two(build: Callable[[int, int], Model]) -> Callable[..., Model]:
    def from_sizes(sizes: list[int]) -> Model:
        if len(sizes) != 2:
            raise _Mistake("sizes", "expected two numbers: features and classes")
        return build(*sizes)

    return from_sizes


def _mlp(sizes: list[int]) -> Model:
    if len(sizes) < 2:
        raise _Mistake("sizes", "expected at least two numbers, from the features to the classes")
    return presets.mlp(sizes)


PRESETS: Final[Mapping[str, Preset]] = {
    "mlp": Preset(("sizes",), (), _mlp, "linear layers with ReLU between them"),
    "logistic_regression": Preset(("sizes",), (), _from_two(presets.logistic_regression), "one linear layer"),
    "linear_regression": Preset(
        ("sizes",), (), _from_two(presets.linear_regression), "one output, as near the label's number as it can be"
    ),
    "cnn": Preset(
        ("input", "classes"), ("channels", "hidden"),
        lambda input, classes, **rest: presets.cnn(input, classes, **rest), "3x3 convolutions, then two linear layers",
    ),
    "transformer": Preset(
        ("input", "classes"), ("width", "heads", "blocks", "causal"),
        lambda input, classes, **rest: presets.transformer(input, classes, **rest), "attention over rows of numbers",
    ),
}  # fmt: skip


class _Mistake(Exception):
    """A key and what is wrong with it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(reason)
        self.key, self.reason = key, reason


def build(job: Mapping[str, Any], folder: Path, source: str) -> Model:
    """The model that a job's table asks for; its layers are not checked against each other here.

    Args:
        job: with every key of KEYS, None where it was left out, and `model`.
        folder: where the name of a file of layers begins.
    Raises:
        UserError: names the key.
    """
    name = job["model"]
    given = {key: job[key] for key in KEYS if job[key] is not None}
    try:
        if name.endswith(".json"):
            if given:
                raise _Mistake(next(iter(given)), "not together with a file of layers")
            return _read(folder / name)
        if name not in PRESETS:
            raise _Mistake("model", f"unknown model {name!r} (known: {', '.join(PRESETS)}, or a .json file of layers)")
        preset = PRESETS[name]
        for key in preset.needs:
            if key not in given:
                raise _Mistake(key, f"missing; the model {name} needs it")
        for key, value in given.items():
            if key not in preset.needs + preset.takes:
                raise _Mistake(key, f"the model {name} does not take it")
            _check(key, value)
        return preset.build(**given)
    except _Mistake as error:
        raise UserError(f"`{error.key}` in [job] of {source}: {error.reason}") from None


def weights(named: str | None, model: Model, folder: Path, source: str) -> str | None:
    """What the key `weights` says; the name of a file, checked against the model, as its whole path.

    Raises:
        UserError.
    """
    if named is None or not named.endswith(STATE_SUFFIX):
        return named
    path = (folder / named).resolve()
    try:
        if path.stat().st_size > STATE_BYTES_MAX:
            raise InvalidState(f"more than {STATE_BYTES_MAX} bytes")
        check_state(path.read_bytes(), model)
    except OSError as error:
        raise UserError(f"`weights` in [job] of {source}: cannot read {path}: {error.strerror}") from None
    except (InvalidState, InvalidManifest) as error:
        raise UserError(f"`weights` in [job] of {source}: {path}: {error}") from None
    return str(path)


def check_state(state: bytes, model: Model) -> None:
    """Are the parameters of a state those of the model? The learner looks at their values.

    Raises:
        InvalidState, InvalidManifest.
    """
    _, parts = split(state)
    found = {field.name: field.shape for field, _ in parts if field.name.startswith("parameter/")}
    wanted = {f"parameter/{field.name}": field.shape for field in model.parameters()}
    for name in sorted(found.keys() | wanted.keys()):
        if found.get(name) != wanted.get(name):
            has, needs = (list(each[name]) if name in each else "none" for each in (found, wanted))
            raise InvalidState(f"{name}: the model needs {needs}, the file has {has}")


def _check(key: str, value: Any) -> None:
    if isinstance(value, bool):
        return
    numbers = value if isinstance(value, list) else [value]
    if not all(type(number) is int for number in numbers):
        raise _Mistake(key, "expected a list of whole numbers")
    for index, number in enumerate(numbers):
        if not 1 <= number <= WIDTH_MAX:
            place = f"{key}[{index}]" if isinstance(value, list) else key
            raise _Mistake(place, f"expected 1 to {WIDTH_MAX}, got {number}")


def read(path: Path) -> Model:
    """The layers that a file lists, checked against each other.

    Raises:
        UserError.
    """
    try:
        model = _read(path)
        model.placed()
    except _Mistake as error:
        raise UserError(str(error)) from None
    except InvalidManifest as error:
        raise UserError(f"{path}: {error.field}: {error.reason}") from None
    return model


def _read(path: Path) -> Model:
    try:
        if path.stat().st_size > MANIFEST_BYTES_MAX:
            raise _Mistake("model", f"{path} is larger than {MANIFEST_BYTES_MAX} bytes")
        return msgspec.json.decode(path.read_bytes(), type=Model)
    except OSError as error:
        raise _Mistake("model", f"cannot read {path}: {error.strerror}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _Mistake("model", f"{path} does not list layers: {error}") from None
