"""Lines of activations are drawn once for the same bounds, and anew for all others."""

from __future__ import annotations

import math

import pytest
import torch
from cases import on_host
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.pieces import lines_around
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.bound_operators import elementwise
from recurjac_plugin.bound_operators.elementwise import lines
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.problem import read
from recurjac_plugin.preactivations.host import host_bounds


@pytest.fixture
def drawn(monkeypatch):
    """The lines that were drawn, in order."""
    found = []

    def counted(*arguments):
        found.append(lines_around(*arguments))
        return found[-1]

    monkeypatch.setattr(elementwise, "lines_around", counted)
    return found


def deep():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 2)
    )
    net = net.double()
    x = torch.rand(2, 3, dtype=torch.float64)
    return net, on_host(net, x), BoundedTensor(x, PerturbationLpNorm(norm=math.inf, eps=0.1))


def crown(model, x):
    problem = read(model, x)
    rows = torch.eye(2, dtype=torch.float64).expand(2, 2, 2)
    return host_bounds(problem, "CROWN", rows, [*problem.graph.reads])


@torch.no_grad()
def test_one_run_of_the_host_draws_the_lines_of_a_layer_once(drawn):
    _, model, x = deep()
    first = crown(model, x)
    assert len(drawn) == 3
    second = crown(model, x)
    assert len(drawn) == 6  # nothing is left in the model
    assert all(torch.equal(a, b) for a, b in zip(first.output, second.output, strict=True))


def test_lines_are_drawn_anew_for_other_bounds(drawn):
    _, model, x = deep()
    model(x)  # marks what is perturbed
    node = next(each for each in model._modules.values() if type(each).__name__ in ACTIVATIONS)
    lower, upper = -torch.ones(2, 4, dtype=torch.float64), torch.ones(2, 4, dtype=torch.float64)
    first, _ = lines(node, lower, upper, None)
    again, _ = lines(node, lower, upper, None)
    assert again is first
    equal, _ = lines(node, lower.clone(), upper, None)
    assert len(drawn) == 2
    assert torch.equal(equal.upper_slope, first.upper_slope)
    upper.add_(1)
    wider, _ = lines(node, lower, upper, None)
    fresh = lines_around(ACTIVATIONS[type(node).__name__], lower, upper, {})
    assert torch.equal(wider.upper_slope, fresh.upper_slope)
    assert not torch.equal(wider.upper_slope, equal.upper_slope)


def test_gradients_pass_every_time():
    net, model, x = deep()
    found = []
    for _ in range(2):
        net.zero_grad()
        lower, upper = rj.output_bounds(model, x, method="CROWN")
        (upper - lower).sum().backward()
        found.append(net[0].weight.grad.clone())
    assert torch.equal(*found)
    assert float(found[0].abs().sum()) > 0
