"""Local Lipschitz constants from Jacobian bounds: those of single rows, and of the vector output.

For a row k with gradient g the constant over a convex region is ``max |g|_q``, q the dual norm of p (RecurJac,
arXiv:1810.11783, section 3.1), see `norms`, and for the vector it is ``max |J|_{p->q}``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.region import Inputs, through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import Analysis, analyse
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import MethodName, Norm, Order, parse_jacobian_method
from recurjac_plugin.jacobian.parts import bounded_in_parts
from recurjac_plugin.numerics.intervals import Intervals, rounded_up
from recurjac_plugin.numerics.precision import full_precision

from .norms import constants_of_rows, vector_constant, with_room_for_sums
from .searched.exact import tighten
from .weighted import WeightedJacobian, WeightedNorm, norm_and_weights


@through_float32
@full_precision()
def local_lipschitz(
    model: nn.Module,
    x: Inputs,
    *,
    method: MethodName | None = None,
    C: Tensor | None = None,
    norm: Norm | WeightedNorm | None = None,
    output_norm: Norm | WeightedNorm | None = None,
    per_output: bool = False,
    gap: float | None = None,
    budget: float | None = None,
    order: Order = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Tensor:
    r"""Upper bound of the Lipschitz constant of ``C f`` over the region of `x`, between any two of the norms 1, 2, inf.

    With ``g = C f``, J its Jacobian, p the norm of the input, q that of the output and p* the dual of p
    (1/p + 1/p* = 1), for x, x' in the region

    .. math:: \lVert g(x) - g(x') \rVert_q \le \sup_z \lVert J(z) \rVert_{p \to q} \, \lVert x - x' \rVert_p,
        \qquad |g_k(x) - g_k(x')| \le \sup_z \lVert J_{k\cdot}(z) \rVert_{p^*} \, \lVert x - x' \rVert_p .

    For a row it is at most the norm of ``M = max(|L|, |U|)`` from `jacobian_bounds`, and for p = inf entries of known
    sign are bounded together, as one column (the paper's final bound). The formulas for the vector are in
    `recurjac_plugin.lipschitz.norms`; of several bounds the smallest is returned.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box.
        method: as in `jacobian_bounds`.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        norm: p, which the region need not have, 1, 2 or inf, with `per_output` any number of at least 1; or a
            `WeightedNorm`. None for the norm of the region, inf for boxes.
        output_norm: q, 1, 2 or inf; or a `WeightedNorm`. None for the p of the input.
        per_output: one constant per row instead of one for the vector output.
        gap: to search until the constant is known that closely, see `tighten`; without a method, order or bounds of the
            caller's own. Returned is the smaller one of the bounds of the search and of one pass, with `rigorous=True`
            that of the search.
        budget: seconds that the search may take for each region, see `tighten`.
        order: as in `jacobian_bounds`.
        shift: as in `jacobian_bounds`.
        intermediate_bounds: as in `jacobian_bounds`.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (b,), or (b, k) with `per_output`.

    Raises:
        InputError: as in `jacobian_bounds`; or the vector constant is asked for p or q other than 1, 2, inf.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, sections 3.1 and 3.4, for rows.
    """
    if gap is not None or budget is not None:
        if (method, order, shift, intermediate_bounds) != (None, "backward", 0, None):
            raise InputError("`gap` and `budget` go without `method`, `order`, `shift` and `intermediate_bounds`.")
        if isinstance(norm, WeightedNorm) or isinstance(output_norm, WeightedNorm):
            raise InputError("`gap` and `budget` go without weighted norms: give 1, 2 or inf, or leave them out.")
        found = tighten(
            model, x, C=C, norm=norm, output_norm=output_norm, per_output=per_output, gap=gap, budget=budget,
            memory_budget=memory_budget, reference=reference,
        ).upper  # fmt: skip
        if rigorous:
            return found
        with torch.no_grad():  # ellipsoids are not proven, so that no search has them, and small on large regions
            one_pass = local_lipschitz(
                model, x, C=C, norm=norm, output_norm=output_norm, per_output=per_output, memory_budget=memory_budget,
                reference=reference,
            )  # fmt: skip
        return torch.minimum(found, one_pass)
    declare(model, reference)
    parsed = parse_jacobian_method(method)
    if per_output and output_norm is not None:
        raise InputError("`output_norm` measures all outputs together; leave it out with `per_output=True`.")
    C, output = _mixed(C, x, output_norm, rigorous)

    def bound(x: Any, C: Tensor | None) -> tuple[Tensor]:
        analysis = analyse(
            model, x, parsed, C, order=order, shift=shift, intermediate_bounds=intermediate_bounds,
            memory_budget=memory_budget, rigorous=rigorous,
        )  # fmt: skip
        constant = _constant(analysis, norm, output, per_output, rigorous)
        if rigorous:
            constant = rounded_up(with_room_for_sums(constant, analysis), type_of(x))
        return (constant,)

    return (bound(x, C) if intermediate_bounds else bounded_in_parts(bound, model, x, C, memory_budget))[0]


@dataclass(frozen=True)
class _Output:
    """The norm of the output: what `weighted` is measured in, after C has taken a matrix in.

    Attributes:
        norm: as it was given, without a matrix; None for that of the input.
        factor: what the constant is to be multiplied by.
    """

    norm: float | WeightedNorm | None
    factor: float = 1.0


def _mixed(
    C: Tensor | None, x: Any, norm: float | WeightedNorm | None, rigorous: bool
) -> tuple[Tensor | None, _Output]:
    """C, multiplied by the root of a matrix that weighs the outputs, and the norm of these."""
    if not isinstance(norm, WeightedNorm) or norm.weight.dim() != 2:
        return C, _Output(norm)
    if C is not None and rigorous:
        raise InputError("With `rigorous=True` and a matrix as the weight of `output_norm`, leave `C` out.")
    if norm.weight.shape[0] != norm.weight.shape[1] or (C is not None and C.shape[-2] != len(norm.weight)):
        raise InputError(
            f"The weight of `output_norm` has shape {tuple(norm.weight.shape)}, expected a square matrix over "
            "the outputs."
        )
    root, _, error = norm.roots("output_norm")
    if C is not None:
        C = root.to(C) @ C
    elif rigorous:
        C = root.unsqueeze(0)
    else:
        C = root.unsqueeze(0).to(x if isinstance(x, Tensor) else x[0])
    return C, _Output(2.0, math.sqrt(1 + error))


def _constant(
    analysis: Analysis, norm: float | WeightedNorm | None, output: _Output, per_output: bool, proven: bool
) -> Tensor:
    """The constant of every row, (b, k), or of all of them, (b,)."""
    given = analysis.region.norm if norm is None else norm
    p, weights = norm_and_weights("norm", given, per_output)
    q, row_weights = (p, None) if output.norm is None else norm_and_weights("output_norm", output.norm)
    like = analysis.rows
    bounded: BoundedJacobian = analysis
    factor = output.factor
    if weights is not None or row_weights is not None:
        columns, rows = like.new_ones(analysis.graph.columns), like.new_ones(like.shape[1])
        if weights is not None:
            scales = weights.scales("norm", len(columns))
            if scales is None:
                _, inverse, error = weights.roots("norm")
                columns, factor = inverse.to(like), factor / math.sqrt(1 - error)
            else:
                columns = (1 / scales).to(like)
        if row_weights is not None:
            scales = row_weights.scales("output_norm", len(rows))
            rows = rows if scales is None else scales.to(like)
        bounded = WeightedJacobian(analysis, columns, rows, proven)
    constant = constants_of_rows(bounded, p) if per_output else vector_constant(bounded, p, q, proven)
    return constant if factor == 1 else constant * factor
