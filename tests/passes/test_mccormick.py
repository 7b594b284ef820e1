"""RecurJac-McCormick: never looser than RecurJac-Linear, of second order where that is of first, and sound."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import BY_NAME, Net, hosted, mlp, on_host
from oracle import Ball, Box, assert_encloses, jacobian, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, Read
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.passes.mccormick import linear_up_to_center, mccormick_planes
from recurjac_plugin.passes.rules import recurjac_linear, relax_products

SMOOTH = ("tanh", "sigmoid", "atan", "silu", "softplus", "mixed", "sin", "exp")
NEW, OLD = "RecurJac-McCormick", "RecurJac-Linear"


def bounds_of(model, region, method, **options):
    with torch.no_grad():
        return rj.jacobian_bounds(model, region.perturbed(), method=method, **options)


def test_planes_hold_and_are_hardly_higher_than_chords_in_the_middle():
    """On a grid of d, y and t with d between two lines in t, all signs of everything included."""
    ends = [(-2.0, -0.5), (-1.0, 1.5), (0.0, 2.0), (0.5, 0.7)]
    slopes = [(-0.6, 0.3), (0.4, 0.4), (0.0, -0.2)]
    rows = [(*d, *y, *s) for d, y, s in itertools.product(ends, ends, slopes)]
    dl, du, yl, yu, upper_slope, lower_slope = torch.tensor(rows, dtype=torch.float64).T[:, None, None, :]
    t = torch.linspace(-1, 2, 31, dtype=torch.float64)[:, None, None, None, None, None]
    lines = Relaxation(lower_slope, (dl + du) / 2 - 0.2, upper_slope, (dl + du) / 2 + 0.1)
    low = torch.maximum(dl, lines.lower_slope * t + lines.lower_constant)
    high = torch.minimum(du, lines.upper_slope * t + lines.upper_constant)
    grid = torch.linspace(0, 1, 11, dtype=torch.float64)
    d = low + grid[:, None, None, None, None] * (high - low)
    y = yl + grid[:, None, None, None] * (yu - yl)
    middle = torch.full_like(dl, 0.5)

    def rule(*ranges):
        return mccormick_planes(*ranges, derivative=lines, middle=middle)

    found = relax_products(rule, dl, du, yl, yu)
    possible = low <= high
    above = found.upper_slope * y + found.upper_constant + found.upper_t_slope * t - d * y
    below = d * y - found.lower_slope * y - found.lower_constant - found.lower_t_slope * t
    assert float(torch.where(possible, above, 0.0).min()) >= -1e-12
    assert float(torch.where(possible, below, 0.0).min()) >= -1e-12
    plane, chord = rule(dl, du, yl, yu), recurjac_linear(dl, du, yl, yu)
    center = (yl + yu) / 2
    gain = chord.slope * center + chord.constant - (plane.slope * center + plane.constant + plane.t_slope * middle)
    varies = (du - dl) * torch.maximum(yl.abs(), yu.abs())
    assert float((gain / varies).min()) >= -1e-3 and float(gain.max()) > 0.1  # planes about as high are mixed


@pytest.mark.parametrize("order", ["backward", "forward", "both"])
@pytest.mark.parametrize("name", [*SMOOTH, "relu", "hardswish", "residual", "layer_norm", "product", "branches"])
def test_never_looser(name, order):
    net, center, model = hosted(name)
    for eps in (0.01, 0.1, 0.5):
        region = Ball(center, eps)
        old = bounds_of(model, region, BY_NAME[name].method(OLD), order=order)
        new = bounds_of(model, region, BY_NAME[name].method(NEW), order=order)
        scale = float(old.magnitude.max())
        assert bool((new.lower >= old.lower - 1e-12 * scale).all() & (new.upper <= old.upper + 1e-12 * scale).all())
        assert_encloses(new.lower, new.upper, truth(net, region), BY_NAME[name].slack)


@pytest.mark.parametrize("order", ["backward", "forward"])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid], ids=lambda kind: kind.__name__)
def test_small_regions_have_the_width_of_the_second_derivative(kind, norm, order):
    """The range of an entry of J over a ball of radius r is 2 r times the dual norm of its gradient, up to r^2."""
    torch.manual_seed(3)
    net, x = mlp(kind, (4, 8, 7, 3)).double(), torch.randn(1, 4, dtype=torch.float64)
    model, eps = on_host(net, x), 1e-3
    second = torch.autograd.functional.jacobian(lambda z: jacobian(net, z, differentiable=True), x)[0, :, :, 0]
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    true = 2 * eps * torch.linalg.vector_norm(second, ord=dual, dim=2)
    width = bounds_of(model, Ball(x, eps, norm), NEW, order=order).width[0]
    assert bool((width >= true * (1 - 1e-6)).all())
    # What is left over are the gradients' own errors, and those of z, which are both of the order of r^2.
    old = bounds_of(model, Ball(x, eps, norm), OLD, order=order).width[0]
    assert bool((width <= true * 1.01).all())
    assert float(old.mean()) >= 1.8 * float(true.mean())


@pytest.mark.parametrize("name", SMOOTH)
def test_much_tighter_on_smooth_networks(name):
    _, center, model = hosted(name)
    widths = [bounds_of(model, Ball(center, 0.02), BY_NAME[name].method(method)).width.mean() for method in (NEW, OLD)]
    assert float(widths[0]) <= 0.55 * float(widths[1])


def test_pre_activation_bounds_of_a_part_without_the_centre():
    """Branch and bound hands in bounds of a part of the region; they need not hold at the region's centre."""
    net, center, model = hosted("tanh")
    region, part = Ball(center, 0.3), Box(center + 0.1, center + 0.3)
    analysis = analyse(model, part.perturbed(), parse("RecurJac"), None)
    inner = {name: (each.lower.detach(), each.upper.detach()) for name, each in analysis.preactivations.items()}
    bounds = bounds_of(model, region, NEW, intermediate_bounds=inner)
    assert_encloses(bounds.lower, bounds.upper, truth(net, part))
    whole = bounds_of(model, region, NEW)
    assert float(bounds.width.mean()) < float(whole.width.mean())


