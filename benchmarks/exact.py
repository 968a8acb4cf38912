"""Exact training beside float32 torch, in one run: `python -m benchmarks.exact --data DIR` (MNIST as IDX files).

Both sides start from the same weights, see the same batches and take the same kind of steps. Time is that of a step,
the two sides in turns, best of many: with one thread its CPU time, not what others took of the machine. Memory is what
the process holds at most beyond what it held before it trained.
"""

from __future__ import annotations

import argparse
import gzip
import os
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as f
from torch import Tensor, nn

from learner import architecture as a
from learner import presets
from learner.batches import batches
from learner.evaluate import evaluate
from learner.exact.backends.choose import BACKENDS
from learner.exact.optim import optimiser
from learner.machine import Machine
from learner.manifest import Manifest
from learner.models import initial_state, loss_gradient
from learner.tensors import State
from learner.train import Samples, initial_bytes, parameters_of, train_round

SEED: Final = bytes(32)
TURNS, STEPS_PER_TURN = 12, 2  # of timing: short, so that a busy machine leaves some of them alone
CPU: Final = torch.device("cpu")
MODELS: Final[dict[str, tuple[a.Model, int, float]]] = {  # model, batch size, aim as a ratio
    "mlp 784-128-10": (presets.mlp((784, 128, 10)), 64, 2.0),
    "mlp 784-1024-1024-10": (presets.mlp((784, 1024, 1024, 10)), 64, 1.5),
    "cnn": (presets.cnn((1, 28, 28), 10), 64, 2.5),
    "transformer": (presets.transformer((28, 28), 10, 64, 4, 2), 64, 3.0),
}
EPOCHS: Final = {"mlp 784-128-10": 5, "cnn": 4}
LEARNING_RATE: Final = {"cnn": 0.02}  # 0.05 for the others


class Block(nn.Module):
    """A placed layer by torch; parameters are given by name."""

    def __init__(self, placed: a.Placed, state: State) -> None:
        super().__init__()
        self.placed = placed
        self.inner = nn.Sequential(*(Block(each, state) for each in placed.inner))
        for field in placed.parameters():
            value = nn.Parameter(state[f"parameter/{field.name}"].clone())
            self.register_parameter(field.name.removeprefix(placed.prefix).replace(".", "_"), value)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        match self.placed.layer:
            case a.Linear():
                return f.linear(x, self.weight, self.bias)
            case a.Conv2d(stride=stride, padding=padding):
                return f.conv2d(x, self.weight, self.bias, stride, padding)
            case a.MaxPool(size=size, stride=stride):
                return f.max_pool2d(x, size, stride)
            case a.Position():
                return x + self.weight
            case a.LayerNorm():
                return f.layer_norm(x, x.shape[-1:], self.weight, self.bias)
            case a.Attention(heads=heads, causal=causal):
                parts = f.linear(x, self.in_weight, self.in_bias).chunk(3, dim=-1)
                split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts]
                mixed = f.scaled_dot_product_attention(*split, is_causal=causal)
                return f.linear(mixed.transpose(1, 2).flatten(2), self.out_weight, self.out_bias)
            case a.Gelu():
                return f.gelu(x, approximate="tanh")
            case a.Relu():
                return f.relu(x)
            case a.Flatten():
                return x.flatten(1)
            case _:
                return x + self.inner(x)


class Float32:
    """The same job by torch."""

    def __init__(self, manifest: Manifest) -> None:
        self.model = manifest.model
        state = initial_state(manifest)
        self.network = nn.Sequential(*(Block(placed, state) for placed in self.model.placed()))
        self.optimiser = torch.optim.SGD(self.network.parameters(), manifest.learning_rate, manifest.momentum)

    def step(self, x: Tensor, labels: Tensor) -> None:
        """One step."""
        self.optimiser.zero_grad()
        with torch.enable_grad():
            f.cross_entropy(self.network(x.view(-1, *self.model.input)), labels).backward()
        self.optimiser.step()

    def correct(self, samples: Samples) -> int:
        """Of the test samples."""
        x, y = samples.features[samples.train :], samples.labels[samples.train :]
        found = [self.network(part.view(-1, *self.model.input)).argmax(1) for part in x.split(1000)]
        return int((torch.cat(found) == y).sum())


class Exact:
    """The job as a learner does it, step by step."""

    def __init__(self, manifest: Manifest, machine: Machine) -> None:
        self.model, self.network = manifest.model, machine.network(manifest)
        self.state = initial_state(manifest)
        self.parameters = parameters_of(self.state)
        self.optimiser = optimiser(manifest, self.state, CPU)

    def step(self, x: Tensor, labels: Tensor) -> None:
        """One step."""
        outputs, tapes = self.network.forward(self.parameters, x)
        gradients = self.network.backward(self.parameters, tapes, loss_gradient(self.model, outputs, labels))
        self.optimiser.step(gradients)


def load(folder: Path) -> Samples:
    """MNIST: 60,000 samples for training, 10,000 for testing."""

    def read(name: str, header: int) -> Tensor:
        raw = gzip.decompress((folder / name).read_bytes())
        count = struct.unpack_from(">I", raw, 4)[0]
        return torch.frombuffer(bytearray(raw[header:]), dtype=torch.uint8).view(count, -1)

    images = torch.cat([read(f"{part}-images-idx3-ubyte.gz", 16) for part in ("train", "t10k")])
    labels = torch.cat([read(f"{part}-labels-idx1-ubyte.gz", 8) for part in ("train", "t10k")])
    return Samples(images.float() * 2.0**-8, labels[:, 0].long(), 60_000)


