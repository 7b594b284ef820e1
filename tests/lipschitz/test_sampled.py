"""Sampled constants: attained inside the region, so never above a certified one, and climbing."""

from __future__ import annotations

import math

import pytest
import torch
from cases import BY_NAME, Net, hosted
from oracle import Ball, Box, jacobians
from places import ROOT
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import BoundedTensor, PerturbationLpNorm

NORMS = [1.0, 2.0, math.inf]
NAMES = ["relu", "tanh", "mixed", "conv2d_stride", "residual_convolutions", "concat_channels", "constant_shape"]
FEW = {"points": 12, "steps": 6}


def dual(norm):
    return {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]


def regions(center):
    lower, upper = center - 0.2 * torch.rand_like(center), center + 0.1 * torch.rand_like(center)
    return [*(Ball(center, 0.2, norm) for norm in NORMS), Box(lower, upper)]


class Recorded(nn.Module):
    """A network that remembers where it was evaluated."""

    def __init__(self, net):
        super().__init__()
        self.net, self.points = net, []

    def forward(self, x):
        self.points.append(x.detach().clone())
        return self.net(x)


@pytest.mark.parametrize("name", NAMES)
def test_never_above_a_certified_constant(name):
    net, center, model = hosted(name)
    method = BY_NAME[name].method("RecurJac-Linear")
    C = torch.randn(2, 3, net(center).flatten(1).shape[1], dtype=torch.float64)
    for region in regions(center):
        for rows in (None, C):
            for per_output in (False, True):
                options = {"C": rows, "per_output": per_output}
                with torch.no_grad():
                    above = rj.local_lipschitz(model, region.perturbed(), method=method, **options)
                found = rj.sampled_lipschitz(model, region.perturbed(), **options, **FEW)
                assert found.shape == above.shape
                assert bool((found > 0).all())
                assert bool((found <= above * (1 + 1e-9)).all())
                if not per_output:
                    assert bool((found <= rj.global_lipschitz(model, norm=region.norm, C=rows) * (1 + 1e-9)).all())


@pytest.mark.parametrize("name", ["relu", "mixed", "conv2d_stride"])
def test_the_value_is_attained_at_an_evaluated_point(name):
    net, center, _ = hosted(name)
    for region in regions(center):
        recorded = Recorded(net)
        found = rj.sampled_lipschitz(recorded, region.perturbed(), **FEW)
        rows = rj.sampled_lipschitz(recorded, region.perturbed(), per_output=True, **FEW)
        points = torch.cat([p for p in recorded.points if len(p) == 2 * FEW["points"]]).reshape(-1, *center.shape)
        J = jacobians(net, points).flatten(3)
        largest = torch.linalg.matrix_norm(J, ord=region.norm).amax(0)
        assert bool((found <= largest * (1 + 1e-12)).all())
        assert bool((rows <= torch.linalg.vector_norm(J, ord=dual(region.norm), dim=3).amax(0) * (1 + 1e-12)).all())


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-3, 3.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("norm", [*NORMS, 3.0])
def test_points_are_inside_in_their_own_number_type(norm, dtype, eps):
    """Distances are computed in float64, and must not be above the radius by any rounding."""
    center = (torch.randn(2, 50) * torch.logspace(-3, 3, 50)).to(dtype)
    recorded = Recorded(nn.Sequential(nn.Linear(50, 20), nn.ReLU(), nn.Linear(20, 2)).to(dtype))
    x = BoundedTensor(center, PerturbationLpNorm(norm=norm, eps=eps))
    rj.sampled_lipschitz(recorded, x, per_output=True, **FEW)
    points = torch.cat([p for p in recorded.points if len(p) == 2 * FEW["points"]]).reshape(-1, 2, 50)
    distance = torch.linalg.vector_norm(points.double() - center.double(), ord=norm, dim=2)
    assert bool((distance <= eps).all())
    if eps == 3.0 and dtype == torch.float64:
        assert float(distance.max()) >= 3 * (1 - 1e-9)


def test_points_are_inside_unequal_boxes():
    lower = torch.randn(2, 50) * 10
    upper = lower + torch.rand(2, 50) * torch.logspace(-8, 1, 50)
    upper[:, ::7] = lower[:, ::7]
    recorded = Recorded(nn.Sequential(nn.Linear(50, 20), nn.Tanh(), nn.Linear(20, 2)))
    x = BoundedTensor((lower + upper) / 2, PerturbationLpNorm(norm=math.inf, x_L=lower, x_U=upper))
    rj.sampled_lipschitz(recorded, x, **FEW)
    points = torch.cat([p for p in recorded.points if len(p) == 2 * FEW["points"]]).reshape(-1, 2, 50)
    inside = (points >= lower) & (points <= upper)
    degenerate = upper - lower <= 1e-6 * lower.abs()  # the middle is all that is left of these sides
    assert bool((inside | degenerate).all())


@pytest.mark.parametrize("norm", NORMS)
def test_linear_networks_exactly(norm):
    net, center, model = hosted("no_activation")
    matrix = (net[1].weight @ net[0].weight).detach()
    x = Ball(center, 0.5, norm).perturbed()
    exact = torch.linalg.matrix_norm(matrix, ord=norm).expand(2)
    assert torch.allclose(rj.sampled_lipschitz(model, x, **FEW), exact, rtol=1e-12, atol=0)
    rows = torch.linalg.vector_norm(matrix, ord=dual(norm), dim=1).expand(2, -1)
    assert torch.allclose(rj.sampled_lipschitz(model, x, per_output=True, **FEW), rows, rtol=1e-12, atol=0)


