"""Exact arithmetic a second time, in numpy, written from docs/EXACT.md alone: shares no code with `learner`.

`matmul` can be replaced, to show that neither BLAS nor the order of summation matters.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Array = np.ndarray
F4, F8, U8 = np.float32, np.float64, np.uint64


def by_blas(a: Array, b: Array) -> Array:
    return a.astype(F8) @ b.astype(F8)


def by_integers(a: Array, b: Array) -> Array:
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(F8)


def by_blas_backwards(a: Array, b: Array) -> Array:
    return (b[::-1].T.astype(F8) @ a[:, ::-1].T.astype(F8)).T


@dataclass
class Job:
    """A manifest's numbers."""

    sizes: tuple[int, ...]
    batch_size: int
    steps: int
    learning_rate: float
    momentum: float
    bits: int
    init_seed: bytes
    matmul: Callable[[Array, Array], Array] = by_blas


def stream(seed: bytes, label: str, count: int) -> Array:
    d = struct.unpack("<8I", hashlib.sha256(b"flnode/random/1" + seed + label.encode()).digest())
    i = np.arange(-(-count // 4), dtype=U8)
    mask = U8(0xFFFFFFFF)
    c = [i & mask, i >> U8(32), np.full_like(i, d[2]), np.full_like(i, d[3])]
    k0, k1 = d[0], d[1]
    for _ in range(10):
        p0, p1 = c[0] * U8(0xD2511F53), c[2] * U8(0xCD9E8D57)
        c = [(p1 >> U8(32)) ^ c[1] ^ U8(k0), p1 & mask, (p0 >> U8(32)) ^ c[3] ^ U8(k1), p0 & mask]
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return np.stack(c, axis=1).reshape(-1)[:count]


def permutation(seed: bytes, label: str, n: int) -> Array:
    u = stream(seed, label, 2 * n)
    keys = [(int(low) + 2**32 * int(high)) // 2 for low, high in zip(u[::2], u[1::2], strict=True)]
    return np.array(sorted(range(n), key=lambda j: (keys[j], j)))


def quantise(x: Array, bits: int) -> tuple[Array, int]:
    m = float(np.abs(x).max())
    assert math.isfinite(m)
    e = 0 if m == 0 else max(-90, min(90, math.floor(math.log2(m)) + 1))
    while m and e < 90 and m >= 2.0**e:  # log2 may be off by one next to a power of two
        e += 1
    while m and e > -90 and m < 2.0 ** (e - 1):
        e -= 1
    limit = F4(2 ** (bits - 1) - 1)
    k = bits - 1 - e
    return np.clip(np.rint(x * F4(2.0**k)), -limit, limit), k


def rescaled(integers: Array, k: int) -> Array:
    return (integers * 2.0**-k).astype(F4)


H, L = 0.693147180369123816490, 1.90821492927058770002e-10


def exp(x: Array) -> Array:
    x = np.maximum(x, -700.0)
    n = np.rint(x * 1.4426950408889634)
    r = x - n * H
    r = r - n * L
    p = np.full_like(r, 1.0 / math.factorial(12))
    for i in range(11, -1, -1):
        p = p * r
        p = p + 1.0 / math.factorial(i)
    return p * np.ldexp(1.0, n.astype(np.int64))


def log(x: Array) -> Array:
    m, j = np.frexp(x)
    m, j = m * 2, j - 1
    high = m > 1.4142135623730951
    m, j = np.where(high, m / 2, m), np.where(high, j + 1, j).astype(F8)
    y = (m - 1) / (m + 1)
    y2 = y * y
    p = np.full_like(y, 1.0 / 21)
    for i in range(19, 0, -2):
        p = p * y2
        p = p + 1.0 / i
    return j * H + (j * L + (2 * y) * p)


def softmax_parts(z: Array) -> tuple[Array, Array, Array]:
    s = z.astype(F8) - z.astype(F8).max(axis=1, keepdims=True)
    w = np.rint(exp(s) * 2.0**30)
    return s, w, w.sum(axis=1, keepdims=True)


def loss(z: Array, labels: Array) -> float:
    s, _, t = softmax_parts(z)
    each = log(t[:, 0] * 2.0**-30) - s[np.arange(len(s)), labels]
    return float(np.rint(each * 2.0**32).sum()) / 2.0**32 / len(s)


def initial(job: Job) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for layer, (inputs, outputs) in enumerate(zip(job.sizes, job.sizes[1:], strict=False)):
        u = stream(job.init_seed, f"init/{layer:02}.weight", inputs * outputs).astype(F8)
        weight = (((u + 0.5) * 2.0**-31 - 1) * math.sqrt(6 / inputs)).astype(F4).reshape(outputs, inputs)
        state[f"parameter/{layer:02}.weight"] = weight
        state[f"parameter/{layer:02}.bias"] = np.zeros(outputs, F4)
    if job.momentum:
        state |= {name.replace("parameter", "velocity"): np.zeros_like(value) for name, value in state.items()}
    return state


Tape = list[tuple[tuple[Array, int], tuple[Array, int], Array]]


def forward(job: Job, state: dict[str, Array], x: Array) -> tuple[Array, Tape]:
    tape: Tape = []
    layers = len(job.sizes) - 1
    for layer in range(layers):
        qx = quantise(x, job.bits)
        qw = quantise(state[f"parameter/{layer:02}.weight"], job.bits)
        z = rescaled(job.matmul(qx[0], qw[0].T), qx[1] + qw[1]) + state[f"parameter/{layer:02}.bias"]
        tape.append((qx, qw, z))
        x = np.where(z > 0, z, F4(0)) if layer < layers - 1 else z
    return x, tape


def train(job: Job, state: dict[str, Array], features: Array, labels: Array, batch_seed: bytes) -> dict[str, Array]:
    """features float32 [train, F], labels int [train]; returns the next state."""
    state = {name: value.copy() for name, value in state.items()}
    per = len(labels) // job.batch_size
    for step in range(job.steps):
        epoch, place = divmod(step, per)
        order = permutation(batch_seed, f"batches/{epoch}", len(labels))
        rows = order[place * job.batch_size : (place + 1) * job.batch_size]
        z, tape = forward(job, state, features[rows])
        _, w, t = softmax_parts(z)
        g = ((w / t - np.eye(z.shape[1])[labels[rows]]) / F8(len(rows))).astype(F4)
        gradients: dict[str, Array] = {}
        for layer in reversed(range(len(tape))):
            (qx, kx), (qw, kw), _ = tape[layer]
            qg, kg = quantise(g, job.bits)
            gradients[f"{layer:02}.weight"] = rescaled(job.matmul(qg.T, qx), kg + kx)
            gradients[f"{layer:02}.bias"] = rescaled(qg.astype(F8).sum(axis=0), kg)
            if layer:
                g = np.where(tape[layer - 1][2] > 0, rescaled(job.matmul(qg, qw), kg + kw), F4(0))
        for name, d in gradients.items():
            if job.momentum:
                v = state[f"velocity/{name}"] * F4(job.momentum)
                d = state[f"velocity/{name}"] = v + d
            state[f"parameter/{name}"] = state[f"parameter/{name}"] - d * F4(job.learning_rate)
    return state


def score(job: Job, state: dict[str, Array], features: Array, labels: Array) -> tuple[int, int]:
    correct = 0
    for start in range(0, len(labels), 1024):
        z, _ = forward(job, state, features[start : start + 1024])
        correct += int((z.argmax(axis=1) == labels[start : start + 1024]).sum())  # numpy names the first of equals
    return correct, len(labels)


def canonical(state: dict[str, Array], bits: int) -> bytes:
    out = b"flstate1" + struct.pack("<HHI", 1, bits, len(state))
    for name in sorted(state):
        value = state[name] + F4(0)
        out += struct.pack("<B", len(name)) + name.encode() + struct.pack("<BB", 1, value.ndim)
        out += struct.pack(f"<{value.ndim}I", *value.shape) + value.astype("<f4").tobytes()
    return out


def dataset(data: bytes) -> tuple[Array, Array, int]:
    """(features float32 [samples, F], labels [samples], number of training samples)."""
    assert data[:8] == b"fldata01"
    element, scale, _, train, test, rank = struct.unpack_from("<BbHIIB", data, 8)
    shape = struct.unpack_from(f"<{rank}I", data, 21)
    samples, at = train + test, 21 + 4 * rank
    labels = np.frombuffer(data, "<u2", samples, at).astype(np.int64)
    raw = np.frombuffer(data, {1: np.uint8, 2: "<f4"}[element], samples * math.prod(shape), at + 2 * samples)
    return raw.astype(F4).reshape(samples, -1) * F4(2.0**scale), labels, train
