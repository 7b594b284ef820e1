"""Boxes that cannot be bounded: cut where that helps, refused as before where it cannot."""

from __future__ import annotations

import math

import pytest
import torch
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import Verdict, verify
from recurjac_plugin.branch_and_bound import bounders, search
from recurjac_plugin.branch_and_bound.boxes import BestFirst, Boxes, Directions, Disjuncts, Rounds
from recurjac_plugin.branch_and_bound.branching import LargestSmear, largest_smear_above_zero
from recurjac_plugin.branch_and_bound.entry_signs import JacobianBounder, Signs
from recurjac_plugin.branch_and_bound.search import Bounder, BranchAndBound, Goal, Open
from recurjac_plugin.host import IS_03


def refusal(reason="a part"):
    return rj.UnsupportedError("The network", [reason], "Nothing to be done.")


class Above(Goal):
    """A function is above a number, by lower bounds of it."""

    def __init__(self, number):
        self.number, self.closed = number, []

    def judge(self, boxes, bounds):
        self.closed += [*zip(boxes.lower.tolist(), boxes.upper.tolist())]
        at = (bounds <= self.number).nonzero().squeeze(1)
        left = boxes.take(at)
        for each in zip(left.lower.tolist(), left.upper.tolist()):
            self.closed.remove(each)
        sides = left.upper - left.lower
        return Open(left, sides, torch.ones_like(sides), torch.zeros(len(left), dtype=torch.bool))


class Refusing(Bounder):
    """``f(x) >= f(x0) - 2 sum_r radius_r`` for ``f(x) = |x_0| + |x_1|``, where `refuses(boxes)` says so not at all."""

    def __init__(self, refuses, size=64):
        self.refuses, self.size, self.calls = refuses, size, []

    def __call__(self, boxes):
        self.calls.append(len(boxes))
        if bool(self.refuses(boxes).any()):
            raise refusal()
        return boxes.center.abs().sum(1) - boxes.radius.sum(1)

    def parts(self, boxes):
        halves = boxes.halves()
        return [halves.take(slice(i, i + self.size)) for i in range(0, len(halves), self.size)]


def searched(bounder, number, order="best first", steps=3000, least=2.0**-8):
    ends = -torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    known = Disjuncts(torch.ones(1, 1, dtype=torch.bool), torch.tensor([-math.inf], dtype=torch.float64))
    everything = Rounds(lambda boxes: torch.ones(len(boxes), dtype=torch.bool), None)
    frontier = BestFirst(64, 10**6) if order == "best first" else everything
    frontier.push(Boxes(torch.zeros(1, dtype=torch.int64), *ends, known))
    branching = LargestSmear(torch.full((1, 2), least, dtype=torch.float64))
    found = BranchAndBound(Above(number), bounder, branching, frontier, torch.tensor([0]))
    for _ in range(steps):
        if found.finished:
            break
        assert list(found.step(lambda: False)) == []
    assert found.finished
    return found


def area(boxes):
    return sum(math.prod(u - l for l, u in zip(*ends)) for ends in boxes)


def wide(boxes):
    return boxes.radius.amax(1) > 0.2


def over_the_diagonal(boxes):
    return (
        (boxes.lower[:, 0] <= boxes.upper[:, 1])
        & (boxes.upper[:, 0] >= boxes.lower[:, 1])
        & (boxes.radius[:, 0] > 0.05)
    )


@pytest.mark.parametrize("order", ["best first", "rounds"])
@pytest.mark.parametrize("refuses", [wide, over_the_diagonal], ids=["wide", "over the diagonal"])
def test_refused_boxes_are_cut_until_they_are_bounded(refuses, order):
    found = searched(Refusing(refuses), -0.01, order)
    assert found.proved
    assert found.bounded
    assert "a part" in str(found.refusal)
    assert area(found.goal.closed) == pytest.approx(4.0)
    assert found.boxes.tolist() == [2 * len(found.goal.closed) - 1]  # a tree: refused boxes count as bounded once
    never = searched(Refusing(lambda boxes: torch.zeros(len(boxes), dtype=torch.bool)), -0.01, order)
    assert never.refusal is None
    assert len(never.goal.closed) <= len(found.goal.closed)


