"""Lines around functions themselves: they hold, and cost a chord and a tangent where these are the best."""

from __future__ import annotations

import pytest
import torch
from activation_rows import ROWS, intervals

from recurjac_plugin.activations.pieces import Pieces, lines_around
from recurjac_plugin.activations.table import ACTIVATIONS

GRID = torch.linspace(0, 1, 401, dtype=torch.float64)[:, None, None]
# The function of softplus is that of ONNX, which has no beta.
WITH_FUNCTION = [
    row for row in ROWS if ACTIVATIONS[row.kind].function is not None and row.parameters.get("beta", 1.0) == 1.0
]
each_row = pytest.mark.parametrize(
    "row", WITH_FUNCTION, ids=lambda row: f"{row.kind}-{[*row.parameters.values()]}"[:50]
)


def around(row, lower, upper):
    return lines_around(ACTIVATIONS[row.kind], lower, upper, parameters_in(row, lower.dtype))


def parameters_in(row, dtype):
    return {name: each.to(dtype) if isinstance(each, torch.Tensor) else each for name, each in row.parameters.items()}


def gaps(lines, z):
    return (lines.upper_slope - lines.lower_slope) * z + lines.upper_constant - lines.lower_constant


@each_row
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_lines_hold(dtype, row):
    lower, upper = (end.to(dtype) for end in intervals(row=row))
    lines = around(row, lower, upper)
    first, last = lower.double(), upper.double()
    z = (first * (1 - GRID) + last * GRID).clamp(min=first, max=last)
    value = ACTIVATIONS[row.kind].function(z, parameters_in(row, torch.float64))
    slack = 1e-12 * (1 + value.abs())
    below = lines.lower_slope.double() * z + lines.lower_constant.double()
    above = lines.upper_slope.double() * z + lines.upper_constant.double()
    assert bool((below <= value + slack).all())
    assert bool((above >= value - slack).all())


@each_row
def test_lines_are_no_wider_than_those_of_pieces(row):
    lower, upper = intervals(row=row)
    ours, cut = around(row, lower, upper), Pieces.over(ACTIVATIONS[row.kind], lower, upper, row.parameters).lines()
    middle = (lower + upper) / 2
    assert bool((gaps(ours, middle) <= gaps(cut, middle) * 1.01 + 1e-12).all())
