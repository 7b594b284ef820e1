r"""The rules: linear bounds of ``d y`` in ``y`` for an uncertain derivative d and an uncertain gradient y.

At an undetermined neuron the derivative is only known as ``d in [dl, du]`` and the derivative of the output with
respect to the neuron's output as ``y in [yl, yu]``. A rule gives a line that lies above ``d y`` on that rectangle,

.. math:: d y \le s y + c \qquad
    \text{for all } d \in [\underline{d}, \overline{d}],\; y \in [\underline{y}, \overline{y}],

and the recursion does the rest: of a coefficient times ``d y`` the slope times the coefficient is pushed on, the
constant times the coefficient is final. The lower line is the negated upper line of ``d (-y)``, so a rule is written
once, one-sided.

The rules differ only where the sign of y is unknown (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783, eq. 9-12):

==================  =============================================  ===========================================
rule                sign of y known                                sign of y unknown
==================  =============================================  ===========================================
`recurjac`          slope: the extreme d for that sign             constant ``max d y``
`recurjac_linear`   slope: the extreme d for that sign             chord of ``max_d d y`` over [yl, yu]
==================  =============================================  ===========================================

Where a derivative is known to lie between two lines in the neuron's pre-activation, `mccormick` has a rule whose lines
are planes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.lines import Relaxation


class UpperLine(NamedTuple):
    """``d y <= slope y + constant`` for all d in [dl, du] and y in [yl, yu], or a plane above ``d y``.

    Attributes:
        slope: shape (b, k, u).
        constant: shape (b, k, u).
        t_slope: of a plane ``slope y + constant + t_slope t``, the factor of the pre-activation's distance t from its
            value at the centre of the region, shape (b, k, u); None for a line.
    """

    slope: Tensor
    constant: Tensor
    t_slope: Tensor | None = None


Rule = Callable[[Tensor, Tensor, Tensor, Tensor], UpperLine]
"""``(dl, du, yl, yu) -> line above d y``: dl and du of shape (b, 1, u), the others and the line of shape (b, k, u)."""


def _largest_product(dl: Tensor, du: Tensor, yl: Tensor, yu: Tensor) -> Tensor:
    """``max d y`` over the rectangle: attained at a corner, the derivative chosen by the sign of y."""
    return torch.maximum(torch.where(yu >= 0, du, dl) * yu, torch.where(yl >= 0, du, dl) * yl)


def recurjac(
    dl: Tensor,  # shape: (b, 1, u)
    du: Tensor,  # shape: (b, 1, u)
    yl: Tensor,  # shape: (b, k, u)
    yu: Tensor,  # shape: (b, k, u)
) -> UpperLine:
    r"""RecurJac's line: ``d* y`` where the sign of y is known, the constant ``max d y`` elsewhere.

    With ``yl >= 0`` the largest product is ``du y``, with ``yu <= 0`` it is ``dl y``: d* is the extreme derivative for
    that sign. With ``yl < 0 < yu`` it is attained at one of two corners,

    .. math:: d y \le \max(\overline{d} \, \overline{y},\; \underline{d} \, \underline{y}) .

    Source: RecurJac, arXiv:1810.11783, eq. 9-12.

    Returns:
        Slope and constant, both of shape (b, k, u).
    """
    unknown = (yl < 0) & (yu > 0)
    slope = torch.where(yl >= 0, du, dl)
    constant = _largest_product(dl, du, yl, yu)
    zero = torch.zeros_like(constant)
    return UpperLine(torch.where(unknown, zero, slope), torch.where(unknown, constant, zero))


def recurjac_linear(
    dl: Tensor,  # shape: (b, 1, u)
    du: Tensor,  # shape: (b, 1, u)
    yl: Tensor,  # shape: (b, k, u)
    yu: Tensor,  # shape: (b, k, u)
) -> UpperLine:
    r"""RecurJac's line where the sign of y is known; elsewhere the chord of the convex function ``max(dl y, du y)``.

    The chord leads through ``(yl, dl yl)`` and ``(yu, du yu)``:

    .. math:: d y \le \frac{\overline{d} \, \overline{y} - \underline{d} \, \underline{y}}
        {\overline{y} - \underline{y}} \, y
        + \frac{(\overline{d} - \underline{d}) (-\underline{y}) \, \overline{y}}{\overline{y} - \underline{y}} .

    It lies below the larger of its end points, which is the constant of `recurjac`: never looser for the same bounds of
    y.

    Source: own for the chord; RecurJac, arXiv:1810.11783, eq. 9-12, where the sign is known.

    Returns:
        Slope and constant, both of shape (b, k, u).
    """
    unknown = (yl < 0) & (yu > 0)
    width = torch.where(unknown, yu - yl, torch.ones_like(yl))
    zero = torch.zeros_like(width)
    chord = (du * yu - dl * yl) / width
    constant = (du - dl) * (-yl) * (yu / width)
    return UpperLine(
        torch.where(unknown, chord, torch.where(yl >= 0, du, dl)),
        torch.where(unknown, constant, zero),
    )


RULES: dict[str, Rule] = {"recurjac": recurjac, "recurjac_linear": recurjac_linear}
"""The rules by name, as the table of methods (`jacobian.methods`) has them."""


def relax_products(
    rule: Rule,
    dl: Tensor,  # shape: (b, 1, u)
    du: Tensor,  # shape: (b, 1, u)
    yl: Tensor,  # shape: (b, k, u)
    yu: Tensor,  # shape: (b, k, u)
) -> Relaxation:
    """Lines, or planes, below and above ``d y`` by one rule; shape (b, k, u) each.

    The lower one is the upper one of ``d (-y)``, negated: with ``d (-y) <= s (-y) + c`` follows ``d y >= s y - c``. The
    slope in t of a plane changes its sign, too.

    Source: own, for any rule; RecurJac's bounds on both sides are arXiv:1810.11783, eq. 9-12.
    """
    upper, mirrored = rule(dl, du, yl, yu), rule(dl, du, -yu, -yl)
    return Relaxation(
        lower_slope=mirrored.slope,
        lower_constant=-mirrored.constant,
        upper_slope=upper.slope,
        upper_constant=upper.constant,
        lower_t_slope=None if mirrored.t_slope is None else -mirrored.t_slope,
        upper_t_slope=upper.t_slope,
    )
