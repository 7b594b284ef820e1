"""Optimised lines on the gains: every mixture holds, nothing gets worse, and the best of one neuron is found."""

from __future__ import annotations

import math
import time

import pytest
import torch
from random_gains import BATCH, COLUMNS, SUMS, coefficients, rand, random_gains, random_lines, weighted

from recurjac_plugin.activations.lines import Relaxation, linear_pieces
from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.optimised import Effort, Family, optimised_upper_bound
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.numerics.region import Region, concretized

BUDGET = 1 << 24


def families(count):
    """So many lines on either side of every neuron; the start is the second of them, or the only one."""
    found, at = {}, min(1, count - 1)
    for name, start in random_lines().items():
        lines = Relaxation.stacked([start.mapped(lambda value, i=i: value + (i - at) * 0.1) for i in range(count)])
        found[name] = Family(start, lines)
    return found


def regions(norm=math.inf):
    return (Region(rand(BATCH, COLUMNS), norm, torch.rand(BATCH, COLUMNS if norm == math.inf else 1).double()),)


def drawn(gains, choice, on_activations, on_preactivations, x):
    """The sums at x - x0 of shape (n, b, columns), activations anywhere between all lines, or on one: (n, b, m)."""
    activations, total = {INPUT: x}, 0.0
    for name in gains.layers:
        blocks = [(block, earlier) for (later, earlier), block in gains.blocks.items() if later == name]
        t = sum(weighted(block, activations[earlier]) for block, earlier in blocks)
        lines = choice[name].lines.mapped(lambda line: line.unsqueeze(1))
        low = (lines.lower_slope * t + lines.lower_constant).amax(0)
        high = (lines.upper_slope * t + lines.upper_constant).amin(0)
        side = torch.rand_like(t)
        activations[name] = low + torch.where(side > 0.3, side.round(), side) * (high - low)
        if name in on_preactivations:
            total = total + weighted(on_preactivations[name], t)
    return total + sum(weighted(c, activations[end]) for end, c in on_activations.items())


def bound(gains, lines, where, effort=None, budget=BUDGET, **sums):
    return optimised_upper_bound(gains, lines, SUMS, where, budget, effort or Effort(), **sums)


@pytest.mark.parametrize("lines", [1, 2, 3, 9])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_never_above_the_start_and_never_below_what_there_is(norm, lines):
    gains, choice, where = random_gains((1, BATCH), ()), families(lines), regions(norm)
    sums = {"on_activations": coefficients((INPUT, "a", "c")), "on_preactivations": coefficients(("b",))}
    found = bound(gains, choice, where, **sums)
    start = {name: each.start for name, each in choice.items()}
    slope, constant = linear_upper_bound(gains, start, SUMS, **sums)
    first = constant + concretized(where, slope)
    assert bool((found.value <= first).all())
    assert bool((found.value < first - 1e-6).any()) == (lines > 1)
    assert torch.allclose(found.value, found.constant + concretized(where, found.slope), rtol=0, atol=1e-12)
    extent = where[0].radius if norm == math.inf else where[0].radius / COLUMNS
    value = drawn(gains, choice, *sums.values(), extent * rand(2000, BATCH, COLUMNS))
    assert bool((value <= found.value + 1e-12).all())


@pytest.mark.parametrize("name", ["value", "slope", "constant"])
def test_it_does_not_depend_on_the_memory_and_comes_out_the_same_again(name):
    gains, choice, where = random_gains((BATCH,), ()), families(9), regions()
    sums = {"on_activations": coefficients(("b", "c")), "on_preactivations": coefficients(("a",))}
    first, again, single = (bound(gains, choice, where, None, budget, **sums) for budget in (BUDGET, BUDGET, 1))
    assert torch.equal(getattr(first, name), getattr(again, name))
    assert torch.allclose(getattr(first, name), getattr(single, name), rtol=0, atol=1e-9)


def test_a_deadline_leaves_the_start():
    gains, choice, where = random_gains((BATCH,), ()), families(2), regions()
    sums = {"on_activations": coefficients(("c",))}
    start = bound(gains, choice, where, Effort(0), **sums)
    late = bound(gains, choice, where, Effort(50, time.monotonic() - 1), **sums)
    assert torch.equal(start.value, late.value)
    assert bool((bound(gains, choice, where, Effort(50, time.monotonic() + 600), **sums).value < start.value).any())


def test_the_best_slope_of_one_relu():
    """``relu(t) - t / 3`` on [-1, 2] from below: the line with slope 1/3 gives 0, CROWN's with 1 gives -2/3."""
    one = torch.ones(1, 1, dtype=torch.float64)
    layer = Layer(torch.zeros(1, 1, dtype=torch.int64), 0 * one, one, None)
    gains = Gains(("a",), {"a": layer}, Blocks({("a", INPUT): 1.5 * one[None]}), 1, 1, 1, one)
    numbers = 0 * one, one, -one, 2 * one, 0.5 * one
    lines = Relaxation.stacked([linear_pieces(*numbers, near=near) for near in (0.0, 1.0)])
    family, region = Family(linear_pieces(*numbers), lines), (Region(one, math.inf, one),)
    sums = {"on_activations": {"a": -one[None]}, "on_preactivations": {"a": one[None] / 3}}
    # The sum is counted from the centre t = 1/2, where it is 1/2 - 1/6.
    crown, best = (optimised_upper_bound(gains, {"a": family}, 1, region, BUDGET, Effort(n), **sums) for n in (0, 100))
    assert float(crown.value) == pytest.approx(2 / 3 + 1 / 3)
    assert float(best.value) == pytest.approx(1 / 3, abs=1e-3)


@pytest.mark.parametrize("ends", [(), ("a",)])
def test_nothing_to_choose(ends):
    gains, choice, where = random_gains((BATCH,), ()), families(1), regions()
    sums = {"on_preactivations": coefficients(ends)}
    found = bound(gains, choice, where, **sums)
    assert found.value.shape == (BATCH, SUMS) and not found.value.requires_grad
    assert torch.equal(found.value, bound(gains, choice, where, Effort(0), **sums).value)


def test_gradients_around_it_are_left_alone():
    gains, choice, where = random_gains((BATCH,), ()), families(2), regions()
    sums = {name: value.requires_grad_() for name, value in coefficients(("c",)).items()}
    with torch.no_grad():
        found = bound(gains, choice, where, on_activations=sums)
        assert not torch.is_grad_enabled()
    assert not found.value.requires_grad and sums["c"].grad is None
