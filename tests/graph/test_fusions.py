"""Activations that the exporter takes apart: recognised in every form they come in, and in no other."""

from __future__ import annotations

import math

import pytest
import torch
from cases import Constants, Net, on_host
from oracle import Ball, assert_encloses, jacobian, truth
from torch import nn
from torch.nn import functional

import recurjac_plugin as rj
from recurjac_plugin.graph.fusions import FUSIONS, fused
from recurjac_plugin.host import IS_03
from recurjac_plugin.host.problem import read

ROOT = math.sqrt(2 / math.pi)
FORMS = {
    "gelu": (functional.gelu, "GELU"),
    "gelu, half first": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), "GELU"),
    "gelu, half of the sum": (lambda x: (0.5 * (torch.erf(x * math.sqrt(0.5)) + 1)) * x, "GELU"),
    "gelu tanh": (lambda x: functional.gelu(x, approximate="tanh"), "GELU"),
    "gelu tanh, power": (lambda x: 0.5 * x * (1 + torch.tanh(ROOT * (x + 0.044715 * x**3))), "GELU"),
    "gelu tanh, factored": (lambda x: x * (torch.tanh(ROOT * x * (1 + 0.044715 * x * x)) + 1) * 0.5, "GELU"),
    "silu": (functional.silu, "SiLU"),
    "silu, swapped": (lambda x: torch.sigmoid(x) * x, "SiLU"),
    "silu, scaled": (lambda x: x * torch.sigmoid(1.702 * x), "SiLU"),
    "silu, by exp": (lambda x: x / (1 + torch.exp(-x)), "SiLU"),
    "mish": (functional.mish, "Mish"),
    "mish, by exp": (lambda x: x * torch.tanh(functional.softplus(x)), "Mish"),
    "hardswish": (functional.hardswish, "HardSwish"),
    "hardswish, by relu6": (lambda x: x * functional.relu6(x + 3) / 6, "HardSwish"),
    "hardswish, by scaled relu6": (lambda x: (functional.relu6(3 + x) / 6) * x, "HardSwish"),
    "softsign": (functional.softsign, "Softsign"),
    "softsign, swapped": (lambda x: x / (1 + x.abs()), "Softsign"),
    "logsigmoid": (functional.logsigmoid, "LogSigmoid"),
    "sigmoid, by exp": (lambda x: 1 / (1 + torch.exp(x)), "1/(1+exp)"),
    "softplus, by exp": (lambda x: torch.log(1 + torch.exp(x)), "Softplus"),
    "square": (lambda x: x * x, "Square"),
    "square, by power": (lambda x: x**2, "Square"),
    "cube": (lambda x: x * x * x, "Pow"),
    "power": (lambda x: x**3, "Pow"),
    "relu6": (functional.relu6, "HardTanh"),
    "clamp": (lambda x: x.clamp(-0.5, 0.7), "HardTanh"),
}


def steps(model, x):
    return read(model, x).graph


def network(function, dtype=torch.float64):
    return nn.Sequential(nn.Linear(4, 6), Net(lambda s, x: function(x)), nn.Linear(6, 3)).to(dtype)


@pytest.mark.parametrize("name", FORMS)
def test_forms(name, registered):
    """One activation that reads the linear layer, and at a point the exact Jacobian."""
    if IS_03 and name == "sigmoid, by exp":
        pytest.skip("0.3 computes interval bounds of reciprocals in float32, next to float64")
    function, activation = FORMS[name]
    net, x = network(function), torch.randn(2, 4, dtype=torch.float64)
    model, region = on_host(net, x), Ball(x, 0.4)
    graph = steps(model, region.perturbed())
    assert [step.factor.activation.name for step in graph.factors] == [activation]
    assert len(graph.steps) == 3
    bounds = rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region), slack=1e-6)
    point = rj.jacobian_bounds(model, Ball(x, 1e-9).perturbed(), method="IBP+RecurJac")
    assert torch.allclose(point.lower.detach(), jacobian(net, x).detach(), rtol=0, atol=1e-6)


