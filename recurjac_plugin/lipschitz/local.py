"""Local Lipschitz constants from Jacobian bounds."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.precision import full_precision


@full_precision()
def local_lipschitz(
    model: Any,
    x: Any,
    *,
    method: str = "RecurJac",
    C: Tensor | None = None,
    per_output: bool = False,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
) -> Tensor:
    r"""Upper bound of the Lipschitz constant of ``C f`` over the region of `x`, in the norm of its perturbation.

    With ``M = max(|L|, |U|)`` from `jacobian_bounds`, the region's norm p and its dual q (1/p + 1/q = 1), row k has

    .. math:: |g_k(x) - g_k(x')| \le \lVert M_{k\cdot} \rVert_q \, \lVert x - x' \rVert_p .

    For p = inf the sum over columns is improved: entries of known sign are bounded together, as one column (the
    paper's final bound), and the smaller of both values is returned. For the vector output the norm is the same on
    both sides: p = inf the largest row value, p = 1 the largest column sum of M, p = 2 its spectral norm.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box. The constant of a box with unequal sides is in
            the l_inf norm.
        method: as in `jacobian_bounds`.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        per_output: one constant per row instead of one for the vector output.
        order: as in `jacobian_bounds`.
        shift: as in `jacobian_bounds`.
        intermediate_bounds: as in `jacobian_bounds`.
        memory_budget: as in `jacobian_bounds`.

    Returns:
        Shape (b,), or (b, k) with `per_output`.

    Raises:
        InputError: as in `jacobian_bounds`; or the vector constant is asked for p other than 1, 2, inf.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, sections 3.1 and 3.4.
    """
    analysis = analyse(
        model, x, parse_jacobian_method(method), C, order=order, shift=shift, intermediate_bounds=intermediate_bounds,
        memory_budget=memory_budget,
    )  # fmt: skip
    lower, upper = analysis.jacobian
    norm = analysis.region.norm
    if per_output or norm == math.inf:
        rows = row_constants(analysis, torch.ones_like(lower[:, 0]))
        return rows if per_output else rows.amax(1)
    magnitude = torch.maximum(lower.abs(), upper.abs())
    if norm == 1:
        return magnitude.sum(1).amax(1)
    if norm == 2:
        return torch.linalg.matrix_norm(magnitude, ord=2)
    raise InputError(f"The l_{norm:g} constant of a vector output has no formula here; use `per_output=True`.")


def row_constants(
    bounded: BoundedJacobian,
    scale: Tensor,  # shape: (b, columns)
    above: Tensor | None = None,  # shape: (b, columns)
) -> Tensor:
    """Dual norm of every row of the Jacobian, its columns scaled: (b, k).

    For norm inf that is the largest ``-sum_r J_kr d_r`` over all d with ``-scale_r <= d_r <= scale_r``, and the bound
    of ``d_r`` from above may be another one.

    Args:
        bounded: bounds of the Jacobian. Columns of unknown sign are pushed with the chord of the absolute value, or
            added as constants, as its treatment says.
        scale: what one unit of the norm means in each coordinate: 1, or the half side lengths of a box.
        above: for norm inf, how far each coordinate can increase, where it can decrease by `scale`.
    """
    lower, upper = bounded.jacobian
    below = scale.unsqueeze(1)
    above = below if above is None else above.unsqueeze(1)
    magnitude = torch.maximum(below * upper, -above * lower)
    dual = bounded.region.dual_norm
    plain = torch.linalg.vector_norm(magnitude, ord=dual, dim=2)
    if dual != 1:
        return plain
    unknown = (lower < 0) & (upper > 0)
    sign = torch.where(lower >= 0, below, -above)
    if bounded.treatment.chord_of_absolute:
        # max(b y, -a y) <= s y + t on [l, u], l < 0 < u, with s = (b u + a l) / (u - l) and t = -(a + b) l u / (u - l).
        width = torch.where(unknown, upper - lower, torch.ones_like(lower))
        slope, constant = (below * upper + above * lower) / width, -(below + above) * lower * (upper / width)
    else:
        slope, constant = torch.zeros_like(lower), magnitude
    weights = torch.where(unknown, slope, sign)
    rest = torch.where(unknown, constant, torch.zeros_like(constant)).sum(2)
    return torch.minimum(plain, bounded.upper_of_sum(weights) + rest)
