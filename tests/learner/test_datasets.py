from __future__ import annotations

import array
import hashlib
import math
import struct
from collections import Counter

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import data
from learner.card import Card
from learner.data import Dataset, decode
from learner.errors import InvalidDataset
from learner.presets import mlp
from learner.train import CPU, load_samples
from tests.learner import numpy_twin as twin
from tests.learner.examples import DIGITS, digits_manifest, small_dataset


def test_the_built_in_digits_are_those_of_the_uci_repository() -> None:
    digits = decode(DIGITS)
    assert hashlib.sha256(DIGITS).digest() == data.DIGITS_DIGEST
    assert (digits.train, digits.test, digits.shape, digits.classes) == (1437, 360, (8, 8), 10)
    labels = Counter(array.array("H", bytes(digits.labels)))
    assert [labels[digit] for digit in range(10)] == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert max(digits.features) == 16
    # The file's first sample, a zero, comes back to its place when the shuffle of data_files/README.md is undone.
    place = twin.permutation(bytes(32), "split", 1797).tolist().index(0)
    first = list(digits.features[64 * place : 64 * place + 16])
    assert first == [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]


def test_damaged_built_in_digits_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "DIGITS_DIGEST", bytes(32))
    with pytest.raises(InvalidDataset, match="damaged"):
        data.digits()


def test_pixels_become_exact_fractions() -> None:
    samples = load_samples(decode(DIGITS), CPU)
    features, labels, train = twin.dataset(DIGITS)
    assert np.array_equal(samples.features.numpy(), features)
    assert np.array_equal(samples.labels.numpy(), labels)
    assert samples.train == train
    assert float(samples.features.max()) == 1.0


@given(
    st.integers(1, 5),
    st.integers(1, 3),
    st.lists(st.integers(1, 3), min_size=1, max_size=4).map(tuple),
    st.sampled_from(["uint8", "float32"]),
    st.integers(2, 400),
)
@settings(max_examples=50, deadline=None)
def test_a_dataset_survives_its_bytes(
    train: int, test: int, shape: tuple[int, ...], element: str, classes: int
) -> None:
    numbers = (train + test) * math.prod(shape)
    labels = struct.pack(f"<{train + test}H", *(i % classes for i in range(train + test)))
    features = (
        bytes(i % 256 for i in range(numbers)) if element == "uint8" else struct.pack(f"<{numbers}f", *range(numbers))
    )
    dataset = Dataset(
        element=element,  # type: ignore[arg-type]
        scale=-3 if element == "uint8" else 0,
        classes=classes,
        train=train,
        test=test,
        shape=shape,
        labels=memoryview(labels),
        features=memoryview(features),
    )
    assert decode(dataset.encode()) == dataset
    assert load_samples(dataset, CPU).features.shape == (train + test, math.prod(shape))


CARD = Card(label="kind", classes=("a", "b", "c"), columns=("n", "e", "s", "w"), scale=(0.5,))


def test_a_dataset_with_a_card_has_the_same_samples_for_both_implementations() -> None:
    bare, carded = small_dataset(), small_dataset(raw_card=CARD.encode())
    assert (decode(bare.encode()).card, decode(carded.encode()).card) == (None, CARD)
    samples = load_samples(decode(carded.encode()), CPU)
    features, labels, train = twin.dataset(carded.encode())
    assert np.array_equal(samples.features.numpy(), features)
    assert np.array_equal(features, twin.dataset(bare.encode())[0])
    assert (labels.tolist(), train) == ([0, 1, 2, 0, 1, 2], 4)