def of_part(net, x, region, part):
    """Bounds over a region with the pre-activation bounds of a part of it."""
    model = on_host(net, x)
    evidence = analyse(model, part.perturbed(), parse("IBP+RecurJac"), None).preactivations
    inner = {name: (each.lower.detach(), each.upper.detach()) for name, each in evidence.items()}
    return bounds_of(model, region, NEW, intermediate_bounds=inner)


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize(
    ("kind", "scale"),
    [(nn.ReLU, 1.0), (nn.Hardtanh, 1.0), (nn.GELU, 200.0)],
    ids=["relu", "hardtanh", "gelu"],
)
def test_what_is_linear_on_a_part_need_not_be_so_up_to_the_centre(kind, scale):
    """An active ReLU has not changed by its slope times the distance since a centre where it was not active."""
    for seed in range(20):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(2, 4), kind(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)).double()
        x = torch.randn(3, 2, dtype=torch.float64)
        with torch.no_grad():  # GELU becomes flat or the identity all over the part
            net[0].weight *= scale
            net[0].bias *= scale
            net[2].weight /= scale if kind is nn.GELU else 1
        part = Box(x + 0.5, x + 1.0)
        found = of_part(net, x, Ball(x, 1.0), part)
        assert_encloses(found.lower, found.upper, truth(net, part))


@pytest.mark.parametrize(("kind", "center", "held"), [
    ("BoundReciprocal", -0.5, False), ("BoundReciprocal", 0.5, True), ("BoundTan", 4.0, False), ("BoundLog", 0.1, True)
])  # fmt: skip
def test_no_line_leads_across_a_pole(kind, center, held):
    step = FactorStep("act", (1,), "z", (Read("z", (1,)),), ActivationFactor(ACTIVATIONS[kind], {}))
    bounds = torch.tensor([[1.0]], dtype=torch.float64), torch.tensor([[1.5]], dtype=torch.float64)
    assert linear_up_to_center(step, [bounds], [torch.full_like(bounds[0], center)]) is held


