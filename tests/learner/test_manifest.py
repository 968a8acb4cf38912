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

from learner import architecture, presets
from learner import manifest as module
from learner.batch_list import BATCH_LIST_BYTES_MAX
from learner.errors import InvalidManifest
from learner.manifest import Adam, Batches, Goal, Manifest, Weights, decode, validated
from tests.learner.examples import digits_manifest


def plain(model: architecture.Model) -> Any:
    return msgspec.msgpack.decode(msgspec.msgpack.encode(model))


def listing(manifest: Manifest, rounds: int) -> Manifest:
    """The manifest with batches for so many rounds, if that is not too much."""
    size = 20 + 4 * rounds * manifest.steps * manifest.batch_size
    if not rounds or size > BATCH_LIST_BYTES_MAX:
        return manifest
    return msgspec.structs.replace(manifest, batches=Batches(bytes(32), size))


ROOT = Path(__file__).resolve().parents[2]
DIGESTS = st.binary(min_size=32, max_size=32)
MANIFESTS = st.builds(
    Manifest,
    model=st.one_of(
        st.lists(st.integers(2, 300), min_size=2, max_size=6).map(presets.mlp),
        st.builds(presets.cnn, st.just((3, 9, 8)), st.integers(2, 10), st.sampled_from([(), (3,), (4, 5)])),
        st.builds(presets.transformer, st.just((5, 7)), st.just(3), st.sampled_from([4, 8]), causal=st.booleans()),
        st.builds(presets.linear_regression, st.integers(1, 9), st.integers(2, 9), st.integers(-9, 9)),
    ),
    dataset=DIGESTS,
    dataset_size=st.integers(1, module.DATASET_BYTES_MAX),
    batch_size=st.integers(1, module.BATCH_SIZE_MAX),
    steps=st.integers(1, module.STEPS_MAX),
    learning_rate=st.floats(0, module.LEARNING_RATE_MAX, exclude_min=True),
    momentum=st.floats(0, 0.999).map(abs),
    weight_decay=st.floats(0, 1).map(abs),
    adam=st.none() | st.builds(Adam, st.floats(0.1, 0.999), st.floats(1e-12, 1)),
    weights=st.none() | st.builds(Weights, DIGESTS, st.integers(1, 99)),
    bits=st.integers(module.BITS_MIN, module.BITS_MAX),
    init_seed=DIGESTS,
    goal=st.none() | st.builds(Goal, st.floats(0, 1, exclude_min=True)),
).flatmap(lambda each: st.integers(0, 9).map(lambda rounds: listing(each, rounds)))


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
        ({"weight_decay": -0.0}, "weight_decay"),
        ({"adam": {"beta2": 1.0 - 1e-12, "epsilon": 1e-8}}, "adam.beta2"),
        ({"adam": {"beta2": 0.9, "epsilon": 1e-60}}, "adam.epsilon"),
        ({"adam": {"beta2": 0.9, "epsilon": 1e-8}, "momentum": 1.0 - 1e-12}, "momentum"),
        ({"weights": {"digest": bytes(32), "size": 0}}, "weights.size"),
        ({"batches": None}, "batches"),
        ({"batches": {"digest": bytes(32), "size": 20 + 4 * 30 * 32 + 1}}, "batches.size"),
        ({"batches": {"digest": bytes(32), "size": 20}}, "batches.size"),
        ({"batches": {"digest": bytes(32), "size": BATCH_LIST_BYTES_MAX + 1}}, "batches.size"),
        ({"steps": 100_000, "batch_size": 65_536, "model": plain(presets.mlp((64, 1000, 1000)))}, "steps"),
        ({"batch_size": 65_536, "model": plain(presets.cnn((1, 99, 99), 10))}, "model.layers[0]"),
        ({"batch_size": 4096, "model": plain(presets.transformer((900, 9), 10, 32, 32, 1))}, "batch_size"),
    ],
)
def test_a_field_out_of_bounds_is_named(change: dict[str, Any], field: str) -> None:
    fields = msgspec.msgpack.decode(digits_manifest().encode()) | change
    with pytest.raises(InvalidManifest) as caught:
        decode(msgspec.msgpack.encode(fields))
    assert caught.value.field == field


LINEAR, RELU = {"kind": "linear", "outputs": 10}, {"kind": "relu"}