def job(name: str, bits: int, steps: int) -> Manifest:
    """Of one model."""
    model, batch_size, _ = MODELS[name]
    return Manifest(
        model=model, dataset=bytes(32), dataset_size=1, batch_size=batch_size, steps=steps,
        learning_rate=LEARNING_RATE.get(name, 0.05),
        momentum=0.9, bits=bits, init_seed=SEED,
    )  # fmt: skip


def milliseconds(steps: list[Callable[[Tensor, Tensor], None]], samples: Samples, manifest: Manifest) -> list[float]:
    """Of a step on each side: the sides take turns, and of each the best turn counts."""
    best = [float("inf")] * len(steps)
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    chosen = list(batches(SEED, samples.train, manifest.batch_size, STEPS_PER_TURN))
    for _ in range(TURNS):
        for side, step in enumerate(steps):
            started = clock()
            for indices in chosen:
                step(samples.features[indices], samples.labels[indices])
            best[side] = min(best[side], (clock() - started) * 1e3 / len(chosen))
    return best


def time_all(samples: Samples, bits: int, names: list[str]) -> None:
    """A table of milliseconds a step and ratios."""
    machines: dict[str, Machine] = {"auto": Machine(CPU, None)}
    machines |= {name: Machine(CPU, backend) for name, backend in BACKENDS.items()}
    print(f"\nmilliseconds a step, b = {bits} (ratio to float32)")
    print(f"{'':22}{'float32':>9}" + "".join(f"{name:>18}" for name in machines) + f"{'aim':>8}")
    for name in names:
        manifest = job(name, bits, 1)
        sides = [Float32(manifest).step, *(Exact(manifest, machine).step for machine in machines.values())]
        float32, *exact = milliseconds(sides, samples, manifest)
        cells = "".join(f"{ms:>10.2f} ({ms / float32:4.2f}x)" for ms in exact)
        print(f"{name:22}{float32:>9.2f}{cells}{MODELS[name][2]:>7}x", flush=True)


def accuracies(samples: Samples, bits: int, names: list[str]) -> None:
    """A table of test accuracies after some epochs."""
    print(f"\ntest accuracy, b = {bits}")
    for name in names:
        epochs = EPOCHS[name]
        manifest = job(name, bits, samples.train // MODELS[name][1] * epochs)
        other = Float32(manifest)
        for indices in batches(SEED, samples.train, manifest.batch_size, manifest.steps):
            other.step(samples.features[indices], samples.labels[indices])
        machine = Machine(CPU, None)
        state = train_round(manifest, initial_bytes(manifest), samples, SEED, machine)
        score, total = evaluate(manifest, state, samples, machine).correct, len(samples.labels) - samples.train
        float32 = other.correct(samples)
        gap = (float32 - score) / total * 100
        print(
            f"{name:22}{epochs} epochs  float32 {float32 / total:.4f}  exact {score / total:.4f}  ({gap:+.2f} points)"
        )
        sys.stdout.flush()


def peak(side: str, name: str, bits: int, samples: Samples) -> None:
    """Print the megabytes that some steps add to the process's greatest size; in a process of its own."""
    manifest = job(name, bits, 1)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak of loading
    before = _peak_kilobytes()
    step = Float32(manifest).step if side == "float32" else Exact(manifest, Machine(CPU, BACKENDS.get(side))).step
    for indices in batches(SEED, samples.train, manifest.batch_size, 10):
        step(samples.features[indices], samples.labels[indices])
    print((_peak_kilobytes() - before) / 1024)


def _peak_kilobytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def memory(options: argparse.Namespace, names: list[str]) -> None:
    """A table of megabytes."""
    print(f"\nmegabytes that training adds, b = {options.bits} (ratio to float32)")
    for name in names:
        row = []
        for side in ("float32", "auto", *BACKENDS):
            command = [sys.executable, "-m", "benchmarks.exact", "--data", options.data, "--bits", str(options.bits)]
            done = subprocess.run([*command, "--peak", side, name], capture_output=True, text=True, check=True)
            row.append((side, float(done.stdout)))
        cells = "  ".join(f"{side} {mb:.0f} ({mb / row[0][1]:.2f}x)" for side, mb in row)
        print(f"{name:22}{cells}", flush=True)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with the four .gz files of MNIST")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bits", type=int, default=14)
    parser.add_argument(
        "--only", nargs="*", choices=("time", "accuracy", "memory"), default=["time", "accuracy", "memory"]
    )
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.set_grad_enabled(False)
    samples = load(Path(options.data))
    if options.peak:
        peak(options.peak[0], options.peak[1], options.bits, samples)
        return
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"torch {torch.__version__}, {capability}, {options.threads} threads of {os.cpu_count()} cores")
    tables: dict[str, Callable[[], Any]] = {
        "time": lambda: time_all(samples, options.bits, options.models),
        "memory": lambda: memory(options, options.models),
        "accuracy": lambda: accuracies(samples, options.bits, [name for name in EPOCHS if name in options.models]),
    }
    for name in options.only:
        tables[name]()


if __name__ == "__main__":
    main()
