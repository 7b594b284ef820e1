"""Where to cut a box, and which coordinates need not be cut: they are fixed.

With bounds of the Jacobian of a row on a box, ``max(|J_r|) radius_r`` says how much coordinate r can move that row
at most: the box is halved along the largest (the smear rule of interval branch and bound, which ReluVal brought to
networks with interval gradients: Wang et al., USENIX Security 2018, arXiv:1804.10829). And where the entries of all
rows that have to be met have one sign, no violation is lost by moving the coordinate to the end at which all rows are
smallest: the box collapses to a face.
"""

from __future__ import annotations

import torch
from torch import Tensor

BRANCHINGS = ("jacobian", "crown", "longest")
"""What a cut is chosen by: bounds of the Jacobian, CROWN's coefficients, or the side length alone."""


def fixed_coordinates(
    lower: Tensor,  # shape: (n, columns)
    upper: Tensor,  # shape: (n, columns)
    jacobian: tuple[Tensor, Tensor],  # shape: (n, k, columns)
    rows: Tensor,  # bool, shape: (n, k)
) -> tuple[Tensor, Tensor]:
    """Boxes with the coordinates collapsed in which all chosen rows are monotone in the same direction.

    Args:
        lower: lower ends of the boxes.
        upper: their upper ends.
        jacobian: bounds of the rows' derivatives on them.
        rows: which rows have to be met for a violation, of every disjunct that is left.
    """
    ignored = ~rows.unsqueeze(2)
    increasing = ((jacobian[0] >= 0) | ignored).all(1)
    decreasing = ((jacobian[1] <= 0) | ignored).all(1) & ~increasing
    return torch.where(decreasing, upper, lower), torch.where(increasing, lower, upper)


def halved(lower: Tensor, upper: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Both halves of every box, cut across the coordinate of the largest score: (2n, columns) each, halves n apart.

    Coordinates without extent are never cut.
    """
    axis = torch.where(upper > lower, score, -torch.inf).argmax(1, keepdim=True)
    middle = lower.gather(1, axis) + (upper - lower).gather(1, axis) / 2
    return torch.cat((lower, lower.scatter(1, axis, middle))), torch.cat((upper.scatter(1, axis, middle), upper))
