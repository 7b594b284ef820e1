r"""Cutting off the parts of a box where linear bounds already exclude a violation.

A violation of a disjunct ``A y <= b`` meets every row, so it lies where every lower bound ``s_k z + t_k``, with
``z = x - x0``, of ``A_k f(x) - b_k`` is at most 0. In a box ``below <= z <= above`` such a row leaves, for
``s_kr > 0``,

.. math:: z_r \le -\frac{1}{s_{kr}} \Big(t_k + \sum_{j \ne r} \min(s_{kj} \text{below}_j, s_{kj} \text{above}_j)\Big),

and at least that for ``s_kr < 0``. The box that this leaves is exactly the smallest around what one row leaves; for
several rows one after the other, it contains the smallest.

Source: known as bound tightening, e.g. in Savelsbergh: Preprocessing and probing techniques for mixed integer
programming problems, ORSA Journal on Computing 6, 1994.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recurjac_plugin.numerics.rounding import CONTRACTION, eps, gamma


def contracted(
    slope: Tensor,  # shape: (n, k, columns)
    offset: Tensor,  # shape: (n, k)
    rows: Tensor,  # bool, shape: (n, k)
    below: Tensor,  # shape: (n, columns)
    above: Tensor,  # shape: (n, columns)
    sweeps: int = 2,
) -> tuple[Tensor, Tensor]:
    r"""Bounds of ``x - x0`` over the points of a box where the linear bounds of all chosen rows are at most 0.

    Row after row, the limit of every coordinate and the room that is left for its rounding are

    .. math:: \text{limit}_r = -\frac{1}{s_r} \Big(t + \sum_{j \ne r} m_j\Big), \quad
        \text{room}_r = (16 \varepsilon + \gamma_n) \Big(|\text{limit}_r| + |\text{below}_r| + |\text{above}_r|
        + \frac{1}{|s_r|} \sum_j |m_j|\Big), \quad m_j = \min(s_j \text{below}_j, s_j \text{above}_j) ,

    and ``above_r`` becomes ``min(above_r, limit_r + room_r)`` where ``s_r > 0``, ``below_r`` becomes
    ``max(below_r, limit_r - room_r)`` where ``s_r < 0``. Limits that are not finite are left out.

    Args:
        slope: of the rows' lower bounds ``slope (x - x0) + offset``.
        offset: of the same, less what rounding may be responsible for.
        rows: which rows have to be met.
        below: lower bounds of ``x - x0``.
        above: its upper bounds.
        sweeps: how many times to go through all rows.

    Returns:
        New bounds, (n, columns) each, within the old ones; ``below > above`` somewhere in a box where nothing is left.

    Source:
        Savelsbergh: Preprocessing and probing techniques for mixed integer programming problems, ORSA Journal on
        Computing 6, 1994; the room for rounding is this package's own.
    """
    unit = CONTRACTION * eps(slope) + gamma(slope.shape[2])
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
    members: Sequence[Tensor],
    alive: Tensor,  # bool, shape: (n, d)
    below: Tensor,  # shape: (n, columns)
    above: Tensor,  # shape: (n, columns)
) -> tuple[Tensor, Tensor, Tensor]:
    """One box around what is left of a box for all of its disjuncts together.

    With ``[below_d, above_d]`` what `contracted` leaves for the rows of disjunct d, and over the disjuncts alive with
    ``below_d <= above_d`` in all coordinates, it is ``[min_d below_d, max_d above_d]``; ``[inf, -inf]`` if there are
    none.

    Args:
        slope: of the rows' lower bounds ``slope (x - x0) + offset``.
        offset: of the same, less what rounding may be responsible for.
        members: of each disjunct the positions of its rows among the k, several bounds of each included, int64 (k_d,).
        alive: the disjuncts that count.
        below: lower bounds of ``x - x0``.
        above: its upper bounds.

    Returns:
        Bounds of ``x - x0``, (n, columns) each, and the disjuncts for which something is left, bool (n, d).

    Source:
        Own.
    """
    low, high = torch.full_like(below, torch.inf), torch.full_like(above, -torch.inf)
    left = []
    for disjunct, index in enumerate(members):
        rows = alive[:, disjunct : disjunct + 1].expand(-1, len(index))
        near, far = contracted(slope[:, index], offset[:, index], rows, below, above)
        feasible = alive[:, disjunct] & (near <= far).all(1)
        low = torch.where(feasible.unsqueeze(1), torch.minimum(low, near), low)
        high = torch.where(feasible.unsqueeze(1), torch.maximum(high, far), high)
        left.append(feasible)
    return low, high, torch.stack(left, 1)
