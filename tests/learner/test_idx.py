"""Directories of IDX files become arrays; whatever else they hold is an error that names the file."""

from __future__ import annotations

import gzip
import struct
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner import convert, data, idx
from learner.errors import InvalidDataset
from learner.idx import read_idx


def encoded(kind: int, shape: tuple[int, ...], elements: bytes) -> bytes:
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + elements


def digits(
    folder: Path, part: str, count: int, pack: Callable[[bytes], bytes] = lambda raw: raw, end: str = ""
) -> None:
    """`count` samples of 2x3 pixels: sample i is 6i, 6i + 1, ..., its label i modulo 2."""
    pixels, labels = bytes(range(6 * count)), bytes(each % 2 for each in range(count))
    (folder / f"{part}-images-idx3-ubyte{end}").write_bytes(pack(encoded(8, (count, 2, 3), pixels)))
    (folder / f"{part}-labels-idx1-ubyte{end}").write_bytes(pack(encoded(8, (count,), labels)))


def test_four_files_keep_their_own_split_and_gzip_changes_no_byte_of_the_dataset(tmp_path: Path) -> None:
    found = []
    for name, pack, end in (("plain", lambda raw: raw, ""), ("packed", gzip.compress, ".gz")):
        folder = tmp_path / name
        folder.mkdir()
        digits(folder, "train", 5, pack, end)
        digits(folder, "t10k", 3, pack, end)
        (folder / "README").write_text("not ours")
        found.append(convert.from_arrays(read_idx(folder), 0.2, 0))
    assert found[0] == found[1]
    content, card = found[0]
    dataset = data.decode(content)
    assert (dataset.element, dataset.shape, dataset.train, dataset.test, dataset.classes) == ("uint8", (2, 3), 5, 3, 2)
    assert dataset.scale == -5  # the largest pixel is 29
    assert bytes(dataset.features) == bytes(range(30)) + bytes(range(18))
    assert card.classes == ("0", "1")
    assert card.label == "labels"


def test_without_test_files_the_samples_are_split(tmp_path: Path) -> None:
    digits(tmp_path, "train", 10)
    dataset = data.decode(convert.from_arrays(read_idx(tmp_path), 0.2, 0)[0])
    assert (dataset.train, dataset.test) == (8, 2)


@pytest.mark.parametrize(("kind", "code"), [(9, "b"), (11, "h"), (12, "i"), (13, "f"), (14, "d")])
def test_elements_of_every_other_type_are_numbers(tmp_path: Path, kind: int, code: str) -> None:
    numbers = [-3, 0, 7, 100, 5, -1]
    (tmp_path / "train-images-idx2-ubyte").write_bytes(encoded(kind, (3, 2), struct.pack(f">6{code}", *numbers)))
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(encoded(12, (3,), struct.pack(">3i", 70000, 2, 2)))
    arrays = read_idx(tmp_path)
    assert (arrays.pixels, arrays.values.tolist(), arrays.shape) == (None, numbers, (2,))
    assert arrays.labels == ["70000", "2", "2"]


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
WRONG: dict[str, tuple[str, bytes | None, str]] = {
    "no images": (IMAGES, None, "has train files, but none with the images"),
    "no labels": (LABELS, None, "has train files, but none with the labels"),
    "another format": (IMAGES, b"PK\3\4 something", f"{IMAGES}: not an IDX file"),
    "an unknown type": (IMAGES, encoded(10, (4,), b"abcd"), f"{IMAGES}: not an IDX file"),
    "too many dimensions": (IMAGES, encoded(8, (1,) * 9, b"a"), f"{IMAGES}: not an IDX file"),
    "half a header": (IMAGES, encoded(8, (4, 2, 3), b"")[:9], f"{IMAGES}: ends in its header"),
    "cut off": (IMAGES, encoded(8, (4, 2, 3), bytes(23)), f"{IMAGES}: announces 24 bytes .* only 23"),
    "too long": (IMAGES, encoded(8, (4, 2, 3), bytes(25)), f"{IMAGES}: announces 24 bytes .* more"),
    "a bomb": (IMAGES, encoded(8, (2**31, 2**31), b""), f"{IMAGES}: announces 4611686018427387904 bytes; at most"),
    "too many floats": (IMAGES, encoded(14, (2**20, 2**6), b""), f"{IMAGES}: announces 536870912 bytes; at most"),
    "empty": (IMAGES, encoded(8, (0, 2, 3), b""), f"{IMAGES}: has the shape"),
    "fewer labels": (LABELS, encoded(8, (3,), bytes(3)), f"{LABELS}: 3 labels for the 4 samples"),
    "labels in rows": (LABELS, encoded(8, (4, 1), bytes(4)), f"{LABELS}: has the shape"),
    "measured labels": (LABELS, encoded(13, (4,), bytes(16)), f"{LABELS}: has the shape"),
    "two of one": (f"{IMAGES}.gz", b"", f"both {IMAGES} and {IMAGES}.gz"),
}


@pytest.mark.parametrize(("name", "content", "message"), WRONG.values(), ids=list(WRONG))
def test_what_is_wrong_with_a_file_is_said_with_its_name(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    digits(tmp_path, "train", 4)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidDataset, match=message):
        read_idx(tmp_path)


def test_a_damaged_gzip_file_is_no_dataset(tmp_path: Path) -> None:
    digits(tmp_path, "train", 4, gzip.compress, ".gz")
    path = tmp_path / f"{IMAGES}.gz"
    for content in (path.read_bytes()[:-9], b"no gzip", path.read_bytes()[:10] + b"\xff" * 30):
        path.write_bytes(content)
        with pytest.raises(InvalidDataset, match=f"{IMAGES}.gz: not a whole gzip file"):
            read_idx(tmp_path)


def test_test_files_of_another_shape_do_not_fit(tmp_path: Path) -> None:
    digits(tmp_path, "train", 4)
    digits(tmp_path, "t10k", 4)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(encoded(8, (4, 3, 2), bytes(24)))
    with pytest.raises(InvalidDataset, match="another shape"):
        read_idx(tmp_path)


@given(st.binary(max_size=60) | st.builds(lambda raw: encoded(8, (2, 3), raw), st.binary(max_size=9)))
def test_whatever_a_file_holds_it_is_read_or_refused(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        digits(Path(folder), "train", 4)
        (Path(folder) / IMAGES).write_bytes(content)
        with suppress(InvalidDataset):
            assert len(read_idx(Path(folder)).labels) == 4


def test_the_limit_of_floats_holds_for_all_files_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idx, "VALUES_MAX", 6)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx2-ubyte").write_bytes(encoded(13, (2, 2), bytes(16)))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(encoded(8, (2,), b"\0\1"))
    with pytest.raises(InvalidDataset, match="8 numbers that are not bytes, at most 6"):
        read_idx(tmp_path)
