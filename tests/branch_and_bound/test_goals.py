"""The rows of a property: which disjuncts bounds exclude, and what is left for rounding."""

from __future__ import annotations

import math

import pytest
import torch
from properties import box, polytope

from recurjac_plugin.branch_and_bound.goals import Rows


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def rows_of(*disjuncts, difference=0.0, eps=0.0):
    return Rows.of(box([0.0], [1.0], *disjuncts), numbers(0.0), difference, eps)


def test_rows_of_several_disjuncts():
    rows = rows_of(polytope([[1, 0], [0, 1]], [1, 2]), polytope([[1, 1]], [3]), polytope([[0, 0]], [0], [True]))
    assert rows.disjunct.tolist() == [0, 0, 1, 2]
    values = rows.values(numbers([1, 2], [2, 2], [0, 0]))
    assert values.tolist() == [[0, 0, 0, 0], [1, 0, 1, 0], [-1, -2, -3, 0]]
    assert rows.per_disjunct(values, "amax").tolist() == [[0, 0, 0], [1, 1, 0], [-1, -3, 0]]
    assert rows.met(values).tolist() == [[True, True, True], [False, False, True], [True, True, True]]
    slack = torch.zeros_like(values)
    # One row above 0 is enough; equality excludes strict rows only.
    assert rows.excluded(values, slack).tolist() == [[False, False, True], [True, True, True], [False, False, True]]
    assert rows.excluded(values, slack + 2).any().item() is False
    assert rows.excluded(values, slack * math.nan).any().item() is False


def test_slack_by_hand():
    rows = rows_of(polytope([[2, -1]], [4]), difference=0.25, eps=0.5)
    slack = rows.slack(numbers([3, 5]), numbers([-7]))
    # 0.25 * 3 + 64 eps (2 * 3 + 5 + 4 + |-3 + 7|) + 0.5 * 11
    assert slack.item() == pytest.approx(0.75 + 64 * torch.finfo(torch.float64).eps * 19 + 5.5, rel=1e-15, abs=0)
    assert rows.slack(numbers([3, 5]), numbers([-math.inf])).isfinite().all()


def test_rows_repeated_are_found_disjunct_by_disjunct():
    rows = rows_of(polytope([[1, 0], [0, 1]], [1, 2]), polytope([[1, 1]], [3]))
    assert [each.tolist() for each in rows.members(1)] == [[0, 1], [2]]
    assert [each.tolist() for each in rows.members(2)] == [[0, 1, 3, 4], [2, 5]]
