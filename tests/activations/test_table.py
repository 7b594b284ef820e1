"""The activation table: derivative ranges contain the sampled derivatives, and no more than is attained."""

from __future__ import annotations

import math

import pytest
import torch
from activation_rows import ROWS, derivative, each_row, intervals, kinks
from cases import Net, on_host
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.gains.undetermined import PreactivationBounds, classify
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, Read
from recurjac_plugin.host import IS_03


def critical(row):
    """Every critical point between -40 and 40."""
    activation = ACTIVATIONS[row.kind]
    points = [z if isinstance(z, float) else z[0] for z, _ in activation.points(row.parameters)]
    return [z + k * (activation.period or 0) for z in points for k in (range(-9, 10) if activation.period else (0,))]


def test_every_row_of_the_table_is_tested():
    assert {row.kind for row in ROWS} == set(ACTIVATIONS)


@each_row
def test_range_contains_and_is_attained(row):
    lower, upper = intervals(row=row)
    dl, du = ACTIVATIONS[row.kind].derivative_range(lower, upper, row.parameters)
    fraction = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None]
    z = lower + fraction * (upper - lower)
    beside = [point + side for point in critical(row) for side in (-1e-9, 0, 1e-9)]
    z = torch.cat([z, *(torch.full_like(lower, point)[None] for point in beside)]).maximum(lower).minimum(upper)
    values = derivative(row.function, z)
    scale = torch.maximum(dl.abs(), du.abs()).clamp(min=1)
    assert bool((values >= dl - 1e-12 * scale).all() & (values <= du + 1e-12 * scale).all())
    if row.parameters.get("threshold", 20) < 20:  # the range also holds softplus itself, which torch leaves there
        return
    # Derivatives from both sides of a kink at an end point belong to the range.
    outside = torch.stack([lower - 1e-9, upper + 1e-9]).clamp(row.low, row.high)
    values = torch.cat([values, derivative(row.function, outside)])
    assert bool((values.amin(0) <= dl + 1e-6 * scale).all() & (values.amax(0) >= du - 1e-6 * scale).all())


# Where autograd itself cancels. (For hard sigmoids and CELU it computes in float32, hence the formulas above.)
EXACT = {
    "BoundTanh": lambda y: 1 / torch.cosh(y).square(),
    "BoundSigmoid": lambda y: 1 / (2 + 2 * torch.cosh(y)),
    "Logistic": lambda y: -1 / (2 + 2 * torch.cosh(y)),
    "BoundAtan": lambda y: 1 / (1 + y.square()),
    "LogSigmoid": lambda y: torch.sigmoid(-y),
    "BoundSoftsign": lambda y: 1 / (1 + y.abs()).square(),
}


@each_row
def test_intervals_that_end_at_a_kink_have_the_derivatives_of_both_sides(row):
    for point in critical(row):
        if not row.low < point - 0.3 < point + 0.3 < row.high:
            continue  # the function ends there
        sides = [
            derivative(row.function, torch.full((1, 5), point + side, dtype=torch.float64)) for side in (-1e-9, 1e-9)
        ]
        for low, high in ((point, point + 0.3), (point - 0.3, point)):
            ends = (torch.full((1, 5), end, dtype=torch.float64) for end in (low, high))
            dl, du = ACTIVATIONS[row.kind].derivative_range(*ends, row.parameters)
            for side in sides:
                assert bool((dl <= side + 1e-6).all() & (side - 1e-6 <= du).all())


@each_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tails_are_finite_and_right(row, dtype):
    z = torch.cat([torch.logspace(0, 4, 200), torch.tensor([17.0, 30.0, 37.0, 41.0, 88.0, 104.0, 710.0, 745.0])]).to(
        dtype
    )
    z = torch.cat([z, -z]).clamp(row.low, row.high).unsqueeze(1).expand(-1, 5)
    parameters = {key: v.to(dtype) if isinstance(v, torch.Tensor) else v for key, v in row.parameters.items()}
    activation = ACTIVATIONS[row.kind]
    dl, du = activation.derivative_range(z, z, parameters)
    assert bool(dl.isfinite().all() & du.isfinite().all() & (dl <= du).all())
    exact = EXACT.get(row.kind, lambda y: derivative(row.function, y))(z.double())
    visible = exact.abs() > 10 * torch.finfo(dtype).tiny
    precision = 2048 * torch.finfo(dtype).eps
    # A derivative that changes its sign is right up to the rounding of its terms.
    changes = row.kind in ("BoundGelu", "SiLU", "BoundMish", "BoundSin", "BoundCos")
    absolute = 16 * torch.finfo(dtype).eps if changes else 0
    if not kinks(row) and row.kind != "BoundSoftplus":  # elsewhere the range at a point is more than one number
        for bound in (dl, du):
            assert torch.allclose(bound.double()[visible], exact[visible], rtol=precision, atol=absolute)
    assert bool((du.double()[~visible & (exact >= 0)] <= 20 * torch.finfo(dtype).tiny).all())
    precision = precision * exact.abs().clamp(min=1)
    assert bool(((dl.double() <= exact + precision) & (du.double() >= exact - precision)).all())
    ends = z.abs().neg().clamp(min=row.low), z.abs().clamp(max=row.high)
    wide_low, wide_high = activation.derivative_range(*ends, parameters)
    assert bool((wide_low <= wide_high).all())
    if row.kind not in ("BoundReciprocal", "Pow", "BoundLog", "BoundSqrt", "BoundTan"):
        assert bool(wide_low.isfinite().all() & wide_high.isfinite().all())


