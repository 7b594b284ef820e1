r"""The network between its undetermined neurons, over one region: small, exact, and the same for all parts of it.

With every stable neuron multiplied out, what is left of a network over a region are its undetermined neurons, the gains
G between them (`gains.gains`), and what their functions do. With x0 the centre of the region, t the change of the
pre-activations z from there and a their activations,

.. math:: t_l = G_{l,\text{input}} (x - x_0) + \sum_{m < l} G_{l,m} (a_m(z_m) - a_m(z_m(x_0))),

and the rows of a specification are the same with :math:`G_\text{rows}`. A part of the region in which neurons are kept
on one side of their kinks has the same gains: only the intervals of z, and so the lines and the derivative ranges of
the neurons, are smaller. So all parts are bounded together, in batches (`parts`).

Errors are proven, those of `preactivations.crown`: what is said of a neuron's z, or of a row, is off by at most so
much, whatever slopes within ``[dl, du]`` a bound has taken.

Source: own; the lines are CROWN's, Zhang et al., NeurIPS 2018, arXiv:1811.00866.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation, linear_pieces, product_lines
from recurjac_plugin.gains.errors import jacobian_error
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.undetermined import intervals
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, RectifiedFactor, at
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.numerics.rounding import proven_room
from recurjac_plugin.preactivations.crown import CrownBounds


@dataclass(frozen=True, eq=False)
class Neurons:
    """The undetermined neurons of one layer, u of them; all of shape (1, u).

    Attributes:
        lower, upper: bounds of z on the whole region, their errors included; of operands of products those of the
            change of z, and the centre is 0.
        center: z at the centre of the region, as computed.
        error: how far that, and any linear bound of z, may be off.
        dl, du: derivative ranges on the whole region.
        left, right: slopes below and above 0 of functions with two linear pieces; None for others, which cannot be
            kept on a side.
    """

    lower: Tensor
    upper: Tensor
    center: Tensor
    error: Tensor
    dl: Tensor
    du: Tensor
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def divisible(self) -> bool:
        """Whether the neurons have sides to be kept on."""
        return self.left is not None

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Neurons:
        """A function of all tensors."""
        fields = {what: None if value is None else function(value) for what, value in vars(self).items()}
        return replace(self, **fields)  # type: ignore[arg-type]

    def ranges(
        self,
        lower: Tensor,  # shape: (n, u)
        upper: Tensor,  # shape: (n, u)
    ) -> Interval:
        """The derivative ranges on parts where z has these bounds, (n, u) each."""
        if self.left is None or self.right is None:
            return self.dl.expand_as(lower), self.du.expand_as(lower)
        above, below = lower >= 0, upper <= 0
        dl, du = (torch.where(above, self.right, torch.where(below, self.left, end)) for end in (self.dl, self.du))
        return dl, du

    def lines(
        self,
        lower: Tensor,  # shape: (n, u)
        upper: Tensor,  # shape: (n, u)
        near: Tensor | None = None,  # shape: (n, u)
    ) -> Relaxation:
        """Lines of ``a(z) - a(z0)`` in ``t = z - z0`` on parts where z has these bounds, with room for errors, (n, u).

        Args:
            lower: lower bounds of z.
            upper: upper bounds of z.
            near: slopes of the line through 0, from 0 (`left`) to 1 (`right`), where a kink lies between the bounds;
                None for CROWN's choice.
        """
        steepest = torch.maximum(self.dl.abs(), self.du.abs())
        size = torch.maximum(self.lower.abs(), self.upper.abs()) + self.center.abs()
        room = proven_room(steepest.clamp(min=1.0) * 2 * size)
        if self.left is None or self.right is None:
            change = (lower - self.center - self.error).clamp(max=0), (upper - self.center + self.error).clamp(min=0)
            lines = product_lines(*self.ranges(lower, upper), *change)
            return lines.padded(self.error, steepest, room)
        lines = linear_pieces(self.left, self.right, lower, upper, self.center, near=near)
        above, below = lower >= 0, upper <= 0
        slope = torch.where(above, self.right, self.left)
        value = torch.where(self.center >= 0, self.right, self.left) * self.center
        constant = slope * self.center - value
        lines = Relaxation(slope, constant, slope, constant).where(above | below, lines)
        return lines.padded(self.error, steepest, room)


@dataclass(frozen=True, eq=False)
class Reduced:
    """A network over one region, between its undetermined neurons.

    Attributes:
        gains: the exact part, of one region; its rows are those of a specification C.
        neurons: by layer of the gains.
        regions: where the inputs lie, one region each.
        center: ``C f(x0)``, (1, k).
        row_error: how far that, and any linear bound of ``C f``, may be off, (1, k).
        find_entry_error: computes `entry_error`, which searches that bound rows alone have no use for.
    """

    gains: Gains
    neurons: Mapping[str, Neurons]
    regions: Sequence[Region]
    center: Tensor
    row_error: Tensor
    find_entry_error: Callable[[], Tensor]

    @cached_property
    def entry_error(self) -> Tensor:
        """How far any bound of the Jacobian of ``C f`` may be off, (1, k, columns)."""
        return self.find_entry_error()

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the layers with undetermined neurons, in topological order."""
        return self.gains.layers

    @cached_property
    def count(self) -> int:
        """Number of undetermined neurons."""
        return sum(self.gains.count(layer) for layer in self.layers)

    @cached_property
    def box(self) -> Interval:
        """How far the inputs can be from the centre, below and above, all inputs side by side: (1, columns) each."""
        reach = torch.cat([region.reach for region in self.regions], 1)
        return -reach, reach

    @cached_property
    def evaluation(self) -> float:
        """Multiplications of one linear bound of one sum."""
        blocks = self.gains.blocks
        return float(sum(blocks[key][0].numel() for key in blocks))

    @cached_property
    def single(self) -> Reduced:
        """The same numbers in float32, to look for good bounds with that are computed in float64 afterwards."""

        def cast(value: Tensor) -> Tensor:
            return value.float()

        gains = replace(
            self.gains,
            blocks=self.gains.blocks.mapped(lambda block, _: cast(block), lambda block: block),
            reference=cast(self.gains.reference),
        )
        neurons = {name: each.mapped(cast) for name, each in self.neurons.items()}
        regions = [replace(each, center=cast(each.center), radius=cast(each.radius)) for each in self.regions]
        return Reduced(gains, neurons, regions, cast(self.center), cast(self.row_error), self.find_entry_error)

    def on(
        self,
        lower: Mapping[str, Tensor],  # layer -> (n, u)
        upper: Mapping[str, Tensor],  # layer -> (n, u)
    ) -> Gains:
        """The gains with the derivative ranges of n parts, for the recursion."""
        derivatives = {}
        for layer in self.layers:
            dl, du = self.neurons[layer].ranges(lower[layer], upper[layer])
            derivatives[layer] = replace(self.gains.derivatives[layer], lower=dl, upper=du)
        batch = len(next(iter(lower.values()))) if lower else 1
        return replace(self.gains, derivatives=derivatives, batch=batch)


