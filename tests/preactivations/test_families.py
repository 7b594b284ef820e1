"""Families of lines: every one of them, and every mixture of two neighbours, lies on its side of the function."""

from __future__ import annotations

import math

import pytest
import torch
from activation_rows import ROWS, each_row, intervals

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.graph.steps import ActivationFactor, at
from recurjac_plugin.preactivations.optimised import change_family

GRID = torch.linspace(0, 1, 201, dtype=torch.float64)[:, None, None]


def family(row, lower, upper, center):
    """Lines (n, b, u) of the change, and which neurons are undetermined."""
    factor = ActivationFactor(ACTIVATIONS[row.kind], row.parameters)
    index = torch.arange(lower.shape[1]).expand(len(lower), -1)
    change = lower - center, upper - center
    dl, du = factor.derivative_range((lower, upper))
    return change_family(factor, [(lower, upper)], [center], change, index), (at(dl, index) < at(du, index))


@each_row
@pytest.mark.parametrize("where", [0.5, 0.0])
@pytest.mark.parametrize("widths", [1.0, 1e-6])
def test_every_mixture_holds(row, where, widths):
    lower, upper = intervals(60, row)
    upper = lower + widths * (upper - lower)
    center = lower + where * (upper - lower)
    lines, valid = family(row, lower, upper, center)
    z = lower + GRID * (upper - lower)
    t, value = (z - center).unsqueeze(1), (row.function(z) - row.function(center)).unsqueeze(1)
    steepest = torch.maximum(
        *(end.abs() for end in ACTIVATIONS[row.kind].derivative_range(lower, upper, row.parameters))
    )
    size = (1 + value.abs().amax(0)) * (1 + torch.maximum(lower.abs(), upper.abs())) * steepest.clamp(min=1)
    slack = 1e-11 * size + (math.log1p(math.exp(-row.parameters["threshold"])) if "threshold" in row.parameters else 0)
    share = torch.rand(len(lines.lower_slope) - 1, *lower.shape, dtype=torch.float64)
    mixed = lines.mapped(lambda ends: torch.cat((ends, torch.lerp(ends[:-1], ends[1:], share))))
    below = mixed.lower_slope * t + mixed.lower_constant - value
    above = value - mixed.upper_slope * t - mixed.upper_constant
    where_valid = valid.expand_as(below)
    assert not valid.any() or float(torch.maximum(below - slack, above - slack)[where_valid].max()) <= 0


SMOOTH = [row for row in ROWS if row.kind in {"BoundTanh", "BoundSigmoid", "BoundGelu", "SiLU", "BoundSin", "BoundErf"}]


@pytest.mark.parametrize("row", SMOOTH, ids=lambda row: row.kind)
@pytest.mark.parametrize("width", [0.1, 1.0, 4.0])
def test_for_every_slope_between_a_line_nearly_touches(row, width):
    """Mixtures of neighbours lose, on the average, a sixteenth of how far the function bends away from its chord."""
    lower = torch.linspace(-3, 3, 40, dtype=torch.float64).reshape(-1, 5)
    upper = lower + width
    lines, _ = family(row, lower, upper, lower)
    z = lower + GRID * width
    t, value = (z - lower).unsqueeze(1), (row.function(z) - row.function(lower)).unsqueeze(1)
    middle = lines.mapped(lambda ends: (ends[:-1] + ends[1:]) / 2)
    best_above = (value - middle.upper_slope * t).amax(0)
    best_below = (value - middle.lower_slope * t).amin(0)
    chord = value[0] + (value[-1] - value[0]) * t / width
    bend = (value - chord).abs().amax(0)
    lost = middle.upper_constant - best_above, best_below - middle.lower_constant
    assert all(float(each.mean(0).sum()) <= float(bend.sum()) / 16 for each in lost)


def test_slopes_through_0_are_those_of_both_pieces():
    row = ROWS[0]
    lower, upper = torch.tensor([[-1.0, -2.0]]), torch.tensor([[3.0, 1.0]])
    lines, _ = family(row, lower, upper, torch.zeros_like(lower))
    assert lines.lower_slope.tolist() == [[[0.0, 0.0]], [[1.0, 1.0]]]
    assert torch.equal(lines.upper_slope[0], lines.upper_slope[1])
