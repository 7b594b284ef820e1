r"""Linear relaxations: two lines that a function lies between, and those of functions with a kink at 0.

A function f of a variable v is *relaxed* on an interval by two lines,

.. math:: \underline{s} v + \underline{c} \;\le\; f(v) \;\le\; \overline{s} v + \overline{c} .

For an activation, and for its derivative, v is ``t = z - z0``: the distance of the pre-activation z from its value z0
at the centre of the region. For a product ``d y`` of an uncertain derivative and an uncertain gradient it is y (see
`recurjac_plugin.passes.rules`), and the lines may be planes, with a slope in t besides.

The lines of ReLU are CROWN's (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866, section 3.2).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .activation import Activation, Parameters


@dataclass(frozen=True, eq=False)
class Relaxation:
    """``lower_slope v + lower_constant <= f <= upper_slope v + upper_constant``, neuron by neuron.

    Attributes:
        lower_slope, lower_constant: the line below; shape (b, u), or (b, k, u) where it differs by row.
        upper_slope, upper_constant: the line above.
        lower_t_slope, upper_t_slope: of planes, what is added on either side for each unit of ``t = z - z0``; None for
            lines.
    """

    lower_slope: Tensor
    lower_constant: Tensor
    upper_slope: Tensor
    upper_constant: Tensor
    lower_t_slope: Tensor | None = None
    upper_t_slope: Tensor | None = None

    @staticmethod
    def stacked(several: Sequence[Relaxation]) -> Relaxation:
        """Lines side by side, without slopes in t: n of shape (b, u) as one relaxation of shape (n, b, u)."""
        return Relaxation(*(torch.stack(parts) for parts in zip(*(each._lines() for each in several), strict=True)))

    def where(self, condition: Tensor, other: Relaxation) -> Relaxation:
        """These lines where a condition of shape (b, u) holds, another relaxation's elsewhere; both may be several."""
        return Relaxation(*(torch.where(condition, mine, its) for mine, its in zip(self._lines(), other._lines())))

    def padded(
        self,
        error: Tensor,  # shape: (b, u)
        steepest: Tensor | float = 0.0,  # shape: (b, u)
        rounding: Tensor | float = 0.0,  # shape: (b, u)
    ) -> Relaxation:
        """Lines that hold as well for a v, and a place that v is counted from, that are off by an error.

        ``constant -+ (|slope| + steepest) error -+ rounding``.

        Args:
            error: of v.
            steepest: the largest derivative of f in absolute value, if f is counted from its value there, too.
            rounding: what else is left room for.
        """
        below, above = ((s.abs() + steepest) * error + rounding for s in (self.lower_slope, self.upper_slope))
        return Relaxation(self.lower_slope, self.lower_constant - below, self.upper_slope, self.upper_constant + above)

    def mapped(self, function: Callable[[Tensor], Tensor]) -> Relaxation:
        """A function of every tensor of these lines."""
        t_slopes = (self.lower_t_slope, self.upper_t_slope)
        return Relaxation(
            *map(function, self._lines()), *(None if slope is None else function(slope) for slope in t_slopes)
        )

    def for_rows(self) -> Relaxation:
        """The same lines for all rows: (b, u) -> (b, 1, u)."""
        return self.mapped(lambda value: value.unsqueeze(1))

    def _lines(self) -> tuple[Tensor, ...]:
        return self.lower_slope, self.lower_constant, self.upper_slope, self.upper_constant


def relax_kinked(
    activation: Activation,
    parameters: Parameters,
    index: Tensor,  # shape: (b, u)
    lower: Tensor,  # shape: (b, *shape)
    upper: Tensor,  # shape: (b, *shape)
    center: Tensor,  # shape: (b, *shape)
    choices: Sequence[float | None] = (None,),
) -> list[Relaxation]:
    """Lines of ``f(z) - f(z0)`` in ``t = z - z0`` for an activation that is linear on either side of 0.

    Args:
        activation: its slopes are ``f'(-1)`` and ``f'(1)``.
        parameters: its parameters; tensors have the shape of the pre-activation.
        index: the neurons whose lines are wanted, by position in the flattened shape.
        lower: lower bounds of z.
        upper: upper bounds of z.
        center: the values z0 at the centres of the regions.
        choices: slopes of the line through 0, see `linear_pieces`.

    Returns:
        For each of the choices a relaxation of shape (b, u).
    """
    sides = (center.new_full((1, *center.shape[1:]), sign) for sign in (-1.0, 1.0))
    slopes = (activation.derivative(side, parameters).expand_as(center) for side in sides)
    numbers = [value.flatten(1).gather(1, index) for value in (*slopes, lower, upper, center)]
    return [linear_pieces(*numbers, near=near) for near in choices]


def product_lines(
    dl: Tensor,  # shape: (*any)
    du: Tensor,  # shape: (*any)
    first: Tensor,  # shape: (*any)
    last: Tensor,  # shape: (*any)
) -> Relaxation:
    r"""Lines of ``d t`` in t for every d in [dl, du] and t in [first, last].

    Where t has one sign the extreme derivative for that sign is the slope; elsewhere they are the chords

    .. math:: d t \le s t + (\overline{d} - \underline{d}) \frac{-t_1 t_2}{t_2 - t_1}, \qquad
        s = \frac{\overline{d} t_2 - \underline{d} t_1}{t_2 - t_1},

    of the convex function ``max(dl t, du t)``, and of its concave counterpart below.

    Source: McCormick, Mathematical Programming 10, 1976, for products of two bounded factors.
    """
    inside = (first < 0) & (last > 0)
    width = torch.where(inside, last - first, 1.0)
    height = torch.where(inside, (du - dl) * -first * (last / width), 0.0)
    positive = first >= 0
    return Relaxation(
        lower_slope=torch.where(inside, (dl * last - du * first) / width, torch.where(positive, dl, du)),
        lower_constant=-height,
        upper_slope=torch.where(inside, (du * last - dl * first) / width, torch.where(positive, du, dl)),
        upper_constant=height,
    )


def linear_pieces(
    left: Tensor,
    right: Tensor,
    lower: Tensor,
    upper: Tensor,
    center: Tensor,
    *,
    near: float | Tensor | None = None,
) -> Relaxation:
    r"""Lines of ``f(z) - f(z0)`` in ``t = z - z0`` for ``f(z) = right z`` above 0 and ``left z`` below.

    On one side of f the chord is the best line,

    .. math:: s z + (\text{left} - \text{right}) \frac{l u}{u - l}, \qquad
        s = \frac{\text{right} \, u - \text{left} \, l}{u - l} .

    On the other side any line through 0 holds whose slope lies between left and right.

    Args:
        left: slope below 0. All tensors have the shape (b, u).
        right: slope above 0.
        lower: lower bound l of z; neurons that do not have 0 between their bounds get lines of zeros.
        upper: upper bound u.
        center: the value z0 at the centre of the region.
        near: slope of the line through 0, from 0 (that of `left`) to 1 (that of `right`), or one for each neuron. None
            takes the slope that holds on the longer part of the interval, as CROWN and the host do.
    """
    # What fills up a list of neurons is stable: its exact slope is part of the gains already.
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
