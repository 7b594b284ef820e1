r"""Smaller intervals of z and smaller boxes, on the part of each part where cuts are at most 0.

To show that a set is empty, only what is in it has to be bounded. With the cuts ``g_k <= 0`` that define it, an
undecided neuron has

.. math:: z_j \ge \max_{\gamma \ge 0} \min_{\text{part}} \Big( z_j + \sum_k \gamma_k g_k \Big),

which is more than its bound on the whole part, the more so the less of the part can be in the set. Smaller intervals
give better bounds of the cuts, and so on: rounds of it often empty a set that branching would need thousands of parts
for. A linear bound of the cuts' average, ``s (x - x0) + c <= 0``, cuts off pieces of the box as well.

Source: INVPROP, Kotha, Brix, Kolter, Dvijotham, Zhang, NeurIPS 2023, arXiv:2302.01404, for the multipliers; in rounds,
on gains, own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from recurjac_plugin.numerics.memory import chunk_size

from .optimised import WITH_GRADIENT, Choices, LowerBounds, Sums, optimised_bounds, sums_of
from .parts import Parts
from .reduced import Reduced


@dataclass(eq=False)
class Contraction:
    """Rounds on the whole region, each going on from the choices of the one before, and on parts, from those.

    Attributes:
        reduced: the network.
        cuts: the sums that are at most 0 where it matters.
        memory_budget: bytes that a chunk of bounds may take.
    """

    reduced: Reduced
    cuts: Sums
    memory_budget: int
    _before: dict[str, tuple[Tensor, Choices]] = field(default_factory=dict)  # neurons of a layer; of both bounds

    @staticmethod
    def price(reduced: Reduced, parts: Parts, steps: int) -> float:
        """Multiplications that a round on some parts takes, about."""
        undecided = sum(int(each.sum()) for each in parts.undecided(reduced).values())
        return 2 * undecided * WITH_GRADIENT * steps * reduced.evaluation

    def round(self, parts: Parts, steps: int, over: Callable[[], bool], whole: bool = False) -> Parts:
        """One round over all layers.

        Args:
            parts: where.
            steps: of the optimisation of each bound.
            over: asked between chunks whether to stop.
            whole: whether this is the whole region, a batch of one, and choices are kept.
        """
        for layer in self.reduced.layers:
            place, neuron = parts.undecided(self.reduced)[layer].nonzero().unbind(1)
            width = self.reduced.count + self.reduced.gains.columns
            chunk = max(1, chunk_size(self.memory_budget, 2 * 8 * width, parts.box[0]))
            low, high = parts.lower[layer].clone(), parts.upper[layer].clone()
            found: list[tuple[Tensor, Choices]] = []
            for part, at in zip(place.split(chunk), neuron.split(chunk)):
                if over():
                    return parts
                bounds = self._bounds(parts, layer, part, at, steps)
                below, above = bounds.lower.chunk(2)
                low[part, at], high[part, at] = (
                    torch.maximum(low[part, at], below),
                    torch.minimum(high[part, at], -above),
                )
                found.append((at, bounds.choices))
            if whole and found:
                self._before[layer] = torch.cat([at for at, _ in found]), _ends_joined([each for _, each in found])
            parts = replace(parts, lower={**parts.lower, layer: low}, upper={**parts.upper, layer: high})
        return parts

    def _bounds(self, parts: Parts, layer: str, part: Tensor, neuron: Tensor, steps: int) -> LowerBounds:
        """Lower bounds of z and of -z of neurons of a layer, each on its part."""
        where = parts.take(part.repeat(2))
        choices = Choices.first(self.reduced, where, where.box[0].new_zeros(len(where), len(self.cuts)))
        if layer in self._before:
            neurons, before = self._before[layer]
            at = torch.searchsorted(neurons, neuron)  # ascending; what is undecided was so before
            choices = before.take(torch.cat((at, at + len(neurons))))
        sums = sums_of(self.reduced, layer, neuron).both_ways()
        return optimised_bounds(self.reduced, where, sums, self.cuts, choices, steps)


def _ends_joined(several: Sequence[Choices]) -> Choices:
    """Choices of both bounds of chunks of neurons: those of all lower bounds, then those of all upper ones."""
    halves = [
        (each.take(slice(0, len(each.cuts) // 2)), each.take(slice(len(each.cuts) // 2, None))) for each in several
    ]
    return Choices.joined([low for low, _ in halves] + [high for _, high in halves])


def smaller_boxes(parts: Parts, bounds: LowerBounds) -> Parts:
    r"""Boxes cut to where the linear bound of an average of the cuts, ``s (x - x0) + c``, can be at most 0.

    For coordinate r with ``s_r > 0`` (otherwise likewise), and m the least value of all else,

    .. math:: x_r - x_{0r} \le \frac{-m}{s_r}, \qquad m = c + \sum_{i \ne r} \min(s_i l_i, s_i u_i),

    with room for the rounding of m.
    """
    (low, high), slope, offset = parts.box, bounds.slope, bounds.offset
    least = torch.minimum(slope * low, slope * high)
    total = offset + least.sum(1)
    room = 2.0**-40 * (offset.abs() + least.abs().sum(1))
    end = (least - total.unsqueeze(1) + room.unsqueeze(1)) / torch.where(slope == 0, 1.0, slope)
    end = end + 2.0**-40 * end.abs() * slope.sign()
    return replace(
        parts,
        box=(
            torch.where(slope < 0, torch.maximum(low, end), low),
            torch.where(slope > 0, torch.minimum(high, end), high),
        ),
    )