def step(kind, parameters):
    return FactorStep("/act", (5,), "/z", (Read("/z", (5,)),), ActivationFactor(ACTIVATIONS[kind], parameters))


def split(kind, parameters, lower, upper):
    return classify(step(kind, parameters), [PreactivationBounds(lower, upper, torch.finfo(lower.dtype).eps)])


@each_row
def test_inverted_intervals_are_ordered(row):
    lower, upper = intervals(50, row)
    if row.low > -math.inf:  # rounding must not reach the end of the domain
        lower, upper = lower + 1e-6, upper + 1e-6
    if row.high < math.inf:
        lower, upper = lower - 1e-6, upper - 1e-6
    right = split(row.kind, row.parameters, lower, upper)
    inverted = split(row.kind, row.parameters, upper, lower)
    for name in ("index", "lower", "upper", "stable"):
        expected = getattr(right, name)
        assert expected is None or torch.equal(getattr(inverted, name), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_bounds_off_zero_by_rounding_do_not_fix_a_kink(dtype):
    eps = torch.finfo(dtype).eps
    lower = torch.tensor([[-3.0, eps, 0.5, -1.0]], dtype=dtype)
    upper = torch.tensor([[4.0, 1.0, 1.0, -eps]], dtype=dtype)
    layer = split("BoundRelu", {}, lower, upper)
    assert layer.index.tolist() == [[0, 1, 3]]
    assert layer.stable is not None
    assert layer.stable.tolist() == [[0.0, 0.0, 1.0, 0.0]]


def test_neurons_that_differ_between_regions():
    lower = torch.tensor([[-1.0, 1.0, -2.0], [-1.0, -1.0, 1.0]], dtype=torch.float64)
    upper = torch.tensor([[1.0, 2.0, -1.0], [1.0, 1.0, 2.0]], dtype=torch.float64)
    layer = split("BoundRelu", {}, lower, upper)
    assert layer.count == 2
    ranges = torch.zeros(2, 3, dtype=torch.float64).scatter_add(1, layer.index, layer.upper - layer.lower)
    assert ranges.tolist() == [[1, 0, 0], [1, 1, 0]]
    assert layer.stable is not None
    assert layer.stable.tolist() == [[0, 1, 0], [0, 0, 1]]


def test_nan_bounds_are_refused():
    bad = torch.tensor([[math.nan, 1.0]])
    with pytest.raises(rj.InputError, match="NaN"):
        split("BoundRelu", {}, bad, torch.ones(1, 2))


def test_registering_an_activation(monkeypatch):
    """The exponential, as if it were not in the table: its derivative is monotone, so there is no critical point."""
    monkeypatch.delitem(ACTIVATIONS, "BoundExp")
    net = nn.Sequential(nn.Linear(4, 6), Net(lambda s, x: torch.exp(x)), nn.Linear(6, 2)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    model, region = on_host(net, x), Ball(x, 0.2)
    with pytest.raises(rj.UnsupportedError, match="Exp"):
        rj.jacobian_bounds(model, region.perturbed())
    rj.register_activation("BoundExp", torch.exp, ())
    try:
        for rule in rj.METHODS:
            lower, upper = rj.jacobian_bounds(model, region.perturbed(), method=rule)
            assert_encloses(lower.detach(), upper.detach(), truth(net, region))
        with pytest.raises(rj.InputError, match="BoundExp"):
            rj.register_activation("BoundExp", torch.exp, ())
    finally:
        rj.unregister_activation("BoundExp")
    with pytest.raises(rj.UnsupportedError, match="Exp"):
        rj.jacobian_bounds(model, region.perturbed())
    with pytest.raises(rj.InputError, match="BoundExp"):
        rj.unregister_activation("BoundExp")


def test_registering_refuses_what_cannot_be_right():
    for kind in ACTIVATIONS:
        with pytest.raises(rj.InputError, match=kind):
            rj.register_activation(kind, torch.exp, ())
    with pytest.raises(rj.InputError, match="finite"):
        rj.register_activation("BoundUnknown", torch.sigmoid, [(math.inf, 1.0)])
    for curvature in (-1.0, math.nan):
        with pytest.raises(rj.InputError, match="`curvature` of `BoundUnknown` must be at least 0"):
            rj.register_activation("BoundUnknown", torch.sigmoid, (), curvature=curvature)
    assert "BoundUnknown" not in ACTIVATIONS


def test_sub_classes_of_the_host_are_not_looked_up(monkeypatch):
    """In the host tan inherits from arctan and GELU from tanh: taking their derivatives would be unsound."""
    monkeypatch.delitem(ACTIVATIONS, "BoundTan")

    class Tan(nn.Module):
        def forward(self, x):
            return torch.tan(x)

    x = 0.1 * torch.randn(2, 4, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 6), Tan(), nn.Linear(6, 2)).double()
    for prefix in ("", "IBP+"):
        with pytest.raises(rj.UnsupportedError, match="Tan"):
            rj.jacobian_bounds(on_host(net, x), Ball(x, 0.01).perturbed(), method=prefix + "RecurJac")


needs_gelu = pytest.mark.skipif(IS_03, reason="0.3 has no GELU of its own")


@needs_gelu
def test_gelu_of_the_host_is_not_tanh(monkeypatch):
    from auto_LiRPA.operators.gelu import GELU

    x = torch.randn(2, 4, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 6), GELU(), nn.Linear(6, 2)).double()
    model, region = on_host(net, x), Ball(x, 0.1)
    for prefix in ("", "IBP+"):
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=prefix + "RecurJac")
        plain = nn.Sequential(net[0], nn.GELU(), net[2])
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(plain, region))
    monkeypatch.delitem(ACTIVATIONS, "BoundGelu")
    with pytest.raises(rj.UnsupportedError, match="Gelu"):
        rj.jacobian_bounds(model, region.perturbed())


