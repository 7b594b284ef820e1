"""The host's own operator, with which benchmarks compare: wrong as it is, sound as it is corrected."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from corrected_operator import corrected_operator
from torch import nn

from recurjac_plugin.host import IS_03, BoundedModule, BoundedTensor, PerturbationLpNorm

pytestmark = [
    pytest.mark.skipif(IS_03, reason="auto_LiRPA 0.3 has no Jacobian operator"),
    pytest.mark.filterwarnings("ignore"),  # tracing the host's gradient modules warns about every shape they look at
]


class Jacobian(nn.Module):
    """The Jacobian of a network by the host's operator."""

    def __init__(self, net):
        super().__init__()
        self.net, self.operator = net, importlib.import_module("auto_LiRPA.jacobian").JacobianOP

    def forward(self, x):
        return self.operator.apply(self.net(x), x).flatten(1)


@pytest.fixture
def doubles():
    torch.set_default_dtype(torch.float64)  # of the host's tables
    yield
    torch.set_default_dtype(torch.float32)


def escapes(activation, scale, eps):
    """Of 128 boxes, how far derivatives at random points and corners leave the host's bounds, (128,)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 20), activation(), nn.Linear(20, 20), activation(), nn.Linear(20, 1))
    for parameter in net.parameters():
        parameter.data *= scale
    center = 4 * torch.rand(128, 2) - 2
    x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, x_L=center - eps, x_U=center + eps))
    model = BoundedModule(Jacobian(net), torch.full((128, 2), 0.1))
    with torch.no_grad():
        lower, upper = model.compute_bounds(x=(x,), method="CROWN")
    gradient = torch.func.vmap(torch.func.grad(lambda z: net(z)[0]))
    worst = torch.full((128,), -math.inf)
    for i in range(40):
        step = 2 * torch.rand(128, 2) - 1
        found = gradient(center + eps * (step.sign() if i % 2 else step)).detach()
        worst = torch.maximum(worst, torch.maximum(lower - found, found - upper).amax(1))
    return worst


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Sigmoid])
def test_boxes_on_which_the_operator_is_wrong(activation, doubles):
    assert int((escapes(activation, 3.0, 0.01) > 1e-6).sum()) > 0
    with corrected_operator():
        assert not bool((escapes(activation, 3.0, 0.01) > 1e-9).any())


class Lines:
    """What lines are drawn on many intervals, by a node that belongs to no model."""

    def __init__(self, name, lower, upper):
        self.lower, self.upper = lower, upper
        self.node = getattr(importlib.import_module("auto_LiRPA.operators.s_shaped"), name)({}, [], 0, {})
        self.node.mask_pos, self.node.mask_neg = lower >= 0, upper <= 0
        self.node.mask_both = ~(self.node.mask_pos | self.node.mask_neg)
        self.node.lw, self.node.lb, self.node.uw, self.node.ub = torch.zeros(4, len(lower)).unbind()
        self.node.bound_relax_impl(self)

    def escapes(self):
        """How far the curve leaves the lines, at 201 points of every interval."""
        node, worst = self.node, torch.full_like(self.lower, -math.inf)
        for t in torch.linspace(0, 1, 201):
            z = self.lower + (self.upper - self.lower) * t
            below, above = node.lw * z + node.lb - node.func(z), node.func(z) - node.uw * z - node.ub
            worst = torch.maximum(worst, torch.maximum(below, above))
        return worst


@pytest.mark.parametrize("name", ["BoundTanhGrad", "BoundSigmoidGrad"])
def test_lines_on_intervals_of_all_widths(name, doubles):
    generator = torch.Generator().manual_seed(0)
    width = 10 ** (6 * torch.rand(20000, generator=generator) - 5)
    center = 8 * torch.rand(20000, generator=generator) - 4
    ends = center - width / 2, center + width / 2
    before = Lines(name, *ends).escapes()
    with corrected_operator():
        lines = Lines(name, *ends)
    assert int((before > 1e-6).sum()) > 100
    assert float(lines.escapes().max()) < 1e-12
    # Nor are they looser than constants, nor worse than the host's where those hold.
    node = lines.node
    reach = (node.uw * ends[0] + node.ub).maximum(node.uw * ends[1] + node.ub)
    assert float(reach.max()) < 2 * float(node.func(torch.zeros(())))
    assert torch.equal(before, Lines(name, *ends).escapes())  # all is as it was
