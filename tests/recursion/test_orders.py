"""The orders of the recursion where they differ: rows of both signs, sums of columns, ways around the first layer."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, hosted
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic
from recurjac_plugin.recursion.forward import ForwardOrder, shifted_forward_order

ORDERS = ({"order": "backward"}, {"order": "forward"}, {"order": "forward", "shift": 1}, {"order": "both", "shift": 1})
every_order = pytest.mark.parametrize("options", ORDERS, ids=lambda o: "-".join(map(str, o.values())))


@every_order
@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", ["mixed", "residual", "branches"])
def test_rows_of_both_signs_that_cancel(name, rule, options):
    """A margin and its negative: what their sum does not see, each of them does."""
    net, center, model = hosted(name)
    method, region = BY_NAME[name].method(rule), Ball(center, 0.2)
    row = torch.randn(2, 1, net(center).shape[1], generator=torch.Generator().manual_seed(0), dtype=center.dtype)
    C = torch.cat([row, -row], 1)
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(model, region.perturbed(), method=method, C=C, **options)
    assert_encloses(lower, upper, truth(net, region, C))
    assert torch.allclose(lower[:, 0], -upper[:, 1], rtol=0, atol=1e-12)


@every_order
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("name", ["tanh", "residual", "dead_layer", "branches", "product_with_the_input"])
def test_constants_of_rows_are_no_smaller_than_slopes(name, norm, options):
    net, center, model = hosted(name)
    region = Ball(center, 0.2, norm)
    slopes = truth(net, region)
    dual = {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[norm]
    largest = torch.linalg.vector_norm(slopes.flatten(3), ord=dual, dim=3).amax(0)
    for rule in rj.METHODS:
        with torch.no_grad():
            constants = rj.local_lipschitz(
                model, region.perturbed(), method=BY_NAME[name].method(rule), per_output=True, **options
            )
        assert bool((constants >= largest * (1 - 1e-9)).all())


BUDGET = 2**20
MAKERS = {
    "backward": lambda a: backward_order(a.gains, a.treatment.upper_line, BUDGET, a.relaxation),
    "forward": lambda a: ForwardOrder(a.gains, a.treatment.upper_line, BUDGET, a.relaxation),
    "shifted": lambda a: shifted_forward_order(a.graph, a.derivatives, a.rows, a.treatment.upper_line, BUDGET),
    "pulled": lambda a: IntervalArithmetic(a.graph, a.derivatives, a.rows, BUDGET),
    "pushed": lambda a: IntervalArithmetic(a.graph, a.derivatives, a.rows, BUDGET, forward=True),
}


@pytest.mark.parametrize("maker", MAKERS)
@pytest.mark.parametrize("rule", ["RecurJac", "RecurJac-Linear", "RecurJac-McCormick"])
@pytest.mark.parametrize("name", ["relu", "mixed", "skip_from_input", "residual_convolutions"])
@torch.no_grad()
def test_every_order_keeps_the_contract(name, rule, maker):
    """`recurjac_plugin.recursion.order.Order`, by the truth and by what both of its answers say of single entries."""
    net, center, model = hosted(name)
    region = Ball(center, 0.1)
    order = MAKERS[maker](analyse(model, region.perturbed(), parse(BY_NAME[name].method(rule)), None))
    lower, upper = order.jacobian()
    values = truth(net, region).flatten(3)
    assert lower.shape == upper.shape == values.shape[1:]
    assert_encloses(lower, upper, values)
    scale = float(values.abs().max())
    for column in (0, lower.shape[2] - 1):
        unit = torch.zeros_like(lower).index_fill(2, torch.tensor(column), 1.0)
        assert torch.allclose(order.upper_of_sum(unit), upper[:, :, column], rtol=0, atol=1e-12 * scale)
        assert torch.allclose(order.upper_of_sum(-unit), -lower[:, :, column], rtol=0, atol=1e-12 * scale)
    weights = torch.randn(lower.shape, dtype=lower.dtype)
    above, below = order.upper_of_sum(weights), -order.upper_of_sum(-weights)
    assert above.shape == lower.shape[:2]
    assert_encloses(below, above, (weights * values).sum(3))


@every_order
@pytest.mark.parametrize("rule", rj.METHODS)
def test_ends_that_meet_do_not_cross_by_rounding(rule, options):
    """Small balls in float32, on which derivatives and gradients are known to their last digits."""
    torch.manual_seed(16)
    first, second, last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
    net, center = nn.Sequential(first, nn.Tanh(), second, nn.Tanh(), last), torch.zeros(60, 3)
    with torch.no_grad():
        first.bias.mul_(1e-3)
        second.bias -= second(torch.tanh(first(center[:1])))[0]  # near 0 derivatives of tanh change least
    ball = Ball(center, 10 ** -torch.linspace(4, 8, 60))
    with torch.no_grad():
        model = BoundedModule(net, center)
        lower, upper = rj.jacobian_bounds(model, ball.perturbed(), method=rule, **options)
    assert bool((lower <= upper).all())
    assert bool((lower < upper).any())
