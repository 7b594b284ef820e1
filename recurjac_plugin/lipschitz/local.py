"""Local Lipschitz constants from Jacobian bounds: norms of what no entry exceeds, and better for the l_inf norm.

For a row k with gradient g the constant over a convex region is ``max |g|_q``, q the dual norm of p (RecurJac,
arXiv:1810.11783, section 3.1). With ``M = max(|L|, |U|)``, entry by entry, it is at most ``|M_k|_q``; for q = 1 the sum
of absolute values may be bounded as one column, which is pushed through the network once (section 3.4).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.region import through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import Analysis, analyse
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import parse_jacobian_method
from recurjac_plugin.jacobian.parts import bounded_in_parts
from recurjac_plugin.numerics.intervals import Intervals, rounded_up
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma, underflow

# Of the power method, for a bound of the largest singular value; entries of its vector stay above a share of the
# largest one.
_POWER_STEPS, _LEAST_SHARE = 60, 1e-9


@through_float32
@full_precision()
def local_lipschitz(
    model: Any,
    x: Any,
    *,
    method: str | None = None,
    C: Tensor | None = None,
    per_output: bool = False,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
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
        rigorous: as in `jacobian_bounds`.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (b,), or (b, k) with `per_output`.

    Raises:
        InputError: as in `jacobian_bounds`; or the vector constant is asked for p other than 1, 2, inf.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, sections 3.1 and 3.4.
    """
    declare(model, reference)
    parsed = parse_jacobian_method(method)

    def bound(x: Any, C: Tensor | None) -> tuple[Tensor]:
        analysis = analyse(
            model, x, parsed, C, order=order, shift=shift, intermediate_bounds=intermediate_bounds,
            memory_budget=memory_budget, rigorous=rigorous,
        )  # fmt: skip
        constant = _constant(analysis, per_output, rigorous)
        if rigorous:
            entries = analysis.jacobian[0][0].numel()  # each is squared, or added up, at most once on the way
            constant = rounded_up(constant * (1 + gamma(2 * entries + 64)) + underflow(1), type_of(x))
        return (constant,)

    return (bound(x, C) if intermediate_bounds else bounded_in_parts(bound, model, x, C, memory_budget))[0]


def _constant(analysis: Analysis, per_output: bool, rigorous: bool) -> Tensor:
    """The constant of every row, (b, k), or of all of them, (b,)."""
    lower, upper = analysis.jacobian
    norm = analysis.region.norm
    if per_output or norm == math.inf:
        rows = row_constants(analysis, torch.ones_like(lower[:, 0]))
        return rows if per_output else rows.amax(1)
    largest = torch.maximum(lower.abs(), upper.abs())
    if norm == 1:
        return largest.sum(1).amax(1)
    if norm == 2:
        return spectral_norm_bound(largest) if rigorous else torch.linalg.matrix_norm(largest, ord=2)
    raise InputError(f"The l_{norm:g} constant of a vector output has no formula here; use `per_output=True`.")


def row_constants(
    bounded: BoundedJacobian,
    scale: Tensor,  # shape: (b, columns)
    above: Tensor | None = None,  # shape: (b, columns)
) -> Tensor:
    r"""Upper bound of the dual norm of every row of the Jacobian, its columns scaled: (b, k).

    With a and b the bounds of d below, and ``M_kr = max(a_r U_kr, -b_r L_kr)``,

    .. math:: \max_{-a \le d \le b} \Big(-\sum_r J_{kr} d_r\Big) \le
        \min\Big(\sum_r M_{kr}, \; \overline{\sum_r w_{kr} J_{kr}} + \sum_r t_{kr}\Big)

    for norm inf, where an entry of known sign has the weight ``w = a`` or ``-b`` and t = 0, and one of unknown sign
    ``w = 0`` and t = M, or the chord of ``max(a J, -b J)`` over its bounds. For other norms it is ``|M_k|_q``.

    Args:
        bounded: bounds of the Jacobian. Columns of unknown sign are pushed with the chord of the absolute value, or
            added as constants, as its treatment says.
        scale: a, what one unit of the norm means in each coordinate: 1, or the half side lengths of a box.
        above: b, for norm inf how far each coordinate can increase, where it can decrease by `scale`; None for as far.

    Source:
        RecurJac, arXiv:1810.11783, section 3.4, for one scale and without chords.
    """
    lower, upper, beyond = *bounded.jacobian, above
    below = scale.unsqueeze(1)
    above = below if above is None else above.unsqueeze(1)
    largest = torch.maximum(below * upper, -above * lower)
    dual = bounded.region.dual_norm
    plain = torch.linalg.vector_norm(largest, ord=dual, dim=2)
    if dual != 1:
        return plain
    unknown = (lower < 0) & (upper > 0)
    sign = torch.where(lower >= 0, below, -above)
    if bounded.treatment.chord_of_absolute:
        # max(b y, -a y) <= s y + t on [l, u], l < 0 < u, with s = (b u + a l) / (u - l) and t = -(a + b) l u / (u - l).
        width = torch.where(unknown, upper - lower, torch.ones_like(lower))
        slope, constant = (below * upper + above * lower) / width, -(below + above) * lower * (upper / width)
    else:
        slope, constant = torch.zeros_like(lower), largest
    weights = torch.where(unknown, slope, sign)
    rest = torch.where(unknown, constant, torch.zeros_like(constant)).sum(2)
    found = torch.minimum(plain, bounded.upper_of_sum(weights) + rest)
    return found if bounded.start is None else torch.minimum(found, row_constants(bounded.start, scale, beyond))


def spectral_norm_bound(
    matrix: Tensor,  # shape: (b, k, columns)
) -> Tensor:
    r"""Upper bound of the spectral norm of matrices without negative entries, by a vector v > 0: (b,).

    .. math:: \lVert M \rVert_2^2 \le \max_i \frac{(M^T M v)_i}{v_i},

    which is exact for the largest singular vector; v comes from a few steps of the power method. It holds for every v,
    so no error of v matters.

    Source: Collatz, 1942, and Wielandt, 1950; Horn, Johnson, Matrix Analysis, 2013, corollary 8.1.31.
    """
    wide = matrix.mT if matrix.shape[1] < matrix.shape[2] else matrix
    v = torch.ones_like(wide[:, 0]).unsqueeze(2)
    tiny = torch.finfo(matrix.dtype).tiny
    best = torch.full_like(v[:, 0, 0], torch.inf)
    for _ in range(_POWER_STEPS):
        image = wide.mT @ (wide @ v)
        best = torch.minimum(best, (image / v).amax((1, 2)))
        v = (image / image.amax((1, 2), keepdim=True).clamp(min=tiny)).clamp(min=_LEAST_SHARE)
    return best.clamp(min=0).sqrt()
