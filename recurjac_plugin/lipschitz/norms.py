r"""From bounds of a Jacobian to the constant ``sup |J|_{p->q}`` of the vector output, p and q of 1, 2, inf.

With ``M = max(|L|, |U|)``, ``J_mid = (L + U) / 2`` and ``J_rad = (U - L) / 2``, entry by entry, it is the smallest of

* ``|M|_{p->q}``, see `matrix_norms`;
* ``|J_mid|_{p->q} + |J_rad|_{p->q}`` where signs matter (2 -> 2, inf -> 1, inf -> 2, 2 -> 1), which tends to the true
  norm as the region shrinks, while the first does not;
* sums of ``|J|`` that are bounded jointly (`rows`): ``R_k`` of row k, ``C_r`` of column r, S of all entries:

  .. math:: |J|_{\infty \to \infty} \le \max R, \quad |J|_{1 \to 1} \le \max C, \quad |J|_{\infty \to 1} \le S, \quad
      |J|_{\infty \to 2} \le \min(|R|_2, \sqrt{S \max R}), \\
      |J|_{2 \to 1} \le \min(|C|_2, \sqrt{S \max C}), \qquad |J|_{2 \to 2} \le \sqrt{\max R \, \max C}.

Source:
    The last line is Hölder's inequality and the interpolation of Riesz and Thorin; the second point the triangle
    inequality (Rump, Acta Numerica 2010, section 10.3, for matrices with midpoint and radius).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurjac_plugin.jacobian.bounded import BoundedJacobian

from .matrix_norms import has_formula, norm_above, norm_of_magnitudes
from .rows import column_constants, row_constants, sum_of_magnitudes

# Sums are bounded jointly for the interpolation where it would come near the others without that.
_PROMISING = 2.0


def vector_constant(bounded: BoundedJacobian, p: float, q: float, proven: bool = False) -> Tensor:
    """Upper bound of ``sup |J|_{p->q}`` over the regions, the smallest of the module's: (b,).

    Args:
        bounded: bounds of the Jacobian, and of sums over its entries.
        p: norm of the input, 1, 2 or inf.
        q: norm of the output, 1, 2 or inf.
        proven: whether nothing that rounding does puts it below the constant, but for the rounding of sums of numbers
            of one sign and of single operations.
    """
    lower, upper = bounded.jacobian
    largest = torch.maximum(upper, -lower)
    best = norm_of_magnitudes(largest, p, q, proven)
    if p == q == 2 or not has_formula(p, q):
        middle = (lower + upper) / 2
        radius = torch.maximum(upper - middle, middle - lower)
        centred = norm_above(middle, p, q, proven) + norm_of_magnitudes(radius, p, q, proven)
        best = torch.minimum(best, centred)
    if p == q == 2:
        plain = (largest.sum(2).amax(1) * largest.sum(1).amax(1)).sqrt()
        if bool((plain > _PROMISING * best).all()):
            return best
    joint = _by_sums(bounded, p, q)
    return best if joint is None else torch.minimum(best, joint)


def _by_sums(bounded: BoundedJacobian, p: float, q: float) -> Tensor | None:
    """The bound by sums of ``|J|`` that are bounded jointly, (b,); None where it is never smaller."""
    if (p == 1 and q != 1) or (q == math.inf and p != math.inf):
        return None
    rows = columns = total = None
    if p == math.inf or q == 2:
        ones = torch.ones_like(bounded.jacobian[0][:, 0])
        rows = row_constants(bounded, ones, norm=math.inf)
    if q == 1 or p == 2:
        columns = column_constants(bounded)
    if q == 1 and p == 1:
        assert columns is not None
        return columns.amax(1)
    if p == q == math.inf:
        assert rows is not None
        return rows.amax(1)
    if p == q == 2:
        assert rows is not None and columns is not None
        return (rows.amax(1) * columns.amax(1)).sqrt()
    total = sum_of_magnitudes(bounded)
    if p == math.inf and q == 1:
        assert rows is not None and columns is not None
        return torch.minimum(total, torch.minimum(rows.sum(1), columns.sum(1)))
    sums = rows if p == math.inf else columns
    assert sums is not None
    return torch.minimum(torch.linalg.vector_norm(sums, dim=1), (total * sums.amax(1)).sqrt())
