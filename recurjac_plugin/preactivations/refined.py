r"""Pre-activation bounds from anywhere, refined by optimised ones of our own: at every neuron the better of both.

.. math:: [\max(l, l'),\; \min(u, u')]

Source: as in `optimised`.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from recurjac_plugin.errors import RoomError, UnsupportedError
from recurjac_plugin.gains.optimised import Effort
from recurjac_plugin.gains.undetermined import PreactivationBounds, derivative_ranges
from recurjac_plugin.host.problem import Problem
from recurjac_plugin.numerics.intervals import intersection

from .bounds import Preactivations
from .rigorous import bounds_of_our_own, prove_preactivations


@torch.no_grad()
def refined_preactivations(
    problem: Problem,
    rows: Tensor,  # shape: (b, k, *output_shape)
    known: Preactivations,
    given: Collection[str],
    memory_budget: int,  # bytes
    effort: Effort,
) -> Preactivations:
    """Bounds of what derivatives depend on, and of the rows, at least as tight as those that are known; constants.

    Where CROWN of our own has no bounds, or no room for its gains, they stay what they are.

    Args:
        problem: model and regions; in float64 if what is known is proven.
        rows: the matrix C.
        known: bounds to start from. Proven ones stay proven.
        given: nodes whose bounds are those of the caller, and stay what they are.
        memory_budget: bytes for one chunk of rows.
        effort: how long is looked for better lines.

    Source: alpha-CROWN, arXiv:2011.13824.
    """
    wanted = [name for name in known.bounds if name not in given]
    if known.proven is not None:
        return prove_preactivations(problem, rows, memory_budget, effort)
    bounds, output = dict(known.bounds), known.host_output
    if wanted:
        try:
            found = bounds_of_our_own(problem, rows, wanted, memory_budget, effort)
        except (RoomError, UnsupportedError):
            return known
        for name, (low, high) in found.intervals.items():
            each = bounds[name]
            bounds[name] = PreactivationBounds(
                torch.maximum(each.lower, low.reshape(each.lower.shape)),
                torch.minimum(each.upper, high.reshape(each.upper.shape)),
                each.error,
            )
        output = None if output is None else intersection(output, found.output)
    return Preactivations(bounds, derivative_ranges(problem.graph, bounds), output)
