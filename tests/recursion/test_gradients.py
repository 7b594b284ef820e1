"""Gradients of bounds by the weights, against finite differences in float64, and the memory they take."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest
import torch
from cases import ACTIVATION_CASES, CASES, PRODUCT_CASES, hosted, mlp, on_host, parametrized
from oracle import Ball
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.fusions import fused
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.graph.products import PRODUCTS, multiplies
from recurjac_plugin.host import IS_03
from recurjac_plugin.host.problem import read
from recurjac_plugin.jacobian.methods import ON_GIVEN_BOUNDS, ORDERS

INF = math.inf
FLOAT32 = {"celu", "cast"}  # inside, by casts: larger steps, and what its rounding makes of them

# The best lines of these are looked for without autograd, among pieces; by intervals they have gradients.
SEARCHED = {"root_power", "reciprocal"}
# Entries of their Jacobian that are 0 up to rounding decide how the columns are summed up: their constants jump.
JUMPING = {"max_pool_overlapping", "max_pool_padded"}

# Rows of the tables that no network reaches on the host at hand, because it has no such node or cannot build it.
NEVER_07 = {"OPERATORS": {"BoundConcatFromSequence", "BoundDiv", "BoundIdentity"}, "PRODUCTS": {"BoundDiv"}}
NEVER_03 = {
    "OPERATORS": {
        *("BoundATenUnflatten", "BoundConcatFromSequence"),
        *("BoundDropout", "BoundExpand", "BoundIdentity"),
    },
    "PRODUCTS": {"BoundSoftmax"},
}


def weights_of(model):
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def assert_gradient(model, bound, step=1e-6, tolerance=1e-6):
    """The derivative of a random combination of bounds in a random direction of all weights."""
    parameters, random = weights_of(model), torch.Generator().manual_seed(3)
    direction = [torch.randn(p.shape, generator=random, dtype=p.dtype) for p in parameters]
    value = bound()
    combination = torch.randn(value.shape, generator=random, dtype=value.dtype)
    gradients = [torch.zeros_like(p) for p in parameters]
    if value.requires_grad:  # not so where nothing depends on the weights: then the differences must be 0
        found = torch.autograd.grad((combination * value).sum(), parameters, allow_unused=True)
        gradients = [zero if g is None else g for zero, g in zip(gradients, found, strict=True)]
    slopes = [g * d for g, d in zip(gradients, direction, strict=True)]
    ours, scale = float(sum(s.sum() for s in slopes)), float(sum(s.abs().sum() for s in slopes))
    before, ends = [p.detach().clone() for p in parameters], []
    with torch.no_grad():
        for sign in (1, -1):
            for p, old, d in zip(parameters, before, direction, strict=True):
                p.copy_(old + sign * step * d)
            ends.append((combination * bound()).sum())
        for p, old in zip(parameters, before, strict=True):
            p.copy_(old)
    differences = float(ends[0] - ends[1]) / (2 * step)
    assert abs(ours - differences) <= tolerance * max(scale, 1e-3), (ours, differences, scale)


def jacobian(model, x, method, **options):
    bounds = rj.jacobian_bounds(model, x, method=method, **options)
    return torch.stack((bounds.lower, bounds.upper))


def trainable(case):
    """As `hosted`, skipped where there is nothing to differentiate by."""
    net, center, model = hosted(case)
    if not weights_of(model):
        pytest.skip("no weights")
    return net, center, model


def accuracy(case):
    return {"step": 1e-3, "tolerance": 2e-3} if case.name in FLOAT32 else {}


TURNS = tuple(itertools.product((True, False), ORDERS, ON_GIVEN_BOUNDS))


@parametrized()
def test_gradients_of_every_operator_and_activation(case):
    """Through the host's bounds; over all cases Jacobians and constants of every order and rule have their turn."""
    _, center, model = trainable(case)
    constants, order, rule = TURNS[CASES.index(case) % len(TURNS)]
    method = case.method(rule)
    if case.name in SEARCHED:
        method = "IBP+" + rule
    x = Ball(center, 0.1).perturbed()
    if constants and case.name not in JUMPING:
        constant = partial(rj.local_lipschitz, model, x, method=method, order=order, per_output=True)
        assert_gradient(model, constant, **accuracy(case))
    else:
        assert_gradient(model, lambda: jacobian(model, x, method, order=order), **accuracy(case))


@pytest.mark.parametrize("rule", ON_GIVEN_BOUNDS)
@parametrized(ACTIVATION_CASES + PRODUCT_CASES)
def test_gradients_of_every_rule_through_every_activation(case, rule):
    """From interval bounds, which cost least; over the rules every order has its turn."""
    _, center, model = trainable(case)
    order = ORDERS[(CASES.index(case) + ON_GIVEN_BOUNDS.index(rule)) % len(ORDERS)]
    x = Ball(center, 0.1).perturbed()
    assert_gradient(model, lambda: jacobian(model, x, "IBP+" + rule, order=order), **accuracy(case))


