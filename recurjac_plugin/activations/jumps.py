r"""Functions that are constant between jumps: bounded as functions; derivatives they have none worth the name.

All of them are monotone, with jumps of one height h at distances of 1, or a single one. On ``[l, u]`` such
an f lies between its values at the ends, and above the line through ``(c, f(l))``, c the first jump above l, of slope

.. math:: s = \min\Big(h_1, \frac{f(u) - f(l)}{u - c}\Big), \qquad h_1 = h \text{ if there are more jumps than one},

which is higher on the average where c is left of the middle; from above likewise, as ``-f(-z)`` is of the same kind.

A number that rounding moves past a jump changes the value by all of h. So the ends of intervals are to be moved outward
by what rounding can do, in the bounds and in the network itself, before they come here.

Source: own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval

from .lines import Relaxation

_FAR = 2.0**20  # numbers beyond are near jumps wherever they lie, as far as half of the digits tell


@dataclass(frozen=True)
class Jump:
    """A function that is constant between jumps and does not fall.

    Attributes:
        name: as people call it.
        function: element-wise, any shape.
        next_jump: the first number above z at which, or behind which, the function jumps; inf where there is none.
        spacing_slope: height over distance of the jumps; inf for a single one.
    """

    name: str
    function: Callable[[Tensor], Tensor]
    next_jump: Callable[[Tensor], Tensor]
    last_jump: Callable[[Tensor], Tensor]
    spacing_slope: float

    def interval(self, lower: Tensor, upper: Tensor) -> Interval:
        """Its values at the ends of intervals, which have room for rounding: exact, shaped like these."""
        return self.function(lower), self.function(upper)

    def steepness(self, lower: Tensor, upper: Tensor) -> Tensor:
        """0 where it is constant on an interval, else more than the slopes of its `lines` there; at least 1."""
        low, high = self.interval(lower, upper)
        jumps = low < high
        slope = 2 * (high - low) / torch.where(jumps, upper - lower, 1.0)
        return torch.where(jumps, (slope * (1 + 2.0**-20)).clamp(min=1.0), 0.0)

    def lines(self, lower: Tensor, upper: Tensor, room: Tensor | float = 0.0) -> Relaxation:
        """Lines around it on intervals, without room for their own rounding; all shaped like the ends.

        Args:
            lower: lower ends.
            upper: upper ends.
            room: what will be taken off lines for each unit of their slope: where less is left, they are constant.
        """
        low, high = self.interval(lower, upper)
        middle, rise, zero = lower / 2 + upper / 2, high - low, torch.zeros_like(low)
        near = torch.maximum(lower.abs(), upper.abs()) < _FAR
        sides = []
        for jump, start, sign in ((self.next_jump(lower), low, 1.0), (self.last_jump(upper), high, -1.0)):
            reach = (upper - jump) if sign > 0 else (jump - lower)
            sloped = near & (rise > 0) & jump.isfinite() & (sign * (middle - jump) > room) & (reach > 0)
            slope = torch.where(sloped, rise / torch.where(sloped, reach, 1.0), 0.0).clamp(max=self.spacing_slope)
            sides += [slope, start - slope * torch.where(sloped, jump, zero)]
        return Relaxation(*sides)


def _sign_jumps(z: Tensor, ahead: Tensor) -> Tensor:
    return torch.where(ahead, torch.zeros_like(z), torch.full_like(z, inf))


JUMPS: dict[str, Jump] = {
    "BoundSign": Jump("Sign", torch.sign, lambda z: _sign_jumps(z, z <= 0), lambda z: _sign_jumps(z, z >= 0), inf),
    "BoundFloor": Jump("Floor", torch.floor, lambda z: z.floor() + 1, torch.floor, 1.0),
    "BoundCeil": Jump("Ceil", torch.ceil, torch.ceil, lambda z: z.ceil() - 1, 1.0),
    "BoundRound": Jump("Round", torch.round, lambda z: z.round() + 0.5, lambda z: z.round() - 0.5, 1.0),
}
"""Exact class name of the host's node -> its function."""
