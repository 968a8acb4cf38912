"""Files of a person's own as datasets: the rules of docs/DATA.md, and every mistake in one line."""

from __future__ import annotations

import array
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner import convert, npz
from learner.card import Card
from learner.data import Dataset, decode
from learner.errors import InvalidDataset
from learner.evaluate import predict
from learner.npz import NumpyMissing, read_npz
from learner.protocol import Predict
from learner.table import read_features, read_labelled
from learner.train import CPU, initial_bytes, load_samples
from learner.workbench import Workbench
from tests.learner.examples import DIGITS, digits_manifest

GOLDEN = "7d6064ae5e185e9f1352d9cc90e42d331b7ee7a35f942fbf7bbc18322b3b8931"  # of FLOWERS, half of it for testing
GOLDEN_WITH_CARD = "9cfc78c53f60ddc9d602aac3b28823fea364bd904bca8519af06d82b20cf8561"  # the card in it
FLOWERS = """sepal,petal,year,kind
5.1,1.4,2000,rose
4.9,-0.5,2000,iris
7.0,4.7,2000,tulip
6.3,6.0,2000,iris
5.8,5.1,2000,rose
1e1,0.25,2000,tulip
"""


def table(folder: Path, text: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(text.encode())
    return path


def converted(path: Path, share: float = 0.5, seed: int = 0, **how: object) -> tuple[Dataset, Card, bytes]:
    data, card = convert.from_table(read_labelled(path, **{"label": None, **how}), share, seed)  # type: ignore[arg-type]
    return decode(data), card, data


def floats(dataset: Dataset) -> np.ndarray:
    return np.frombuffer(dataset.features, "<f4").reshape(-1, dataset.sample_features)


def labels(dataset: Dataset) -> list[int]:
    return np.frombuffer(dataset.labels, "<u2").tolist()


def by_hand(classes: Sequence[int], share: float, seed: int) -> tuple[list[int], list[int]]:
    """The split as docs/DATA.md words it."""
    order = sorted(
        range(len(classes)),
        key=lambda row: hashlib.sha256(b"flnode/split/1" + seed.to_bytes(8, "big") + row.to_bytes(8, "big")).digest(),
    )
    test: set[int] = set()
    for each in set(classes):
        rows = [row for row in order if classes[row] == each]
        test |= set(rows[: min(len(rows) - 1, int(len(rows) * share + 0.5))])
    return [row for row in order if row not in test], [row for row in order if row in test]


def test_a_table_becomes_a_dataset_as_the_rules_say(tmp_path: Path) -> None:
    dataset, card, data = converted(table(tmp_path, FLOWERS))
    assert (card.columns, card.label, card.classes) == (("sepal", "petal", "year"), "kind", ("iris", "rose", "tulip"))
    train, test = by_hand([1, 0, 2, 0, 1, 2], 0.5, 0)
    assert (dataset.train, dataset.test, dataset.shape) == (len(train), len(test), (3,)) == (3, 3, (3,))
    assert labels(dataset) == [[1, 0, 2, 0, 1, 2][row] for row in train + test]
    raw = np.loadtxt(FLOWERS.splitlines()[1:], delimiter=",", usecols=(0, 1, 2))
    shift = raw[train].mean(0).astype(np.float32).astype(np.float64)
    largest = np.abs(raw[train] - shift).max(0)
    scale = np.where(largest > 0, 0.5 ** np.frexp(largest)[1], 0)  # the years are all the same: they say nothing
    assert card.shift == tuple(shift)
    assert card.scale == tuple(scale)
    assert card.scale[2] == 0
    assert np.array_equal(floats(dataset), ((raw - shift) * scale).astype(np.float32)[train + test])
    bare, same = convert.from_table(read_labelled(table(tmp_path, FLOWERS), None), 0.5, 0, enclosed=False)
    assert hashlib.sha256(bare).hexdigest() == GOLDEN
    assert (same, decode(bare).card) == (card, None)
    assert (dataset.card, hashlib.sha256(data).hexdigest()) == (card, GOLDEN_WITH_CARD)


def test_a_column_of_equal_numbers_is_nothing_even_if_float32_cannot_hold_them(tmp_path: Path) -> None:
    dataset, card, _ = converted(table(tmp_path, "a,b,y\n0.1,1,0\n0.1,2,1\n0.1,3,0\n0.1,4,1\n"))
    assert card.scale == (0.0, 1.0)
    assert floats(dataset)[:, 0].tolist() == [0, 0, 0, 0]


def test_the_same_file_gives_the_same_bytes_and_another_seed_another_split(tmp_path: Path) -> None:
    path = table(tmp_path, FLOWERS + "".join(f"{i},{i * i},{i},rose\n" for i in range(40)))
    assert converted(path)[2] == converted(path)[2]
    assert converted(path, seed=1)[2] != converted(path)[2]


@given(
    st.lists(st.integers(0, 4), min_size=4, max_size=60).filter(lambda c: len(set(c)) > 1),
    st.floats(0.01, 0.99),
    st.integers(0, 2**63 - 1),
)
@settings(max_examples=50, deadline=None)
def test_each_class_gives_its_share_to_the_test_part_and_keeps_a_sample(
    classes: list[int], share: float, seed: int
) -> None:
    try:
        train, test = convert.split(classes, share, seed, "t")
    except InvalidDataset:
        assert by_hand(classes, share, seed)[1] == []
        return
    assert (train, test) == by_hand(classes, share, seed)
    assert sorted(train + test) == list(range(len(classes)))
    held, all_of = Counter(classes[row] for row in test), Counter(classes)
    for each, count in all_of.items():
        assert abs(held[each] - share * count) <= 1
        assert held[each] < count


@pytest.mark.parametrize(
    ("texts", "names", "numbers"),
    [
        (["b", "a", "b"], ("a", "b"), [1, 0, 1]),
        (["10", "9", "-1", "9.0"], ("-1", "9", "10"), [2, 1, 0, 1]),
        (["10", "9", "x"], ("10", "9", "x"), [0, 1, 2]),
        (["Zoë", "zoe", "Åsa"], ("Zoë", "zoe", "Åsa"), [0, 1, 2]),
    ],
)
def test_classes_are_sorted_as_numbers_if_all_are_whole_numbers_else_as_text(
    texts: list[str], names: tuple[str, ...], numbers: list[int]
) -> None:
    assert convert.number_classes(texts, "t") == (names, numbers)


@pytest.mark.parametrize(
    ("text", "label", "columns", "header"),
    [
        ("a,b,c\n1,2,0\n3,4,1\n", "c", ("a", "b"), True),
        ("1,2,0\n3,4,1\n", "3", ("1", "2"), False),
        ("1,2,rose\n3,4,iris\n", "3", ("1", "2"), False),
        ("a;Target;c\n1;0;2\n3;1;4\n", "Target", ("a", "c"), True),
        ("a\tclass\n1\t0\n3\t1\n", "class", ("a",), True),
        ("\ufeffa,y\r\n\r\n1,0\r\n3,1\r\n  \r\n", "y", ("a",), True),
        ('"a, b",y\n"1",0\n3,1', "y", ("a, b",), True),
        (",y\n0,0\n3,1", "y", ("1",), True),
    ],
)
def test_delimiter_header_and_label_are_found(
    tmp_path: Path, text: str, label: str, columns: tuple[str, ...], header: bool
) -> None:
    found = read_labelled(table(tmp_path, text), None)
    assert (found.label, found.columns, found.header) == (label, columns, header)
    assert len(found.labels) == 2


def test_label_and_dropped_columns_go_by_name_or_number(tmp_path: Path) -> None:
    path = table(tmp_path, "a,b,c,d\n0,1,2,x\n1,3,4,y\n")
    found = read_labelled(path, "a", ("4", "b"))
    assert (found.columns, found.label, found.values.tolist()) == (("c",), "a", [2.0, 4.0])
    assert read_labelled(path, "1", ("d",), header=True).label == "a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv: is empty"),
        ("a,y\n", "t.csv: has no row of numbers"),
        ("a,y\n1,0\n2\n", "t.csv: line 3 has 1 cells, line 1 has 2"),
        ("a,y\n1,0\n\n2,1,5\n", "t.csv: line 4 has 3 cells, line 1 has 2"),
        ("a,y\n1,0\n,1\n", "t.csv: line 3, column `a`: a value is missing ('')"),
        ("a,y\n1,0\nNA,1\n", "t.csv: line 3, column `a`: a value is missing ('NA')"),
        ("a,y\n1,0\n2,?\n", "t.csv: line 3, column `y`: the class is missing ('?')"),
        ("a,b,y\n1,2,0\n2,red,1\n", "t.csv: line 3, column `b`: 'red' is not a number; leave the column out"),
        ("a,y\n1,0\nnan,1\n", "t.csv: line 3, column `a`: nan is not a number that can be used"),
        ("a,y\n1,0\n-inf,1\n", "t.csv: line 3, column `a`: -inf is not"),
        ("a,y\n1,0\n1e39,1\n", "t.csv: line 3, column `a`: 1e+39 is not"),
        ("a,y\n1,0\n2,0\n", "t.csv: column `y` has the single class '0'"),
        ("a,y\n1,0.5\n2,0.7\n", "t.csv: column `y` holds measurements such as 0.5, not classes"),
        ("a,y\n1,0\n2,1\n", "t.csv: 2 rows and a test share of 0.2 leave none for testing"),
        ("y\n1\n2\n", "t.csv: has no column of numbers beside the label `y`"),
        ("a,a,y\n1,2,0\n", "t.csv: line 1 has two columns called `a`"),
        ('a,y\n"1"x,0\n', "t.csv: line 2: "),
    ],
)
def test_every_mistake_in_a_table_names_its_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(InvalidDataset) as caught:
        converted(path, 0.2)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_is_no_text_or_too_large_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"a,y\n1,0\n" + b"\xff\xfe,1\n" * 9000)
    with pytest.raises(InvalidDataset, match="is not UTF-8 text"):
        read_labelled(path, None)
    table(tmp_path, FLOWERS)
    for limit, message in (("CELLS_MAX", "more than 5 numbers"), ("COLUMNS_MAX", "4 columns"), ("CSV_BYTES_MAX", "at")):
        with monkeypatch.context() as patch:
            patch.setattr(f"learner.table.{limit}", 5 if limit == "CELLS_MAX" else 3)
            with pytest.raises(InvalidDataset, match=message):
                read_labelled(path, None)


