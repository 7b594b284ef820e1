"""Two lines that a function lies between, and those of functions that are linear on either side of 0."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Relaxation:
    """``lower_slope t + lower_constant <= f <= upper_slope t + upper_constant``, one column per undetermined neuron.

    All of shape (b, u), or (b, 1, u) beside an axis of rows.
    """

    lower_slope: Tensor
    lower_constant: Tensor
    upper_slope: Tensor
    upper_constant: Tensor

    def where(self, condition: Tensor, other: Relaxation) -> Relaxation:
        """This one where a condition holds, another one elsewhere."""
        return Relaxation(*(torch.where(condition, mine, its) for mine, its in zip(self._all(), other._all())))

    def padded(self, error: Tensor) -> Relaxation:
        """Lines that hold for a t that is off by an error, too: shape (b, 1) or (b, u)."""
        below, above = self.lower_slope.abs() * error, self.upper_slope.abs() * error
        return Relaxation(self.lower_slope, self.lower_constant - below, self.upper_slope, self.upper_constant + above)

    def for_rows(self) -> Relaxation:
        """The same for all rows: (b, u) -> (b, 1, u)."""
        return Relaxation(*(value.unsqueeze(1) for value in self._all()))

    def _all(self) -> tuple[Tensor, ...]:
        return self.lower_slope, self.lower_constant, self.upper_slope, self.upper_constant


def linear_pieces(
    left: Tensor, right: Tensor, lower: Tensor, upper: Tensor, center: Tensor, near: float | None = None
) -> Relaxation:
    """Lines of ``z -> right z`` for z > 0, ``left z`` for z < 0 on [lower, upper] with lower <= 0 <= upper.

    On one side the chord. On the other any line through 0 with a slope from `left` (near = 0) to `right` (near = 1)
    holds; None takes the slope at whichever end lies farther from 0, as CROWN and the host choose it.
    """
    # Not so for what fills up a list of neurons: those pass on with the stable ones already.
    inside = (lower <= 0) & (upper >= 0) & (lower < upper) & (left != right)
    width = torch.where(inside, upper - lower, 1.0)
    chord = torch.where(inside, (right * upper - left * lower) / width, 0.0)
    at_zero = torch.where(inside, (left - right) * lower * (upper / width), 0.0)  # the chord's height at z = 0
    chosen = torch.where(upper > -lower, right, left) if near is None else left + near * (right - left)
    through_zero = torch.where(inside, chosen, 0.0)
    value = torch.where(center >= 0, right, left) * center
    chord_constant = torch.where(inside, chord * center + at_zero - value, 0.0)
    constant = torch.where(inside, through_zero * center - value, 0.0)
    convex = left <= right
    return Relaxation(
        lower_slope=torch.where(convex, through_zero, chord),
        lower_constant=torch.where(convex, constant, chord_constant),
        upper_slope=torch.where(convex, chord, through_zero),
        upper_constant=torch.where(convex, chord_constant, constant),
    )
