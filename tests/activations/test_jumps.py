"""Piecewise constant functions: their values, and lines around them, on either side of every jump."""

from __future__ import annotations

import pytest
import torch

from recurjac_plugin.activations.jumps import JUMPS


def ends(dtype):
    """Intervals of all widths, also with an end exactly at a jump."""
    torch.manual_seed(0)
    lower = (torch.rand(4000, dtype=dtype) - 0.5) * 8
    lower[::3], lower[1::7] = lower[::3].round(), lower[1::7].round() + 0.5
    width = torch.rand(4000, dtype=dtype) * torch.tensor([1e-6, 0.1, 1.0, 5.0], dtype=dtype).repeat(1000)
    width[::5] = width[::5].round()
    return lower, lower + width


def points(lower, upper):
    """Numbers of the intervals, and those next to the jumps in them."""
    for part in torch.linspace(0, 1, 33, dtype=lower.dtype):
        z = torch.lerp(lower, upper, part)
        for jump in (z.round(), z.floor() + 0.5, torch.zeros_like(z)):
            for near in (jump, torch.nextafter(jump, jump - 1), torch.nextafter(jump, jump + 1)):
                yield torch.minimum(torch.maximum(near, lower), upper)
        yield z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("kind", JUMPS)
def test_values_and_lines_hold(kind, dtype):
    jump, (lower, upper) = JUMPS[kind], ends(dtype)
    low, high = jump.interval(lower, upper)
    lines, steepness = jump.lines(lower, upper), jump.steepness(lower, upper)
    room = 16 * torch.finfo(dtype).eps * (steepness * torch.maximum(lower.abs(), upper.abs()) + high.abs() + low.abs())
    for z in points(lower, upper):
        value = jump.function(z)
        assert bool(((low <= value) & (value <= high)).all())
        assert bool((lines.lower_slope * z + lines.lower_constant <= value + room).all())
        assert bool((lines.upper_slope * z + lines.upper_constant >= value - room).all())
    for slope in (lines.lower_slope, lines.upper_slope):
        assert bool(((slope >= 0) & (slope <= steepness)).all())
    assert bool((lines.lower_slope > 0).any() & (lines.upper_slope > 0).any())
    assert bool(((steepness == 0) == (low == high)).all())


@pytest.mark.parametrize("kind", JUMPS)
def test_what_does_not_jump_is_a_constant(kind):
    jump = JUMPS[kind]
    lower, upper = (
        torch.tensor([0.125, -0.875, 2.5625, 1e6 + 0.125]),
        torch.tensor([0.375, -0.625, 2.9375, 1e6 + 0.375]),
    )
    lines = jump.lines(lower, upper)
    assert torch.equal(lines.lower_constant, lines.upper_constant)
    assert float(lines.lower_slope.abs().max()) == float(lines.upper_slope.abs().max()) == 0


@pytest.mark.parametrize("kind", JUMPS)
def test_lines_are_flat_where_errors_leave_nothing_of_their_slope(kind):
    jump, (lower, upper) = JUMPS[kind], ends(torch.float64)
    lines = jump.lines(lower, upper, upper - lower)
    assert float(lines.lower_slope.abs().max()) == float(lines.upper_slope.abs().max()) == 0
