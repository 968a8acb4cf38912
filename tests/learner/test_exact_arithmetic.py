from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.errors import Diverged
from learner.exact import functions, loss, philox
from learner.exact.backends import int8
from learner.exact.backends.choose import BACKENDS, REFERENCE
from learner.exact.integers import Arithmetic, Quantised, exact_sum
from tests.learner import numpy_twin as twin

INT8 = BACKENDS["int8"]
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def integers(rows: int, columns: int, limit: int, label: str) -> torch.Tensor:
    values = philox.words(bytes(32), label, rows * columns) % (2 * limit + 1) - limit
    return values.view(rows, columns).float()


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_its_authors(
    counter: tuple[int, ...], key: tuple[int, int], expected: tuple[int, ...]
) -> None:
    words = philox.philox(tuple(torch.tensor([c]) for c in counter), key)  # type: ignore[arg-type]
    assert tuple(int(word) for word in words) == expected


def test_a_stream_depends_on_its_seed_and_label_and_not_on_how_much_of_it_is_read() -> None:
    long = philox.words(bytes(32), "a", 11)
    assert torch.equal(philox.words(bytes(32), "a", 5), long[:5])
    assert not torch.equal(philox.words(bytes(32), "b", 11), long)
    assert not torch.equal(philox.words(bytes([1]) * 32, "a", 11), long)


@given(st.binary(min_size=32, max_size=32), st.integers(1, 300))
@settings(max_examples=20, deadline=None)
def test_a_permutation_has_each_index_once_and_equals_the_twins(seed: bytes, count: int) -> None:
    order = philox.permutation(seed, "x", count).tolist()
    assert sorted(order) == list(range(count))
    assert order == twin.permutation(seed, "x", count).tolist()


@given(st.lists(FLOATS, min_size=1, max_size=20), st.integers(4, 14))
@settings(max_examples=200, deadline=None)
def test_quantising_agrees_with_the_twin_and_is_near_the_number(values: list[float], bits: int) -> None:
    x = torch.tensor(values)
    q = Arithmetic(bits, REFERENCE).integers(x)
    expected, scale = twin.quantise(x.numpy(), bits)
    assert np.array_equal(q.values.numpy(), expected)
    assert q.scale == scale
    limit = 2 ** (bits - 1) - 1
    assert q.values.abs().max() <= limit
    if max(abs(v) for v in values) < 2.0**90:  # above, the exponent is clamped and the value saturates
        step = 2.0**-q.scale
        assert all(abs(v - float(n) * step) <= step for v, n in zip(x.tolist(), q.values, strict=True))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_quantising_a_number_that_is_not_finite_is_divergence(bad: float) -> None:
    with pytest.raises(Diverged):
        Arithmetic(14, REFERENCE).quantise(torch.tensor([1.0, bad]))


