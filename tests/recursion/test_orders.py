"""The orders of the recursion where they differ: rows of both signs, sums of columns, ways around the first layer."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, hosted
from oracle import Ball, assert_encloses, truth

import recurjac_plugin as rj

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
