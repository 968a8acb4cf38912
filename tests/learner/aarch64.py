"""The golden digests on aarch64, under emulation: `make conformance-aarch64`.

An arm64 Python (Debian's, unpacked, not installed), numpy and a CPU build of torch go to build/aarch64 once. Then the
numpy version trains every golden run, and torch does every check of `flnode conformance` (with --quick: a worker's).
torch is not the pinned one: the index has that for aarch64 only with CUDA. Exit status: 1 when a digest differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
BUILD: Final = ROOT / "build" / "aarch64"
SUITE, PYTHON = "bookworm", "3.11"
DEBIAN: Final = ("python3", "libpython3.11-stdlib", "libstdc++6", "libgomp1")
TORCH: Final = "2.8.0"
PINNED: Final = (
    "numpy", "msgspec", "typing_extensions", "filelock", "sympy", "mpmath", "networkx", "Jinja2", "fsspec"
)  # fmt: skip
PLATFORMS: Final = ("manylinux2014_aarch64", "manylinux_2_27_aarch64", "manylinux_2_28_aarch64")
LIMIT_S: Final = 3600  # of each part; emulated, all of it takes a quarter of an hour


def emulator() -> list[str]:
    """How to start an arm64 Python; on such a machine this one."""
    if platform.machine() in ("aarch64", "arm64"):
        return [sys.executable]
    qemu = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if qemu is None or (shutil.which("mmdebstrap") is None and not (BUILD / "root").exists()):
        raise SystemExit("make conformance-aarch64 needs qemu-aarch64-static and mmdebstrap: on Debian\n"
                         "    apt-get install qemu-user-static mmdebstrap")  # fmt: skip
    return [qemu, "-L", str(BUILD / "root"), str(BUILD / "root" / "usr" / "bin" / f"python{PYTHON}")]


def prepare() -> None:
    """Fetch what is not there yet."""
    BUILD.mkdir(parents=True, exist_ok=True)
    if not (BUILD / "root").exists():
        partial = BUILD / "root.partial"
        shutil.rmtree(partial, ignore_errors=True)
        packages = f"--include={','.join(DEBIAN)}"
        command = ["mmdebstrap", "--quiet", "--arch=arm64", "--variant=extract", packages, SUITE, str(partial)]
        subprocess.run(command, check=True)
        partial.rename(BUILD / "root")
    if not (BUILD / "site").exists():
        partial, wheels = BUILD / "site.partial", BUILD / "wheels"
        shutil.rmtree(partial, ignore_errors=True)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
        pip += ["--only-binary=:all:", "--python-version", PYTHON, "--dest", str(wheels)]
        pip += [option for each in PLATFORMS for option in ("--platform", each)]
        subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), *PINNED], check=True)
        subprocess.run([*pip, f"torch=={TORCH}"], check=True)
        for wheel in wheels.glob("*.whl"):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(partial)
        partial.rename(BUILD / "site")


def write_jobs() -> None:
    """Manifests and datasets of the golden runs, so that the numpy version needs no torch there."""
    from learner import golden

    (BUILD / "jobs").mkdir(exist_ok=True)
    for name in golden.PRESETS:
        manifest, dataset = golden.golden_job(name)
        (BUILD / "jobs" / f"{name}.manifest").write_bytes(manifest.encode())
        (BUILD / "jobs" / f"{name}.dataset").write_bytes(dataset.encode())


def twin_runs() -> bool:
    """There: every golden run by the numpy version; whether all digests are the recorded ones."""
    from tests.learner import numpy_twin as twin

    recorded = json.loads((ROOT / "learner" / "data_files" / "golden.json").read_text())
    conforms = True
    for path in sorted((BUILD / "jobs").glob("*.manifest")):
        job = twin.Job(path.read_bytes())
        features, labels, train = twin.dataset(path.with_suffix(".dataset").read_bytes())
        state = twin.train(job, twin.initial(job), features[:train], labels[:train], bytes(32))
        ok = hashlib.sha256(twin.canonical(state, job.bits)).hexdigest() == recorded[f"run {path.stem}"]
        print(f"{platform.machine()} numpy  run {path.stem:20} {'equal' if ok else 'DIFFERS'}", flush=True)
        conforms &= ok
    return conforms


def torch_checks(python: list[str], environment: dict[str, str], quick: bool) -> bool:
    """Every check by torch, a line each."""
    command = [*python, "-P", "-m", "learner.conformance", *(["--quick"] if quick else [])]
    checks = 0
    with subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            found = json.loads(line)
            verdict = "equal" if found["ok"] else f"DIFFERS: {found['found']}"
            print(f"aarch64 torch {TORCH}  {found['check']:25} {found['backend']:5} {verdict}", flush=True)
            checks += 1
    return process.returncode == 0 and checks > 0


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="tests.learner.aarch64")
    parser.add_argument("--quick", action="store_true", help="only what a worker checks at its start")
    parser.add_argument("--there", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.there:
        return 0 if twin_runs() else 1
    python = emulator()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    if len(python) > 1:
        prepare()
        paths = os.pathsep.join((str(BUILD / "site"), str(ROOT)))
        environment |= {"PYTHONHOME": str(BUILD / "root" / "usr"), "PYTHONPATH": paths}
    BUILD.mkdir(parents=True, exist_ok=True)
    write_jobs()
    there = [*python, "-P", "-m", "tests.learner.aarch64", "--there"]
    twin_equal = subprocess.run(there, env=environment, cwd=ROOT, timeout=LIMIT_S, check=False).returncode == 0
    torch_equal = torch_checks(python, environment, options.quick)
    print("all equal" if twin_equal and torch_equal else "NOT CONFORMING")
    return 0 if twin_equal and torch_equal else 1


if __name__ == "__main__":
    sys.exit(main())
