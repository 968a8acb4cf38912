"""Exact arithmetic a second time, in numpy, written from docs/EXACT.md alone: shares no code with `learner`.

`matmul` can be replaced, to show that neither BLAS nor the order of summation matters.
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray
F4, F8, U8 = np.float32, np.float64, np.uint64


def by_blas(a: Array, b: Array) -> Array:
    return a.astype(F8) @ b.astype(F8)


def by_integers(a: Array, b: Array) -> Array:
    return (a.astype(np.int64) @ b.astype(np.int64)).astype(F8)


def by_blas_backwards(a: Array, b: Array) -> Array:
    return (b[::-1].T.astype(F8) @ a[:, ::-1].T.astype(F8)).T


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
    return math.fsum(np.rint(each * 2.0**32).tolist()) / 2.0**32 / len(s)


def exp32(x: Array) -> Array:
    x = np.minimum(np.maximum(x, F4(-80)), F4(80))
    n = np.rint(x * F4(1.4426950408889634))
    r = x - n * F4(0.693359375)
    r = r - n * F4(-2.12194440e-4)
    p = np.full_like(r, F4(1 / 720))
    for i in range(5, -1, -1):
        p = p * r
        p = p + F4(1.0 / math.factorial(i))
    return p * np.ldexp(F4(1), n.astype(np.int32))


def exponent(x: Array) -> int:
    return -(quantise(x, 1)[1])


def total(x: Array, axes: tuple[int, ...]) -> Array:
    k = 20 - exponent(x)
    q = np.clip(np.rint(x * F4(2.0**k)), F4(-(2**20)), F4(2**20))
    return q.astype(F8).sum(axis=axes, keepdims=True) * 2.0**-k


def mean(x: Array) -> Array:
    return total(x, (x.ndim - 1,)) / F8(x.shape[-1])


class Job:
    """A manifest, read from its bytes."""

    def __init__(self, manifest: bytes, matmul: Callable[[Array, Array], Array] = by_blas) -> None:
        self.m: dict[str, Any] = msgspec.msgpack.decode(manifest)
        self.model, self.bits, self.matmul = self.m["model"], self.m["bits"], matmul
        self.places: list[tuple[str, tuple[int, ...]]] = []  # parameters, in order
        self.norms: set[str] = set()
        self.count = 0
        self.layers = self._number(self.model["layers"], tuple(self.model["input"]))[0]

    def _number(self, layers: list[dict[str, Any]], shape: tuple[int, ...]) -> tuple[list[Any], tuple[int, ...]]:
        """Layers with the prefix of their parameters; the shape that comes out."""
        out: list[Any] = []
        for layer in layers:
            kind, own = layer["kind"], {}
            new = shape
            if kind == "residual":
                out.append((layer, "", self._number(layer["layers"], shape)[0]))
                continue
            if kind == "linear":
                own = {"weight": (layer["outputs"], shape[-1]), "bias": (layer["outputs"],)}
                new = (*shape[:-1], layer["outputs"])
            elif kind == "conv2d":
                c, k = layer["channels"], layer["kernel"]
                own = {"weight": (c, shape[0], k, k), "bias": (c,)}
                new = (c, *((n + 2 * layer["padding"] - k) // layer["stride"] + 1 for n in shape[1:]))
            elif kind in ("max_pool", "average_pool"):
                new = (shape[0], *((n - layer["size"]) // layer["stride"] + 1 for n in shape[1:]))
            elif kind == "embedding":
                own, new = {"weight": (layer["entries"], layer["width"])}, (*shape, layer["width"])
            elif kind == "position":
                own = {"weight": shape}
            elif kind == "layer_norm":
                own = {"weight": shape[-1:], "bias": shape[-1:]}
                self.norms.add(f"{self.count:02}.weight")
            elif kind == "attention":
                d = shape[-1]
                own = {"in.weight": (3 * d, d), "in.bias": (3 * d,), "out.weight": (d, d), "out.bias": (d,)}
            elif kind == "flatten":
                new = (math.prod(shape),)
            prefix = f"{self.count:02}."
            self.places += [(prefix + name, size) for name, size in own.items()]
            self.count += bool(own)
            out.append((layer, prefix, None))
            shape = new
        return out, shape

    def product(self, a: tuple[Array, int], b: tuple[Array, int]) -> Array:
        if a[0].ndim == 3:
            return np.stack([self.product((x, a[1]), (y, b[1])) for x, y in zip(a[0], b[0], strict=True)])
        return rescaled(self.matmul(a[0], b[0]), a[1] + b[1])

    def quantise(self, x: Array) -> tuple[Array, int]:
        return quantise(x, self.bits)


def transposed(q: tuple[Array, int]) -> tuple[Array, int]:
    return np.swapaxes(q[0], -1, -2), q[1]


def column_sums(q: tuple[Array, int]) -> Array:
    return rescaled(q[0].reshape(-1, q[0].shape[-1]).astype(F8).sum(axis=0), q[1])


Back = Callable[[Array], Array]
Gradients = dict[str, Array]


def linear(job: Job, p: Gradients, out: Gradients, name: str, x: Array) -> tuple[Array, Back]:
    qx, qw = job.quantise(x.reshape(-1, x.shape[-1])), job.quantise(p[name + "weight"])
    y = job.product(qx, transposed(qw)) + p[name + "bias"]

    def back(g: Array) -> Array:
        qg = job.quantise(g.reshape(-1, g.shape[-1]))
        out[name + "weight"], out[name + "bias"] = job.product(transposed(qg), qx), column_sums(qg)
        return job.product(qg, qw).reshape(x.shape)

    return y.reshape(*x.shape[:-1], -1), back


def conv2d(job: Job, p: Gradients, out: Gradients, name: str, layer: dict[str, Any], x: Array) -> tuple[Array, Back]:
    k, stride, pad = layer["kernel"], layer["stride"], layer["padding"]
    (qx, kx), (qw, kw) = job.quantise(x), job.quantise(p[name + "weight"])
    wide = np.pad(qx, ((0, 0), (0, 0), (pad, pad), (pad, pad))).astype(F8)
    h, w = ((side - k) // stride + 1 for side in wide.shape[2:])
    spans = [(slice(u, u + stride * h - stride + 1, stride), slice(v, v + stride * w - stride + 1, stride))
             for u in range(k) for v in range(k)]  # fmt: skip
    taps = qw.astype(F8).reshape(*qw.shape[:2], -1)
    sums = sum(np.einsum("nchw,oc->nohw", wide[:, :, i, j], taps[:, :, at]) for at, (i, j) in enumerate(spans))

    def back(g: Array) -> Array:
        qg, kg = job.quantise(g)
        g8, spread, dw = qg.astype(F8), np.zeros_like(wide), np.zeros_like(taps)
        for at, (i, j) in enumerate(spans):
            dw[:, :, at] = np.einsum("nohw,nchw->oc", g8, wide[:, :, i, j])
            spread[:, :, i, j] += np.einsum("nohw,oc->nchw", g8, taps[:, :, at])
        out[name + "weight"] = rescaled(dw, kg + kx).reshape(qw.shape)
        out[name + "bias"] = rescaled(g8.sum(axis=(0, 2, 3)), kg)
        return rescaled(spread[:, :, pad : spread.shape[2] - pad, pad : spread.shape[3] - pad], kg + kw)

    return rescaled(sums, kx + kw) + p[name + "bias"][:, None, None], back


def pool(layer: dict[str, Any], x: Array) -> tuple[Array, Back]:
    size, stride = layer["size"], layer["stride"]
    h, w = ((side - size) // stride + 1 for side in x.shape[2:])
    spans = [(slice(u, u + stride * h - stride + 1, stride), slice(v, v + stride * w - stride + 1, stride))
             for u in range(size) for v in range(size)]  # fmt: skip
    views = np.stack([x[:, :, i, j] for i, j in spans])
    first = views.argmax(axis=0)  # numpy names the first of equals
    y = views[0]
    for view in views[1:]:
        y = y + view

    def back(g: Array) -> Array:
        dx = np.zeros_like(x)
        for at, (i, j) in enumerate(spans):
            part = np.where(first == at, g, F4(0)) if layer["kind"] == "max_pool" else g / F4(size * size)
            dx[:, :, i, j] = dx[:, :, i, j] + part
        return dx

    return (views.max(axis=0) if layer["kind"] == "max_pool" else y / F4(size * size)), back


def layer_norm(p: Gradients, out: Gradients, name: str, x: Array) -> tuple[Array, Back]:
    weight = p[name + "weight"]
    c = x - mean(x).astype(F4)
    r = F4(1) / np.sqrt((mean(c * c) + 1e-5).astype(F4))
    h = c * r

    def back(g: Array) -> Array:
        batch = tuple(range(x.ndim - 1))
        t = g * h
        out[name + "weight"] = total(t, batch).astype(F4).reshape(-1)
        out[name + "bias"] = total(g, batch).astype(F4).reshape(-1)
        a, u = mean(t * weight).astype(F4), g * weight
        return ((u - mean(u).astype(F4)) - h * a) * r

    return h * weight + p[name + "bias"], back


def attention(job: Job, p: Gradients, out: Gradients, name: str, layer: dict[str, Any], x: Array) -> tuple[Array, Back]:
    n, t, d = x.shape
    heads, part = layer["heads"], d // layer["heads"]
    scale = F4(1 / math.sqrt(part))

    def cut(y: Array) -> Array:
        return np.concatenate([y[i : i + 1, :, j * part : (j + 1) * part] for i in range(n) for j in range(heads)])

    def side_by_side(y: Array) -> Array:
        return np.stack([np.concatenate(list(y[i * heads : (i + 1) * heads]), axis=1) for i in range(n)])

    y, back_in = linear(job, p, out, name + "in.", x)
    q, k, v = (job.quantise(cut(y[:, :, i * d : (i + 1) * d])) for i in range(3))
    z = job.product(q, transposed(k)) * scale
    seen = np.tril(np.ones((t, t), bool)) if layer["causal"] else np.ones((t, t), bool)
    top = np.where(seen, z, F4(-np.inf)).max(axis=2, keepdims=True)
    w = np.where(seen, np.rint(exp32(np.where(seen, z - top, F4(0))) * F4(2**23)), F4(0))
    a = w / w.astype(F8).sum(axis=2, keepdims=True).astype(F4)
    qa = job.quantise(a)
    y, back_out = linear(job, p, out, name + "out.", side_by_side(job.product(qa, v)))

    def back(g: Array) -> Array:
        o = job.quantise(cut(back_out(g)))
        e = job.product(o, transposed(v))
        s = job.quantise(a * (e - total(a * e, (2,)).astype(F4)) * scale)
        three = job.product(s, k), job.product(transposed(s), q), job.product(transposed(qa), o)
        return back_in(np.concatenate([side_by_side(each) for each in three], axis=2))

    return y, back


def gelu(x: Array) -> tuple[Array, Back]:
    x2 = x * x
    u = ((x2 * F4(0.044715) + F4(1)) * x) * F4(1.5957691216057308)
    s = F4(1) / (F4(1) + exp32(-u))
    slope = (x2 * F4(0.134145) + F4(1)) * F4(1.5957691216057308)
    return x * s, lambda g: ((((F4(1) - s) * s) * slope) * x + s) * g


def one_layer(job: Job, p: Gradients, out: Gradients, placed: Any, x: Array) -> tuple[Array, Back]:
    """(output, gradient of the output -> gradient of x); the latter fills `out`."""
    layer, name, inner = placed
    kind = layer["kind"]
    if kind == "residual":
        y, back = chain(job, p, out, inner, x)
        return x + y, lambda g: g + back(g)
    if kind == "linear":
        return linear(job, p, out, name, x)
    if kind == "conv2d":
        return conv2d(job, p, out, name, layer, x)
    if kind in ("max_pool", "average_pool"):
        return pool(layer, x)
    if kind == "layer_norm":
        return layer_norm(p, out, name, x)
    if kind == "attention":
        return attention(job, p, out, name, layer, x)
    if kind == "gelu":
        return gelu(x)
    if kind == "relu":
        return np.where(x > 0, x, F4(0)), lambda g: np.where(x > 0, g, F4(0))
    if kind == "flatten":
        return x.reshape(len(x), -1), lambda g: g.reshape(x.shape)

    def back_to_weight(g: Array) -> Array:
        q, k = job.quantise(g)
        weight = np.zeros(p[name + "weight"].shape, F8)
        if kind == "embedding":
            np.add.at(weight, x.astype(np.int64), q.astype(F8))
        else:
            weight += q.astype(F8).sum(axis=0)
        out[name + "weight"] = rescaled(weight, k)
        return g

    return (p[name + "weight"][x.astype(np.int64)] if kind == "embedding" else x + p[name + "weight"]), back_to_weight


def chain(job: Job, p: Gradients, out: Gradients, layers: list[Any], x: Array) -> tuple[Array, Back]:
    backs: list[Back] = []
    for placed in layers:
        x, back = one_layer(job, p, out, placed, x)
        backs.append(back)

    def all_back(g: Array) -> Array:
        for back in reversed(backs):
            g = back(g)
        return g

    return x, all_back


def parameters(state: dict[str, Array]) -> dict[str, Array]:
    return {name[10:]: value for name, value in state.items() if name.startswith("parameter/")}


def initial(job: Job) -> dict[str, Array]:
    state: dict[str, Array] = {}
    for name, shape in job.places:
        value = np.ones(shape, F4) if name in job.norms else np.zeros(shape, F4)
        if len(shape) > 1:
            u = stream(job.m["init_seed"], f"init/{name}", math.prod(shape)).astype(F8)
            bound = math.sqrt(6 / math.prod(shape[1:]))
            value = (((u + 0.5) * 2.0**-31 - 1) * bound).astype(F4).reshape(shape)
        state[f"parameter/{name}"] = value
        if job.m["momentum"] or job.m["adam"]:
            state[f"velocity/{name}"] = np.zeros(shape, F4)
        if job.m["adam"]:
            state[f"square/{name}"] = np.zeros(shape, F4)
    return state | ({"adam/powers": np.ones(2, F4)} if job.m["adam"] else {})


def targets(job: Job, labels: Array, outputs: int) -> Array:
    loss = job.model["loss"]
    return labels[:, None].astype(F8) * 2.0 ** loss["scale"] if loss["levels"] else np.eye(outputs)[labels]


def loss_gradient(job: Job, z: Array, labels: Array) -> Array:
    if job.model["loss"]["kind"] == "mean_squared_error":
        return (((z.astype(F8) - targets(job, labels, z.shape[1])) * 2) / F8(z.size)).astype(F4)
    _, w, t = softmax_parts(z)
    return ((w / t - np.eye(z.shape[1])[labels]) / F8(len(z))).astype(F4)


def step(job: Job, state: dict[str, Array], gradients: Gradients) -> None:
    rate, beta1, decay = F4(job.m["learning_rate"]), F4(job.m["momentum"]), F4(job.m["weight_decay"])
    adam = job.m["adam"]
    if adam:
        beta2, epsilon = F4(adam["beta2"]), F4(adam["epsilon"])
        state["adam/powers"] = powers = state["adam/powers"] * np.array([beta1, beta2])
        stride = rate / (F4(1) - powers[0])
    for name, _ in job.places:
        p, d = state[f"parameter/{name}"], gradients[name]
        d = d + p * decay if decay else d
        if adam:
            v = state[f"velocity/{name}"] = state[f"velocity/{name}"] * beta1 + d * (F4(1) - beta1)
            s = state[f"square/{name}"] = state[f"square/{name}"] * beta2 + (d * d) * (F4(1) - beta2)
            state[f"parameter/{name}"] = p - (v * stride) / (np.sqrt(s / (F4(1) - powers[1])) + epsilon)
            continue
        if beta1:
            d = state[f"velocity/{name}"] = state[f"velocity/{name}"] * beta1 + d
        state[f"parameter/{name}"] = p - d * rate


def train(
    job: Job, state: dict[str, Array], features: Array, labels: Array, batch_seed: bytes, listed: Array | None = None
) -> dict[str, Array]:
    """features float32 [train, F], labels int [train]; listed [steps, batch_size]; returns the next state."""
    state = dict(state)
    size = job.m["batch_size"]
    per = len(labels) // size
    for number in range(job.m["steps"]):
        if listed is None:
            epoch, place = divmod(number, per)
            order = permutation(batch_seed, f"batches/{epoch}", len(labels))
            rows = order[place * size : (place + 1) * size]
        else:
            rows = listed[number]
        gradients: Gradients = {}
        z, back = chain(job, parameters(state), gradients, job.layers, shaped(job, features[rows]))
        back(loss_gradient(job, z, labels[rows]))
        step(job, state, gradients)
    return state


def shaped(job: Job, x: Array) -> Array:
    return x.reshape(len(x), *job.model["input"])


def score(job: Job, state: dict[str, Array], features: Array, labels: Array) -> tuple[int, int]:
    correct = 0
    for start in range(0, len(labels), 1024):
        z, _ = chain(job, parameters(state), {}, job.layers, shaped(job, features[start : start + 1024]))
        found = z.argmax(axis=1)  # numpy names the first of equals
        if job.model["loss"].get("levels"):
            found = np.clip(np.rint(z[:, 0] * 2.0 ** -job.model["loss"]["scale"]), 0, job.model["loss"]["levels"] - 1)
        correct += int((found == labels[start : start + 1024]).sum())
    return correct, len(labels)


def canonical(state: dict[str, Array], bits: int) -> bytes:
    out = b"flstate1" + struct.pack("<HHI", 1, bits, len(state))
    for name in sorted(state):
        value = state[name] + F4(0)
        out += struct.pack("<B", len(name)) + name.encode() + struct.pack("<BB", 1, value.ndim)
        out += struct.pack(f"<{value.ndim}I", *value.shape) + value.astype("<f4").tobytes()
    return out


def listed_batches(job: Job, data: bytes, number: int, attempt: int) -> Array:
    """Of round `number`, attempt `attempt`, both from 1: [steps, batch_size]."""
    steps, size = job.m["steps"], job.m["batch_size"]
    assert (len(data), hashlib.sha256(data).digest()) == (job.m["batches"]["size"], job.m["batches"]["digest"])
    rounds = (len(data) - 20) // (4 * steps * size)
    assert data[:20] == b"flbatch1" + struct.pack("<III", rounds, steps, size)
    rows = np.frombuffer(data, "<u4", offset=20).reshape(rounds, steps, size)
    row = rows[(number - 1) % rounds]
    return np.stack([row[(s + attempt - 1) % steps] for s in range(steps)])


def dataset(data: bytes) -> tuple[Array, Array, int]:
    """(features float32 [samples, F], labels [samples], number of training samples)."""
    assert data[:8] in (b"fldata01", b"fldata02")
    element, scale, _, train, test, rank = struct.unpack_from("<BbHIIB", data, 8)
    shape = struct.unpack_from(f"<{rank}I", data, 21)
    samples, at = train + test, 21 + 4 * rank + (4 if data[:8] == b"fldata02" else 0)
    labels = np.frombuffer(data, "<u2", samples, at).astype(np.int64)
    raw = np.frombuffer(data, {1: np.uint8, 2: "<f4"}[element], samples * math.prod(shape), at + 2 * samples)
    return raw.astype(F4).reshape(samples, -1) * F4(2.0**scale), labels, train
