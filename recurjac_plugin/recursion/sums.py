"""Bounds of sums over several entries of a Jacobian, ``sum_kr c_kr J_kr``, tighter than the sum of the entries' bounds.

A column is pushed through the gains as in `recursion`, here one per row k, starting from ``c_k`` at the input. What
arrives at an undetermined neuron j is ``d_j Q_j`` with ``Q_j = sum_k c_kj y_kj``: its derivative is the same in all
rows, so the rule is applied once, to Q, whose range follows from the bounds of the gradients y. The slope of its line
is pushed on in every row. For a single entry this is the recursion itself.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import INPUT, ROWS, Gains

from .backward import BackwardOrder
from .rules import UpperLine


def upper_of_combinations(
    order: BackwardOrder,
    coefficients: Tensor,  # shape: (b, s, k, columns)
) -> Tensor:
    """Upper bounds of ``sum_kr c_skr J_kr`` for every s: (b, s).

    Args:
        order: bounds of the gradients at all undetermined neurons.
        coefficients: c, one matrix for each sum.
    """
    batch, count = coefficients.shape[:2]
    if not count:
        return coefficients.new_zeros(batch, 0)
    found = _in_chunks(order, coefficients, lambda layer: order.rule, 0)
    if order.expansion is None:
        return found
    better = _in_chunks(order, coefficients, lambda layer: order.planes(layer) or order.rule, order.expansion.width)
    return torch.fmin(found, better)


Choice = Callable[[str], UpperLine]
"""The rule of a layer, by its name."""


def _in_chunks(order: BackwardOrder, coefficients: Tensor, rules: Choice, more: int) -> Tensor:
    batch, _, rows, _ = coefficients.shape
    width = rows * sum(order.gains.count(end) for end in (*order.gains.layers, INPUT)) + more
    chunk = max(1, order.memory_budget // (6 * batch * width * coefficients.element_size()))
    return torch.cat([_upper(order, part, rules) for part in coefficients.split(chunk, 1)], 1)


def _upper(order: BackwardOrder, coefficients: Tensor, rules: Choice) -> Tensor:
    gains = order.gains
    total = _met(coefficients, gains, INPUT)
    forms: dict[str, Tensor] = {}
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
        line = rules(layer)(derivative.lower.unsqueeze(1), derivative.upper.unsqueeze(1), *_range(order, layer, c))
        pushed = c * line.slope.unsqueeze(2)
        total = total + line.constant.sum(2) + _met(pushed, gains, layer)
        if line.form is not None:
            forms[layer] = line.form
        for later in gains.layers[position + 1 :]:
            if (later, layer) in gains.blocks:
                step = pushed @ gains.blocks[later, layer].unsqueeze(1).mT
                columns[later] = columns[later] + step if later in columns else step
    return total + order.expansion.upper(forms) if forms and order.expansion is not None else total


def _range(order: BackwardOrder, layer: str, c: Tensor) -> tuple[Tensor, Tensor]:
    """Bounds of ``Q = sum_k c_k y_k`` at every neuron of a layer: (b, s, u)."""
    lower, upper = (bound.unsqueeze(1) for bound in order.gradients[layer])  # shape: (b, 1, k, u)
    positive = c.clamp(min=0)
    negative = c - positive
    return (positive * lower + negative * upper).sum(2), (positive * upper + negative * lower).sum(2)


def _met(c: Tensor, gains: Gains, layer: str) -> Tensor:
    """What columns of shape (b, s, k, u) meet on the exact way from a layer to the rows: (b, s)."""
    return (c * gains.block(ROWS, layer).unsqueeze(1)).flatten(2).sum(2)
