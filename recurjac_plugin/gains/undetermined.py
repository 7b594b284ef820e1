"""Which neurons are undetermined over a region, and the exact derivative of those that are not.

From bounds ``[l, u]`` of the pre-activations to ranges of the derivatives, ``[dl, du] = {s'(z) : l <= z <= u}``.

A neuron whose range is a single value (``dl = du``: a stable ReLU, a linear piece) is *stable*, and *dead*
if that value is 0. The recursion needs columns only for the *undetermined* ones. In a batch the number of them differs
per region: they are listed up to the largest number, the rest of a list being filled with neurons of range [0, 0].

Axes: b regions, n neurons of a layer, u undetermined ones, r rows.

Source:
    RecurJac (arXiv:1810.11783), section 3.2, for the ranges; the room for rounding is that of `errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import FactorStep
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import proven_room


@dataclass(frozen=True, eq=False)
class Layer:
    """The derivatives of one activation layer over a batch of regions: ``d_j = stable_j``, or ``d_j in [dl_j, du_j]``.

    Attributes:
        index: the undetermined neurons, shape (b or 1, u); (1, u) if they are the same in all regions.
        lower, upper: their derivative ranges [dl, du], shape (b, u).
        stable: derivative of the stable neurons and 0 for the undetermined ones, shape (b, n), or None if all are 0.
    """

    index: Tensor
    lower: Tensor
    upper: Tensor
    stable: Tensor | None

    @cached_property
    def count(self) -> int:
        """Largest number of undetermined neurons in one region."""
        return self.index.shape[1]

    def select(self, rows: Tensor) -> Tensor:
        """Entries of the undetermined neurons, ``rows[:, :, index]``: (b or 1, r, n) -> (b or 1, r, u)."""
        if len(self.index) == 1:
            return rows if self.count == rows.shape[2] else rows.index_select(2, self.index[0])
        rows = rows.expand(len(self.index), -1, -1)
        return rows.gather(2, self.index.unsqueeze(1).expand(-1, rows.shape[1], -1))

    def only(self, positions: Tensor) -> Layer:
        """The layer with a part of its undetermined neurons, shape (u',); the derivatives of the others count as 0."""
        return replace(
            self, index=self.index[:, positions], lower=self.lower[:, positions], upper=self.upper[:, positions]
        )

    def part(self, regions: Tensor) -> Layer:
        """The layer on some of the regions, by their positions, shape (b',)."""
        return Layer(
            self.index if len(self.index) == 1 else self.index[regions],
            self.lower[regions],
            self.upper[regions],
            None if self.stable is None else self.stable[regions],
        )

    def dense(self, batch: int, neurons: int) -> tuple[Tensor, Tensor]:
        """The derivative ranges of all n neurons: dl and du of the undetermined, ``dl = du = stable`` of the others.

        Returns:
            Two tensors of shape (b, n).
        """
        stable = self.stable_of(batch, neurons)
        return stable + self.placed(self.lower, neurons), stable + self.placed(self.upper, neurons)

    def stable_of(self, batch: int, neurons: int) -> Tensor:
        """Derivatives of the stable neurons, 0 for the undetermined ones: (b, n)."""
        return self.lower.new_zeros(batch, neurons) if self.stable is None else self.stable

    def placed(
        self,
        values: Tensor,  # shape: (b, *any, u)
        neurons: int,
    ) -> Tensor:
        """Numbers of the undetermined neurons at their places among all n, 0 elsewhere: (b, *any, n)."""
        index = self.index.reshape(len(self.index), *(1,) * (values.dim() - 2), self.count).expand(values.shape)
        return values.new_zeros(*values.shape[:-1], neurons).scatter_add(-1, index, values)


@dataclass(frozen=True, eq=False)
class PreactivationBounds:
    """Bounds of one node, and how far rounding can have moved them.

    Attributes:
        lower, upper: shape (b, *shape).
        error: absolute error of both, shape (b or 1, *shape); see `gains.errors`.
    """

    lower: Tensor
    upper: Tensor
    error: Tensor

    def part(self, regions: Tensor) -> PreactivationBounds:
        """The bounds of some of the regions, by their positions, shape (b',)."""
        error = self.error[regions] if len(self.error) > 1 else self.error
        return PreactivationBounds(self.lower[regions], self.upper[regions], error)

    def ordered(self) -> Interval:
        """The bounds, the smaller one first: ``min(l, u), max(l, u)``, both of shape (b, *shape)."""
        return torch.minimum(self.lower, self.upper), torch.maximum(self.lower, self.upper)

    def widened(self) -> Interval:
        """The bounds ordered, and widened by their error: ``[min(l, u) - e, max(l, u) + e]``, both (b, *shape)."""
        low, high = self.ordered()
        return low - self.error, high + self.error


def intervals(step: FactorStep, bounds: Sequence[PreactivationBounds]) -> Sequence[Interval]:
    """Bounds of what a layer reads, with room for rounding, cut where its function ends.

    Those of `PreactivationBounds.widened`, intersected with the domain of an activation that is not defined everywhere.

    Source: own.

    Args:
        step: the layer.
        bounds: bounds of what it reads, in that order.

    Returns:
        Lower and upper bounds of each, both of shape (b, *shape).

    Raises:
        UnsupportedError: the bounds reach beyond where the activation has a finite derivative.
    """
    widened = [each.widened() for each in bounds]
    if not step.factor.has_domain:
        return widened
    return step.factor.within_domain(step.name, [each.ordered() for each in bounds], widened)


def classify(
    step: FactorStep,
    bounds: Sequence[PreactivationBounds],
    outward: bool = False,
    reached: Tensor | None = None,  # shape: (b, *shape of the step)
) -> Layer:
    """Split one layer of factors into undetermined (``dl < du``) and stable (``dl = du``) neurons.

    ``[dl, du]`` is the range of the factor over the `intervals` of what it reads: for an activation s,
    ``{s'(z) : l <= z <= u}``.

    Source: RecurJac, arXiv:1810.11783, section 3.2, for the ranges.

    Args:
        step: the layer.
        bounds: bounds of what it reads, in that order.
        outward: whether ranges that are not exact are widened by what float64 can be off by; no neuron of theirs is
            stable, then.
        reached: 0 where the source depends on no input anywhere in the region, so that the factor does not matter: it
            counts as 0 there.

    Returns:
        The layer with the positions and ranges of the undetermined neurons, and the derivatives of the stable ones.

    Raises:
        InputError: the bounds contain NaN.
        UnsupportedError: the bounds reach beyond where the activation has a finite derivative.
    """
    if any(bool((each.lower.isnan() | each.upper.isnan()).any()) for each in bounds):
        raise InputError(
            f"The pre-activation bounds of `{step.name}` contain NaN; check the network's weights and the input for "
            "NaN or infinite values."
        )
    dl, du = step.factor.derivative_range(*intervals(step, bounds))
    if outward and not step.factor.exact:
        dl, du = dl - proven_room(dl.abs().clamp(min=1.0)), du + proven_room(du.abs().clamp(min=1.0))
    if reached is not None:
        dl, du = torch.where(reached > 0, dl, 0.0), torch.where(reached > 0, du, 0.0)
    dl, du = dl.flatten(1), du.flatten(1)
    undetermined = dl < du
    index = positions(undetermined)
    valid = undetermined.gather(1, index.expand(len(undetermined), -1))
    full = index.expand(len(dl), -1)
    zero = dl.new_zeros(())
    stable = torch.where(undetermined, zero, dl)
    return Layer(
        index,
        torch.where(valid, dl.gather(1, full), zero),
        torch.where(valid, du.gather(1, full), zero),
        stable if bool((stable != 0).any()) else None,
    )


def derivative_ranges(graph: Graph, bounds: Mapping[str, PreactivationBounds]) -> dict[str, Layer]:
    """The derivative ranges of all factor steps of a graph, by their names: `classify` of each.

    Source: RecurJac, arXiv:1810.11783, section 3.2.

    Args:
        graph: the network.
        bounds: of everything that its factor steps read, by name, see `Graph.reads`.

    Raises:
        InputError: the bounds contain NaN.
        UnsupportedError: they reach beyond where an activation has a finite derivative.
    """
    return {step.name: classify(step, [bounds[read.name] for read in step.reads]) for step in graph.factors}


def positions(mask: Tensor) -> Tensor:
    """Positions of True in each row of a mask, ascending: (b, n) -> (b or 1, u), u the largest number of them in a row.

    One row stands for all if they are the same. Shorter ones are padded with positions of False. Source: own.
    """
    if len(mask) == 1 or bool((mask == mask[:1]).all()):
        return mask[0].nonzero().T
    longest = int(mask.sum(1).max())
    return mask.to(torch.uint8).sort(dim=1, descending=True, stable=True).indices[:, :longest]


def moved_positions(before: Layer, after: Layer, neurons: int) -> Tensor | None:
    """Where the neurons of the second layer's list stand in the first one's: (b or 1, u); None if nothing changes.

    Source: own.

    Args:
        before: a layer.
        after: the same with some of its undetermined neurons.
        neurons: how many the layer has.
    """
    if before.index.shape == after.index.shape and bool((before.index == after.index).all()):
        return None
    batch = max(len(before.index), len(after.index))
    first = before.index.expand(batch, -1)
    place = first.new_zeros(batch, neurons)
    place = place.scatter(1, first, torch.arange(before.count, device=first.device).expand(batch, -1))
    return place.gather(1, after.index.expand(batch, -1))


def rows_at(
    gain: Tensor,  # shape: (b or 1, u, m)
    position: Tensor | None,  # shape: (b or 1, u')
) -> Tensor:
    """Rows of a gain at positions, (b or 1, u', m); all of them without any. Source: own."""
    if position is None:
        return gain
    batch = max(len(gain), len(position))
    return gain.expand(batch, -1, -1).gather(1, position.unsqueeze(2).expand(batch, -1, gain.shape[2]))
