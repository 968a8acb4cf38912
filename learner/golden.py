"""What is computed to see whether a machine conforms: products, function tables and training runs, by name.

Each check gives bytes; what their sha2-256 must be is in data_files/golden.json, which
`python -m learner.conformance --write` makes again, with the reference backend on the CPU. A new preset, backend or
function joins the list of its kind here and is then part of the start of every worker and of `flnode conformance`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from learner import presets
from learner.architecture import Model
from learner.data import Dataset
from learner.exact import philox
from learner.exact.backends.choose import REFERENCE
from learner.exact.functions import exp, exp32, log, sqrt32
from learner.exact.integers import Arithmetic
from learner.exact.loss import cross_entropy, cross_entropy_gradient
from learner.machine import Machine
from learner.manifest import BITS_MAX, BITS_MIN, Manifest
from learner.train import initial_bytes, load_samples, train_round

GOLDEN_PATH: Final = Path(__file__).parent / "data_files" / "golden.json"
SEED: Final = bytes(32)  # of every stream and every batch

_LIMIT: Final = 2 ** (BITS_MAX - 1) - 1
_TABLE: Final = 4096
_PERIOD: Final = 4093  # a prime: rows of a matrix begin at different places of the period


@dataclass(frozen=True, slots=True)
class Product:
    """a [rows, inner] times b [inner, columns], integers within +-(2**13 - 1).

    Attributes:
        numbers: how to fill a matrix: (rows, columns, label) -> float32.
        transposed: both operands are views of matrices that lie the other way in memory, as gradients' are.
    """

    rows: int
    inner: int
    columns: int
    numbers: Callable[[int, int, str], Tensor]
    transposed: bool = False


def _largest(rows: int, columns: int, label: str) -> Tensor:
    """Every sum at its largest magnitude, of both signs by column."""
    matrix = torch.full((rows, columns), float(_LIMIT))
    matrix[:, 1::2] = -_LIMIT
    return matrix if label == "b" else matrix.abs()


def _limbs(rows: int, columns: int, label: str) -> Tensor:
    """Both 7-bit limbs at their ends, or at the ties between them: where int8 hardware saturates, if it does."""
    ends = torch.tensor([8191, -8191, 8128, -8128, 8127, -8127, 192, -192, 64, -64, 63, -63, 1, -1, 0, 4032])
    chosen = philox.words(SEED, f"golden/limbs/{label}", _PERIOD) % len(ends)
    return ends[chosen.repeat(-(-rows * columns // _PERIOD))[: rows * columns]].view(rows, columns).float()


def _cancelling(rows: int, columns: int, label: str) -> Tensor:
    """Long sums of large products that end below 2**24: the float32 result shows their last bit."""
    if label == "a":
        half = _limbs(rows, columns // 2, label)
        return torch.cat((half, half), 1)
    half = _limbs(rows // 2, columns, label).clamp(-_LIMIT + 1, _LIMIT - 1)
    odd = (torch.arange(half.numel()).view(half.shape) % 97 == 0).float()
    return torch.cat((half, odd - half))


def _saturating(rows: int, columns: int, label: str) -> Tensor:
    """8128 = 128 * 64 - 64 everywhere: each pair of neighbouring products is the largest there is."""
    return torch.full((rows, columns), 8128.0 if label == "a" else -8128.0)


def _uniform(rows: int, columns: int, label: str) -> Tensor:
    words = philox.words(SEED, f"golden/uniform/{label}", rows * columns)
    return (words % (2 * _LIMIT + 1) - _LIMIT).view(rows, columns).float()


PRODUCTS: Final = {
    "largest": Product(33, 3001, 19, _largest),
    "cancelling": Product(40, 2000, 24, _cancelling),
    "limbs": Product(40, 1000, 24, _limbs),
    "saturating": Product(48, 2048, 32, _saturating),
    "one": Product(1, 1, 1, _largest),
    "row": Product(1, 777, 130, _uniform),
    "uniform": Product(130, 784, 65, _uniform),
    "transposed": Product(65, 130, 784, _uniform, transposed=True),
    "long": Product(4, 2**17 + 3, 3, _limbs),  # longer than an int32 sum of limb products may be
}


def product(machine: Machine, name: str) -> Tensor:
    """One of PRODUCTS by the machine's backend: float32, the exact integers rounded once."""
    case = PRODUCTS[name]
    a, b = case.numbers(case.rows, case.inner, "a"), case.numbers(case.inner, case.columns, "b")
    if case.transposed:
        a, b = a.t().contiguous().t(), b.t().contiguous().t()
    backend = machine.backend or REFERENCE
    return backend.product(*(backend.cut(each.to(machine.device), _LIMIT) for each in (a, b)), 0)


def _uniform_words(machine: Machine) -> Tensor:
    return philox.words(SEED, "golden/functions", _TABLE).to(machine.device).double()


