"""Affine forms of all gradients: they hold, of second order, and take the place of planes where these cost much."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, hosted, mlp, on_host
from oracle import Ball, Box, assert_encloses, jacobian, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.passes import affine as module
from recurjac_plugin.passes.affine import band
from recurjac_plugin.recursion import backward

METHOD, LINEAR = "RecurJac-McCormick", "RecurJac-Linear"
SMOOTH = ("tanh", "sigmoid", "atan", "silu", "softplus", "mixed", "sin", "exp", "sequence")


@pytest.fixture
def only_affine(monkeypatch):
    """No planes, as where these would cost too much; counts how often forms are asked for."""
    calls = []
    monkeypatch.setattr(backward, "_MULTIPLICATIONS", -1)
    monkeypatch.setattr(backward, "_FORMS", 0)
    original = module.AffinePass.bounds
    monkeypatch.setattr(module.AffinePass, "bounds", lambda *args: calls.append(args) or original(*args))
    return calls


def bounds_of(model, region, method=METHOD, **options):
    with torch.no_grad():
        return rj.jacobian_bounds(model, region.perturbed(), method=method, **options)


def test_bands_hold_what_lies_between_the_lines():
    generator = torch.Generator().manual_seed(0)
    lower_slope, upper_slope, start, half = torch.randn(4, 1, 500, generator=generator, dtype=torch.float64)
    middle, half = start, half.abs()
    gap = torch.rand(1, 500, generator=generator, dtype=torch.float64)
    upper_slope[:, :100], half[:, 100:200] = lower_slope[:, :100], 0.0
    high = (upper_slope - lower_slope).abs() * (middle.abs() + half) + gap  # the lines do not cross
    lines = Relaxation(lower_slope, torch.zeros_like(high), upper_slope, high)
    found = band(lines, middle, half)
    for share in torch.linspace(-1, 1, 21, dtype=torch.float64):
        t = middle + share * half
        center = found.slope * t + found.offset
        assert bool((center - found.radius <= lines.lower_slope * t + 1e-12).all())
        assert bool((center + found.radius >= lines.upper_slope * t + high - 1e-12).all())
    parallel = found.radius[:, :100] - high[:, :100] / 2
    assert float(parallel.abs().max()) < 1e-12
    unbounded = band(Relaxation(*(torch.ones(1, 1) for _ in range(4))), torch.zeros(1, 1), torch.full((1, 1), math.inf))
    assert float(unbounded.radius) == 0.0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("name", SMOOTH)
def test_sound_and_never_looser_than_lines(only_affine, name, dtype):
    if name not in BY_NAME:
        pytest.skip("no such network among the cases")
    net, center, model = hosted(name, dtype=dtype)
    slack = 1e-4 if dtype == torch.float32 else BY_NAME[name].slack
    for eps in (1e-4, 0.02, 0.3):
        region = Ball(center, eps)
        new, old = bounds_of(model, region), bounds_of(model, region, LINEAR)
        scale = float(old.magnitude.max())
        assert bool((new.lower >= old.lower - slack * scale).all() & (new.upper <= old.upper + slack * scale).all())
        assert_encloses(new.lower, new.upper, truth(net, region), slack)
    assert only_affine


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid, nn.SiLU], ids=lambda kind: kind.__name__)
def test_small_regions_have_the_width_of_the_second_derivative(only_affine, kind, norm):
    """The range of an entry of J over a ball of radius r is 2 r times the dual norm of its gradient, up to r^2."""
    torch.manual_seed(3)
    net, x = mlp(kind, (4, 8, 7, 3)).double(), torch.randn(1, 4, dtype=torch.float64)
    model, eps = on_host(net, x), 1e-3
    second = torch.autograd.functional.jacobian(lambda z: jacobian(net, z, differentiable=True), x)[0, :, :, 0]
    dual = {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]
    true = 2 * eps * torch.linalg.vector_norm(second, ord=dual, dim=2)
    found = bounds_of(model, Ball(x, eps, norm))
    assert bool((found.width[0] >= true * (1 - 1e-6)).all() & (found.width[0] <= true * 1.02 + 1e-7).all())
    assert_encloses(found.lower, found.upper, truth(net, Ball(x, eps, norm)))


@pytest.mark.parametrize("far", [0.0, 30.0, -300.0])
def test_narrow_and_far_off_intervals(only_affine, far):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 6), nn.Sigmoid(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        net[0].bias[:3] += far
    x = torch.randn(2, 3, dtype=torch.float64)
    model = on_host(net, x[:1])
    for eps in (1e-9, 1e-3, 2.0):
        found = bounds_of(model, Ball(x, eps))
        assert_encloses(found.lower, found.upper, truth(net, Ball(x, eps)))
    assert only_affine


class Convolutional(nn.Module):
    def __init__(self, kind):
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 3, 3, stride=2, padding=1)
        self.skip, self.last = nn.Conv2d(2, 3, 1, stride=2), nn.Linear(3 * 4 * 4, 3)
        self.kind = kind

    def forward(self, x):
        inner = self.kind(self.second(self.kind(self.first(x))) + self.skip(x))
        return self.last(inner.flatten(1))


@pytest.mark.parametrize("kind", [torch.tanh, torch.sigmoid], ids=["tanh", "sigmoid"])
def test_convolutions_and_skip_connections(only_affine, kind):
    net, x = Convolutional(kind).double(), torch.randn(2, 2, 8, 8, dtype=torch.float64)
    model = on_host(net, x[:1])
    region = Ball(x, 0.01)
    found = bounds_of(model, region)
    assert_encloses(found.lower, found.upper, truth(net, region))
    whole, chunked = found, bounds_of(model, region, memory_budget=1)
    assert torch.allclose(whole.lower, chunked.lower) and torch.allclose(whole.upper, chunked.upper)
    assert float(found.width.mean()) < 0.5 * float(bounds_of(model, region, LINEAR).width.mean())
    alone = bounds_of(model, Ball(x[1:], 0.01))
    assert torch.allclose(found.lower[1:], alone.lower) and torch.allclose(found.upper[1:], alone.upper)


def test_the_constant_of_a_row_is_that_of_the_sum_of_its_forms(only_affine):
    net, center, model = hosted("tanh")
    region = Ball(center, 0.05)
    found = bounds_of(model, region)
    constant = rj.local_lipschitz(model, region.perturbed(), method=METHOD, per_output=True)
    sampled = truth(net, region).flatten(3).abs().sum(3).amax(0)
    entries = found.magnitude.flatten(2).sum(2)
    assert bool((constant >= sampled * (1 - 1e-9)).all() & (constant <= entries * (1 + 1e-9)).all())
    weights = torch.randn(entries.shape[0], entries.shape[1], center[0].numel(), dtype=torch.float64)
    order = analyse(model, region.perturbed(), parse(METHOD), None)
    upper = order._in_order.affine.upper_of_sum(weights)
    assert bool((upper >= (truth(net, region).flatten(3) * weights).sum(3).amax(0) - 1e-9).all())
    one = torch.zeros_like(weights)
    one[:, :, 1] = 1.0
    entry = order._in_order.affine.bounds("input", None)[1][:, :, 1]
    assert torch.allclose(order._in_order.affine.upper_of_sum(one), entry)


def test_pre_activation_bounds_of_a_part_without_the_centre(only_affine):
    net, center, model = hosted("tanh")
    region, part = Ball(center, 0.3), Box(center + 0.1, center + 0.3)
    analysis = analyse(model, part.perturbed(), parse("RecurJac"), None)
    inner = {name: (each.lower.detach(), each.upper.detach()) for name, each in analysis.preactivations.items()}
    found = bounds_of(model, region, intermediate_bounds=inner)
    assert_encloses(found.lower, found.upper, truth(net, part))
    assert only_affine


@pytest.mark.parametrize("memory_budget", [None, 4096])
def test_gradients(only_affine, memory_budget):
    """With respect to the weights, also where everything is computed again for the backward pass."""
    torch.manual_seed(0)
    net, x = mlp(nn.Tanh, (3, 5, 4, 2)).double(), torch.randn(2, 3, dtype=torch.float64)
    model, region = on_host(net, x[:1]), Ball(x, 0.05)
    weight = net[2].weight

    def loss():
        return rj.jacobian_bounds(model, region.perturbed(), method=METHOD, memory_budget=memory_budget).upper.sum()

    (slope,) = torch.autograd.grad(loss(), weight)
    direction = torch.randn_like(weight)
    with torch.no_grad():
        values = []
        for step in (1e-6, -1e-6):
            weight += step * direction
            values.append(float(loss()))
            weight -= step * direction
    assert float((slope * direction).sum()) == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_forms_take_the_place_of_planes_only_where_they_cost_much_less(monkeypatch):
    """Of a network with few neurons and many inputs they cost about the same; of one with many neurons not."""
    monkeypatch.setattr(backward, "_MULTIPLICATIONS", 0)
    for widths, replaced in (((200, 5, 5, 2), False), ((10, 100, 100, 2), True)):
        net, x = mlp(nn.Tanh, widths).double(), torch.zeros(1, widths[0], dtype=torch.float64)
        order = analyse(on_host(net, x), Ball(x, 0.01).perturbed(), parse(METHOD), None)._in_order
        assert (order.affine is not None) == replaced == (len(order.passes) == 1)


def test_kinks_are_left_to_lines():
    """A form knows of a derivative that jumps no more than its range."""
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)).double()
    x = torch.randn(1, 6, dtype=torch.float64)
    order = analyse(on_host(net, x), Ball(x, 1.0).perturbed(), parse(METHOD), None)._in_order
    assert order.affine is None and len(order.passes) == 2


@pytest.mark.parametrize("name", ["mixed", "relu"])
def test_planes_without_substitution(monkeypatch, name):
    """Where substitutions cost too much and there are no forms, sums over t are bounded by intervals."""
    net, center, model = hosted(name)
    region = Ball(center, 0.1)
    tight = bounds_of(model, region)
    monkeypatch.setattr(backward, "_MULTIPLICATIONS", -1)
    monkeypatch.setattr("recurjac_plugin.jacobian.analysis.affine_pass", lambda *args: None)
    found, old = bounds_of(model, region), bounds_of(model, region, LINEAR)
    assert_encloses(found.lower, found.upper, truth(net, region))
    assert bool((found.lower >= old.lower - 1e-12).all() & (found.upper <= old.upper + 1e-12).all())
    assert bool((found.lower <= tight.lower + 1e-12).all() & (found.upper >= tight.upper - 1e-12).all())


@pytest.mark.parametrize("far", [0.0, 1e4])
def test_rigorous_bounds_without_substitution(monkeypatch, far):
    """They have no forms, and room for the rounding of the intervals that sums over t are bounded by."""
    monkeypatch.setattr(backward, "_MULTIPLICATIONS", -1)
    torch.manual_seed(0)
    net = mlp(nn.Tanh, (3, 6, 5, 2)).double()
    with torch.no_grad():  # large pre-activations that hardly move
        net[0].bias += far
        net[0].bias -= net[0](torch.full((1, 3), far, dtype=torch.float64))[0]
    x = torch.full((1, 3), far, dtype=torch.float64)
    for eps in (1e-9, 0.1):
        region = Ball(x, eps)
        found = bounds_of(on_host(net, x), region, rigorous=True)
        lines = bounds_of(on_host(net, x), region, LINEAR, rigorous=True)
        assert_encloses(found.lower, found.upper, truth(net, region), 0.0 if far == 0.0 else 1e-12)
        assert bool((found.width <= lines.width * (1 + 1e-6) + 1e-9).all())  # more terms, more rounding


def test_one_smooth_output_needs_no_substitution(monkeypatch):
    """A sum over one t is extreme at its ends, which the pre-activation bounds are."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1), nn.Tanh()).double()
    x = torch.randn(1, 4, dtype=torch.float64)
    model, region = on_host(net, x), Ball(x, 0.2)
    tight = bounds_of(model, region)
    monkeypatch.setattr(backward, "_MULTIPLICATIONS", -1)
    found = bounds_of(model, region)
    assert torch.allclose(found.lower, tight.lower, rtol=1e-3) and torch.allclose(found.upper, tight.upper, rtol=1e-3)
    assert bool((found.width <= bounds_of(model, region, LINEAR).width * (1 + 1e-12)).all())
