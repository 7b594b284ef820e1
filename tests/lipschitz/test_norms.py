"""Constants between any two norms: above all sampled Jacobians, tight where the formulas promise, and weighted ones."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from cases import hosted, parametrized
from oracle import Ball, Box, jacobians, truth
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.lipschitz import norms
from recurjac_plugin.lipschitz.ellipsoids import jacobian_grams
from recurjac_plugin.lipschitz.matrix_norms import NORMS, norm_below
from recurjac_plugin.lipschitz.norms import column_constants, sum_of_magnitudes, vector_constant
from recurjac_plugin.plugin.model import bounded_model

PAIRS = [*itertools.product(NORMS, NORMS)]
NAMES = ["relu", "leaky_relu", "mixed", "tanh", "conv2d_stride", "residual_convolutions", "skip_from_input"]


@torch.no_grad()
def constant(model, region, **options):
    return rj.local_lipschitz(model, region.perturbed(), **options)


@torch.no_grad()
def constants(model, region, method, pairs):
    """Pairs of norms -> constants of one analysis; the public function, asked for one of them, says the same."""
    analysis = analyse(model, region.perturbed(), parse_jacobian_method(method), None)
    found = {pair: vector_constant(analysis, *pair) for pair in pairs}
    p, q = pair = pairs[int(torch.randint(len(pairs), ()))]
    assert torch.equal(found[pair], constant(model, region, method=method, norm=p, output_norm=q))
    return found


def largest(matrices, p, q):
    """The largest norm of sampled Jacobians, (n, b, k, columns) -> (b,)."""
    return norm_below(matrices.flatten(0, 1), p, q).unflatten(0, matrices.shape[:2]).amax(0)


def sharpened(net, region, p, q, C=None, steps=12):
    """Jacobians at points that climbed the norm: where it is flat, at random."""
    points = region.sample(24)
    score = largest_each(jacobians(net, points, C), p, q)
    reach = (region.sample(30) - region.center).abs().amax(0)
    for step in range(steps):
        trial = region.project(points + torch.randn_like(points).sign() * reach / (1 + step))
        new = largest_each(jacobians(net, trial, C), p, q)
        better = (new > score).reshape(*new.shape, *(1,) * (points.dim() - 2))
        points, score = torch.where(better, trial, points), torch.maximum(score, new)
    return jacobians(net, points, C).flatten(3)


def largest_each(matrices, p, q):
    matrices = matrices.flatten(3)
    return norm_below(matrices.flatten(0, 1), p, q).unflatten(0, matrices.shape[:2])


def regions(center):
    return [
        Ball(center, 0.2, 2.0),
        Ball(center, 0.3, 1.0),
        Box(center - 0.3 * torch.rand_like(center), center + 0.1 * torch.rand_like(center)),
    ]


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", NAMES)
def test_no_jacobian_has_a_larger_norm(name, rule):
    net, center, model = hosted(name)
    for region in regions(center):
        matrices = truth(net, region, targets=4).flatten(3)
        for (p, q), found in constants(model, region, rule, PAIRS).items():
            assert bool((largest(matrices, p, q) <= found * (1 + 1e-9)).all()), (p, q)


@parametrized()
def test_every_operator_and_activation(case):
    """The layer recursion runs on the gains of any network."""
    net, center, model = hosted(case)
    region = Ball(center, 0.3)
    matrices = truth(net, region, count=30, targets=3).flatten(3)
    pairs = ((2.0, 2.0), (2.0, math.inf), (math.inf, 1.0))
    for (p, q), found in constants(model, region, case.method("RecurJac-Linear"), pairs).items():
        assert bool((largest(matrices, p, q) <= found * (1 + max(case.slack, 1e-9))).all()), (p, q)


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["relu", "tanh", "mixed"])
def test_no_jacobian_found_by_climbing_has_a_larger_norm(name, pair):
    net, center, model = hosted(name)
    p, q = pair
    for region in regions(center):
        C = torch.randn(2, 5, truth(net, region, count=3, targets=1).shape[2], dtype=torch.float64)
        found = constant(model, region, C=C, norm=p, output_norm=q)
        assert bool((largest(sharpened(net, region, p, q, C), p, q) <= found * (1 + 1e-9)).all())


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_differences_of_outputs(pair):
    net, center, model = hosted("mixed")
    p, q = pair
    for region in regions(center):
        x = region.sample(200)
        with torch.no_grad():
            y = net(x.flatten(0, 1)).flatten(1).unflatten(0, x.shape[:2])
        change = torch.linalg.vector_norm(y[:100] - y[100:], ord=q, dim=2)
        distance = torch.linalg.vector_norm((x[:100] - x[100:]).flatten(2), ord=p, dim=2)
        assert bool((change <= constant(model, region, norm=p, output_norm=q) * distance * (1 + 1e-9)).all())


def test_constants_are_those_of_the_region_unless_given():
    _, center, model = hosted("mixed")
    for norm in NORMS:
        region = Ball(center, 0.1, norm)
        usual = constant(model, region)
        assert torch.equal(usual, constant(model, region, norm=norm))
        assert torch.equal(usual, constant(model, region, norm=norm, output_norm=norm))


@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("name", ["relu", "tanh", "mixed"])
def test_they_tend_to_the_norm_of_the_jacobian(name, pair):
    net, center, model = hosted(name)
    p, q = pair
    matrices = jacobians(net, center[None]).flatten(3)[0]
    exact = norm_below(matrices, p, q)
    found = constant(model, Ball(center, 1e-9), norm=p, output_norm=q)
    assert torch.allclose(found, exact, rtol=1e-5)
    assert bool((exact <= found * (1 + 1e-12)).all())


def plain(*widths, activation=nn.ReLU, dtype=torch.float64, gain=1.0):
    layers = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs, dtype=dtype), activation()]
    net = nn.Sequential(*layers[:-1])
    for parameter in net.parameters():
        parameter.data *= gain
    return net


@torch.no_grad()
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_ellipsoids_hold_every_jacobian(activation):
    net = plain(6, 12, 10, 8, 3, activation=activation)
    center = torch.randn(2, 6, dtype=torch.float64)
    model = bounded_model(net, center)
    for eps in (0.01, 0.3, 3.0):
        region = Ball(center, eps)
        analysis = analyse(model, region.perturbed(), parse_jacobian_method("RecurJac-Linear"), None)
        grams = jacobian_grams(analysis.gains)
        matrices = truth(net, region)
        for gram in grams.outer:
            rest = gram - matrices @ matrices.mT
            assert float(torch.linalg.eigvalsh(rest).min()) >= -1e-9 * float(gram.abs().max())
        for gram in grams.inner:
            rest = gram - matrices.mT @ matrices
            assert float(torch.linalg.eigvalsh(rest).min()) >= -1e-9 * float(gram.abs().max())


@torch.no_grad()
def test_ellipsoids_hold_for_all_derivatives_in_their_ranges():
    """Whatever the neurons' derivatives are, not only where a point has them."""
    net = plain(5, 9, 8, 4)
    center = torch.randn(1, 5, dtype=torch.float64)
    analysis = analyse(
        bounded_model(net, center), Ball(center, 0.5).perturbed(), parse_jacobian_method("RecurJac-Linear"), None
    )
    grams = jacobian_grams(analysis.gains)
    first, second = (analysis.derivatives[step.name].dense(1, step.shape[0]) for step in analysis.graph.factors)
    weights = [layer.weight for layer in net if isinstance(layer, nn.Linear)]
    for _ in range(500):
        d, e = (low + torch.rand_like(low).round() * (high - low) for low, high in (first, second))
        J = weights[2] @ (e[0].unsqueeze(1) * weights[1]) @ (d[0].unsqueeze(1) * weights[0])
        for gram in grams.outer:
            assert float(torch.linalg.eigvalsh(gram[0] - J @ J.T).min()) >= -1e-9
        for gram in grams.inner:
            assert float(torch.linalg.eigvalsh(gram[0] - J.T @ J).min()) >= -1e-9


