r"""Linear relaxations of smooth activations, and of their derivatives, over pre-activation intervals.

With ``t = z - z0`` the pre-activation's distance from its value at the centre of the region, ``a(z) - a(z0)`` and
``a'(z)`` are each put between two lines in t on ``l <= z <= u``. Of all lines above a function the one that is lowest
at the middle of the interval is taken: it is an edge of the function's concave hull, or a tangent at one of its
corners. For a convex or concave function these are CROWN's lines (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018,
arXiv:1811.00866): the chord, and the tangent at the middle. No other function needs a case of its own.

The hull is that of values at equidistant points. Between two of them, h apart, a function can rise above its chord by

.. math:: \frac{K h^2}{8} \;\text{ where } |f''| \le K, \qquad
    \frac{(\overline{d} - \underline{d}) h}{4} \;\text{ where } \underline{d} \le f' \le \overline{d},

and the values are raised by that much. Only the derivative of an activation is in the table, so the function is its
integral by the trapezoidal rule, whose error is ``K h^3 / 12`` with ``|f'''| <= K``. Where there is no such K, across a
kink, the exact range of the derivative between two points takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import NARROW, eps

from .activation import Activation, Parameters
from .lines import Relaxation

# With 32 pieces the lines are raised by about a thousandth of what separates a smooth function from its chord.
_PIECES = 32

# Of how many lines on one side of a function others are mixed: what lies between two of them is off by 1 / 64 of what
# separates a parabola from its chord.
_CHOICES = 9

# A line that is higher in the middle than the best one by this part of what a function bends by is taken for the best.
_AS_GOOD = 1e-3


class Samples(NamedTuple):
    """A function of t at points: between two neighbours it lies between the chords of both sides.

    Attributes:
        points: equidistant, shape (n + 1, b, u).
        below: what the function is not below, shape (n + 1, b, u).
        above: what it is not above.
    """

    points: Tensor
    below: Tensor
    above: Tensor

    def padded(
        self,
        error: Tensor,  # shape: (b, u)
    ) -> Samples:
        """The same with room for an error of t: as much as the steepest chord rises over it."""
        step = (self.points[-1] - self.points[0]) / (len(self.points) - 1)
        rise = torch.maximum(*(side.diff(dim=0).abs().amax(0) for side in (self.below, self.above)))
        room = torch.where(step > 0, rise / torch.where(step > 0, step, 1.0), 0.0) * error
        return Samples(self.points, self.below - room, self.above + room)


class SmoothRelaxation(NamedTuple):
    """Lines of an activation's change and of its derivative, and samples of the derivative if it is smooth."""

    change: Relaxation
    derivative: Relaxation
    samples: Samples | None


def relax_smooth(
    activation: Activation,
    parameters: Parameters,
    lower: Tensor,  # shape: (b, u)
    upper: Tensor,  # shape: (b, u)
    center: Tensor,  # shape: (b, u)
    dl: Tensor,  # shape: (b, u)
    du: Tensor,  # shape: (b, u)
) -> SmoothRelaxation:
    """Lines in ``t = z - z0`` on ``l <= z <= u``, which contains z0.

    Where the interval is too narrow for a grid, or something on it is infinite, they are the mean value theorem's
    ``a(z) - a(z0) = d t`` and the constants ``dl <= a'(z) <= du``.

    Args:
        activation: a smooth function, or one with a kink somewhere.
        parameters: its parameters, numbers.
        lower: lower bounds l of the pre-activations.
        upper: upper bounds u.
        center: pre-activations z0 at the centres of the regions.
        dl: lower ends of the derivatives' ranges that are known of z (on a part of [l, u] if z0 lies outside of it).
        du: upper ends; neurons with ``dl = du`` only fill up a list.

    Returns:
        Lines of the change ``a(z) - a(z0)``, and of the derivative ``a'(z)``; both 0 for what fills up a list. And the
        derivative at the points of the grid, constant where there is none.
    """
    zero = torch.zeros_like(dl)
    constant = Relaxation(zero, dl, zero, du)
    valid = dl < du
    grid = _Grid.over(activation, parameters, lower, upper, center)
    broad = valid & grid.usable()
    if not bool(broad.all()):
        # What cannot be used is held at a point: infinite slopes would leave NaN in the gradients of all others.
        grid = _Grid.over(activation, parameters, *(torch.where(broad, value, 1.0) for value in (lower, upper, center)))
    low, high = activation.derivative_range(lower, upper, parameters)
    by_mean_value = _mean_value(low, high, lower - center, upper - center)
    change = grid.change().where(broad, by_mean_value).where(valid, Relaxation(zero, zero, zero, zero))
    below, above = grid.derivative_at_points()
    points = lower - center + _shares(lower) * (upper - lower)
    samples = Samples(points, torch.where(broad, below, dl), torch.where(broad, above, du))
    return SmoothRelaxation(change, _between(grid.points, below, above).where(broad, constant), samples)


