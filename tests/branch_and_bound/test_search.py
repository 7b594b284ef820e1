"""Branch and bound: the loop with a goal of its own, and verdicts against what dense sampling and intervals say."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from properties import box, polytope, spec_of
from torch import nn

import recurjac_plugin as rj
from recurjac_plugin import Verdict, verify
from recurjac_plugin.branch_and_bound import exclusion_search
from recurjac_plugin.branch_and_bound.bounders import bounder
from recurjac_plugin.branch_and_bound.boxes import BestFirst, Boxes, Disjuncts, Rounds
from recurjac_plugin.branch_and_bound.branching import BRANCHINGS, LargestSmear
from recurjac_plugin.branch_and_bound.exclusion_search import ExclusionSearch
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.branch_and_bound.search import Bounder, BranchAndBound, Goal, Open
from recurjac_plugin.gains.undetermined import positions
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.plugin.model import bounded_model

METHODS = ("RecurJac-Linear+CROWN", "RecurJac", "Fast-Lip", "IBP+RecurJac", "CROWN", "IBP", "CROWN-IBP")


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


# The loop.


class Above(Goal):
    """A function is above a number on a region: a goal that nothing else uses."""

    def __init__(self, number):
        self.number, self.closed = number, []

    def judge(self, boxes, bounds):
        self.closed += boxes.take(bounds > self.number).lower.tolist()
        left = boxes.take(bounds <= self.number)
        left = replace(left, known=Disjuncts(left.known.alive, bounds[bounds <= self.number]))
        sides = left.upper - left.lower
        return Open(left, sides, torch.ones_like(sides), torch.zeros(len(left), dtype=torch.bool))


class LipschitzBounds(Bounder):
    """``f(x) >= f(x0) - L radius`` for ``f(x) = |x_0| + x_1^2`` on the unit box, with L = 3."""

    def __call__(self, boxes):
        x = boxes.center
        return x[:, 0].abs() + x[:, 1].square() - 3 * boxes.radius.amax(1)

    def parts(self, boxes):
        halves = boxes.halves()
        return [halves.take(slice(i, i + 3)) for i in range(0, len(halves), 3)]


def lipschitz_search(number, frontier):
    ends = -torch.ones(1, 2, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    known = Disjuncts(torch.ones(1, 1, dtype=torch.bool), numbers(-math.inf))
    frontier.push(Boxes(torch.zeros(1, dtype=torch.int64), *ends, known))
    least = torch.full((1, 2), 2.0**-6, dtype=torch.float64)
    return BranchAndBound(Above(number), LipschitzBounds(), LargestSmear(least), frontier, torch.tensor([0]))


@pytest.mark.parametrize("order", ["best first", "rounds"])
def test_the_loop_covers_the_region_by_closed_and_stuck_boxes(order):
    """The function is 0 in the middle alone: above -0.1 everywhere, above 0.01 nowhere near the middle."""
    for number, proved in ((-0.1, True), (0.01, False)):
        everywhere = Rounds(lambda boxes: torch.ones(len(boxes), dtype=torch.bool), None)
        search = lipschitz_search(number, BestFirst(4, 1000) if order == "best first" else everywhere)
        while not search.finished:
            assert list(search.step(lambda: False)) == []
        assert search.proved is proved
        for boxes in search.stuck:
            assert bool((boxes.center[:, 0].abs() + boxes.center[:, 1].square() <= 0.01 + 3 * 2.0**-7).all())
        # Cutting makes two of one: a tree whose leaves are the boxes closed or stuck.
        leaves = len(search.goal.closed) + sum(map(len, search.stuck))
        assert search.boxes.tolist() == [2 * leaves - 1]


def test_a_loop_that_is_stopped_goes_on_where_it_was():
    whole, parts = (lipschitz_search(-0.1, BestFirst(8, 1000)) for _ in range(2))
    for search, over in ((whole, lambda: False), (parts, lambda: True)):
        while not search.finished:
            list(search.step(over))
    assert whole.boxes.tolist() == parts.boxes.tolist()
    assert sorted(whole.goal.closed) == sorted(parts.goal.closed)


def test_positions_are_padded_with_other_places():
    mask = torch.tensor([[False, True, False, True], [True, False, False, False]])
    found = positions(mask)
    assert found.shape == (2, 2)
    assert found[0].tolist() == [1, 3]
    assert found[1, 0] == 0
    assert len(set(found[1].tolist())) == 2
    assert positions(mask[:1].expand(3, -1)).tolist() == [[1, 3]]


# Verdicts.


def network(seed, sizes=(2, 8, 8, 2), activation=nn.ReLU, dtype=torch.float64, scale=1.5):
    torch.manual_seed(seed)
    layers = []
    for i, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        layers += [nn.Linear(inputs, outputs)] + [activation()] * (i < len(sizes) - 2)
    net = nn.Sequential(*layers).to(dtype)
    for parameter in net.parameters():
        parameter.data *= scale
    return net


@torch.no_grad()
def values(net, lower, upper, count):
    """Outputs on a grid over a box of two inputs."""
    axes = [torch.linspace(float(low), float(high), count, dtype=torch.float64) for low, high in zip(lower, upper)]
    return net.double()(torch.cartesian_prod(*axes))


@torch.no_grad()
def least_on_cells(net, lower, upper, rows, count=400):
    """Lower bounds of rows by interval arithmetic on every cell of a fine grid: exhaustive, and nothing but sums."""
    edges = [torch.linspace(float(low), float(high), count + 1, dtype=torch.float64) for low, high in zip(lower, upper)]
    low, high = (torch.cartesian_prod(*(edge[part] for edge in edges)) for part in (slice(None, -1), slice(1, None)))
    layers = list(net.double())
    last = layers[-1]
    for layer in layers[:-1]:
        if isinstance(layer, nn.Linear):
            positive, negative = layer.weight.clamp(min=0).T, layer.weight.clamp(max=0).T
            low, high = low @ positive + high @ negative, high @ positive + low @ negative
            low, high = low + layer.bias, high + layer.bias
        else:
            low, high = layer(low), layer(high)  # monotone
    A = rows @ last.weight
    return low @ A.clamp(min=0).T + high @ A.clamp(max=0).T + rows @ last.bias


UNIT = [-1.0, -1.0], [1.0, 1.0]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, lambda: nn.LeakyReLU(0.2)], ids=["relu", "tanh", "leaky"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_verdicts_next_to_the_true_minimum(seed, activation):
    """A hair above it there is a counterexample, below it none; intervals on a fine grid agree where they can."""
    net = network(seed, activation=activation)
    row = torch.randn(1, 2, dtype=torch.float64)
    least = float((values(net, *UNIT, 301) @ row.T).min())
    proved = float(least_on_cells(net, *UNIT, row).min())
    assert proved <= least
    for threshold in (least + 1e-3, least + 1e-9, least - 0.02, proved - 1e-6, least - 2.0):
        result = verify(net, spec_of(box(*UNIT, polytope(row.numpy(), threshold))), attack_seconds=0, timeout=20)
        if threshold < proved:
            assert result.verdict is Verdict.UNSAT
        if threshold >= least:
            assert result.verdict is Verdict.SAT
            with torch.no_grad():
                assert float(net(torch.from_numpy(result.counterexample.x)) @ row[0]) <= threshold + 1e-12
        assert result.lower_bound <= least - threshold + 1e-12
        assert result.verdict in (Verdict.SAT, Verdict.UNSAT)


@pytest.mark.parametrize("branching", BRANCHINGS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh], ids=["relu", "tanh"])
def test_every_method_and_branching_agree(method, branching, activation):
    net = network(3, (2, 6, 5, 2), activation, scale=1.2)
    row = numbers([1.0, -0.5])
    least = float((values(net, *UNIT, 201) @ row.T).min())
    linear_bounds = parse(method).host == "CROWN"
    for threshold, verdict in ((least + 0.01, Verdict.SAT), (least - 0.05, Verdict.UNSAT)):
        spec = spec_of(box(*UNIT, polytope(row.numpy(), threshold)))
        options = {"method": method, "branching": branching, "attack_seconds": 0, "timeout": 30}
        if branching == "crown" and not linear_bounds:
            with pytest.raises(rj.InputError, match="'crown'"):
                verify(net, spec, **options)
            continue
        result = verify(net, spec, **options)
        assert result.verdict is verdict
        assert result.lower_bound <= least - threshold + 1e-12


def random_disjuncts(outputs, count, rows):
    return tuple(
        polytope(np.random.randn(n, outputs), np.random.randn(n) * 0.5 - 0.8)
        for n in np.random.randint(1, rows + 1, count)
    )


def distances(each, outputs):
    """How far outputs are from a violation, with the sign of the worst disjunct."""
    return np.stack([(outputs @ p.A.T - p.b).max(1) for p in each.disjuncts]).min(0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("method", ["RecurJac-Linear+CROWN", "RecurJac", "CROWN"])
def test_several_rows_disjuncts_and_boxes(method, dtype):
    """Random properties: the verdict is what a dense grid says, up to violations that fall between its points."""
    np.random.seed(1)
    verdicts = []
    for seed in range(12):
        net = network(seed, (2, 7, 6, 3), dtype=dtype)
        corners = np.sort(np.random.uniform(-1, 1, (2, 2, 2)), 1)
        spec = spec_of(*(box(low, high, *random_disjuncts(3, 1 + seed % 3, 3)) for low, high in corners))
        result = verify(net, spec, method=method, attack_seconds=0, timeout=20, branching=BRANCHINGS[seed % 3])
        least = min(
            float(distances(each, values(network(seed, (2, 7, 6, 3)), each.lower, each.upper, 201).numpy()).min())
            for each in spec.boxes
        )
        if least <= -1e-4:
            assert result.verdict is Verdict.SAT
        if least > 0.05:
            assert result.verdict is Verdict.UNSAT
        if result.counterexample is not None:
            assert spec.violated(result.counterexample.x, result.counterexample.y)
        assert result.lower_bound <= max(least, 0.0) + 1e-6
        if result.verdict is Verdict.UNSAT:
            assert least > 0
        verdicts.append(result.verdict)
    assert {Verdict.SAT, Verdict.UNSAT} <= set(verdicts)


def test_rows_are_met_together_or_not_at_all():
    """|x0| >= 0.5 with both signs of x0 excluded by other rows: no row alone is ever excluded on the whole box."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    net[0].weight.data, net[0].bias.data = numbers([1.0], [-1.0]), torch.zeros(2, dtype=torch.float64)
    net[2].weight.data, net[2].bias.data = numbers([1.0, 1.0], [1.0, -1.0]), torch.zeros(2, dtype=torch.float64)
    # y = (|x|, x); y0 >= 0.5 and -0.4 <= y1 <= 0.4 is impossible, and with 0.5 in place of 0.4 it is not.
    for reach, verdict in ((0.4, Verdict.UNSAT), (0.5, Verdict.SAT)):
        spec = spec_of(box([-1.0], [1.0], polytope([[-1, 0], [0, 1], [0, -1]], [-0.5, reach, reach])))
        for method in ("RecurJac-Linear+CROWN", "RecurJac", "Fast-Lip", "IBP"):
            assert verify(net, spec, method=method, attack_seconds=0, timeout=10).verdict is verdict, (method, reach)


