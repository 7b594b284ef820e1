"""Piecewise constant functions as factor steps of a graph that stands for a function, and for no derivative.

There the "derivative" of a function between its jumps is 0, so that nothing is carried on; where it may jump, it is a
range from 0 to the steepest of the lines around it, which bounds of the function need and no Jacobian may use.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import Jump
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.graph.steps import Factor, at
from recurjac_plugin.numerics.intervals import Interval


class JumpFactor(Factor):
    """A piecewise constant function of its source.

    Attributes:
        jump: the function.
        limits: ends that its argument does not pass, however it is rounded: 0 and infinity behind a ReLU.
    """

    kinked = True
    exact = True

    def __init__(self, jump: Jump, limits: tuple[float, float] = (-inf, inf)) -> None:
        self.jump, self.limits = jump, limits

    def values(self, interval: Interval) -> Interval:
        """The least and the largest value on an interval that has room for rounding, shaped like its ends."""
        return self.jump.interval(*self._cut(interval))

    def _cut(self, interval: Interval) -> Interval:
        least, most = self.limits
        return interval[0].clamp(least, most), interval[1].clamp(least, most)

    def derivative_range(self, *intervals: Interval) -> Interval:
        """0, or from 0 to more than the slopes of its lines where the value is not known."""
        steepness = self.jump.steepness(*self._cut(intervals[0]))
        return torch.zeros_like(steepness), steepness

    def change(self, interval: Interval, center: Tensor) -> Interval:
        """Bounds of ``f(z) - f(z0)`` for z in an interval, shaped like its ends."""
        low, high = self.values(interval)
        value = self.jump.function(center)
        return low - value, high - value

    def change_lines(
        self,
        intervals: Sequence[Interval],
        centers: Sequence[Tensor],
        change: Interval,
        index: Tensor | None = None,  # shape: (b, u)
        near: float | None = None,
    ) -> Relaxation:
        """Lines in t around ``f(z0 + t) - f(z0)``, `Jump.lines` counted from the centre."""
        low, high, center = (at(value, index) for value in (*self._cut(intervals[0]), centers[0]))
        lines, value = self.jump.lines(low, high), self.jump.function(center)
        return Relaxation(
            lines.lower_slope,
            lines.lower_constant + lines.lower_slope * center - value,
            lines.upper_slope,
            lines.upper_constant + lines.upper_slope * center - value,
        )