SHAPES = [(1, 1, 1), (1, 9, 5), (9, 1, 5), (4, 70, 1), (3, 5, 2), (17, 64, 10), (32, 300, 33), (5, 9000, 3)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("bits", [4, 7, 8, 14])
@pytest.mark.parametrize("name", BACKENDS)
def test_all_backends_give_the_integers_of_plain_integer_arithmetic(
    shape: tuple[int, int, int], bits: int, name: str
) -> None:
    limit = 2 ** (bits - 1) - 1
    a, b = integers(shape[0], shape[1], limit, "a"), integers(shape[1], shape[2], limit, "b")
    for left, right in ((a, b), (torch.full_like(a, limit), torch.full_like(b, -limit))):
        exact = (left.to(torch.int64) @ right.to(torch.int64)).double()
        backend = BACKENDS[name]
        for rearranged in (False, True):
            if rearranged:  # the same matrices, column by column in memory
                cut = backend.cut(left.t().clone(), limit).t(), backend.cut(right.t().clone(), limit).t()
            else:
                cut = backend.cut(left.clone(), limit), backend.cut(right.clone(), limit)
            for scale in (0, 5, -60, 100, 160):
                assert torch.equal(backend.product(*cut, scale), (exact * 2.0**-scale).float())
            batch = backend.product(*(each.map(lambda limb: torch.stack([limb, limb])) for each in cut), 0)
            assert torch.equal(batch, exact.float().expand(2, -1, -1))


def test_the_int8_backend_cuts_an_inner_size_that_would_overflow_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_INNER_MAX", 7)
    a, b = INT8.cut(torch.full((3, 20), 8191.0), 8191), INT8.cut(torch.full((20, 2), -8191.0), 8191)
    assert torch.equal(INT8.product(a, b, 0), torch.full((3, 2), -20.0 * 8191**2))


def test_the_largest_inner_size_keeps_every_partial_sum_within_float64() -> None:
    from learner.cost import INNER_MAX
    from learner.manifest import BITS_MAX

    assert (2 ** (BITS_MAX - 1)) ** 2 * INNER_MAX <= 2**53


@pytest.mark.parametrize("name", BACKENDS)
def test_column_sums_are_exact_sums_with_one_rounding(name: str) -> None:
    rows = torch.tensor([[8191.0, -1.0], [8191.0, -8191.0], [1.0, 2.0]])
    q = Quantised(BACKENDS[name].cut(rows, 8191), 3)
    assert Arithmetic(14, BACKENDS[name]).column_sums(q).tolist() == [16383 / 8, -8190 / 8]


@given(st.lists(st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=9))
@settings(max_examples=100, deadline=None)
def test_sums_of_floats_agree_with_the_twin_in_any_order(rows: list[list[float]]) -> None:
    x = torch.tensor(rows)
    expected = twin.total(x.numpy(), (0,))
    for order in (x, x.flip(0)):
        assert np.array_equal(exact_sum(order, (0,), keep=True).numpy(), expected)


def test_exp_and_log_are_accurate_and_equal_the_twins_bit_for_bit() -> None:
    u = philox.words(bytes(32), "table", 5000).double()
    x, positive = u * -(2.0**-25), (u + 1) * 2.0**-30
    mine_exp, mine_log = functions.exp(x).numpy(), functions.log(positive).numpy()
    assert np.array_equal(mine_exp, twin.exp(x.numpy()))
    assert np.array_equal(mine_log, twin.log(positive.numpy()))
    assert np.abs(mine_exp / np.exp(x.numpy()) - 1).max() < 2e-15
    assert np.abs(mine_log - np.log(positive.numpy())).max() < 4e-15
    assert float(functions.exp(torch.tensor([-1e9], dtype=torch.float64))) == pytest.approx(math.exp(-700))


def test_cross_entropy_is_near_the_library_s_and_equals_the_twin_s_bit_for_bit() -> None:
    logits = philox.uniform(bytes(32), "z", 70, 9.0).view(7, 10)
    labels = philox.words(bytes(32), "y", 7) % 10
    reference = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert loss.cross_entropy(logits, labels) == pytest.approx(float(reference), abs=1e-8)
    assert loss.cross_entropy(logits, labels) == twin.loss(logits.numpy(), labels.numpy())
    expected = (logits.double().softmax(1) - torch.nn.functional.one_hot(labels, 10)) / 7
    assert torch.allclose(loss.cross_entropy_gradient(logits, labels).double(), expected, atol=1e-8)


def test_the_loss_that_is_shown_is_equal_in_every_order_even_of_outputs_in_the_millions() -> None:
    logits = philox.uniform(bytes(32), "z", 4096, 1.0).view(256, 16)
    logits[:, 0] += 2.0**20  # so that a loss has 53 bits, and the sum of them more
    labels = torch.arange(256) % 15 + 1
    shown = {loss.cross_entropy(logits[order], labels[order]) for order in (torch.randperm(256) for _ in range(20))}
    assert shown == {twin.loss(logits.numpy(), labels.numpy())}



def test_exp32_and_the_root_are_accurate_and_equal_the_twins_bit_for_bit() -> None:
    x = philox.uniform(bytes(32), "x", 20_000, 90.0)
    mine = functions.exp32(x.clone()).numpy()
    assert np.array_equal(mine, twin.exp32(x.numpy()))
    assert np.abs(mine / np.exp(np.clip(x.numpy().astype(np.float64), -80, 80)) - 1).max() < 3e-7
    positive = torch.cat((x.abs(), x.abs() * 2.0**-126, torch.zeros(1)))
    assert np.array_equal(functions.sqrt32(positive).numpy(), np.sqrt(positive.numpy()))
    # numpy's root is the processor's; the exact one, in integers, for those where torch's own differs:
    differing = positive[positive.sqrt() != functions.sqrt32(positive)].tolist()
    for value in differing[:200]:
        exact = math.isqrt(int(value * 2.0**300)) * 2.0**-150
        mine, other = float(functions.sqrt32(torch.tensor(value))), float(torch.tensor(value).sqrt())
        assert abs(mine - exact) <= abs(other - exact)


def test_the_mean_squared_error_is_near_the_library_s() -> None:
    outputs, targets = (philox.uniform(bytes(32), name, 70, 9.0).view(7, 10) for name in "zt")
    reference = torch.nn.functional.mse_loss(outputs.double(), targets.double())
    assert loss.squared_error(outputs, targets) == pytest.approx(float(reference), rel=1e-5)
    expected = (outputs.double() - targets.double()) * 2 / 70
    assert torch.allclose(loss.squared_error_gradient(outputs, targets).double(), expected, atol=1e-7)
