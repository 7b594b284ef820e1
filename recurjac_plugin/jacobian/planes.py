r"""Where planes pay: the choice between `RecurJac-Linear` and `RecurJac-McCormick` where no method is named.

`RecurJac-McCormick` is never looser than `RecurJac-Linear`, which it contains, so the choice is about time. With u the
undetermined neurons of a region, n the coordinates of its input, and over a region in which neuron j has a derivative
in ``[dl_j, du_j]``, planes are taken where both are true:

1. **They can gain something.** A neuron's derivative has the width ``D_j = du_j - dl_j``, and between its lines in the
   pre-activation, at the middle of the interval, the width ``h_j``. What planes see of all uncertainty is

   .. math:: g = \sum_j \frac{D_j - \min(h_j, D_j)}{m_j} \Big/ \sum_j \frac{D_j}{m_j},
       \qquad m_j = \max(|\underline{d}_j|, |\overline{d}_j|),

   with ``h = D`` at kinks. It is 0 for ReLU networks, nearly 1 over small regions of smooth ones, and falls to 0 where
   intervals reach over the whole curve; planes are taken from `LEAST_GAIN` on.

2. **They cost little, or little more than lines.** For every row, and up to constants, lines take

   .. math:: (n + u / 2) (u^2 / 2 + E u)

   multiplications, and the bounds that are linear in the pre-activations, on their way back to the input, take
   ``2 (n + u) (u^2 / 2 + u n + E (n + u))`` more; E is what storing one number costs. Planes are taken up to
   `FREE_WORK`, and where the second is at most `MOST_WORK` times the first.

Both are said of one region alone, and of no row: a batch gives what its regions give one by one, and a row what it
gives among others, up to rounding.

The constants are measured (docs/methods.md).

Source: own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.recursion.mccormick import NetworkRelaxation

LEAST_GAIN = 1 / 8
"""Least share of the derivatives' uncertainty that planes have to see."""

FREE_WORK = 2.0**33
"""Multiplications for one row that nobody minds: about half a second of one processor core."""

MOST_WORK = 16.0
"""How many times the work of lines planes may take beyond that."""

STORED = 64.0
"""E: what one number that is stored and read costs in multiplications."""


@torch.no_grad()
def where_planes_pay(gains: Gains, relaxation: NetworkRelaxation) -> Tensor:
    """The regions on which planes are worth their time, bool (b,): those with both of the properties above.

    Args:
        gains: of the network, with the derivatives' ranges.
        relaxation: lines of the derivatives that have some.
    """
    seen, all_of_it = (gains.reference.new_zeros(gains.batch) for _ in range(2))
    undetermined = torch.zeros(gains.batch, dtype=torch.float64, device=gains.reference.device)
    for name in gains.layers:
        layer = gains.derivatives[name]
        width = layer.upper - layer.lower
        undetermined = undetermined + (width > 0).sum(1)
        size = torch.maximum(layer.lower.abs(), layer.upper.abs())
        scale = torch.where(width > 0, size, 1.0)  # what fills up a list of neurons has no width
        all_of_it = all_of_it + (width / scale).sum(1)
        known = relaxation.derivatives.get(name)
        if known is not None:
            lines = known.lines
            slope, constant = lines.upper_slope - lines.lower_slope, lines.upper_constant - lines.lower_constant
            between = (slope * known.middle + constant).squeeze(1)
            seen = seen + ((width - between).clamp(min=0) / scale).sum(1)
    return (seen >= LEAST_GAIN * all_of_it) & _affordable(undetermined, gains.columns) & (undetermined > 0)


def _affordable(
    u: Tensor,  # shape: (b,)
    n: int,
) -> Tensor:
    """Where the work of planes is small, by itself or beside that of lines: bool (b,)."""
    lines = (n + u / 2) * (u.square() / 2 + STORED * u)
    planes = 2 * (n + u) * (u.square() / 2 + u * n + STORED * (n + u))
    return (planes <= FREE_WORK) | (planes <= MOST_WORK * lines)