@torch.no_grad()
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_networks_too_large_for_ellipsoids_have_constants_without(norm, monkeypatch):
    """In no region is the product of all lists of neurons worth it, and in some."""
    net = plain(6, 12, 10, 3, activation=nn.Tanh)
    center = torch.randn(3, 6, dtype=torch.float64)
    model, region = bounded_model(net, center), Ball(center, 0.3)
    gains = analyse(model, region.perturbed(), parse_jacobian_method("RecurJac-Linear"), None).gains
    assert jacobian_grams(gains, (0,)) is None
    some = jacobian_grams(gains, (0, 10**12, 0))
    assert torch.equal(some.outer[0][1], jacobian_grams(gains).outer[0][1])
    with_them = constant(model, region, norm=norm)
    for limit in ("LONG", "SHORT"):
        monkeypatch.setattr(norms, limit, 0)
    without = constant(model, region, norm=norm)
    assert bool((with_them <= without).all())
    assert bool((largest(truth(net, region).flatten(3), norm, norm) <= with_them * (1 + 1e-9)).all())


def test_a_network_of_the_size_of_those_people_have():
    net = plain(100, *[200] * 6, 3, activation=nn.Sigmoid, dtype=torch.float32)
    center = torch.rand(1, 100)
    found = constant(bounded_model(net, center), Ball(center, 0.001), norm=2.0)
    (J,) = jacobians(net.double(), center[None].double()).flatten(3)[0]
    assert 1.0 <= float(found / torch.linalg.matrix_norm(J, 2)) < 1.1


