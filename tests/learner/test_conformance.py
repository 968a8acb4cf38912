"""The checks of a machine tell right from wrong, and what they expect does not come from the code that they check."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

import cli.conformance
from cli.errors import NodeError
from cli.main import cli as command
from learner import conformance, golden, selfcheck
from learner.exact.backends import Operand, choose
from learner.exact.backends.choose import BACKENDS
from learner.exact.backends.f64 import Float64
from learner.exact.backends.rescale import rescale
from learner.machine import Machine
from learner.verdict import ANY_BACKEND
from tests.learner import numpy_twin as twin
from tests.learner.examples import sha256

DEVICES = conformance.devices()


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("backend", [ANY_BACKEND, *BACKENDS])
def test_every_backend_of_every_device_gives_the_golden_digests(device: torch.device, backend: str) -> None:
    found = list(selfcheck.judged(selfcheck.machine_with(device, backend), backend, False, golden.recorded()))
    assert [str(verdict) for verdict in found if not verdict.ok] == []
    assert found


def test_what_is_recorded_is_what_is_checked() -> None:
    checks = selfcheck.function_checks() | selfcheck.backend_checks(quick=False)
    assert list(golden.recorded()) == list(checks)
    assert selfcheck.backend_checks(quick=True).keys() < checks.keys()


@pytest.mark.parametrize("name", golden.PRODUCTS)
def test_the_golden_products_are_those_of_64_bit_integers(name: str) -> None:
    case = golden.PRODUCTS[name]
    a, b = (
        case.numbers(*shape).numpy().astype(np.int64)
        for shape in ((case.rows, case.inner, "a"), (case.inner, case.columns, "b"))
    )
    exact = a @ b
    assert name != "cancelling" or abs(exact).max() < 2**24  # else float32 would hide a wrong last bit
    assert sha256(exact.astype("<f4").tobytes()) == golden.recorded()[f"product {name}"]


@pytest.mark.parametrize("name", golden.PRESETS)
def test_the_golden_run_is_that_of_the_numpy_version(name: str) -> None:
    manifest, dataset = golden.golden_job(name)
    job = twin.Job(manifest.encode())
    features, labels, train = twin.dataset(dataset.encode())
    state = twin.train(job, twin.initial(job), features[:train], labels[:train], golden.SEED)
    assert sha256(twin.canonical(state, job.bits)) == golden.recorded()[f"run {name}"]


def multiply(a: Tensor, b: Tensor) -> Tensor:
    return a.double() @ b.double()


class Faulty(Float64):
    """Multiplies as it is told."""

    name = "its backend"

    def __init__(self, how: Callable[[Tensor, Tensor], Tensor]) -> None:
        self.how = how

    def product(self, a: Operand, b: Operand, scale: int) -> Tensor:
        return rescale(self.how(a.limbs[0].float(), b.limbs[0].float()), scale)


def saturating(a: Tensor, b: Tensor) -> Tensor:
    """As int8 instructions without VNNI would, were limbs of 8 bits: pairs of products end at 2**15 - 1."""
    high, low = torch.floor((a + 128) / 256), (a + 128) % 256 - 128
    pairs = (low[:, :, None] * torch.where(b.abs() > 127, b.sign() * 127, b)).clamp(-(2**15), 2**15 - 1).sum(1)
    return (high * 256 @ b + pairs).double()


BROKEN: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "off by one": (lambda a, b: multiply(a, b) + 1, "product cancelling"),
    "float32 sums": (lambda a, b: (a @ b).double(), "product cancelling"),
    "the last row is lost": (lambda a, b: multiply(a[:, :2047], b[:2047]), "product largest"),
    "saturates": (saturating, "product largest"),
    "right but for limbs at their ends": (
        lambda a, b: multiply(torch.where(a.abs() == 8128, a - 1, a), b),
        "product cancelling",
    ),
}


@pytest.mark.parametrize(("broken", "check"), BROKEN.values(), ids=list(BROKEN))
def test_a_machine_that_multiplies_wrongly_does_not_conform(
    broken: Callable[[Tensor, Tensor], Tensor], check: str
) -> None:
    machine = Machine(torch.device("cpu"), Faulty(broken))
    assert selfcheck.nonconformity(machine).startswith(f"{check} on cpu with its backend: expected")


@pytest.mark.parametrize("backend", BACKENDS)
def test_with_backend_auto_each_backend_that_may_be_chosen_is_checked(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKENDS, backend, Faulty(lambda a, b: multiply(a, b) + 1))
    machine = Machine(torch.device("cpu"), None)
    assert selfcheck.nonconformity(machine).startswith("product cancelling on cpu with its backend: expected")


def test_the_fastest_backend_is_chosen_and_one_that_is_no_match_is_timed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"f64": [2.0, 1.0, 3.0], "f32": [1.9, 1.6, 1.6], "int8": [4.0, 0.1, 0.1]}
    timed: list[str] = []

    def seconds_of(run: Callable[[], object], device: torch.device) -> float:
        run()
        timed.append(ran[-1])
        return seconds[ran[-1]][timed.count(ran[-1]) - 1]

    ran: list[str] = []
    monkeypatch.setattr(choose, "seconds_of", seconds_of)
    assert choose.fastest(lambda backend: ran.append(backend.name), torch.device("cpu")).name == "f64"
    assert [timed.count(name) for name in seconds] == [3, 2, 1]
    assert ran[:3] == list(BACKENDS), "each ran once before it was timed"


def test_a_backend_that_fails_is_one_that_differs_and_the_checks_go_on() -> None:
    def refuse(a: Tensor, b: Tensor) -> Tensor:
        raise RuntimeError("no such kernel\nbacktrace")

    found = list(selfcheck.judged(Machine(torch.device("cpu"), Faulty(refuse)), "f64", True, golden.recorded()))
    assert [verdict.ok for verdict in found] == [False] * len(found)
    assert {verdict.found for verdict in found} == {"RuntimeError: no such kernel"}


def test_flushed_subnormals_are_named() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor always keeps subnormal numbers")
    try:
        assert selfcheck.nonconformity(Machine(torch.device("cpu"))).startswith("function subnormals on cpu: expected")
    finally:
        torch.set_flush_denormal(False)


def test_the_command_prints_a_table_and_names_what_differs_with_exit_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = CliRunner().invoke(command, ["conformance", "--quick"])
    assert honest.exit_code == 0, honest.output
    header, *rows = honest.output.splitlines()
    assert (
        header.split() == ["CHECK", "cpu", *(word for backend in BACKENDS for word in ("cpu", backend))] or DEVICES[1:]
    )
    assert any(row.split() == ["run", "mlp", *["equal"] * len(BACKENDS) * len(DEVICES)] for row in rows)

    broken = (
        "import sys, learner.exact.backends.int8 as it8, learner.conformance as it\n"
        "right = it8.Int8.product\n"
        "it8.Int8.product = lambda self, a, b, scale: right(self, a, b, scale) + (a.shape[1] == 1000)\n"
        "sys.exit(it.main(sys.argv[1:]))"
    )
    monkeypatch.setattr(cli.conformance, "PROGRAM", (cli.conformance.PROGRAM[0], "-P", "-c", broken))
    caught = CliRunner().invoke(command, ["conformance", "--quick", "--json"])
    assert isinstance(caught.exception, NodeError)
    assert "product limbs on cpu with int8: expected" in str(caught.exception)
    told = {(each["check"], each["backend"]): each["ok"] for each in json.loads(caught.output)}
    assert [name for name, ok in told.items() if not ok] == [("product limbs", "int8")]


def test_without_torch_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = "import sys; sys.modules['torch'] = None; import learner.conformance"
    monkeypatch.setattr(cli.conformance, "PROGRAM", (cli.conformance.PROGRAM[0], "-P", "-c", lacking))
    caught = CliRunner().invoke(command, ["conformance"])
    assert isinstance(caught.exception, NodeError)
    assert "torch" in str(caught.exception)
