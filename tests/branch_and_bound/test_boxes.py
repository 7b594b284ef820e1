"""Batches of boxes and frontiers: nothing is lost, and the order is what it says."""

from __future__ import annotations

import math

import torch

from recurjac_plugin.branch_and_bound.boxes import BestFirst, Boxes, Directions, Disjuncts, Rounds


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def boxes_of(bounds):
    count = len(bounds)
    place = torch.arange(count, dtype=torch.float64).unsqueeze(1)
    known = Disjuncts(torch.ones(count, 1, dtype=torch.bool), numbers(*bounds))
    return Boxes(torch.zeros(count, dtype=torch.int64), place, place + 1, known)


def to_cut(region, axis):
    """Unit squares in several regions, numbered by their lower ends."""
    lower = torch.arange(len(region), dtype=torch.float64).unsqueeze(1).expand(-1, 2)
    flags = torch.zeros(len(region), 1, 2, dtype=torch.bool)
    return Boxes(torch.tensor(region), lower, lower + 1, Directions(flags, flags), axis=torch.tensor(axis))


def test_halves_share_a_plane():
    boxes = Boxes(
        torch.tensor([0, 1]), numbers([0, -1], [2, 3]), numbers([1, 1], [2.5, 9]),
        Disjuncts(torch.tensor([[True], [False]]), numbers(5, 6)), {"a": (numbers([1], [2]), numbers([3], [4]))},
        torch.tensor([1, 0]),
    )  # fmt: skip
    both = boxes.halves()
    assert both.region.tolist() == [0, 1, 0, 1]
    assert both.lower.tolist() == [[0.0, -1.0], [2.0, 3.0], [0.0, 0.0], [2.25, 3.0]]
    assert both.upper.tolist() == [[1.0, 0.0], [2.25, 9.0], [1.0, 1.0], [2.5, 9.0]]
    assert both.known.alive.tolist() == [[True], [False], [True], [False]]
    assert both.known.bound.tolist() == [5, 6, 5, 6]
    assert [end.flatten().tolist() for end in both.around["a"]] == [[1, 2, 1, 2], [3, 4, 3, 4]]
    assert both.axis is None
    assert both.halves() is both


def test_what_is_taken_apart_can_be_joined():
    boxes = to_cut([0, 1, 1, 2], [0, 1, 0, 1])
    parts = [boxes.take(slice(0, 1)), boxes.take(torch.tensor([False, True, True, False])), boxes.take(slice(3, None))]
    joined = Boxes.joined(parts)
    for name in ("region", "lower", "upper", "axis"):
        assert torch.equal(getattr(joined, name), getattr(boxes, name))
    assert torch.equal(joined.known.rises, boxes.known.rises)


def test_the_worst_come_first_and_the_newest_where_there_are_too_many():
    frontier = BestFirst(3, most=4)
    frontier.push(boxes_of([-1.0]))
    frontier.push(boxes_of([-3.0, 5.0]))
    frontier.push(boxes_of([-2.0]))
    assert (len(frontier), frontier.bound) == (4, -3.0)
    assert frontier.pop().known.bound.tolist() == [-3.0, 5.0, -2.0]
    frontier.push(boxes_of([1.0, 2.0, 3.0]))
    frontier.push(boxes_of([4.0]))
    frontier.batch = 2
    assert frontier.pop().known.bound.tolist() == [4.0, 1.0]  # five wait: depth first
    assert (len(frontier), frontier.bound) == (3, -1.0)
    frontier.push(boxes_of([]))
    frontier.batch = 9
    assert frontier.pop().known.bound.tolist() == [-1.0, 2.0, 3.0]
    assert (len(frontier), frontier.bound) == (0, math.inf)


def test_a_round_takes_the_first_boxes_of_every_region_within_its_budget():
    frontier = Rounds(lambda boxes: boxes.lower[:, 0] != 2, torch.tensor([2, 1, 5]))
    frontier.push(to_cut([0, 1, 0, 1, 0, 0, 2], [0] * 7))  # the third of them is closed by now
    assert len(frontier) == 7
    first = frontier.pop()
    assert first.lower[:, 0].tolist() == [0, 1, 4, 6]
    assert (len(frontier), sum(len(boxes) for boxes in frontier)) == (0, 2)  # two are left for ever
    frontier.put_back(first.take(slice(0, 1)))
    frontier.push(to_cut([0, 1], [0] * 2))
    frontier.push(to_cut([2], [0]))
    assert frontier.pop().region.tolist() == [0, 2]  # the budget of one box was given back


def test_rounds_without_a_budget_take_all():
    frontier = Rounds(lambda boxes: boxes.axis == 0, None)
    frontier.push(to_cut([0, 1, 0], [0, 1, 0]))
    frontier.push(to_cut([1], [0]))
    assert frontier.pop().region.tolist() == [0, 0, 1]
    assert not list(frontier)
