"""Zonotope bounds against sampled values, and what they are worth beside the host's."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from cases import Net, hosted, on_host
from oracle import Ball, Box, assert_encloses, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host.state import evaluated, preserved

NAMES = [
    *("relu", "leaky_relu", "leaky_relu_steep", "prelu", "prelu_channels", "abs", "relu_on_input"),
    *("residual", "residual_convolutions", "skip_from_input", "concat_channels", "batch_norm1d", "batch_norm2d"),
]
BALLS = [(math.inf, 0.1), (2.0, 0.3), (1.0, 0.4)]


def enclosed(model, bounds, points, slack=1e-9):
    """Everything bounded, evaluated in float64 at points of shape (n, b, *shape)."""
    with preserved(model):
        _, values = evaluated(model, points.flatten(0, 1), bounds)
    assert bounds
    for key, (lower, upper) in bounds.items():
        assert_encloses(lower, upper, values[key].unflatten(0, points.shape[:2]), slack)


@pytest.mark.parametrize(("norm", "eps"), BALLS)
@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_the_bounds(name, norm, eps):
    net, center, model = hosted(name)
    region = Ball(center, eps, norm)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    enclosed(model, bounds, region.sample(300))
    found = rj.jacobian_bounds(model, region.perturbed(), intermediate_bounds=bounds)
    assert_encloses(found.lower.detach(), found.upper.detach(), truth(net, region))


@pytest.mark.parametrize("eps", [0.0, 1e-12, 1e-6, 10.0, 1e4])
@pytest.mark.parametrize("name", ["leaky_relu_steep", "abs", "residual_convolutions", "batch_norm2d"])
def test_radii_from_nothing_to_everything(name, eps):
    """With 0 the bounds are the values; with 1e4 every neuron is undetermined and samples come from far away."""
    _, center, model = hosted(name)
    region = Ball(center, eps)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    enclosed(model, bounds, region.sample(200), slack=1e-12)
    widest = max(float((upper - lower).max()) for lower, upper in bounds.values())
    assert widest <= 1e5 * max(eps, 1e-18) and (widest > 0) == (eps > 0)


@pytest.mark.parametrize("norm", [math.inf, 2.0])
@pytest.mark.parametrize("name", ["relu", "residual_convolutions"])
def test_each_region_of_a_batch_has_its_own_radius(name, norm):
    _, center, model = hosted(name)
    region = Ball(center, torch.tensor([1e-3, 0.5], dtype=torch.float64), norm)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    enclosed(model, bounds, region.sample(300))
    for i, eps in enumerate((1e-3, 0.5)):
        alone = rj.zonotope_bounds(model, Ball(center[i : i + 1], eps, norm).perturbed())
        for key, (lower, upper) in alone.items():
            assert torch.allclose(lower, bounds[key][0][i : i + 1], rtol=0, atol=1e-12)
            assert torch.allclose(upper, bounds[key][1][i : i + 1], rtol=0, atol=1e-12)


def test_a_box_that_reaches_further_to_one_side():
    _, center, model = hosted("relu")
    region = Box(center - 0.7 * torch.rand_like(center), center + 0.1 * torch.rand_like(center))
    enclosed(model, rj.zonotope_bounds(model, region.perturbed()), region.sample(600))


@pytest.mark.parametrize("eps", [1e-6, 1e-3, 0.5])
@pytest.mark.parametrize("name", ["relu", "abs", "batch_norm2d", "residual_convolutions"])
def test_float32_misses_nothing_that_float64_sees(name, eps):
    """Within the slack that undetermined neurons are looked for with, far below the layer's largest bound."""
    net, center, model = hosted(name, dtype=torch.float32)
    exact = on_host(copy.deepcopy(net).double(), center.double())
    bounds = rj.zonotope_bounds(model, Ball(center, eps).perturbed())
    points = Ball(center.double(), eps).sample(200)
    with preserved(exact):
        _, values = evaluated(exact, points.flatten(0, 1), bounds)
    for key, (lower, upper) in bounds.items():
        found = values[key].unflatten(0, points.shape[:2])
        room = 16 * torch.finfo(torch.float32).eps * torch.maximum(lower.abs(), upper.abs()).flatten(1).amax(1)
        room = room.reshape(-1, *(1,) * (lower.dim() - 1)).double()
        assert bool((lower.double() - room <= found).all() and (found <= upper.double() + room).all())


