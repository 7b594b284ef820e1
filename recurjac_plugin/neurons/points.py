r"""Points of a region: the sides of all neurons there, and the Jacobian, exact up to its rounding.

With t the distance of a point from the centre of the region, the network between the undetermined neurons (`reduced`)
has

.. math:: z_l = z_l(x_0) + G_{l,\text{input}} t + \sum_{m < l} G_{l,m} (a_m(z_m) - a_m(z_m(x_0))), \qquad
    X_l = G_{l,\text{input}} + \sum_{m < l} G_{l,m} (d_m X_m),

with ``d_m`` the slope of each neuron's piece, and the same with the rows in place of l is the Jacobian. It is that of
the network where every ``|z_j|`` is larger than its error: elsewhere nothing is said.

Source: own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.gains.pull import INPUT, ROWS

from .reduced import Reduced

_START, _CLIMBS = 256, 12  # points that climbing begins with, and its steps


@dataclass(frozen=True, eq=False)
class AtPoints:
    """What the network does at n points.

    Attributes:
        z: pre-activations of the undetermined neurons by layer, (n, u).
        certain: whether the sides of all neurons are, (n,).
        jacobian: of the rows, (n, k, columns), off by at most `Reduced.entry_error` where the sides are certain.
    """

    z: Mapping[str, Tensor]
    certain: Tensor
    jacobian: Tensor


def without_pieces(reduced: Reduced) -> list[str]:
    """The layers whose undetermined neurons are not all linear on either side of a kink."""
    return [layer for layer in reduced.layers if not reduced.neurons[layer].divisible]


def refuse_without_pieces(layers: Sequence[str], advice: str) -> None:
    """Refuse networks with layers whose neurons have no two linear pieces.

    Args:
        layers: their names; none is refused where there are none.
        advice: what to do instead.

    Raises:
        UnsupportedError: there are some.
    """
    if layers:
        parts = [f"`{layer}`: its neurons have no two linear pieces" for layer in layers]
        raise UnsupportedError("The search over sides of neurons", parts, advice)


def at_points(
    reduced: Reduced,
    t: Tensor,  # shape: (n, columns)
) -> AtPoints:
    """Evaluate the network at points, given by their distance from the centre of the region.

    Source: own.
    """
    gains, z, change, slopes = reduced.gains, {}, {INPUT: t}, {}
    certain = torch.ones(len(t), dtype=torch.bool, device=t.device)
    for layer in gains.layers:
        neurons = reduced.neurons[layer]
        assert neurons.left is not None
        assert neurons.right is not None
        z[layer] = neurons.center + _arrived(reduced, layer, change, t)
        certain = certain & (z[layer].abs() > neurons.error).all(1)
        slope = torch.where(z[layer] >= 0, neurons.right, neurons.left)
        at_center = torch.where(neurons.center >= 0, neurons.right, neurons.left) * neurons.center
        change[layer], slopes[layer] = slope * z[layer] - at_center, slope
    return AtPoints(z, certain, jacobian_of_slopes(reduced, slopes, len(t))[1])


def rows_at(
    reduced: Reduced,
    t: Tensor,  # shape: (n, columns)
) -> Tensor:
    """The rows at points, as computed, (n, k): what `at_points` differentiates.

    Source: own.
    """
    change = {INPUT: t}
    for layer in reduced.layers:
        neurons = reduced.neurons[layer]
        assert neurons.left is not None
        assert neurons.right is not None
        z = neurons.center + _arrived(reduced, layer, change, t)
        value, at_center = (torch.where(each >= 0, neurons.right, neurons.left) * each for each in (z, neurons.center))
        change[layer] = value - at_center
    return reduced.center + _arrived(reduced, ROWS, change, t)


def inside(
    reduced: Reduced,
    t: Tensor,  # shape: (n, columns)
) -> Tensor:
    """Points moved into the region, as it is without room for rounding."""
    parts, start = [], 0
    for region in reduced.regions:
        part = t[:, start : start + region.columns]
        reach = region.reach * (1 - 2.0**-40)
        part = torch.minimum(torch.maximum(part, -reach), reach)
        if region.norm != float("inf"):
            size = torch.linalg.vector_norm(part, ord=region.norm, dim=1, keepdim=True) * (1 + 2.0**-40)
            part = part * (region.radius / size.clamp(min=torch.finfo(t.dtype).tiny)).clamp(max=1)
        parts.append(part)
        start += region.columns
    return torch.cat(parts, 1)


def _arrived(reduced: Reduced, later: str, change: Mapping[str, Tensor], like: Tensor) -> Tensor:
    """What the changes of earlier layers add up to, (n, u)."""
    total = like.new_zeros(len(like), reduced.gains.count(later))
    for earlier, moved in change.items():
        gain = reduced.gains.blocks.get((later, earlier))
        if gain is not None:
            total = total + moved @ gain[0].T
    return total


def jacobian_of_slopes(reduced: Reduced, slopes: Mapping[str, Tensor], count: int) -> tuple[dict[str, Tensor], Tensor]:
    """The derivatives X of all undetermined neurons by the inputs, (n, u, columns) by layer, and the rows', for slopes.

    Args:
        reduced: the network.
        slopes: of the neurons, (n, u) by layer.
        count: n.
    """
    gains = reduced.gains
    carried: dict[str, Tensor] = {}
    for later in (*gains.layers, ROWS):
        total = gains.block(later, INPUT).expand(count, -1, -1)
        for earlier, X in carried.items():
            gain = gains.blocks.get((later, earlier))
            if gain is not None:
                total = total + gain @ (slopes[earlier].unsqueeze(2) * X)
        carried[later] = total
    rows = carried.pop(ROWS)
    return carried, rows


class BestPoints:
    """The points of a region that reach the largest values so far.

    Args:
        reduced: the network over the region.
        below: lower bounds of the values of exact Jacobians, ``(n, k, columns) -> (n, groups)``, at least 0.
        groups: how many values there are.

    Attributes:
        lower: the largest values, (groups,).
        points: where they were met, as distances from the centre, (groups, columns).
    """

    def __init__(self, reduced: Reduced, below: Callable[[Tensor], Tensor], groups: int) -> None:
        self.reduced, self.below = reduced, below
        self.lower = reduced.center.new_zeros(groups)
        self.points = reduced.center.new_zeros(groups, reduced.gains.columns)

    def tried(self, t: Tensor) -> Tensor:
        """Evaluate points, and keep what is better; their values, (n, groups), 0 where nothing is proven of them."""
        t = inside(self.reduced, t)
        there = at_points(self.reduced, t)
        values = torch.where(there.certain.unsqueeze(1), self.below(there.jacobian), 0.0)
        best, index = values.max(0)
        better = best > self.lower
        self.lower = torch.where(better, best, self.lower)
        self.points = torch.where(better.unsqueeze(1), t[index], self.points)
        return values

    def climb(self, deadline: float) -> None:
        """Random points, and random steps from those that reach most, until a deadline by `time.perf_counter`."""
        low, high = self.reduced.box
        columns = low.shape[1]

        random = torch.Generator().manual_seed(0)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=random, dtype=low.dtype).to(low)

        t = low + (high - low) * uniform(_START, columns)
        t[::2] = torch.where(uniform(len(t[::2]), columns) < 0.5, low, high)
        values = self.tried(t)
        for step in range(_CLIMBS):
            if time.perf_counter() >= deadline:
                break
            leaders = inside(self.reduced, t)[values.argmax(0)].repeat(max(1, _START // len(self.lower)), 1)[:_START]
            moved = uniform(*leaders.shape) < uniform(len(leaders), 1)
            size = 0.5 ** (step / 2)
            t = leaders + moved * size * (high - low) * (uniform(*leaders.shape) - 0.5)
            values = torch.cat((self.tried(t), self.tried(leaders)))
            t = torch.cat((t, leaders))