@pytest.mark.parametrize(
    ("layers", "shape", "place", "reason"),
    [
        ([], [64], "model.layers", "length >= 1"),
        ([{"kind": "oracle"}], [64], "model.layers[0].kind", "Invalid value 'oracle'"),
        ([LINEAR | {"rows": 3}], [64], "model.layers[0]", "unknown field `rows`"),
        ([LINEAR | {"outputs": 0}], [64], "model.layers[0].outputs", ">= 1"),
        ([LINEAR | {"outputs": 2**40}], [64], "model.layers[0].outputs", "<= 65536"),
        ([LINEAR | {"outputs": 1}], [64], "model.layers[0]", "at least 2 outputs"),
        ([LINEAR], [8, 8], "model.layers[0]", "ends with the shape [8, 10]: add a flatten layer"),
        ([LINEAR | {"outputs": 65_536}], [65_536], "model", "a state of 34360262778 bytes"),
        ([RELU] * 65, [64], "model.layers", "length <= 64"),
        ([{"kind": "residual", "layers": [RELU] * 64}], [64], "model.layers[0].layers[63]", "more than 64 layers"),
        ([{"kind": "residual", "layers": [LINEAR]}], [64], "model.layers[0]", "gets [64], its layers give [10]"),
        ([{"kind": "residual", "layers": []}], [64], "model.layers[0].layers", "length >= 1"),
        ([{"kind": "conv2d", "channels": 2, "kernel": 3}], [64], "model.layers[0]", "[channels, height, width], gets"),
        ([{"kind": "conv2d", "channels": 2, "kernel": 9}], [1, 8, 8], "model.layers[0]", "at least 9 x 9"),
        ([{"kind": "conv2d", "channels": 2, "kernel": 2, "padding": 2}], [1, 8, 8], "model.layers[0]", "padding below"),
        ([RELU, {"kind": "max_pool", "size": 2, "stride": 0}], [1, 8, 8], "model.layers[1].stride", ">= 1"),
        ([RELU, {"kind": "embedding", "entries": 9, "width": 2}], [64], "model.layers[1]", "only as the first layer"),
        ([{"kind": "embedding", "entries": 9, "width": 2}], [8, 8], "model.layers[0]", "needs [tokens], gets [8, 8]"),
        ([{"kind": "attention", "heads": 3}], [8, 8], "model.layers[0]", "a width that 3 heads divide, gets [8, 8]"),
        ([{"kind": "position"}], [64], "model.layers[0]", "needs [tokens, width], gets [64]"),
        ([{"kind": "attention", "heads": 64}], [65_536, 64], "model.layers[0]", "at most 67108864 numbers"),
    ],
)
def test_a_layer_that_cannot_stand_where_it_stands_is_named(
    layers: list[dict[str, Any]], shape: list[int], place: str, reason: str
) -> None:
    fields = msgspec.msgpack.decode(digits_manifest().encode())
    fields["model"] = {"input": shape, "layers": layers, "loss": {"kind": "cross_entropy"}}
    with pytest.raises(InvalidManifest) as caught:
        decode(msgspec.msgpack.encode(fields))
    assert caught.value.field == place
    assert reason in caught.value.reason


def test_residual_layers_nest_only_so_deep() -> None:
    layer: dict[str, Any] = RELU
    for _ in range(5):
        layer = {"kind": "residual", "layers": [layer]}
    fields = msgspec.msgpack.decode(digits_manifest().encode())
    for nested in (layer, {"kind": "residual", "layers": [layer] * 2}):
        fields["model"]["layers"] = [nested]
        with pytest.raises(InvalidManifest, match="nested more than 4 deep"):
            decode(msgspec.msgpack.encode(fields))
    bomb = b"\x91" * 10_000
    with pytest.raises(InvalidManifest):
        decode(bomb)


@pytest.mark.parametrize(
    ("loss", "outputs", "place"),
    [
        ({"kind": "mean_squared_error", "levels": 1}, 1, "model.loss.levels"),
        ({"kind": "mean_squared_error", "levels": 5}, 2, "model.layers[0]"),
        ({"kind": "mean_squared_error", "scale": 3}, 10, "model.loss.scale"),
        ({"kind": "mean_squared_error", "levels": 70_000}, 1, "model.loss.levels"),
        ({"kind": "hinge"}, 10, "model.loss.kind"),
    ],
)
def test_a_loss_that_does_not_fit_is_named(loss: dict[str, Any], outputs: int, place: str) -> None:
    fields = msgspec.msgpack.decode(digits_manifest().encode())
    fields["model"] = {"input": [64], "layers": [{"kind": "linear", "outputs": outputs}], "loss": loss}
    with pytest.raises(InvalidManifest) as caught:
        decode(msgspec.msgpack.encode(fields))
    assert caught.value.field == place


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


def test_a_manifest_without_listed_batches_has_the_digest_that_it_had_before_there_were_any() -> None:
    assert digits_manifest().digest().hex() == "9a0280bc436eac0e2a8955d6dcb4ba485882562ba956e20e331db7c36081d951"
    assert digits_manifest().rounds_listed is None
    listed = digits_manifest(batches=Batches(bytes(32), 20 + 7 * 4 * 30 * 32))
    assert listed.rounds_listed == 7
    assert listed.digest() != digits_manifest().digest()


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
