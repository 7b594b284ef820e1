r"""Lines around a function from its values and the ranges of its derivative on pieces of an interval.

With slope s, ``g(z) = f(z) - s z`` has derivatives in ``[p, q]`` on a piece ``[a, b]``, hence stays below the lines
``g(a) + q (z - a)`` and ``g(b) - p (b - z)``; where they meet is the largest height it can reach. The largest of
these heights over all pieces is an intercept for which ``f(z) <= s z + c``. It is exact where f is linear or has one
kink in a piece, and off by ``f'' w^2 / 8`` on a smooth piece of width w. Any slope gives a line that holds.

Of all lines above f the one that leaves the smallest area touches the concave hull of f at the middle of the interval;
the slope is that of the hull's edge there.

Source: own; that the hull's edge leaves the smallest area is elementary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import ELEMENTWISE, eps

from .activation import Activation, Parameters
from .lines import Relaxation

_PIECES = 32
_EDGE_STEPS = 8  # finds the edge of the hull of 33 points; fewer would still be sound


@dataclass(frozen=True, eq=False)
class Pieces:
    """A function on intervals cut into pieces; shapes (pieces + 1, *shape) and (pieces, *shape).

    Attributes:
        knots: where the pieces meet.
        values: the function there.
        least, most: its derivative range on each piece.
        exact: whether values are off by a few units of their own last digit only, not by those of the argument.
    """

    knots: Tensor
    values: Tensor
    least: Tensor
    most: Tensor
    exact: bool

    @classmethod
    def over(cls, activation: Activation, lower: Tensor, upper: Tensor, parameters: Parameters) -> Pieces:
        """A function of the table, which has a `function`, on intervals between bounds of shape (*shape)."""
        assert activation.function is not None
        fraction = torch.linspace(0, 1, _PIECES + 1, dtype=lower.dtype, device=lower.device)
        fraction = fraction.reshape(-1, *(1,) * lower.dim())
        knots = lower * (1 - fraction) + upper * fraction
        if knots.requires_grad:  # the derivative of a root has no gradient at 0
            knots.register_hook(lambda gradient: gradient.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0))
        least, most = activation.derivative_range(knots[:-1], knots[1:], parameters)
        return cls(knots, activation.function(knots, parameters), least, most, activation.exact)

    def negated(self) -> Pieces:
        """The same for -f."""
        return Pieces(self.knots, -self.values, -self.most, -self.least, self.exact)

    @cached_property
    def slopes(self) -> tuple[Tensor, Tensor]:
        """The least and the largest derivative on the whole interval, shape (1, *shape) each."""
        return self.least.amin(0, keepdim=True), self.most.amax(0, keepdim=True)

    def slope(self) -> Tensor:
        """Slope of the concave hull's edge over the middle of the interval, shape (*shape)."""
        left, right = self._edge()
        return self._chord(left, right)[0]

    def _chord(self, left: Tensor, right: Tensor) -> Tensor:
        """Slope between two knots, by position: all of shape (1, *shape)."""
        width = self.knots.gather(0, right) - self.knots.gather(0, left)
        rise = self.values.gather(0, right) - self.values.gather(0, left)
        flat = width <= 0  # a point: any slope is right, that of f is the best
        slope = torch.where(flat, self.most[:1], rise / torch.where(flat, 1.0, width))
        # Where knots can hardly be told apart the quotient is of rounding errors; f has no such slope.
        slope = slope.maximum(self.slopes[0]).minimum(self.slopes[1])
        return torch.where(slope.isfinite(), slope, 0.0)

    @torch.no_grad()
    def _edge(self) -> tuple[Tensor, Tensor]:
        """Positions of the knots between which the hull's edge over the middle lies, shape (1, *shape)."""
        knots, values = self.knots, self.values
        middle = (knots[:1] + knots[-1:]) / 2
        left, right = (torch.full_like(knots[:1], end, dtype=torch.long) for end in (0, _PIECES))
        for _ in range(_EDGE_STEPS):
            highest = (values - self._chord(left, right) * knots).argmax(0, keepdim=True)
            before = knots.gather(0, highest) <= middle
            left, right = torch.where(before, highest, left), torch.where(before, right, highest)
        return left, right

    def intercept(self, slope: Tensor) -> Tensor:
        """The least c found for which ``f(z) <= slope z + c`` on the interval, widened by rounding.

        Args:
            slope: finite, of shape (*shape), or (n, *shape) for n slopes each.

        Returns:
            Shaped like `slope`.
        """
        several = slope.dim() - (self.knots.dim() - 1)
        knots, values, least, most = (
            t.reshape(len(t), *(1,) * several, *t.shape[1:]) for t in (self.knots, self.values, self.least, self.most)
        )
        heights = values - slope * knots
        first, last = heights[:-1], heights[1:]
        falling, rising = least - slope, most - slope
        width = knots[1:] - knots[:-1]
        steep = rising.isfinite() & falling.isfinite()
        peak = (falling < 0) & (rising > 0) & steep
        spread = torch.where(peak, rising - falling, 1.0)
        # Where the line up from the first knot meets the line down to the last.
        meeting = ((last - first - falling * width) / spread).clamp(min=0).minimum(width)
        at_peak = first + torch.where(peak, rising, 0.0) * meeting
        highest = torch.where(peak, at_peak, torch.maximum(first, last))
        # Without a bound of its derivative f still lies between its values, where it is monotone.
        lowest_line = torch.minimum(slope * knots[:-1], slope * knots[1:])
        highest = torch.where(steep, highest, torch.maximum(values[:-1], values[1:]) - lowest_line).amax(0)
        finite = torch.where((least.isfinite() & most.isfinite()), torch.maximum(least.abs(), most.abs()), 0.0)
        steepest = torch.maximum(slope.abs(), finite.amax(0))
        return highest + rounding(values.abs().amax(0), steepest, knots.abs().amax(0), self.exact)

    def lines(self) -> Relaxation:
        """Lines ``lower_slope z + lower_constant <= f(z) <= upper_slope z + upper_constant``, shape (*shape) each."""
        below = self.negated()
        upper, lower = self.slope(), below.slope()
        return Relaxation(-lower, -below.intercept(lower), upper, self.intercept(upper))


