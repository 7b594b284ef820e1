"""The rules: their lines hold on the whole rectangle of derivatives and gradients, on grids of both."""

from __future__ import annotations

import itertools

import pytest
import torch

from recurjac_plugin.jacobian import methods
from recurjac_plugin.passes.rules import relax_products

RULES = {name: each.upper_line for name, each in methods.TREATMENTS.items() if each.upper_line and not each.planes}
VALUES = [-2.0, -0.7, 0.0, 0.3, 1.0]
RANGES = [(low, high) for low, high in itertools.combinations_with_replacement(VALUES, 2)]
GRID = torch.linspace(0, 1, 41, dtype=torch.float64)


def rectangles():
    """dl, du, yl, yu: every pair of ranges, signs and zeros included; shape (1, 1, n)."""
    rows = [(*d, *y) for d in RANGES for y in RANGES]
    return [column.reshape(1, 1, -1) for column in torch.tensor(rows, dtype=torch.float64).T]


def points(dl, du, yl, yu):
    """d and y on grids of their ranges: (41, 1, ...), (1, 41, ...)."""
    shape = (-1, *(1,) * dl.dim())
    d = dl + GRID.reshape(shape) * (du - dl)
    y = yl + GRID.reshape(shape) * (yu - yl)
    return d.unsqueeze(1), y.unsqueeze(0)


@pytest.mark.parametrize("rule", RULES)
def test_lines_hold(rule):
    dl, du, yl, yu = rectangles()
    lines = relax_products(RULES[rule], dl, du, yl, yu)
    d, y = points(dl, du, yl, yu)
    assert bool((d * y <= lines.upper_slope * y + lines.upper_constant + 1e-12).all())
    assert bool((d * y >= lines.lower_slope * y + lines.lower_constant - 1e-12).all())


@pytest.mark.parametrize("rule", RULES)
def test_lines_touch(rule):
    """A line that nothing reaches could be lowered."""
    dl, du, yl, yu = rectangles()
    line = RULES[rule](dl, du, yl, yu)
    d, y = points(dl, du, yl, yu)
    gap = (line.slope * y + line.constant - d * y).flatten(0, 1).amin(0)
    assert float(gap.abs().max()) <= 1e-12


def test_linear_is_never_above_recurjac():
    dl, du, yl, yu = rectangles()
    _, y = points(dl, du, yl, yu)
    at = {name: rule(dl, du, yl, yu) for name, rule in RULES.items()}
    value = {name: line.slope * y + line.constant for name, line in at.items()}
    assert bool((value["RecurJac-Linear"] <= value["RecurJac"] + 1e-12).all())
    assert bool((value["RecurJac-Linear"] < value["RecurJac"] - 0.1).any())


def numbers(lines):
    return [float(v) for v in (lines.lower_slope, lines.lower_constant, lines.upper_slope, lines.upper_constant)]


def test_rules_by_hand():
    """ReLU, gradient in [-1, 3]: constants 3 and -1; the chord 3/4 y + 3/4 and, below, 1/4 y - 3/4."""
    dl, du, yl, yu = (torch.tensor([[[v]]]) for v in (0.0, 1.0, -1.0, 3.0))
    assert numbers(relax_products(RULES["RecurJac"], dl, du, yl, yu)) == [0, -1, 0, 3]
    assert numbers(relax_products(RULES["RecurJac-Linear"], dl, du, yl, yu)) == [0.25, -0.75, 0.75, 0.75]
    positive = relax_products(RULES["RecurJac"], dl, du, yl + 2, yu)  # gradient in [1, 3]: 0 <= d y <= y
    assert numbers(positive) == [0, 0, 1, 0]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [1e-300, 1e-30, 1e30, 1e150])
def test_extreme_magnitudes_stay_finite(rule, scale):
    dl, du, yl, yu = rectangles()
    lines = relax_products(RULES[rule], dl, du, yl * scale, yu * scale)
    assert all(bool(value.isfinite().all()) for value in vars(lines).values() if value is not None)
    d, y = points(dl, du, yl * scale, yu * scale)
    slack = 1e-12 * scale
    assert bool((d * y <= lines.upper_slope * y + lines.upper_constant + slack).all())
