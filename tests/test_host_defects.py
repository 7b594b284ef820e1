"""Networks for which the host's own bounds do not hold: refused, or bounded on the box around the ball."""

from __future__ import annotations

import math

import pytest
import torch
from cases import on_host
from oracle import Ball, jacobian
from torch import nn

import recurjac_plugin as rj


class Prefixed(nn.Module):
    """A function of the input, then dense layers."""

    def __init__(self, prefix, tail):
        super().__init__()
        self.prefix, self.tail = prefix, tail

    def forward(self, x):
        return self.tail(self.prefix(x))


def dense(activation):
    return nn.Sequential(nn.Linear(6, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 3))


NETWORKS = {
    "dense": lambda: dense(nn.Tanh),
    "shifted": lambda: Prefixed(lambda x: x - 0.3, dense(nn.ReLU)),
    "negated": lambda: Prefixed(lambda x: torch.tanh(-x), dense(nn.Tanh)),
    "flattened": lambda: Prefixed(lambda x: x.flatten(1), dense(nn.ReLU)),
    "activation first": lambda: Prefixed(torch.tanh, dense(nn.ReLU)),
    "swapped halves": lambda: Prefixed(lambda x: torch.tanh(torch.cat((x[:, 3:], x[:, :3]), 1)), dense(nn.ReLU)),
    "convolution": lambda: Prefixed(
        lambda x: x, nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(6, 3))
    ),
}
SHAPES = {"flattened": (2, 3), "convolution": (1, 2, 3)}


def sphere(center, norm, eps, count, generator):
    """Points on the sphere of radius eps: random directions, and the corners on the axes."""
    flat = center.flatten(1)
    directions = torch.randn(count, *flat.shape, generator=generator, dtype=flat.dtype)
    axes = torch.cat((torch.eye(flat.shape[1]), -torch.eye(flat.shape[1]))).to(flat)
    directions = torch.cat((directions, axes[:, None, :].expand(-1, len(flat), -1)))
    directions = directions / directions.norm(p=norm, dim=2, keepdim=True)
    return (flat + eps * directions).reshape(-1, *center.shape)


@pytest.mark.parametrize("method", ["RecurJac", "IBP+RecurJac", "CROWN-IBP+RecurJac"])
@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_balls_other_than_boxes(name, norm, method):
    """The host's interval bounds take a ball for its centre unless a linear layer reads it first."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    net = NETWORKS[name]().double()
    center = torch.rand(2, *SHAPES.get(name, (6,)), generator=generator, dtype=torch.float64) - 0.5
    x = Ball(center, 1.0, norm).perturbed()
    model = on_host(net, center)
    try:
        bounds = rj.jacobian_bounds(model, x, method=method)
        lower, upper = rj.output_bounds(model, x, method=method)
    except rj.UnsupportedError as error:
        pytest.skip(f"the host cannot bound it: {error}")
    for points in sphere(center, norm, 1.0, 20, generator):
        truth = jacobian(net, points)
        assert bool((truth >= bounds.lower - 1e-9).all() & (truth <= bounds.upper + 1e-9).all())
        assert bool((net(points) >= lower - 1e-9).all() & (net(points) <= upper + 1e-9).all())


def test_balls_keep_their_norm_where_the_host_uses_it():
    """Through a dense first layer an l_2 ball is much smaller than the box around it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 2)).double()
    center = torch.zeros(1, 50, dtype=torch.float64)
    model = on_host(net, center)
    with torch.no_grad():
        ball = rj.jacobian_bounds(model, Ball(center, 0.5, 2.0).perturbed())
        box = rj.jacobian_bounds(model, Ball(center, 0.5, math.inf).perturbed())
    assert float((ball.upper - ball.lower).mean()) < 0.5 * float((box.upper - box.lower).mean())


def test_radii_of_a_batch():
    """Samples may have different radii; each one's bounds hold."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    center = torch.rand(2, 1, 3, 3, dtype=torch.float64)
    model = on_host(net, center)
    eps = torch.tensor([0.1, 0.4], dtype=torch.float64)
    both = rj.jacobian_bounds(model, Ball(center, eps, 2.0).perturbed())
    alone = rj.jacobian_bounds(model, Ball(center[1:], 0.4, 2.0).perturbed())
    assert torch.allclose(both.lower[1], alone.lower[0]) and torch.allclose(both.upper[1], alone.upper[0])
    for points in sphere(center, 2.0, 0.1, 20, torch.Generator().manual_seed(0)):
        assert bool((jacobian(net, points) >= both.lower - 1e-9).all())


def test_leaky_slopes_that_the_host_gets_wrong():
    def model(slope):
        torch.manual_seed(0)
        layers = nn.Linear(4, 6), nn.LeakyReLU(slope), nn.Linear(6, 6), nn.LeakyReLU(slope), nn.Linear(6, 2)
        return on_host(nn.Sequential(*layers).double(), x)

    x = torch.rand(1, 4, dtype=torch.float64)
    with pytest.raises(rj.UnsupportedError, match=r"slope 1\.5 above 1") as error:
        rj.jacobian_bounds(model(1.5), Ball(x, 0.1, math.inf).perturbed())
    assert len(error.value.offenders) == 2
    rj.jacobian_bounds(model(1.5), Ball(x, 0.1, math.inf).perturbed(), method="IBP+RecurJac")
    with pytest.raises(rj.UnsupportedError, match="negative slope"):
        rj.jacobian_bounds(model(-0.5), Ball(x, 0.1, math.inf).perturbed(), method="IBP+RecurJac")
