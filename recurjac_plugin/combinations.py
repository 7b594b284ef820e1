"""Bounds of sums over several entries of a Jacobian, ``sum_kr c_kr J_kr``, tighter than the sum of the entries' bounds.

A column is pushed through the gains as in `recursion`, here one per row k, starting from ``c_k`` at the input. What
arrives at an undetermined neuron j is ``d_j Q_j`` with ``Q_j = sum_k c_kj y_kj``: its derivative is the same in all
rows, so the rule is applied once, to Q, whose range follows from the bounds of the gradients y. The slope of its line
is pushed on in every row. For a single entry this is the recursion itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .gains import INPUT, ROWS, Gains
from .recursion import BackwardOrder


def upper_of_combinations(
    order: BackwardOrder,
    coefficients: Tensor,  # shape: (b, s, k, columns)
) -> Tensor:
    """Upper bounds of ``sum_kr c_skr J_kr`` for every s: (b, s).

    Args:
        order: bounds of the gradients at all undetermined neurons.
        coefficients: c, one matrix for each sum.
    """
    batch, count, rows, _ = coefficients.shape
    gains = order.gains
    width = sum(gains.count(end) for end in (*gains.layers, INPUT))
    chunk = max(1, order.memory_budget // (6 * batch * rows * width * coefficients.element_size()))
    return torch.cat([_upper(order, part) for part in coefficients.split(chunk, 1)], 1) if count else (
        coefficients.new_zeros(batch, 0)
    )


def _upper(order: BackwardOrder, coefficients: Tensor) -> Tensor:
    gains = order.gains
    total = _met(coefficients, gains, INPUT)
    columns = {
        layer: coefficients @ gains.blocks[layer, INPUT].unsqueeze(1).mT
        for layer in gains.layers
        if (layer, INPUT) in gains.blocks
    }
    for position, layer in enumerate(gains.layers):
        c = columns.pop(layer, None)  # shape: (b, s, k, u)
        if c is None:
            continue
        derivative = gains.derivatives[layer]
        line = order.rule(derivative.lower.unsqueeze(1), derivative.upper.unsqueeze(1), *_range(order, layer, c))
        pushed = c * line.slope.unsqueeze(2)
        total = total + line.constant.sum(2) + _met(pushed, gains, layer)
        for later in gains.layers[position + 1 :]:
            if (later, layer) in gains.blocks:
                step = pushed @ gains.blocks[later, layer].unsqueeze(1).mT
                columns[later] = columns[later] + step if later in columns else step
    return total


def _range(order: BackwardOrder, layer: str, c: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of ``Q = sum_k c_k y_k`` at every neuron of a layer: (b, s, u)."""
    lower, upper = (bound.unsqueeze(1) for bound in order.gradients[layer])  # shape: (b, 1, k, u)
    positive = c.clamp(min=0)
    negative = c - positive
    return (positive * lower + negative * upper).sum(2), (positive * upper + negative * lower).sum(2)


def _met(c: Tensor, gains: Gains, layer: str) -> Tensor:
    """What columns of shape (b, s, k, u) meet on the exact way from a layer to the rows: (b, s)."""
    return (c * gains.block(ROWS, layer).unsqueeze(1)).flatten(2).sum(2)