@pytest.mark.parametrize("norm", NORMS)
def test_ascent_finds_the_steepest_point(norm):
    """Of ``2 tanh((x_1 - 0.07) / 0.01)`` it is a thin slab, which random points miss in 20 dimensions."""
    weight = torch.zeros(1, 20, dtype=torch.float64)
    weight[0, 0] = 100.0
    net = Net(lambda s, x: 2 * torch.tanh(torch.nn.functional.linear(x, weight) - 7.0))
    x = Ball(torch.zeros(1, 20, dtype=torch.float64), 0.1, norm).perturbed()
    found = float(rj.sampled_lipschitz(net, x, points=32, steps=30)[0])
    assert 0.99 * 200 <= found <= 200 * (1 + 1e-12)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ["relu", "tanh", "residual_convolutions"])
def test_steps_raise_the_bound(name, norm):
    _, center, model = hosted(name)
    x = Ball(center, 1.0, norm).perturbed()
    climbed = rj.sampled_lipschitz(model, x, points=8, steps=25)
    stayed = rj.sampled_lipschitz(model, x, points=8, steps=0)
    assert bool((climbed >= stayed).all())
    assert float((climbed / stayed).max()) > 1.01


def test_same_seed_same_numbers():
    _, center, model = hosted("relu")
    x = Ball(center, 0.3).perturbed()
    state = torch.get_rng_state()
    first, again, other = (rj.sampled_lipschitz(model, x, per_output=True, seed=seed, **FEW) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("name", ["relu", "constant_shape"])
def test_hosts_and_plain_modules_agree(name):
    """On a model whose graph fixes the batch, too."""
    net, center, model = hosted(name)
    x = Ball(center, 0.3, 2.0).perturbed()
    net.train()
    plain = rj.sampled_lipschitz(net, x, **FEW)
    assert net.training
    net.eval()
    assert torch.allclose(plain, rj.sampled_lipschitz(model, x, **FEW), rtol=1e-9)
    with torch.no_grad():
        assert torch.allclose(plain, rj.sampled_lipschitz(net, x, **FEW), rtol=1e-12)


def test_onnx_networks():
    network = rj.load_onnx(ROOT / "examples" / "data" / "digits_tanh.onnx")
    x = BoundedTensor(torch.rand(2, *network.input_shape), PerturbationLpNorm(norm=2.0, eps=0.1))
    found = rj.sampled_lipschitz(network, x, **FEW)
    assert found.dtype == torch.float32
    assert found.shape == (2,)
    network.takes_batches = False
    assert torch.allclose(found, rj.sampled_lipschitz(network, x, **FEW), rtol=1e-5)


def test_other_norms_have_rows_only():
    _, center, model = hosted("relu")
    x = Ball(center, 0.1, 3.0).perturbed()
    with pytest.raises(rj.InputError, match="per_output"):
        rj.sampled_lipschitz(model, x)
    found = rj.sampled_lipschitz(model, x, per_output=True, **FEW)
    with torch.no_grad():
        assert bool((found <= rj.local_lipschitz(model, x, per_output=True) * (1 + 1e-9)).all())


def test_constant_networks_have_slope_0():
    net = Net(lambda s, x: torch.ones(len(x), 2).double())
    x = Ball(torch.zeros(1, 3).double(), 0.1).perturbed()
    assert rj.sampled_lipschitz(net, x, **FEW).tolist() == [0.0]


@pytest.mark.parametrize("option", ["points", "steps", "seed"])
def test_bad_numbers(option):
    _, center, model = hosted("relu")
    for value in (-1, 1.5, "3", None, True):
        with pytest.raises(rj.InputError, match=f"`{option}` must be a whole number"):
            rj.sampled_lipschitz(model, Ball(center, 0.1).perturbed(), **{option: value})


def test_bad_models_and_inputs():
    _, center, model = hosted("relu")
    x = Ball(center, 0.1).perturbed()
    for bad in (None, lambda x: x):
        with pytest.raises(rj.InputError, match="`model`"):
            rj.sampled_lipschitz(bad, x)
    with pytest.raises(rj.InputError, match="BoundedTensor"):
        rj.sampled_lipschitz(model, center)
    with pytest.raises(rj.InputError, match="does not take an input of shape"):
        rj.sampled_lipschitz(model, Ball(torch.zeros(2, 4).double(), 0.1).perturbed())
    with pytest.raises(rj.InputError, match="`C`"):
        rj.sampled_lipschitz(model, x, C=torch.ones(1, 2, 5).double())
    with pytest.raises(rj.InputError, match="expected \\(2, n_out\\)"):
        rj.sampled_lipschitz(Net(lambda s, x: x.sum(1)), x)
    with pytest.raises(rj.InputError, match="NaN"):
        rj.sampled_lipschitz(Net(lambda s, x: x * math.nan), x)
    with pytest.raises(rj.InputError, match="tuple"):
        rj.sampled_lipschitz(Net(lambda s, x: (x, x)), x)
