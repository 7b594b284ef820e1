"""Lines around activations and their derivatives: they hold everywhere, and narrow with the square of the interval."""

from __future__ import annotations

import math

import pytest
import torch
from activation_rows import ROWS, derivative, each_row, intervals

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.gains.undetermined import PreactivationBounds, classify
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, Read
from recurjac_plugin.passes.mccormick import relax_layer

GRID = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None, None]
KINKED = {
    "BoundRelu", "BoundLeakyRelu", "BoundPRelu", "BoundAbs", "HardTanh", "BoundHardSigmoid"
}  # fmt: skip


def relaxed(row, lower, upper, center):
    """Lines of a row for intervals of shape (b, 5), and the layer they belong to."""
    shape = tuple(lower.shape[1:])
    step = FactorStep("act", shape, "z", (Read("z", shape),), ActivationFactor(ACTIVATIONS[row.kind], row.parameters))
    layer = classify(step, [PreactivationBounds(lower, upper, 0.0)])
    return layer, *relax_layer(step, layer, (lower, upper), center)[:2]


def chosen(layer, value):
    """Entries of the undetermined neurons, (..., b, 5) -> (..., b, u)."""
    index = layer.index.expand(value.shape[-2], -1)
    return value.gather(-1, index.expand(*value.shape[:-1], -1))


def gap(lines, t):
    return (lines.upper_slope - lines.lower_slope) * t + lines.upper_constant - lines.lower_constant


def require_between(lines, t, value, where, slack):
    """Lines hold at distances t where they are meant to."""
    below = lines.lower_slope * t + lines.lower_constant - value
    above = value - lines.upper_slope * t - lines.upper_constant
    assert float((below - slack)[where].max()) <= 0
    assert float((above - slack)[where].max()) <= 0


@each_row
def test_curvature_bounds_the_second_derivative_of_the_derivative(row):
    lower, upper = intervals(100, row)
    bound = ACTIVATIONS[row.kind].derivative_curvature(lower, upper, row.parameters)
    # Not the ends themselves: a kink there belongs to both sides.
    z = lower + GRID.clamp(1e-9, 1 - 1e-9) * (upper - lower)
    z = torch.where(z == 0, 1e-300, z).requires_grad_()
    first = ACTIVATIONS[row.kind].derivative(z, row.parameters)
    second = torch.zeros_like(z)
    if first.requires_grad:
        (second,) = torch.autograd.grad(first.sum(), z, create_graph=True)
    third = torch.autograd.grad(second.sum(), z)[0] if second.requires_grad else torch.zeros_like(z)
    largest = third.detach().abs().amax(0)
    finite = bound.isfinite() & largest.isfinite()
    assert bool((bound >= largest * (1 - 1e-6) - 1e-12)[finite].all())
    if row.kind not in KINKED:
        assert bool(finite.any())


@each_row
@pytest.mark.parametrize("where", [0.5, 0.0])
def test_lines_hold(row, where):
    lower, upper = intervals(100, row)
    center = lower + where * (upper - lower)
    layer, change, slopes = relaxed(row, lower, upper, center)
    z = lower + GRID * (upper - lower)
    kinks = torch.tensor([p for p, v in ACTIVATIONS[row.kind].points(row.parameters) if isinstance(p, float)])
    z = torch.cat((z, kinks.to(z)[:, None, None].expand(-1, *lower.shape).maximum(lower).minimum(upper)))
    t = chosen(layer, z - center)
    valid = (layer.lower < layer.upper).expand_as(t)
    if not bool(valid.any()):
        pytest.skip("a linear function: nothing is undetermined")
    size = torch.maximum(layer.lower.abs(), layer.upper.abs()).clamp(min=1)
    require_between(slopes, t, chosen(layer, derivative(row.function, z)), valid, 1e-11 * size)
    value = row.function(z) - row.function(center)
    scale = size * (1 + torch.maximum(chosen(layer, lower).abs(), chosen(layer, upper).abs()))
    # The identity that torch's softplus becomes is off from softplus by up to log(1 + exp(-threshold)) / beta.
    jump = math.log1p(math.exp(-row.parameters["threshold"])) if "threshold" in row.parameters else 0.0
    require_between(change, t, chosen(layer, value), valid, 1e-11 * scale + jump)


@each_row
def test_lines_hold_from_a_center_outside(row):
    """Bounds of a part of a region need not contain the centre of the whole."""
    lower, upper = intervals(100, row)
    middle = (lower + upper) / 2
    center = (upper + 0.3).clamp(row.low, row.high)
    layer, change, slopes = relaxed(row, lower, middle, center)
    z = lower + GRID * (middle - lower)
    t, valid = chosen(layer, z - center), (layer.lower < layer.upper).expand(len(z), -1, -1)
    if not bool(valid.any()):
        pytest.skip("a linear function: nothing is undetermined")
    size = torch.maximum(layer.lower.abs(), layer.upper.abs()).clamp(min=1)
    require_between(slopes, t, chosen(layer, derivative(row.function, z)), valid, 1e-11 * size)
    jump = math.log1p(math.exp(-row.parameters["threshold"])) if "threshold" in row.parameters else 0.0
    value = chosen(layer, row.function(z) - row.function(center))
    scale = (1 + value.abs().amax(0)) * (1 + t.abs().amax(0))
    require_between(change, t, value, valid, 1e-10 * scale * size + jump)


