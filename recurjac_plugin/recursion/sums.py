r"""Bounds of sums over entries of a Jacobian, ``sum_kr c_kr J_kr``, tighter than the sum of the entries' bounds.

The pass is that of `backward`, here with one column per row k, starting from ``c_k`` at the input. What arrives at an
undetermined neuron j, in all rows together, is

.. math:: \sum_k c_{kj} d_j y_{kj} = d_j Q_j, \qquad Q_j = \sum_k c_{kj} y_{kj},

because the neuron's derivative is the same in all rows. So the rule is applied once, to Q, whose range follows from the
bounds of the gradients y, and the slope of its line is pushed on in every row. For a single row this is the paper's
recursion itself (arXiv:1810.11783, Algorithm 1).

Where derivatives lie between planes, a bound is linear in the pre-activations. It is left so: what the sum meets later
depends on the same pre-activations, and what both have in common cancels before it is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.pull import INPUT
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.memory import chunk_size
from recurjac_plugin.passes.columns import Replacement, Within, push_columns
from recurjac_plugin.passes.products import Pass

from .backward import BackwardOrder
from .order import BothOrders, Order


class UpperForm(NamedTuple):
    """An upper bound that is linear in the pre-activations: ``constant + sum over layers l of t_slopes_l t_l``.

    Attributes:
        constant: shape (b, s).
        t_slopes: coefficients of the pre-activations' distances t by layer, shape (b, s, u).
    """

    constant: Tensor
    t_slopes: dict[str, Tensor]


def upper_of_sums(
    order: BackwardOrder,
    coefficients: Tensor,  # shape: (b, s, k, columns)
    known: Tensor,  # shape: (b, s)
) -> UpperForm:
    r"""Upper bounds of ``sum_kr c_skr J_kr`` for every s, linear in the pre-activations: constants of shape (b, s).

    At layer l, with the line ``d Q <= g Q + h`` of the rule on the bounds of ``Q = sum_k c_k y_k``,

    .. math:: c_{k,l} = c_k G_{l,\text{input}}^T + \sum_{m < l} (g_m \odot c_{k,m}) G_{l,m}^T,

    and ``sum_j (h_j + sum_k g_j c_kj G_rows,l,kj)`` is added to the bound, which begins as
    ``sum_kr c_kr G_rows,input,kr``; the slopes in t of planes are kept. For every sum the bound of one pass is taken,
    or the one that is known: the lowest halfway between the centre of the region and where it is largest. A bound that
    varies may be larger than a constant somewhere, but part of that cancels with what the sum meets later.

    Source: own; for a single row RecurJac, arXiv:1810.11783, Algorithm 1.

    Args:
        order: bounds of the gradients at all undetermined neurons.
        coefficients: c, one matrix for each sum.
        known: upper bounds of the sums from elsewhere.
    """
    best = UpperForm(known, {})
    if not coefficients.shape[1]:
        return best
    least = known
    for each, form in _forms(order, coefficients):
        height = form.constant
        if form.t_slopes and each.relaxation is not None:
            height = height + each.relaxation.concretize(form.t_slopes) / 2
        chosen = ~(height >= least) & ~height.isnan()  # what is known is NaN where infinite entries meet
        best, least = _where(chosen, form, best), torch.fmin(height, least)
    return best


def upper_of_joint_sums(
    order: Order,
    coefficients: Tensor,  # shape: (b, s, k, columns)
    known: Tensor,  # shape: (b, s)
) -> Tensor:
    """Upper bounds of ``sum_kr c_skr J_kr`` for every s, as numbers: (b, s).

    The smallest of what is known and of what every pass gives, its form in the pre-activations bounded over the region.
    Only the backward order has such passes; of both orders that one is asked, and for any other what is known is kept.

    Source: own; for a single row RecurJac, arXiv:1810.11783, Algorithm 1.

    Args:
        order: bounds of the Jacobian.
        coefficients: c, one matrix for each sum.
        known: upper bounds of the sums from elsewhere, the bounds of the entries.
    """
    if isinstance(order, BothOrders):
        order = order.backward
    if not isinstance(order, BackwardOrder) or not coefficients.shape[1]:
        return known
    best = known
    for each, form in _forms(order, coefficients):
        upper = form.constant
        if form.t_slopes and each.relaxation is not None:
            upper = upper + each.relaxation.concretize(form.t_slopes)
        best = torch.fmin(best, upper)
    return best


def _forms(order: BackwardOrder, coefficients: Tensor) -> Iterator[tuple[Pass, UpperForm]]:
    """What every pass of an order says about sums, (b, s, k, columns), in chunks of them."""
    batch, _, rows, _ = coefficients.shape
    ends = rows * sum(order.gains.count(end) for end in (*order.gains.layers, INPUT))
    for each in order.passes:
        width = ends if each.relaxation is None else ends + each.relaxation.width
        chunk = chunk_size(each.memory_budget, 6 * batch * width, coefficients)
        yield each, _joined([_upper(order, each, part) for part in coefficients.split(chunk, 1)])


def _joined(parts: Sequence[UpperForm]) -> UpperForm:
    """The bounds of chunks of sums, which have slopes in the same layers."""
    if len(parts) == 1:
        return parts[0]
    t_slopes = {layer: torch.cat([part.t_slopes[layer] for part in parts], 1) for layer in parts[0].t_slopes}
    return UpperForm(torch.cat([part.constant for part in parts], 1), t_slopes)


def _where(
    chosen: Tensor,  # shape: (b, s)
    first: UpperForm,
    second: UpperForm,
) -> UpperForm:
    """The first bound for the chosen sums, the second for all others."""
    t_slopes = {}
    for layer in first.t_slopes.keys() | second.t_slopes.keys():
        one, other = first.t_slopes.get(layer, 0.0), second.t_slopes.get(layer, 0.0)
        t_slopes[layer] = torch.where(chosen.unsqueeze(2), one, other)
    return UpperForm(torch.where(chosen, first.constant, second.constant), t_slopes)


def _upper(
    order: BackwardOrder,
    each: Pass,
    coefficients: Tensor,  # shape: (b, s, k, columns)
) -> UpperForm:
    """Upper bounds of sums by one pass."""
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
    return UpperForm(*push_columns(within, columns, _met(coefficients, gains, INPUT), replaced))


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
