r"""Bounds of sums over entries of a Jacobian, ``sum_kr c_kr J_kr``, tighter than the sum of the entries' bounds.

The pass is that of `backward`, here with one column per row k, starting from ``c_k`` at the input. What arrives at an
undetermined neuron j, in all rows together, is

.. math:: \sum_k c_{kj} d_j y_{kj} = d_j Q_j, \qquad Q_j = \sum_k c_{kj} y_{kj},

because the neuron's derivative is the same in all rows. So the rule is applied once, to Q, whose range follows from the
bounds of the gradients y, and the slope of its line is pushed on in every row. For a single row this is the paper's
recursion itself (arXiv:1810.11783, Algorithm 1).
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.memory import chunk_size

from .backward import BackwardOrder
from .columns import Replacement, Within, push_columns
from .passes import Pass


def upper_of_sums(
    order: BackwardOrder,
    coefficients: Tensor,  # shape: (b, s, k, columns)
) -> Tensor:
    r"""Upper bounds of ``sum_kr c_skr J_kr`` for every s: (b, s).

    At layer l, with the line ``d Q <= g Q + h`` of the rule on the bounds of ``Q = sum_k c_k y_k``,

    .. math:: c_{k,l} = c_k G_{l,\text{input}}^T + \sum_{m < l} (g_m \odot c_{k,m}) G_{l,m}^T,

    and ``sum_j (h_j + sum_k g_j c_kj G_rows,l,kj)`` is added to the bound, which begins as
    ``sum_kr c_kr G_rows,input,kr``. The slopes in t of planes are concretised at the end, and of all passes' bounds the
    smallest is kept.

    Source: own; for a single row RecurJac, arXiv:1810.11783, Algorithm 1.

    Args:
        order: bounds of the gradients at all undetermined neurons.
        coefficients: c, one matrix for each sum.
    """
    batch, count, rows, _ = coefficients.shape
    if not count:
        return coefficients.new_zeros(batch, 0)
    ends = rows * sum(order.gains.count(end) for end in (*order.gains.layers, INPUT))

    def bounded(each: Pass) -> Tensor:
        width = ends if each.relaxation is None else ends + each.relaxation.width
        chunk = chunk_size(each.memory_budget, 6 * batch * width, coefficients)
        return torch.cat([_upper(order, each, part) for part in coefficients.split(chunk, 1)], 1)

    return reduce(torch.fmin, map(bounded, order.passes))


def _upper(
    order: BackwardOrder,
    each: Pass,
    coefficients: Tensor,  # shape: (b, s, k, columns)
) -> Tensor:
    """Upper bounds of sums by one pass: (b, s)."""
    gains = order.gains

    def replaced(layer: str, c: Tensor) -> Replacement:  # c of shape (b, s, k, u)
        derivative = gains.derivatives[layer]
        dl, du = derivative.lower.unsqueeze(1), derivative.upper.unsqueeze(1)
        line = each.rule_of(layer)(dl, du, *_range(order.gradients[layer], c))
        pushed = c * line.slope.unsqueeze(2)
        return Replacement((line.constant.sum(2), _met(pushed, gains, layer)), pushed, None, line.t_slope)

    columns = {
        layer: coefficients @ gains.blocks[layer, INPUT].unsqueeze(1).mT
        for layer in gains.layers
        if (layer, INPUT) in gains.blocks
    }
    within = Within(gains.layers, gains.blocks, None)
    total, t_slopes = push_columns(within, columns, _met(coefficients, gains, INPUT), replaced)
    return total if not t_slopes or each.relaxation is None else total + each.relaxation.concretize(t_slopes)


def _range(
    gradients: Interval,  # shape: (b, k, u)
    c: Tensor,  # shape: (b, s, k, u)
) -> Interval:
    """Bounds of ``Q = sum_k c_k y_k`` at every neuron of a layer: (b, s, u)."""
    lower, upper = (bound.unsqueeze(1) for bound in gradients)
    positive = c.clamp(min=0)
    negative = c - positive
    return (positive * lower + negative * upper).sum(2), (positive * upper + negative * lower).sum(2)


def _met(
    c: Tensor,  # shape: (b, s, k, u)
    gains: Gains,
    source: str,
) -> Tensor:
    """What columns meet on the exact way from a layer, or from the input, to the rows: (b, s)."""
    return (c * gains.to_rows[source].unsqueeze(1)).flatten(2).sum(2)
