r"""Optimised pre-activation bounds: alpha-CROWN on the gains, for every neuron that CROWN leaves undetermined.

From CROWN's bounds of a batch of regions (`crown.CrownBounds`) the network is gone through once more, layer by layer
from the input on. The neurons that CROWN has left undetermined are bounded again, each side of each with lines of its
own (`gains.optimised`); what becomes stable is multiplied out, and the lines of the later layers are made from the
better bounds of this one. Then the rows are. Nothing that CROWN has shown is lost: every bound is the better of both.

Proven bounds stay proven: what they are off by holds for all lines with slopes between those of the function
(`gains.errors.Proven`), and the lines here are mixtures of lines that have been given room for their own rounding.

Source: Xu et al.: alpha-CROWN, ICLR 2021, arXiv:2011.13824.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recurjac_plugin.activations.curves import smooth_family
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.gains.optimised import Effort, Family, optimised_upper_bound
from recurjac_plugin.gains.undetermined import Layer
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import ActivationFactor, Factor, FactorStep, at
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.region import Region

from .changes import Change
from .crown import Crown, CrownBounds


@torch.no_grad()
def optimised_crown_bounds(
    graph: Graph,
    values: Mapping[str, Tensor],
    output: Tensor,  # shape: (b, *output_shape)
    regions: Sequence[Region],
    rows: Tensor,  # shape: (b, k, *output_shape)
    memory_budget: int,  # bytes
    start: CrownBounds,
    effort: Effort,
    *,
    proven: bool = True,
    with_rows: bool = True,
) -> CrownBounds:
    """Bound all that factor steps read, and the rows, at least as tightly as CROWN's bounds on the same regions.

    Args:
        graph: the network.
        values: as in `crown_bounds`.
        output: as in `crown_bounds`.
        regions: as in `crown_bounds`.
        rows: those of the start.
        memory_budget: as in `crown_bounds`.
        start: CROWN's bounds on these regions.
        effort: how long is looked for better lines, for every bound.
        proven: as in `crown_bounds`, and as the start is.
        with_rows: whether the rows are optimised, too; theirs are CROWN's bounds on the better lines otherwise.

    Returns:
        What `crown_bounds` does; among the bounds of the rows are those of the start.

    Raises:
        InputError: bounds are NaN.
        UnsupportedError: as `crown_bounds`.

    Source:
        alpha-CROWN, arXiv:2011.13824.
    """
    run = _Optimised(graph, values, regions, rows, memory_budget, start, proven, effort, with_rows)
    found = run.rows(output, run.sweep())
    slope, offset = torch.cat((start.slope, found.slope), 1), torch.cat((start.offset, found.offset), 1)
    return replace(found, slope=slope, offset=offset, spreads=start.spreads)


def change_family(
    factor: Factor,
    intervals: Sequence[Interval],
    centers: Sequence[Tensor],
    change: Interval,
    index: Tensor,  # shape: (b, u)
) -> Relaxation:
    """Several lines of the kind of `Factor.change_lines` on either side, for somebody to mix: (n, b, u).

    In the order of their slopes: those through 0 with the slopes of both pieces, or those that touch a smooth function.
    Of ``d t`` for any d in a range there is no choice: no line above a convex function is below its chord.

    Args:
        factor: what is relaxed.
        intervals: as in `change_lines`, and so are all others.
        centers: see there.
        change: see there.
        index: see there.

    Source: CROWN, arXiv:1811.00866, Table 1, for lines that hold.
    """
    if not isinstance(factor, ActivationFactor) or factor.activation.linear_pieces:
        return Relaxation.stacked([factor.change_lines(intervals, centers, change, index, near) for near in (0.0, 1.0)])
    (lower, upper), center = intervals[0], centers[0]
    lower, upper = torch.minimum(lower, center), torch.maximum(upper, center)
    dl, du = (at(end, index) for end in factor.derivative_range((lower, upper)))
    lower, upper, center = (at(value, index) for value in (lower, upper, center))
    lines = smooth_family(factor.activation, factor.parameters, lower, upper, center, dl, du)
    zero = torch.zeros_like(dl)
    return Relaxation(dl, zero, dl, zero).where(dl == du, lines)


class _Optimised(Crown):
    """One run over a batch of regions, after one of CROWN."""

    def __init__(
        self,
        graph: Graph,
        values: Mapping[str, Tensor],
        regions: Sequence[Region],
        rows: Tensor,
        memory_budget: int,
        start: CrownBounds,
        proven: bool,
        effort: Effort,
        with_rows: bool,
    ) -> None:
        super().__init__(graph, values, regions, rows, memory_budget, start.known, proven)
        self.effort, self.with_rows = effort, with_rows
        self.families: dict[str, Family] = {}

    def _crown(self, pulled: Mapping[str, Tensor], count: int) -> Interval:
        """Optimised bounds of the change of neurons whose gains are given, (b, u) each."""
        both = {earlier: torch.cat((-gain, gain), 1) for earlier, gain in pulled.items()}
        found = optimised_upper_bound(
            self.gains(), self.families, 2 * count, self.regions, self.memory_budget, self.effort, on_activations=both
        )
        below, above = found.value.chunk(2, 1)
        return -below, above

    def _relax(self, step: FactorStep, layer: Layer, ranges: Sequence[Interval], change: Interval) -> None:
        super()._relax(step, layer, ranges, change)
        index = layer.index.expand(len(self.output_rows), -1)
        lines = change_family(step.factor, ranges, self._centers(step), change, index)
        lines = self._with_room(step, layer, ranges, change, lines)
        self.families[step.name] = Family(self.relaxations[0][step.name], lines)

    def rows(self, output: Tensor, carried: Change) -> CrownBounds:
        """Bounds of the rows, and all that is known."""
        found = super().rows(output, carried)
        if not self.with_rows:
            return found
        gains = found.gains
        negative = {earlier: -gains.to_rows[earlier] for earlier in gains.to_rows}
        best = optimised_upper_bound(
            gains, self.families, gains.rows, self.regions, self.memory_budget, self.effort, on_activations=negative
        )
        center = (self.output_rows.flatten(2) @ output.flatten(1).unsqueeze(2)).squeeze(2)
        slope = torch.cat((found.slope, -best.slope.unsqueeze(1)), 1)
        offset = torch.cat((found.offset, (center - best.constant).unsqueeze(1)), 1)
        return replace(found, slope=slope, offset=offset)
