"""Rigorous bounds: nothing true escapes, not by rounding either, and they are hardly wider than the others."""

from __future__ import annotations

import copy
import math
from fractions import Fraction

import pytest
import torch
from cases import hosted, on_host, parametrized
from oracle import Ball, Box, attacked, jacobian, jacobians, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.lipschitz.matrix_norms import norm_of_magnitudes


@torch.no_grad()
def bounds_of(model, region, **options):
    return rj.jacobian_bounds(model, region.perturbed(), rigorous=True, **options)


def assert_contains(bounds, values, slack=0.0):
    """Autograd's derivatives are rounded themselves, by far less than this."""
    room = (1e-13 + slack) * (1 + values.abs().amax(0))
    assert bool((bounds.lower.double() <= values.amin(0) + room).all())
    assert bool((bounds.upper.double() >= values.amax(0) - room).all())


@parametrized()
def test_every_network_on_both_hosts(case):
    """No method of the host, and none of its defects, has a part in it: no prefix is needed for any operator."""
    net, center, model = hosted(case)
    region = Ball(center, 0.1)
    values = truth(net, region)
    for method in rj.METHODS:
        assert_contains(bounds_of(model, region, method=method), values, case.slack)


@pytest.mark.parametrize("method", rj.METHODS)
@pytest.mark.parametrize("order", ["backward", "forward", "both"])
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "mixed", "gelu"])
def test_what_ascent_finds_is_inside(name, order, method):
    net, center, model = hosted(name)
    region = Ball(center, 0.15)
    bounds = bounds_of(model, region, method=method, order=order)
    assert_contains(bounds, jacobians(net, attacked(net, region)))