SMOOTH = [row for row in ROWS if row.kind in {"BoundTanh", "BoundSigmoid", "BoundGelu", "SiLU", "BoundSin", "BoundErf"}]


@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: row.kind)
@pytest.mark.parametrize("width", [1e-3, 1e-2, 1e-1])
def test_lines_are_as_near_as_the_curvature_allows(row, width):
    """The hull of a function with ``|f''| <= K`` is K w^2 / 8 thick, and two of its lines differ by twice that."""
    lower = torch.linspace(-3, 3, 200, dtype=torch.float64).reshape(-1, 5)
    upper = lower + width
    center = lower + width / 3
    layer, change, slopes = relaxed(row, lower, upper, center)
    t = torch.stack((lower, upper)) - center
    bent = derivative(lambda z: ACTIVATIONS[row.kind].derivative(z, row.parameters), lower + GRID * width).abs().amax(0)
    curvature = ACTIVATIONS[row.kind].derivative_curvature(lower, upper, row.parameters)
    thickness = {"slopes": curvature * width**2, "change": bent * width**2 + 0.1 * curvature * width**3}
    assert float((gap(slopes, chosen(layer, t)) / chosen(layer, thickness["slopes"])).max()) <= 0.26
    assert float((gap(change, chosen(layer, t)) / chosen(layer, thickness["change"])).max()) <= 0.26


def test_lines_of_a_kink_are_crowns():
    """A ReLU that is undetermined has a chord above, and a line through 0 below."""
    row = ROWS[0]
    lower, upper = torch.tensor([[-1.0, -2.0]]), torch.tensor([[3.0, 1.0]])
    _, change, slopes = relaxed(row, lower, upper, torch.zeros_like(lower))
    assert change.upper_slope.tolist() == [[0.75, pytest.approx(1 / 3)]]
    assert change.upper_constant.tolist() == [[0.75, pytest.approx(2 / 3)]]
    assert change.lower_slope.tolist() == [[1.0, 0.0]]
    assert slopes.upper_slope.tolist() == [[0.0, 0.0]]
    assert slopes.upper_constant.tolist() == [[1.0, 1.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("width", [0.0, 1e-30, 1e-12, 1e-7, 1e-5])
def test_narrow_intervals(width, dtype):
    row = next(row for row in ROWS if row.kind == "BoundTanh")
    lower = torch.linspace(-2, 2, 50, dtype=dtype).reshape(-1, 5)
    upper = lower + width
    layer, change, slopes = relaxed(row, lower, upper, lower)
    if not layer.count:
        pytest.skip("as narrow as a point")
    eps = torch.finfo(dtype).eps
    t = chosen(layer, upper - lower)
    for lines, value in ((slopes, derivative(torch.tanh, upper)), (change, torch.tanh(upper) - torch.tanh(lower))):
        require_between(lines, t, chosen(layer, value), layer.lower < layer.upper, 8 * eps)
        assert float(gap(lines, t).abs().max()) <= 16 * eps + width**2 + 2 * width * eps


def test_what_fills_up_a_list_has_no_lines():
    row = next(row for row in ROWS if row.kind == "BoundSoftsign")
    lower = torch.tensor([[0.1, 0.2, 0.3], [1.0, 1.0, 1.0]], dtype=torch.float64)
    upper = lower + torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    layer, change, slopes = relaxed(row, lower, upper, lower)
    filled = layer.lower == layer.upper
    assert bool(filled.any())
    for lines in (change, slopes):
        assert all(not bool(value[filled].any()) for value in vars(lines).values() if value is not None)


@each_row
def test_lines_of_wide_and_of_flat_parts_are_no_worse_than_the_mean_value_theorem(row):
    """A bound of the second derivative that holds everywhere says nothing where a function has become flat."""
    if row.kind in KINKED or "threshold" in row.parameters or row.kind == "BoundTan":
        pytest.skip("it has two pieces, jumps, or is not finite on wide intervals")
    generator = torch.Generator().manual_seed(0)
    middle, half = (4 * torch.randn(2, 40, 5, generator=generator, dtype=torch.float64)).exp().clamp(0.1, 12.0)
    lower, upper = middle - half, middle + half
    domain = ACTIVATIONS[row.kind].domain(row.parameters)
    if domain is not None:
        lower, upper = lower.abs() + 0.5, lower.abs() + 0.5 + half
    center = (lower + upper) / 2
    layer, change, _ = relaxed(row, lower, upper, center)
    width = (layer.upper - layer.lower) * chosen(layer, upper - lower) / 2
    found = gap(change, torch.zeros(()))
    assert bool((found <= 1.05 * width + 1e-9 * (1 + width)).all())