def smooth_family(
    activation: Activation,
    parameters: Parameters,
    lower: Tensor,  # shape: (b, u)
    upper: Tensor,  # shape: (b, u)
    center: Tensor,  # shape: (b, u)
    dl: Tensor,  # shape: (b, u)
    du: Tensor,  # shape: (b, u)
) -> Relaxation:
    """Several lines of the change ``a(z) - a(z0)`` on either side, in the order of their slopes: (n, b, u).

    All that touch the hull of the function have slopes between those of its first and its last edge; these are so many
    at equal distances. Where there is no grid (see `relax_smooth`) all are the mean value theorem's, and so are they 0
    for what fills up a list.

    Args:
        activation: as in `relax_smooth`.
        parameters: as in `relax_smooth`.
        lower: as in `relax_smooth`.
        upper: as in `relax_smooth`.
        center: as in `relax_smooth`.
        dl: lower ends of the derivative's ranges over all of [l, u] and z0.
        du: upper ends.
    """
    zero = torch.zeros_like(dl)
    valid = dl < du
    grid = _Grid.over(activation, parameters, lower, upper, center)
    broad = valid & grid.usable()
    if not bool(broad.all()):
        grid = _Grid.over(activation, parameters, *(torch.where(broad, value, 1.0) for value in (lower, upper, center)))
    by_mean_value = _mean_value(dl, du, lower - center, upper - center)
    below, above = grid.change_at_points()
    upper_slope, upper_constant = _lines_above(grid.points, above, dl, du)
    lower_slope, lower_constant = _lines_above(grid.points, -below, -du, -dl)
    lines = Relaxation(-lower_slope, -lower_constant, upper_slope, upper_constant)
    return lines.where(broad, by_mean_value).where(valid, Relaxation(zero, zero, zero, zero))


def _mean_value(low: Tensor, high: Tensor, first: Tensor, last: Tensor) -> Relaxation:
    """Lines of ``d t`` for d in [low, high] and t in [first, last]: the middle slope, -+ half the width times |t|."""
    slope, off = (low + high) / 2, (high - low) / 2 * torch.maximum(first.abs(), last.abs())
    return Relaxation(slope, -off, slope, off)


