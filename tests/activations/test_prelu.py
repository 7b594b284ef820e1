"""PReLU, which the host lacks: its bounds under IBP and CROWN, and the Jacobian bounds on top."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm, bound_op_map


def _network(slope: float, count: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12),
        nn.PReLU(count, init=slope),
        nn.Linear(12, 12),
        nn.PReLU(1, init=slope),
        nn.Linear(12, 3),
    ).double()


@pytest.mark.parametrize("slope", [0.25, 1.7, -0.3])
@pytest.mark.parametrize("count", [1, 12])
def test_bounds_contain_samples(registered: None, slope: float, count: int) -> None:
    net = _network(slope, count)
    with torch.no_grad():  # a different slope in every channel
        net[1].weight += torch.linspace(-0.2, 0.2, count, dtype=torch.float64)
    model = BoundedModule(net, torch.zeros(1, 5, dtype=torch.float64))
    center, eps = torch.rand(2, 5, dtype=torch.float64), 0.5
    x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, eps=eps))
    generator = torch.Generator().manual_seed(0)
    noise = 2 * torch.rand(300, 2, 5, dtype=torch.float64, generator=generator) - 1
    points = center + eps * torch.cat((noise, noise.sign()))
    outputs = net(points.flatten(0, 1)).reshape(*points.shape[:2], -1)
    for method in ("IBP", "CROWN", "CROWN-IBP", "RecurJac", "RecurJac+CROWN"):
        lower, upper = model.compute_bounds(x=(x,), method=method)
        assert (outputs >= lower - 1e-9).all() and (outputs <= upper + 1e-9).all(), method
    for method in rj.METHODS:
        bounds = rj.jacobian_bounds(model, x, method=method)
        for point in points[::20]:
            for region in range(2):
                jacobian = torch.autograd.functional.jacobian(lambda z: net(z[None])[0], point[region])
                assert (jacobian >= bounds.lower[region] - 1e-9).all()
                assert (jacobian <= bounds.upper[region] + 1e-9).all()


def test_unregister_removes_the_operator() -> None:
    assert "onnx::PRelu" not in bound_op_map
    rj.register()
    assert "onnx::PRelu" in bound_op_map
    rj.unregister()
    assert "onnx::PRelu" not in bound_op_map
