r"""How far the steps of a graph change from the centre of a region: intervals, and what errors of bounds are made of.

.. math:: t = z(x) - z(x_0) \in [m - r,\; m + r], \qquad
    m_z = \sum_i W_i m_i, \quad r_z = \sum_i |W_i| r_i \quad \text{(linear steps)},

and behind a factor step ``d t`` over all d and t in their ranges; a function with two linear pieces is extreme at the
ends of its interval, or at 0. Radii have room for the rounding of all of this.

Source: interval arithmetic with midpoints and radii as in Rump, Verification methods, Acta Numerica 19, 2010, section
9; around the value at the centre, own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recurjac_plugin.gains.errors import Proven
from recurjac_plugin.graph.factors.jumps import JumpFactor
from recurjac_plugin.graph.steps import ActivationFactor, FactorStep, LinearStep
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import gamma, proven_room, underflow


@dataclass(frozen=True, eq=False)
class Change:
    """What is carried along a graph; parts that nobody needs are None.

    Attributes:
        middle, radius: the change from the centre lies in ``middle -+ radius``, (b, *shape).
        reached: 0 where no derivative by any input leads to, so that the change is exactly 0, else 1; (b, *shape).
        proven: errors of the value at the centre, and of linear bounds of the change.
    """

    middle: Tensor | None
    radius: Tensor | None
    reached: Tensor | None
    proven: Proven | None

    @staticmethod
    def of_input(
        center: Tensor,  # shape: (b, *shape)
        reach: Tensor,  # shape: (b, *shape)
        intervals: bool,
        proven: bool,
    ) -> Change:
        """That of an input, with or without intervals and proven errors."""
        return Change(
            torch.zeros_like(reach) if intervals else None,
            reach if intervals else None,
            torch.ones_like(reach) if intervals else None,  # derivatives by fixed coordinates are asked for, too
            Proven.at_input(center, reach) if proven else None,
        )

    @property
    def interval(self) -> Interval:
        """The change's bounds, both (b, *shape), with 0 between them."""
        assert self.middle is not None and self.radius is not None
        return (self.middle - self.radius).clamp(max=0), (self.middle + self.radius).clamp(min=0)

    def at_the_far_end(self) -> Change:
        """The same with errors for values anywhere in the region, instead of at its centre."""
        assert self.proven is not None and self.middle is not None and self.radius is not None
        size = self.proven.size + self.middle.abs() + self.radius
        return replace(self, proven=replace(self.proven, size=size))


def summed(step: LinearStep, arrived: Iterable[tuple[int, Change]], value: Tensor | None) -> Change:
    """The change of a linear step, from those of its sources by position.

    Args:
        step: the step.
        arrived: what arrived at it.
        value: the step's value at the centre, (b, *shape); None where it is not known.
    """
    parts = list(arrived)
    middle = radius = reached = proven = None
    count = sum(step.sources[i][1].terms for i, _ in parts) + 8
    for i, each in parts:
        if each.middle is not None and each.radius is not None and each.reached is not None:
            linear = step.sources[i][1]
            far = each.radius + gamma(count) * (each.middle.abs() + each.radius)
            pushed, (spread, touched) = (
                linear.push(each.middle),
                linear.push_absolute(torch.cat((far, each.reached))).chunk(2),
            )
            middle = pushed if middle is None else middle + pushed
            radius = spread if radius is None else radius + spread
            reached = touched if reached is None else reached + touched
    if radius is not None and reached is not None:
        reached = reached.sign()
        radius = radius + underflow(count) * reached
    if any(each.proven is not None for _, each in parts):
        proven = Proven.summed(step, [(i, each.proven) for i, each in parts], value)
    return Change(middle, radius, reached, proven)


def multiplied(
    step: FactorStep,
    source: Change,
    derivative: Interval,  # shape: (b, *shape)
    change: Interval,  # shape: (b, *shape)
    ranges: Sequence[Interval],
    centers: Sequence[Tensor],
    error: Tensor,  # shape: (b or 1, *shape)
    value: Tensor | None,  # shape: (b, *shape)
) -> Change:
    """The change of a factor step.

    Args:
        step: the step.
        source: what arrived at it.
        derivative: the range of its factor.
        change: bounds of the change of its source, the best that are known.
        ranges: bounds of what it reads.
        centers: values of that at the centre.
        error: of these.
        value: the step's own value at the centre; None where it is not known.
    """
    if isinstance(step.factor, JumpFactor):
        return _jumped(step.factor, source, derivative[1], change, ranges[0], centers[0])
    dl, du = derivative
    steepest = torch.maximum(dl.abs(), du.abs())
    middle = radius = reached = proven = None
    if source.middle is not None and source.reached is not None:
        corners = torch.stack([d * t for d in derivative for t in change])
        low, high = corners.amin(0), corners.amax(0)
        if isinstance(step.factor, ActivationFactor) and step.factor.activation.linear_pieces:
            first, last = _between_pieces(step.factor, ranges[0], centers[0], steepest, error)
            low, high = torch.maximum(low, first), torch.minimum(high, last)
        middle = (low + high) / 2
        reached = source.reached * steepest.sign()
        radius = (torch.maximum(high - middle, middle - low) * (1 + gamma(8)) + underflow(8)) * reached
        middle = middle * reached
    if source.proven is not None:
        width = torch.where(dl < du, change[1] - change[0], 0.0)
        proven = source.proven.through(steepest, width, value)
    return Change(middle, radius, reached, proven)


def _jumped(
    factor: JumpFactor, source: Change, steepest: Tensor, change: Interval, interval: Interval, center: Tensor
) -> Change:
    """The change of a piecewise constant function from what it gives for the computed value: no error is left of it.

    An interval with room for the error of what it reads contains that value as well as the true ones.
    """
    middle = radius = reached = proven = None
    low, high = factor.change(interval, center)
    rise = high - low
    if source.reached is not None:
        reached = source.reached * steepest.sign()
        middle = (low + high) / 2 * reached
        radius = (rise / 2 * (1 + gamma(8)) + underflow(8)) * reached
    if source.proven is not None:
        size = torch.maximum(*(end.abs() for end in factor.values(interval)))
        spread = steepest * (source.proven.spread + 4 * (change[1] - change[0])) + rise
        up, tiny = 1 + gamma(32), underflow(32)
        proven = Proven(torch.zeros_like(size), up * size + tiny, up * spread + tiny)
    return Change(middle, radius, reached, proven)


def _between_pieces(
    factor: ActivationFactor, interval: Interval, center: Tensor, steepest: Tensor, error: Tensor
) -> Interval:
    """Bounds of the change of a function with two linear pieces, with room for the error of its argument."""
    least, most = values_between(factor, *interval)
    value = factor.activation.derivative(center, factor.parameters) * center
    room = steepest * error + proven_room(steepest * (interval[0].abs() + interval[1].abs()))
    return least - value - room, most - value + room


def values_between(
    factor: ActivationFactor,
    low: Tensor,  # shape: (b, *shape)
    high: Tensor,  # shape: (b, *shape)
) -> Interval:
    """The least and the largest value of a function with two linear pieces on intervals, (b, *shape) each."""

    def value(z: Tensor) -> Tensor:
        return factor.activation.derivative(z, factor.parameters) * z

    ends = torch.stack([value(low), value(high), value(torch.maximum(low, high.clamp(max=0.0)))])
    return ends.amin(0), ends.amax(0)
