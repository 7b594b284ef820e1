"""Many regions at once: in parts they have the bounds that they have together, and memory does not grow with them."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted, on_host
from oracle import Ball, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import InputError
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm
from recurjac_plugin.host.region import cut, read_region
from recurjac_plugin.jacobian import parts

COUNT = 11


@pytest.fixture
def three_at_once(monkeypatch):
    monkeypatch.setattr(parts, "_LEAST", 3)
    monkeypatch.setattr(parts, "_CPU", 1)


def perturbations(x):
    """Every way to say where inputs lie."""
    reach = 0.1 * torch.rand_like(x)
    return {
        "one eps": PerturbationLpNorm(norm=math.inf, eps=0.05),
        "eps by coordinate": PerturbationLpNorm(norm=math.inf, eps=reach[:1]),
        "eps by element": PerturbationLpNorm(norm=math.inf, eps=reach),
        "box": PerturbationLpNorm(norm=math.inf, x_L=x - reach, x_U=x + reach),
        "half a box": PerturbationLpNorm(norm=math.inf, eps=0.05, x_U=x + reach),
        "one face": PerturbationLpNorm(norm=math.inf, eps=0.0, x_L=x - 0.05, x_U=(x + 0.05).amax(0, keepdim=True)),
        "l_2": PerturbationLpNorm(norm=2, eps=0.05),
        "l_1": PerturbationLpNorm(norm=1, eps=0.05),
    }


KINDS = list(perturbations(torch.zeros(1, 1)))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_region_are_its_regions(kind):
    x = torch.rand(COUNT, 3, dtype=torch.float64)
    whole = BoundedTensor(x, perturbations(x)[kind])
    region = read_region(whole)
    for part in (slice(0, 4), slice(4, 8), slice(8, 12)):
        own = read_region(cut(whole, part))
        assert torch.equal(own.center, region.center[part])
        assert torch.equal(own.radius, region.radius[part])
        assert own.norm == region.norm


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_bounds_are_those_of_the_whole_batch(name, kind, dtype, monkeypatch):
    _, center, model = hosted(name, COUNT, dtype)
    x = BoundedTensor(center, perturbations(center)[kind])
    C = torch.randn(COUNT, 2, rj.jacobian_bounds(model, x).lower.shape[1], dtype=dtype)

    def everything():
        with torch.no_grad():
            found = [*rj.jacobian_bounds(model, x), *rj.jacobian_bounds(model, x, C=C, method="RecurJac-McCormick")]
            found.append(rj.local_lipschitz(model, x, C=C[:1], per_output=True))
            return [*found, rj.monotonicity(model, x, C=C)]

    together = everything()
    monkeypatch.setattr(parts, "_LEAST", 3)
    monkeypatch.setattr(parts, "_CPU", 1)
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    *in_parts, signs = everything()
    for whole, part in zip(together[:-1], in_parts, strict=True):
        assert torch.allclose(whole, part, rtol=tolerance, atol=tolerance)
    assert bool((together[-1] == signs).float().mean() > 0.99)


@pytest.mark.usefixtures("three_at_once")
@pytest.mark.parametrize("rigorous", [False, True])
@pytest.mark.parametrize("name", ["relu", "mixed"])
def test_no_derivative_escapes(name, rigorous):
    net, center, model = hosted(name, COUNT)
    region = Ball(center, 0.2)
    lower, upper = rj.jacobian_bounds(model, region.perturbed(), method="RecurJac-Linear", rigorous=rigorous)
    derivatives = truth(net, region, targets=20)
    assert bool((derivatives >= lower - 1e-12).all() & (derivatives <= upper + 1e-12).all())


@pytest.mark.usefixtures("three_at_once")
def test_gradients_pass_through_parts():
    net, center, model = hosted("relu", COUNT)
    lower, upper = rj.jacobian_bounds(model, Ball(center, 0.1).perturbed())
    (upper - lower).sum().backward()
    gradients = [parameter.grad.clone() for parameter in net.parameters() if parameter.grad is not None]
    net.zero_grad()
    both = [rj.jacobian_bounds(model, Ball(center[i : i + 1], 0.1).perturbed()) for i in range(COUNT)]
    sum((upper - lower).sum() for lower, upper in both).backward()
    alone = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
    assert all(torch.allclose(a, b, rtol=1e-9, atol=1e-12) for a, b in zip(gradients, alone, strict=True))


@pytest.mark.usefixtures("three_at_once")
def test_bad_input_is_refused_as_it_is():
    _, center, model = hosted("relu", COUNT)
    x = BoundedTensor(center, PerturbationLpNorm(norm=math.inf, x_L=center[:2] - 1, x_U=center[:2] + 1))
    with pytest.raises(InputError, match="x_L"):
        rj.jacobian_bounds(model, x)
    with pytest.raises(InputError, match="`C` must have shape"):
        rj.jacobian_bounds(model, Ball(center, 0.1).perturbed(), C=torch.zeros(2, 1, 3, dtype=torch.float64))
    with pytest.raises(InputError, match="BoundedTensor"):
        rj.jacobian_bounds(model, center)


def test_parts_get_smaller_where_networks_get_larger():
    sizes = []
    for width in (8, 64, 512):
        net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 2))
        sizes.append(parts.regions_at_once(on_host(net, torch.zeros(1, 4)), 1, None, torch.zeros(1, 4)))
    assert sizes[0] > 10 * sizes[1] > 10 * parts._LEAST
    assert sizes[2] == parts._LEAST
    net = on_host(nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Linear(64, 2)), torch.zeros(1, 4))
    assert parts.regions_at_once(net, 1, 10**7, torch.zeros(1, 4)) < sizes[1]
