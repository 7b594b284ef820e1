"""Bounds with any choices that are valid hold; optimised ones are at least as good as those they began with."""

from __future__ import annotations

import pytest
import torch
from reduced_networks import NETWORKS, evaluated, reduced
from small_parts import inside, network, points
from torch import Tensor

from recurjac_plugin.gains.pull import ROWS
from recurjac_plugin.neurons.optimised import Choices, lower_bounds, nothing, optimised_bounds, sums_of
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced
from recurjac_plugin.neurons.searches.branching import chosen_neurons, scores, sides

pytestmark = pytest.mark.usefixtures("registered")  # 0.3 has no maxima of its own


def some_parts(small: Reduced, levels: int = 3) -> Parts:
    """Both sides of a few neurons, one after the other: ``2 ** levels`` parts."""
    parts = Parts.whole(small)
    for level in range(levels):
        number = torch.full((len(parts),), (7 * level + 3) % small.count)
        parts = sides(small, parts, number)
    return parts


def random_choices(small: Reduced, parts: Parts, cuts: int) -> Choices:
    """Any that are valid."""
    first = Choices.first(small, parts, torch.rand(len(parts), cuts, dtype=torch.float64))
    kept = {}
    for name, value in first.kept.items():
        size = 2 * torch.rand_like(value)
        low, high = parts.lower[name] >= 0, parts.upper[name] <= 0
        kept[name] = torch.where(low, size, torch.where(high, -size, 0.0))
    return Choices({name: torch.rand_like(value) for name, value in first.near.items()}, kept, first.cuts)


def least(values: Tensor, there: Tensor) -> float:
    return float(values[there].min()) if bool(there.any()) else float("inf")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", [1, 2])
def test_bounds_hold_on_every_part_with_any_choices(name, seed):
    net, center = network(name, seed)
    small = reduced(net, center, 0.4)
    t = points(small, 20000)
    z, rows = evaluated(small, t)
    parts = some_parts(small)
    # Cuts that about half of the points meet.
    cuts = sums_of(small, ROWS, torch.tensor([1, 2]))
    middle = rows[:, 1:].median(0).values
    cuts = type(cuts)(cuts.center - middle, cuts.error, cuts.on_activations)
    met = (rows[:, 1:] <= middle).all(1)
    sums = sums_of(small, ROWS, torch.zeros(len(parts), dtype=torch.int64))
    seen = 0
    for cut, where in ((nothing(small), torch.ones_like(met)), (cuts, met)):
        choices = random_choices(small, parts, len(cut))
        for bounds in (
            lower_bounds(small, parts, sums, cut, choices),
            optimised_bounds(small, parts, sums, cut, choices, 15),
        ):
            for place in range(len(parts)):
                there = inside(parts, place, z, t) & where
                seen += int(there.any())
                assert bounds.lower[place] <= least(rows[:, 0], there)
                linear = t @ bounds.slope[place] + bounds.offset[place]
                assert (linear <= rows[:, 0])[there].all()
    assert seen > 8


@pytest.mark.parametrize("name", NETWORKS)
def test_optimised_bounds_are_never_worse_and_mostly_better(name):
    net, center = network(name)
    small = reduced(net, center, 0.4)
    parts = some_parts(small)
    sums = sums_of(small, ROWS, torch.zeros(len(parts), dtype=torch.int64))
    first = Choices.first(small, parts, parts.box[0].new_zeros(len(parts), 0))
    before = lower_bounds(small, parts, sums, nothing(small), first)
    after = optimised_bounds(small, parts, sums, nothing(small), first, 20)
    assert (after.lower >= before.lower).all()
    assert (after.lower > before.lower).any()
    again = optimised_bounds(small, parts, sums, nothing(small), first, 20)
    assert torch.equal(again.lower, after.lower)


def test_an_average_of_cuts_is_one_of_their_values():
    """Its bound is at most the largest of them anywhere."""
    net, center = network("relu")
    small = reduced(net, center, 0.3)
    parts, cuts = Parts.whole(small), sums_of(small, ROWS, torch.tensor([0, 1, 2]))
    _, rows = evaluated(small, points(small, 20000))
    even = parts.box[0].new_full((1, 3), 1 / 3)
    for steps in (0, 1, 40):
        bounds = optimised_bounds(small, parts, None, cuts, Choices.first(small, parts, even), steps)
        assert bounds.lower <= rows.amax(1).min()
        assert torch.allclose(bounds.choices.cuts.sum(1), torch.ones(1).double())
    single = [
        float(optimised_bounds(small, parts, cuts.take(slice(k, k + 1)), nothing(small), first, 40).lower)
        for first in [Choices.first(small, parts, parts.box[0].new_zeros(1, 0))]
        for k in range(3)
    ]
    assert float(bounds.lower) > max(single) - 0.05 * abs(max(single))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_neuron_to_branch_on_is_undecided_and_its_sides_cover_the_part(name):
    net, center = network(name)
    small = reduced(net, center, 0.4)
    parts = some_parts(small)
    parts = parts.take(~parts.empty())
    sums = sums_of(small, ROWS, torch.zeros(len(parts), dtype=torch.int64))
    bounds = optimised_bounds(
        small, parts, sums, nothing(small), Choices.first(small, parts, parts.box[0].new_zeros(len(parts), 0)), 5
    )
    undecided = torch.cat([*parts.undecided(small).values()], 1)
    assert ((scores(small, parts, bounds) > 0) <= undecided).all()
    neuron = chosen_neurons(small, parts, bounds, sums, nothing(small))
    assert undecided.gather(1, neuron.unsqueeze(1)).all()
    both, t = sides(small, parts, neuron), points(small, 5000)
    z, _ = evaluated(small, t)
    for place in range(len(parts)):
        whole = inside(parts, place, z, t)
        assert torch.equal(whole, inside(both, place, z, t) | inside(both, place + len(parts), z, t))
    assert (torch.cat([*both.undecided(small).values()], 1).sum(1) == undecided.sum(1).repeat(2) - 1).all()