def rows_met(cases):
    """Names of the tables -> the rows that decide about a gradient in some of these cases."""
    met = {"ACTIVATIONS": set(), "OPERATORS": set(), "PRODUCTS": set()}
    for case in cases:
        try:
            net, center, model = hosted(case)
        except pytest.skip.Exception:
            continue
        if not [*net.parameters()]:  # nothing to differentiate by
            continue
        for node in fused(read(model, Ball(center, 0.1).perturbed()).host_graph.nodes):
            if any(node.perturbed):
                table = "PRODUCTS" if multiplies(node) else "OPERATORS"
                met["ACTIVATIONS" if node.kind in ACTIVATIONS else table].add(node.kind)
    return met


def test_every_table_row_is_among_the_cases():
    """A row that no case reaches has no gradient check."""
    tables = {"ACTIVATIONS": ACTIVATIONS, "OPERATORS": OPERATORS, "PRODUCTS": PRODUCTS}
    never = NEVER_03 if IS_03 else NEVER_07
    met = rows_met(CASES) | {"ACTIVATIONS": rows_met(ACTIVATION_CASES)["ACTIVATIONS"]}  # where every rule is checked
    for name, table in tables.items():
        missing, known = set(table) - met[name], never.get(name, set())
        assert missing <= known, f"rows of {name} that no case reaches: {sorted(missing - known)}"
        assert known <= missing, f"rows of {name} that are reached after all: {sorted(known - missing)}"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("method", ON_GIVEN_BOUNDS)
@pytest.mark.parametrize("norm", [1.0, 2.0, INF])
def test_gradients_of_constants_and_outputs(norm, method, order):
    _, center, model = hosted("mixed")
    x = Ball(center, 0.1, norm).perturbed()
    options = {"method": method, "order": order}
    assert_gradient(model, lambda: rj.local_lipschitz(model, x, **options))
    if order == "backward":  # the orders meet in the Jacobian, whatever it is then used for
        assert_gradient(model, lambda: rj.local_lipschitz(model, x, per_output=True, **options))
        assert_gradient(model, lambda: torch.stack(rj.output_bounds(model, x, steps=2, **options)))


@pytest.mark.parametrize("method", ["IBP+RecurJac", "CROWN-IBP+RecurJac", "RecurJac+CROWN"])
def test_gradients_with_other_bounds(method):
    _, center, model = hosted("tanh")
    x = Ball(center, 0.1).perturbed()
    assert_gradient(model, lambda: torch.stack(rj.output_bounds(model, x, method=method)))


@pytest.mark.parametrize("shift", [0, 1])
def test_gradients_of_the_shifted_order(shift):
    _, center, model = hosted("skip_from_input")
    x = Ball(center, 0.1).perturbed()
    assert_gradient(model, lambda: jacobian(model, x, "RecurJac", order="forward", shift=shift))


def test_optimised_bounds_are_constants_and_leave_gradients_alone():
    """Alpha-CROWN's pre-activation bounds have no gradient; its own optimisation must not add to the weights'."""
    net = mlp(nn.ReLU).double()
    model = on_host(net, torch.zeros(1, 5, dtype=torch.float64))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    x = Ball(torch.randn(2, 5, dtype=torch.float64), 0.1).perturbed()
    constant = rj.local_lipschitz(model, x, method="alpha-CROWN+RecurJac")
    assert all(not parameter.grad.any() and parameter.requires_grad for parameter in net.parameters())
    constant.sum().backward()
    assert bool(net[0].weight.grad.any())


def test_frozen_weights_stay_frozen():
    net = mlp(nn.Tanh).double()
    model = on_host(net, torch.zeros(1, 5, dtype=torch.float64))
    net[0].weight.requires_grad_(False)  # afterwards: building a model makes all weights trainable
    rj.local_lipschitz(model, Ball(torch.randn(2, 5, dtype=torch.float64), 0.1).perturbed()).sum().backward()
    assert net[0].weight.grad is None and bool(net[2].weight.grad.any())


def kept_bytes(function):
    """What autograd keeps for a backward pass, every storage counted once."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = function()
    return sum(storage.nbytes() for storage in kept.values()), result


@pytest.mark.parametrize("rule", ["RecurJac-Linear", "Fast-Lip"])
@pytest.mark.parametrize("name", ["deep", "average_pool"])
def test_chunks_are_computed_again_instead_of_kept(rule, name):
    """Less is kept, and the gradients are the same; average pooling is pulled back by autograd."""
    if name == "deep":
        net = mlp(nn.Tanh, (20, 40, 40, 40, 40, 30)).double()
    else:
        layers = (nn.Conv2d(1, 4, 3), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(4, 8, 2), nn.Tanh(), nn.Flatten())
        net = nn.Sequential(*layers, nn.Linear(32, 40)).double()
    center = torch.randn(2, 20) if name == "deep" else torch.randn(2, 1, 8, 8)
    model, x = on_host(net, center[:1].double()), Ball(center.double(), 0.05).perturbed()
    found = []
    for budget in (2**30, 2**16):
        size, bounds = kept_bytes(partial(rj.jacobian_bounds, model, x, method="IBP+" + rule, memory_budget=budget))
        found.append((size, torch.autograd.grad(bounds.width.square().sum(), weights_of(model), allow_unused=True)))
    (much, expected), (little, ours) = found
    assert little < much / 2
    for a, b in zip(ours, expected, strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.allclose(a, b, rtol=1e-9, atol=1e-12)
