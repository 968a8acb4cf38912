"""Trains the same under many settings of one machine: exact training ends in one digest, float32 torch in several.

`make sweep` trains every job under all settings and writes a table, tests/learner/test_sweep.py a few under a few.
Every setting is a process of its own, because libraries read theirs once. The float32 column shows that the settings
do change something.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[2]
FLOAT32: Final = "float32"
WIDE: Final = "wide mlp"
PLAIN: Final = ("mlp", WIDE)  # jobs that ordinary torch does too
LIMIT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Setting:
    """How a process is run. `threads` 0 means one for each processor."""

    name: str
    threads: int = 2
    environment: Mapping[str, str] = field(default_factory=dict)
    onednn: bool = True
    flush: bool = False
    needs: str = ""  # a flag of /proc/cpuinfo
    device: str = "cpu"
    tf32: bool = False


_CAPABILITIES: Final = {"default": "", "avx2": "avx2", "avx512": "avx512f"}
SETTINGS: Final = (
    *(
        Setting(f"{threads or 'all'} threads, {capability}", threads, {"ATEN_CPU_CAPABILITY": capability}, needs=needs)
        for threads in (1, 2, 0)
        for capability, needs in _CAPABILITIES.items()
    ),
    *(
        Setting(f"oneDNN at most {isa}", environment={"ONEDNN_MAX_CPU_ISA": isa})
        for isa in ("SSE41", "AVX2", "AVX512_CORE")
    ),
    *(Setting(f"MKL_CBWR={mode}", environment={"MKL_CBWR": mode}) for mode in ("COMPATIBLE", "SSE4_2", "AVX2")),
    Setting("without oneDNN", onednn=False),
    Setting("subnormals flushed", flush=True),
    Setting("CUDA", device="cuda:0"),
    Setting("CUDA, TF32 allowed", device="cuda:0", tf32=True),
)
FEW: Final = tuple(
    next(each for each in SETTINGS if each.name == name)
    for name in ("1 threads, default", "2 threads, avx2", "MKL_CBWR=COMPATIBLE", "subnormals flushed")
)


def digests(setting: Setting, jobs: Iterable[str] = ()) -> dict[str, str]:
    """Job and backend (or FLOAT32) -> digest of the end of training, in a new process.

    Args:
        jobs: which; none means all.
    """
    options = {
        "threads": setting.threads or os.cpu_count(), "onednn": setting.onednn, "flush": setting.flush,
        "device": setting.device, "tf32": setting.tf32, "jobs": list(jobs),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.learner.sweep", "--child", json.dumps(options)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | dict(setting.environment),
        capture_output=True,
        text=True,
        check=True,
        timeout=LIMIT_S,
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def is_possible(setting: Setting) -> bool:
    """Does this machine have what the setting needs?"""
    if setting.device != "cpu":
        return Path("/dev/nvidia0").exists()
    cpuinfo = Path("/proc/cpuinfo")
    return not setting.needs or not cpuinfo.exists() or setting.needs in cpuinfo.read_text().split()


def by_job(found: Iterable[Mapping[str, str]]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """(exact digests of each job over all backends, float32 digests of each job)."""
    exact: dict[str, set[str]] = {}
    plain: dict[str, set[str]] = {}
    for each in found:
        for name, digest in each.items():
            job, _, how = name.partition("/")
            (plain if how == FLOAT32 else exact).setdefault(job, set()).add(digest)
    return exact, plain


def train(chosen: Sequence[str], device: str) -> Iterator[tuple[str, str]]:
    """In the child: every golden run, and a model wide enough that threads really share its work, on every backend.

    Args:
        chosen: only these; none means all.
    """
    import torch

    from learner import golden, selfcheck
    from learner.speed import LARGE
    from learner.train import initial_bytes, load_samples, train_round

    jobs = {name: golden.golden_job(name) for name in golden.PRESETS}
    jobs[WIDE] = golden.made_up_job("wide mlp", replace(LARGE, train=512), 4, 256)
    for name in chosen or jobs:
        manifest, dataset = jobs[name]
        base = initial_bytes(manifest)
        for backend in selfcheck.BACKENDS:
            machine = selfcheck.machine_with(torch.device(device), backend)
            state = train_round(manifest, base, load_samples(dataset, machine), golden.SEED, machine)
            yield f"{name}/{backend}", hashlib.sha256(state).hexdigest()
        if name in PLAIN:
            yield f"{name}/{FLOAT32}", _plain(manifest, base, load_samples(dataset, machine))


def _plain(manifest: object, base: bytes, samples: object) -> str:
    """The same model, batches and optimiser in ordinary float32 torch; the digest of its parameters."""
    import torch
    from torch.nn.functional import cross_entropy, linear, relu

    from learner import golden
    from learner.batches import batches
    from learner.manifest import Manifest
    from learner.tensors import decode_state
    from learner.train import Samples, parameters_of

    assert isinstance(manifest, Manifest)
    assert isinstance(samples, Samples)
    device = samples.features.device
    state = {name: each.to(device) for name, each in parameters_of(decode_state(base, manifest)).items()}
    velocity = {name: torch.zeros_like(each) for name, each in state.items()}
    layers = len(state) // 2
    with torch.enable_grad():
        for each in state.values():
            each.requires_grad_()
        for indices in batches(golden.SEED, samples.train, manifest.batch_size, manifest.steps):
            x = samples.features[indices]
            for layer in range(layers):
                x = linear(x, state[f"{layer:02}.weight"], state[f"{layer:02}.bias"])
                x = relu(x) if layer < layers - 1 else x
            gradients = torch.autograd.grad(cross_entropy(x, samples.labels[indices]), list(state.values()))
            with torch.no_grad():
                for (name, each), gradient in zip(state.items(), gradients, strict=True):
                    velocity[name] = velocity[name] * manifest.momentum + gradient
                    each -= manifest.learning_rate * velocity[name]
    raw = b"".join(each.detach().cpu().numpy().tobytes() for each in state.values())
    return hashlib.sha256(raw).hexdigest()


def child(options: Mapping[str, Any]) -> None:
    """Set what a running process can set, and train."""
    import torch

    torch.set_grad_enabled(False)
    torch.set_num_threads(options["threads"])
    torch.backends.mkldnn.enabled = bool(options["onednn"])  # type: ignore[assignment]
    torch.set_flush_denormal(bool(options["flush"]))
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = bool(options["tf32"])
    print(json.dumps(dict(train(options["jobs"], options["device"]))))


def report(settings: Iterable[Setting]) -> tuple[str, bool]:
    """(a table, whether each job has one exact digest)."""
    found = {each.name: digests(each) for each in settings if is_possible(each)}
    skipped = [each.name for each in settings if not is_possible(each)]
    exact, _ = by_job(found.values())
    names = list(next(iter(found.values())))
    width = max(map(len, [*found, "DIFFERENT DIGESTS"]))
    lines = ["  ".join(["SETTING".ljust(width), *(name.ljust(18) for name in names)])]
    for setting, of_setting in found.items():
        lines.append("  ".join([setting.ljust(width), *(of_setting[name][:12].ljust(18) for name in names)]))
    counts = (len({of_setting[name] for of_setting in found.values()}) for name in names)
    lines.append("  ".join(["DIFFERENT DIGESTS".ljust(width), *(str(count).ljust(18) for count in counts)]))
    lines += [f"exact, all backends together: {job}: {len(each)}" for job, each in exact.items()]
    lines += [f"not on this machine: {name}" for name in skipped]
    return "\n".join(line.rstrip() for line in lines) + "\n", all(len(each) == 1 for each in exact.values())


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.learner.sweep")
    parser.add_argument("--out", type=Path, help="also write the table here")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child is not None:
        child(options.child)
        return 0
    text, exact = report(SETTINGS)
    print(text, end="")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(text, encoding="utf-8")
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
