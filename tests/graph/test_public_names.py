"""A rule for a linear operator of one's own, written with public names alone."""

from __future__ import annotations

import pytest
import torch
from cases import Net, on_host
from oracle import Ball, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import graph
from recurjac_plugin.graph.operators import OPERATORS


def test_every_ready_made_map_is_public():
    """What a rule can return is what `LinearMap` has subclasses for."""
    kinds = {
        kind.__name__
        for kind in graph.LinearMap.__subclasses__()
        if kind.__module__ == "recurjac_plugin.graph.linear_maps"
    }
    assert kinds | {"LinearMap", "Node", "Refusal", "nonnegative"} == set(graph.__all__)
    assert (graph.LinearMap, graph.Node, graph.Refusal) == (rj.LinearMap, rj.Node, rj.Refusal)


@pytest.fixture
def cumulative_sum(monkeypatch):
    monkeypatch.delitem(OPERATORS, "BoundCumSum", raising=False)  # whatever the table may know one day

    def rule(node: rj.Node, position: int) -> rj.LinearMap:
        axis = int(node.constants[1]) % len(node.output_shape)
        if axis == 0:
            raise rj.Refusal("it adds up over the batch")
        return graph.Function(lambda x: x.cumsum(axis), node.input_shapes[position][1:], node.output_shape[1:])

    rj.register_operator("BoundCumSum", rule)
    yield
    rj.unregister_operator("BoundCumSum")


def test_a_rule_of_public_names(cumulative_sum):
    """No activation stands beside the sum, for which the hosts have no CROWN, and 0.3 no intervals."""
    net = nn.Sequential(nn.Linear(4, 3), Net(lambda s, x: x.cumsum(1)), nn.Linear(3, 2)).double()
    region = Ball(torch.randn(2, 4, dtype=torch.float64), 0.1)
    for method in rj.METHODS:
        bounds = rj.jacobian_bounds(on_host(net, region.center), region.perturbed(), method=method)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


def test_a_refusal_becomes_one_line_of_the_error(cumulative_sum):
    region = Ball(torch.zeros(2, 4), 0.1)
    model = on_host(nn.Sequential(nn.Linear(4, 3), Net(lambda s, x: x.cumsum(0))), region.center)
    with pytest.raises(rj.UnsupportedError, match=r"\(CumSum\): it adds up over the batch") as error:
        rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")
    assert len(error.value.offenders) == 1