def _subnormals(machine: Machine) -> Tensor:
    tiny = torch.full((4,), 2.0**-126, device=machine.device)
    return torch.cat((tiny * 0.25, tiny * 0.25 * 4.0, tiny - tiny * 0.5))


def _single_operations(machine: Machine) -> Tensor:
    """+ - * / of float32 over many magnitudes: rounded to nearest even, divisions that divide."""
    a, b = _magnitudes(machine, "a"), _magnitudes(machine, "b")
    return torch.cat((a + b, a - b, a * b * 2.0**-30, a / b, torch.round(a)))


def _magnitudes(machine: Machine, label: str) -> Tensor:
    """float32 from 2**-20 to 2**20 and of both signs."""
    values = philox.uniform(SEED, f"golden/values/{label}", _TABLE, 1.0)
    exponents = philox.words(SEED, f"golden/exponents/{label}", _TABLE) % 41 - 20
    return torch.ldexp(values, exponents.to(torch.int32)).to(machine.device)


def _quantise(machine: Machine) -> Tensor:
    values = _magnitudes(machine, "quantise").view(64, -1)
    found = []
    for bits in range(BITS_MIN, BITS_MAX + 1):
        for row in values:
            quantised = Arithmetic(bits, REFERENCE).integers(row)
            found += [quantised.values, torch.full((1,), float(quantised.scale), device=machine.device)]
    return torch.cat(found)


def _cross_entropy(machine: Machine) -> Tensor:
    logits = _magnitudes(machine, "logits").view(-1, 16)
    labels = torch.arange(len(logits), device=machine.device) % 16
    gradient = cross_entropy_gradient(logits, labels).double().flatten()
    return torch.cat((gradient, torch.full((1,), cross_entropy(logits, labels), dtype=torch.float64).to(gradient)))


FUNCTIONS: Final[dict[str, Callable[[Machine], Tensor]]] = {
    "subnormals": _subnormals,
    "operations": _single_operations,
    "exp": lambda machine: exp(_uniform_words(machine) * -(2.0**-27)),
    "exp32": lambda machine: exp32(_magnitudes(machine, "exp32")),
    "sqrt": lambda machine: sqrt32(_magnitudes(machine, "sqrt").abs()),
    "log": lambda machine: log((_uniform_words(machine) + 1.0) * 2.0**-30),
    "quantise": _quantise,
    "cross_entropy": _cross_entropy,
}


@dataclass(frozen=True, slots=True)
class Preset:
    """A model, and samples of its shape: `train` of them made up, in so many classes."""

    model: Model
    shape: tuple[int, ...]
    classes: int
    train: int = 96


PRESETS: Final = {
    "mlp": Preset(presets.mlp((20, 24, 16, 5)), (20,), 5),
    "linear_regression": Preset(presets.linear_regression(20, 5), (20,), 5),
    "logistic_regression": Preset(presets.logistic_regression(20, 5), (20,), 5),
    "cnn": Preset(presets.cnn((2, 9, 8), 5, (4, 6), 12), (2, 9, 8), 5),
    "transformer": Preset(presets.transformer((6, 5), 5, 8, 2, 1, causal=True), (6, 5), 5),
}
_STEPS: Final = 20


def golden_job(name: str) -> tuple[Manifest, Dataset]:
    """The manifest and the samples of a preset's run of 20 steps; its batch seed is SEED."""
    return made_up_job(name, PRESETS[name], _STEPS)


def made_up_job(name: str, preset: Preset, steps: int, batch_size: int = 16) -> tuple[Manifest, Dataset]:
    """A manifest, and samples from the streams of a name."""
    test = 8
    rows, features = preset.train + test, math.prod(preset.shape)
    pixels = philox.words(SEED, f"golden/{name}/features", rows * features) >> 24
    labels = philox.words(SEED, f"golden/{name}/labels", rows) % preset.classes
    dataset = Dataset(
        element="uint8",
        scale=-8,
        classes=preset.classes,
        train=preset.train,
        test=test,
        shape=preset.shape,
        labels=memoryview(b"".join(label.to_bytes(2, "little") for label in labels.tolist())),
        features=memoryview(bytes(pixels.tolist())),
    )
    manifest = Manifest(
        model=preset.model,
        dataset=SEED,
        dataset_size=len(dataset.encode()),
        batch_size=batch_size,
        steps=steps,
        learning_rate=0.05,
        momentum=0.9,
        init_seed=SEED,
    )
    dataset.check_fits(manifest)
    return manifest, dataset


def run(machine: Machine, name: str) -> bytes:
    """The state after a preset's run."""
    manifest, dataset = golden_job(name)
    return train_round(manifest, initial_bytes(manifest), load_samples(dataset, machine), SEED, machine)


def recorded() -> dict[str, str]:
    """What every check must find, by name."""
    found: dict[str, str] = json.loads(GOLDEN_PATH.read_text(encoding="utf-8"))
    return found
