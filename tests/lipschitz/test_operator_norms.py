"""Norms of linear maps: exact for p = 1 and inf, never below the largest singular value for p = 2, and close to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from recurjac_plugin.graph.linear_maps import (
    Broadcast,
    Convolution,
    Dense,
    Embedding,
    Function,
    Scale,
    Transposed,
    View,
    nonnegative,
)
from recurjac_plugin.lipschitz import operator_norms
from recurjac_plugin.lipschitz.operator_norms import fused, in_double, matrix_norm, operator_norm

NORMS = [1.0, 2.0, math.inf]


def convolution(channels, side, kernel, *, stride=1, padding=0, dilation=1, groups=1, dtype=torch.float64):
    inputs, outputs = channels
    weight = torch.randn(outputs, inputs // groups, *kernel, dtype=dtype)
    n = len(kernel)
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[n - 1]
    options = [(value,) * n if isinstance(value, int) else value for value in (stride, padding, dilation)]
    out = convolve(torch.zeros(1, inputs, *side, dtype=dtype), weight, None, *options, groups).shape[1:]
    return Convolution(weight, *options, groups, (inputs, *side), tuple(out))


def matrix(linear):
    size = math.prod(linear.input_shape)
    units = torch.eye(size, dtype=torch.float64).reshape(size, *linear.input_shape)
    return linear.push(units).flatten(1).T


def power_iteration(linear, steps):
    """The largest singular value from below."""
    x = torch.randn(1, *linear.input_shape, dtype=torch.float64)
    for _ in range(steps):
        x = linear.pull(linear.push(x / x.norm()))
    return math.sqrt(float(x.norm()))


SMALL_MAPS = {
    "dense": lambda: Dense(torch.randn(4, 6).double(), (6,), (4,)),
    "dense_on_rows": lambda: Dense(torch.randn(4, 6).double(), (3, 6), (3, 4)),
    "zeros": lambda: Dense(torch.zeros(4, 6).double(), (6,), (4,)),
    "huge": lambda: Dense(torch.randn(4, 6).double() * 1e200, (6,), (4,)),
    "tiny": lambda: Dense(torch.randn(4, 6).double() * 1e-200, (6,), (4,)),
    "scale": lambda: Scale(torch.randn(2, 1, 1).double(), (2, 3, 3), (2, 3, 3)),
    "scale_up": lambda: Scale(torch.randn(2, 3).double(), (3,), (2, 3)),
    "minus": lambda: Broadcast(-1, (5,), (5,)),
    "spread": lambda: Broadcast(1, (1, 3), (4, 3)),
    "view": lambda: View((2, 3), (6,)),
    "embedding": lambda: Embedding(1, 2, (3,), (7,)),
    "transposed": lambda: Transposed(convolution((2, 3), (5, 4), (3, 3), stride=2)),
    "convolution": lambda: convolution((2, 3), (5, 4), (3, 2), padding=1),
    "average": lambda: nonnegative(lambda x: functional.avg_pool2d(x, 3, 2, 1), (2, 5, 5), (2, 3, 3)),
    "sums": lambda: Function(lambda x: x.cumsum(1), (5,), (5,)),
    "differences": lambda: Function(lambda x: x.diff(dim=1), (5,), (4,)),
}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", SMALL_MAPS)
def test_small_maps_exactly(name, norm):
    linear = SMALL_MAPS[name]()
    expected = float(torch.linalg.matrix_norm(matrix(linear), ord=norm))
    found = operator_norm(in_double(linear, torch.zeros(()).double()), norm)
    assert expected <= found * (1 + 1e-15)
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("norm", NORMS)
def test_maps_that_work_in_float32_take_part(norm):
    linear = Function(lambda x: x @ torch.tensor([[1.0, -2.0], [3.0, 4.0]]), (2,), (2,))
    found = operator_norm(in_double(linear, torch.zeros(())), norm)
    assert found == pytest.approx(float(torch.linalg.matrix_norm(torch.tensor([[1.0, 3.0], [-2.0, 4.0]]), ord=norm)))


@pytest.mark.parametrize("norm", [1.0, math.inf])
def test_functions_with_negative_entries_too_large_to_write_out(monkeypatch, norm):
    """The map of all ones would see cancelling entries as 0."""
    monkeypatch.setattr(operator_norms, "SMALL", 4)
    linear = Function(lambda x: x.diff(dim=1), (9,), (8,))
    assert operator_norm(in_double(linear, torch.zeros(()).double()), norm) == pytest.approx(2.0)
    assert operator_norm(in_double(linear, torch.zeros(()).double()), 2.0) <= 2 * (1 + 1e-12)


LARGE = {
    "same": ((3, 16), (32, 32), (3, 3), {"padding": 1}),
    "valid": ((8, 8), (32, 32), (3, 3), {}),
    "stride": ((3, 16), (32, 32), (3, 3), {"padding": 1, "stride": 2}),
    "unequal_stride": ((4, 6), (33, 30), (3, 5), {"padding": (0, 2), "stride": (3, 1)}),
    "patches": ((3, 8), (40, 40), (4, 4), {"stride": 4}),
    "groups": ((8, 16), (28, 28), (3, 3), {"padding": 1, "groups": 4}),
    "dilation": ((4, 6), (48, 48), (3, 3), {"padding": 2, "dilation": 2}),
    "all": ((8, 16), (48, 48), (3, 3), {"padding": 2, "dilation": 2, "stride": 2, "groups": 2}),
    "line": ((4, 8), (300,), (7,), {"padding": 3, "stride": 2}),
    "cube": ((2, 3), (20, 20, 20), (2, 2, 2), {"padding": 1}),
    "wide_to_narrow": ((32, 4), (20, 20), (3, 3), {"stride": 2, "padding": 1}),
}


@pytest.mark.parametrize("name", LARGE)
def test_large_convolutions_from_above_within_a_percent(name):
    channels, side, kernel, options = LARGE[name]
    linear = convolution(channels, side, kernel, **options)
    found = operator_norms._convolution_norm(linear)
    below = power_iteration(linear, 400)
    assert below <= found <= 1.01 * below


SMALL_CONVOLUTIONS = [
    ((2, 3), (4, 5), (3, 3), {"padding": padding, "stride": stride, "dilation": dilation})
    for padding in (0, 1, 3)
    for stride in (1, 2, 3)
    for dilation in (1, 2)
    if padding or dilation == 1
] + [((4, 6), (5, 1), (3, 1), {"groups": 2, "padding": (1, 0)}), ((1, 1), (2, 2), (3, 3), {"padding": 1})]


@pytest.mark.parametrize("index", range(len(SMALL_CONVOLUTIONS)))
def test_no_convolution_is_bounded_from_below(index):
    """On small images the torus is far from the padded image, and its indices wrap around: still an upper bound."""
    channels, side, kernel, options = SMALL_CONVOLUTIONS[index]
    for _ in range(10):
        linear = convolution(channels, side, kernel, **options)
        exact = float(torch.linalg.matrix_norm(matrix(linear), ord=2))
        assert exact <= operator_norms._convolution_norm(linear) * (1 + 1e-12)
        assert operator_norm(linear, 2.0) == pytest.approx(exact, rel=1e-12)  # because it is small


def test_a_convolution_as_large_as_its_torus_exactly():
    """One position of the kernel: nothing is padded, every block is the same."""
    linear = convolution((5, 7), (9, 9), (1, 1), stride=2)
    exact = float(torch.linalg.matrix_norm(linear.weight[..., 0, 0], ord=2))
    assert operator_norms._convolution_norm(linear) == pytest.approx(exact, rel=1e-3)


def test_convolution_of_zeros():
    linear = convolution((5, 7), (9, 9), (3, 3))
    linear.weight.zero_()
    assert operator_norms._convolution_norm(linear) == 0


def test_gram_iteration_bounds_the_largest_of_many():
    halves = torch.randn(50, 8, 5, dtype=torch.complex128) * torch.logspace(-3, 0, 50)[:, None, None]
    gram = halves @ halves.mH
    largest = float(torch.linalg.eigvalsh(gram).max())
    found = operator_norms._gram_iteration(gram, 0.0)
    assert largest <= found <= 1.002 * largest
    assert operator_norms._gram_iteration(gram, 2 * largest) <= 2 * largest
    assert operator_norms._gram_iteration(gram, 0.5 * largest) == pytest.approx(found, rel=1e-12)
    assert operator_norms._gram_iteration(torch.zeros_like(gram), 0.0) == 0


def test_matrix_norm_is_above_that_of_a_rank_one_matrix():
    u, v = torch.rand(30, dtype=torch.float64), torch.rand(70, dtype=torch.float64)
    exact = float(u.norm() * v.norm())
    assert exact <= matrix_norm(torch.outer(u, v), 2.0) <= exact * (1 + 1e-12)
    assert exact <= matrix_norm(torch.outer(v, u), 2.0) <= exact * (1 + 1e-12)


PAIRS = {
    "batch_norm_behind": (lambda: convolution((4, 6), (5, 5), (3, 3), groups=2), lambda s: Scale(rand(6, 1, 1), s, s)),
    "batch_norm_before": (
        lambda: Scale(rand(4, 1, 1), (4, 5, 5), (4, 5, 5)), lambda s: convolution((4, 6), (5, 5), (3, 3))
    ),
    "one_factor": (lambda: convolution((4, 6), (5, 5), (3, 3)), lambda s: Scale(rand(), s, s)),
    "normalised": (lambda: Scale(rand(5), (5,), (5,)), lambda s: Dense(torch.randn(3, 5).double(), (5,), (3,))),
    "dense_scaled": (lambda: Dense(torch.randn(3, 5).double(), (5,), (3,)), lambda s: Scale(rand(1, 3), s, s)),
    "two_dense": (
        lambda: Dense(torch.randn(3, 5).double(), (5,), (3,)), lambda s: Dense(torch.randn(2, 3).double(), s, (2,))
    ),
    "two_scales": (lambda: Scale(rand(5), (5,), (5,)), lambda s: Scale(rand(1), s, s)),
}  # fmt: skip


def rand(*shape):
    return torch.rand(shape, dtype=torch.float64) + 0.5


@pytest.mark.parametrize("name", PAIRS)
def test_fused_maps_are_the_same_map(name):
    first = PAIRS[name][0]()
    second = PAIRS[name][1](first.output_shape)
    both = fused(first, second)
    assert both is not None
    assert torch.allclose(matrix(both), matrix(second) @ matrix(first), rtol=1e-12)


def test_what_cannot_be_fused_is_left():
    per_element = Scale(rand(2, 5, 5), (2, 5, 5), (2, 5, 5))
    conv = convolution((2, 2), (5, 5), (3, 3), padding=1)
    assert fused(conv, per_element) is None
    assert fused(per_element, conv) is None
    assert fused(Scale(rand(2, 1, 1), (2, 5, 5), (2, 5, 5)), convolution((2, 2), (5, 5), (3, 3), groups=2)) is None
    assert fused(conv, View((2, 5, 5), (50,))) is None


def test_layers_of_torch_agree():
    """The map is the layer: a convolution module's own weight and geometry."""
    layer = nn.Conv2d(2, 3, 3, stride=2, padding=1, bias=False).double()
    linear = Convolution(layer.weight.detach(), (2, 2), (1, 1), (1, 1), 1, (2, 6, 6), (3, 3, 3))
    J = torch.func.jacrev(lambda x: layer(x.reshape(1, 2, 6, 6)).flatten())(torch.zeros(72).double())
    for norm in NORMS:
        exact = float(torch.linalg.matrix_norm(J, ord=norm).detach())
        assert operator_norm(linear, norm) == pytest.approx(exact, rel=1e-12)
