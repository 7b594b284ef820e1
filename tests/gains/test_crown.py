"""CROWN on the gains: against every choice of lines, one by one, and as its two users call it."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from random_gains import BATCH, COLUMNS, SUMS, coefficients, enumerated, rand, random_gains, random_lines, weighted

from recurjac_plugin.activations.lines import Relaxation, linear_pieces
from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.linear_maps import Dense
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, LinearStep, Read
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.passes.mccormick import NetworkRelaxation
from recurjac_plugin.preactivations.crown import Known, crown_bounds


@pytest.mark.parametrize("batches", [(BATCH,), (1,), (1, BATCH)], ids=str)
@pytest.mark.parametrize("missing", [(), (("c", "a"), ("b", INPUT))], ids=["all", "some_missing"])
@pytest.mark.parametrize(("on_activations", "on_preactivations"), [
    ((INPUT, "a", "b", "c"), ()), (("b",), ()), ((), ("a", "b", "c")), ((), ("b",)), ((INPUT, "a"), ("b", "c")),
])  # fmt: skip
def test_it_is_the_highest_of_all_choices_of_lines(on_activations, on_preactivations, missing, batches):
    gains, lines = random_gains(batches, missing), random_lines()
    on_activations = coefficients(on_activations, batches[0])
    on_preactivations = coefficients(on_preactivations)
    slope, constant = linear_upper_bound(
        gains, lines, SUMS, on_activations=on_activations, on_preactivations=on_preactivations
    )
    assert slope.shape == (BATCH, SUMS, COLUMNS) and constant.shape == (BATCH, SUMS)
    x = rand(20, BATCH, COLUMNS)
    expected = enumerated(gains, lines, on_activations, on_preactivations, x).amax(0)
    assert torch.allclose(weighted(slope, x) + constant, expected, rtol=0, atol=1e-12)


def test_nothing_is_needed_for_a_sum_of_nothing():
    slope, constant = linear_upper_bound(random_gains((1,), ()), {}, SUMS)
    assert not slope.any() and not constant.any()
    assert slope.shape == (BATCH, SUMS, COLUMNS) and constant.shape == (BATCH, SUMS)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_sums_of_pre_activations_over_a_region_of_several_inputs(norm):
    """McCormick's use: what the region adds is the dual norm of the slope, input by input."""
    gains, lines, t_slopes = random_gains((BATCH,), ()), random_lines(), coefficients(("a", "c"))
    radius = torch.tensor([[0.3], [0.7]], dtype=torch.float64)
    inputs = [Region(rand(BATCH, 2), norm, radius), Region(rand(BATCH, 1), math.inf, radius)]
    found = NetworkRelaxation(gains, lines, {}, inputs).concretize(t_slopes)
    direction = rand(4000, BATCH, 2)
    first = direction / torch.linalg.vector_norm(direction, ord=norm, dim=2, keepdim=True)
    second = rand(4000, BATCH, 1).sign()
    x = torch.cat((first, second), 2) * radius
    expected = enumerated(gains, lines, {}, t_slopes, x).amax((0, 1))
    assert bool((found >= expected - 1e-12).all())
    assert torch.allclose(found, expected, rtol=0, atol=5e-3)


WIDTHS = (3, 4, 5, 2)


def relu_network():
    """x -> z1 -> a1 -> z2 -> a2 -> y, and from a1 to y, as plain steps."""
    relu = ActivationFactor(ACTIVATIONS["BoundRelu"], {})
    n, (W1, W2, W3, V) = WIDTHS, (rand(4, 3), rand(5, 4), rand(2, 5), rand(2, 4))
    dense = [Dense(W, (W.shape[1],), (W.shape[0],)) for W in (W1, W2, W3, V)]
    steps = (
        LinearStep("z1", (n[1],), (("x", dense[0]),)),
        FactorStep("a1", (n[1],), "z1", (Read("z1", (n[1],)),), relu),
        LinearStep("z2", (n[2],), (("a1", dense[1]),)),
        FactorStep("a2", (n[2],), "z2", (Read("z2", (n[2],)),), relu),
        LinearStep("y", (n[3],), (("a2", dense[2]), ("a1", dense[3]))),
    )
    shapes = {"x": (n[0],)} | {step.name: step.shape for step in steps}
    return Graph(steps, ("x",), "y", shapes, {name: name for name in shapes}), (W1, W2, W3, V)


