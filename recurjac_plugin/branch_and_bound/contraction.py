"""Cutting off the parts of a box where linear bounds already exclude a violation.

A violation of a disjunct ``A y <= b`` meets every row, so it lies where every lower bound ``s_k (x - x0) + t_k`` of
``A_k f(x) - b_k`` is at most 0. That is a polytope; the smallest box around it is found coordinate by coordinate, each
time with the others at their best.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import CONTRACTION, eps


def contracted(
    slope: Tensor,  # shape: (n, k, columns)
    offset: Tensor,  # shape: (n, k)
    rows: Tensor,  # bool, shape: (n, k)
    below: Tensor,  # shape: (n, columns)
    above: Tensor,  # shape: (n, columns)
    sweeps: int = 2,
) -> tuple[Tensor, Tensor]:
    """Bounds of ``x - x0`` over the points of a box where no chosen row is proved to be violated.

    Args:
        slope: of the rows' lower bounds ``slope (x - x0) + offset``.
        offset: of the same, less what rounding may be responsible for.
        rows: which rows have to be met.
        below: lower bounds of ``x - x0``.
        above: its upper bounds.
        sweeps: how many times to go through all rows.

    Returns:
        New bounds, within the old ones; ``below > above`` somewhere in a box where nothing is left.
    """
    unit = CONTRACTION * eps(slope)
    for k in [k for _ in range(sweeps) for k in range(slope.shape[1])]:
        s = slope[:, k]
        least = torch.where(s > 0, s * below, s * above)
        rest = least.sum(1, keepdim=True) - least + offset[:, k : k + 1]  # the least the row can be without this term
        limit = -rest / torch.where(s == 0, 1.0, s)
        room = unit * (limit.abs() + below.abs() + above.abs())
        room = room + unit * least.abs().sum(1, keepdim=True) / torch.where(s == 0, 1.0, s).abs()
        applies = rows[:, k : k + 1] & limit.isfinite()
        above = torch.where(applies & (s > 0), torch.minimum(above, limit + room), above)
        below = torch.where(applies & (s < 0), torch.maximum(below, limit - room), below)
    return below, above


def hull_of_disjuncts(
    slope: Tensor,  # shape: (n, k, columns)
    offset: Tensor,  # shape: (n, k)
    members: Sequence[Tensor],  # of each disjunct the positions of its rows
    alive: Tensor,  # bool, shape: (n, d)
    below: Tensor,  # shape: (n, columns)
    above: Tensor,  # shape: (n, columns)
) -> tuple[Tensor, Tensor, Tensor]:
    """The smallest box around what is left of a box for any of its disjuncts.

    Returns:
        Bounds of ``x - x0``, and the disjuncts for which something is left.
    """
    low, high = torch.full_like(below, torch.inf), torch.full_like(above, -torch.inf)
    left = []
    for disjunct, index in enumerate(members):
        rows = alive[:, disjunct : disjunct + 1].expand(-1, len(index))
        near, far = contracted(slope[:, index], offset[:, index], rows, below, above)
        some = alive[:, disjunct] & (near <= far).all(1)
        low = torch.where(some.unsqueeze(1), torch.minimum(low, near), low)
        high = torch.where(some.unsqueeze(1), torch.maximum(high, far), high)
        left.append(some)
    return low, high, torch.stack(left, 1)