@pytest.mark.parametrize("method", ["RecurJac-Linear+CROWN", "RecurJac", "IBP"])
def test_sides_without_extent(method):
    net = network(5, (3, 8, 8, 2))
    lower, upper = [-1.0, 0.3, -1.0], [1.0, 0.3, 1.0]
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 201, dtype=torch.float64), numbers(0.3),
                                torch.linspace(-1, 1, 201, dtype=torch.float64))  # fmt: skip
    with torch.no_grad():
        least = float(net(grid)[:, 0].min())
    for threshold, verdict in ((least + 1e-3, Verdict.SAT), (least - 0.05, Verdict.UNSAT)):
        spec = spec_of(box(lower, upper, polytope([[1, 0]], threshold)))
        assert verify(net, spec, method=method, attack_seconds=0, timeout=20).verdict is verdict
    point = spec_of(box([0.1, 0.3, 0.2], [0.1, 0.3, 0.2], polytope([[1, 0]], least - 0.05)))
    assert verify(net, point, method=method, attack_seconds=0, timeout=20).verdict is Verdict.UNSAT


def test_slopes_of_prelu_of_every_kind():
    """A slope of 1 is no kink: its neuron must count once, even where it fills up a list."""
    net = network(7, (2, 8, 6, 2), lambda: nn.PReLU())
    net[1] = nn.PReLU(8).double()
    net[1].weight.data = numbers(-0.5, 0.0, 0.3, 1.0, 1.7, 1.0, -1.0, 0.9)
    net[3] = nn.PReLU(6, 1.4).double()
    row = numbers([1.0, 0.5])
    least = float((values(net, *UNIT, 301) @ row.T).min())
    rj.register()
    try:
        for threshold, verdict in ((least + 1e-3, Verdict.SAT), (least - 0.03, Verdict.UNSAT)):
            spec = spec_of(box(*UNIT, polytope(row.numpy(), threshold)))
            result = verify(net, spec, attack_seconds=0, timeout=20)
            assert result.verdict is verdict
            assert result.lower_bound <= least - threshold + 1e-12
    finally:
        rj.unregister()


