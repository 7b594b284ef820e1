"""Parts of a region: inputs in a box, neurons on a side. Batches of them, and what their bounds say.

A part is ``{x in box : lower_j <= z_j(x) <= upper_j}`` for the undetermined neurons j of a region (`reduced`). Where a
bound is 0 at a kink the neuron is *kept on a side* there, and its derivative is known. That z lies in its interval may
be a consequence of the rest, or what the part is: bounds make use of both in the same way.

Source: own; branching on neurons is that of Bunel, Turkaslan, Torr, Kohli, Mudigonda, NeurIPS 2018, arXiv:1711.00455.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import concretized

from .reduced import Reduced


@dataclass(frozen=True, eq=False)
class Parts:
    """A batch of n parts of one region.

    Attributes:
        lower, upper: bounds of z by layer, (n, u) each.
        box: how far the inputs can be from the region's centre, below and above, (n, columns) each.
    """

    lower: Mapping[str, Tensor]
    upper: Mapping[str, Tensor]
    box: Interval

    @staticmethod
    def whole(reduced: Reduced) -> Parts:
        """The whole region as a batch of one."""
        layers = reduced.neurons.items()
        lower, upper = ({name: getattr(each, end) for name, each in layers} for end in ("lower", "upper"))
        return Parts(lower, upper, reduced.box)

    def __len__(self) -> int:
        return len(self.box[0])

    def take(self, index: Tensor | slice) -> Parts:
        """Some of them, by position (m,), slice, or mask."""
        lower, upper = ({name: end[index] for name, end in ends.items()} for ends in (self.lower, self.upper))
        return Parts(lower, upper, (self.box[0][index], self.box[1][index]))

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Parts:
        """A function of all tensors."""
        lower, upper = ({name: function(end) for name, end in ends.items()} for ends in (self.lower, self.upper))
        return Parts(lower, upper, (function(self.box[0]), function(self.box[1])))

    @staticmethod
    def joined(parts: Sequence[Parts]) -> Parts:
        """All parts of several batches, of which there is one at least."""
        if len(parts) == 1:
            return parts[0]
        first = parts[0]
        lower = {name: torch.cat([each.lower[name] for each in parts]) for name in first.lower}
        upper = {name: torch.cat([each.upper[name] for each in parts]) for name in first.upper}
        box = torch.cat([each.box[0] for each in parts]), torch.cat([each.box[1] for each in parts])
        return Parts(lower, upper, box)

    def undecided(self, reduced: Reduced) -> dict[str, Tensor]:
        """Neurons with both sides of their kink in their interval, bool (n, u) by layer; none of those without one."""
        undecided = {}
        for name, neurons in reduced.neurons.items():
            kink = (self.lower[name] < 0) & (self.upper[name] > 0)
            undecided[name] = kink & (neurons.dl < neurons.du) if neurons.divisible else torch.zeros_like(kink)
        return undecided

    def all_undecided(self, reduced: Reduced) -> Tensor:
        """The same with all layers side by side, bool (n, neurons)."""
        return torch.cat([self.box[0][:, :0] > 0, *self.undecided(reduced).values()], 1)

    def within(self, other: Parts) -> Parts:
        """What of every part lies in another one, a batch of one."""
        lower = {name: torch.maximum(low, other.lower[name]) for name, low in self.lower.items()}
        upper = {name: torch.minimum(high, other.upper[name]) for name, high in self.upper.items()}
        return Parts(lower, upper, (torch.maximum(self.box[0], other.box[0]), torch.minimum(self.box[1], other.box[1])))

    def known_to(self, reduced: Reduced) -> Reduced:
        """The network with the intervals of this part, a batch of one, for those of its region."""
        neurons = {
            name: replace(each, lower=self.lower[name], upper=self.upper[name])
            for name, each in reduced.neurons.items()
        }
        return replace(reduced, neurons=neurons)

    def empty(self) -> Tensor:
        """Parts whose intervals show that nothing is in them, bool (n,)."""
        empty = (self.box[0] > self.box[1]).any(1)
        for name, low in self.lower.items():
            empty = empty | (low > self.upper[name]).any(1)
        return empty


def largest_on(
    reduced: Reduced,
    parts: Parts,
    slope: Tensor,  # shape: (n, m, columns)
) -> Tensor:
    """The largest ``slope (x - x0)`` on the boxes of parts, and on the region: (n, m)."""
    low, high = (end.unsqueeze(2) for end in parts.box)
    positive = slope.clamp(min=0)
    in_box = (positive @ high + (slope - positive) @ low).squeeze(2)
    if all(region.norm == float("inf") for region in reduced.regions):
        return in_box
    return torch.minimum(in_box, concretized(reduced.regions, slope))