REGIONS = {
    "narrow": lambda x: Ball(x, 1e-12),
    "point": lambda x: Ball(x, 0.0),
    "far": lambda x: Ball(x + 1e5, 1e-3),
    "wide": lambda x: Ball(x, 50.0),
    "l1": lambda x: Ball(x, 0.3, 1.0),
    "l2": lambda x: Ball(x, 0.2, 2.0),
    "l2_per_sample": lambda x: Ball(x, torch.tensor([0.05, 0.5], dtype=x.dtype), 2.0),
    "unequal_box": lambda x: Box(x - 0.3 * torch.rand_like(x), x + 0.4 * torch.rand_like(x)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", REGIONS)
@pytest.mark.parametrize("name", ["relu", "mixed", "conv2d_stride"])
def test_every_region_in_both_types(name, kind, dtype):
    net, center, model = hosted(name, dtype=dtype)
    region = REGIONS[kind](center)
    bounds = bounds_of(model, region, method="RecurJac-Linear")
    assert bounds.lower.dtype == dtype and bounds.rigorous
    double = REGIONS[kind](center.double()) if kind != "unequal_box" else None
    if double is not None:
        assert_contains(bounds, truth(copy.deepcopy(net).double(), double))


@pytest.mark.parametrize("method", rj.METHODS)
@pytest.mark.parametrize("name", ["relu", "leaky_relu", "tanh", "sigmoid"])
def test_they_are_hardly_wider_in_float64(name, method):
    _, center, model = hosted(name)
    region = Ball(center, 0.1)
    with torch.no_grad():
        plain = rj.jacobian_bounds(model, region.perturbed(), method=method)
    rigorous = bounds_of(model, region, method=method)
    assert float(rigorous.width.mean()) <= 1.001 * float(plain.width.mean())


def relu_net(weights, biases, dtype):
    layers = []
    for W, b in zip(weights, biases):
        layer = nn.Linear(W.shape[1], W.shape[0]).to(dtype)
        layer.weight.data, layer.bias.data = W.to(dtype), b.to(dtype)
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers[:-1]).requires_grad_(False)


def exact_jacobian(net, x):
    """Of a ReLU network at a rational point, by exact arithmetic; None on a kink."""
    value, J = list(x), [[Fraction(int(i == j)) for j in range(len(x))] for i in range(len(x))]
    for layer in net:
        if isinstance(layer, nn.Linear):
            W = [[Fraction(float(w)) for w in row] for row in layer.weight.detach()]
            b = [Fraction(float(v)) for v in layer.bias.detach()]
            value = [sum(w * v for w, v in zip(row, value)) + c for row, c in zip(W, b)]
            J = [[sum(w * J[i][r] for i, w in enumerate(row)) for r in range(len(x))] for row in W]
        else:
            if any(v == 0 for v in value):
                return None, None
            J = [row if v > 0 else [Fraction(0)] * len(x) for row, v in zip(J, value)]
            value = [max(v, Fraction(0)) for v in value]
    return J, value


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("scale", "offset"), [(1.0, 0.0), (1e-30, 0.0), (1e10, 0.0), (1.0, 1e5), (1.0, 1e8), (1e-3, 1e3)]
)
@pytest.mark.filterwarnings("ignore:Converting a tensor")  # by the host, where weights are tiny
def test_exact_jacobians_and_outputs_of_badly_scaled_networks(scale, offset, dtype):
    """Offsets that cancel, weights that underflow: kinks lie where the rounding of float32 cannot tell."""
    for seed in range(6):
        torch.manual_seed(seed)
        weights = [scale * torch.randn(n, m, dtype=torch.float64) for m, n in ((2, 5), (5, 4), (4, 2))]
        center = (offset + torch.rand(1, 2, dtype=torch.float64)).to(dtype).double()
        biases = [-(center @ weights[0].T)[0] + scale * 1e-3 * torch.randn(5).double()]
        biases += [scale * 0.1 * torch.randn(len(W)).double() for W in weights[1:]]
        net = relu_net(weights, biases, dtype)
        radius = 0.05 if offset == 0 else max(1e-3, 4 * offset * torch.finfo(dtype).eps)
        x = Ball(center.to(dtype), radius).perturbed()
        model = on_host(net, center.to(dtype))
        with torch.no_grad():
            bounds = rj.jacobian_bounds(model, x, method="RecurJac-Linear", rigorous=True)
            outputs = rj.output_bounds(model, x, method="RecurJac-Linear+CROWN", rigorous=True)
            constants = rj.local_lipschitz(model, x, method="RecurJac-Linear", per_output=True, rigorous=True)
        for _ in range(40):
            share = [Fraction(int(n), 1000) for n in torch.randint(-1000, 1001, (2,))]
            point = [Fraction(float(c)) + Fraction(radius) * s for c, s in zip(center[0], share)]
            J, value = exact_jacobian(net, point)
            if J is None:
                continue
            for k in range(2):
                assert Fraction(float(outputs[0][0, k])) <= value[k] <= Fraction(float(outputs[1][0, k]))
                assert sum(abs(entry) for entry in J[k]) <= Fraction(float(constants[0, k]))
                for r in range(2):
                    low, high = (Fraction(float(bound[0, k, r])) for bound in bounds)
                    assert low <= J[k][r] <= high


def test_a_neuron_that_rounding_can_flip_is_undetermined():
    """At 1e5 float32 knows inputs to 1/128: the kink lies within the box whatever the sum says there."""
    net = relu_net([torch.tensor([[1.0, -1.0]])], [torch.tensor([2.0**-9])], torch.float32)
    net = nn.Sequential(*net, nn.ReLU(), nn.Linear(1, 1))
    net[2].weight.data, net[2].bias.data = torch.ones(1, 1), torch.zeros(1)
    x = Ball(torch.full((1, 2), 1e5), 2.0**-8).perturbed()
    bounds = rj.jacobian_bounds(on_host(net, torch.zeros(1, 2)), x, rigorous=True)
    assert bool((bounds.lower[0, 0] <= torch.tensor([0.0, -1.0])).all())
    assert bool((bounds.upper[0, 0] >= torch.tensor([1.0, 0.0])).all())