def test_one_layer_has_the_bounds_of_the_theorem():
    """DeepZ by hand: z = x on [-1, 3], a leaky slope, then the difference of the neuron and its input."""

    class Net(nn.Module):
        def forward(self, x):
            y = nn.functional.leaky_relu(x, 0.5)
            return (y - x).relu()

    x = torch.tensor([[1.0]], dtype=torch.float64)
    (_, first), (_, second) = rj.zonotope_bounds(on_host(Net(), x), Ball(x, 2.0).perturbed()).items()
    assert [float(bound) for bound in first] == [-1, 3]
    # k = (3 + 0.5) / 4, m = (1 - k) 3: the output lies in k x + [0, m], so y - x in (k - 1) x + [0, m].
    k = 3.5 / 4
    low, high = (k - 1) * 3, (1 - k) + (1 - k) * 3
    assert [float(bound) for bound in second] == pytest.approx([low, high], abs=1e-12)


def test_an_activation_at_the_end_is_bounded_too():
    """Otherwise the host would be asked for what is missing, which it has no room for."""
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), nn.LeakyReLU(0.1)).double()
    region = Ball(torch.randn(2, 4, dtype=torch.float64), 0.3)
    model = on_host(net, region.center)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    assert len(bounds) == 2
    assert_encloses(*list(bounds.values())[-1], outputs(net[:3], region.sample(300)))


def test_tighter_than_intervals():
    _, center, model = hosted("residual_convolutions")
    x = Ball(center, 0.1).perturbed()
    with torch.no_grad():
        ours = rj.local_lipschitz(model, x, intermediate_bounds=rj.zonotope_bounds(model, x))
        theirs = rj.local_lipschitz(model, x, method="IBP+RecurJac")
    assert bool((ours <= theirs * (1 + 1e-9)).all()) and float((ours / theirs).min()) < 0.99


def test_parallel_activations_have_columns_of_their_own():
    """Two branches with activations each: their errors must not cancel. And chunks change nothing."""

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 3)

        def forward(self, x):
            return self.c((self.a(x).relu() - self.b(x).relu()).relu())

    net = Branches().double()
    region = Ball(torch.randn(2, 4, dtype=torch.float64), 0.5)
    model = on_host(net, region.center)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    points = region.sample(2000)
    hidden = outputs(lambda x: net.a(x).relu() - net.b(x).relu(), points)
    assert_encloses(*list(bounds.values())[-1], hidden)
    for key, (lower, upper) in rj.zonotope_bounds(model, region.perturbed(), memory_budget=1).items():
        assert torch.allclose(lower, bounds[key][0], rtol=0, atol=1e-12)
        assert torch.allclose(upper, bounds[key][1], rtol=0, atol=1e-12)


def test_smooth_activations_are_refused():
    _, center, model = hosted("tanh")
    with pytest.raises(rj.UnsupportedError, match="two linear pieces"):
        rj.zonotope_bounds(model, Ball(center, 0.1).perturbed())


def test_a_neuron_whose_sign_rounding_may_change_is_not_stable():
    """``relu(x - c)`` from 0 to 2, with terms of 1e6: if it were stable, less x it were a constant."""
    net = Net(lambda s, x: s.b(s.a(x).relu() - x).relu(), a=nn.Linear(1, 1), b=nn.Linear(1, 1)).double()
    with torch.no_grad():
        for layer in (net.a, net.b):
            layer.weight.fill_(1.0)
            layer.bias.zero_()
        net.a.bias.fill_(-1e6 + 1)
    x = torch.tensor([[1e6]], dtype=torch.float64)
    bounds = rj.zonotope_bounds(on_host(net, x), Ball(x, 1.0).perturbed())
    first, second = ((float(low.detach()), float(high.detach())) for low, high in bounds.values())
    assert first == (0.0, 2.0)
    assert 1e-10 <= second[1] - second[0] <= 1e-6