def test_every_formula_is_tested():
    assert {kind for _, kind, _ in FUSIONS} == {
        "BoundGelu", "SiLU", "BoundMish", "BoundHardSwish", "BoundSoftsign", "LogSigmoid", "Logistic", "BoundSoftplus",
        "BoundSqr", "Pow", "HardTanh",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish", "softsign", "gelu tanh"])
def test_fused_ranges_are_exact(name, registered):
    """With one neuron per output and no later layer, the bounds are the extremes of the derivative."""
    function, _ = FORMS[name]
    net = nn.Sequential(nn.Linear(3, 5), Net(lambda s, x: function(x))).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([1.0, 0, 0]).expand(5, 3))
        net[0].bias.copy_(torch.linspace(-3, 3, 5))
    x = torch.zeros(1, 3, dtype=torch.float64)
    bounds = rj.jacobian_bounds(on_host(net, x), Ball(x, 1.0).perturbed(), method="IBP+RecurJac")
    z = (torch.linspace(-1, 1, 4001, dtype=torch.float64)[:, None] + net[0].bias).detach().requires_grad_()
    values = torch.autograd.grad(function(z).sum(), z)[0]
    assert torch.allclose(bounds.lower[0, :, 0].detach(), values.amin(0), rtol=0, atol=1e-3)
    assert torch.allclose(bounds.upper[0, :, 0].detach(), values.amax(0), rtol=0, atol=1e-3)


OTHERS = {
    "product of two nodes": lambda s, x: s.a(x) * torch.sigmoid(s.b(x)),
    "another constant": lambda s, x: 0.5 * s.a(x) * (1 + torch.tanh(ROOT * (s.a(x) + 0.0447 * s.a(x) ** 3))),
    "twice the gelu": lambda s, x: s.a(x) * (1 + torch.tanh(s.a(x))),
    "one coefficient per neuron": lambda s, x: (lambda y: y * torch.sigmoid(s.k * y))(s.a(x)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_only_looks_alike_is_left_alone(name):
    net = Constants(OTHERS[name], {"k": (6,)}, a=nn.Linear(4, 6), b=nn.Linear(4, 6)).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    nodes = read(on_host(net, x), Ball(x, 0.1).perturbed()).host_graph.nodes
    last = fused(nodes)[-1]
    assert last is nodes[-1]


def test_what_the_activation_reads_may_be_a_product_itself():
    """x = 2 y: the formula is not to be read as one of y with other constants."""
    net = Constants(lambda s, x: (lambda y: y * torch.sigmoid(y))(s.k * s.a(x) * 2), {"k": (6,)}, a=nn.Linear(4, 6))
    net, x = net.double(), torch.randn(2, 4, dtype=torch.float64)
    model, region = on_host(net, x), Ball(x, 0.3)
    graph = steps(model, region.perturbed())
    assert [step.factor.activation.name for step in graph.factors] == ["SiLU"]
    bounds = rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


def test_inner_nodes_that_others_read_stay():
    net = Net(lambda s, x: (lambda y: s.b(y * torch.sigmoid(y)) + s.c(torch.sigmoid(y)))(s.a(x)),
              a=nn.Linear(4, 6), b=nn.Linear(6, 3), c=nn.Linear(6, 3)).double()  # fmt: skip
    x = torch.randn(2, 4, dtype=torch.float64)
    model, region = on_host(net, x), Ball(x, 0.3)
    graph = steps(model, region.perturbed())
    assert sorted(step.factor.activation.name for step in graph.factors) == ["SiLU", "Sigmoid"]
    bounds = rj.jacobian_bounds(model, region.perturbed(), method="IBP+RecurJac")
    assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region))


def test_constants_that_stretch_the_shape_are_no_activation():
    """x (b, 4) times sigmoid of x stretched to (b, 3, 4) has another shape than x."""
    net = Constants(
        lambda s, x: (lambda y: (y.unsqueeze(1) * s.k).flatten(1))(s.a(x)), {"k": (1, 3, 1)}, a=nn.Linear(4, 4)
    ).double()
    x = torch.randn(2, 4, dtype=torch.float64)
    nodes = read(on_host(net, x), Ball(x, 0.1).perturbed()).host_graph.nodes
    assert all(a is b for a, b in zip(nodes, fused(nodes)))


@pytest.mark.skipif(IS_03, reason="0.3 cannot bound a sum with a number by CROWN")
@pytest.mark.parametrize("name", ["gelu", "silu", "mish", "hardswish", "gelu tanh", "logsigmoid"])
def test_bounds_by_crown(name, registered):
    function, _ = FORMS[name]
    net = nn.Sequential(nn.Linear(4, 6), Net(lambda s, x: function(x)), nn.Linear(6, 5), Net(lambda s, x: function(x)))
    net, x = nn.Sequential(net, nn.Linear(5, 2)).double(), torch.randn(2, 4, dtype=torch.float64)
    region, model = Ball(x, 0.3), on_host(net, x)
    for rule in rj.METHODS:
        bounds = rj.jacobian_bounds(model, region.perturbed(), method=rule)
        assert_encloses(bounds.lower.detach(), bounds.upper.detach(), truth(net, region), slack=1e-6)
