"""Modules of several inputs where one is taken: as one flat input, or input by input."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.errors import InputError
from recurjac_plugin.host import BoundedModule, BoundedTensor, PerturbationLpNorm

SHAPES = [(2,), (1, 3)]


class Two(nn.Module):
    """``x (b, 2), y (b, 1, 3) -> (b, 2)``, or two outputs."""

    def __init__(self, activation, several=False):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(2, 6), nn.Linear(3, 6), nn.Linear(6, 2)
        self.activation, self.several = activation, several

    def forward(self, x, y):
        z = self.c(self.activation(self.a(x) + self.b(y.flatten(1))))
        return (z[:, :1], z[:, 1:]) if self.several else z


def network(activation=torch.relu, seed=0, several=False, dtype=torch.float32):
    torch.manual_seed(seed)
    return Two(activation, several).to(dtype)


@pytest.mark.parametrize("several", [False, True])
def test_it_computes_what_the_module_does(several):
    net = network(several=several)
    flat = rj.flat_inputs(net.eval(), SHAPES)
    assert not flat.training
    x, y = torch.randn(4, 2), torch.randn(4, 1, 3)
    expected = net(x, y)
    expected = torch.cat(expected, 1) if several else expected
    assert torch.equal(flat(torch.cat([x, y.flatten(1)], 1)), expected)


@pytest.mark.parametrize("shapes", [[], [2, 3], [(2,), ()], [(2,), (0,)], [(2.0,)]])
def test_shapes_that_are_none_are_refused(shapes):
    with pytest.raises(InputError, match="must be a list of shapes"):
        rj.flat_inputs(network(), shapes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_signs_of_several_inputs_are_those_of_one(activation, dtype):
    net = network(activation, 1, dtype=dtype)
    centre = torch.randn(1, 5, dtype=dtype)
    perturbation = PerturbationLpNorm(norm=math.inf, eps=0.2)
    parts = centre[:, :2], centre[:, 2:].reshape(1, 1, 3)
    model = BoundedModule(net, parts)
    both = rj.monotonicity(model, tuple(BoundedTensor(part, perturbation) for part in parts))
    assert [tuple(sign.shape) for sign in both] == [(1, 2, 2), (1, 2, 1, 3)]
    flat = BoundedModule(rj.flat_inputs(net, SHAPES), centre)
    one = rj.monotonicity(flat, BoundedTensor(centre, perturbation))
    assert torch.equal(torch.cat([sign.flatten(2) for sign in both], 2), one)
    assert bool((one != 0).any())
    (second,) = rj.monotonicity(model, (parts[0], BoundedTensor(parts[1], perturbation)))
    x = centre + torch.rand(200, 5, dtype=dtype) * torch.tensor([0, 0, 0.2, 0.2, 0.2], dtype=dtype)
    J = torch.func.vmap(torch.func.jacrev(rj.flat_inputs(net, SHAPES).forward))(x[:, None]).reshape(200, 2, 5)[:, :, 2:]
    assert bool(((J * second.reshape(2, 3)) >= -1e-6).all())
    assert bool((second.reshape(1, 2, 3) == 0)[:, (J > 1e-4).any(0) & (J < -1e-4).any(0)].all())


def test_what_takes_one_input_says_how_to_make_it():
    net = network()
    parts = torch.zeros(1, 2), torch.zeros(1, 1, 3)
    x = tuple(BoundedTensor(part, PerturbationLpNorm(norm=math.inf, eps=0.1)) for part in parts)
    model = BoundedModule(net, parts)
    for call in (
        lambda: rj.monotonicity(model, x, max_boxes=10),
        lambda: rj.monotonicity(model, x, timeout=1.0),
        lambda: rj.monotonicity(model, x, budget=1.0),
        lambda: rj.monotonicity_report(model, x),
        lambda: rj.sampled_lipschitz(model, x),
    ):
        with pytest.raises(InputError, match=r"flat_inputs\(module, shapes\)"):
            call()


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_verdicts_on_modules_of_several_inputs(activation):
    net = network(activation, 3).eval()
    lower, upper = -np.ones(5) / 2, np.ones(5) / 2
    random = np.random.default_rng(0)
    flat = rj.flat_inputs(net, SHAPES)
    with torch.no_grad():
        corners = np.where(random.integers(0, 2, (2000, 5)), lower, upper)
        y = flat(torch.from_numpy(np.concatenate([corners, random.uniform(lower, upper, (2000, 5))])).float())
    least = float(y[:, 0].min())
    for right, expected in ((least + 0.02, rj.Verdict.SAT), (least - 0.3, rj.Verdict.UNSAT)):
        spec = spec_of(box(lower, upper, polytope([1.0, 0.0], right)))
        for model, options in ((net, {"input_shape": SHAPES}), (flat, {})):
            result = rj.verify(model, spec, timeout=60, **options)
            assert result.verdict is expected
            if result.counterexample is not None:
                assert spec.violated(result.counterexample.x, result.counterexample.y)
    with pytest.raises(InputError, match="takes 2 inputs: give the torch module with the list of their shapes"):
        rj.verify(net, spec)


def test_a_radius_around_several_inputs():
    net = network(torch.relu, 4).eval()
    flat = rj.flat_inputs(net, SHAPES)
    x0 = torch.randn(1, 5)
    C = rj.margin_rows(flat(x0).detach())
    radius = float(rj.certified_radius(BoundedModule(flat, x0), x0, norm=2, C=C))
    assert radius > 0
    away = torch.nn.functional.normalize(torch.randn(500, 5), dim=1) * radius
    assert bool(((C[0] @ flat(x0 + away).T) > 0).all())
