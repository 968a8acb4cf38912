"""Samples in NumPy's .npz files. Needs numpy, which is imported only when such a file is read; pickles are refused.

Either an array of samples [n, ...] and one of labels [n], or, split already, `x_train`, `y_train`, `x_test` and
`y_test`; see docs/DATA.md for the names.
"""

from __future__ import annotations

import array
import math
import zipfile
from pathlib import Path
from typing import Any, Final

from learner.convert import Arrays
from learner.data import RANK_MAX
from learner.errors import InvalidDataset

ARRAY_BYTES_MAX: Final = 2**30
SAMPLE_NAMES: Final = ("x", "X", "data", "features", "images")
LABEL_NAMES: Final = ("y", "Y", "label", "labels", "target", "class")
SPLIT_NAMES: Final = ("x_train", "y_train", "x_test", "y_test")


class NumpyMissing(Exception):
    """numpy is not installed here."""

    def __str__(self) -> str:
        return "numpy is needed to read .npz files: pip install 'flnode[learner]', or save the data as CSV"


def read_npz(path: Path, label: str | None) -> Arrays:
    """The samples of a file.

    Args:
        label: name of the label array; None: the first of LABEL_NAMES that there is.
    Raises:
        NumpyMissing.
        InvalidDataset: names the array.
        OSError.
    """
    try:
        import numpy
    except ImportError:
        raise NumpyMissing from None
    source = path.name
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > ARRAY_BYTES_MAX:
            raise InvalidDataset(f"{source}: arrays of {size} bytes, at most {ARRAY_BYTES_MAX}")
        with numpy.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in _wanted(source, file.files, label)}
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, SyntaxError) as error:
        raise InvalidDataset(f"{source}: {' '.join(str(error).split())}") from None
    names = list(arrays)
    train = None
    if len(names) == len(SPLIT_NAMES):
        train = len(arrays["x_train"])
        shapes = {arrays[name].shape[1:] for name in ("x_train", "x_test")}
        if len(shapes) > 1:
            raise InvalidDataset(f"{source}: samples of `x_train` and `x_test` have different shapes")
        samples = numpy.concatenate([arrays["x_train"], arrays["x_test"]])
        labels = numpy.concatenate([_labels(arrays[name], source, name) for name in ("y_train", "y_test")])
    else:
        samples, labels = arrays[names[0]], _labels(arrays[names[1]], source, names[1])
    if len(samples) != len(labels):
        raise InvalidDataset(f"{source}: {len(samples)} samples in `{names[0]}`, {len(labels)} labels in `{names[1]}`")
    return _arrays(samples, labels, source, names[1], train)


def _wanted(source: str, there: list[str], label: str | None) -> list[str]:
    if label is None and set(SPLIT_NAMES) <= set(there):
        return list(SPLIT_NAMES)
    if label is not None and label not in there:
        raise InvalidDataset(f"{source}: has no array `{label}` (there are {', '.join(there[:10])})")
    labels = next((name for name in LABEL_NAMES if name in there), None) if label is None else label
    rest = [name for name in there if name != labels]
    samples = next((name for name in SAMPLE_NAMES if name in rest), rest[0] if len(rest) == 1 else None)
    if labels is None or samples is None:
        what = "labels" if labels is None else "samples"
        known = ", ".join(LABEL_NAMES if labels is None else SAMPLE_NAMES)
        raise InvalidDataset(f"{source}: no array of {what} among {', '.join(there[:10])} (known names: {known})")
    return [samples, labels]


def _labels(labels: Any, source: str, name: str) -> Any:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise InvalidDataset(f"{source}: `{name}` has shape {labels.shape}; one label for each sample is needed")
    if labels.dtype.kind not in "biufUS":
        raise InvalidDataset(f"{source}: `{name}` has the type {labels.dtype}; whole numbers or text are needed")
    return labels


def _arrays(samples: Any, labels: Any, source: str, label: str, train: int | None) -> Arrays:
    shape = tuple(samples.shape[1:]) or (1,)
    if samples.dtype.kind not in "biuf":
        raise InvalidDataset(f"{source}: samples have the type {samples.dtype}; numbers are needed")
    if not len(samples) or not math.prod(shape) or len(shape) > RANK_MAX:
        shapes = f"the samples have the shape {samples.shape}"
        raise InvalidDataset(f"{source}: {shapes}; none may be empty, nor have more than {RANK_MAX} dimensions")
    texts = [each.decode("ascii", "replace") if isinstance(each, bytes) else str(each) for each in labels.tolist()]
    if samples.dtype == "uint8":
        return Arrays(source, shape, samples.tobytes(), array.array("d"), texts, label, train)
    return Arrays(source, shape, None, array.array("d", samples.astype("float64").tobytes()), texts, label, train)
