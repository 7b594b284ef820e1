r"""Where to cut a box, and which coordinates need not be cut because they can be fixed.

A quantity with the derivatives ``L_r <= J_r <= U_r`` on a box of half side lengths :math:`\rho_r` changes by at most
:math:`\max(|L_r|, |U_r|) \rho_r` while coordinate r moves from the middle to an end. The box is halved across the
coordinate of the largest such product, its *smear*.

Where the derivatives of all rows that have to be met have one sign, no violation is lost by moving the coordinate to
the end at which all rows are smallest: the box collapses to a face.

Source: the smear of interval branch and bound, Kearfott: Rigorous Global Search, 1996; both ideas for networks, with
gradients in interval arithmetic, in Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from .boxes import Directions, Disjuncts
from .search import Cuts, Open

Branching = Literal["jacobian", "crown", "longest"]
BRANCHINGS: tuple[Branching, ...] = get_args(Branching)
"""What the sensitivity of a property is taken from: Jacobian bounds, CROWN's coefficients, or 1 for all coordinates."""

_LARGEST = 1e100  # a sensitivity that counts as infinite: sums of them are finite


@dataclass(frozen=True, eq=False)
class LargestSmear:
    r"""Cut a box across the coordinate of the largest :math:`s_r \rho_r`, s the sensitivity.

    What the box lost since it was bounded counts, too: :math:`\rho_r` is that of the box as it is now. A box that
    shrank until there is nothing to cut is bounded once more. A product that is NaN counts as infinite.

    Attributes:
        least: sides that are not longer are not cut, (1, columns).

    Source:
        Kearfott: Rigorous Global Search, 1996; for networks Wang et al.: ReluVal, USENIX Security 2018,
        arXiv:1804.10829.
    """

    least: Tensor

    def __call__(self, left: Open[Disjuncts]) -> Cuts:
        r"""Where to cut the boxes: at :math:`\arg\max_r s_r \rho_r` over the sides longer than `least`, (n,).

        The axis is -1 for hopeless boxes, and where no side is longer; of the latter, those that had a longer side when
        they were bounded, and are not hopeless, are bounded again.
        """
        sides = left.boxes.upper - left.boxes.lower
        smear = (left.sides / 2 * left.sensitivity).nan_to_num(nan=math.inf)
        smear = smear * torch.where(left.sides > 0, sides / left.sides, 0.0)
        smear = smear.masked_fill(sides <= self.least, -math.inf)
        divisible = (smear > -math.inf).any(1) & ~left.hopeless
        again = ~divisible & ~left.hopeless & (left.sides > self.least).any(1)
        return Cuts(torch.where(divisible, smear.argmax(1), -1), again)


@dataclass(frozen=True, eq=False)
class FixedFirst:
    r"""Bound a box again as it is, as long as fixing coordinates moves it; put it aside to be cut later.

    With :math:`m_r = s_r \rho_r` the smears of the box when it was bounded, and :math:`\theta_r` the part of side r
    that it lost since then, it is bounded again while

    .. math:: \sum_r \theta_r m_r > \tau \sum_r m_r .

    Attributes:
        cut: what chooses the axis across which a box is halved later.
        least: :math:`\tau`.

    Source:
        Own.
    """

    cut: LargestSmear
    least: float = 1e-3

    def __call__(self, left: Open[Disjuncts]) -> Cuts:
        """The axes that `cut` chooses, (n,), and which boxes are bounded again before or put aside, bool (n,) each."""
        cuts = self.cut(left)
        smear = left.sides * left.sensitivity.nan_to_num(nan=math.inf).clamp(max=_LARGEST)
        kept = torch.where(left.sides > 0, (left.boxes.upper - left.boxes.lower) / left.sides, 1.0)
        moved = ((1 - kept) * smear).sum(1) > self.least * smear.sum(1)
        again = cuts.again | moved & ~left.hopeless
        return Cuts(cuts.axis, again, ~again)


def largest_smear_above_zero(left: Open[Directions]) -> Cuts:
    r"""Cut a box across the coordinate of the largest :math:`s_r \rho_r`, s the sensitivity, if that is above 0.

    Only sides with a number between their ends are cut: ``lower_r < center_r < upper_r``. The box must be as it was
    bounded, so that its `sides` are :math:`2 \rho_r`.

    Args:
        left: n open boxes with sensitivities s, (n, columns).

    Returns:
        The axes, int64 (n,), -1 for none; no box is bounded again.

    Source:
        Kearfott: Rigorous Global Search, 1996.
    """
    lower, upper, middle = left.boxes.lower, left.boxes.upper, left.boxes.center
    divisible = (lower < middle) & (middle < upper)
    largest = torch.where(divisible, left.sensitivity * left.sides, 0.0).max(1)
    return Cuts(torch.where(largest.values > 0, largest.indices, -1), torch.zeros_like(left.hopeless))


def fixed_coordinates(
    lower: Tensor,  # shape: (n, columns)
    upper: Tensor,  # shape: (n, columns)
    jacobian: tuple[Tensor, Tensor],  # shape: (n, k, columns)
    rows: Tensor,  # bool, shape: (n, k)
) -> tuple[Tensor, Tensor]:
    """Boxes with the coordinates collapsed in which all chosen rows are monotone in the same direction.

    Coordinate r of a box becomes its lower end if ``L_kr >= 0`` for all chosen rows k, else its upper end if
    ``U_kr <= 0`` for all of them. Every chosen row takes its minimum over the box on what is left.

    Args:
        lower: lower ends l of the boxes.
        upper: their upper ends u.
        jacobian: bounds L, U of the rows' derivatives on them.
        rows: which rows have to be met for a violation, of every disjunct that is left.

    Returns:
        The new ends, (n, columns) each.

    Source:
        Wang, Pei, Whitehouse, Yang, Jana: ReluVal, USENIX Security 2018, arXiv:1804.10829 (monotonicity); several rows
        at once are this package's own.
    """
    ignored = ~rows.unsqueeze(2)
    increasing = ((jacobian[0] >= 0) | ignored).all(1)
    decreasing = ((jacobian[1] <= 0) | ignored).all(1) & ~increasing
    return torch.where(decreasing, upper, lower), torch.where(increasing, lower, upper)
