"""Bounds against the truth: Jacobians sampled in float64 inside the region lie within the bounds.

Every network of the list, every rule, and every kind of region the host accepts.
"""

from __future__ import annotations

import copy
import math

import pytest
import torch
from cases import ACTIVATION_CASES, BY_NAME, hosted, parametrized
from oracle import Ball, Box, assert_encloses, attacked, jacobian, jacobians, outputs, truth

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.jacobian.methods import HOST_METHODS


@torch.no_grad()
def bounds_of(model, region, **options):
    return rj.jacobian_bounds(model, region.perturbed(), **options)


@parametrized()
def test_every_network(case):
    net, center, model = hosted(case)
    region = Ball(center, 0.3)
    values = truth(net, region)
    for rule in rj.METHODS:
        bounds = bounds_of(model, region, method=case.method(rule))
        assert_encloses(bounds.lower, bounds.upper, values, case.slack)


@parametrized()
def test_vanishing_region_gives_the_jacobian(case):
    """Bounds that hold but say nothing are refused here: at radius 1e-9 they are the Jacobian."""
    net, center, model = hosted(case)
    method = "RecurJac" if case.name == "matrix_output" else "IBP+RecurJac"  # the host's IBP wants flat outputs
    bounds = bounds_of(model, Ball(center, 1e-9), method=method)
    exact = jacobian(net, center)
    allowed = max(1e-6, 10 * case.slack) * exact.abs().max()
    assert (bounds.lower - exact).abs().max() <= allowed
    assert (bounds.upper - exact).abs().max() <= allowed


REGIONS = {
    "l1": lambda x: Ball(x, 0.6, 1.0),
    "l2": lambda x: Ball(x, 0.4, 2.0),
    "l3": lambda x: Ball(x, 0.35, 3.0),
    "linf": lambda x: Ball(x, 0.2, math.inf),
    "linf_per_sample": lambda x: Ball(x, torch.tensor([0.02, 0.3], dtype=x.dtype)),
    "l2_per_sample": lambda x: Ball(x, torch.tensor([0.05, 0.5], dtype=x.dtype), 2.0),
    "unequal_box": lambda x: Box(x - 0.3 * torch.rand_like(x), x + 0.4 * torch.rand_like(x)),
    "flat_box": lambda x: Box(x - 0.3 * (torch.rand_like(x) > 0.5), x + 0.3 * (torch.rand_like(x) > 0.5)),
    "linf_point": lambda x: Ball(x, 0.0),
    "l2_point": lambda x: Ball(x, 0.0, 2.0),
}


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "mixed"])
@pytest.mark.parametrize("kind", REGIONS)
def test_every_region(kind, name, rule):
    net, center, model = hosted(name)
    region = REGIONS[kind](center)
    bounds = bounds_of(model, region, method=rule)
    assert_encloses(bounds.lower, bounds.upper, truth(net, region))
    if kind.endswith("point"):
        exact = jacobian(net, center)
        # The host's bounds of S-shaped layers are not better than float32, and are widened by that.
        slack = (1e-6 if name == "mixed" else 1e-12) * float(exact.abs().max())
        assert torch.allclose(bounds.lower, exact, rtol=0, atol=slack)
        assert torch.allclose(bounds.upper, exact, rtol=0, atol=slack)


@pytest.mark.parametrize("kind", ["l2", "linf_per_sample", "l1", "unequal_box"])
def test_regions_of_images(kind):
    net, center, model = hosted("conv2d_stride")
    region = REGIONS[kind](center)
    bounds = bounds_of(model, region)
    assert_encloses(bounds.lower, bounds.upper, truth(net, region))


@pytest.mark.parametrize("prefix", ["", *(f"{host}+" for host in HOST_METHODS)])
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_every_prefix(name, prefix):
    net, center, model = hosted(name)
    region = Ball(center, 0.2)
    values = truth(net, region)
    for rule in rj.METHODS:
        lower, upper = rj.jacobian_bounds(model, region.perturbed(), method=prefix + rule)
        assert_encloses(lower.detach(), upper.detach(), values)


@pytest.mark.parametrize("case", ACTIVATION_CASES, ids=lambda case: case.name)
def test_float32(case):
    net, center, model = hosted(case, dtype=torch.float32)
    bounds = bounds_of(model, Ball(center, 0.2), method=case.method("RecurJac"))
    assert bounds.lower.dtype == bounds.upper.dtype == torch.float32
    region = Ball(center.double(), 0.2)
    assert_encloses(bounds.lower, bounds.upper, truth(copy.deepcopy(net).double(), region), slack=1e-5)


def test_float64_network_on_a_host_made_under_float32():
    case = BY_NAME["mixed"]
    net, center = case.network(), case.center()
    assert torch.get_default_dtype() == torch.float32
    model, region = BoundedModule(net, center), Ball(center, 0.2)
    bounds = bounds_of(model, region)
    assert bounds.lower.dtype == torch.float64
    assert_encloses(bounds.lower, bounds.upper, truth(net, region))
    assert torch.get_default_dtype() == torch.float32
    expected = bounds_of(hosted("mixed")[2], region)
    assert torch.allclose(bounds.lower, expected.lower, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["relu", "mixed", "conv2d_stride", "residual_convolutions"])
