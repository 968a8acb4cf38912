"""Manifests and datasets for the tests of this room and of the learner pool. Needs no torch."""

from __future__ import annotations

import hashlib
from typing import Any

from learner import data
from learner.data import Dataset
from learner.manifest import Goal, Manifest, validated
from learner.presets import mlp

DIGITS = data.digits()


def digits_manifest(**changes: Any) -> Manifest:
    """The job of the demonstration: reaches its goal in about ten rounds."""
    fields: dict[str, Any] = {
        "model": mlp((64, 64, 10)),
        "dataset": data.DIGITS_DIGEST,
        "dataset_size": len(DIGITS),
        "batch_size": 32,
        "steps": 30,
        "learning_rate": 0.01,
        "momentum": 0.9,
        "init_seed": bytes(32),
        "goal": Goal(0.95),
    }
    return validated(Manifest(**fields | changes))


def small_dataset(**changes: Any) -> Dataset:
    """Six samples of 2x2 pixels in three classes, four of them for training."""
    fields: dict[str, Any] = {
        "element": "uint8",
        "scale": -8,
        "classes": 3,
        "train": 4,
        "test": 2,
        "shape": (2, 2),
        "labels": memoryview(bytes([0, 0, 1, 0, 2, 0, 0, 0, 1, 0, 2, 0])),
        "features": memoryview(bytes(range(10, 250, 10))),
    }
    return Dataset(**fields | changes)


def sha256(content: bytes) -> str:
    """Hexadecimal digest."""
    return hashlib.sha256(content).hexdigest()
