"""The activation table: derivative ranges contain the sampled derivatives, and no more than is attained."""

from __future__ import annotations

import math

import pytest
import torch
from cases import Net, on_host
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations import ACTIVATIONS
from recurjac_plugin.steps import ActivationFactor, FactorStep, Read
from recurjac_plugin.undetermined import Evidence, classify

SLOPE = torch.tensor([-0.5, 0.0, 0.25, 1.0, 3.0], dtype=torch.float64)
FUNCTIONS = {
    "BoundRelu": [(torch.relu, {})],
    "BoundLeakyRelu": [
        (lambda z, a=a: torch.nn.functional.leaky_relu(z, a), {"alpha": a}) for a in (0.01, 0.3, 1.0, 1.7, -0.4)
    ],
    "BoundPRelu": [(lambda z: torch.where(z > 0, z, SLOPE.to(z) * z), {"slope": SLOPE})],
    "BoundTanh": [(torch.tanh, {})],
    "BoundSigmoid": [(torch.sigmoid, {})],
    "BoundAtan": [(torch.arctan, {})],
}
ROWS = [(kind, function, parameters) for kind, uses in FUNCTIONS.items() for function, parameters in uses]
KINKED = {"BoundRelu", "BoundLeakyRelu", "BoundPRelu"}
each_row = pytest.mark.parametrize(
    ("kind", "function", "parameters"), ROWS, ids=[f"{k}-{i}" for i, (k, *_) in enumerate(ROWS)]
)


def derivative(function, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(function(z).sum(), z)[0]


def intervals(count=400):
    """Intervals of all widths and places, around the kink too; shape (count, 5)."""
    scale = torch.logspace(-4, 1, count, dtype=torch.float64).unsqueeze(1)
    center, width = torch.randn(count, 5, dtype=torch.float64), torch.rand(count, 5, dtype=torch.float64)
    lower = center * scale.flip(0)
    lower[::7] = 0
    upper = lower + width * scale
    upper[1::7] = upper[1::7] * 0 + lower[1::7].clamp(min=0)
    return torch.minimum(lower, upper), torch.maximum(lower, upper)


def test_every_row_of_the_table_is_tested():
    assert set(FUNCTIONS) == set(ACTIVATIONS)


@each_row
def test_range_contains_and_is_attained(kind, function, parameters):
    lower, upper = intervals()
    dl, du = ACTIVATIONS[kind].derivative_range(lower, upper, parameters)
    fraction = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None, None]
    z = lower + fraction * (upper - lower)
    # Derivatives from both sides of a kink at an end point belong to the range.
    z = torch.cat(
        [z, torch.where(lower == 0, -1e-300, lower)[None], z.clamp(-1e-12, 1e-12).maximum(lower).minimum(upper)]
    )
    values = derivative(function, z)
    assert bool((values >= dl - 1e-12).all() & (values <= du + 1e-12).all())
    if kind in KINKED:
        touches = (lower <= 0) & (upper >= 0)
        slope = torch.as_tensor(parameters.get("slope", parameters.get("alpha", 0.0)), dtype=torch.float64).expand_as(
            dl
        )
        both = torch.minimum(slope, torch.ones_like(slope)), torch.maximum(slope, torch.ones_like(slope))
        side = torch.where(lower > 0, 1.0, slope)
        assert torch.equal(dl, torch.where(touches, both[0], side))
        assert torch.equal(du, torch.where(touches, both[1], side))
    else:
        assert bool((values.amin(0) <= dl + 1e-6).all() & (values.amax(0) >= du - 1e-6).all())


@each_row
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_tails_are_finite_and_right(kind, function, parameters, dtype):
    z = torch.cat([torch.logspace(0, 4, 200), torch.tensor([17.0, 30.0, 37.0, 41.0, 88.0, 104.0, 710.0, 745.0])]).to(
        dtype
    )
    z = torch.cat([z, -z]).unsqueeze(1).expand(-1, 5)
    parameters = {key: v.to(dtype) if isinstance(v, torch.Tensor) else v for key, v in parameters.items()}
    dl, du = ACTIVATIONS[kind].derivative_range(z, z, parameters)
    assert bool(dl.isfinite().all() & du.isfinite().all())
    exact = {
        "BoundTanh": lambda y: 1 / torch.cosh(y).square(),
        "BoundSigmoid": lambda y: 1 / (2 + 2 * torch.cosh(y)),
        "BoundAtan": lambda y: 1 / (1 + y.square()),
    }.get(kind, lambda y: derivative(function, y))(z.double())
    visible = exact > 10 * torch.finfo(dtype).tiny
    precision = 64 * torch.finfo(dtype).eps
    assert torch.allclose(dl.double()[visible], exact[visible], rtol=precision * 10, atol=0)
    assert bool((du.double()[~visible & (exact >= 0)] <= 20 * torch.finfo(dtype).tiny).all())
    wide_low, wide_high = ACTIVATIONS[kind].derivative_range(-z.abs(), z.abs(), parameters)
    assert bool(wide_low.isfinite().all() & wide_high.isfinite().all() & (wide_low <= wide_high).all())


def step(kind, parameters):
    return FactorStep("/act", (5,), "/z", (Read("/z", (5,)),), ActivationFactor(ACTIVATIONS[kind], parameters))


def split(kind, parameters, lower, upper):
    return classify(step(kind, parameters), [Evidence(lower, upper, torch.finfo(lower.dtype).eps)])


@each_row
def test_inverted_intervals_are_ordered(kind, function, parameters):
    lower, upper = intervals(50)
    right, inverted = split(kind, parameters, lower, upper), split(kind, parameters, upper, lower)
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


def test_registering_an_activation():
    """The exponential: its derivative is monotone, so there is no critical point."""
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
        rj.register_activation("BoundSoftplus", torch.sigmoid, [(math.inf, 1.0)])
    assert "BoundSoftplus" not in ACTIVATIONS


def test_sub_classes_of_the_host_are_not_looked_up():
    """In the host tan inherits from arctan and GELU from tanh: taking their derivatives would be unsound."""

    class Tan(nn.Module):
        def forward(self, x):
            return torch.tan(x)

    x = 0.1 * torch.randn(2, 4, dtype=torch.float64)
    net = nn.Sequential(nn.Linear(4, 6), Tan(), nn.Linear(6, 2)).double()
    for prefix in ("", "IBP+"):
        with pytest.raises(rj.UnsupportedError, match="Tan"):
            rj.jacobian_bounds(on_host(net, x), Ball(x, 0.01).perturbed(), method=prefix + "RecurJac")


def test_gelu_of_the_host_is_refused():
    from recurjac_plugin.host import IS_03

    if IS_03:
        pytest.skip("0.3 has no GELU of its own")
    from auto_LiRPA.operators.gelu import GELU

    x = torch.randn(2, 4)
    net = nn.Sequential(nn.Linear(4, 6), GELU(), nn.Linear(6, 2))
    with pytest.raises(rj.UnsupportedError, match="Gelu"):
        rj.jacobian_bounds(on_host(net, x), Ball(x, 0.1).perturbed())
