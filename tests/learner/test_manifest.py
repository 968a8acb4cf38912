from __future__ import annotations

import hashlib
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import manifest as module
from learner.errors import InvalidManifest
from learner.manifest import Goal, Manifest, Mlp, decode, validated
from tests.learner.examples import digits_manifest

ROOT = Path(__file__).resolve().parents[2]
DIGESTS = st.binary(min_size=32, max_size=32)
MANIFESTS = st.builds(
    Manifest,
    model=st.builds(Mlp, st.lists(st.integers(2, 300), min_size=2, max_size=6).map(tuple)),
    dataset=DIGESTS,
    dataset_size=st.integers(1, module.DATASET_BYTES_MAX),
    batch_size=st.integers(1, module.BATCH_SIZE_MAX),
    steps=st.integers(1, module.STEPS_MAX),
    learning_rate=st.floats(0, module.LEARNING_RATE_MAX, exclude_min=True),
    momentum=st.floats(0, 1, exclude_max=True).map(abs),
    bits=st.integers(module.BITS_MIN, module.BITS_MAX),
    init_seed=DIGESTS,
    goal=st.none() | st.builds(Goal, st.floats(0, 1, exclude_min=True)),
)


@given(MANIFESTS)
@settings(max_examples=50, deadline=None)
def test_a_manifest_survives_its_bytes_and_is_named_by_them(manifest: Manifest) -> None:
    raw = manifest.encode()
    assert decode(raw) == manifest
    assert manifest.digest() == hashlib.sha256(raw).digest()
    assert len(raw) <= module.MANIFEST_BYTES_MAX


@given(MANIFESTS, st.data())
@settings(max_examples=100, deadline=None)
def test_a_changed_byte_gives_another_manifest_or_a_typed_error(manifest: Manifest, data: Any) -> None:
    raw = bytearray(manifest.encode())
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] ^= data.draw(st.integers(1, 255))
    try:
        changed = decode(bytes(raw))
    except InvalidManifest:
        return
    assert changed != manifest
    assert changed.encode() == raw


@given(st.binary(max_size=200))
@settings(max_examples=100, deadline=None)
def test_garbage_is_no_manifest(garbage: bytes) -> None:
    with pytest.raises(InvalidManifest):
        decode(garbage)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"version": 2}, "version"),
        ({"batch_size": 0}, "batch_size"),
        ({"steps": module.STEPS_MAX + 1}, "steps"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": math.nan}, "learning_rate"),
        ({"learning_rate": math.inf}, "learning_rate"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": -0.0}, "momentum"),
        ({"bits": 15}, "bits"),
        ({"bits": 3}, "bits"),
        ({"dataset": bytes(31)}, "dataset"),
        ({"dataset_size": 0}, "dataset_size"),
        ({"init_seed": bytes(33)}, "init_seed"),
        ({"goal": {"at_least": 1.5, "metric": "accuracy"}}, "goal.at_least"),
        ({"goal": {"at_least": math.nan, "metric": "accuracy"}}, "goal.at_least"),
        ({"goal": {"at_least": 0.5, "metric": "speed"}}, "goal.metric"),
        ({"model": {"kind": "mlp", "sizes": [64]}}, "model.sizes"),
        ({"model": {"kind": "mlp", "sizes": [64, 0, 10]}}, "model.sizes[1]"),
        ({"model": {"kind": "mlp", "sizes": [64, 1]}}, "model.sizes[1]"),
        ({"model": {"kind": "mlp", "sizes": [65536, 65536]}}, "model.sizes"),
        ({"model": {"kind": "oracle", "sizes": [64, 10]}}, "model.kind"),
    ],
)
def test_a_field_out_of_bounds_is_named(change: dict[str, Any], field: str) -> None:
    fields = msgspec.msgpack.decode(digits_manifest().encode()) | change
    with pytest.raises(InvalidManifest) as caught:
        decode(msgspec.msgpack.encode(fields))
    assert caught.value.field == field


def test_missing_unknown_and_reordered_fields_are_refused() -> None:
    fields = msgspec.msgpack.decode(digits_manifest().encode())
    for wrong in (
        {name: value for name, value in fields.items() if name != "steps"},
        fields | {"optimizer": "adam"},
        dict(reversed(fields.items())),
        fields | {"learning_rate": 1},
    ):
        with pytest.raises(InvalidManifest):
            decode(msgspec.msgpack.encode(wrong))


def test_a_manifest_that_is_too_long_is_refused_unread() -> None:
    with pytest.raises(InvalidManifest, match="bytes, at most"):
        decode(bytes(module.MANIFEST_BYTES_MAX + 1))


def test_validated_turns_whole_numbers_into_the_canonical_floats() -> None:
    manifest = validated(msgspec.structs.replace(digits_manifest(), learning_rate=1, momentum=0))
    assert decode(manifest.encode()) == manifest
    assert isinstance(manifest.learning_rate, float)


def test_the_goal_is_reached_at_exactly_its_ratio() -> None:
    assert not Goal(0.95).reached(341, 360)
    assert Goal(0.95).reached(342, 360)


def test_manifests_and_the_pool_need_neither_torch_nor_numpy() -> None:
    program = (
        "import sys, learner.manifest, learner.canonical, learner.data, learner.protocol, node.learner_pool\n"
        "learner.data.digits()\n"
        "print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
