"""The rules: linear bounds of ``d y`` in ``y`` for an uncertain derivative d and an uncertain gradient y.

At an undetermined neuron the derivative is only known as ``d in [dl, du]`` and the derivative of the output with
respect to the neuron's output as ``y in [yl, yu]``. A rule returns two lines that hold on that rectangle,

    lower_slope y + lower_constant <= d y <= upper_slope y + upper_constant,

and the recursion does the rest: for a coefficient ``c > 0`` an upper bound of ``c d y`` takes the upper line, for
``c < 0`` the lower line; the slope times c is pushed on, the constant times c is final. The lower line is the
negated upper line of ``-y``, so a rule is written once, one-sided.

The rules differ only where the sign of y is unknown (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, eq. 9-12):

==================  =============================================  ===========================================
rule                sign of y known                                sign of y unknown
==================  =============================================  ===========================================
`recurjac`          slope: the extreme d for that sign             constant ``max d y``
`recurjac_linear`   slope: the extreme d for that sign             chord of ``max_d d y`` over [yl, yu]
==================  =============================================  ===========================================

Where the derivative is known better than by its range, as lying between two lines in the neuron's pre-activation z,
`mccormick` bounds ``d y`` by a plane in y and z: one of the product's envelope (McCormick, Mathematical Programming 10,
1976) or the chord of `recurjac_linear`, whichever is lower in the middle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Lines(NamedTuple):
    """``lower_slope y + lower_constant <= d y <= upper_slope y + upper_constant``; all of shape (b, k, j).

    The forms, where there are any, are factors of the neuron's ``t = z - z0`` that are added on either side.
    """

    upper_slope: Tensor
    upper_constant: Tensor
    lower_slope: Tensor
    lower_constant: Tensor
    upper_form: Tensor | None = None
    lower_form: Tensor | None = None


class Line(NamedTuple):
    """``d y <= slope y + constant`` for all d in [dl, du] and y in [yl, yu]; plus ``form t`` where there is one."""

    slope: Tensor
    constant: Tensor
    form: Tensor | None = None


UpperLine = Callable[[Tensor, Tensor, Tensor, Tensor], Line]


def _largest_product(dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor) -> Tensor:
    """``max d y`` over the rectangle: attained at a corner, the derivative chosen by the sign of y."""
    return torch.maximum(torch.where(yu >= 0, du, dl) * yu, torch.where(yl >= 0, du, dl) * yl)


def recurjac(dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor) -> Line:
    """Slope where the sign of y is known, constant elsewhere."""
    unknown = (yl < 0) & (yu > 0)
    slope = torch.where(yl >= 0, du, dl)
    constant = _largest_product(dl, du, yl, yu)
    zero = torch.zeros_like(constant)
    return Line(torch.where(unknown, zero, slope), torch.where(unknown, constant, zero))


def recurjac_linear(dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor) -> Line:
    """Slope where the sign of y is known; elsewhere the chord of the convex function ``max(dl y, du y)``.

    Through ``(yl, dl yl)`` and ``(yu, du yu)``: slope ``(du yu - dl yl) / (yu - yl)``, constant
    ``(du - dl) (-yl) yu / (yu - yl)``. A chord lies below the larger of its end points, which is the constant of
    `recurjac`: never looser for the same bounds of y.
    """
    unknown = (yl < 0) & (yu > 0)
    width = torch.where(unknown, yu - yl, torch.ones_like(yl))
    zero = torch.zeros_like(width)
    chord = (du * yu - dl * yl) / width
    constant = (du - dl) * (-yl) * (yu / width)
    return Line(
        torch.where(unknown, chord, torch.where(yl >= 0, du, dl)),
        torch.where(unknown, constant, zero),
    )


def both_lines(rule: UpperLine, dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor) -> Lines:
    """Upper and lower line of ``d y``: the lower one is the upper one of ``d (-y)``, negated.

    With ``d (-y) <= s (-y) + t`` follows ``d y >= s y - t``.
    """
    upper, mirrored = rule(dl, du, yl, yu), rule(dl, du, -yu, -yl)
    lower_form = None if mirrored.form is None else -mirrored.form
    return Lines(upper.slope, upper.constant, mirrored.slope, -mirrored.constant, upper.form, lower_form)