def test_large_regions_are_not_worse_than_the_product_of_norms():
    net = plain(5, 60, 60, 60, 2, gain=2.0)
    center = torch.zeros(1, 5, dtype=torch.float64)
    model = bounded_model(net, center)
    found = constant(model, Ball(center, 100.0), norm=2.0)
    assert float(found) <= float(rj.global_lipschitz(model, norm=2.0)) * (1 + 1e-9)


@torch.no_grad()
def test_sums_are_bounded_jointly():
    _, center, model = hosted("mixed")
    analysis = analyse(model, Ball(center, 0.1).perturbed(), parse_jacobian_method(None), None)
    lower, upper = analysis.jacobian
    largest = torch.maximum(upper, -lower)
    columns, total = column_constants(analysis), sum_of_magnitudes(analysis)
    assert bool((columns <= largest.sum(1) * (1 + 1e-12)).all())
    assert float((columns / largest.sum(1)).min()) < 0.999
    assert bool((total <= largest.sum((1, 2)) * (1 + 1e-12)).all())
    assert float((total / largest.sum((1, 2))).min()) < 0.99
    for order in ("forward", "both"):
        for norm in NORMS:
            assert bool(constant(model, Ball(center, 0.1), norm=norm, order=order).isfinite().all())


@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0, math.inf])
def test_rows_in_other_norms_than_the_region(norm):
    net, center, model = hosted("mixed")
    dual = {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]
    for region in regions(center):
        found = constant(model, region, norm=norm, per_output=True)
        gradients = torch.linalg.vector_norm(truth(net, region).flatten(3), ord=dual, dim=3)
        assert bool((gradients <= found * (1 + 1e-9)).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_rigorous_constants_in_all_norms(dtype):
    net = plain(5, 10, 9, 3, dtype=dtype)
    center = torch.randn(2, 5, dtype=dtype)
    model = bounded_model(net, center)
    double = plain(5, 10, 9, 3)
    double.load_state_dict(net.state_dict())
    for eps in (1e-6, 0.1):
        region = Ball(center, eps)
        matrices = truth(double, Ball(center.double(), eps)).flatten(3)
        for p, q in PAIRS:
            found = constant(model, region, norm=p, output_norm=q, rigorous=True)
            assert found.dtype == dtype
            exact = largest(matrices, p, q)
            assert bool((exact * (1 - 1e-15) <= found.double()).all())
            if eps < 1e-5:
                assert torch.allclose(exact, found.double(), rtol=1e-3)


def test_float32():
    net = plain(5, 30, 30, 3, dtype=torch.float32)
    double = plain(5, 30, 30, 3)
    double.load_state_dict(net.state_dict())
    center = torch.randn(2, 5)
    model = bounded_model(net, center)
    matrices = truth(double, Ball(center.double(), 0.1)).flatten(3)
    for p, q in PAIRS:
        found = constant(model, Ball(center, 0.1), norm=p, output_norm=q)
        assert found.dtype == torch.float32
        assert bool((largest(matrices, p, q) <= found.double() * (1 + 1e-5)).all())


def test_gradients_of_the_weights():
    net = plain(4, 8, 8, 3, activation=nn.Tanh)
    center = torch.randn(2, 4, dtype=torch.float64)
    model = bounded_model(net, center)
    for p, q in PAIRS:
        value = rj.local_lipschitz(model, Ball(center, 0.1).perturbed(), norm=p, output_norm=q).sum()
        gradients = torch.autograd.grad(value, [*net.parameters()], allow_unused=True)
        assert any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients)
        assert all(gradient is None or bool(gradient.isfinite().all()) for gradient in gradients)


# Refusals


@pytest.mark.parametrize("bad", [0.5, 0, -1, "2", True, math.nan, None.__class__])
def test_what_is_no_norm(bad):
    _, center, model = hosted("relu")
    for name in ("norm", "output_norm"):
        with pytest.raises(rj.InputError, match=f"`{name}` must be 1, 2, inf or a `WeightedNorm`"):
            constant(model, Ball(center, 0.1), **{name: bad})


def test_norms_without_a_formula():
    _, center, model = hosted("relu")
    with pytest.raises(rj.InputError, match=r"`norm` = 3"):
        constant(model, Ball(center, 0.1), norm=3.0)
    with pytest.raises(rj.InputError, match=r"`output_norm` = 1\.5"):
        constant(model, Ball(center, 0.1), output_norm=1.5)
    with pytest.raises(rj.InputError, match="leave it out"):
        constant(model, Ball(center, 0.1), output_norm=2.0, per_output=True)