STEPS = {
    "sign": torch.sign,
    "floor": torch.floor,
    "heaviside": lambda x: torch.heaviside(x, torch.zeros_like(x)),
}


@pytest.mark.parametrize("name", STEPS)
def test_steps_are_refused_with_the_reason(name):
    x = torch.randn(2, 4)
    net = nn.Sequential(nn.Linear(4, 6), Net(lambda s, x: STEPS[name](x)), nn.Linear(6, 2))
    try:
        model = on_host(net, x)
    except NotImplementedError:
        pytest.skip("the host has no such operator")
    with pytest.raises(rj.UnsupportedError, match="piecewise constant"):
        rj.jacobian_bounds(model, Ball(x, 0.1).perturbed(), method="IBP+RecurJac")


OUTSIDE = [
    ("BoundLog", {}, -0.1, 1.0),
    ("BoundLog", {}, 0.0, 1.0),
    ("BoundLog", {}, 1e-17, 1.0),  # rounding decides
    ("BoundSqrt", {}, 0.0, 1.0),
    ("BoundReciprocal", {}, -1.0, 2.0),
    ("BoundReciprocal", {}, 0.0, 2.0),
    ("BoundReciprocal", {}, -2.0, 0.0),
    ("Pow", {"exponent": -2.0}, -1.0, 2.0),
    ("Pow", {"exponent": 0.5}, 0.0, 2.0),
    ("Pow", {"exponent": 1.5}, -0.5, 2.0),
    ("BoundTan", {}, 1.0, 2.0),
    ("BoundTan", {}, 1.0, math.pi / 2),
    ("BoundTan", {}, -2.0, 0.0),
    ("BoundTan", {}, 0.0, 100.0),
]


@pytest.mark.parametrize(("kind", "parameters", "lower", "upper"), OUTSIDE)
def test_bounds_outside_the_domain_are_refused(kind, parameters, lower, upper):
    ends = torch.tensor([[1.0, lower]], dtype=torch.float64), torch.tensor([[1.1, upper]], dtype=torch.float64)
    with pytest.raises(rj.UnsupportedError, match=rf"`/act` \({ACTIVATIONS[kind].name}\).*must be.*smaller region"):
        split(kind, parameters, *ends)


def test_an_end_of_the_domain_with_a_finite_derivative_may_be_touched():
    """relu(x)^1.5: the widening by rounding must not step below 0, where the power has no value."""
    layer = split("Pow", {"exponent": 1.5}, torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 4.0]]))
    assert layer.index.tolist()[0] in ([0, 1], [1])
    assert bool((layer.lower == 0).all())
    assert torch.allclose(layer.upper.max(), torch.tensor(3.0))


def test_no_repetition_of_a_periodic_point_is_lost():
    """Intervals with an end at k pi, for large k in float32 too: cos reaches 1 or -1 there."""
    for dtype in (torch.float32, torch.float64):
        k = torch.arange(-4000, 4000, dtype=torch.float64)
        peak = (k * math.pi).to(dtype)
        for lower, upper in ((peak - 0.5, peak), (peak, peak + 0.5)):
            dl, du = ACTIVATIONS["BoundSin"].derivative_range(lower, upper, {})
            reached = torch.where(k % 2 == 0, du.double(), -dl.double())
            assert bool((reached >= 1 - 1e-12).all())


def test_ranges_are_differentiable():
    for row in ROWS:
        lower, upper = intervals(20, row)
        parameters = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in row.parameters.items()}
        lower, upper = lower.requires_grad_(), upper.requires_grad_()
        dl, du = ACTIVATIONS[row.kind].derivative_range(lower, upper, parameters)
        (dl.sum() + du.sum() + 0 * lower.sum()).backward()
        assert lower.grad is not None and bool(lower.grad.isfinite().all()), row.kind
