"""Properties of many boxes: bounded in batches, with the verdicts of each box alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from properties import box, polytope, spec_of
from torch import nn

from recurjac_plugin import Verdict, verify
from recurjac_plugin.verification.bounded import screening


def network(activation, seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(2, 8), activation(), nn.Linear(8, 8), activation(), nn.Linear(8, 2))


def boxes_of(net, seed, count=40, gap=0.02):
    """Small boxes, each with two disjuncts: one row just below what a grid finds, and two rows together."""
    random = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        lower = random.uniform(-1, 0.9, 2)
        upper = lower + random.uniform(0.01, 0.1, 2)
        grid = np.stack(np.meshgrid(*np.linspace(lower, upper, 9).T), -1).reshape(-1, 2)
        with torch.no_grad():
            y = net(torch.from_numpy(grid).float()).double().numpy()
        one, other = [1.0, -1.0], [0.0, 1.0]
        least = (y[:, 0] - y[:, 1]).min()
        both = polytope([one, other], [least + 1.0, y[:, 1].min() - gap])
        made.append(box(lower, upper, polytope([one], [least - gap]), both))
    return made


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("seed", range(3))
def test_verdicts_are_those_of_the_boxes(activation, dtype, seed):
    net = network(activation, seed)
    boxes = boxes_of(net, seed)
    net = net.to(dtype)
    assert verify(net, spec_of(*boxes)).verdict is Verdict.UNSAT
    result = verify(net, spec_of(*boxes), attack_seconds=0)
    assert (result.verdict, result.boxes) == (Verdict.UNSAT, len(boxes))
    alone = min(verify(net, spec_of(each), attack_seconds=0).lower_bound for each in boxes[:5])
    assert 0 < result.lower_bound <= alone + 1e-12
    wrong = boxes_of(net.float(), seed, gap=-0.001)[7]
    found = verify(net.to(dtype), spec_of(*boxes[:7], wrong, *boxes[8:]), attack_seconds=0)
    assert found.verdict is Verdict.SAT
    assert wrong.contains(found.counterexample.x)


@pytest.mark.parametrize("seed", range(4))
def test_no_box_with_a_violation_is_closed(seed, monkeypatch):
    """Thresholds on both sides of what a fine grid finds: nothing that a point of the grid violates is left out."""
    net = network(nn.ReLU, seed)
    boxes = boxes_of(net, seed, gap=-0.003)[:20] + boxes_of(net, seed + 10, gap=0.01)[:20]
    left = []

    class Kept(screening.Screening):
        def run(self):
            yield from (each[:0] for each in super().run())  # without its points: nothing ends early
            left.extend(self.left)

    monkeypatch.setattr("recurjac_plugin.verification.strategy.Screening", Kept)
    verify(net, spec_of(*boxes), attack_seconds=0, split=False)
    kept = {each.lower.tobytes(): each for each in left}
    assert 20 <= len(kept) < 40
    for each in boxes[:20]:
        assert any(np.array_equal(p.A, q.A) for p in each.disjuncts[:1] for q in kept[each.lower.tobytes()].disjuncts)


def test_few_that_are_closed_end_it(monkeypatch):
    net, counts = network(nn.ReLU, 0), []

    class Counted(screening.Screening):
        def run(self):
            yield from super().run()
            counts.append(self.count)

    monkeypatch.setattr(screening, "_ELEMENTS", 1)
    monkeypatch.setattr("recurjac_plugin.verification.strategy.Screening", Counted)
    violated = polytope([[1.0, 0.0]], [1e9])
    boxes = [box([-1, -1], [1, 1], violated)] * 100
    assert verify(net, spec_of(*boxes), attack_seconds=0).verdict is Verdict.SAT
    monkeypatch.setattr("recurjac_plugin.verification.strategy.check", lambda *_: None)
    verify(net, spec_of(*boxes), attack_seconds=0, split=False, timeout=30)
    assert counts[-1] == 48


def test_many_different_rows_are_left_to_the_search():
    net = network(nn.ReLU, 1)
    random = np.random.default_rng(0)
    boxes = [box([-1, -1], [1, 1], polytope([random.standard_normal(2)], [-1e3])) for _ in range(70)]
    assert screening.Pairs.of(boxes) is None
    assert verify(net, spec_of(*boxes)).verdict is Verdict.UNSAT


def test_bounds_that_are_not_proven_are_made_box_by_box():
    net = network(nn.ReLU, 2)
    boxes = boxes_of(net, 2)[:20]
    assert verify(net, spec_of(*boxes), rigorous=False).verdict is Verdict.UNSAT
