r"""What float64 may be off by, proved: sums, products and quotients rounded to nearest, in any order.

With the unit roundoff :math:`u = 2^{-53}`, a sum of n products :math:`\sum_i a_i b_i`, computed in any order, with or
without fused operations, is off by at most

.. math:: \gamma_n \sum_i |a_i b_i| + n\, 2^{-1074}, \quad \gamma_n = \frac{n u}{1 - n u} \le 2 n u ,

the last term for products that underflow. A sum of n numbers of one sign has the relative error :math:`\gamma_n`, so
that errors which were themselves summed up in float64 are covered once they are multiplied by `GROWTH`. What overflows
becomes infinite or NaN, and proves nothing.

Source: Higham: Accuracy and Stability of Numerical Algorithms, 2nd edition, 2002, section 3.1 (sums and products, in
any order); Rump: Verification methods, Acta Numerica 19, 2010, for its use in proofs.
"""

from __future__ import annotations

import numpy as np

UNIT = 2.0**-53
"""Relative error of one operation."""

GROWTH = 1.0 + 2.0**-20
"""Times a sum of non-negative numbers: more than the sum without rounding, for up to 2**32 operations."""

TINY = 2.0**-1000
"""More than all products of one sum lose together by underflow, for up to 2**70 of them (2**22 where a library has
told the processor to flush what underflows to zero)."""


def gamma(operations: int) -> float:
    r"""Twice ``operations`` units, which is at least :math:`\gamma_n` for n operations."""
    return 2.0 * operations * UNIT


def below(x: np.ndarray) -> np.ndarray:
    """The next numbers below, of the same shape."""
    return np.nextafter(x, -np.inf)


def above(x: np.ndarray) -> np.ndarray:
    """The next numbers above, of the same shape."""
    return np.nextafter(x, np.inf)