@dataclass(frozen=True, eq=False)
class _Grid:
    """An activation at equidistant points between bounds of its pre-activations.

    Attributes:
        points: distances of the points from the centre, shape (n + 1, b, u).
        slopes: derivative at the points, shape (n + 1, b, u).
        ranges: bounds of the derivative between neighbouring points, shape (n, b, u) each.
        curvature: bound of the second derivative of the derivative, infinite where there is none; shape (b, u).
        center_slope: derivative at the centre, shape (b, u).
        ends: whether the function is not defined everywhere.
    """

    points: Tensor
    slopes: Tensor
    ranges: Interval
    curvature: Tensor
    center_slope: Tensor
    ends: bool

    @classmethod
    def over(
        cls, activation: Activation, parameters: Parameters, lower: Tensor, upper: Tensor, center: Tensor
    ) -> _Grid:
        """Evaluate an activation, whose parameters are numbers, between bounds of shape (b, u)."""
        points = lower + _shares(lower) * (upper - lower)
        points = torch.cat((points[:-1], upper.unsqueeze(0)))
        slopes = activation.derivative(points, parameters)
        return cls(
            points - center,
            slopes,
            activation.derivative_range(points[:-1], points[1:], parameters, (slopes[:-1], slopes[1:])),
            activation.derivative_curvature(lower, upper, parameters),
            activation.derivative(center, parameters),
            activation.domain(parameters) is not None,
        )

    @property
    def _step(self) -> Tensor:
        """Distance h of two points: (b, u)."""
        return (self.points[-1] - self.points[0]) / _PIECES

    @property
    def _smooth(self) -> Tensor:
        """Where the derivative has a bounded second derivative: (b, u)."""
        return self.curvature.isfinite()

    def usable(self) -> Tensor:
        """Where the points can be told apart, and everything at and between them is finite: (b, u)."""
        scale = torch.maximum(self.points[0].abs(), self.points[-1].abs())
        unit = eps(scale)
        broad = self._step * _PIECES > NARROW * unit * scale.clamp(min=unit)
        if self.ends:  # no curvature at the end of the domain: the slope of the derivative can be infinite there
            broad = broad & self._smooth
        return (
            broad
            & self.points.isfinite().all(0)
            & self.slopes.isfinite().all(0)
            & (self.ranges[0].isfinite().all(0) & self.ranges[1].isfinite().all(0))
        )

    def derivative_at_points(self) -> tuple[Tensor, Tensor]:
        """What the derivative lies between: its values, lowered and raised by ``K h^2 / 8``."""
        rise = torch.where(self._smooth, self.curvature, 0.0) * self._step.square() / 8
        above = torch.where(self._smooth, self.slopes + rise, _at_points(self.ranges[1], torch.maximum))
        below = torch.where(self._smooth, self.slopes - rise, _at_points(self.ranges[0], torch.minimum))
        return below, above

    def change(self) -> Relaxation:
        """Lines of the function, its value at the centre taken off: ``a(z) - a(z0)``."""
        return _between(self.points, *self.change_at_points())

    def change_at_points(self) -> Interval:
        """What lines of ``a(z) - a(z0)`` have to lie below and above at the points, (n + 1, b, u) each.

        Bounds of ``a(z_i) - a(z_0)`` at every point z_i add up those of the pieces before it. Those of the centre,
        which lies in one of the pieces, are taken off, and between the points there is room for ``(du - dl) h / 4``.
        """
        step = self._step
        at_points = [torch.cat((torch.zeros_like(side[:1]), side.cumsum(0))) for side in self._gained(
            self.slopes[:-1], self.slopes[1:], step, *self.ranges
        )]  # fmt: skip
        # From the last point before the centre the same rule takes us there.
        piece = ((self.points <= 0).sum(0, keepdim=True) - 1).clamp(0, _PIECES - 1)
        before, slope, least, most, *reached = (
            value.gather(0, piece).squeeze(0) for value in (self.points, self.slopes, *self.ranges, *at_points)
        )
        rest = self._gained(slope, self.center_slope, -before, least, most)
        rise = _at_points((self.ranges[1] - self.ranges[0]) * step / 4, torch.maximum)
        return at_points[0] - (reached[1] + rest[1]) - rise, at_points[1] - (reached[0] + rest[0]) + rise

    def _gained(self, first: Tensor, last: Tensor, step: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds of the integral of the derivative between two points: trapezoidal rule, and mean value theorem.

        Args:
            first: derivative at the first point.
            last: derivative at the last point.
            step: distance of the points.
            least: lower end of the derivative's range between them.
            most: upper end.
        """
        trapezoid = step * (first + last) / 2
        error = torch.where(self._smooth, self.curvature, 0.0) * step.pow(3) / 12
        low, high = step * least, step * most
        return (
            torch.where(self._smooth, torch.maximum(low, trapezoid - error), low),
            torch.where(self._smooth, torch.minimum(high, trapezoid + error), high),
        )


def _shares(like: Tensor) -> Tensor:
    """Where the points lie in an interval, from 0 to 1: (n + 1, 1, 1)."""
    return torch.linspace(0, 1, _PIECES + 1, dtype=like.dtype, device=like.device).reshape(-1, 1, 1)


def _at_points(pieces: Tensor, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """For every point the extreme of the values of the pieces beside it: (n, ...) -> (n + 1, ...)."""
    return torch.cat((pieces[:1], extreme(pieces[:-1], pieces[1:]), pieces[-1:]))


def _between(points: Tensor, below: Tensor, above: Tensor) -> Relaxation:
    """Lines below and above values at points; what lies between two points lies between the values' chords."""
    upper_slope, upper_constant = _line_above(points, above)
    lower_slope, lower_constant = _line_above(points, -below)
    return Relaxation(-lower_slope, -lower_constant, upper_slope, upper_constant)


def _line_above(points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Slope and constant of the line above all values that is lowest at the middle point.

    Args:
        points: equidistant distances from the centre, shape (n + 1, b, u).
        values: what the line lies above at these points, shape (n + 1, b, u).

    Returns:
        The slope of the concave hull's edge over the middle, or if the middle is a corner of the hull, the mean of the
        slopes on both sides, which is between them; and the constant with which the line touches. Shape (b, u) each.
    """
    slope, certain = _simple_slope(points, values)
    if not bool(certain.all()):
        rest = ~certain
        slope = slope.masked_scatter(rest, _hull_slope(points[:, rest], values[:, rest]))
    return slope, (values - slope * points).amax(0)


def _lines_above(points: Tensor, values: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Slopes and constants of `_CHOICES` lines above all values that touch their hull, (n, b, u) each.

    Args:
        points: as in `_line_above`.
        values: as in `_line_above`.
        least: the slopes are cut to what is between this and `most`, (b, u).
        most: see `least`.
    """
    gap = points[-1] - points[0]
    apart = torch.where(gap > 0, gap, 1.0) / _PIECES  # of neighbours
    count = torch.arange(1, _PIECES + 1, dtype=points.dtype, device=points.device).reshape(-1, 1, 1)
    first = ((values[1:] - values[0]) / (count * apart)).amax(0)
    last = ((values[-1] - values[:-1]) / (count.flip(0) * apart)).amin(0)
    share = torch.linspace(0, 1, _CHOICES, dtype=points.dtype, device=points.device).reshape(-1, 1, 1)
    slopes = torch.lerp(last, first, share).maximum(least).minimum(most)
    return slopes, torch.stack([(values - slope * points).amax(0) for slope in slopes])


def _simple_slope(points: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The slope of `_line_above` where values are concave, or convex, and whether it is one of these.

    No line above all values lies below the middle one, or below the chord between both ends. So the slope around the
    middle is the best if the line above with that slope touches the middle value, and the chord if none lies above it.
    """
    middle = _PIECES // 2
    gap = points[-1] - points[0]
    span = torch.where(gap > 0, gap, 1.0)
    around, chord = (values[middle + 1] - values[middle - 1]) * (_PIECES / 2) / span, (values[-1] - values[0]) / span
    with torch.no_grad():
        above_chord = (values - chord * (points - points[0])).amax(0) - values[0]
        above_middle = (values - around * (points - points[middle])).amax(0) - values[middle]
        bend = (values[middle] - (values[0] + values[-1]) / 2).abs()
        room = _AS_GOOD * bend + 2 * eps(values) * values[middle].abs()
        convex, concave = above_chord <= room, above_middle <= room
    return torch.where(convex, chord, around), convex | concave


def _hull_slope(points: Tensor, values: Tensor) -> Tensor:
    """The slope of `_line_above`, of points and values of shape (n + 1, m)."""
    middle = _PIECES // 2
    distance = (points - points[middle]).abs()
    distance = torch.where(distance > 0, distance, 1.0)
    from_left = (values[middle] - values[:middle]) / distance[:middle]
    to_right = (values[middle + 1 :] - values[middle]) / distance[middle + 1 :]
    first, last = to_right.amax(0), from_left.amin(0)
    height, slope = values[middle], (first + last) / 2  # where the middle is a corner of the hull
    for left in range(middle):
        span = distance[left] + distance[middle + 1 :]
        secant = (values[middle + 1 :] - values[left]) / span
        highest, at = (values[left] + secant * distance[left]).max(0)
        edge = highest > height
        height = torch.where(edge, highest, height)
        slope = torch.where(edge, secant.gather(0, at.unsqueeze(0)).squeeze(0), slope)
    return slope
