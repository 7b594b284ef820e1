"""Output bounds from Jacobian bounds: the mean value theorem, in one step or over nested regions.

``C f(x) - C f(x0)`` is the integral of the directional derivative along the segment from x0 to x, which the row
constants bound: on each nested region by those that hold there (RecurJac, arXiv:1810.11783, section 3.5).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.problem import Problem, read, read_in_float64, specification
from recurjac_plugin.host.region import Inputs, through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse_problem
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import Method, Order, OutputMethodName, parse, require_rigorous
from recurjac_plugin.numerics.intervals import Interval, intersection, rounded_outward
from recurjac_plugin.numerics.memory import memory_budget
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma
from recurjac_plugin.preactivations.rigorous import host_or_own_bounds, prove_preactivations

from .norms import row_constants


@through_float32
@full_precision()
def output_bounds(
    model: nn.Module,
    x: Inputs,
    *,
    method: OutputMethodName | None = None,
    C: Tensor | None = None,
    steps: int = 1,
    order: Order = "backward",
    shift: int = 0,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    r"""Bound ``C f`` over the region of `x`.

    For a ball around x0 (the middle of a box) with nested radii ``t_1 < ... < t_n = eps``, evenly spaced,

    .. math:: |C f(x) - C f(x_0)| \le \sum_i L(t_i) (t_i - t_{i-1}),

    with ``L(t)`` the row constants of `local_lipschitz` on the ball of radius t: the discretised integral of the paper.
    One step is the mean value theorem. A box is scaled about its middle, its sides scaling the columns.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box.
        method: as in `jacobian_bounds`; with ``+CROWN`` the intersection with the host's output bounds, which are all
            there is of a network that jumps; or a method of the host alone, whose bounds are returned as they are.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        steps: number n of nested regions; each one costs a run of the host and a pass.
        order: as in `jacobian_bounds`; methods of the host alone have none.
        shift: as in `jacobian_bounds`.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`; CROWN's bounds are those of our own, then.
        reference: as in `jacobian_bounds`.

    Returns:
        ``lower, upper``, each of shape (b, k).

    Raises:
        InputError: as in `jacobian_bounds`, or `steps` below 1.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.5.
    """
    declare(model, reference)
    if not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` must be a whole number of at least 1, got {steps!r}.")
    parsed = parse(method)
    require_rigorous(parsed, rigorous)
    problem = read_in_float64(model, x) if rigorous else read(model, x)
    if not parsed.bounds_jacobian or (parsed.with_host_output and problem.jumps):
        return _of_rows_alone(problem, parsed, C, memory_budget, rigorous, x)
    radius = problem.region.radius
    deviation, analysis = None, None
    for i in range(1, steps + 1):
        nested = problem if i == steps else problem.shrunk(i / steps)
        analysis = analyse_problem(
            nested, parsed, C, order=order, shift=shift, memory_budget=memory_budget, rigorous=rigorous
        )
        step = largest_drop(analysis, radius) / steps
        deviation = step if deviation is None else deviation + step
    assert analysis is not None and deviation is not None
    center = analysis.center_value
    if rigorous:
        columns = analysis.jacobian[0].shape[2]
        deviation = deviation * (1 + gamma(2 * columns + 4 * steps + 64)) + analysis.center_error
        deviation = deviation + gamma(8) * (center.abs() + deviation)
    lower, upper = center - deviation, center + deviation
    if parsed.with_host_output and analysis.host_output is not None:
        lower, upper = intersection((lower, upper), analysis.host_output)
    return rounded_outward((lower, upper), type_of(x)) if rigorous else (lower, upper)


def _of_rows_alone(
    problem: Problem, method: Method, C: Tensor | None, budget: int | None, rigorous: bool, x: Any
) -> Interval:
    """Bounds of the rows without a Jacobian: the host's, or CROWN's of our own."""
    if not rigorous:
        rows = specification(C, problem.host_graph.output)
        return host_or_own_bounds(problem, method.host, rows, (), memory_budget(budget, rows.device)).output
    output = problem.host_graph.output
    rows = specification(None if C is None else C.to(output), output)
    proven = prove_preactivations(problem, rows, memory_budget(budget, rows.device)).host_output
    assert proven is not None
    return rounded_outward(proven, type_of(x))


def largest_drop(bounded: BoundedJacobian, below: Tensor, above: Tensor | None = None) -> Tensor:
    r"""Upper bound of ``C f(y) - C f(z)`` for y and z in the region: (b, k).

    .. math:: C f(y) - C f(z) \le \max_x \, -J(x) (z - y) \qquad \text{(mean value theorem)}

    Args:
        bounded: bounds of the Jacobian on the region.
        below: how far each coordinate of z lies below that of y at most, shape (b, columns); for an l_1 or l_2 ball the
            largest distance of y and z, shape (b, 1).
        above: how far it lies above at most; None for as far as below. Without meaning for l_1 and l_2.
    """
    if bounded.region.norm == math.inf:
        return row_constants(bounded, below, above)
    return below * row_constants(bounded, torch.ones_like(bounded.jacobian[0][:, 0]))
