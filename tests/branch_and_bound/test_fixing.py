"""Which coordinates the goal of a verdict fixes: by bounds made up by hand."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from properties import box, polytope

from recurjac_plugin.branch_and_bound.bounders import BoxBounds
from recurjac_plugin.branch_and_bound.boxes import Boxes, Disjuncts
from recurjac_plugin.branch_and_bound.exclusion import Exclusion
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.jacobian.methods import parse


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


@dataclass
class MadeUp:
    """Two rows on boxes of two inputs, the same bounds on every box; what was differentiated is noted."""

    jacobian: tuple[torch.Tensor, torch.Tensor]  # of both rows, (2, 2) each
    slope: torch.Tensor  # of their linear bounds, (2, 2)
    disjuncts: tuple

    def __post_init__(self):
        self.rows = Rows.of(box([0.0, 0.0], [1.0, 1.0], *self.disjuncts), numbers(0.0))
        self.method, self.uses_jacobian, self.input_shape = parse("CROWN"), True, (2,)
        self.asked = []

    def evaluate(self, x):
        return torch.ones(len(x), 2, dtype=torch.float64)  # nothing is violated

    def __call__(self, count):
        def differentiated(at, rows):
            self.asked.append(rows.tolist())
            return SimpleNamespace(jacobian=tuple(bound[rows] for bound in self.jacobian))

        outputs = torch.ones(count, 2, dtype=torch.float64)
        lower = numbers([-1, -2]).expand(count, -1)
        slope = self.slope.expand(count, -1, -1)
        return BoxBounds(outputs, lower, slope, None, {}, differentiated)


def left_of(bounds):
    """What is left of two equal boxes [0, 1]^2; they are the second batch, so that the best row is looked at first."""
    goal = Exclusion(bounds, "jacobian")
    ends = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    alive = torch.ones(2, bounds.rows.disjuncts, dtype=torch.bool)
    boxes = Boxes(torch.zeros(2, dtype=torch.int64), *ends, Disjuncts(alive, numbers(-9, -9)))
    return goal.judge(boxes, bounds(2)).boxes


ONE_DISJUNCT = (polytope([[1, 0], [0, 1]], [0, 0]),)
TWO_DISJUNCTS = (polytope([[1, 0]], [0]), polytope([[0, 1]], [0]))


@pytest.mark.parametrize("disjuncts", [ONE_DISJUNCT, TWO_DISJUNCTS], ids=["one", "two"])
def test_a_coordinate_is_fixed_only_if_every_row_is_monotone(disjuncts):
    """The best row rises everywhere, and the linear bounds of both do; the other row itself may fall with input 0."""
    jacobian = numbers([1, 1], [-0.5, 0.5]), numbers([2, 2], [2, 1])
    bounds = MadeUp(jacobian, torch.ones(2, 2, dtype=torch.float64), disjuncts)
    left = left_of(bounds)
    assert left.lower.tolist() == [[0, 0]] * 2
    assert left.upper.tolist() == [[1, 0]] * 2
    assert len(bounds.asked) == 2  # the best row alone, then all


@pytest.mark.parametrize("sign", [1, -1])
def test_rows_of_opposite_signs_fix_nothing(sign):
    jacobian = sign * numbers([1, 1], [-1, -1])
    bounds = MadeUp((jacobian, jacobian), sign * torch.ones(2, 2, dtype=torch.float64), ONE_DISJUNCT)
    left = left_of(bounds)
    assert left.lower.tolist() == [[0, 0]] * 2 and left.upper.tolist() == [[1, 1]] * 2


def test_all_rows_falling_leave_the_upper_end():
    jacobian = -numbers([1, 1], [1, 1])
    left = left_of(MadeUp((jacobian, jacobian), jacobian, ONE_DISJUNCT))
    assert left.lower.tolist() == left.upper.tolist() == [[1, 1]] * 2
