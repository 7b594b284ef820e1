"""Constants of smooth networks by cutting regions: between what points show and what one pass says, closing in."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import hosted, mlp, on_host
from oracle import Ball, Box, jacobians, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.lipschitz.matrix_norms import norm_above, norm_below

NORMS = (1.0, 2.0, math.inf)
SMOOTH = ("tanh", "sigmoid", "silu", "softplus", "mixed", "sin", "product", "softmax")


def norms_at(matrices, p, q):
    """(n, b, k, *shape) -> (n, b)."""
    flat = matrices.flatten(3)
    return norm_below(flat.flatten(0, 1), p, q).reshape(flat.shape[:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("name", SMOOTH)
def test_no_jacobian_is_larger(name, dtype):
    """On narrow, wide and far-off regions, balls of every norm."""
    _, center, model = hosted(name, 1, dtype)
    double = hosted(name, 1)[0]
    turn = SMOOTH.index(name)
    for shift, eps in ((0.0, 1e-4), (0.0, 0.05), (0.0, 0.5), (3.0, 0.3)):
        turn += 7  # of all norms of region, input and output, others for every network and region
        norm, p, q = NORMS[turn % 3], NORMS[turn // 3 % 3], NORMS[turn // 9 % 3]
        region = Ball(center + shift, eps, norm)
        found = rj.tighten(model, region.perturbed(), norm=p, output_norm=q, gap=0.0, budget=0.2)
        values = norms_at(truth(double, Ball(center.double() + shift, eps, norm), targets=12), p, q)
        assert float(values.max()) <= float(found.upper) * (1 + 1e-12), (name, eps, norm, p, q)
        assert 0 < float(found.lower) <= float(found.upper)
        at = norm_above(jacobians(double, found.points.double().unsqueeze(0))[0].flatten(2), p, q)
        assert float(found.lower) <= float(at) * (1 + (1e-5 if dtype == torch.float32 else 1e-12))


@pytest.mark.parametrize(
    ("norm", "activation"), [*((norm, nn.Tanh) for norm in NORMS), (1.0, nn.SiLU), (math.inf, nn.Sigmoid)]
)
def test_few_inputs_are_known_to_a_hundredth(activation, norm):
    torch.manual_seed(1)
    net, center = mlp(activation, (2, 12, 10, 2)).double(), torch.randn(2, 2, dtype=torch.float64)
    model = on_host(net, center)
    x = Ball(center, 0.4, norm).perturbed()
    before = rj.local_lipschitz(model, x, rigorous=True)
    found = rj.tighten(model, x, gap=0.01)
    assert bool((found.gap <= 0.0101).all())
    assert bool((found.upper <= before * (1 + 1e-9)).all())
    assert torch.equal(rj.local_lipschitz(model, x, gap=0.01, rigorous=True), found.upper)
    assert bool((rj.local_lipschitz(model, x, gap=0.01) <= found.upper).all())
    sampled = rj.sampled_lipschitz(model, x, points=200)
    assert bool((sampled <= found.upper).all() & (sampled >= 0.98 * found.upper).all())
    rows = rj.tighten(model, x, gap=0.01, per_output=True)
    assert rows.upper.shape == (2, 2) and rows.points.shape == (2, 2, 2)
    assert bool((rows.gap <= 0.0101).all())
    assert bool((rj.sampled_lipschitz(model, x, per_output=True) <= rows.upper).all())


def test_bounds_close_in_on_each_other():
    """A unimodal derivative: of ``tanh(3 x) / 3`` over [-2, 4] it is largest at 0, which no end and no middle is."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)).double()
    for parameter, value in zip(net.parameters(), (3.0, 0.0, 1 / 3, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    center, seen = torch.ones(1, 1, dtype=torch.float64), []
    model = on_host(net, center)
    found = rj.tighten(model, Ball(center, 3.0).perturbed(), gap=1e-4, seen=seen.append)
    assert float(found.lower) <= 1.0 <= float(found.upper) <= 1.0002
    assert abs(float(found.points)) < 0.01
    one = rj.tighten(model, Ball(center + 1, 1.0).perturbed(), gap=1e-4)  # on [1, 3] it falls
    assert float(one.upper) == pytest.approx(1 - math.tanh(3.0) ** 2, rel=2e-4)
    assert all(
        float(b.upper) <= float(a.upper) and float(b.lower) >= float(a.lower) for a, b in itertools.pairwise(seen)
    )


def test_balls_are_not_the_boxes_around_them():
    """The slope of ``softplus(x + y)`` is largest at a corner of the box, which the ball has not."""
    net = nn.Sequential(nn.Linear(2, 1), nn.Softplus(), nn.Linear(1, 1)).double()
    for parameter, value in zip(net.parameters(), (1.0, 0.0, 1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    center = torch.zeros(1, 2, dtype=torch.float64)
    model = on_host(net, center)
    for norm, most in ((1.0, 1.0), (2.0, math.sqrt(2)), (math.inf, 2.0)):
        found = rj.tighten(model, Ball(center, 1.0, norm).perturbed(), gap=1e-3, norm=1.0)
        assert float(found.upper) == pytest.approx(1 / (1 + math.exp(-most)), rel=2e-3), norm


def test_several_inputs_are_refused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(2, 2)

        def forward(self, x, y):
            return torch.tanh(self.a(x)) + y

    x, y = torch.rand(1, 2), torch.rand(1, 2)
    model = BoundedModule(Two(), (x, y))
    with pytest.raises(UnsupportedError, match="several inputs"):
        rj.tighten(model, (Ball(x, 0.1).perturbed(), Ball(y, 0.1).perturbed()), gap=0.1)


def test_far_off_regions_are_covered_to_their_ends():
    """The slope of ``softplus(x - 1e6)`` grows to the upper end, which ``center + radius`` may round below."""
    net = nn.Sequential(nn.Linear(1, 1), nn.Softplus(), nn.Linear(1, 1)).double()
    for parameter, value in zip(net.parameters(), (1.0, -1e6, 1.0, 0.0), strict=True):
        nn.init.constant_(parameter, value)
    for eps in (1e-9, 1e-6, 0.3):
        center = torch.full((1, 1), 1e6, dtype=torch.float64)
        found = rj.tighten(on_host(net, center), Ball(center, eps).perturbed(), gap=1e-9, budget=1.0)
        assert float(found.upper) >= 1 / (1 + math.exp(-eps))
        assert float(found.upper) == pytest.approx(1 / (1 + math.exp(-eps)), rel=1e-6)


def test_coordinates_that_are_fixed_stay_so():
    torch.manual_seed(0)
    net = mlp(nn.Tanh, (3, 8, 2)).double()
    low = torch.tensor([[-1.0, 0.25, 0.0]], dtype=torch.float64)
    high = torch.tensor([[1.0, 0.25, 0.5]], dtype=torch.float64)
    box = Box(low, high)
    found = rj.tighten(on_host(net, low), box.perturbed(), gap=1e-3, budget=10.0)
    assert float(found.gap) <= 1.1e-3
    assert float(found.points[0, 1]) == 0.25
    assert float(norms_at(truth(net, box), math.inf, math.inf).max()) <= float(found.upper)
