"""What a job may ask torch for, where its first weights may come from, and what it will need."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest
import torch

from learner import data, presets
from learner.architecture import Flatten, Linear, Model
from learner.errors import InvalidState
from learner.exact import guard
from learner.exact.backends import Operand
from learner.exact.backends.choose import BACKENDS
from learner.exact.backends.f64 import Float64
from learner.exact.backends.rescale import BLOCK
from learner.exact.guard import Guard, OperationRefused
from learner.exact.integers import Arithmetic
from learner.machine import CPU, Machine
from learner.manifest import Adam, Manifest, Weights
from learner.tensors import decode_state
from learner.train import initial_bytes, load_samples, train_round
from tests.learner.examples import DIGITS, digits_manifest


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.softmax(1), lambda x: x.exp(), lambda x: x.mean(), lambda x: x.sqrt(), lambda x: x.sqrt_(),
        lambda x: torch.addcmul(x, x, x), lambda x: x.lerp(x, 0.5), lambda x: x.add(x, alpha=0.3),
        lambda x: torch.nn.functional.layer_norm(x, x.shape[1:]), lambda x: torch.conv2d(x[None, None], x[None, None]),
        lambda x: torch.rand(3), lambda x: x.tanh(), lambda x: x.pow(2.0), lambda x: x.reciprocal(),
        lambda x: x.cumsum(0), lambda x: x.argmax(1), lambda x: torch.linalg.norm(x),
    ],
)  # fmt: skip
def test_an_operation_that_may_differ_between_machines_is_refused_by_name(operation: object) -> None:
    with pytest.raises(OperationRefused, match="aten::"), Guard():
        operation(torch.ones(3, 3))  # type: ignore[operator]


def test_what_the_arithmetic_needs_is_allowed() -> None:
    with Guard():
        x = torch.ones(3, 3)
        assert (x * 2.0 + x).add_(x, alpha=0.25).sum(0, dtype=torch.float64).tolist() == [9.75] * 3


def test_a_job_runs_under_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = load_samples(data.decode(DIGITS), CPU)
    manifest = digits_manifest(steps=2)
    monkeypatch.setattr(guard, "ALLOWED", guard.ALLOWED - {"aten::mm"})
    with pytest.raises(OperationRefused, match="aten::mm"):
        train_round(manifest, initial_bytes(manifest), samples, bytes(32))


def test_a_backend_that_strays_is_stopped() -> None:
    class Straying(Float64):
        def product(self, a: Operand, b: Operand, scale: int) -> torch.Tensor:
            return super().product(a, b, scale).exp().log()

    manifest = digits_manifest(steps=2)
    with pytest.raises(OperationRefused, match="aten::exp"):
        train_round(
            manifest,
            initial_bytes(manifest),
            load_samples(data.decode(DIGITS), CPU),
            bytes(32),
            Machine(torch.device("cpu"), Straying()),
        )


@pytest.mark.parametrize("name", BACKENDS)
def test_large_tensors_are_worked_on_in_blocks_with_the_same_result(name: str) -> None:
    rows = BLOCK // 256 * 3 + 5
    a = torch.arange(rows * 256).view(rows, 256).remainder(997).float() - 300.0
    b = torch.arange(256 * 300).view(256, 300).remainder(991).float() - 500.0
    arithmetic, reference = Arithmetic(14, BACKENDS[name]), Arithmetic(14, BACKENDS["f64"])
    whole = reference.integers(a)
    exact = whole.values.to(torch.int64) @ reference.integers(b).values.to(torch.int64)
    expected = (exact.double() * 2.0 ** -(whole.scale + reference.integers(b).scale)).float()
    assert torch.equal(arithmetic.product(arithmetic.quantise(a), arithmetic.quantise(b)), expected)


def named(manifest: Manifest, weights: bytes) -> Manifest:
    return msgspec.structs.replace(manifest, weights=Weights(bytes(32), len(weights)))


def test_a_job_can_go_on_from_the_weights_of_another_with_the_same_layers() -> None:
    samples = load_samples(data.decode(DIGITS), CPU)
    first = digits_manifest(steps=3)
    trained = train_round(first, initial_bytes(first), samples, bytes(32))
    second = named(digits_manifest(adam=Adam(), bits=8), trained)
    state = decode_state(initial_bytes(second, trained), second)
    before = decode_state(trained, first)
    for field in second.model.parameters():
        assert torch.equal(state[f"parameter/{field.name}"], before[f"parameter/{field.name}"])
        assert not state[f"velocity/{field.name}"].any()
    assert len(initial_bytes(second, trained)) == second.update_size()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (presets.mlp((64, 32, 10)), r"parameter/00.weight has the shape \[64, 64\], the model needs \[32, 64\]"),
        (presets.mlp((64, 64, 64, 10)), r"parameter/01.weight has the shape \[10, 64\], the model needs \[64, 64\]"),
        (Model((64,), (Linear(64), Linear(10), Flatten(), Linear(10))), "no tensor parameter/02.weight"),
        (Model((64,), (Linear(64),)), "parameter/01.* is no parameter of the model"),
    ],
)
def test_weights_of_other_layers_are_refused_by_name(model: Model, message: str) -> None:
    other = initial_bytes(digits_manifest())
    with pytest.raises(InvalidState, match=message):
        initial_bytes(named(digits_manifest(model=model), other), other)


def test_weights_come_exactly_if_they_are_asked_for() -> None:
    manifest, weights = digits_manifest(), initial_bytes(digits_manifest())
    with pytest.raises(InvalidState, match="not asked for"):
        initial_bytes(manifest, weights)
    with pytest.raises(InvalidState, match="missing"):
        initial_bytes(named(manifest, weights))
    with pytest.raises(InvalidState, match="ends inside"):
        initial_bytes(named(manifest, weights), weights[:-1])
    with pytest.raises(InvalidState, match="magic"):
        initial_bytes(named(manifest, weights), b"\x80\x04." + weights)


@pytest.mark.parametrize(
    "model",
    [presets.mlp((64, 512, 10)), presets.cnn((1, 28, 28), 10), presets.transformer((28, 28), 10)],
    ids=["mlp", "cnn", "transformer"],
)
def test_a_step_s_memory_stays_below_what_the_manifest_foretells(model: Model) -> None:
    manifest = digits_manifest(model=model, batch_size=32)
    network = CPU.network(manifest)
    parameters = {field.name: torch.full(field.shape, 0.01) for field in model.parameters()}
    live = [0]
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as profile:
        outputs, tapes = network.forward(parameters, torch.ones(32, model.features))
        network.backward(parameters, tapes, torch.ones_like(outputs))
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda each: each.start_ns()):
        if event.name() == "[memory]":
            live.append(live[-1] + event.nbytes())
    assert 2**19 < max(live) <= manifest.cost().memory_bytes


def test_the_guard_imports_no_compiler() -> None:
    program = (
        "import sys, torch\n"
        "from learner.exact.guard import Guard\n"
        "with Guard():\n"
        "    torch.ones(3) * 2.0\n"
        "print([name for name in sys.modules if name.startswith(('torch._dynamo', 'torch._inductor', 'sympy'))])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