# Budget.


def test_the_same_seed_gives_the_same_result():
    net = network(4, (3, 10, 10, 2))
    for threshold in (0.6, -0.2):
        spec = spec_of(box([-1.0] * 3, [1.0] * 3, polytope([[1, -1]], threshold), polytope([[-1, 0.5]], threshold)))
        first, again = (verify(net, spec, seed=3) for _ in range(2))
        assert (first.verdict, first.boxes, first.lower_bound) == (again.verdict, again.boxes, again.lower_bound)
        if first.counterexample is not None:
            assert np.array_equal(first.counterexample.x, again.counterexample.x)


def hard(columns=10, width=40, activation=nn.ReLU, share=0.05):
    """A property that cannot be decided soon: a little below what sampling finds."""
    net = network(0, (columns, width, width, width, 1), activation)
    ends = [-1.0] * columns, [1.0] * columns
    with torch.no_grad():
        least = float(net(torch.rand(20000, columns, dtype=torch.float64) * 2 - 1).min())
    proved = verify(net, spec_of(box(*ends, polytope([[1]], 0.0))), split=False, attack_seconds=0).lower_bound
    assert proved < least
    return net, spec_of(box(*ends, polytope([[1]], share * proved + (1 - share) * least)))


@pytest.mark.parametrize(
    ("method", "activation"), [("RecurJac-Linear+CROWN", nn.ReLU), ("RecurJac", nn.Tanh), ("CROWN", nn.Tanh)]
)
def test_a_deadline_is_kept(method, activation):
    net, spec = hard(activation=activation, share=0.05 if activation is nn.ReLU else 0.2)
    start = time.monotonic()
    result = verify(net, spec, method=method, timeout=1.5)
    assert time.monotonic() - start < 3.0  # of which the search takes less than a second; the machine may be busy
    assert result.verdict is Verdict.TIMEOUT
    assert result.boxes >= 1
    assert math.isfinite(result.lower_bound)