def test_batch_of_another_size_than_the_network_was_built_with(name):
    net, _, model = hosted(name, batch=1)
    region = Ball(BY_NAME[name].center(3), 0.2)
    bounds = bounds_of(model, region)
    assert_encloses(bounds.lower, bounds.upper, truth(net, region))
    for i in range(3):
        alone = bounds_of(model, Ball(region.center[i : i + 1], 0.2))
        assert torch.allclose(alone.lower[0], bounds.lower[i], rtol=0, atol=1e-11)
        assert torch.allclose(alone.upper[0], bounds.upper[i], rtol=0, atol=1e-11)


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 1, 3), (2, 5, 3)], ids=str)
def test_rows_of_a_specification(rule, shape):
    net, center, model = hosted("mixed")
    C, region = torch.randn(shape, dtype=center.dtype), Ball(center, 0.1)
    bounds = bounds_of(model, region, method=rule, C=C)
    assert bounds.lower.shape == (2, shape[1], 5)
    assert_encloses(bounds.lower, bounds.upper, truth(net, region, C.expand(2, -1, -1)))


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", ["relu", "mixed", "conv2d", "residual_convolutions"])
def test_memory_budget_does_not_change_the_bounds(name, rule):
    _, center, model = hosted(name)
    region = Ball(center, 0.2)
    wide, narrow = (bounds_of(model, region, method=rule, memory_budget=budget) for budget in (2**30, 1))
    scale = wide.upper.abs().max()
    assert (wide.lower - narrow.lower).abs().max() <= 1e-13 * scale
    assert (wide.upper - narrow.upper).abs().max() <= 1e-13 * scale


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "mixed", "tanh", "residual_convolutions"])
@pytest.mark.parametrize("eps", [0.02, 0.2, 1.0])
def test_order_of_the_rules(name, eps):
    """RecurJac lies inside Fast-Lip. RecurJac-Linear lies inside RecurJac where one layer has uncertain gradients."""
    _, center, model = hosted(name)
    region = Ball(center, eps)
    linear, plain, fast = (bounds_of(model, region, method=m) for m in ("RecurJac-Linear", "RecurJac", "Fast-Lip"))
    slack = 1e-12 * fast.upper.abs().max()
    assert bool((plain.lower >= fast.lower - slack).all() & (plain.upper <= fast.upper + slack).all())
    # With the same gradient bounds it is never wider; its own gradient bounds are never wider either.
    assert bool((linear.lower >= fast.lower - slack).all() & (linear.upper <= fast.upper + slack).all())
    assert float((linear.upper - linear.lower).sum()) <= float((plain.upper - plain.lower).sum()) * (1 + 1e-9)


@pytest.mark.filterwarnings("ignore:Pre-activation bounds are too loose:UserWarning")
@pytest.mark.parametrize("name", ["relu", "mixed", "tanh"])
def test_wide_regions_stay_finite(name):
    net, center, model = hosted(name)
    for eps in (10.0, 1e3):
        region = Ball(center, eps)
        bounds = bounds_of(model, region)
        assert_encloses(bounds.lower, bounds.upper, jacobians(net, region.sample(100)))


WRONG_ON_HOST = ["leaky_relu_steep", "gather_repeated", "pad", "concat_constant"]


@pytest.mark.parametrize("name", WRONG_ON_HOST)
@pytest.mark.parametrize("prefix", ["", "CROWN-IBP+"])
def test_wrong_bounds_of_the_host_are_replaced(name, prefix):
    """CROWN of the host is unsound there: ours stands in its place."""
    net, center, model = hosted(name)
    region = Ball(center, 0.3)
    bounds = rj.jacobian_bounds(model, region.perturbed(), method=prefix + "RecurJac")
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))
    lower, upper = rj.output_bounds(model, region.perturbed(), method=prefix + "RecurJac")
    assert_encloses(lower.detach(), upper.detach(), outputs(net, region.sample(200)))


@pytest.mark.slow
@parametrized()
@pytest.mark.parametrize("eps", [0.01, 0.1, 0.5, 2.0])
def test_every_network_at_many_radii(case, eps):
    net, center, model = hosted(case, batch=4)
    region = Ball(center, eps)
    values = jacobians(net, torch.cat([region.sample(400), attacked(net, region, targets=30, steps=30)]))
    for rule in rj.METHODS:
        for prefix in {case.method(""), case.method("") if case.name == "matrix_output" else "IBP+"}:
            try:
                bounds = bounds_of(model, region, method=prefix + rule)
            except rj.UnsupportedError:
                if eps < 0.5:  # on larger regions logarithms, quotients and poles may be refused
                    raise
                continue
            assert_encloses(bounds.lower, bounds.upper, values, case.slack)
