r"""From bounds of a Jacobian to the constant ``sup |J|_{p->q}`` of the vector output, p and q of 1, 2, inf.

With ``M = max(|L|, |U|)``, ``J_mid = (L + U) / 2`` and ``J_rad = (U - L) / 2``, entry by entry, it is the smallest of

* ``|M|_{p->q}``, see `matrix_norms`;
* ``|J_mid|_{p->q} + |J_rad|_{p->q}`` where signs matter (2 -> 2, inf -> 1, inf -> 2, 2 -> 1), which tends to the true
  norm as the region shrinks, while the first does not;
* sums of ``|J|`` that are bounded jointly, ``R_k`` over row k, ``C_r`` over column r, S over all entries: an entry of
  known sign takes part with that sign, one of unknown sign by the line ``|y| <= w y + t`` over its bounds, and the sum
  of all ``w J`` is pushed through the network together, because the entries share the neurons' derivatives;

  .. math:: |J|_{\infty \to \infty} \le \max R, \quad |J|_{1 \to 1} \le \max C, \quad |J|_{\infty \to 1} \le S, \quad
      |J|_{\infty \to 2} \le \min(|R|_2, \sqrt{S \max R}), \\
      |J|_{2 \to 1} \le \min(|C|_2, \sqrt{S \max C}), \qquad |J|_{2 \to 2} \le \sqrt{\max R \, \max C};

* what matrices above ``J J^T`` and ``J^T J`` say (`ellipsoids`), which do not grow faster than products of the layers'
  norms, where the others may.

Axes: b regions, k rows, columns.

Source:
    Sums over rows: RecurJac (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783), section 3.4, without lines. Constants
    from sums: Hölder's inequality and the interpolation of Riesz and Thorin. Midpoint and radius: the triangle
    inequality (Rump, Acta Numerica 2010, section 10.3).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import gamma, underflow

from .ellipsoids import LONG, SHORT, Grams, jacobian_grams
from .matrix_norms import dual_of, has_formula, norm_above, norm_of_magnitudes

# Sums are bounded jointly for the interpolation where it would come near the others without that.
_PROMISING = 2.0
_PUSHED = 64  # columns whose sums are bounded jointly, the largest ones: the others are seldom the largest afterwards


def constants_of_rows(bounded: BoundedJacobian, p: float) -> Tensor:
    """Upper bounds of ``sup |J_k|_{p*}`` for every row k, by `row_constants` and `ellipsoids`: (b, k)."""
    best = row_constants(bounded, torch.ones_like(bounded.jacobian[0][:, 0]), norm=p)
    if bounded.start is not None:
        best = torch.minimum(best, constants_of_rows(bounded.start, p))
    grams = _grams(bounded, p == 2)
    return best if grams is None else torch.minimum(best, grams.rows(p, bounded.jacobian[0].shape[2]).to(best))


def vector_constant(bounded: BoundedJacobian, p: float, q: float, proven: bool = False) -> Tensor:
    """Upper bound of ``sup |J|_{p->q}`` over the regions, the smallest of the module's: (b,).

    Args:
        bounded: bounds of the Jacobian, and of sums over its entries.
        p: norm of the input, 1, 2 or inf.
        q: norm of the output, 1, 2 or inf.
        proven: whether nothing that rounding does puts it below the constant, but for the rounding of sums of numbers
            of one sign and of single operations.
    """
    best = _by_entries(bounded, p, q, proven)
    if bounded.start is not None:
        best = torch.minimum(best, vector_constant(bounded.start, p, q, proven))
    grams = _grams(bounded, 2 in (p, q))
    if grams is not None:
        best = torch.minimum(best, grams.constant(p, q, bounded.jacobian[0].shape[2]).to(best))
    largest = torch.maximum(bounded.jacobian[1], -bounded.jacobian[0])
    if p == q == 2:
        plain = (largest.sum(2).amax(1) * largest.sum(1).amax(1)).sqrt()
        if bool((plain > _PROMISING * best).all()):
            return best
    joint = _by_sums(bounded, p, q)
    return best if joint is None else torch.minimum(best, joint)


def with_room_for_sums(constant: Tensor, bounded: BoundedJacobian) -> Tensor:
    """Constants that stay above what they bound though sums of proven bounds were rounded on the way to them."""
    entries = bounded.jacobian[0][0].numel()  # each is squared, or added up, at most once
    return constant * (1 + gamma(4 * entries + 64)) + underflow(1)


def _grams(bounded: BoundedJacobian, euclidean: bool) -> Grams | None:
    gains = bounded.exact_part
    if gains is None:
        return None
    lower, upper = bounded.jacobian
    loose = (upper - lower).sum((1, 2)) > (upper + lower).abs().sum((1, 2))  # radii beside middles
    return jacobian_grams(gains, [LONG if euclidean or each else SHORT for each in loose.tolist()])


def _by_entries(bounded: BoundedJacobian, p: float, q: float, proven: bool) -> Tensor:
    """The bound by the largest magnitudes of the entries, or by their middles and radii: (b,)."""
    lower, upper = bounded.jacobian
    best = norm_of_magnitudes(torch.maximum(upper, -lower), p, q, proven)
    if has_formula(p, q) and not p == q == 2:
        return best
    middle = (lower + upper) / 2
    radius = torch.maximum(upper - middle, middle - lower)
    centred = norm_above(middle, p, q, proven) + norm_of_magnitudes(radius, p, q, proven)
    return torch.minimum(best, centred)


def _by_sums(bounded: BoundedJacobian, p: float, q: float) -> Tensor | None:
    """The bound by sums of ``|J|`` that are bounded jointly, (b,); None where it is never smaller."""
    if (p == 1 and q != 1) or (q == math.inf and p != math.inf):
        return None

    def of_rows() -> Tensor:
        return row_constants(bounded, torch.ones_like(bounded.jacobian[0][:, 0]), norm=math.inf)

    if q == math.inf:
        return of_rows().amax(1)
    if p == 1:
        return column_constants(bounded).amax(1)
    if p == q:
        return (of_rows().amax(1) * column_constants(bounded).amax(1)).sqrt()
    total = sum_of_magnitudes(bounded)
    if p == math.inf and q == 1:
        return torch.minimum(total, torch.minimum(of_rows().sum(1), column_constants(bounded).sum(1)))
    sums = of_rows() if p == math.inf else column_constants(bounded)
    return torch.minimum(torch.linalg.vector_norm(sums, dim=1), (total * sums.amax(1)).sqrt())


# Sums of absolute values, bounded jointly


def row_constants(
    bounded: BoundedJacobian,
    scale: Tensor,  # shape: (b, columns)
    above: Tensor | None = None,  # shape: (b, columns)
    norm: float | None = None,
) -> Tensor:
    r"""Upper bound of the dual norm of every row of the Jacobian, its columns scaled: (b, k).

    With a and b the bounds of d below, and ``M_kr = max(a_r U_kr, -b_r L_kr)``,

    .. math:: \max_{-a \le d \le b} \Big(-\sum_r J_{kr} d_r\Big) \le
        \min\Big(\sum_r M_{kr}, \; \overline{\sum_r w_{kr} J_{kr}} + \sum_r t_{kr}\Big)

    for norm inf, where an entry of known sign has the weight ``w = a`` or ``-b`` and t = 0, and one of unknown sign
    ``w = 0`` and t = M, or the chord of ``max(a J, -b J)`` over its bounds. For other norms it is ``|M_k|_q``.

    Args:
        bounded: bounds of the Jacobian. Columns of unknown sign are pushed with the chord of the absolute value, or
            added as constants, as its treatment says.
        scale: a, what one unit of the norm means in each coordinate: 1, or the half side lengths of a box.
        above: b, for norm inf how far each coordinate can increase, where it can decrease by `scale`; None for as far.
        norm: p, whose dual norm is meant; None for that of the region.

    Source:
        RecurJac, arXiv:1810.11783, section 3.4, for one scale and without chords.
    """
    lower, upper, beyond = *bounded.jacobian, above
    below = scale.unsqueeze(1)
    above = below if above is None else above.unsqueeze(1)
    largest = torch.maximum(below * upper, -above * lower)
    dual = bounded.region.dual_norm if norm is None else dual_of(norm)
    plain = torch.linalg.vector_norm(largest, ord=dual, dim=2)
    if dual != 1:
        return plain
    weights, constant = _lines(bounded, below, above)
    found = torch.minimum(plain, bounded.upper_of_sum(weights) + constant.sum(2))
    return found if bounded.start is None else torch.minimum(found, row_constants(bounded.start, scale, beyond, norm))


def column_constants(bounded: BoundedJacobian) -> Tensor:
    r"""Upper bounds of ``sum_k |J_kr|`` for every column r: (b, columns).

    .. math:: \sum_k |J_{kr}| \le \min\Big(\sum_k M_{kr}, \; \overline{\sum_k w_{kr} J_{kr}} + \sum_k t_{kr}\Big),

    the second for the columns that are largest by the first, with w and t as in `row_constants`.

    Source: own; the sum over rows is that of `recursion.sums`.
    """
    lower, upper = bounded.jacobian
    plain = torch.maximum(upper, -lower).sum(1)
    batch, rows, columns = lower.shape
    if rows == 1:
        return plain
    ones = torch.ones_like(lower[:, :1])
    weights, constant = _lines(bounded, ones, ones)
    top = plain.detach().topk(min(_PUSHED, columns), dim=1).indices  # (b, s)
    chosen = weights.mT.gather(1, top.unsqueeze(2).expand(-1, -1, rows))  # (b, s, k)
    place = top[:, :, None, None].expand(-1, -1, rows, 1)
    alone = lower.new_zeros(batch, top.shape[1], rows, columns).scatter(3, place, chosen.unsqueeze(3))
    pushed = bounded.upper_of_sums(alone) + constant.sum(1).gather(1, top)
    return plain.scatter(1, top, torch.minimum(plain.gather(1, top), pushed))


def sum_of_magnitudes(bounded: BoundedJacobian) -> Tensor:
    """Upper bound of ``sum_kr |J_kr|``, as in `row_constants` with one pushed column for all entries: (b,)."""
    lower, upper = bounded.jacobian
    plain = torch.maximum(upper, -lower).sum((1, 2))
    ones = torch.ones_like(lower[:, :1])
    weights, constant = _lines(bounded, ones, ones)
    pushed = bounded.upper_of_sums(weights.unsqueeze(1)).squeeze(1) + constant.sum((1, 2))
    return torch.minimum(plain, pushed)


def _lines(
    bounded: BoundedJacobian,
    below: Tensor,  # shape: (b, 1, columns)
    above: Tensor,  # shape: (b, 1, columns)
) -> Interval:
    """w and t with ``max(a y, -b y) <= w y + t`` on the bounds of every entry y: (b, k, columns) each."""
    lower, upper = bounded.jacobian
    unknown = (lower < 0) & (upper > 0)
    sign = torch.where(lower >= 0, below, -above)
    if bounded.treatment.chord_of_absolute:
        # max(b y, -a y) <= s y + t on [l, u], l < 0 < u, with s = (b u + a l) / (u - l) and t = -(a + b) l u / (u - l).
        width = torch.where(unknown, upper - lower, torch.ones_like(lower))
        slope, constant = (below * upper + above * lower) / width, -(below + above) * lower * (upper / width)
    else:
        slope, constant = torch.zeros_like(lower), torch.maximum(below * upper, -above * lower)
    return torch.where(unknown, slope, sign), torch.where(unknown, constant, torch.zeros_like(constant))
