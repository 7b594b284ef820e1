"""Fixing before cutting: sound for every disjunct, to the end, and what comes to rest waits whole."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from properties import box, polytope, spec_of
from torch import nn

from recurjac_plugin import Verdict, verify
from recurjac_plugin.branch_and_bound.bounders import bounder
from recurjac_plugin.branch_and_bound.exclusion_search import ExclusionSearch
from recurjac_plugin.branch_and_bound.goals import Rows
from recurjac_plugin.jacobian.methods import parse
from recurjac_plugin.plugin.model import bounded_model

INPUTS = 24  # more than are cut unasked
ENDS = [-1.0] * INPUTS, [1.0] * INPUTS


def opposite(activation, dtype, seed=0):
    """Two outputs: the first rises with every input, the second falls."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, 16), activation(), nn.Linear(16, 8), activation(), nn.Linear(8, 2)).to(dtype)
    for layer in net[::2]:
        layer.weight.data.abs_()
    net[4].weight.data[1] *= -1
    return net


def random_network(seed, dtype):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(INPUTS, 12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3))
    return net.to(dtype)


def values(net, x):
    with torch.no_grad():
        return net.double()(x.double())


def search_of(net, disjuncts, ends=ENDS, fixing=True, method="RecurJac-Linear+CROWN"):
    rows = Rows.of(box(*ends, *disjuncts), torch.zeros(1, dtype=torch.float64), 0.0, 0.0)
    lower, upper = (torch.tensor([end], dtype=torch.float64) for end in ends)
    model = bounded_model(net.double(), torch.zeros_like(lower))
    return ExclusionSearch(
        bounder(model, rows, parse(method), (len(ends[0]),), lower, upper, "jacobian"), lower, upper, "jacobian", fixing
    )


def fixed(search):
    """Fixes to the end."""
    with torch.no_grad():
        while not search.finished:
            assert not [*search.step(lambda: False)]
    return search


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_disjuncts_of_opposite_directions_are_proved_without_a_cut(activation, dtype):
    """The smallest outputs lie in opposite corners, known exactly: no face holds both."""
    net = opposite(activation, dtype)
    corner = torch.tensor([[-1.0], [1.0]]).expand(2, INPUTS)
    least = values(net, corner).diagonal()
    net = net.to(dtype)
    for room, verdict in ((-1e-3, Verdict.UNSAT), (1e-3, Verdict.UNKNOWN)):
        disjuncts = [polytope([row], [float(b) + room]) for row, b in zip(([1, 0], [0, 1]), least)]
        result = verify(net, spec_of(box(*ENDS, *disjuncts)), split=False, attack_seconds=0)
        assert result.verdict in (verdict, Verdict.SAT if room > 0 else verdict)
        assert result.lower_bound <= -room + 1e-6
        assert (result.lower_bound > 0) == (room < 0)
    both = spec_of(box(*ENDS, polytope([[1, 0], [0, 1]], least.tolist())))
    together = verify(net, both, split=False, attack_seconds=0.5)
    assert together.verdict is not Verdict.SAT  # one conjunction: both corners at once


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("seed", range(6))
def test_what_is_left_holds_every_violation_that_ascent_finds(seed, dtype):
    """Descent on every disjunct from many points: its bound holds there, and that on some box of its own."""
    net = random_network(seed, dtype)
    rows = ([1, -1, 0], [0, 1, -1], [-1, 0, 1])
    middle = values(net, torch.zeros(1, INPUTS))[0]
    disjuncts = [polytope([row], [float(torch.tensor(row).double() @ middle) - 0.15]) for row in rows]
    search = fixed(search_of(net, disjuncts, ([-0.3] * INPUTS, [0.3] * INPUTS)))
    for d, each in enumerate(disjuncts):
        boxes = [
            (b.lower[i], b.upper[i], b.known.bound[i])
            for b in search.left
            for i in range(len(b))
            if b.known.alive[i, d]
        ]
        x = torch.rand(64, INPUTS, dtype=torch.float64) * 0.6 - 0.3
        A, b = torch.from_numpy(each.A).double(), torch.from_numpy(each.b).double()
        for _ in range(60):
            x.requires_grad_(True)
            value = (net.double()(x) @ A.T - b).squeeze(1)
            (gradient,) = torch.autograd.grad(value.sum(), x)
            x = (x - 0.05 * gradient.sign()).detach().clamp(-0.3, 0.3)
        least = float((values(net, x) @ A.T - b).min())
        assert search.bound <= least + 1e-9
        if least <= 0:
            assert boxes
        for lower, upper, bound in boxes:
            assert float(bound) <= least + 1e-9  # over the whole region, though the box is a face of it
            inside = lower + (upper - lower) * torch.rand(256, INPUTS, dtype=torch.float64)
            assert float((values(net, inside) @ A.T - b).min()) >= float(bound) - 1e-9
            moved = torch.maximum(torch.minimum(x, upper), lower)
            # Moving a point onto the face makes the row no larger.
            assert bool((values(net, moved) @ A.T <= values(net, x) @ A.T + 1e-9).all())


@pytest.mark.parametrize("seed", range(4))
def test_small_networks_agree_with_all_their_corners_and_kinks(seed):
    """One hidden layer of two neurons: the least of a row lies at a corner or on an edge's kink; all are listed."""
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2)).double()
    corners = torch.tensor([*itertools.product((-1.0, 1.0), repeat=4)], dtype=torch.float64)
    points = [corners]
    for i, j in itertools.combinations(range(16), 2):
        if int((corners[i] != corners[j]).sum()) == 1:
            steps = torch.linspace(0, 1, 2001, dtype=torch.float64).unsqueeze(1)
            points.append(corners[i] + (corners[j] - corners[i]) * steps)
    least = values(net, torch.cat([*points, torch.rand(20000, 4).double() * 2 - 1])).amin(0)
    for room in (-0.02, 0.02):
        disjuncts = [polytope([row], [float(b) + room]) for row, b in zip(([1, 0], [0, 1]), least)]
        search = search_of(net, disjuncts, ([-1.0] * 4, [1.0] * 4))
        with torch.no_grad():
            points = [p for _ in range(300) if not search.finished for p in search.step(lambda: False)]
            search.resume()
            while not search.finished and not points and int(search.boxes) < 20000:
                points += [*search.step(lambda: False)]
        assert bool(points) == (room > 0)
        assert search.proved == (room < 0)


def test_what_comes_to_rest_is_left_whole_until_it_is_resumed():
    net = random_network(3, torch.float64)
    least = float(values(net, torch.rand(4096, INPUTS) * 2 - 1)[:, 0].min())
    search = fixed(search_of(net, [polytope([[1, 0, 0]], [least - 0.05])]))
    assert search.finished and search.aside and not search.proved
    (left,) = search.left
    assert len(left) == 1
    assert search.bound == float(left.known.bound) < 0
    assert bool((left.lower >= -1).all() & (left.upper <= 1).all())
    before = int(search.boxes)
    search.resume()
    assert not search.finished and not search.aside and not search.fixing
    assert [len(boxes) for boxes in search.left] == [2]
    assert np.isclose(
        float((search.left[0].upper - search.left[0].lower).sum()),
        2 * float((left.upper - left.lower).sum()) - float((left.upper - left.lower)[0, int(left.axis)]),
    )
    assert int(search.boxes) == before


def test_few_inputs_are_cut_at_once():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)).double()
    search = search_of(net, [polytope([[1]], [-100.0])], ([-1.0] * 2, [1.0] * 2), fixing=False)
    assert not search.fixing
    assert fixed(search).proved
