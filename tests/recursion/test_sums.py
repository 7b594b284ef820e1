"""Sums over several entries of a Jacobian: against all corners of the derivatives' ranges."""

from __future__ import annotations

import itertools

import pytest
import torch
from cases import BY_NAME, hosted
from oracle import Ball, truth

from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT, ROWS
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.passes.rules import recurjac, recurjac_linear
from recurjac_plugin.recursion.backward import backward_order
from recurjac_plugin.recursion.sums import upper_of_sums

BATCH, ROW_COUNT, COLUMNS, BUDGET = 2, 3, 4, 2**20
each_rule = pytest.mark.parametrize("rule", [recurjac, recurjac_linear], ids=lambda rule: rule.__name__)


def rand(*shape):
    return torch.rand(*shape, dtype=torch.float64) * 2 - 1


def random_gains(*counts):
    """Gains of layers with so many neurons, with ways around every layer; half of the blocks are shared by regions."""
    names = [f"layer {i}" for i in range(len(counts))]
    sizes = {INPUT: COLUMNS, **dict(zip(names, counts)), ROWS: ROW_COUNT}
    blocks, layers = {}, {}
    for (earlier, later), batch in zip(itertools.combinations(sizes, 2), itertools.cycle((BATCH, 1))):
        blocks[later, earlier] = rand(batch, sizes[later], sizes[earlier])
    for name, count in zip(names, counts):
        ends = rand(2, BATCH, count).sort(0).values
        layers[name] = Layer(torch.arange(count)[None], ends[0], ends[1], None)
    return Gains(tuple(names), layers, Blocks(blocks), BATCH, ROW_COUNT, COLUMNS, rand(1))


def corners(gains):
    """The Jacobian at all corners of the derivatives' ranges, (n, b, k, columns): its entries are extreme at some."""
    found = []
    for choice in itertools.product((False, True), repeat=sum(map(gains.count, gains.layers))):
        sides, y = iter(choice), {}
        ds = {
            name: torch.stack([(layer.upper if next(sides) else layer.lower)[:, j] for j in range(layer.count)], 1)
            for name, layer in gains.derivatives.items()
        }
        for source in (*gains.layers[::-1], INPUT):
            y[source] = gains.block(ROWS, source).expand(BATCH, -1, -1)
            for later in gains.layers:
                if (later, source) in gains.blocks:
                    y[source] = y[source] + (y[later] * ds[later].unsqueeze(1)) @ gains.blocks[later, source]
        found.append(y[INPUT])
    return torch.stack(found)


def upper(order, coefficients):
    """The largest values that the bounds of the sums have over the region, (b, s)."""
    form = upper_of_sums(order, coefficients, coefficients.new_full(coefficients.shape[:2], torch.inf))
    added = [each.relaxation.concretize(form.t_slopes) for each in order.passes if each.relaxation and form.t_slopes]
    return sum(added, form.constant)


def summed(coefficients, jacobians):
    """(b, s, k, columns) and (n, b, k, columns) -> (n, b, s)."""
    return torch.einsum("bskr,nbkr->nbs", coefficients, jacobians)


@each_rule
@pytest.mark.parametrize("counts", [(2,), (1, 2), (2, 3, 2)], ids=str)
def test_sums_hold_at_all_corners(counts, rule):
    gains, coefficients = random_gains(*counts), rand(BATCH, 5, ROW_COUNT, COLUMNS)
    found = upper(backward_order(gains, rule, BUDGET), coefficients)
    assert found.shape == (BATCH, 5)
    largest = summed(coefficients, corners(gains)).amax(0)
    assert bool((found >= largest - 1e-12).all())
    if len(counts) == 1:  # gradients are exact, and the derivatives independent of each other
        assert torch.allclose(found, largest, rtol=0, atol=1e-12)


@each_rule
def test_a_sum_over_one_row_is_the_recursion(rule):
    order = backward_order(random_gains(2, 3, 2), rule, BUDGET)
    weights = rand(BATCH, ROW_COUNT, COLUMNS)
    one_row = torch.diag_embed(torch.ones(ROW_COUNT, dtype=torch.float64))[None, :, :, None] * weights[:, None]
    expected = order.upper_of_sum(weights)
    assert torch.allclose(upper(order, one_row), expected, rtol=0, atol=1e-12)
    entry = torch.zeros_like(weights).index_fill(2, torch.tensor(1), 1.0)
    assert torch.allclose(order.upper_of_sum(entry), order.jacobian()[1][:, :, 1], rtol=0, atol=1e-12)


@each_rule
def test_sums_do_not_depend_on_the_chunk(rule):
    gains, coefficients = random_gains(2, 3, 2), rand(BATCH, 7, ROW_COUNT, COLUMNS)
    whole, small = (upper(backward_order(gains, rule, budget), coefficients) for budget in (BUDGET, 1))
    assert torch.allclose(whole, small, rtol=0, atol=1e-12)
    assert upper(backward_order(gains, rule, BUDGET), coefficients[:, :0]).shape == (BATCH, 0)


def test_one_derivative_is_the_same_in_all_rows():
    """Rows that differ in sign alone: their sum is 0 whatever the derivatives are, and no entry is."""
    gains = random_gains(3)
    gains.blocks[ROWS, "layer 0"][:, 1] = -gains.blocks[ROWS, "layer 0"][:, 0]
    gains.blocks[ROWS, INPUT][:, :2] = 0
    coefficients = torch.zeros(BATCH, 1, ROW_COUNT, COLUMNS, dtype=torch.float64)
    coefficients[:, :, :2] = rand(COLUMNS)
    for sign in (1, -1):
        found = upper(backward_order(gains, recurjac_linear, BUDGET), sign * coefficients)
        assert float(found.abs().max()) <= 1e-12


@pytest.mark.parametrize("name", ["tanh", "mixed", "branches"])
def test_planes_make_sums_tighter_and_they_hold(name):
    net, center, model = hosted(name)
    region = Ball(center, 0.05)
    with torch.no_grad():
        analysis = analyse(model, region.perturbed(), parse(BY_NAME[name].method("RecurJac-McCormick")), None)
        lines = backward_order(analysis.gains, recurjac_linear, BUDGET)
        planes = backward_order(analysis.gains, recurjac_linear, BUDGET, analysis.relaxation)
        shape = (len(center), 6, *analysis.jacobian[0].shape[1:])
        coefficients = torch.randn(shape, dtype=center.dtype)
        old, new = (upper(order, coefficients) for order in (lines, planes))
    sampled = summed(coefficients, truth(net, region).flatten(3)).amax(0)
    assert bool((new >= sampled - 1e-9 * sampled.abs().max()).all())
    assert float((new - sampled).mean()) < 0.8 * float((old - sampled).mean())
