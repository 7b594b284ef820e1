"""Lipschitz constants: above every sampled gradient and difference quotient, and as tight as the formulas promise."""

from __future__ import annotations

import math

import pytest
import torch
from cases import hosted
from oracle import Ball, Box, outputs, truth

import recurjac_plugin as rj

NAMES = ["relu", "leaky_relu", "mixed", "conv2d_stride", "residual_convolutions", "skip_from_input"]
NORMS = [1.0, 2.0, math.inf]


def dual(norm):
    return {1.0: math.inf, 2.0: 2.0, 3.0: 1.5, math.inf: 1.0}[norm]


@torch.no_grad()
def constant(model, region, **options):
    return rj.local_lipschitz(model, region.perturbed(), **options)


def quotients(net, region, norm, C=None):
    """``|f_k(x) - f_k(x')| / |x - x'|_p`` for random pairs: (n, b, k); and the vector's, in the same norm."""
    x = region.sample(200)
    change = outputs(net, x[:100], C) - outputs(net, x[100:], C)
    distance = torch.linalg.vector_norm((x[:100] - x[100:]).flatten(2), ord=norm, dim=2)
    return change.abs() / distance.unsqueeze(2), torch.linalg.vector_norm(change, ord=norm, dim=2) / distance


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("norm", [*NORMS, 3.0])
@pytest.mark.parametrize("name", NAMES)
def test_constants_hold(name, norm, rule):
    net, center, model = hosted(name)
    region = Ball(center, 0.2, norm)
    C = torch.randn(2, 4, outputs(net, center[None]).shape[2], dtype=torch.float64)
    for rows in (None, C):
        found = constant(model, region, method=rule, C=rows, per_output=True)
        gradients = torch.linalg.vector_norm(truth(net, region, rows, targets=4).flatten(3), ord=dual(norm), dim=3)
        slack = 1e-9 * gradients.max()
        assert found.shape == gradients.shape[1:]
        assert bool((gradients <= found + slack).all())
        per_row, vector = quotients(net, region, norm, rows)
        assert bool((per_row <= found + slack).all())
        if norm in NORMS:
            whole = constant(model, region, method=rule, C=rows)
            assert whole.shape == (2,)
            assert bool((vector <= whole + slack).all())


@pytest.mark.parametrize("name", NAMES)
def test_vector_constant_bounds_the_induced_norm(name):
    net, center, model = hosted(name)
    for norm in NORMS:
        region = Ball(center, 0.2, norm)
        matrices = truth(net, region, targets=4).flatten(3)
        induced = torch.linalg.matrix_norm(matrices, ord=norm)
        assert bool((induced <= constant(model, region) * (1 + 1e-9)).all())


@pytest.mark.parametrize("rule", rj.METHODS)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("eps", [0.02, 0.3])
def test_improved_sum_is_never_above_the_plain_one(name, rule, eps):
    _, center, model = hosted(name)
    region = Ball(center, eps)
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(model, region.perturbed(), method=rule)
    plain = torch.maximum(lower.abs(), upper.abs()).flatten(2).sum(2)
    improved = constant(model, region, method=rule, per_output=True)
    assert bool((improved <= plain * (1 + 1e-12)).all())


def test_improved_sum_improves():
    """Or the column pushed once more would be wasted."""
    _, center, model = hosted("mixed")
    region = Ball(center, 0.1)
    with torch.no_grad():
        lower, upper = rj.jacobian_bounds(model, region.perturbed())
    plain = torch.maximum(lower.abs(), upper.abs()).flatten(2).sum(2)
    improved = constant(model, region, per_output=True)
    assert float((improved / plain).min()) < 0.99


@pytest.mark.parametrize("rule", rj.METHODS)
def test_constant_at_a_point_is_the_gradients_norm(rule):
    net, center, model = hosted("mixed")
    for norm in NORMS:
        region = Ball(center, 0.0, norm)
        exact = torch.linalg.vector_norm(truth(net, region, targets=2)[-1].flatten(2), ord=dual(norm), dim=2)
        # The host's bounds of S-shaped layers are not better than float32, and are widened by that.
        assert torch.allclose(constant(model, region, method=rule, per_output=True), exact, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rule", rj.METHODS)
def test_unequal_box_is_measured_in_the_maximum_norm(rule):
    net, center, model = hosted("mixed")
    region = Box(center - 0.2 * torch.rand_like(center), center + 0.1 * torch.rand_like(center))
    found = constant(model, region, method=rule, per_output=True)
    gradients = truth(net, region).flatten(3).abs().sum(3)
    assert bool((gradients <= found * (1 + 1e-9)).all())
    per_row, _ = quotients(net, region, math.inf)
    assert bool((per_row <= found * (1 + 1e-9)).all())


def test_vector_constant_has_no_formula_for_other_norms():
    _, center, model = hosted("relu")
    with pytest.raises(rj.InputError, match="per_output"):
        constant(model, Ball(center, 0.1, 3.0))


@pytest.mark.parametrize("rule", rj.METHODS)
def test_memory_budget_does_not_change_the_constant(rule):
    _, center, model = hosted("mixed")
    for norm in NORMS:
        region = Ball(center, 0.2, norm)
        wide, narrow = (constant(model, region, method=rule, per_output=True, memory_budget=b) for b in (2**30, 1))
        assert torch.allclose(wide, narrow, rtol=1e-13, atol=0)


def test_linear_network_has_its_operator_norm():
    net, center, model = hosted("no_activation")
    matrix = net[1].weight @ net[0].weight
    for norm in NORMS:
        found = constant(model, Ball(center, 0.5, norm), per_output=True)
        exact = torch.linalg.vector_norm(matrix, ord=dual(norm), dim=1)
        assert torch.allclose(found, exact.expand(2, -1), rtol=1e-12, atol=0)
    one = torch.linalg.matrix_norm(matrix, ord=1)
    assert torch.allclose(constant(model, Ball(center, 0.5, 1.0)), one.expand(2), rtol=1e-12, atol=0)
