"""Does this machine compute as the arithmetic asks? Asked once, before the first job.

A machine that differs in one bit would lose every vote and every stake, so it had better not begin.
"""

from __future__ import annotations

import hashlib
import math
from typing import Final

import torch

from learner.data import Dataset
from learner.exact import philox
from learner.exact.loss import exp, log
from learner.manifest import BITS_MAX, Manifest, Mlp
from learner.train import Machine, initial_bytes, load_samples, train_round

GOLDEN_FUNCTIONS: Final = "d4c316f844a552362d8cffce3fab02641f045ad93c34f15289b8ec92502524c5"
GOLDEN_STATE: Final = "c5239217810b64c6b54a474f964b72469e993737a507719580bfbcde139056f1"

_SEED: Final = bytes(32)
_TRAIN, _TEST, _FEATURES, _CLASSES = 96, 8, 20, 5
_TABLE: Final = 4096


def nonconformity(machine: Machine) -> str:
    """Empty when the machine conforms, else what differs."""
    for check in (_subnormals, _saturated_product, _function_tables, _golden_run):
        if reason := check(machine):
            return reason
    return ""


def _subnormals(machine: Machine) -> str:
    tiny = torch.full((4,), 2.0**-126, device=machine.device) * 0.25
    return "" if bool((tiny * 4.0 == 2.0**-126).all()) else "subnormal numbers are flushed to zero"


def _saturated_product(machine: Machine) -> str:
    """Every limb and every sum at its largest magnitude, of both signs, over an inner size that is no round number."""
    limit, inner = 2 ** (BITS_MAX - 1) - 1, 3001
    a = torch.full((33, inner), float(limit), device=machine.device)
    b = torch.full((inner, 19), float(limit), device=machine.device)
    b[:, 1::2] = -limit
    product = machine.multiply(a, b)
    good = bool((product[:, ::2] == limit * limit * inner).all() and (product[:, 1::2] == -limit * limit * inner).all())
    return "" if good else "an integer matrix product is wrong"


def _function_tables(machine: Machine) -> str:
    u = philox.words(_SEED, "selfcheck/functions", _TABLE).to(machine.device).double()
    values = torch.cat((exp(u * -(2.0**-27)), log((u + 1.0) * 2.0**-30)))
    raw = values.cpu().view(torch.int64).tolist()
    found = hashlib.sha256(b"".join(value.to_bytes(8, "little", signed=True) for value in raw)).hexdigest()
    return "" if found == GOLDEN_FUNCTIONS else f"exp or log differs: {found}"


def _golden_run(machine: Machine) -> str:
    """Twenty steps of a small model on made-up samples."""
    manifest, dataset = golden_job()
    state = train_round(manifest, initial_bytes(manifest), load_samples(dataset, machine), _SEED, machine)
    found = hashlib.sha256(state).hexdigest()
    return "" if found == GOLDEN_STATE else f"a golden training run ended in {found}"


def golden_job() -> tuple[Manifest, Dataset]:
    """The manifest and the samples of the golden run; its batch seed is 32 zero bytes."""
    rows = _TRAIN + _TEST
    pixels = philox.words(_SEED, "selfcheck/features", rows * _FEATURES) >> 24
    labels = philox.words(_SEED, "selfcheck/labels", rows) % _CLASSES
    dataset = Dataset(
        element="uint8",
        scale=-8,
        classes=_CLASSES,
        train=_TRAIN,
        test=_TEST,
        shape=(_FEATURES,),
        labels=memoryview(b"".join(label.to_bytes(2, "little") for label in labels.tolist())),
        features=memoryview(bytes(pixels.tolist())),
    )
    data = dataset.encode()
    manifest = Manifest(
        model=Mlp((_FEATURES, 24, 16, _CLASSES)),
        dataset=hashlib.sha256(data).digest(),
        dataset_size=len(data),
        batch_size=16,
        steps=20,
        learning_rate=0.05,
        momentum=0.9,
        init_seed=_SEED,
    )
    assert math.prod(dataset.shape) == manifest.model.features
    return manifest, dataset
