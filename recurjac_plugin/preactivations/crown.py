r"""CROWN on the plain graph: bounds of what derivatives depend on, and of the rows, by arithmetic of our own.

With x0 the centre of a region and ``t = z(x) - z(x_0)`` the change of a step from there, linear steps are exact,
``t = sum_i W_i t_i``, and every factor step lies between two lines in the change of its source (`Factor.change_lines`).
So with the gains G between undetermined neurons (`gains.gains`)

.. math:: t_j = G_{j,\text{input}} (x - x_0) + \sum_{m < j} G_{j,m} \, (a_m(x) - a_m(x_0)),

and CROWN's substitution (`gains.crown.linear_upper_bound`) gives ``t_j <= s_j (x - x_0) + c_j``. One sweep from the
input on bounds layer by layer: intervals first, CROWN where they leave neurons undetermined. The host has no part.

A search that cuts a region into boxes knows much beforehand: a neuron that is stable on a box is stable on its parts.
Only what is undetermined by the bounds of a box around (`Known`) is looked at again.

*Proven* bounds hold for the network in real arithmetic, with the weights as they are given, whatever rounding did here:
they are widened by the errors of the value at the centre and of the linear bound (`gains.errors.Proven`), lines and
derivative ranges by that of the functions. Assumed are IEEE arithmetic in float64, sums in any order, and elementary
functions to 2 units in the last place.

Source: Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2; Higham, Accuracy and
Stability of Numerical Algorithms, 2002, for the errors. That it runs on gains, and in changes from the centre, is own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation, relax_kinked
from recurjac_plugin.gains.blocks import Blocks
from recurjac_plugin.gains.crown import linear_upper_bound
from recurjac_plugin.gains.errors import roundings
from recurjac_plugin.gains.gains import Gains, require_room
from recurjac_plugin.gains.pull import ROWS, Pull
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, classify, intervals, moved_positions, rows_at
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, LinearStep, at
from recurjac_plugin.graph.sweeps import Arrived, forward
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.memory import chunk_size
from recurjac_plugin.numerics.region import Region, concretized
from recurjac_plugin.numerics.rounding import gamma, proven_room

from .changes import Change, multiplied, summed, values_between

# Slopes of the line through 0, see `linear_pieces`. CROWN's choice (None) is one of many: alpha-CROWN (Xu et al., ICLR
# 2021, arXiv:2011.13824) optimises them. With few undetermined neurons two more choices for the rows find most of what
# there is to find, at next to no cost.
_CHOICES = (None, 0.0, 0.5)


@dataclass(frozen=True, eq=False)
class CrownBounds:
    """What is known about a batch of b regions.

    Attributes:
        gains: the exact part, ready for the recursion.
        layers: derivative ranges ``[dl, du]`` of every factor step.
        bounds: bounds of the nodes that factor steps read, by name, with their errors; (b, *shape).
        slope, offset: several bounds ``C f(x) >= slope_v (x - x0) + offset_v`` on each region around its centre x0:
            (b, v, k, columns), (b, v, k).
        errors: absolute errors of what is known of steps, by name, (b or 1, *shape).
        spreads: of the same steps, `Proven.spread`.
        row_error: absolute error of the offsets, (b or 1, k).
    """

    gains: Gains
    layers: Mapping[str, Layer]
    bounds: dict[str, PreactivationBounds]
    slope: Tensor
    offset: Tensor
    errors: Mapping[str, Tensor]
    spreads: Mapping[str, Tensor]
    row_error: Tensor

    @property
    def known(self) -> Known:
        """What it leaves for parts of the regions."""
        return Known(
            {name: (each.lower, each.upper) for name, each in self.bounds.items()}, self.errors, self.row_error
        )


@dataclass(frozen=True, eq=False)
class Known:
    """What a run over a region leaves for runs over parts of it.

    Attributes:
        bounds: of the nodes that factor steps read, (b, *shape).
        errors: absolute errors of bounds of steps on any part, by name of the step, (1, *shape).
        row_error: of the rows' bounds, (1, k).
    """

    bounds: Intervals
    errors: Mapping[str, Tensor]
    row_error: Tensor


def crown_bounds(
    graph: Graph,
    values: Mapping[str, Tensor],
    output: Tensor,  # shape: (b, *output_shape)
    regions: Sequence[Region],
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
    *,
    known: Known | None = None,
    proven: bool = True,
    judged: float = 0.0,
) -> CrownBounds:
    r"""Bound all that factor steps read, and the rows, on a batch of regions.

    With ``s (x - x0) + c``, CROWN's upper bounds of :math:`\pm (z_j(x) - z_j(x_0))`, neurons that intervals leave
    undetermined have

    .. math:: z_j(x_0) - \max_x (s_j^- (x - x_0) + c_j^-) \le z_j(x) \le z_j(x_0) + \max_x (s_j^+ (x - x_0) + c_j^+),

    intersected with the intervals. The rows have ``C_k f(x) >= C_k f(x_0) - s_{vk} (x - x_0) - c_{vk}``, from upper
    bounds of :math:`-C_k (f(x) - f(x_0))`, one for each choice v of the lines through 0 of functions with two linear
    pieces.

    Args:
        graph: the network.
        values: value of every input and node at the centres x0, each (b, *shape).
        output: value of the network there.
        regions: where the inputs lie, in the order of the graph's inputs, b each.
        rows: what is bounded: the matrix C.
        memory_budget: bytes that one chunk of rows may take; the result does not depend on it.
        known: bounds and errors that hold on regions around these ones; errors are not computed again, then.
        proven: whether derivative ranges and lines leave proven room for rounding.
        judged: unit of rounding in which the network is evaluated by others, whose values at jumps are to be contained.

    Raises:
        InputError: bounds are NaN.
        UnsupportedError: bounds reach beyond where an activation has a finite derivative.

    Source:
        Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2.
    """
    run = Crown(graph, values, regions, rows, memory_budget, known, proven, judged)
    return run.rows(output, run.sweep())


class Crown:
    """One run over a batch of regions: what is known of the layers up to one."""

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, Tensor],
        regions: Sequence[Region],
        rows: Tensor,
        memory_budget: int,
        known: Known | None,
        proven: bool,
        judged: float = 0.0,
    ) -> None:
        self.graph, self.values, self.regions, self.output_rows = graph, values, regions, rows
        self.memory_budget, self.known, self.proven, self.judged = memory_budget, known, proven, judged
        self.bounds: dict[str, PreactivationBounds] = {}
        self.derivatives: dict[str, Layer] = {}
        self.blocks: dict[tuple[str, str], Tensor] = {}
        kinked = all(
            isinstance(step.factor, ActivationFactor) and step.factor.activation.linear_pieces for step in graph.factors
        )
        self.choices = _CHOICES if kinked else (None,)
        self.relaxations: tuple[dict[str, Relaxation], ...] = tuple({} for _ in self.choices)
        self.layers: list[str] = []
        self.pull = Pull(graph, self.derivatives)
        # Of boxes that are cut from a known one only products need intervals: those of their operands.
        self.with_intervals = known is None or not all(isinstance(s.factor, ActivationFactor) for s in graph.factors)
        self.roundings = gamma(roundings(graph, rows.shape[1]))
        self.widest = max(torch.Size(shape).numel() for shape in graph.shapes.values())
        self.spread = 0.0  # the sum of all spreads so far: coefficients that underflow are multiplied by them
        self.spreads: dict[str, Tensor] = {}
        self.carried: dict[str, Change] = {}  # at what factor steps read
        self.exact: dict[str, Interval] = {}  # values of functions with two linear pieces, where they are read
        self.errors: dict[str, Tensor] = {} if known is None else dict(known.errors)
        self.reads = {graph.stands_for[name] for name in graph.reads}
        self.sources = self.reads | {step.source for step in graph.factors}

    def sweep(self) -> Change:
        """Bound layer by layer; what is carried to the output."""
        starts = {}
        for name, region in zip(self.graph.inputs, self.regions, strict=True):
            reach = region.reach.reshape(region.center.shape)
            change = Change.of_input(region.center, reach, self.with_intervals, self.known is None)
            starts[name] = self._noted(name, change)
        carried = forward(self.graph, starts, self._factor, self._linear)
        return carried[self.graph.output]

    def _noted(self, name: str, carried: Change) -> Change:
        """Note what is asked for later of a step."""
        if carried.proven is not None and self.graph.jumps:  # to be evaluated by others, anywhere in the region
            carried = carried.at_the_far_end()
        if carried.proven is not None:
            self.spread += float(carried.proven.spread.reshape(len(self.output_rows), -1).sum(1).max())
            if name in self.sources:
                self.errors[name] = carried.proven.of_bound(self.roundings, self.spread)
                if name in self.graph.jumping:
                    self.errors[name] = self.errors[name] + carried.proven.in_units_of(self.judged)
                self.spreads[name] = carried.proven.spread
        if name in self.reads:
            self.carried[name] = carried
        return carried

    def _linear(self, step: LinearStep, arrived: Arrived[Change]) -> Change:
        return self._noted(step.name, summed(step, arrived, self.values.get(step.name)))

    def _factor(self, step: FactorStep, carried: Change) -> Change:
        bounds = [self._bounds_of(read.name) for read in step.reads]
        layer = classify(step, bounds, self.proven, carried.reached)
        pulled: dict[str, Tensor] = {}
        if layer.count:
            bounds, pulled = self._tightened(step, layer, bounds)
            before, layer = layer, classify(step, bounds, self.proven, carried.reached)
            if layer.count:
                self._keep(step, before, layer, pulled)
        for read, each in zip(step.reads, bounds):
            self.bounds[read.name] = each
        self.derivatives[step.name] = layer
        ranges = intervals(step, bounds)
        change = self._change(step, ranges, carried)
        if layer.count:
            self._relax(step, layer, ranges, change)
        if (
            step.name in self.reads
            and isinstance(step.factor, ActivationFactor)
            and step.factor.activation.linear_pieces
        ):
            self.exact[step.name] = values_between(step.factor, *ranges[0])
        return self._noted(step.name, self._moved(step, layer, ranges, change, carried))

    def _bounds_of(self, name: str) -> PreactivationBounds:
        """What is known of a node before CROWN: bounds of an earlier step's reading, of a box around, or intervals."""
        if name in self.bounds:
            return self.bounds[name]
        step, center = self.graph.stands_for[name], self.values[name]
        error = self.errors[step].reshape(-1, *center.shape[1:])
        if self.known is not None:
            return PreactivationBounds(*self.known.bounds[name], error)
        if name in self.exact:  # by the node itself: another one may stand for it, with a constant added
            return PreactivationBounds(*self.exact[name], error)
        low, high = (end.reshape(center.shape) for end in self.carried[step].interval)
        return PreactivationBounds(center + low, center + high, error)

    def _tightened(
        self, step: FactorStep, layer: Layer, bounds: list[PreactivationBounds]
    ) -> tuple[list[PreactivationBounds], dict[str, Tensor]]:
        """CROWN's bounds of what a layer reads, where it is undetermined; and the rows that were pulled for them.

        Of nodes that are not what the layer multiplies all neurons are bounded, once. What an activation gives has no
        better bounds than those that follow from its own pre-activation.
        """
        pulled: dict[str, Tensor] = {}
        tightened = []
        for read, each in zip(step.reads, bounds):
            start = self.graph.stands_for[read.name]
            if self.graph.reads_source(step):
                pulled = self._pulled(start, layer.index)
                each = self._intersected(read.name, each, layer.index, *self._crown(pulled, layer.count))
            elif read.name not in self.bounds and self._is_linear(start):
                index = torch.arange(each.lower[0].numel(), device=each.lower.device).unsqueeze(0)
                each = self._intersected(
                    read.name, each, index, *self._crown(self._pulled(start, index), index.shape[1])
                )
            tightened.append(each)
        return tightened, pulled

    def _is_linear(self, name: str) -> bool:
        """Whether a step adds up others; what is none is an activation, or an input."""
        return any(step.name == name and isinstance(step, LinearStep) for step in self.graph.steps)

    def _pulled(self, start: str, index: Tensor) -> dict[str, Tensor]:
        """Gains of neurons of a step, in chunks: (b or 1, u, u_m) by layer."""
        like = self.output_rows
        ends = self.graph.columns + sum(layer.count for layer in self.derivatives.values())
        if self.known is None:
            require_room(index.numel() * ends, like, f"CROWN of our own at `{start}`")
        size = chunk_size(self.memory_budget, 4 * len(index) * self.widest, like)
        chunks = [self.pull.units(start, part, like) for part in index.split(size, 1)]
        return {earlier: torch.cat([chunk[earlier] for chunk in chunks], 1) for earlier in chunks[0]}

    def _crown(self, pulled: Mapping[str, Tensor], count: int) -> Interval:
        """Bounds of the change of neurons whose gains are given, (b, u) each."""
        both = {earlier: torch.cat((-gain, gain), 1) for earlier, gain in pulled.items()}
        slope, constant = linear_upper_bound(self.gains(), self.relaxations[0], 2 * count, on_activations=both)
        below, above = (constant + concretized(self.regions, slope)).chunk(2, 1)
        return -below, above

    def _intersected(
        self, name: str, before: PreactivationBounds, index: Tensor, below: Tensor, above: Tensor
    ) -> PreactivationBounds:
        """Bounds replaced, at the neurons of a list, where those by CROWN are better."""
        center = self.values[name]
        batch, shape = len(center), center.shape
        index = index.expand(batch, -1)
        low, high = (bound.expand(shape).flatten(1) for bound in (before.lower, before.upper))
        at_center = at(center, index)
        lower, upper = torch.fmax(at(low, index), at_center + below), torch.fmin(at(high, index), at_center + above)
        lower, upper = torch.minimum(lower, upper), torch.maximum(lower, upper)  # both hold, up to rounding
        low, high = low.scatter(1, index, lower), high.scatter(1, index, upper)
        return PreactivationBounds(low.reshape(shape), high.reshape(shape), before.error)

    def _keep(self, step: FactorStep, before: Layer, after: Layer, pulled: Mapping[str, Tensor]) -> None:
        """Keep the gains of the neurons that stayed undetermined for later layers."""
        self.layers.append(step.name)
        if not pulled:  # a product's operand is no node that it reads
            pulled, before = self._pulled(step.source, after.index), after
        position = moved_positions(before, after, torch.Size(step.shape).numel())
        for earlier, gain in pulled.items():
            self.blocks[step.name, earlier] = rows_at(gain, position)

    def _relax(self, step: FactorStep, layer: Layer, ranges: Sequence[Interval], change: Interval) -> None:
        """Lines around the change of a layer's undetermined neurons, with room for the errors of what it reads."""
        index, centers = layer.index.expand(len(self.output_rows), -1), self._centers(step)
        if len(self.choices) > 1:
            assert isinstance(step.factor, ActivationFactor)
            low, high = ranges[0]
            numbers = torch.minimum(low, centers[0]), torch.maximum(high, centers[0]), centers[0]
            lines = relax_kinked(step.factor.activation, step.factor.parameters, index, *numbers, choices=self.choices)
        else:
            lines = [step.factor.change_lines(ranges, centers, change, index)]
        for relaxations, each in zip(self.relaxations, lines, strict=True):
            relaxations[step.name] = self._with_room(step, layer, ranges, change, each)

    def _with_room(
        self, step: FactorStep, layer: Layer, ranges: Sequence[Interval], change: Interval, lines: Relaxation
    ) -> Relaxation:
        """Lines, (*any, b, u), with room for errors and for their own rounding; zeros for what fills up a list."""
        steepest, index = torch.maximum(layer.lower.abs(), layer.upper.abs()), layer.index.expand(len(layer.lower), -1)
        error, rounding = at(self.errors[step.source], index), torch.zeros(())
        if self.proven:
            largest = sum(torch.maximum(low.abs(), high.abs()).flatten(1).amax(1, keepdim=True) for low, high in ranges)
            own = at(torch.maximum(*(end.abs() for end in change)), index)
            if self.graph.reads_source(step):
                largest = at(torch.maximum(*(end.abs() for end in ranges[0])), index)
            rounding = proven_room(steepest.clamp(min=1.0) * (largest + own))
        zero = torch.zeros_like(layer.lower)
        nothing = Relaxation(zero, zero, zero, zero)  # what fills up a list is stable: it is in the gains already
        return lines.padded(error, steepest, rounding).where(layer.lower < layer.upper, nothing)

    def _centers(self, step: FactorStep) -> list[Tensor]:
        """Values of what a step reads at the centres, (b, *shape of the node) each."""
        return [self.values[read.name].reshape(-1, *read.shape) for read in step.reads]

    def _change(self, step: FactorStep, ranges: Sequence[Interval], carried: Change) -> Interval:
        """Bounds of the change of a step's source, (b, *shape) each: from its own bounds where it has some."""
        if not self.graph.reads_source(step):
            return carried.interval
        (center,), error = self._centers(step), self.errors[step.source]
        low, high = ranges[0]
        return (low - center - error).clamp(max=0), (high - center + error).clamp(min=0)

    def _moved(
        self, step: FactorStep, layer: Layer, ranges: Sequence[Interval], change: Interval, carried: Change
    ) -> Change:
        """What is carried on behind a layer."""
        if carried.middle is None and carried.proven is None:
            return carried
        batch, shape = len(change[0]), step.shape
        dl, du = (end.reshape(batch, *shape) for end in layer.dense(batch, torch.Size(shape).numel()))
        error, value = self.errors[step.source], self.values.get(step.name)
        return multiplied(step, carried, (dl, du), change, ranges, self._centers(step), error, value)

    def rows(self, output: Tensor, carried: Change) -> CrownBounds:
        """Bounds of the rows, and all that is known."""
        C = self.output_rows
        pulled = self.pull(self.graph.output, C)
        self.blocks |= {(ROWS, earlier): gain for earlier, gain in pulled.items()}
        gains, negative = self.gains(), {earlier: -gain for earlier, gain in pulled.items()}
        uppers = [
            linear_upper_bound(gains, lines, gains.rows, on_activations=negative) for lines in self.relaxations
        ]  # of -C (f(x) - f(x0))
        slope, constant = (-torch.stack(parts, 1) for parts in zip(*uppers))
        center = (C.flatten(2) @ output.flatten(1).unsqueeze(2)).squeeze(2)
        if self.known is not None:
            row_error = self.known.row_error
        else:
            assert carried.proven is not None
            row_error = carried.proven.of_rows(C).of_bound(self.roundings, self.spread)
        offset = center.unsqueeze(1) + constant
        return CrownBounds(gains, self.derivatives, self.bounds, slope, offset, self.errors, self.spreads, row_error)

    def gains(self) -> Gains:
        """The exact part, as CROWN and the recursion take it."""
        return Gains(
            layers=tuple(self.layers),
            derivatives={name: self.derivatives[name] for name in self.layers},
            blocks=Blocks(self.blocks),
            batch=len(self.output_rows),
            rows=self.output_rows.shape[1],
            columns=self.graph.columns,
            reference=self.output_rows,
        )
