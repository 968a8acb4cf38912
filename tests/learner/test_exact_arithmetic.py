from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.errors import Diverged
from learner.exact import loss, philox
from learner.exact.backends import BACKENDS, int8
from learner.exact.integers import Arithmetic, Quantised, column_sums
from learner.exact.layers import linear_backward, linear_forward, relu_backward, relu_forward
from tests.learner import numpy_twin as twin

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
    q = Arithmetic(bits).quantise(x)
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
        Arithmetic(14).quantise(torch.tensor([1.0, bad]))


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (17, 64, 10), (32, 300, 33)])
@pytest.mark.parametrize("bits", [4, 7, 8, 14])
def test_all_backends_give_the_integers_of_plain_integer_arithmetic(shape: tuple[int, int, int], bits: int) -> None:
    limit = 2 ** (bits - 1) - 1
    a, b = integers(shape[0], shape[1], limit, "a"), integers(shape[1], shape[2], limit, "b")
    expected = (a.to(torch.int64) @ b.to(torch.int64)).double()
    for name, multiply in BACKENDS.items():
        assert torch.equal(multiply(a, b), expected), name


def test_the_int8_backend_cuts_an_inner_size_that_would_overflow_its_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_INNER_MAX", 7)
    a, b = torch.full((3, 20), 8191.0), torch.full((20, 2), -8191.0)
    assert torch.equal(int8.multiply(a, b), torch.full((3, 2), -20.0 * 8191**2, dtype=torch.float64))


def test_the_largest_inner_size_keeps_every_partial_sum_within_float64() -> None:
    from learner.exact.integers import INNER_MAX
    from learner.manifest import BITS_MAX

    assert (2 ** (BITS_MAX - 1)) ** 2 * INNER_MAX <= 2**53


def test_column_sums_are_exact_sums_with_one_rounding() -> None:
    q = Quantised(torch.tensor([[8191.0, -1.0], [8191.0, -8191.0], [1.0, 2.0]]), 3)
    assert column_sums(q).tolist() == [16383 / 8, -8190 / 8]


def test_a_linear_layer_and_its_gradients_are_near_those_of_float64() -> None:
    arithmetic = Arithmetic(14)
    x = philox.uniform(bytes(32), "x", 40, 1.0).view(8, 5)
    weight = philox.uniform(bytes(32), "w", 15, 2.0).view(3, 5)
    bias = philox.uniform(bytes(32), "b", 3, 1.0)
    gradient = philox.uniform(bytes(32), "g", 24, 0.1).view(8, 3)
    y, tape = linear_forward(arithmetic, x, weight, bias)
    found = linear_backward(arithmetic, tape, gradient, need_x=True)
    assert found.x is not None
    assert torch.allclose(y.double(), x.double() @ weight.double().T + bias.double(), atol=2e-3)
    assert torch.allclose(found.x.double(), gradient.double() @ weight.double(), atol=2e-4)
    assert torch.allclose(found.weight.double(), gradient.double().T @ x.double(), atol=2e-4)
    assert torch.allclose(found.bias.double(), gradient.double().sum(0), atol=2e-4)
    assert linear_backward(arithmetic, tape, gradient, need_x=False).x is None


def test_relu_lets_through_what_is_above_zero_both_ways() -> None:
    y, mask = relu_forward(torch.tensor([-1.0, -0.0, 0.0, 2.0]))
    assert y.tolist() == [0, 0, 0, 2]
    assert relu_backward(mask, torch.tensor([5.0, 6.0, 7.0, 8.0])).tolist() == [0, 0, 0, 8]


def test_exp_and_log_are_accurate_and_equal_the_twins_bit_for_bit() -> None:
    u = philox.words(bytes(32), "table", 5000).double()
    x, positive = u * -(2.0**-25), (u + 1) * 2.0**-30
    mine_exp, mine_log = loss.exp(x).numpy(), loss.log(positive).numpy()
    assert np.array_equal(mine_exp, twin.exp(x.numpy()))
    assert np.array_equal(mine_log, twin.log(positive.numpy()))
    assert np.abs(mine_exp / np.exp(x.numpy()) - 1).max() < 2e-15
    assert np.abs(mine_log - np.log(positive.numpy())).max() < 4e-15
    assert float(loss.exp(torch.tensor([-1e9], dtype=torch.float64))) == pytest.approx(math.exp(-700))


def test_cross_entropy_is_near_the_library_s_and_equals_the_twin_s_bit_for_bit() -> None:
    logits = philox.uniform(bytes(32), "z", 70, 9.0).view(7, 10)
    labels = philox.words(bytes(32), "y", 7) % 10
    reference = torch.nn.functional.cross_entropy(logits.double(), labels)
    assert loss.cross_entropy(logits, labels) == pytest.approx(float(reference), abs=1e-8)
    assert loss.cross_entropy(logits, labels) == twin.loss(logits.numpy(), labels.numpy())
    expected = (logits.double().softmax(1) - torch.nn.functional.one_hot(labels, 10)) / 7
    assert torch.allclose(loss.cross_entropy_gradient(logits, labels).double(), expected, atol=1e-8)
