r"""Which neuron to keep on either side, on each part of a batch.

What a relaxation gives away at a neuron with its kink between the bounds ``l < 0 < u`` is at most, with A the
coefficient of the activation in the bound and D the jump of its slope,

.. math:: |A D| \frac{-l u}{u - l} \;\text{(where the chord is taken)}, \qquad
    |A D| \min((1 - \alpha) u, -\alpha l) \;\text{(where a line through 0 of slope } \alpha \text{ is)} .

The neurons with the largest such numbers are tried: the bounds of both sides are computed with the choices that are
there, and the neuron whose worse side gains most is taken.

Source: BaBSR, Bunel, Lu, Turkaslan, Torr, Kohli, Kumar, JMLR 21, 2020, arXiv:1909.06588, for scores by the intercepts
of the relaxation; filtered smart branching, De Palma et al., arXiv:2104.06718, for trying the best of them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac_plugin.neurons.optimised import LowerBounds, Sums, lower_bounds
from recurjac_plugin.neurons.parts import Parts
from recurjac_plugin.neurons.reduced import Reduced

TRIED = 3  # neurons of a part; of 1 to 16 three were among the best on networks of VNN-COMP
_OTHER_SIDE = 0.1  # how much the better side counts


def scores(reduced: Reduced, parts: Parts, bounds: LowerBounds) -> Tensor:
    """What the relaxation may give away at each neuron, all layers side by side: (n, neurons); 0 where it is exact."""
    each = []
    for name, undecided in parts.undecided(reduced).items():
        neurons, low, high = reduced.neurons[name], parts.lower[name], parts.upper[name]
        if name not in bounds.arrived or neurons.left is None or neurons.right is None:
            each.append(torch.zeros_like(low))
            continue
        weight = bounds.arrived[name] * (neurons.right - neurons.left)
        near = bounds.choices.near[name]
        chord = -low * high / torch.where(undecided, high - low, 1.0)
        line = torch.minimum((1 - near) * high, -near * low)
        each.append(torch.where(undecided, weight.abs() * torch.where(weight < 0, chord, line), 0.0))
    return torch.cat(each, 1)


@torch.no_grad()
def chosen_neurons(
    reduced: Reduced, parts: Parts, bounds: LowerBounds, sums: Sums | None, cuts: Sums, tried: int = TRIED
) -> Tensor:
    """The neuron to branch on of each part, by its number among all of them side by side, int64 (n,).

    Args:
        reduced: the network.
        parts: n parts, each with an undecided neuron.
        bounds: of a sum on each.
        sums: as for `lower_bounds`.
        cuts: as there.
        tried: how many neurons of each are tried.
    """
    score = scores(reduced, parts, bounds)
    # Where no score is positive any neuron will do that is undecided.
    score = torch.where(parts.all_undecided(reduced), score, -1.0)
    top = score.topk(min(tried, score.shape[1]), 1)
    count = top.indices.shape[1]
    if count == 1:
        return top.indices[:, 0]
    place = torch.arange(len(parts), device=score.device).repeat_interleave(count)
    both = sides(reduced, parts.take(place), top.indices.flatten())
    twice = place.repeat(2)
    known = bounds.take(twice)
    tries = lower_bounds(reduced, both, None if sums is None else sums.take(twice), cuts, known.choices)
    below, above = torch.maximum(tries.lower, known.lower).reshape(2, len(parts), count)
    value = torch.minimum(below, above) + _OTHER_SIDE * torch.maximum(below, above).clamp(max=0.0)
    value = value.nan_to_num(nan=-torch.inf).masked_fill(top.values < 0, -torch.inf)
    return top.indices.gather(1, value.argmax(1, keepdim=True)).squeeze(1)


def sides(
    reduced: Reduced,
    parts: Parts,
    neuron: Tensor,  # shape: (n,)
) -> Parts:
    """Both sides of one neuron of each part, by its number among all: 2n parts, ``z <= 0`` first, n apart."""
    lower, upper, start = {}, {}, 0
    for name in reduced.layers:
        low, high = parts.lower[name], parts.upper[name]
        number = torch.arange(start, start + low.shape[1], device=low.device)
        here = number == neuron.unsqueeze(1)
        lower[name] = torch.cat((low, torch.where(here, low.clamp(min=0.0), low)))
        upper[name] = torch.cat((torch.where(here, high.clamp(max=0.0), high), high))
        start += low.shape[1]
    box = torch.cat((parts.box[0],) * 2), torch.cat((parts.box[1],) * 2)
    return Parts(lower, upper, box)