@pytest.mark.parametrize(
    ("raw_card", "words"),
    [
        (b"\xc1", "cannot be read"),
        (CARD.encode() + b"\0", "cannot be read"),
        (msgspec.msgpack.encode({"label": "kind", "classes": ["a", "b", "c"]}), "not in canonical form"),
        (msgspec.structs.replace(CARD, classes=("a", "b")).encode(), "does not fit"),
        (msgspec.structs.replace(CARD, columns=("a",)).encode(), "does not fit"),
        (msgspec.structs.replace(CARD, shift=(0.0, 0.0, 0.0, math.nan)).encode(), "not finite"),
        (msgspec.structs.replace(CARD, classes=("a", "b", "\x1b[2J")).encode(), "none of control"),
        (msgspec.structs.replace(CARD, label="x" * 201).encode(), "at most 200 characters"),
    ],
)
def test_a_strangers_card_is_read_only_if_it_is_one_and_the_samples_need_it_not(raw_card: bytes, words: str) -> None:
    dataset = decode(small_dataset(raw_card=raw_card).encode())
    assert load_samples(dataset, CPU).features.shape == (6, 4)
    with pytest.raises(InvalidDataset, match=words):
        dataset.card  # noqa: B018 (reading it is what fails)


@given(st.data(), st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_damaged_dataset_is_seen_or_refused(draw: st.DataObject, carded: bool) -> None:
    raw = small_dataset(raw_card=CARD.encode() if carded else b"").encode()
    damaged = bytearray(raw)
    damaged[draw.draw(st.integers(0, len(raw) - 1))] ^= draw.draw(st.integers(1, 255))
    for wrong in (bytes(damaged), raw[: draw.draw(st.integers(0, len(raw) - 1))], draw.draw(st.binary(max_size=80))):
        try:
            assert decode(wrong).encode() == wrong
        except InvalidDataset:
            continue


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"classes": 2}, "label 2"),
        ({"classes": 1}, "1 classes"),
        ({"scale": 31}, "scale 31"),
        ({"element": "float32"}, "scale -8"),
        ({"element": "float32", "scale": 0}, "the header says"),
        ({"train": 5}, "the header says"),
        ({"train": 6, "test": 0}, "needs a training sample"),
        ({"shape": ()}, "sample shape"),
        ({"shape": (4, 0)}, "sample shape"),
        ({"shape": (1, 1, 2, 2, 1)}, "sample shape"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidDataset, match=words):
        small_dataset(**changes).encode()


def test_each_way_for_bytes_to_be_wrong_has_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = small_dataset().encode()
    cases = {
        "inside the header": raw[:10],
        "magic": b"x" + raw[1:],
        "element 3": raw[:8] + b"\3" + raw[9:],
        "rank 5": raw[:20] + b"\5" + raw[21:],
        "the header says": raw + b"\0",
        "a card of 0 bytes": b"fldata02" + raw[8:29] + bytes(4) + raw[29:],
        "a card of 8388609 bytes": b"fldata02" + raw[8:29] + (8388609).to_bytes(4, "little") + raw[29:],
    }
    for words, wrong in cases.items():
        with pytest.raises(InvalidDataset, match=words):
            decode(wrong)
    monkeypatch.setattr(data, "DATASET_BYTES_MAX", 10)
    with pytest.raises(InvalidDataset, match="at most 10"):
        decode(raw)


@pytest.mark.parametrize(("value", "words"), [(math.nan, "not finite"), (math.inf, "not finite"), (-0.0, "minus zero")])
def test_float_features_must_be_canonical_numbers(value: float, words: str) -> None:
    features = struct.pack("<24f", *range(23), value)
    dataset = decode(small_dataset(element="float32", scale=0, features=memoryview(features)).encode())
    with pytest.raises(InvalidDataset, match=words):
        load_samples(dataset, CPU)


def test_a_dataset_that_does_not_fit_the_manifest_is_refused() -> None:
    digits = decode(DIGITS)
    digits.check_fits(digits_manifest(batch_size=1437))
    for manifest, words in (
        (digits_manifest(model=mlp((63, 10))), "64 features"),
        (digits_manifest(model=mlp((64, 9))), "10 classes"),
        (digits_manifest(batch_size=1438), "less than one batch"),
    ):
        with pytest.raises(InvalidDataset, match=words):
            digits.check_fits(manifest)