def test_a_value_far_off_the_training_samples_is_refused_and_small_ones_are_plus_zero() -> None:
    card = Card(label="y", classes=("a", "b"), shift=(1.0,), scale=(2.0**100,))
    with pytest.raises(InvalidDataset, match=r"row 1: 3e\+38 is too far off the rest"):
        card.features(array.array("d", [1.0, 3e38]), 1, lambda row, feature: f"row {row}")
    tiny = Card(label="y", classes=("a", "b"), scale=(0.5,)).features(
        array.array("d", [-1e-60, -0.0, 1.0]), 1, lambda row, feature: ""
    )
    assert tiny == bytes(8) + b"\0\0\0\x3f"


# ---- samples to be classified ----
def test_rows_to_classify_are_found_by_the_names_of_their_columns(tmp_path: Path) -> None:
    _, card, _ = converted(table(tmp_path, FLOWERS))
    mixed = table(tmp_path, "year,colour,petal,sepal\n2000,red,1.5,5\n\n2001,blue,2.5,6\n", "new.csv")
    rows = read_features(mixed, card, 3)
    assert rows.values.tolist() == [5.0, 1.5, 2000.0, 6.0, 2.5, 2001.0]
    assert rows.lines.tolist() == [2, 4]
    assert read_features(table(tmp_path, "5,1,2000\n"), card, 3).values.tolist() == [5.0, 1.0, 2000.0]
    with pytest.raises(InvalidDataset, match="has no column `petal`"):
        read_features(table(tmp_path, "sepal,leaf,year\n1,2,3\n"), card, 3)
    with pytest.raises(InvalidDataset, match="has 2 columns, the model takes 3 features"):
        read_features(table(tmp_path, "5,1\n"), card, 3)