@pytest.mark.parametrize("kind", [nn.Tanh, nn.Sigmoid, nn.SiLU], ids=lambda kind: kind.__name__)
def test_lines_hold_for_distances_that_were_rounded(kind):
    """Terms around 1e6 that cancel: t is off by one unit of their rounding, to either side, and lines still hold.

    On an interval of 1e-5 the room that lines have between the points of their grid is smaller than that.
    """
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 5), kind(), nn.Linear(5, 4), kind(), nn.Linear(4, 2)).double()
    x = torch.tensor([[1e6, -1e6, 1e6]], dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.uniform_(0.5, 1.0)
        net[0].bias -= (net[0].weight @ x[0]) * torch.tensor([1, 1, 1, 1, 0]).double()  # the last one is far out
    model, region = on_host(net, x), Ball(x, 1e-5).perturbed()
    by_host = analyse(model, region, parse(NEW), None)
    # The host's own bounds are not exact enough for this.
    ends = {name: (z0 - 2e-5, z0 + 2e-5) for name, z0 in by_host.centers.items()}
    analysis = analyse(model, region, parse(NEW), None, intermediate_bounds=ends)
    assert analysis.relaxation is not None
    step = analysis.graph.factors[0]
    error = torch.finfo(torch.float64).eps * 2e6
    index = analysis.derivatives[step.name].index[0][:4]  # the last one may have been left out
    assert index.tolist() == [0, 1, 2, 3]
    name = step.reads[0].name
    known, z0 = analysis.preactivations[name], analysis.centers[name]
    low, high, z0 = (value.detach().flatten(1)[:, :4] for value in (known.lower, known.upper, z0))
    activation, parameters = step.factor.activation, step.factor.parameters
    truths = {
        "change": (analysis.relaxation.activations[step.name], lambda z: kind()(z) - kind()(z0)),
        "derivative": (
            analysis.relaxation.derivatives[step.name].lines,
            lambda z: activation.derivative(z, parameters),
        ),
    }
    for what, (lines, function) in truths.items():
        for side, slope, constant in (
            (1, lines.lower_slope, lines.lower_constant),
            (-1, lines.upper_slope, lines.upper_constant),
        ):
            slope, constant = (each.detach().reshape(-1)[:4] for each in (slope, constant))
            for off in (-error, error):
                gap = smallest(lambda z: side * (function(z) - slope * (z - z0 + off) - constant), low, high)  # noqa: B023
                assert float(gap.min()) >= -1e-13, what


def smallest(function, low, high):
    """The smallest value of a function of (n, 4) numbers between ends (1, 4): by finer and finer grids, (1, 4)."""
    grid = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None]
    for _ in range(4):
        z = low + grid * (high - low)
        values = function(z)
        best, step = values.argmin(0, keepdim=True), (high - low) / 100
        low, high = torch.maximum(low, z.gather(0, best) - step), torch.minimum(high, z.gather(0, best) + step)
    return values.amin(0, keepdim=True)


def test_bounds_do_not_depend_on_the_chunk():
    _, center, model = hosted("mixed")
    region = Ball(center, 0.1)
    for order in ("backward", "forward"):
        whole = bounds_of(model, region, NEW, order=order)
        small = bounds_of(model, region, NEW, order=order, memory_budget=1)
        assert torch.allclose(whole.lower, small.lower, rtol=0, atol=1e-12)
        assert torch.allclose(whole.upper, small.upper, rtol=0, atol=1e-12)


def test_shifted_order_is_that_of_chords():
    _, center, model = hosted("tanh")
    found = [bounds_of(model, Ball(center, 0.1), method, order="forward", shift=1) for method in (OLD, NEW)]
    assert torch.equal(found[0].lower, found[1].lower) and torch.equal(found[0].upper, found[1].upper)


def test_planes_are_compared_in_the_middle_and_not_at_the_centre():
    """Bounds of a part of a region lie on one side of the region's centre."""
    _, center, model = hosted("tanh")
    part = analyse(model, Box(center + 0.1, center + 0.3).perturbed(), parse("RecurJac"), None).preactivations
    inner = {name: (each.lower.detach(), each.upper.detach()) for name, each in part.items()}
    region = Ball(center, 0.3).perturbed()
    analysis = analyse(model, region, parse(NEW), None, intermediate_bounds=inner)
    assert analysis.relaxation is not None and analysis.relaxation.derivatives
    for step in analysis.graph.factors:
        name = step.reads[0].name
        index = analysis.gains.derivatives[step.name].index.expand(len(center), -1)
        middle = (sum(inner[name]) / 2 - analysis.centers[name]).flatten(1).gather(1, index)
        found = analysis.relaxation.derivatives[step.name].middle.squeeze(1)
        assert torch.allclose(found, middle, rtol=0, atol=1e-12) and float(middle.detach().abs().max()) > 0.05


@pytest.mark.parametrize("order", ["backward", "forward"])
def test_nothing_is_relaxed_behind_a_product_of_uncertain_factors(order):
    torch.manual_seed(5)
    net = Net(
        lambda s, x: s.c(torch.tanh(s.b(torch.tanh(s.a(x)) * torch.sigmoid(s.a(x))))),
        a=nn.Linear(3, 4), b=nn.Linear(4, 4), c=nn.Linear(4, 2),
    ).double()  # fmt: skip
    x = torch.randn(2, 3, dtype=torch.float64)
    region, model = Ball(x, 0.2), on_host(net, x)
    analysis = analyse(model, region.perturbed(), parse(NEW), None)
    assert analysis.relaxation is not None and len(analysis.relaxation.derivatives) == 2 < len(analysis.gains.layers)
    found = bounds_of(model, region, NEW, order=order)
    assert_encloses(found.lower, found.upper, truth(net, region))