def reduce(
    graph: Graph,
    bounds: CrownBounds,
    values: Mapping[str, Tensor],
    output: Tensor,  # shape: (1, *output_shape)
    regions: Sequence[Region],
    rows: Tensor,  # shape: (1, k, *output_shape)
    memory_budget: int,
) -> Reduced:
    """The network over one region between its undetermined neurons.

    Args:
        graph: the network.
        bounds: proven ones of what its factor steps read, on the region, and the gains.
        values: of every node at the centre.
        output: of the network there.
        regions: where its inputs lie, one region each.
        rows: the specification C that the gains of `bounds` end in.
        memory_budget: bytes that one chunk of rows may take.

    Source:
        Own.
    """
    steps = {step.name: step for step in graph.factors}
    neurons = {layer: _neurons(steps[layer], bounds, values) for layer in bounds.gains.layers}
    return Reduced(
        gains=bounds.gains,
        neurons=neurons,
        regions=tuple(regions),
        center=(rows.flatten(2) @ output.flatten(1).unsqueeze(2)).squeeze(2),
        row_error=bounds.row_error,
        find_entry_error=partial(jacobian_error, graph, bounds.layers, rows, memory_budget),
    )


def _neurons(step: FactorStep, bounds: CrownBounds, values: Mapping[str, Tensor]) -> Neurons:
    """The undetermined neurons of one layer."""
    layer, factor = bounds.layers[step.name], step.factor
    index = layer.index
    reads = [bounds.bounds[read.name] for read in step.reads]
    ranges = intervals(step, reads)
    centers = [values[read.name].reshape(-1, *read.shape) for read in step.reads]
    error = at(bounds.errors[step.source], index)
    left = right = None
    if isinstance(factor, ActivationFactor):
        center = at(centers[0], index)
        lower, upper = (at(end, index) for end in ranges[0])
        if factor.activation.linear_pieces:
            like = values[step.reads[0].name]
            sides = (
                factor.activation.derivative(torch.full_like(like, sign), factor.parameters) for sign in (-1.0, 1.0)
            )
            left, right = (at(side.expand_as(like), index) for side in sides)
    elif isinstance(factor, RectifiedFactor):
        center = at(factor.at_center(*centers), index)
        lower, upper = (at(end, index) for end in factor.bounds(*ranges))
        left, right = (torch.full_like(center, float(slope)) for slope in ((0, 1) if factor.sign > 0 else (1, 0)))
    else:  # an operand of a product: all that is known is how far it can move
        center = torch.zeros_like(layer.lower)
        upper = at(bounds.spreads[step.source], index)
        lower = -upper
    return Neurons(lower, upper, center, error, layer.lower, layer.upper, left, right)


def two_sides(step: FactorStep) -> bool:
    """Whether the neurons of a layer have two linear pieces, to be kept on one of them."""
    factor = step.factor
    return isinstance(factor, RectifiedFactor) or (
        isinstance(factor, ActivationFactor) and factor.activation.linear_pieces
    )
