"""Small piecewise-linear networks, of which everything is known exactly: bounds hold, and verdicts are right."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import pytest
import torch
from exact import Cell, ExactNetwork, Linear, TwoSlopes, exact_network, least_where
from exact_trials import ExactTrial, check_bounds, draw_exact, questions, wrong
from hypothesis import event, given, settings
from hypothesis import strategies as st
from oracle import jacobians
from random_graphs import Generator
from strategies import exact_trials
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin.host import IS_03

pytestmark = pytest.mark.filterwarnings("ignore")  # what the host says of odd networks


def test_two_cells_by_hand():
    """``relu(x + y)`` on [-1, 3] x [0, 1]: 0 below the line, where ``x <= -y``."""
    layer, last = nn.Linear(2, 1).double(), nn.Linear(1, 1).double()
    for each in (layer, last):
        nn.init.ones_(each.weight)
        nn.init.zeros_(each.bias)
    network = ExactNetwork((Linear(layer), TwoSlopes(0.0, 1.0), Linear(last)))
    low, high = torch.tensor([-1.0, 0.0]).double(), torch.tensor([3.0, 1.0]).double()
    truth = network.truth(low, high)
    assert {jacobian[0] for jacobian in truth.jacobians} == {(0, 0), (1, 1)}
    assert (truth.lower, truth.upper, truth.constant(0)) == ((0,), (4,), 2)
    assert sorted(len(cell.corners) for cell in truth.cells) == [3, 4]
    assert least_where(truth.cells, 0, 0, -0.5) is None and least_where(truth.cells, 0, 0, 0.0) == 0


def test_a_cut_is_exact():
    cell = Cell(((0, 0, 1), (3, 0, 1), (3, 3, 1), (0, 3, 1)), (), 0)
    below, above = cell.split((7, 0, -2))  # x = 2 / 7
    assert below is not None and above is not None
    assert {p for p in below.corners if p[0]} == {(2, 0, 7), (2, 21, 7)}
    assert cell.split((1, 0, 0)) == (None, cell) and cell.split((-1, 0, 0)) == (cell, None)


@pytest.mark.parametrize("seed", range(20))
def test_the_truth_is_what_autograd_finds(seed):
    """Every sampled Jacobian is one of the exact ones, and sampled outputs lie between the exact extremes."""
    choices = Generator(seed)
    trial = draw_exact(choices, 1, single=False, plain=True)
    (truth,) = trial.truths()
    low, high = (end[0] for end in trial.ends)
    points = low + torch.rand(200, 1, 2, dtype=torch.float64) * (high - low)
    net = trial.network.module()
    known = torch.tensor([[[*map(float, row)] for row in each] for each in truth.jacobians], dtype=torch.float64)
    distance = (jacobians(net, points)[:, 0, None] - known).abs().amax((2, 3)).amin(1)
    assert float(distance.max()) <= 1e-12 * max(1.0, float(known.abs().max()))
    y = net(points[:, 0])
    ends = [torch.tensor([*map(float, end)], dtype=torch.float64) for end in (truth.lower, truth.upper)]
    assert bool((y >= ends[0] - 1e-12).all() & (y <= ends[1] + 1e-12).all())


def test_weights_of_any_size_are_exact():
    """The same network with its first layer scaled by a power of two, and the last one's scale taken back."""
    ends = torch.tensor([-1.0, -1.0]).double(), torch.tensor([1.0, 0.5]).double()
    one, other = (exact_network(("relu",), (4,), 1, 3, torch.float64, scale=s) for s in (1.0, 2.0**100))
    assert set(one.truth(*ends).jacobians) == set(other.truth(*ends).jacobians)


# What the package says of them.


def require_bounds(examples: int, rigorous: bool, plain: bool) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=examples)
    @given(exact_trials(3, plain), st.sampled_from(rj.METHODS), st.sampled_from(rj.METHODS))
    def hold(trial: ExactTrial, first: str, second: str) -> None:
        if not trial.finite:
            return
        allowed = Fraction(0 if rigorous else 1e-4 if trial.single else 1e-9)
        prefix = "" if rigorous else "IBP+"
        try:
            for what, escapes in check_bounds(trial, (first, prefix + second), rigorous):
                outside = [float(escape / size) for escape, size in escapes if escape > allowed * size]
                assert not outside, (what, outside, trial)
                seen["bounded"] += 1
        except rj.RecurJacError:
            event("refused")
            seen["refused"] += 1

    hold()
    assert seen["bounded"] >= 2 * examples, seen


def test_bounds_contain_everything():
    require_bounds(25, rigorous=False, plain=True)


def test_rigorous_bounds_contain_everything_exactly():
    """Whatever the weights' size, the centre's distance and the type: nothing is outside, by however little."""
    require_bounds(45, rigorous=True, plain=False)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_many_rigorous_bounds(plain):
    require_bounds(1500, rigorous=True, plain=plain)


def require_verdicts(examples: int, most: int, plain: bool) -> None:
    """Ask for verdicts on random networks; with so many thresholds for each, around the exact minimum."""
    seen: Counter[str] = Counter()

    @settings(max_examples=examples)
    @given(exact_trials(1, plain), st.randoms(use_true_random=False))
    def hold(trial: ExactTrial, random) -> None:
        if not trial.finite:
            return
        (truth,) = trial.truths()
        asked = [*questions(trial, truth)]
        for question in random.sample(asked, min(most, len(asked))):
            module, spec = trial.network.module(), question.spec(trial)
            try:
                result = rj.verify(module, spec, timeout=0.5, attack_seconds=0.02)
            except rj.RecurJacError:
                seen["refused"] += 1
                event("refused")
                return
            seen[result.verdict.value] += 1
            event(result.verdict.value)
            assert wrong(trial, question, result) is None, json.dumps([repr(trial), repr(question), result.lower_bound])

    hold()
    assert seen["unsat"] >= examples // 4 and seen["sat"] >= examples // 4, seen


def test_no_verdict_is_wrong():
    require_verdicts(25, 3, plain=True)


def test_no_verdict_is_wrong_where_weights_are_extreme_or_the_centre_is_far_away():
    require_verdicts(20, 3, plain=False)


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_many_verdicts(plain):
    require_verdicts(400, 8, plain)


@pytest.mark.skipif(IS_03, reason="0.3 has no maximum of two tensors")
@pytest.mark.parametrize("method", ["CROWN", "RecurJac-Linear+CROWN"])
def test_a_maximum_in_a_batch_of_boxes_is_not_counted_twice(method):
    """The network on which every proof of a batch of boxes with a Max in it was once in doubt."""
    trial = ExactTrial(("max",), (3,), 2, 793600, False, 0, 8, (-1.6,))
    (truth,) = trial.truths()
    for question in questions(trial, truth, (0.0, 1e-9, 1e-4)):
        result = rj.verify(trial.network.module(), question.spec(trial), method=method, timeout=1, attack_seconds=0.02)
        assert wrong(trial, question, result) is None
