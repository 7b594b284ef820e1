"""What bounds exclude is cross-examined: with bounds that lie, a violation is found or the contradiction is told."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import RELU, SMALL, recurjac
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import ContradictionError, Verdict, verify
from recurjac_plugin.branch_and_bound import bounders, exclusion
from recurjac_plugin.branch_and_bound.bounders import bounder
from recurjac_plugin.branch_and_bound.boxes import Disjuncts
from recurjac_plugin.branch_and_bound.exclusion_search import ExclusionSearch
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.plugin.model import bounded_model
from recurjac_plugin.tables import on_property
from recurjac_plugin.verification import verdicts
from recurjac_plugin.verification.bounded.bounding import Bounding

ENDS = [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]
# Refined by CROWN on the gains, or by the host; cut by Jacobian bounds, by linear bounds, or by neither.
WAYS = [
    ("RecurJac-Linear+CROWN", nn.ReLU, "jacobian"),
    ("CROWN", nn.ReLU, "crown"),
    ("RecurJac-Linear+CROWN", nn.Tanh, "jacobian"),
    ("RecurJac", nn.Tanh, "jacobian"),
    ("CROWN", nn.Tanh, "longest"),
    ("IBP+RecurJac", nn.Sigmoid, "jacobian"),
    ("IBP", nn.ReLU, "longest"),
]


def network(activation, seed=0):
    """Monotone in every input, so that outputs are smallest at one corner alone."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 1)).double()
    for layer in net[::2]:
        layer.weight.data.abs_()
    net[0].weight.data *= torch.tensor([1.0, -1.0, 1.0], dtype=torch.float64)
    return net


def corner_of(net):
    corners = torch.tensor([*itertools.product((-1.0, 1.0), repeat=3)], dtype=torch.float64)
    with torch.no_grad():
        values = net(corners).squeeze(1)
    return corners[values.argmin()], float(values.min()), float(values.sort().values[1])


def lie(monkeypatch, by=100.0):
    """All lower bounds of rows are raised; the middles of boxes stay as they are."""
    for kind in (bounders.RefiningBounder, bounders.HostBounder):

        def lying(self, boxes, bound=kind.__call__):
            true = bound(self, boxes)
            linear = None if true.linear is None else (true.linear[0], true.linear[1] + by)
            return replace(true, lower=torch.zeros_like(true.lower) + by, linear=linear)

        monkeypatch.setattr(kind, "__call__", lying)


@pytest.mark.parametrize(("method", "activation", "branching"), WAYS)
def test_a_wrong_bound_does_not_hide_a_violation_in_a_corner(method, activation, branching, monkeypatch):
    net = network(activation)
    corner, least, second = corner_of(net)
    spec = spec_of(box(*ENDS, polytope([[1]], least + 0.5 * (second - least))))
    options = {"method": method, "branching": branching, "attack_seconds": 0}
    assert verify(net, spec, **options).verdict is Verdict.SAT
    lie(monkeypatch)
    result = verify(net, spec, **options)
    assert result.verdict is Verdict.SAT
    assert result.counterexample.x.tolist() == corner.tolist()
    above = spec_of(box(*ENDS, polytope([[1]], least - 0.1)))
    assert verify(net, above, **options).verdict is Verdict.UNSAT


class Elsewhere(verdicts.ModelSession):
    """The judge of counterexamples computes another function, which never violates."""

    def __call__(self, x):
        return super().__call__(x) + 1e6


def judged_elsewhere(monkeypatch):
    """No counterexample is confirmed, and the points that are probed do not show that."""
    monkeypatch.setattr(verdicts, "_session", Elsewhere)
    monkeypatch.setattr(Bounding, "_difference", lambda self, box, outputs: 0.0)


@pytest.mark.parametrize(("method", "activation", "branching"), WAYS)
def test_a_bound_and_a_value_that_contradict_each_other_prove_nothing(method, activation, branching, monkeypatch):
    net = network(activation)
    corner, least, second = corner_of(net)
    spec = spec_of(box(*ENDS, polytope([[1]], least + 0.5 * (second - least))))
    judged_elsewhere(monkeypatch)
    options = {"method": method, "branching": branching, "attack_seconds": 0}
    # True bounds exclude nothing there, and leave the question open.
    assert verify(net, spec, timeout=0.5, **options).verdict in (Verdict.UNKNOWN, Verdict.TIMEOUT)
    lie(monkeypatch)
    with pytest.raises(ContradictionError, match="contradict each other") as told:
        verify(net, spec, **options)
    assert f"`{parse(method).name}`" in str(told.value)
    assert str(corner.tolist()) in str(told.value)
    assert "please report" in str(told.value)


