"""Zonotope bounds against sampled values, and what they are worth beside the host's."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted, on_host
from oracle import Ball, assert_encloses, outputs, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host_graph import evaluated, preserved

NAMES = ["relu", "leaky_relu", "leaky_relu_steep", "abs", "residual", "residual_convolutions", "skip_from_input"]
BALLS = [(math.inf, 0.1), (2.0, 0.3), (1.0, 0.4)]


@pytest.mark.parametrize(("norm", "eps"), BALLS)
@pytest.mark.parametrize("name", NAMES)
def test_values_lie_in_the_bounds(name, norm, eps):
    net, center, model = hosted(name)
    region = Ball(center, eps, norm)
    bounds = rj.zonotope_bounds(model, region.perturbed())
    points = region.sample(300)
    with preserved(model):
        _, values = evaluated(model, points.flatten(0, 1), bounds)
    for key, (lower, upper) in bounds.items():
        assert_encloses(lower, upper, values[key].unflatten(0, points.shape[:2]))
    found = rj.jacobian_bounds(model, region.perturbed(), intermediate_bounds=bounds)
    assert_encloses(found.lower.detach(), found.upper.detach(), truth(net, region))


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
