r"""Every room that is left for rounding, in one place: its size, its unit, and its reason.

All arithmetic here rounds to the nearest number of its type; torch has no directed rounding. A sum of n terms is off by
at most about ``n eps sum |term|`` (Higham, Accuracy and Stability of Numerical Algorithms, 2002, eq. 3.4) and in
practice by a few units of ``eps sum |term|``. So the unit is always ``eps`` (the distance of 1 from the next number)
times the size of what was summed up, and a constant says how many units are left.

=====================  ====  ================================================
what                   size  unit: eps times the
=====================  ====  ================================================
`PROOF`                  64  sizes of all terms of a bound
`SIGN_OF_DERIVATIVE`     64  sum over all ways through the network
`PER_SUM`                 2  sizes of all terms of a sum
`AT_KINKS`                8  (times an estimated error)
`CONTRACTION`            16  ends of a box, and terms of a row
`ELEMENTWISE`             8  value, and slope times argument
`GROSS`                1024  largest bound of a layer
`NARROW`               1024  larger end of an interval
`PERIODIC`                2  number of the period
`NEAR_POLES`              4  one plus the number of the pole
`EIGENVALUE`             64  longer side of a matrix
`GRAM`                 2^16  matrix above a Gram matrix
`SAME_FUNCTION`           8  largest output of a network
=====================  ====  ================================================

The other constants here are parts of a size, or multiples of such a room.
"""

from __future__ import annotations

import torch
from torch import Tensor

PROOF = 64.0
"""Of a proof, see `proof_slack`. Generous: on 50 VNN-COMP instances of all categories bounds in float32 rose above
those in float64 by at most 7 units."""

SIGN_OF_DERIVATIVE = 64
"""Of the sign of a derivative at a point, in the units of `certificates.derivative_rounding`."""

PER_SUM = 2
"""Of a sum, in the estimated errors of `gains.errors`."""

AT_KINKS = 8
"""Of an estimated error, where the derivative jumps. Elsewhere being off by the rounding itself is all that happens;
there a bound that is off by more hides one side of the kink, and the Jacobian misses an entire branch."""

NOTICEABLE = 16
"""Of an estimated error: bounds that are off by more show that it was no good estimate."""

UNEXPLAINED = 64
"""Of an estimated error: what is off by more is no rounding."""

CONTRACTION = 16.0
"""Of an end of a box that a linear bound moves: a cut is never made to the last digit."""

ELEMENTWISE = 8
"""Of values of element-wise functions, and of the intercepts of their lines: both are off by the rounding of the
argument, too."""

GROSS = 1024
"""What no rounding explains: bounds that miss the value at a centre, or are inverted, by more than this are wrong."""

NARROW = 1024
"""Intervals narrower than this are points, as far as a grid on them can tell."""

PERIODIC = 2
"""Of the number of a period where critical points repeat: none must be lost."""

NEAR_POLES = 4
"""Of the number of a period where poles repeat: none must be lost."""

EIGENVALUE = 64
"""Of the largest eigenvalue of a symmetric matrix, per element of its longer side."""

GRAM = 2.0**16
"""Of a matrix above a Gram matrix, in float64: what is inverted on its way is at least by a thousandth above 0."""

CONTRADICTION = 0.01
"""Two bounds of the same quantity contradict each other if they miss by more than this part of its size."""

AFFINE = 64
"""Units of rounding, times the square root of the number of inputs and the largest value, within which an affine
function keeps to straight lines: sums of products round at every step, in any order."""

SAME_FUNCTION = 8
"""Of outputs that two implementations of one function give. In most networks they are equal to the last digit; where
they are further apart than this, both are computed once more in another precision."""

SHRINKS_WITH_PRECISION = 2.0**-20
"""A difference that is rounding is by about 2^-29 smaller in float64 than in float32; another function's stays."""

VERGE = 4.0
"""Violations smaller than so many times what rounding explains are not searched for any further."""

WRITTEN_CONSTANT = float(torch.finfo(torch.float32).eps)
"""Relative difference of a constant from the one that a formula has: exporters write constants in float32."""


def eps(like: Tensor | torch.dtype) -> float:
    """The distance of 1 from the next number of a type, or of a tensor's type."""
    return float(torch.finfo(like.dtype if isinstance(like, Tensor) else like).eps)


def proof_slack(
    terms: Tensor,  # shape: (*any)
    fallen: Tensor | None = None,  # shape: (*any)
) -> Tensor:
    r"""What rounding may be responsible for in a bound that proves something.

    .. math:: 64 \varepsilon \Big(\sum_i |\text{term}_i| + |\text{fallen}|\Big).

    An estimate, not a proof.

    Args:
        terms: sums of the absolute values of all terms of the quantity at the centre of the region.
        fallen: how far the bound lies below the value there. Where it is not finite it counts as 0: a bound that is not
            finite is no proof, whatever its slack.

    Returns:
        Shaped like `terms`.
    """
    scale = terms if fallen is None else terms + torch.where(fallen.isfinite(), fallen.abs(), 0.0)
    return PROOF * eps(terms) * scale


def gamma(roundings: int) -> float:
    r"""Relative error of a product that is rounded so many times in float64, in any order.

    .. math:: \gamma_n = \frac{n u}{1 - n u}, \qquad u = 2^{-53},

    a little more, for the rounding of this number itself.

    Source: Higham, Accuracy and Stability of Numerical Algorithms, 2002, Lemma 3.1.
    """
    share = roundings * 2.0**-53
    return share / (1 - share) * (1 + 2.0**-40) if share < 0.5 else float("inf")


def underflow(products: int) -> float:
    """Absolute room for so many products in float64 that underflow, each by at most ``2^-1074``.

    It is large enough for ``2^-53`` times it to be that: errors that are relative to a sum with this in it cover it.
    """
    return products * 2.0**-1020


def proven_room(size: Tensor) -> Tensor:
    """What a few operations of float64 on numbers of a size can be off by, elementary functions among them."""
    return gamma(128) * size + underflow(128)


def sum_error(terms: int) -> float:
    """Relative error of a sum of so many float64 numbers of one sign: ``n eps``."""
    return terms * eps(torch.float64)


def half_of_the_digits(like: Tensor | torch.dtype) -> float:
    """The part of their size by which numbers differ that have half of their digits in common: the root of `eps`."""
    return eps(like) ** 0.5