def test_what_is_refused_however_small_is_stuck_and_nothing_is_proved():
    def around_a_point(boxes):
        return ((boxes.lower <= 0.3) & (boxes.upper >= 0.3)).all(1)

    found = searched(Refusing(around_a_point), -0.01)
    assert not found.proved
    (stuck,) = found.stuck
    assert bool(around_a_point(stuck).all())
    assert bool((stuck.upper - stuck.lower <= 2.0**-8).all())
    assert area(found.goal.closed) == pytest.approx(4.0, abs=1e-4)


def test_the_boxes_at_fault_are_found_by_halves():
    bounder = Refusing(
        lambda boxes: (boxes.lower[:, 0] <= 0.3) & (boxes.upper[:, 0] >= 0.3) & (boxes.radius[:, 0] > 0.01)
    )
    searched(bounder, -0.005)
    largest = max(bounder.calls)
    assert largest > 16
    # One by one each of these batches would cost as many calls as it has boxes.
    assert len(bounder.calls) < sum(bounder.calls) / 2


@pytest.mark.parametrize("number", [-0.01, 5.0])
def test_a_refusal_that_holds_everywhere_ends_the_search_at_once(number):
    bounder = Refusing(lambda boxes: torch.ones(len(boxes), dtype=torch.bool))
    with pytest.raises(rj.UnsupportedError, match="Nothing to be done"):
        searched(bounder, number)
    assert len(bounder.calls) == 1 + len(search._PROBED)


def test_too_many_refusals_end_the_search(monkeypatch):
    monkeypatch.setattr(search, "_REFUSALS", 20)
    with pytest.raises(rj.UnsupportedError, match="a part"):
        searched(Refusing(lambda boxes: boxes.radius[:, 0] > 0.03), -0.01)
    monkeypatch.setattr(search, "_REFUSALS", 10**6)
    assert searched(Refusing(lambda boxes: boxes.radius[:, 0] > 0.03), -0.01).proved


def test_other_errors_are_no_refusals():
    class Broken(Refusing):
        def __call__(self, boxes):
            raise rj.InputError("The region is no region.")

    with pytest.raises(rj.InputError, match="no region"):
        searched(Broken(wide), -0.01)


def test_signs_of_entries_are_searched_in_the_same_way():
    """The derivative of ``x^2`` on [1, 3], where wide boxes are refused."""
    calls = []

    def bounds(x, C):
        low, high = x.ptb.x_L, x.ptb.x_U
        calls.append(len(low))
        if bool((high - low > 0.6).any()):
            raise refusal()
        return (2 * low).unsqueeze(1) - 1.5, (2 * high).unsqueeze(1) + 1.5

    class Met:
        can_rise, can_fall = torch.ones(1, 1, 1, dtype=torch.bool), torch.zeros(1, 1, 1, dtype=torch.bool)
        refuted = torch.zeros(1, 1, 1, dtype=torch.bool)

        def meet(self, points, index):
            return 2 * points.unsqueeze(1)

    rows = torch.ones(1, 1, 1, dtype=torch.float64)
    goal = Signs(torch.zeros(1, 1, 1, dtype=torch.int8), rows.bool(), Met(), torch.Generator().manual_seed(0))
    ends = torch.ones(1, 1, dtype=torch.float64), 3 * torch.ones(1, 1, dtype=torch.float64)
    flags = torch.zeros(1, 1, 1, dtype=torch.bool)
    found = BranchAndBound(
        goal, JacobianBounder(bounds, rows, (1,), 8, math.inf), largest_smear_above_zero, Rounds(goal.is_open, None),
        torch.ones(1, dtype=torch.int64),
    )  # fmt: skip
    whole = Boxes(torch.zeros(1, dtype=torch.int64), *ends, Directions(flags, flags))
    found.branch(Open(whole, ends[1] - ends[0], torch.ones_like(ends[0]), torch.zeros(1, dtype=torch.bool)))
    while not found.finished:
        list(found.step(lambda: False))
    assert found.refusal is not None
    assert goal.sign.tolist() == [[[1]]]


# Verdicts.


def network(activation, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 6), activation(), nn.Linear(6, 6), activation(), nn.Linear(6, 1)).double()


