"""Planes over strips: they hold wherever gradient and pre-activation can be, and are tighter over few coordinates."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from cases import mlp, on_host
from oracle import Ball, assert_encloses, jacobians
from torch import nn
from violations import trial_points

import recurjac_plugin as rj
from recurjac_plugin.activations.curves import Samples
from recurjac_plugin.jacobian import planes
from recurjac_plugin.passes import strips
from recurjac_plugin.passes.strips import Strip, strip_plane

PLANES = "RecurJac-McCormick"
KINDS = (nn.Tanh, nn.Sigmoid, nn.SiLU)


def bounds(model, region, order="backward", method=PLANES):
    with torch.no_grad():
        return rj.jacobian_bounds(model, region.perturbed(), method=method, order=order)


def test_planes_hold_on_their_strips_and_touch_them():
    """Derivatives between chords of random samples, strips of all slopes, and t and y everywhere in them."""
    torch.manual_seed(0)
    neurons, count = 400, 16
    points = torch.linspace(-1, 1, count + 1, dtype=torch.float64)[:, None, None] * torch.rand(1, 1, neurons).double()
    points = points + torch.randn(1, 1, neurons).double() / 3
    below = torch.randn(count + 1, 1, neurons, dtype=torch.float64).cumsum(0) / 4
    above = below + torch.rand(count + 1, 1, neurons).double() / 5
    slope, middle = torch.randn(2, 1, 1, neurons, dtype=torch.float64)
    half = torch.rand(1, 1, neurons).double() * torch.tensor([0.0, 1e-12, 0.1, 1.0]).double().repeat(neurons // 4)
    center = (points[0] + points[-1]) / 2
    plane = strip_plane(Strip(slope, middle, half), Samples(points, below, above), center)
    lowest = torch.full((1, 1, neurons), math.inf, dtype=torch.float64)
    for share in torch.linspace(0, 1, 9, dtype=torch.float64):  # between two points
        t = points[:-1] + share * (points[1:] - points[:-1])
        for side in (below, above):
            d = side[:-1] + share * (side[1:] - side[:-1])
            for place in (-1.0, 0.0, 1.0):
                y = slope * t + middle + place * half
                over = plane.slope * y + plane.constant + plane.t_slope * t - d * y
                lowest = torch.minimum(lowest, over.amin(0, keepdim=True))
    size = (slope.abs() * points.abs().amax(0) + middle.abs() + half) * above.abs().amax(0)
    assert float((lowest / size).min()) >= -1e-12
    # With the room that is left between two points, and that of edges too narrow to have a slope.
    turn = torch.maximum(below.diff(dim=0).abs(), above.diff(dim=0).abs()).amax(0)
    room = turn * slope.abs() * (points[1] - points[0]) / 4
    assert bool((lowest <= room + 1e-7 * size).all())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("columns", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_bounds_hold(kind, columns, norm, dtype):
    torch.manual_seed(columns)
    net, x = mlp(kind, (columns, 12, 10, 4)).double(), torch.randn(3, columns, dtype=torch.float64)
    model = on_host(net.to(dtype), x.to(dtype))
    net, slack = deepcopy(net).double(), 1e-9 if dtype == torch.float64 else 1e-4
    for eps in (1e-3, 0.05, 0.3, 1.0):
        region = Ball(x.to(dtype).double(), eps, norm)
        for order in ("backward", "forward"):
            found = bounds(model, Ball(x.to(dtype), eps, norm), order)
            lower, upper = (bound.double() for bound in found)
            points = trial_points(net, region, lower, upper, count=90)
            assert_encloses(lower, upper, jacobians(net, points), slack)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_never_looser_than_without_strips_and_the_forward_order(kind, monkeypatch):
    """With strips between few coordinates and the forward order besides; much tighter where curvature counts."""
    torch.manual_seed(5)
    net, x = mlp(kind, (1, 30, 30, 30, 5)).double(), torch.randn(2, 1, dtype=torch.float64)
    with torch.no_grad():
        for weight in net.parameters():
            weight.mul_(8 if kind is nn.Sigmoid else 3)
    model, regions = on_host(net, x), [Ball(x, eps) for eps in (0.01, 0.1, 0.5, 2.0)]
    new = [(bounds(model, region), bounds(model, region, "forward")) for region in regions]
    monkeypatch.setattr(strips, "FEW", 0)
    monkeypatch.setattr(planes, "FEW", 0)
    old = [(bounds(model, region), bounds(model, region, "forward")) for region in regions]
    ratios = []
    for mine, its in zip(new, old):
        for found, before in zip(mine, its):
            slack = 1e-9 * before.magnitude.max()
            assert bool((found.lower >= before.lower - slack).all() & (found.upper <= before.upper + slack).all())
        ratios.append(float(mine[0].width.mean() / its[0].width.mean()))
    assert min(ratios) <= 0.95


def test_a_region_does_not_depend_on_the_others():
    """Where lines are chosen for one region and planes for another, both have the bounds that they have alone."""
    torch.manual_seed(2)
    net, x = mlp(nn.Tanh, (2, 12, 12, 3)).double(), torch.randn(2, 2, dtype=torch.float64)
    model, eps = on_host(net, x), torch.tensor([0.05, 30.0], dtype=torch.float64)
    both = bounds(model, Ball(x, eps), method=None)
    assert both.methods == ("RecurJac-McCormick", "RecurJac-Linear")
    for i in range(2):
        alone = bounds(model, Ball(x[i : i + 1], float(eps[i])), method=None)
        assert torch.allclose(both.lower[i], alone.lower[0], rtol=1e-9, atol=1e-12)
        assert torch.allclose(both.upper[i], alone.upper[0], rtol=1e-9, atol=1e-12)


def test_differentiable_by_the_weights():
    torch.manual_seed(4)
    net, x = mlp(nn.Tanh, (1, 8, 8, 2)).double(), torch.randn(2, 1, dtype=torch.float64)
    model = on_host(net, x, True)
    region, weight = Ball(x, 0.2), next(iter(net.parameters()))

    def width():
        return rj.jacobian_bounds(model, region.perturbed(), method=PLANES, order="forward").width.sum()

    parameters = [p for name, p in model.named_parameters() if p.shape == weight.shape]
    (gradient,) = torch.autograd.grad(width(), parameters[0])
    assert bool(gradient.isfinite().all()) and float(gradient.abs().max()) > 0
    step, before = 1e-6, parameters[0].detach().clone()
    with torch.no_grad():
        parameters[0].copy_(before + step * gradient / gradient.norm())
        above = width()
        parameters[0].copy_(before - step * gradient / gradient.norm())
        below = width()
        parameters[0].copy_(before)
    assert abs(float((above - below) / (2 * step)) / float(gradient.norm()) - 1) <= 0.05