def lines_around(activation: Activation, lower: Tensor, upper: Tensor, parameters: Parameters) -> Relaxation:
    """Lines around a function of the table, which has a `function`, on intervals between bounds of shape (*shape).

    Where it is convex or concave they are CROWN's, the chord and the tangent at the middle; elsewhere, and where
    something is not finite, those of `Pieces`, which cost a hundred times as much.

    Source: CROWN, arXiv:1811.00866, for convex and concave functions.

    Returns:
        ``lower_slope z + lower_constant <= f(z) <= upper_slope z + upper_constant``, shape (*shape) each.
    """
    curved = _curved(activation, lower, upper, parameters)
    simple = activation.is_monotone_derivative(lower, upper, parameters)
    for value in _values(curved):
        simple = simple & value.isfinite()
    if bool(simple.all()):
        return curved
    if not bool(simple.any()):
        return Pieces.over(activation, lower, upper, parameters).lines()
    others = ~simple
    if curved.upper_slope.requires_grad:  # infinite slopes elsewhere would leave NaN in the gradients of all others
        chosen = _curved(activation, lower[simple], upper[simple], _of_elements(parameters, simple))
        curved = Relaxation(*(torch.zeros_like(lower).masked_scatter(simple, value) for value in _values(chosen)))
    cut = Pieces.over(activation, lower[others], upper[others], _of_elements(parameters, others)).lines()
    return Relaxation(
        *(mine.masked_scatter(others, its) for mine, its in zip(_values(curved), _values(cut), strict=True))
    )


