"""Optimised pre-activation bounds: what activations read lies within them, and they are never wider than CROWN's."""

from __future__ import annotations

import pytest
import torch
from cases import hosted, mlp, on_host, parametrized
from oracle import Ball, Box, assert_encloses, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.gains.optimised import Effort
from recurjac_plugin.host.problem import read_in_float64, specification
from recurjac_plugin.host.state import evaluated
from recurjac_plugin.numerics.region import concretized
from recurjac_plugin.preactivations.crown import crown_bounds
from recurjac_plugin.preactivations.optimised import optimised_crown_bounds

EFFORT = Effort()


def both(model, region, effort=EFFORT, budget=1 << 24):
    """CROWN's bounds, and those with optimised lines."""
    problem = read_in_float64(model, region.perturbed())
    graph, values, output = problem.graph, problem.host_graph.values, problem.host_graph.output
    rows = specification(None, output)
    rows = rows.reshape(*rows.shape[:2], *graph.shapes[graph.output])
    arguments = (graph, values, output, problem.arguments.regions, rows, budget)
    with torch.no_grad():
        crown = crown_bounds(*arguments)
        return problem, crown, optimised_crown_bounds(*arguments, crown, effort)


def ascended(value, region, count=16, steps=6):
    """Points of the region where a sum of everything that is looked at, with random signs, is large."""
    points = region.sample(count)
    sign = None
    reach = (region.sample(30) - region.center).abs().amax(0)
    for step in range(steps):
        x = points.flatten(0, 1).detach().requires_grad_()
        with torch.enable_grad():
            flat = torch.cat([each.flatten(1) for each in value(x)], 1)
            sign = torch.randn_like(flat) if sign is None else sign
            total = (sign * flat).sum()
            gradient = torch.autograd.grad(total, x)[0] if total.requires_grad else torch.randn_like(x)
        points = region.project(points + gradient.unflatten(0, points.shape[:2]).sign() * reach / (1 + step))
    return torch.cat((region.sample(60), points))


def least(found, problem):
    """Lower bounds of the rows, the best of all."""
    choices = zip(found.slope.unbind(1), found.offset.unbind(1))
    return torch.stack([o - concretized(problem.arguments.regions, -s) for s, o in choices]).amax(0)


@parametrized()
@pytest.mark.parametrize("radius", [0.3, 1e-9])
def test_every_network(case, radius):
    _, center, model = hosted(case)
    region = Ball(center, radius)
    try:
        problem, crown, found = both(model, region, Effort(4))
    except rj.UnsupportedError:
        pytest.skip("CROWN of our own has no bounds here")

    points = region.sample(60)
    found_at = [
        evaluated(model, point, [*problem.graph.reads]) for point in points
    ]  # not every model takes other batches
    outputs = torch.stack([outputs for outputs, _ in found_at])
    for name in problem.graph.reads:
        value = torch.stack([values[name] for _, values in found_at])
        bounds, before = found.bounds[name], crown.bounds[name]
        low, high = bounds.widened()
        value = value.detach().reshape(len(points), *low.shape)
        room = (1e-12 + case.slack) * (1 + value.abs().amax())
        assert bool(((value >= low - room) & (value <= high + room)).all())
        assert bool(((bounds.lower >= before.lower - room) & (bounds.upper <= before.upper + room)).all())
    value = outputs.detach().reshape(len(points), *least(found, problem).shape)
    assert bool((value >= least(found, problem) - found.row_error - (1e-12 + case.slack) * value.abs().max()).all())
    assert bool((least(found, problem) >= least(crown, problem) - 1e-12 * value.abs().max()).all())


def relu_network(dtype=torch.float64):
    torch.manual_seed(0)
    net = mlp(nn.ReLU, (5, 24, 24, 24, 3)).to(dtype)
    return net, on_host(net, torch.zeros(1, 5, dtype=dtype))


@pytest.mark.parametrize("kind", ["l1", "l2", "linf", "box"])
def test_what_ascent_finds_is_inside_and_bounds_are_tighter(kind):
    net, model = relu_network()
    center = torch.randn(2, 5, dtype=torch.float64)
    region = {"l1": Ball(center, 0.9, 1.0), "l2": Ball(center, 0.6, 2.0), "linf": Ball(center, 0.4)}.get(
        kind, Box(center - 0.5, center + 0.5 * torch.rand(2, 5, dtype=torch.float64))
    )
    problem, crown, found = both(model, region)
    layers = [net[: i + 1] for i in (0, 2, 4)]
    points = ascended(lambda x: [layer(x) for layer in (*layers, net)], region)
    narrower = []
    for name, layer in zip(problem.graph.reads, layers, strict=True):
        low, high = found.bounds[name].widened()
        value = layer(points.flatten(0, 1)).detach().unflatten(0, points.shape[:2])
        assert bool(((value >= low) & (value <= high)).all())
        before = crown.bounds[name]
        narrower.append(float((high - low).sum() / (before.upper - before.lower).sum()))
    assert narrower[2] < 0.97 and narrower[1] < 0.995
    values = net(points.flatten(0, 1)).detach().unflatten(0, points.shape[:2])
    assert bool((values >= least(found, problem) - found.row_error).all())
    assert bool((least(found, problem) > least(crown, problem)).all())


def test_nothing_depends_on_memory_or_on_chance():
    _, model = relu_network()
    region = Ball(torch.randn(2, 5, dtype=torch.float64), 0.4)
    first, again, chunks = (both(model, region, budget=budget)[2] for budget in (1 << 24, 1 << 24, 1))
    for name, bounds in first.bounds.items():
        assert torch.equal(bounds.lower, again.bounds[name].lower)
        assert torch.allclose(bounds.lower, chunks.bounds[name].lower, rtol=0, atol=1e-9)


def test_no_steps_give_crown():
    _, model = relu_network()
    _, crown, found = both(model, Ball(torch.randn(1, 5, dtype=torch.float64), 0.3), Effort(0))
    for name, bounds in found.bounds.items():
        assert torch.allclose(bounds.upper, crown.bounds[name].upper, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_alpha_crown_before_a_method_of_ours(dtype):
    """On every host; where its own optimisation cannot be had, ours takes its place."""
    net, model = relu_network(dtype)
    region = Ball(torch.randn(2, 5, dtype=dtype), 0.4)
    with torch.no_grad():
        crown, alpha = (
            rj.jacobian_bounds(model, region.perturbed(), method=prefix + "RecurJac-Linear")
            for prefix in ("", "alpha-CROWN+")
        )
        lower, upper = rj.output_bounds(model, region.perturbed(), method="alpha-CROWN+RecurJac-Linear+CROWN")
    assert alpha.lower.dtype == lower.dtype == dtype
    exact, inside = net.double(), Ball(region.center.double(), 0.4)
    assert_encloses(alpha.lower, alpha.upper, truth(exact, inside), 1e-9 if dtype == torch.float64 else 1e-5)
    values = exact(inside.sample(200).flatten(0, 1)).detach().unflatten(0, (200, 2))
    assert bool(((values >= lower - 1e-5) & (values <= upper + 1e-5)).all())
    assert float((alpha.upper - alpha.lower).sum()) < float((crown.upper - crown.lower).sum())
