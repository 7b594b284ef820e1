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


def left_of(bounds, apart=False):
    """What is left of two equal boxes [0, 1]^2; they are the second batch, so that the best row is looked at first."""
    goal = Exclusion(bounds, "jacobian", apart)
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


def test_apart_every_disjunct_fixes_its_own_coordinates():
    """The first disjunct's row rises with both inputs, the second's falls with the second input and turns with 0."""
    jacobian = numbers([1, 1], [-1, -2]), numbers([2, 2], [1, -1])
    bounds = MadeUp(jacobian, torch.zeros(2, 2, dtype=torch.float64), TWO_DISJUNCTS)
    joint, left = left_of(bounds), left_of(bounds, apart=True)
    assert joint.lower.tolist() == [[0, 0]] * 2 and joint.upper.tolist() == [[1, 1]] * 2
    assert left.known.alive.tolist() == [[True, False], [False, True]] * 2
    assert left.lower.tolist() == [[0, 0], [0, 1]] * 2
    assert left.upper.tolist() == [[0, 0], [1, 1]] * 2
    assert left.known.bound.tolist() == [-1, -2] * 2


def test_apart_rows_of_one_disjunct_still_have_to_agree():
    jacobian = numbers([1, 1], [-1, 1])
    bounds = MadeUp((jacobian, jacobian), torch.zeros(2, 2, dtype=torch.float64), ONE_DISJUNCT)
    left = left_of(bounds, apart=True)
    assert left.lower.tolist() == [[0, 0]] * 2 and left.upper.tolist() == [[1, 0]] * 2


@pytest.mark.parametrize("apart", [False, True])
def test_a_disjunct_that_is_left_of_a_box_does_not_count_as_excluded_there(apart):
    """The middles violate the second disjunct: no bound denies that, so there is no contradiction."""
    jacobian = numbers([1, 1], [-1, -2]), numbers([2, 2], [1, -1])
    bounds = MadeUp(jacobian, torch.zeros(2, 2, dtype=torch.float64), TWO_DISJUNCTS)
    goal = Exclusion(bounds, "jacobian", apart)
    ends = torch.zeros(2, 2, dtype=torch.float64), torch.ones(2, 2, dtype=torch.float64)
    alive = torch.ones(2, 2, dtype=torch.bool)
    boxes = Boxes(torch.zeros(2, dtype=torch.int64), *ends, Disjuncts(alive, numbers(-9, -9)))
    made_up = bounds(2)
    made_up.outputs[:, 1] = -1.0
    goal.judge(boxes, made_up)
    goal.require_consistent()
