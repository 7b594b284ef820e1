"""Pre-activation bounds of many small boxes, from those of a box around them: CROWN on the gains.

A search that cuts a region into boxes asks for the same bounds again and again, and knows much beforehand: a neuron
that is stable on a box is stable on every part of it. So a part only has to look at the neurons that are undetermined
around it, and everything between these is linear. With ``z_j`` the pre-activation of such a neuron, ``a_m`` the
activations of the undetermined neurons of layer m, and the gains ``G`` (see `gains`),

    z_j(x) - z_j(x0) = G_jx (x - x0) + sum over earlier layers m of G_jm (a_m(x) - a_m(x0)),

which is exact on the box. CROWN (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866) replaces every
``a_m`` by lines in ``z_m``, from the last layer to the first, until only ``x`` is left. The same gains then carry
RecurJac, so nothing is computed twice.

Only functions that are linear on either side of a kink at 0 (ReLU, leaky ReLU, PReLU, Abs) have their lines here. For
all others the host's bounds are asked for (see `box_bounds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation, linear_pieces
from recurjac_plugin.gains.gains import INPUT, ROWS, Gains, Pull
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, classify
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep
from recurjac_plugin.numerics.intervals import Intervals

# CROWN's choice of slopes is one of many: alpha-CROWN (Xu et al., ICLR 2021, arXiv:2011.13824) optimises them. With
# few undetermined neurons two more choices for the rows find most of what there is to find, at next to no cost.
_NEAR = (0.0, 0.5)


@dataclass(frozen=True, eq=False)
class Refined:
    """What is known about a batch of boxes.

    Attributes:
        gains: the exact part, ready for the recursion.
        layers: derivative ranges of every activation step.
        bounds: pre-activation bounds by name of the node read, each (b, *shape), within those given.
        slope, offset: several bounds ``C f(x) >= slope_v (x - x0) + offset_v`` on each box around its centre x0:
            (b, v, k, columns), (b, v, k).
    """

    gains: Gains
    layers: Mapping[str, Layer]
    bounds: dict[str, tuple[Tensor, Tensor]]
    slope: Tensor
    offset: Tensor


def refine(
    graph: Graph,
    values: Mapping[str, Tensor],
    output: Tensor,  # shape: (b, *output_shape)
    radius: Tensor,  # shape: (b, columns)
    around: Intervals,
    rows: Tensor,  # shape: (b, k, *output_shape)
    sizes: Mapping[str, Tensor],
    precision: float,
) -> Refined:
    """Bound all pre-activations and the rows on boxes, starting from bounds that hold there.

    Args:
        graph: a network for which `refinable` holds.
        values: value of the input and of every node at the centres x0, each (b, *shape).
        output: value of the network there.
        radius: half side lengths.
        around: pre-activation bounds on boxes around these ones, by name of the node that an activation reads, (b,
            *shape).
        rows: what is bounded from below.
        sizes: `term_sizes` at every step, (b or 1, *shape).
        precision: relative error of one rounding in the arithmetic that `around` comes from.
    """
    forms = _Forms(graph, values, radius, rows)
    bounds: dict[str, tuple[Tensor, Tensor]] = {}
    for step in graph.factors:
        read = step.reads[0]
        size = sizes[graph.stands_for[read.name]]
        before = classify(step, [PreactivationBounds(*around[read.name], precision, size)])
        if before.count:
            lower, upper = forms.bounds(step, before)
            bounds[read.name] = _tightened(around[read.name], before, lower, upper)
        else:
            bounds[read.name] = around[read.name]
        evidence = PreactivationBounds(*bounds[read.name], precision, size)
        forms.add(step, before, classify(step, [evidence]), evidence)
    slope, offset = forms.rows(output)
    return Refined(forms.gains(), forms.derivatives, bounds, slope, offset)


def _tightened(around: tuple[Tensor, Tensor], layer: Layer, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """The given bounds, replaced at the undetermined neurons where the new ones are better."""
    low, high = (bound.flatten(1) for bound in around)
    index = layer.index.expand(len(low), -1)
    lower, upper = torch.fmax(low.gather(1, index), lower), torch.fmin(high.gather(1, index), upper)  # NaN says nothing
    # Both hold, up to rounding: where they miss each other, the interval between them is what is left.
    lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)
    shape = around[0].shape
    return low.scatter(1, index, lower).reshape(shape), high.scatter(1, index, upper).reshape(shape)


class _Forms:
    """The linear forms of a network's undetermined neurons, layer by layer."""

    def __init__(self, graph: Graph, values: Mapping[str, Tensor], radius: Tensor, rows: Tensor) -> None:
        self.graph, self.values, self.radius, self.output_rows = graph, values, radius, rows
        self.derivatives: dict[str, Layer] = {}
        self.blocks: dict[tuple[str, str], Tensor] = {}
        self.lines: dict[str, Relaxation] = {}
        self.others: tuple[dict[str, Relaxation], ...] = tuple({} for _ in _NEAR)
        self.layers: list[str] = []
        self.pull = Pull(graph, self.derivatives)
        self._found: dict[str, Tensor] = {}

    def bounds(self, step: FactorStep, layer: Layer) -> tuple[Tensor, Tensor]:
        """Bounds of the pre-activations of a layer's undetermined neurons, (b, u) each."""
        self._found = self.pull.units(step.source, layer.index, self.radius)
        both = {earlier: torch.cat((gain, -gain), 1) for earlier, gain in self._found.items()}
        slope, constant = self._substituted(both, 2 * layer.count, self.lines)
        reach = constant - (slope.abs() @ self.radius.unsqueeze(2)).squeeze(2)
        center = self.values[step.reads[0].name].flatten(1).gather(1, layer.index.expand(len(self.radius), -1))
        below, above = reach.split(layer.count, 1)
        return center + below, center - above

    def add(self, step: FactorStep, before: Layer, after: Layer, evidence: PreactivationBounds) -> None:
        """Keep what later layers need of a layer: gains and lines of the neurons that stayed undetermined."""
        self.derivatives[step.name] = after
        if not after.count:
            return
        self.layers.append(step.name)
        position = _positions(before, after, evidence.lower[0].numel())
        for earlier, gain in self._found.items():
            self.blocks[step.name, earlier] = _taken(gain, position)
        index = after.index.expand(len(self.radius), -1)
        lower, upper = (bound.flatten(1).gather(1, index) for bound in evidence.widened(kinked=True))
        center = self.values[step.reads[0].name].flatten(1).gather(1, index)
        assert isinstance(step.factor, ActivationFactor)
        activation, parameters = step.factor.activation, step.factor.parameters
        left, right = (
            activation.derivative(side.new_full(evidence.lower[:1].shape, sign), parameters).expand_as(evidence.lower)
            .flatten(1).gather(1, index)
            for side, sign in ((lower, -1.0), (upper, 1.0))
        )  # fmt: skip
        self.lines[step.name] = linear_pieces(left, right, lower, upper, center)
        for near, lines in zip(_NEAR, self.others):
            lines[step.name] = linear_pieces(left, right, lower, upper, center, near)

    def rows(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """``C f(x) >= slope (x - x0) + offset``, for every choice of lines."""
        found = self.pull(self.graph.output, self.output_rows)
        self.blocks |= {(ROWS, earlier): gain for earlier, gain in found.items()}
        count = self.output_rows.shape[1]
        forms = [self._substituted(dict(found), count, lines) for lines in (self.lines, *self.others)]
        slope, constant = (torch.stack([form[part] for form in forms], 1) for part in (0, 1))
        center = (self.output_rows.flatten(2) @ output.flatten(1).unsqueeze(2)).squeeze(2)
        return slope, center.unsqueeze(1) + constant

    def gains(self) -> Gains:
        """The exact part, as the recursion takes it."""
        return Gains(
            layers=tuple(self.layers),
            derivatives={name: self.derivatives[name] for name in self.layers},
            blocks=self.blocks,
            batch=len(self.radius),
            rows=self.output_rows.shape[1],
            columns=self.graph.columns,
            reference=self.radius,
        )

    def _substituted(
        self, coefficients: dict[str, Tensor], count: int, lines: Mapping[str, Relaxation]
    ) -> tuple[Tensor, Tensor]:
        """Lower linear form of ``sum_m A_m (a_m(x) - a_m(x0)) + A_x (x - x0)``: its slope and constant in x - x0."""
        batch = len(self.radius)
        constant = self.radius.new_zeros(batch, count)
        for layer in reversed(self.layers):
            A = coefficients.pop(layer, None)
            if A is None:
                continue
            line = lines[layer]
            positive = A.clamp(min=0)
            negative = A - positive
            constant = constant + (positive @ line.lower_constant.unsqueeze(2)).squeeze(2)
            constant = constant + (negative @ line.upper_constant.unsqueeze(2)).squeeze(2)
            on_z = positive * line.lower_slope.unsqueeze(1) + negative * line.upper_slope.unsqueeze(1)
            for (later, earlier), gain in self.blocks.items():
                if later == layer:
                    step = on_z @ gain
                    coefficients[earlier] = coefficients[earlier] + step if earlier in coefficients else step
        slope = coefficients.get(INPUT)
        if slope is None:
            slope = self.radius.new_zeros(batch, count, self.radius.shape[1])
        return slope.expand(batch, -1, -1), constant


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