def test_violations_in_the_middle_of_an_excluded_box_are_seen_for_every_disjunct(monkeypatch):
    """The middle violates the second of two disjuncts, by more than the corner of the first."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data, net[0].bias.data = torch.tensor([[1.0], [-1.0]]).double(), torch.zeros(2).double()
    net[2].weight.data, net[2].bias.data = torch.tensor([[1.0, 1.0], [2.0, 0.0]]).double(), torch.zeros(2).double()
    # y = (|x|, 2 max(x, 0)): y0 is 0 in the middle alone.
    spec = spec_of(box([-1.0], [1.0], polytope([[0, 1]], -9.0), polytope([[1, 0]], 0.01)))
    lie(monkeypatch)
    assert verify(net, spec, attack_seconds=0).verdict is Verdict.SAT
    judged_elsewhere(monkeypatch)
    with pytest.raises(ContradictionError, match=r"x = \[0\.0\]"):
        verify(net, spec, attack_seconds=0)


def searches(net, threshold, method="RecurJac-Linear+CROWN"):
    like = torch.zeros((), dtype=torch.float64)
    rows = Rows.of(box(*ENDS, polytope([[1]], threshold)), like, 0.0, 0.0)
    model = bounded_model(net, torch.zeros(1, 3, dtype=torch.float64))
    ends = tuple(torch.tensor([end], dtype=torch.float64) for end in ENDS)
    each = bounder(model, rows, parse(method), (3,), *ends, "jacobian")
    return ExclusionSearch(each, *ends, "jacobian")


@torch.no_grad()
def run(search):
    points = []
    while not search.finished:
        points += [point for batch in search.step(lambda: False) for point in batch.tolist()]
    return points


def test_what_linear_bounds_cut_off_is_examined():
    """Numbers that exclude nothing beside linear bounds that exclude the corner with the violation."""
    net = network(nn.ReLU)
    corner, least, second = corner_of(net)
    search = searches(net, least + 0.5 * (second - least))
    bound = search.bounder

    class CutsOff:
        def __getattr__(self, name):
            return getattr(bound, name)

        def __call__(self, boxes):
            true = bound(boxes)
            return replace(true, linear=(true.linear[0], true.linear[1] + 0.9 * (second - least)))

    search.bounder = CutsOff()
    assert corner.tolist() in run(search)
    with pytest.raises(ContradictionError):
        search.goal.require_consistent()
    honest = searches(net, least + 0.5 * (second - least))
    run(honest)
    honest.goal.require_consistent()


def test_what_was_excluded_on_a_larger_box_is_examined_on_its_parts():
    net = network(nn.ReLU)
    search = searches(net, 1e6)  # violated everywhere
    boxes = search.frontier.pop()
    nothing = Disjuncts(torch.zeros(1, 1, dtype=torch.bool), boxes.known.bound)
    with torch.no_grad():
        left = search.goal.judge(replace(boxes, known=nothing), search.bounder(boxes))
    assert len(left.boxes) == 0
    assert [point.tolist() for point in left.points] == [boxes.center.tolist()]
    with pytest.raises(ContradictionError):
        search.goal.require_consistent()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_rounding_is_no_contradiction(activation):
    """Thresholds within rounding of the minimum, where it decides what is excluded and what is met."""
    for seed in range(2):
        net = network(activation, seed)
        _, least, _ = corner_of(net)
        for shift in (-1e-11, -1e-13, -1e-15, 0.0, 1e-15, 1e-13, 1e-11):
            spec = spec_of(box(*ENDS, polytope([[1]], least + shift * abs(least))))
            result = verify(net, spec, attack_seconds=0, timeout=10)
            assert result.verdict is not Verdict.UNSAT or shift < 0
            assert result.verdict is not Verdict.SAT or shift >= -1e-14


def test_few_corners_of_many_excluded_boxes_are_evaluated(monkeypatch):
    """Those nearest to the threshold: the violation is in one box of many."""
    monkeypatch.setattr(exclusion, "_EXAMINED", 2)
    net = network(nn.ReLU)
    corner, least, second = corner_of(net)
    search = searches(net, least + 0.1 * (second - least))
    bound, evaluated = search.bounder, []
    grid = torch.linspace(-1, 1, 6, dtype=torch.float64)
    lower = torch.cartesian_prod(grid[:-1], grid[:-1], grid[:-1])
    first = search.frontier.pop()
    boxes = replace(first.take(torch.zeros(len(lower), dtype=torch.int64)), lower=lower, upper=lower + 0.4)
    evaluate = bound.evaluate
    monkeypatch.setattr(bound, "evaluate", lambda x: evaluated.append(len(x)) or evaluate(x), raising=False)
    with torch.no_grad():
        true = bound(boxes)
        left = search.goal.judge(boxes, replace(true, lower=torch.full_like(true.lower, 1.0)))
    assert len(left.boxes) == 0
    assert evaluated == [2]
    found = torch.cat(left.points)  # the clearest first
    assert np.allclose(found[0].numpy(), corner.numpy())


def test_the_command_ends_with_exit_code_1(monkeypatch):
    def contradicted(*_, **__):
        raise ContradictionError("A bound and a value of the network contradict each other: please report it.")

    monkeypatch.setattr(on_property, "verify", contradicted)
    told = recurjac("compare", RELU, SMALL, "--methods", "CROWN", code=1)
    assert told.stdout == ""
    assert told.stderr == "error: A bound and a value of the network contradict each other: please report it.\n"
    assert isinstance(ContradictionError(""), rj.RecurJacError)
