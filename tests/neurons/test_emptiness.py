"""A set is shown to be empty if it is, and never if it is not: against mixed-integer programming."""

from __future__ import annotations

import itertools

import pytest
import torch
from reduced_networks import NETWORKS, evaluated, reduced
from small_parts import MEMORY, inside, least_of_largest, network, points

import recurjac_plugin.neurons.searches.emptiness as module
from recurjac_plugin.gains.pull import ROWS
from recurjac_plugin.neurons.contraction import Contraction, smaller_boxes
from recurjac_plugin.neurons.optimised import Choices, Sums, optimised_bounds, sums_of
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.searches.emptiness import Emptiness
from recurjac_plugin.neurons.searches.several import Several

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own


def never() -> bool:
    return False


def searched(small, rows, above: float, steps: int = 200) -> Emptiness:
    search = Emptiness(small, rows, torch.full((len(rows),), above, dtype=torch.float64), MEMORY)
    for _ in range(steps):
        if search.proved or search.stuck:
            break
        search.step(never)
    return search


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("rows", [[0], [1], [0, 2], [0, 1, 2]])
def test_it_is_proved_just_below_the_least_value_and_not_above(name, rows):
    net, center = network(name, 3)
    small = reduced(net, center, 0.5)
    rows = torch.tensor(rows)
    least = least_of_largest(small, rows)
    _, values = evaluated(small, points(small, 20000))
    assert least <= float(values[:, rows].amax(1).min()) + 1e-9
    assert searched(small, rows, least - 1e-3 * (1 + abs(least))).proved
    assert not searched(small, rows, least + 1e-6 * (1 + abs(least)), steps=60).proved


@pytest.mark.parametrize("name", NETWORKS)
def test_contraction_keeps_every_point_of_the_set(name):
    net, center = network(name, 2)
    small = reduced(net, center, 0.5)
    t = points(small, 40000)
    z, rows = evaluated(small, t)
    below = float(rows[:, 0].sort().values[200])
    met = rows[:, 0] <= below
    cut = sums_of(small, ROWS, torch.tensor([0]))
    cut = Sums(cut.center - below, cut.error, cut.on_activations)
    contraction, parts = Contraction(small, cut, MEMORY), Parts.whole(small)
    one = torch.ones(1, 1, dtype=torch.float64)
    for _ in range(4):
        bounds = optimised_bounds(small, parts, None, cut, Choices.first(small, parts, one), 10)
        parts = contraction.round(smaller_boxes(parts, bounds), 10, never, whole=True)
        assert inside(parts, 0, z, t)[met].all()
    assert (~inside(parts, 0, z, t)).any()


def test_parts_are_contracted_too_and_the_best_come_first_where_many_wait(monkeypatch):
    """With little room, and branching that costs more than contraction: the verdicts stay the same."""
    net, center = network("relu", 5)
    small = reduced(net, center, 0.6)
    rows = torch.tensor([0])
    least = least_of_largest(small, rows)
    monkeypatch.setattr(module, "_WAITING", 1)
    monkeypatch.setattr(module, "_MOST", 4)
    monkeypatch.setattr(module, "_WORTH", 1.0)
    assert searched(small, rows, least - 1e-3, steps=2000).proved
    assert not searched(small, rows, least + 1e-6, steps=60).proved


def test_it_stops_between_chunks_and_goes_on():
    net, center = network("relu", 3)
    small = reduced(net, center, 0.5)
    rows = torch.tensor([0])
    search = Emptiness(small, rows, torch.tensor([least_of_largest(small, rows) - 1e-3]).double(), MEMORY)
    for count in range(400):
        if search.proved:
            break
        search.step(lambda: count % 2 == 0)  # noqa: B023
    assert search.proved


def test_a_network_without_undetermined_neurons_has_one_bound():
    net, center = network("relu")
    small = reduced(net, center, 1e-9)
    assert not small.count
    value = float(net(center)[0, 0].detach())
    assert searched(small, torch.tensor([0]), value - 1.0).proved
    search = searched(small, torch.tensor([0]), value + 1.0)
    assert search.stuck
    assert len(search.nearest)
    assert not search.proved


def test_several_sets_share_better_intervals_and_forget_no_count(monkeypatch):
    net, center = network("relu", 3)
    small = reduced(net, center, 0.5)
    least = [least_of_largest(small, torch.tensor([k])) for k in range(3)]
    above = torch.tensor([value - 1e-3 * (1 + abs(value)) for value in least], dtype=torch.float64)
    monkeypatch.setattr(Several, "_price", 1.0)  # so cheap that the second step shares
    search = Several(small, {k: torch.tensor([k]) for k in range(3)}, above, MEMORY)
    parts, work = [search.parts], [search.work]
    for _ in range(400):
        if search.proved:
            break
        search.step(never)
        parts.append(search.parts)
        work.append(search.work)
    assert search.proved
    assert parts == sorted(parts)
    assert parts[2] == 2  # the first one's part, and that of the search that began anew
    assert all(a < b for a, b in itertools.pairwise(work))
