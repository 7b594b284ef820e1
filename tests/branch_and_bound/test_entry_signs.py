"""The goal of monotonicity by hand: what is certified, what keeps a box open, and what is believed."""

from __future__ import annotations

import math

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.branch_and_bound.boxes import Boxes, Directions
from recurjac_plugin.branch_and_bound.entry_signs import JacobianBounder, Signs, signs_of


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


class Met:
    """Derivatives of one row in two coordinates of one region, the same at every point."""

    def __init__(self, derivative):
        self.lowest, self.highest = numbers([[math.inf] * 2]), numbers([[-math.inf] * 2])
        self.derivative, self.points = numbers([derivative]), []

    can_rise = property(lambda self: ~(self.lowest < 0))
    can_fall = property(lambda self: ~(self.highest > 0))
    refuted = property(lambda self: ~self.can_rise & ~self.can_fall)

    def meet(self, points, index):
        self.points.append(points)
        self.lowest = torch.minimum(self.lowest, self.derivative)
        self.highest = torch.maximum(self.highest, self.derivative)
        return self.derivative.expand(len(points), 1, -1)


def halves():
    flags = torch.zeros(2, 1, 2, dtype=torch.bool)
    lower, upper = numbers([0, 0], [1, 0]), numbers([1, 1], [2, 1])
    return Boxes(torch.zeros(2, dtype=torch.int64), lower, upper, Directions(flags, flags))


def goal_of(met, wanted=(True, True)):
    sign = torch.zeros(1, 1, 2, dtype=torch.int8)
    return Signs(sign, torch.tensor([[wanted]]), met, torch.Generator().manual_seed(0))


BOUNDS = numbers([[0.0, -1.0]], [[0.5, 0.0]]), numbers([[2.0, 3.0]], [[2.0, 3.0]])  # of the two halves


def test_an_entry_is_certified_when_no_box_lacks_its_sign():
    met = Met([1.0, 1.0])
    goal, boxes = goal_of(met), halves()
    left = goal.judge(boxes, BOUNDS)
    # The second coordinate may fall on the first half.
    assert left.boxes.lower.tolist() == [[0.0, 0.0]]
    assert left.sensitivity.tolist() == [[2.0, 4.0]]
    goal.settle([left.boxes])
    assert goal.sign.tolist() == [[[1, 0]]]
    assert bool(((met.points[0] > boxes.lower) & (met.points[0] < boxes.upper)).all())
    better = numbers([[0.0, 0.0]]), numbers([[2.0, 3.0]])
    assert not len(goal.judge(left.boxes, better).boxes)
    goal.settle([])
    assert goal.sign.tolist() == [[[1, 1]]]


@pytest.mark.parametrize("lacking", [0, 1])
@pytest.mark.parametrize("together", [True, False])
def test_one_box_that_lacks_a_sign_is_enough(lacking, together):
    """Of two boxes of one region either one may be the one, in one batch or in two."""
    goal, boxes = goal_of(Met([1.0, 1.0])), halves()
    rises = torch.ones(2, 1, 2, dtype=torch.bool)
    rises[lacking, 0, 1] = False
    boxes = Boxes(boxes.region, boxes.lower, boxes.upper, Directions(rises, torch.zeros_like(rises)))
    goal.settle([boxes] if together else [boxes.take(slice(0, 1)), boxes.take(slice(1, 2))])
    assert goal.sign.tolist() == [[[1, 0]]]


def test_boxes_are_closed_where_nothing_wanted_is_open():
    assert not len(goal_of(Met([1.0, 1.0]), wanted=(True, False)).judge(halves(), BOUNDS).boxes)
    met = Met([1.0, 1.0])
    goal = goal_of(met)
    left = goal.judge(halves(), BOUNDS)
    met.lowest[0, 0, 1] = -1.0  # refuted elsewhere
    assert not bool(goal.is_open(left.boxes).any())


def test_a_derivative_that_contradicts_the_bounds_is_not_ignored():
    with pytest.raises(rj.RecurJacError, match="contradicts"):
        goal_of(Met([-1.0, 1.0])).judge(halves(), BOUNDS)


def test_signs():
    rises, falls = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert signs_of(rises, falls).tolist() == [1, 1, -1, 0]


def test_boxes_are_cut_in_parts_until_time_is_up(monkeypatch):
    bounder = JacobianBounder(lambda x, C: None, numbers([[1.0]]), (2,), batch_size=3, deadline=math.inf)
    boxes = Boxes.joined([halves(), halves()])
    boxes = Boxes(boxes.region, boxes.lower, boxes.upper, boxes.known, axis=torch.zeros(4, dtype=torch.int64))
    assert [len(part) for part in bounder.parts(boxes)] == [2, 2, 2, 2]  # two halves of one box at a time
    sizes = iter([2, 0])
    monkeypatch.setattr(bounder, "_next_size", lambda seconds: next(sizes))
    parts = list(bounder.parts(boxes))
    assert [(len(part), part.axis is None) for part in parts] == [(2, True), (3, True), (1, True), (1, False)]
    assert bounder.over()