def relu_lines(lower, upper, center, near):
    """Lines of all ReLUs of a layer, those that are stable included, as functions of t."""
    zero, one = torch.zeros_like(lower), torch.ones_like(lower)
    lines = linear_pieces(zero, one, lower, upper, center, near=near)
    stable = torch.where(lower >= 0, one, zero)
    return lines.where((lower < 0) & (upper > 0), Relaxation(stable, zero, stable, zero))


def dense_crown(A, lines):
    """Lower bound of ``A (a - a0)`` of one layer, neuron by neuron: its slope in t, and its constant."""
    slope, constant = torch.zeros_like(A), torch.zeros(len(A), dtype=A.dtype)
    for row, j in itertools.product(range(len(A)), range(A.shape[1])):
        above = A[row, j] < 0
        slope[row, j] = A[row, j] * (lines.upper_slope if above else lines.lower_slope)[0, j]
        constant[row] += A[row, j] * (lines.upper_constant if above else lines.lower_constant)[0, j]
    return slope, constant


@pytest.mark.parametrize("seed", range(5))
def test_refined_bounds_are_those_of_the_whole_network_neuron_by_neuron(seed):
    """The search's use: on dense matrices, with a line for every neuron, the same comes out."""
    torch.manual_seed(seed)
    graph, (W1, W2, W3, V) = relu_network()
    bias, x = (rand(1, 4), rand(1, 5)), rand(1, 3)
    radius = torch.full((1, 3), 0.4, dtype=torch.float64)
    z1 = x @ W1.T + bias[0]
    z2 = z1.relu() @ W2.T + bias[1]
    y = z2.relu() @ W3.T + z1.relu() @ V.T
    far = torch.full((1, 5), 100.0, dtype=torch.float64)
    around = {"z1": (z1 - far[:, :4], z1 + far[:, :4]), "z2": (z2 - far, z2 + far)}
    errors = {name: torch.zeros(1, *shape, dtype=torch.float64) for name, shape in graph.shapes.items()}
    rows = torch.eye(2, dtype=torch.float64)[None]
    known = Known(around, errors, torch.zeros(1, 2, dtype=torch.float64))
    region = Region(x, math.inf, radius)
    found = crown_bounds(graph, {"z1": z1, "z2": z2}, y, (region,), rows, 1 << 20, known=known, proven=False)
    bounds = {name: (each.lower, each.upper) for name, each in found.bounds.items()}

    reach = (radius @ W1.abs().T)[0]
    assert torch.allclose(bounds["z1"][0], z1 - reach) and torch.allclose(bounds["z1"][1], z1 + reach)
    lines = relu_lines(*bounds["z1"], z1, None)
    for sign, bound in ((1, bounds["z2"][0]), (-1, bounds["z2"][1])):
        slope, constant = dense_crown(sign * W2, lines)
        expected = z2 + sign * (constant - (slope @ W1).abs() @ radius[0])
        assert torch.allclose(bound, expected, rtol=0, atol=1e-12)
    for choice, near in enumerate((None, 0.0, 0.5)):
        first, second = (relu_lines(*bounds[name], z, near) for name, z in (("z1", z1), ("z2", z2)))
        on_z2, constant = dense_crown(W3, second)
        on_z1, more = dense_crown(V + on_z2 @ W2, first)
        assert torch.allclose(found.slope[0, choice], on_z1 @ W1, rtol=0, atol=1e-12)
        assert torch.allclose(found.offset[0, choice], y[0] + constant + more, rtol=0, atol=1e-12)
