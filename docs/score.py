"""Scores a model from flnode on a dataset's test samples, with numpy and nothing of flnode.

    flnode job model 1 --out flowers.safetensors
    flnode data export flowers --out flowers.npz
    python docs/score.py flowers.safetensors flowers.npz

Prints two counts. `exact` computes as the chain's learning server does (docs/EXACT.md), so it finds the same number.
`float32` is the ordinary forward pass, as any other program would use the weights; it may differ by a sample whose two
greatest outputs are as good as equal.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def load_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Tensors and metadata of a file with float32 tensors; `safetensors.numpy.load_file` does the same."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[start + begin : start + end], "<f4").reshape(entry["shape"])
    return tensors, metadata


def load_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The same of an .npz file."""
    with np.load(path, allow_pickle=False) as file:
        tensors = {name: file[name] for name in file.files}
    return tensors, json.loads(str(tensors.pop("metadata")))


def quantise(x: np.ndarray, bits: int) -> tuple[np.ndarray, int]:
    """Whole numbers and the k with x = numbers * 2**-k."""
    e = int(np.clip(np.frexp(np.abs(x).max())[1], -90, 90))
    k, limit = bits - 1 - e, 2 ** (bits - 1) - 1
    return np.clip(np.rint(x * np.float32(2.0**k)), -limit, limit).astype(np.float64), k


def forward(model: dict[str, np.ndarray], x: np.ndarray, bits: int | None) -> np.ndarray:
    """Outputs [N, classes] of samples [N, features]; with bits None in plain float32."""
    layers = sorted(name.removesuffix(".weight") for name in model if name.endswith(".weight"))
    for layer in layers:
        weight, bias = model[f"{layer}.weight"], model[f"{layer}.bias"]
        if bits is None:
            z = x @ weight.T + bias
        else:
            (qx, kx), (qw, kw) = quantise(x, bits), quantise(weight, bits)
            z = np.ldexp(qx @ qw.T, -(kx + kw)).astype(np.float32) + bias
        x = z if layer == layers[-1] else np.where(z > 0, z, np.float32(0))
    return x


def main() -> None:
    model_path, data_path = map(Path, sys.argv[1:])
    load = load_npz if model_path.suffix == ".npz" else load_safetensors
    model, metadata = load(model_path)
    with np.load(data_path, allow_pickle=False) as file:
        x, y = file["x_test"], file["y_test"]
        x = x.reshape(len(x), -1).astype(np.float32) * file["scale"]
    chunks = [x[start : start + 1024] for start in range(0, len(x), 1024)]  # as EXACT.md, "Scores"
    for name, bits in (("exact", int(metadata["bits"])), ("float32", None)):
        classes = np.concatenate([forward(model, chunk, bits).argmax(1) for chunk in chunks])
        print(f"{name} {np.sum(classes == y)} of {len(y)}")
    if "correct" in metadata:
        print(f"chain {metadata['correct']} of {metadata['total']}")


if __name__ == "__main__":
    main()