def _values(lines: Relaxation) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return lines.lower_slope, lines.lower_constant, lines.upper_slope, lines.upper_constant


def _of_elements(parameters: Parameters, mask: Tensor) -> Parameters:
    """Parameters of chosen elements alone."""
    return {
        name: value.expand(mask.shape)[mask] if isinstance(value, Tensor) and value.dim() else value
        for name, value in parameters.items()
    }


def _curved(activation: Activation, lower: Tensor, upper: Tensor, parameters: Parameters) -> Relaxation:
    """Chord and tangent of a function that is convex or concave on intervals.

    Any slope makes a sound chord, and a tangent that is off by the rounding of its slope is off by that times the
    interval's width, for which `rounding` leaves room.
    """
    assert activation.function is not None
    middle = lower / 2 + upper / 2
    at_lower, at_upper, at_middle = (activation.function(z, parameters) for z in (lower, upper, middle))
    first, last, tangent = (activation.derivative(z, parameters) for z in (lower, upper, middle))
    width = upper - lower
    flat = width <= 0
    chord = torch.where(flat, tangent, (at_upper - at_lower) / torch.where(flat, 1.0, width))
    chord = chord.maximum(torch.minimum(first, last)).minimum(torch.maximum(first, last))
    ends = at_lower - chord * lower, at_upper - chord * upper
    touching = at_middle - tangent * middle
    room = rounding(
        torch.maximum(torch.maximum(at_lower.abs(), at_upper.abs()), at_middle.abs()),
        torch.maximum(first.abs(), last.abs()),
        torch.maximum(lower.abs(), upper.abs()),
        activation.exact,
    )
    convex = last >= first
    return Relaxation(
        torch.where(convex, tangent, chord),
        torch.where(convex, touching, torch.minimum(*ends)) - room,
        torch.where(convex, chord, tangent),
        torch.where(convex, torch.maximum(*ends), touching) + room,
    )


def interval(activation: Activation, lower: Tensor, upper: Tensor, parameters: Parameters) -> tuple[Tensor, Tensor]:
    """Bounds of a function of the table on intervals: its values at the ends where it is monotone, lines elsewhere.

    Args:
        activation: a row with a `function`.
        lower: lower ends, of any shape; the function is defined between the ends.
        upper: upper ends, of the same shape.
        parameters: of the function.

    Returns:
        Lower and upper bounds of its values, widened by rounding; shaped like the ends.
    """
    assert activation.function is not None
    at_lower, at_upper = (activation.function(end, parameters) for end in (lower, upper))
    smallest, largest = torch.minimum(at_lower, at_upper), torch.maximum(at_lower, at_upper)
    dl, du = activation.derivative_range(lower, upper, parameters)
    argument = torch.maximum(lower.abs(), upper.abs())
    smallest = smallest - rounding(smallest.abs(), None, argument, activation.exact)
    largest = largest + rounding(largest.abs(), None, argument, activation.exact)
    turns = (dl < 0) & (du > 0)
    if bool(turns.any()):
        pieces, zero = Pieces.over(activation, lower, upper, parameters), torch.zeros_like(lower)
        smallest = torch.where(turns, -pieces.negated().intercept(zero), smallest)
        largest = torch.where(turns, pieces.intercept(zero), largest)
    least, most = activation.values(parameters)
    return smallest.clamp(min=least), largest.clamp(max=most)


@torch.no_grad()
def rounding(value: Tensor, slope: Tensor | None, argument: Tensor, exact: bool) -> Tensor:
    """Error of computed values, and of the intercepts of lines around them.

    Args:
        value: largest absolute value of the function.
        slope: largest slope in absolute value, of a line or of the function; None for values alone.
        argument: largest absolute value of the argument.
        exact: whether the function's own values are off by a few units of their last digit only.
    """
    size = value
    if slope is not None:
        size = size + slope * argument
    if not exact:
        size = size + argument
    return ELEMENTWISE * eps(size) * size + torch.finfo(size.dtype).tiny