def test_without_a_header_the_columns_stay_where_they_were(tmp_path: Path) -> None:
    path = table(tmp_path, "1,7,0\n2,8,1\n3,9,0\n4,9,1\n")
    _, card, _ = converted(path, drop=("1",))
    assert card.columns == ("2",)
    assert read_features(path, card, 1).values.tolist() == [7.0, 8.0, 9.0, 9.0]
    assert read_features(table(tmp_path, "5\n6\n"), card, 1).values.tolist() == [5.0, 6.0]


def test_unlabelled_samples_are_a_dataset_for_testing_alone() -> None:
    values = np.arange(6, dtype="<f4").tobytes()
    dataset = decode(convert.unlabelled(values, 3, 5))
    assert (dataset.train, dataset.test, dataset.classes) == (1, 2, 5)
    assert floats(dataset)[1:].tobytes() == values


def test_unlabelled_samples_are_classified_as_the_same_ones_of_a_test_part_are(tmp_path: Path) -> None:
    manifest = digits_manifest()
    state, digits = initial_bytes(manifest), load_samples(decode(DIGITS), CPU)
    features = digits.features[digits.train :]
    (tmp_path / "d.fldata").write_bytes(convert.unlabelled(features.numpy().astype("<f4").tobytes(), 64, 10))
    (tmp_path / "s.state").write_bytes(state)
    job = Predict(id=1, manifest=manifest.encode(), state="s.state", dataset="d.fldata", out="o.out")
    Workbench(tmp_path, CPU).do(job, lambda step, steps, loss: False)
    assert np.fromfile(tmp_path / "o.out", "<u2").tolist() == predict(manifest, state, features).tolist()


# ---- arrays ----
def arrays(folder: Path, **named: object) -> Path:
    path = folder / "a.npz"
    np.savez(path, **named)  # type: ignore[arg-type]
    return path