@pytest.mark.parametrize(
    ("method", "activation"),
    [("RecurJac-Linear+CROWN", nn.ReLU), ("RecurJac", nn.Tanh), ("IBP+RecurJac", nn.ReLU), ("CROWN", nn.Tanh)],
)
def test_verdicts_where_wide_boxes_are_refused(method, activation, monkeypatch):
    net = network(activation)
    axis = torch.linspace(-1, 1, 201, dtype=torch.float64)
    with torch.no_grad():
        least = float(net(torch.cartesian_prod(axis, axis)).min())
    refused = []
    for kind in (bounders.RefiningBounder, bounders.HostBounder):

        def refusing(self, boxes, bound=kind.__call__):
            if bool((boxes.radius.amax(1) > 0.3).any()):
                refused.append(len(boxes))
                raise refusal()
            return bound(self, boxes)

        monkeypatch.setattr(kind, "__call__", refusing)
    for threshold, verdict in ((least + 0.01, Verdict.SAT), (least - 0.02, Verdict.UNSAT)):
        spec = spec_of(box([-1.0, -1.0], [1.0, 1.0], polytope([[1]], threshold)))
        result = verify(net, spec, method=method, attack_seconds=0, timeout=30)
        assert result.verdict is verdict
        assert result.lower_bound <= least - threshold + 1e-9
    assert refused
    # Where boxes are not cut there is no answer, and the refusal is the reason.
    with pytest.raises(rj.UnsupportedError, match="a part"):
        verify(net, spec, method=method, split=False, attack_seconds=0)


class Logarithm(nn.Module):
    """``log(|x| - x / 2 + 1 / 20)``: positive inside, but not as intervals see it on the whole of [-1, 1]."""

    def forward(self, x):
        return (x.abs() - 0.5 * x + 0.05).log()


class Quotient(nn.Module):
    """``1 / (|x| - x / 2 + 1 / 20)``."""

    def forward(self, x):
        return 1 / (x.abs() - 0.5 * x + 0.05)


RECIPROCAL = pytest.mark.skipif(IS_03, reason="auto_LiRPA 0.3 gives reciprocals of doubles bounds in float32")


@pytest.mark.parametrize(
    ("net", "bound"), [(Logarithm(), math.log(0.05)), pytest.param(Quotient(), 1 / 1.55, marks=RECIPROCAL)]
)
def test_domains_that_only_wide_boxes_seem_to_leave(net, bound):
    for threshold, verdict in ((bound - 0.01, Verdict.UNSAT), (bound + 0.01, Verdict.SAT)):
        spec = spec_of(box([-1.0], [1.0], polytope([[1]], threshold)))
        result = verify(net.double(), spec, method="IBP+RecurJac", attack_seconds=0, timeout=20)
        assert result.verdict is verdict


class Pole(nn.Module):
    """``1 / x``."""

    def forward(self, x):
        return 1 / x


@RECIPROCAL
def test_a_pole_inside_is_never_excluded_but_violations_beside_it_are_found():
    for threshold, verdicts in ((-5.0, {Verdict.SAT}), (-1e30, {Verdict.SAT, Verdict.UNKNOWN})):
        spec = spec_of(box([-1.0], [1.5], polytope([[1]], threshold)))
        result = verify(Pole().double(), spec, method="IBP+RecurJac", attack_seconds=0, timeout=20)
        assert result.verdict in verdicts
    away = spec_of(box([0.5], [1.5], polytope([[1]], 0.6)))
    assert verify(Pole().double(), away, method="IBP+RecurJac", attack_seconds=0).verdict is Verdict.UNSAT


def test_what_the_whole_network_is_refused_for_ends_a_verification_at_once(monkeypatch):
    calls = []

    def refuse(self, boxes):
        calls.append(len(boxes))
        raise refusal("an operator")

    for kind in (bounders.RefiningBounder, bounders.HostBounder):
        monkeypatch.setattr(kind, "__call__", refuse)
    spec = spec_of(box([-1.0, -1.0], [1.0, 1.0], polytope([[1]], -9.0)))
    for activation in (nn.ReLU, nn.Tanh):
        calls.clear()
        with pytest.raises(rj.UnsupportedError, match=r"an operator\. Nothing to be done"):
            verify(network(activation), spec, attack_seconds=0)
        assert calls == [1] * (1 + len(search._PROBED))
