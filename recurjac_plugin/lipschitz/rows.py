r"""Constants of single rows and columns of a Jacobian: sums of absolute values, bounded jointly.

A sum ``sum |J_kr|`` over the entries of a row, of a column, or of the whole Jacobian is bounded by one pushed column:
an entry of known sign takes part with that sign, one of unknown sign by the line ``|y| <= w y + t`` over its bounds,
and the sum of all ``w J`` is bounded together, because the entries share the neurons' derivatives.

Axes: b regions, k rows, columns.

Source:
    For rows RecurJac (Zhang, Zhang, Hsieh, AAAI 2019, arXiv:1810.11783), section 3.4, without lines; the rest is own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.numerics.intervals import Interval

from .matrix_norms import dual_of

_PUSHED = 64  # columns whose sums are bounded jointly, the largest ones: the others are seldom the largest afterwards


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
    lower, upper = bounded.jacobian
    below = scale.unsqueeze(1)
    above = below if above is None else above.unsqueeze(1)
    largest = torch.maximum(below * upper, -above * lower)
    dual = bounded.region.dual_norm if norm is None else dual_of(norm)
    plain = torch.linalg.vector_norm(largest, ord=dual, dim=2)
    if dual != 1:
        return plain
    weights, constant = _lines(bounded, below, above)
    return torch.minimum(plain, bounded.upper_of_sum(weights) + constant.sum(2))


def column_constants(bounded: BoundedJacobian) -> Tensor:
    r"""Upper bounds of ``sum_k |J_kr|`` for every column r: (b, columns).

    .. math:: \sum_k |J_{kr}| \le \min\Big(\sum_k M_{kr}, \; \overline{\sum_k w_{kr} J_{kr}} + \sum_k t_{kr}\Big),

    the second for the columns that are largest by the first, with w and t as in `row_constants`.

    Source: own; the sum over rows is `recursion.sums`.
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
