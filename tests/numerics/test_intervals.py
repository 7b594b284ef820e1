"""Intersections: the tighter ends, nothing in between lost, contradictions refused."""

from __future__ import annotations

import math

import pytest
import torch

import recurjac_plugin as rj
from recurjac_plugin.numerics.intervals import intersection, ordered


def interval(*ends):
    return tuple(torch.tensor([[end]], dtype=torch.float64) for end in ends)


def test_both_ends_are_the_tighter_ones():
    assert intersection(interval(0.0, 2.0), interval(1.0, 3.0)) == interval(1.0, 2.0)


def test_what_crosses_by_rounding_keeps_both_ends():
    assert intersection(interval(0.0, 1.0), interval(1.0 + 1e-15, 3.0)) == interval(1.0, 1.0 + 1e-15)


def test_a_contradiction_is_refused():
    with pytest.raises(rj.RecurJacError, match="contradict"):
        intersection(interval(0.0, 1.0), interval(1.5, 3.0))


@pytest.mark.parametrize("shape", [(0, 1, 5), (2, 0, 5), (0,)])
def test_of_nothing_there_is_nothing(shape):
    """As of the parts that a search has left when there are none: no largest number is asked for."""
    empty = torch.zeros(shape), torch.zeros(shape)
    assert all(end.shape == shape for end in intersection(empty, empty))


def test_ends_are_exchanged_where_they_have_crossed():
    lower, upper = ordered((torch.tensor([0.0, 2.0, math.nan]), torch.tensor([1.0, 1.0, 1.0])))
    assert lower[:2].tolist() == [0.0, 1.0] and upper.tolist() == [1.0, 2.0, 1.0] and bool(lower[2].isnan())
