"""RecurJac-Optimized: never looser than what it starts from, tighter on networks with loose bounds, and constant."""

from __future__ import annotations

import math

import pytest
import torch
from cases import mlp, on_host
from oracle import Ball, assert_encloses, attacked, jacobians, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse

STARTS = ("RecurJac-Linear", "RecurJac-McCormick")
BEST = "RecurJac-Optimized"


def network(activation, dtype=torch.float64):
    torch.manual_seed(0)
    net = mlp(activation, (6, 24, 24, 24, 3)).to(dtype)
    return net, on_host(net, torch.zeros(1, 6, dtype=dtype)), torch.randn(2, 6, dtype=dtype)


@torch.no_grad()
def bounds_of(model, region, method, **options):
    return rj.jacobian_bounds(model, region.perturbed(), method=method, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("rigorous", [False, True], ids=["estimated", "rigorous"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.SiLU])
def test_never_looser_and_sound(activation, rigorous, dtype):
    net, model, center = network(activation, dtype)
    for radius in (1e-6, 0.1, 0.5):
        region = Ball(center, radius)
        best = bounds_of(model, region, BEST, rigorous=rigorous)
        for start in STARTS:
            bounds = bounds_of(model, region, start, rigorous=rigorous)
            assert bool((best.lower >= bounds.lower).all()) and bool((best.upper <= bounds.upper).all())
        exact, inside = net.double(), Ball(center.double(), radius)
        values = torch.cat((truth(exact, inside), jacobians(exact, attacked(exact, inside, targets=12))))
        assert_encloses(best.lower, best.upper, values, 1e-12 if dtype == torch.float64 else 1e-5)
        net.to(dtype)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_constants_are_never_larger(norm):
    _, model, center = network(nn.ReLU)
    x = Ball(center, {1.0: 1.0, 2.0: 0.7}.get(norm, 0.4), norm).perturbed()
    with torch.no_grad():
        best, *others = (rj.local_lipschitz(model, x, method=name, per_output=True) for name in (BEST, *STARTS))
    assert all(bool((best <= other).all()) for other in others)
    assert bool((best < 0.98 * others[0]).any())


@pytest.mark.parametrize("order", ["backward", "forward", "both"])
def test_tighter_in_every_order_and_the_same_again(order):
    _, model, center = network(nn.ReLU)
    region = Ball(center, 0.4)
    start, best, again = (bounds_of(model, region, name, order=order) for name in (STARTS[0], BEST, BEST))
    assert float(best.width.sum()) < 0.97 * float(start.width.sum())
    assert torch.equal(best.lower, again.lower) and torch.equal(best.upper, again.upper)


def test_output_bounds_are_never_looser():
    net, model, center = network(nn.ReLU)
    region = Ball(center, 0.4)
    with torch.no_grad():
        low, high = rj.output_bounds(model, region.perturbed(), method=BEST)
        before = rj.output_bounds(model, region.perturbed(), method=STARTS[0])
        values = net(region.sample(300).flatten(0, 1)).unflatten(0, (300, 2))
    assert bool((low >= before[0]).all()) and bool((high <= before[1]).all())
    assert bool(((values >= low) & (values <= high)).all())


def test_far_from_0_and_narrow():
    net, model, center = network(nn.ReLU)
    for region in (Ball(center + 1e5, 1e-3), Ball(center, 1e-12), Ball(center, 0.0)):
        best = bounds_of(model, region, BEST)
        assert_encloses(best.lower, best.upper, truth(net, region))


def test_it_starts_from_what_a_prefix_names_and_leaves_what_is_given():
    net, model, center = network(nn.ReLU)
    region = Ball(center, 0.3)
    loose, best = (bounds_of(model, region, f"IBP+{name}") for name in (STARTS[0], BEST))
    assert float(best.width.sum()) < float(loose.width.sum())
    assert_encloses(best.lower, best.upper, truth(net, region))
    given = rj.zonotope_bounds(model, region.perturbed())
    taken = bounds_of(model, region, BEST, intermediate_bounds=given)
    same = bounds_of(model, region, STARTS[0], intermediate_bounds=given)
    assert torch.equal(taken.lower, same.lower) and torch.equal(taken.upper, same.upper)


def test_bounds_are_constants_and_gradients_are_left_alone():
    net, model, center = network(nn.ReLU)
    x = Ball(center, 0.2).perturbed()
    for value in (
        *rj.jacobian_bounds(model, x, method=BEST),
        rj.local_lipschitz(model, x, method=BEST),
        *rj.output_bounds(model, x, method=BEST),
    ):
        assert not value.requires_grad
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())


def test_parts_are_never_looser_either():
    _, model, center = network(nn.ReLU)
    with torch.no_grad():
        analysis = analyse(model, Ball(center, 0.4).perturbed(), parse(BEST), None)
        part = analysis.part(torch.tensor([1]), torch.tensor([[2, 0]]))
        for mine, all_of_it, before in zip(part.jacobian, analysis.jacobian, part.start.jacobian, strict=True):
            assert torch.allclose(mine, all_of_it[1:, [2, 0]], rtol=0, atol=1e-12)
            assert bool((mine != before).any())