def test_the_bound_rises_and_holds():
    net = network(1, (3, 12, 12, 2))
    row = numbers([1.0, -1.0])
    with torch.no_grad():
        points = torch.rand(200000, 3, dtype=torch.float64) * 2 - 1
        least = float((net(points) @ row.T).min())
        rows = Rows.of(box([0.0], [1.0], polytope(row.numpy(), least - 0.05)), numbers(0.0), 0.0, 0.0)
        model = bounded_model(net, torch.zeros(1, 3, dtype=torch.float64))
        ends = -torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
        for method in ("CROWN", "RecurJac"):
            each = bounder(model, rows, parse(method), (3,), *ends, "jacobian")
            each.batch = 16
            search, bounds = ExclusionSearch(each, *ends, "jacobian"), []
            while len(bounds) < 40 and not search.finished:
                for found in search.step(lambda: False):
                    assert len(found) == 0
                bounds.append(search.bound)
            assert bounds[-1] > bounds[0]
            assert all(before <= after for before, after in itertools.pairwise(bounds))
            assert max(bounds) <= 0.05 + 1e-12
            assert len(bounds) > 2


def test_memory_is_bounded_by_going_depth_first(monkeypatch):
    net, _ = hard(4, 20)
    model = bounded_model(net, torch.zeros(1, 4, dtype=torch.float64))
    ends = -torch.ones(1, 4, dtype=torch.float64), torch.ones(1, 4, dtype=torch.float64)
    with torch.no_grad():
        least = float(net(torch.rand(50000, 4, dtype=torch.float64) * 2 - 1).min())
    rows = Rows.of(box([0.0], [1.0], polytope([[1]], least - 1e-3)), numbers(0.0), 0.0, 0.0)
    waiting = {}
    for most in (1, 1 << 20):
        bound = bounder(model, rows, parse("IBP+RecurJac"), (4,), *ends, "longest")
        bound.batch = 8
        monkeypatch.setattr(exclusion_search, "_WAITING", most * bound.bytes_per_box())
        with torch.no_grad():
            search, most_waiting = ExclusionSearch(bound, *ends, "longest"), 0
            for _ in range(60):
                for _ in search.step(lambda: False):
                    pass
                most_waiting = max(most_waiting, len(search.frontier))
        waiting[most] = most_waiting
    # Halving k times to the bottom leaves 8 boxes at every level.
    assert waiting[1] < waiting[1 << 20] / 2


def test_stopping_between_the_parts_of_a_batch_loses_no_box():
    net, spec = hard(3, 20)
    model = bounded_model(net, torch.zeros(1, 3, dtype=torch.float64))
    ends = -torch.ones(1, 3, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    rows = Rows.of(spec.boxes[0], numbers(0.0), 0.0, 0.0)
    each = bounder(model, rows, parse("CROWN"), (3,), *ends, "longest")
    with torch.no_grad():
        lower = -torch.ones(300, 3, dtype=torch.float64)
        upper = lower + torch.rand(300, 3, dtype=torch.float64) * 2
        boxes = replace(each.first(*ends).take(torch.zeros(300, dtype=torch.int64)), lower=lower, upper=upper)
        boxes = replace(boxes, around=each(boxes).around)
        parts = each.parts(boxes)
    assert sum(map(len, parts)) == 300
    everything = torch.cat([part.upper for part in parts])
    assert sorted(map(tuple, everything.tolist())) == sorted(map(tuple, boxes.upper.tolist()))
    search = ExclusionSearch(each, *ends, "longest")
    search.frontier = BestFirst(each.batch, 1 << 30)
    search.frontier.push(boxes)
    with torch.no_grad():
        list(search.step(lambda: True))
    bounded = len(parts[0])
    assert search.boxes.tolist() == [bounded]
    assert len(search.frontier) >= 300 - bounded
