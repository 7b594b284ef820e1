r"""Where planes pay: the choice between `RecurJac-Linear` and `RecurJac-McCormick` where no method is named.

`RecurJac-McCormick` is never looser than `RecurJac-Linear`, which it contains, so the choice is about time; and what it
does beyond lines is bounded in its work (`recursion.backward`), so it is worth its time wherever it can gain something.
Over a region on which the undetermined neuron j has a derivative in ``[dl_j, du_j]``, of width ``D_j = du_j - dl_j``,
and between its lines in the pre-activation, at the middle of the interval, of width ``h_j``, what can be seen of all
uncertainty is

.. math:: g = \sum_j \frac{D_j - \min(h_j, D_j)}{m_j} \Big/ \sum_j \frac{D_j}{m_j},
    \qquad m_j = \max(|\underline{d}_j|, |\overline{d}_j|),

with ``h = D`` at kinks. It is 0 for ReLU networks, nearly 1 over small regions of smooth ones, and falls to 0 where
intervals reach over the whole curve. `RecurJac-McCormick` is taken from `LEAST_GAIN` on, which is measured
(docs/methods.md).

It is said of one region alone, and of no row: the choice is the same in a batch and among other rows.

Source: own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.passes.mccormick import NetworkRelaxation
from recurjac_plugin.passes.strips import FEW

LEAST_GAIN = 1 / 8
"""Least share of the derivatives' uncertainty that planes have to see."""


@torch.no_grad()
def where_planes_pay(gains: Gains, relaxation: NetworkRelaxation) -> Tensor:
    """The regions on which planes are worth their time, bool (b,): those with ``g >= LEAST_GAIN``.

    Args:
        gains: of the network, with the derivatives' ranges.
        relaxation: lines of the derivatives that have some.
    """
    seen, all_of_it = (gains.reference.new_zeros(gains.batch) for _ in range(2))
    for name in gains.layers:
        layer = gains.derivatives[name]
        width = layer.upper - layer.lower
        size = torch.maximum(layer.lower.abs(), layer.upper.abs())
        scale = torch.where(width > 0, size, 1.0)  # what fills up a list of neurons has no width
        all_of_it = all_of_it + (width / scale).sum(1)
        known = relaxation.derivatives.get(name)
        if known is not None:
            lines = known.lines
            slope, constant = lines.upper_slope - lines.lower_slope, lines.upper_constant - lines.lower_constant
            between = (slope * known.middle + constant).squeeze(1)
            seen = seen + ((width - between).clamp(min=0) / scale).sum(1)
    return (seen >= LEAST_GAIN * all_of_it) & (all_of_it > 0)


def from_input_pays(gains: Gains) -> bool:
    """Whether the forward order is worth its time besides the backward one, where there are planes.

    Over few coordinates most of what gradients and pre-activations do they do together, which strips see
    (`passes.strips`), and planes from the input on cost little: ``columns (k + sum_l u_l)`` substitutions where those
    from the output back take ``k (columns + sum_l u_l)``. How many rows there are does not count, so that a row has
    the same bounds among others.

    Args:
        gains: of the network.
    """
    return gains.columns <= FEW
