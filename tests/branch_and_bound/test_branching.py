"""Where boxes are cut, and what need not be cut: by hand, and next to sampling."""

from __future__ import annotations

import math

import pytest
import torch

from recurjac_plugin.branch_and_bound.boxes import Boxes, Directions, Disjuncts
from recurjac_plugin.branch_and_bound.branching import (
    FixedFirst,
    LargestSmear,
    fixed_coordinates,
    largest_smear_above_zero,
)
from recurjac_plugin.branch_and_bound.search import Open


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def left_open(lower, upper, sensitivity, sides=None, hopeless=None, signs=False):
    """Open boxes; by default as large as they were bounded."""
    count = len(lower)
    flags = torch.zeros(count, 1, lower.shape[1], dtype=torch.bool)
    known = Directions(flags, flags) if signs else Disjuncts(flags[:, :, 0], lower[:, 0])
    boxes = Boxes(torch.zeros(count, dtype=torch.int64), lower, upper, known)
    hopeless = torch.zeros(count, dtype=torch.bool) if hopeless is None else torch.tensor(hopeless)
    return Open(boxes, upper - lower if sides is None else sides, sensitivity, hopeless)


def test_the_largest_smear_among_sides_with_extent_is_cut():
    lower, upper = numbers([0, 0, 0], [0, 2, 0], [0, 0, 0]), numbers([4, 2, 0], [4, 2, 1], [2, 2, 2])
    sensitivity = numbers([1, 2.1, 99], [1, 99, 3.9], [1, math.nan, math.inf])
    assert LargestSmear(torch.zeros(1, 3))(left_open(lower, upper, sensitivity)).axis.tolist() == [1, 0, 1]


def test_what_a_side_lost_counts():
    """The first side has shrunk to a quarter since the box was bounded, the second has not."""
    lower, upper = numbers([0, 0]), numbers([1, 2])
    cuts = LargestSmear(torch.zeros(1, 2))(left_open(lower, upper, numbers([3, 1]), sides=numbers([4, 2])))
    assert cuts.axis.tolist() == [0]
    cuts = LargestSmear(torch.zeros(1, 2))(left_open(lower, upper, numbers([1.9, 1]), sides=numbers([4, 2])))
    assert cuts.axis.tolist() == [1]


def test_what_shrank_to_a_point_is_bounded_once_more_and_what_was_a_point_is_not():
    points = numbers([1, 1], [1, 1], [1, 1], [0, 1])
    ends = numbers([1, 1], [1, 1], [1, 1], [2, 1])
    sides, hopeless = numbers([2, 0], [0, 0], [2, 0], [2, 0]), [False, False, True, True]
    smear = LargestSmear(torch.full((1, 2), 1e-3, dtype=torch.float64))
    cuts = smear(left_open(points, ends, numbers([1, 1]).expand(4, -1), sides, hopeless))
    assert cuts.axis.tolist() == [-1] * 4
    assert cuts.again.tolist() == [True, False, False, False]


def test_what_fixing_moved_is_bounded_again_before_it_is_cut():
    """Lost of the largest smears: half, nothing, a side that hardly counts, half of a box that is hopeless."""
    lower, upper = numbers([0, 0]).expand(4, -1), numbers([0, 1], [1, 1], [1, 0], [0, 1])
    sensitivity = numbers([1, 1], [1, 1], [1, 1e-4], [1, 1])
    hopeless = [False, False, False, True]
    first = FixedFirst(LargestSmear(torch.zeros(1, 2)), least=1e-3)
    cuts = first(left_open(lower, upper, sensitivity, torch.ones(4, 2, dtype=torch.float64), hopeless))
    assert cuts.again.tolist() == [True, False, False, False]
    assert cuts.aside.tolist() == [False, True, True, True]
    assert cuts.axis.tolist() == [1, 0, 0, -1]


def test_sensitivities_that_are_no_numbers_do_not_stop_fixing():
    lower, upper = numbers([0, 0, 0]).expand(2, -1), numbers([0, 1, 1], [1, 1, 0])
    sensitivity = numbers([math.inf, 1, 1], [math.nan, math.inf, math.inf])
    cuts = FixedFirst(LargestSmear(torch.zeros(1, 3)))(left_open(lower, upper, sensitivity, torch.ones(2, 3).double()))
    assert cuts.again.tolist() == [True, True]


def test_sides_without_a_number_between_their_ends_are_not_cut_for_signs():
    one = 1.0
    lower = numbers([0, 0], [one, 0], [one, one], [0, 0])
    upper = numbers([1, 3], [math.nextafter(one, 2), 1], [math.nextafter(one, 2), one], [1, 1])
    sensitivity = numbers([2, 1], [1e30, 1], [1, 1], [0, 0])
    cuts = largest_smear_above_zero(left_open(lower, upper, sensitivity, signs=True))
    assert cuts.axis.tolist() == [1, 1, -1, -1]
    assert not bool(cuts.again.any())


def test_coordinates_are_fixed_where_all_chosen_rows_agree():
    lower, upper = numbers([0, 0, 0, 0]).expand(3, -1), numbers([1, 1, 1, 1]).expand(3, -1)
    low = numbers([1, -2, -1, 0], [2, -3, 1, 0])  # of two rows
    high = numbers([2, -1, 1, 0], [3, -1, 2, 0])
    rows = torch.tensor([[True, True], [False, True], [True, False]])
    new_low, new_high = fixed_coordinates(lower, upper, (low.expand(3, 2, 4), high.expand(3, 2, 4)), rows)
    # Increasing: to the lower end. Decreasing: to the upper end. Of one sign in the second row only: there alone.
    assert torch.equal(new_low, numbers([0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0]))
    assert torch.equal(new_high, numbers([0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 0]))


def test_rows_that_disagree_fix_nothing():
    jacobian = numbers([[1], [-1]])
    low, high = fixed_coordinates(numbers([0]), numbers([1]), (jacobian, jacobian), torch.tensor([[True, True]]))
    assert (low.item(), high.item()) == (0.0, 1.0)


@pytest.mark.parametrize("seed", range(3))
def test_no_violation_is_lost_by_fixing(seed):
    """Two rows that are linear: wherever both are at most 0, they are on the face, too."""
    random = torch.Generator().manual_seed(seed)
    slope = torch.randn(200, 2, 3, generator=random, dtype=torch.float64)
    lower, upper = -torch.ones(200, 3, dtype=torch.float64), torch.ones(200, 3, dtype=torch.float64)
    rows = torch.ones(200, 2, dtype=torch.bool)
    low, high = fixed_coordinates(lower, upper, (slope, slope), rows)
    assert 0 < int((low == high).sum()) < low.numel()
    points = 2 * torch.rand(50, 200, 3, generator=random, dtype=torch.float64) - 1
    moved = torch.minimum(torch.maximum(points, low), high)
    before, after = ((slope * each.unsqueeze(2)).sum(3) for each in (points, moved))
    assert bool((after <= before + 1e-12).all())
