"""What several methods say of one property: held against each other and against values."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from properties import box, polytope, spec_of

from recurjac_plugin.verification.agreement import Claim, contradictions
from recurjac_plugin.verification.counterexample import Counterexample

# y = (x0 + x1, x0 - x1) on two boxes; the property asks for y0 <= 1 on the first, for y0 + y1 >= 3 or y1 >= 3 on the
# second.
SPEC = spec_of(
    box([1.0, 1.0], [2.0, 2.0], polytope([[1, 0]], 1.0)),
    box([0.0, 0.0], [1.0, 1.0], polytope([[-1, -1]], -3.0), polytope([[0, -1]], -3.0)),
)
TRUE = [
    (torch.tensor([2.0]).double(), torch.tensor([4.0]).double()),
    (torch.tensor([-2.0, -1.0]).double(), torch.tensor([0.0, 1.0]).double()),
]
DOUBLE, SINGLE = (torch.zeros((), dtype=dtype) for dtype in (torch.float64, torch.float32))
HONEST = Claim("CROWN", TRUE, 1.0, True, None)


def outputs(x):
    x = torch.from_numpy(x)
    return torch.stack([x.sum(1), x[:, 0] - x[:, 1]], 1)


def found(*claims, like=DOUBLE, difference=0.0):
    return contradictions(claims, SPEC, outputs, like, difference)


def test_true_claims_do_not_contradict_each_other():
    nothing = Claim("IBP", (), -math.inf, False, None)
    infinite = Claim("CROWN", [(b - math.inf, b + math.inf) for _, b in TRUE], -math.inf, False, None)
    nan = replace(HONEST, bounds=[(b * math.nan, b * math.nan) for _, b in TRUE])
    assert found(HONEST, nothing, infinite, nan) == []
    assert found() == []


def moved(number, row, side, by):
    bounds = [tuple(bound.clone() for bound in each) for each in TRUE]
    bounds[number][side][row] += by
    return replace(HONEST, method="RecurJac", bounds=bounds)


@pytest.mark.parametrize(("number", "row"), [(0, 0), (1, 0), (1, 1)])
@pytest.mark.parametrize("side", [0, 1])
def test_a_bound_beside_a_value_outside_of_it(number, row, side):
    inward = 1 if side == 0 else -1
    (wrong,) = found(HONEST, moved(number, row, side, inward * 1e-6))
    assert (wrong.method, wrong.against, wrong.box) == ("RecurJac", "a value of the network", number)
    assert wrong.bound == float(TRUE[number][side][row]) + inward * 1e-6
    assert wrong.value == float(TRUE[number][side][row])
    assert SPEC.boxes[number].contains(np.array(wrong.point))
    assert f"row {row + 1} of the property is at {('least', 'most')[side]}" in wrong.message
    assert f"on box {number + 1}" in wrong.message
    assert "please report" in wrong.message
    # Outwards nothing is wrong, nor what rounding explains, nor what the other network may differ by.
    assert found(moved(number, row, side, -inward * 1e-6)) == []
    assert found(moved(number, row, side, inward * 1e-15)) == []
    assert found(moved(number, row, side, inward * 1e-6), like=SINGLE) == []
    assert found(moved(number, row, side, inward * 1e-3), like=SINGLE) != []
    assert found(moved(number, row, side, inward * 1e-6), difference=1e-5) == []
    assert found(moved(number, row, side, inward * 1e-3), difference=1e-5) != []


def test_a_distance_beside_a_smaller_one():
    """The truth is 1: y0 >= 2 on the first box, 3 + (-2) and 3 + (-1) on the second."""
    for distance, wrong in ((1.0, False), (1.0 + 1e-9, True), (-math.inf, False), (math.inf, True), (0.0, False)):
        told = found(replace(HONEST, distance=distance))
        assert bool(told) is wrong
        assert all("a distance from a violation" in each.message for each in told)


def test_a_proof_beside_a_counterexample():
    x = np.array([0.5, 0.25])
    refuting = Claim("Fast-Lip", (), -math.inf, False, Counterexample(x, np.array([9.0, 9.0])))
    (wrong,) = found(HONEST, replace(HONEST, method="IBP", proved=False), refuting)
    assert (wrong.method, wrong.against, wrong.box, wrong.point) == ("CROWN", "Fast-Lip", 1, (0.5, 0.25))
    assert wrong.message == (
        "`CROWN` says `unsat`, but `Fast-Lip` has a counterexample in box 2 of 2, x = [0.5, 0.25] with the output "
        "[9, 9]; one of them is wrong: please report the network and the property."
    )
    # With all proofs beside it.
    assert [each.method for each in found(refuting, HONEST, replace(HONEST, method="IBP"))] == ["CROWN", "IBP"]


def test_counterexamples_are_points_like_any_other():
    """A bound that all other points respect."""
    x = np.array([1.0 + 1e-3, 1.0 + 2e-3])

    def dented(points):
        values = outputs(points)
        values[(points == x).all(1)] -= 0.5
        return values

    claim = Claim("the attack", (), -math.inf, False, Counterexample(x, np.array([1.5, 0.0])))
    assert contradictions([replace(HONEST, proved=False)], SPEC, dented, DOUBLE, 0.0) == []
    rows = [
        each
        for each in contradictions([replace(HONEST, proved=False), claim], SPEC, dented, DOUBLE, 0.0)
        if "row 1" in each.message
    ]
    assert [each.point for each in rows] == [tuple(x)]


def test_long_points_are_shortened_in_the_sentence():
    spec = spec_of(box([0.0] * 50, [1.0] * 50, polytope([[1]], -1.0)))
    claim = Claim("IBP", [(torch.tensor([0.5]).double(), torch.tensor([9.0]).double())], -math.inf, False, None)
    (wrong,) = contradictions([claim], spec, lambda x: torch.from_numpy(x[:, :1]), DOUBLE, 0.0)
    assert "(50 numbers)" in wrong.message
    assert len(wrong.message) < 400
    assert len(wrong.point) == 50