def test_images_stay_bytes_with_one_scale(tmp_path: Path) -> None:
    pixels = np.arange(6 * 2 * 2, dtype=np.uint8).reshape(6, 2, 2)
    data, card = convert.from_arrays(read_npz(arrays(tmp_path, x=pixels, y=[3, 5, 3, 5, 3, 5]), None), 0.34, 0)
    dataset = decode(data)
    train, test = by_hand([0, 1, 0, 1, 0, 1], 0.34, 0)
    assert (dataset.element, dataset.scale, dataset.shape) == ("uint8", -5, (2, 2))
    assert (card.classes, card.scale) == (("3", "5"), (1 / 32,))
    assert bytes(dataset.features) == pixels[train + test].tobytes()


def test_floats_of_one_dimension_are_scaled_as_a_table_is(tmp_path: Path) -> None:
    rows = [line.split(",") for line in FLOWERS.splitlines()[1:]]
    x, y = np.array([row[:3] for row in rows], dtype=float), np.array([row[3] for row in rows])
    data, _ = convert.from_arrays(read_npz(arrays(tmp_path, features=x, target=y), None), 0.5, 0, enclosed=False)
    assert hashlib.sha256(data).hexdigest() == GOLDEN


def test_float_images_share_one_scale_and_nothing_is_subtracted(tmp_path: Path) -> None:
    x = np.linspace(-3, 2, 24).reshape(6, 2, 2).astype(np.float32)
    read = read_npz(arrays(tmp_path, images=x, label=[[0], [1]] * 3), None)
    data, card = convert.from_arrays(read, 0.34, 0)
    train, test = by_hand([0, 1] * 3, 0.34, 0)
    assert (card.shift, card.scale) == ((), (0.25,))
    assert np.array_equal(floats(decode(data)), x.reshape(6, 4)[train + test] / 4)


def test_a_split_that_is_there_is_kept(tmp_path: Path) -> None:
    x, y = np.arange(10, dtype=np.uint8).reshape(5, 2), np.array([0, 1, 0, 1, 0], dtype=np.int64)
    path = arrays(tmp_path, x_train=x[:3], y_train=y[:3], x_test=x[3:], y_test=y[3:])
    dataset = decode(convert.from_arrays(read_npz(path, None), 0.2, 0)[0])
    assert (dataset.train, dataset.test, labels(dataset)) == (3, 2, y.tolist())
    assert bytes(dataset.features) == x.tobytes()


@pytest.mark.parametrize(
    ("named", "label", "message"),
    [
        ({"x": np.zeros((4, 2)), "y": [0, 1, 0]}, None, "4 samples in `x`, 3 labels in `y`"),
        ({"x": np.zeros((4, 2)), "y": np.eye(4)}, None, r"`y` has shape \(4, 4\); one label for each"),
        ({"x": np.zeros((4, 2)), "y": [0, 1, 0, 1]}, "z", r"has no array `z` \(there are x, y\)"),
        ({"x": np.zeros((4, 2))}, None, "no array of labels among x"),
        ({"u": np.zeros((4, 2)), "v": np.zeros((4, 2)), "y": [0, 1, 0, 1]}, None, "no array of samples among u, v, y"),
        ({"x": np.zeros((4, 2)), "y": [0.5, 1.5, 0.5, 1.5]}, None, "array `y` holds measurements such as 0.5"),
        ({"x": np.full((4, 2), np.nan), "y": [0, 1, 0, 1]}, None, "sample 0, feature 0: nan is not a number"),
        ({"x": np.array(["a", "b"]), "y": [0, 1]}, None, "numbers are needed"),
        ({"x": np.array([{}, {}]), "y": [0, 1]}, None, "(?i)allow_pickle|pickle"),
        ({"x": np.zeros((0, 2)), "y": np.zeros(0, int)}, None, "none may be empty"),
        ({"x": np.zeros((2, 1, 1, 1, 1, 1)), "y": [0, 1]}, None, "nor have more than 4 dimensions"),
    ],
)
def test_every_mistake_in_arrays_names_the_array(
    tmp_path: Path, named: dict[str, object], label: str | None, message: str
) -> None:
    with pytest.raises(InvalidDataset, match=message) as caught:
        convert.from_arrays(read_npz(arrays(tmp_path, **named), label), 0.5, 0)
    assert "\n" not in str(caught.value)


def test_files_that_are_no_arrays_or_too_large_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(InvalidDataset, match=r"a\.npz"):
        read_npz(path, None)
    monkeypatch.setattr(npz, "ARRAY_BYTES_MAX", 100)
    with pytest.raises(InvalidDataset, match="at most 100"):
        read_npz(arrays(tmp_path, x=np.zeros((4, 20)), y=[0, 1, 0, 1]), None)


def test_without_numpy_an_npz_file_is_refused_and_a_table_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = arrays(tmp_path, x=np.zeros((4, 2)), y=[0, 1, 0, 1])
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(NumpyMissing, match=r"pip install 'flnode\[learner\]'"):
        read_npz(path, None)
    assert converted(table(tmp_path, FLOWERS))[0].train == 3