def test_constants_radii_signs_and_landscapes():
    net, center, model = hosted("relu", dtype=torch.float32)
    C = torch.eye(3)[:1].expand(len(center), 1, -1)
    plain, proven = (
        {
            "constant": rj.local_lipschitz(model, Ball(center, 0.1).perturbed(), rigorous=rigorous),
            "two": rj.local_lipschitz(model, Ball(center, 0.1, 2.0).perturbed(), rigorous=rigorous),
            "one": rj.local_lipschitz(model, Ball(center, 0.1, 1.0).perturbed(), rigorous=rigorous),
            "radius": rj.certified_radius(
                model, center, norm=math.inf, C=C * net(center)[:, :1].sign().unsqueeze(2), steps=3, rigorous=rigorous
            ),
            "free": rj.stationary_free_radius(model, center, norm=2, C=C, rigorous=rigorous),
            "scan": rj.landscape_scan(model, center, norm=2, radius=0.1, points=3, C=C, rigorous=rigorous).constants,
        }
        for rigorous in (False, True)
    )
    for name, value in plain.items():
        assert proven[name].dtype == torch.float32
        assert torch.allclose(value, proven[name], rtol=1e-3, atol=1e-4), name
    signs = rj.monotonicity(model, Ball(center, 0.01).perturbed(), rigorous=True)
    exact = jacobian(copy.deepcopy(net).double(), center.double())
    assert bool((signs.double() * exact >= 0).all()) and bool(signs.any())


def test_the_same_regions_are_cut_for_signs():
    _, center, model = hosted("tanh")
    report = rj.monotonicity_report(model, Ball(center, 0.5).perturbed(), max_boxes=9, samples=8, rigorous=True)
    assert int(report.boxes.max()) > 1 and bool((report.sign != 0).any())


def test_what_is_not_proven_is_refused():
    _, center, model = hosted("relu")
    x = Ball(center, 0.1).perturbed()
    for method in ("IBP+RecurJac", "alpha-CROWN+RecurJac"):
        with pytest.raises(rj.MethodError, match="not rigorous"):
            rj.jacobian_bounds(model, x, method=method, rigorous=True)
        with pytest.raises(rj.MethodError, match="not rigorous"):
            rj.output_bounds(model, x, method=method, rigorous=True)
    zonotopes = rj.zonotope_bounds(model, x)
    with pytest.raises(rj.InputError, match="not proven"):
        rj.jacobian_bounds(model, x, intermediate_bounds=zonotopes, rigorous=True)
    model, x = _logarithm_below_0()
    with pytest.raises(rj.UnsupportedError, match="must be above 0"):
        rj.jacobian_bounds(model, x, rigorous=True)


def _logarithm_below_0():
    class Log(nn.Module):
        def forward(self, x):
            return torch.log(x)

    net = nn.Sequential(nn.Linear(1, 1), Log(), nn.Linear(1, 1))
    net[0].weight.data, net[0].bias.data = torch.ones(1, 1), torch.zeros(1)
    return on_host(net, torch.ones(1, 1)), Ball(torch.ones(1, 1), 1.5).perturbed()


def test_the_bounds_say_that_they_are_rigorous():
    _, center, model = hosted("relu")
    x = Ball(center, 0.1).perturbed()
    assert "rigorous" in repr(rj.jacobian_bounds(model, x, rigorous=True))
    assert "rigorous" not in repr(rj.jacobian_bounds(model, x))


@pytest.mark.parametrize("shape", [(3, 1, 1), (2, 4, 7), (2, 9, 3), (1, 5, 5)])
def test_spectral_norms_are_bounded_from_above(shape):
    matrix = torch.rand(shape, dtype=torch.float64) ** 3
    matrix[0, 0] = 0
    bound, exact = norm_of_magnitudes(matrix, 2.0, 2.0, proven=True), torch.linalg.matrix_norm(matrix, ord=2)
    assert bool((bound >= exact * (1 - 1e-14)).all())
    assert torch.allclose(bound, exact, rtol=1e-6, atol=1e-12)
