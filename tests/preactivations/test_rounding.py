"""What rounding and overflow may not do to bounds: lose a branch, or turn into a number."""

from __future__ import annotations

import math

import pytest
import torch
from cases import on_host
from oracle import Ball, jacobian
from torch import nn

import recurjac_plugin as rj


@pytest.mark.parametrize("method", ["RecurJac", "IBP+RecurJac"])
@pytest.mark.parametrize(("size", "radius"), [(100.0, 0.01), (1000.0, 0.1)])
def test_cancelling_terms_do_not_fix_a_kink(size: float, radius: float, method: str) -> None:
    """Inputs far from 0 and biases that take it back: the kink lies just inside the box, the rounding is larger."""
    for seed in range(10):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 1))
        center = size * (1 + torch.rand(1, 8))
        weight = net[0].weight.data.normal_().double()
        reach = radius * weight.abs().sum(1) * (1 - 1e-6) * torch.randn(32).sign().double()
        net[0].bias.data = (reach - (center.double() @ weight.T)[0]).float()
        net[2].weight.data.fill_(1)
        with torch.no_grad():
            bounds = rj.jacobian_bounds(on_host(net, center), Ball(center, radius).perturbed(), method=method)
        corners = center.double() + radius * (1 - 1e-7) * torch.cat((weight.sign(), -weight.sign()))
        truth = jacobian(net.double(), corners.unsqueeze(1))[:, 0]
        assert bool((truth >= bounds.lower[0].double() - 1e-4).all())
        assert bool((truth <= bounds.upper[0].double() + 1e-4).all())


@pytest.mark.parametrize("method", rj.METHODS)
@pytest.mark.parametrize("order", ["backward", "forward"])
def test_overflow_is_refused_or_infinite(order: str, method: str) -> None:
    """Weights that float32 holds, a product that it does not: NaN must not become a bound."""
    net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 2), nn.LeakyReLU(0.1), nn.Linear(2, 1))
    net[0].weight.data, net[0].bias.data = torch.ones(1, 1), torch.zeros(1)
    net[2].weight.data, net[2].bias.data = torch.tensor([[1e15], [1.1e15]]), torch.full((2,), -1e14)
    net[4].weight.data, net[4].bias.data = torch.tensor([[1e25, -1e25]]), torch.zeros(1)
    x = Ball(torch.zeros(1, 1), 1.0, math.inf).perturbed()
    with torch.no_grad():
        try:
            lower, upper = rj.jacobian_bounds(on_host(net, torch.zeros(1, 1)), x, method=method, order=order)
        except rj.RecurJacError:
            return
    assert bool((lower <= -1e38).all()) and not bool((lower.isnan() | upper.isnan()).any())
