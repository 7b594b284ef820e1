"""Balls without a stationary point: some entry of the gradient keeps its sign all over them."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from recurjac_plugin.host.region import through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.bounded import BoundedJacobian
from recurjac_plugin.jacobian.methods import MethodName, Norm, Order, parse_jacobian_method
from recurjac_plugin.neurons.searches.largest import effort_of
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import proof_slack

from .perturbed_points import Clip, point_rows, probing, read_points
from .radius_search import RadiusSearch, largest_radius
from .searched.gradients import GradientProbe
from .searched.radii import further, require_searchable


@through_float32
@full_precision()
def stationary_free_radius(
    model: nn.Module,
    x0: Tensor,
    *,
    norm: Norm,
    C: Tensor | None = None,
    method: MethodName | None = None,
    per_output: bool = False,
    order: Order = "backward",
    shift: int = 0,
    clip: Clip | None = None,
    initial: float = 0.01,
    limit: float = 1e5,
    tolerance: float = 1e-5,
    max_probes: int = 100,
    budget: float | None = None,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Tensor:
    r"""The largest radius found such that no row of ``C f`` has a stationary point in the ball around `x0`.

    A ball is certified if, for every row k, some entry r of the gradient has a certain sign on it: with the bounds L, U
    of `jacobian_bounds`,

    .. math:: L_{kr} > s_k \quad\text{or}\quad U_{kr} < -s_k, \qquad
        s_k = 64 \varepsilon \max_r \max(|L_{kr}|, |U_{kr}|),

    which leaves room for rounding (eps is the number type's); with `rigorous` the bounds have their room already, and s
    is 0. An entry that is 0 all over the ball has no such sign. At kinks (ReLU at 0) the statement is about Clarke's
    generalised gradient: entry r of all its elements has that sign, so 0 is not among them. The radius is searched as
    in `certified_radius`, from there on, with a `budget`, by search over the sides of neurons for an entry that keeps
    its sign.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x0: the points, shape (b, *input_shape), a plain tensor.
        norm: p of the balls: 1, 2 or inf.
        C: specification matrix, shape (b or 1, k, n_out): a unit row for one output; None takes every output.
        method: as in `jacobian_bounds`.
        per_output: one radius per row instead of the one on which all of them are free of stationary points.
        order: as in `jacobian_bounds`.
        shift: as in `jacobian_bounds`.
        clip: as in `certified_radius`.
        initial: first radius to probe.
        limit: no larger radius is probed.
        tolerance: how close to the smallest refused radius the search goes.
        max_probes: most radii to probe per sample by single passes.
        budget: as in `certified_radius`, for each of the radii.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`: whether what is certified is proven, rounding included.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (b,), or (b, k) with `per_output`, of the model's dtype and device, not differentiable; 0 where nothing
        was certified.

    Raises:
        InputError: model, points, C or options do not fit together.
        MethodError: unknown method, or one without Jacobian bounds.
        UnsupportedError: the network has parts without a rule, or, with a `budget`, neurons without two linear pieces.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 4 (local optimization landscape).
    """
    declare(model, reference)
    seconds = effort_of(0.0, 0.0 if budget is None else budget)[1]
    parsed, points = parse_jacobian_method(method), read_points(x0, norm, clip)
    search = RadiusSearch(initial, limit, tolerance, max_probes)
    _, rows = point_rows(model, points, C)
    batch, count = rows.shape[:2]
    if budget is not None:
        require_searchable(model, points)
    if per_output:  # every row of every sample is searched by itself
        points = points.take(torch.arange(batch, device=rows.device).repeat_interleave(count))
        rows = rows.flatten(0, 1).unsqueeze(1)

    def check(index: Tensor, radii: Tensor) -> Tensor:
        region = points.take(index).region(radii)
        analysis = analyse(
            model, region, parsed, rows[index], order=order, shift=shift, memory_budget=memory_budget, rigorous=rigorous
        )
        return certain_signs(analysis, rigorous).any(2).all(1)

    active, dtype = torch.ones(len(points), dtype=torch.bool), points.center.dtype
    radii = largest_radius(probing(check, points), active, search, dtype)
    if seconds:
        probe = partial(GradientProbe, model, memory_budget=memory_budget)
        radii = further(radii, probe, points, rows, active, search, dtype, seconds)
    radii = radii.to(points.center)
    return radii.reshape(batch, count) if per_output else radii


def certain_signs(bounded: BoundedJacobian, proven: bool = False) -> Tensor:
    """Which entries of the Jacobian have one sign all over the region, and are never 0: bool (b, k, columns).

    Those with ``L > s`` or ``U < -s`` for the slack s of `stationary_free_radius`, 0 for proven bounds.
    """
    lower, upper = bounded.jacobian
    if proven:
        return (lower > 0) | (upper < 0)
    size = torch.maximum(lower.abs(), upper.abs()).amax(2, keepdim=True)
    slack = proof_slack(size)
    return (lower > slack) | (upper < -slack)
