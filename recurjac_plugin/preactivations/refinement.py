r"""Pre-activation bounds of many small boxes, from those of a box around them: CROWN on the gains.

A search that cuts a region into boxes asks for the same bounds again and again, and knows much beforehand: a neuron
that is stable on a box is stable on every part of it. So a part only has to look at the neurons that are undetermined
around it, and everything between these is linear. With ``z_j`` the pre-activation of such a neuron, ``a_m`` the
activations of the undetermined neurons of layer m, x0 the centre of a box and the gains G
(`recurjac_plugin.gains.gains`),

.. math:: z_j(x) - z_j(x_0) = G_{j,\text{input}} (x - x_0) + \sum_{m < j} G_{j,m} (a_m(x) - a_m(x_0)),

which is exact on the box. CROWN replaces every ``a_m`` by lines in ``z_m``, from the last layer to the first, until
only x is left (`recurjac_plugin.gains.crown.linear_upper_bound`). The same gains then carry RecurJac, so nothing is
computed twice.

Only functions that are linear on either side of a kink at 0 (ReLU, leaky ReLU, PReLU, Abs) have their lines here. For
all others the host's bounds are asked for (`recurjac_plugin.branch_and_bound.bounders`).

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2; doing it on gains, from
the bounds of a larger box, is this package's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation, relax_kinked
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.gains.gains import ROWS, Gains, Pull
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, classify
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.region import Region

# Slopes of the line through 0, see `linear_pieces`. CROWN's choice (None) is one of many: alpha-CROWN (Xu et al., ICLR
# 2021, arXiv:2011.13824) optimises them. With few undetermined neurons two more choices for the rows find most of what
# there is to find, at next to no cost.
_CHOICES = (None, 0.0, 0.5)


@dataclass(frozen=True, eq=False)
class Refined:
    """What is known about a batch of b boxes.

    Attributes:
        gains: the exact part, ready for the recursion.
        layers: derivative ranges ``[dl, du]`` of every activation step.
        bounds: pre-activation bounds by name of the node read, each (b, *shape), within those given.
        slope, offset: several bounds ``C f(x) >= slope_v (x - x0) + offset_v`` on each box around its centre x0:
            (b, v, k, columns), (b, v, k).
    """

    gains: Gains
    layers: Mapping[str, Layer]
    bounds: dict[str, Interval]
    slope: Tensor
    offset: Tensor


def refine(
    graph: Graph,
    values: Mapping[str, Tensor],
    output: Tensor,  # shape: (b, *output_shape)
    boxes: Region,
    around: Intervals,
    rows: Tensor,  # shape: (b, k, *output_shape)
    sizes: Mapping[str, Tensor],
    precision: float,
) -> Refined:
    r"""Bound all pre-activations and the rows on boxes, starting from bounds that hold there.

    With ``s x' + c``, for ``x' = x - x0``, CROWN's upper bounds of :math:`\pm (z_j(x) - z_j(x_0))`
    (`gains.crown.linear_upper_bound`) and :math:`\rho` the half side lengths, undetermined neurons have

    .. math:: z_j(x_0) - \Big(c_j^- + \sum_r |s_{jr}^-| \rho_r\Big) \le z_j(x) \le
        z_j(x_0) + c_j^+ + \sum_r |s_{jr}^+| \rho_r ,

    intersected with the bounds given; all others keep theirs. The rows have

    .. math:: C_k f(x) \ge C_k f(x_0) - s_{vk} (x - x_0) - c_{vk} ,

    from upper bounds of :math:`-C_k (f(x) - f(x_0))`, one for each choice v of the lines through 0.

    Args:
        graph: a network for which `refinable` holds.
        values: value of every node that an activation reads at the centres x0, each (b, *shape).
        output: value of the network there.
        boxes: where the input lies, b boxes of norm inf.
        around: pre-activation bounds on boxes around these ones, by name of the node that an activation reads, (b,
            *shape).
        rows: what is bounded from below: the matrix C.
        sizes: `term_sizes` at every step, (b or 1, *shape).
        precision: relative error of one rounding in the arithmetic that `around` comes from.

    Raises:
        InputError: bounds are NaN.

    Source:
        Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2, for the lines and their
        substitution; that it runs on gains, and from the bounds of a larger box, is this package's own.
    """
    known = _Known(graph, values, boxes, rows)
    bounds: dict[str, Interval] = {}
    for step in graph.factors:
        read = step.reads[0]
        size = sizes[graph.stands_for[read.name]]
        before = classify(step, [PreactivationBounds(*around[read.name], precision, size)])
        if before.count:
            lower, upper = known.bounds(step, before)
            bounds[read.name] = _tightened(around[read.name], before, lower, upper)
        else:
            bounds[read.name] = around[read.name]
        known_bounds = PreactivationBounds(*bounds[read.name], precision, size)
        known.add(step, before, classify(step, [known_bounds]), known_bounds)
    slope, offset = known.rows(output)
    return Refined(known.gains(), known.derivatives, bounds, slope, offset)


def _tightened(
    around: Interval,  # shape: (b, *shape)
    layer: Layer,
    lower: Tensor,  # shape: (b, u)
    upper: Tensor,  # shape: (b, u)
) -> Interval:
    """The given bounds, replaced at the undetermined neurons where the new ones are better."""
    low, high = (bound.flatten(1) for bound in around)
    index = layer.index.expand(len(low), -1)
    lower, upper = torch.fmax(low.gather(1, index), lower), torch.fmin(high.gather(1, index), upper)  # NaN says nothing
    # Both hold, up to rounding: where they miss each other, the interval between them is what is left.
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    shape = around[0].shape
    return low.scatter(1, index, lower).reshape(shape), high.scatter(1, index, upper).reshape(shape)


class _Known:
    """What is known of the layers up to one: their gains, and lines around their activations.

    Attributes:
        derivatives: derivative ranges of every activation step so far.
        blocks: as those of `Gains`.
        relaxations: for each of `_CHOICES`, lines of ``a(x) - a(x0)`` by layer, shape (b, u).
        layers: those with undetermined neurons, in topological order.
    """

    def __init__(self, graph: Graph, values: Mapping[str, Tensor], boxes: Region, rows: Tensor) -> None:
        self.graph, self.values, self.boxes, self.output_rows = graph, values, boxes, rows
        self.columns = boxes.columns
        self.derivatives: dict[str, Layer] = {}
        self.blocks: dict[tuple[str, str], Tensor] = {}
        self.relaxations: tuple[dict[str, Relaxation], ...] = tuple({} for _ in _CHOICES)
        self.layers: list[str] = []
        self.pull = Pull(graph, self.derivatives)
        self._pulled: dict[str, Tensor] = {}

    def bounds(self, step: FactorStep, layer: Layer) -> Interval:
        """Bounds of the pre-activations of a layer's undetermined neurons, (b, u) each."""
        self._pulled = self.pull.units(step.source, layer.index, self.boxes.radius)
        both = {earlier: torch.cat((-gain, gain), 1) for earlier, gain in self._pulled.items()}
        slope, constant = linear_upper_bound(self.gains(), self.relaxations[0], 2 * layer.count, on_activations=both)
        below, above = (constant + self.boxes.concretize(slope)).chunk(2, 1)
        center = self.values[step.reads[0].name].flatten(1).gather(1, layer.index.expand(len(slope), -1))
        return center - below, center + above

    def add(self, step: FactorStep, before: Layer, after: Layer, bounds: PreactivationBounds) -> None:
        """Keep what later layers need of a layer: gains and lines of the neurons that stayed undetermined.

        Args:
            step: the layer.
            before: its derivative ranges by the bounds that were given, for which `bounds` was asked.
            after: its derivative ranges by the new bounds.
            bounds: the new bounds.
        """
        self.derivatives[step.name] = after
        if not after.count:
            return
        self.layers.append(step.name)
        position = _positions(before, after, bounds.lower[0].numel())
        for earlier, gain in self._pulled.items():
            self.blocks[step.name, earlier] = _taken(gain, position)
        assert isinstance(step.factor, ActivationFactor)
        activation, parameters = step.factor.activation, step.factor.parameters
        index, center = after.index.expand(len(bounds.lower), -1), self.values[step.reads[0].name]
        choices = relax_kinked(activation, parameters, index, *bounds.widened(kinked=True), center, choices=_CHOICES)
        for relaxations, lines in zip(self.relaxations, choices):
            relaxations[step.name] = lines

    def rows(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """``C f(x) >= slope (x - x0) + offset``, for every choice of lines: minus the upper bounds of ``-C f``."""
        pulled = self.pull(self.graph.output, self.output_rows)
        self.blocks |= {(ROWS, earlier): gain for earlier, gain in pulled.items()}
        gains, negative = self.gains(), {earlier: -gain for earlier, gain in pulled.items()}
        bounds = [
            linear_upper_bound(gains, lines, gains.rows, on_activations=negative) for lines in self.relaxations
        ]  # of -C (f(x) - f(x0))
        slope, constant = (-torch.stack(parts, 1) for parts in zip(*bounds))
        center = (self.output_rows.flatten(2) @ output.flatten(1).unsqueeze(2)).squeeze(2)
        return slope, center.unsqueeze(1) + constant

    def gains(self) -> Gains:
        """The exact part, as CROWN and the recursion take it."""
        return Gains(
            layers=tuple(self.layers),
            derivatives={name: self.derivatives[name] for name in self.layers},
            blocks=self.blocks,
            batch=len(self.boxes.radius),
            rows=self.output_rows.shape[1],
            columns=self.columns,
            reference=self.boxes.radius,
        )


def _positions(before: Layer, after: Layer, neurons: int) -> Tensor | None:
    """Where the neurons of the second layer's list stand in the first one's: (b or 1, u); None if nothing changes."""
    if before.index.shape == after.index.shape and bool((before.index == after.index).all()):
        return None
    batch = max(len(before.index), len(after.index))
    first = before.index.expand(batch, -1)
    place = first.new_zeros(batch, neurons)
    place = place.scatter(1, first, torch.arange(before.count, device=first.device).expand(batch, -1))
    return place.gather(1, after.index.expand(batch, -1))


def _taken(gain: Tensor, position: Tensor | None) -> Tensor:
    """Rows of a gain, (b or 1, u, m), at positions (b or 1, u')."""
    if position is None:
        return gain
    batch = max(len(gain), len(position))
    return gain.expand(batch, -1, -1).gather(1, position.unsqueeze(2).expand(batch, -1, gain.shape[2]))
