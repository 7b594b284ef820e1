"""The radius around a point on which margins are certified to stay positive."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import Method, parse, require_rigorous
from recurjac_plugin.lipschitz.mean_value import largest_drop, output_bounds
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma, proof_slack

from .perturbed_points import Clip, PerturbedPoints, point_rows, probing, read_points
from .radius_search import RadiusSearch, largest_radius


@full_precision()
def certified_radius(
    model: Any,
    x0: Tensor,
    *,
    norm: float,
    C: Tensor,
    method: str = "RecurJac",
    steps: int = 15,
    order: str = "backward",
    shift: int = 0,
    clip: Clip | None = None,
    initial: float = 0.01,
    limit: float = 1e5,
    tolerance: float = 1e-5,
    max_probes: int = 100,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Tensor:
    r"""The largest radius found such that every row of ``C f`` is positive on the whole ball around `x0`.

    With the margins of `margin_rows` for C, no input in the ball is classified otherwise. RecurJac and Fast-Lip certify
    a radius by the paper's integral over nested balls of evenly spaced radii ``t_1 < ... < t_n``: row k stays positive
    where

    .. math:: C_k f(x_0) - \sum_i L_k(t_i) (t_i - t_{i-1}) > 0,

    with ``L_k(t)`` the row constants of `local_lipschitz` on the ball of radius t. A method of the host alone certifies
    a radius if its lower bounds are positive there; with ``+CROWN``, row by row, either of the two. The radius is found
    by growing or shrinking by a factor of 10, then bisecting (`radius_search`). Every radius returned has been
    certified itself; a larger one may exist.

    Proofs leave room for rounding, a proven one with `rigorous`; otherwise a row counts as positive if its bound is
    larger than

    .. math:: 64 \varepsilon \Big(\sum_j |C_{kj} f_j(x_0)| + |C_k f(x_0) - \text{bound}_k|\Big),

    with the eps of the number type.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x0: the points, shape (b, *input_shape), a plain tensor.
        norm: p of the balls: 1, 2 or inf.
        C: specification matrix, shape (b or 1, k, n_out), e.g. from `margin_rows`.
        method: as in `output_bounds`.
        steps: number n of nested balls for the integral; methods of the host alone need one.
        order: as in `jacobian_bounds`; methods of the host alone have none.
        shift: as in `jacobian_bounds`.
        clip: lowest and highest input, numbers or tensors like `x0`: for norm inf only the part of the ball within is
            certified, e.g. the valid range of pixels. Balls of norm 1 and 2 are not clipped, which is sound but loose.
        initial: first radius to probe.
        limit: no larger radius is probed.
        tolerance: how close to the smallest refused radius the search goes.
        max_probes: most radii to probe per sample.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`: whether what is certified is proven, rounding included.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (b,), of the model's dtype and device, not differentiable: 0 where nothing was certified, among others
        where a row is not positive at `x0`.

    Raises:
        InputError: model, points, C or options do not fit together.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.5.
    """
    declare(model, reference)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` must be a whole number of at least 1, got {steps!r}.")
    parsed, points = parse(method), read_points(x0, norm, clip)
    require_rigorous(parsed, rigorous)
    search = RadiusSearch(initial, limit, tolerance, max_probes)
    outputs, rows = point_rows(model, points, C)
    terms = rows * outputs.unsqueeze(1)
    margin, scale = terms.sum(2), terms.abs().sum(2)
    options: dict[str, Any] = {"order": order, "shift": shift, "memory_budget": memory_budget, "rigorous": rigorous}
    if rigorous:
        margin = _proven_margin(model, points, parsed, rows)

    def positive(bound: Tensor, index: Tensor) -> Tensor:
        # An infinite bound is an overflow, not a proof.
        slack = 0.0 if rigorous else proof_slack(scale[index], margin[index] - bound)
        return bound.isfinite() & (bound > slack)

    def check(index: Tensor, radii: Tensor) -> Tensor:
        chosen, C_chosen = points.take(index), rows[index]
        proved = torch.zeros_like(C_chosen[:, :, 0], dtype=torch.bool)
        if parsed.with_host_output:
            host = output_bounds(model, chosen.region(radii), method=parsed.host, C=C_chosen, rigorous=rigorous)
            proved = positive(host[0], index)
        if not parsed.bounds_jacobian or bool(proved.all()):
            return proved.all(1)
        for drop in _drops(model, chosen, radii, parsed, C_chosen, steps, **options):
            if rigorous:  # sums of as many terms as there are columns and steps
                count = 2 * points.center[0].numel() + 8 * steps + 64
                drop = drop + gamma(count) * (drop + margin[index].abs())
            rest = positive(margin[index] - drop, index) | proved
            if not bool(rest.all(1).any()):  # drops only grow
                break
        return rest.all(1)

    everyone = torch.arange(len(points), device=margin.device)
    active = positive(margin, everyone).all(1).cpu()
    return largest_radius(probing(check, points), active, search, points.center.dtype).to(points.center)


def _proven_margin(model: Any, points: PerturbedPoints, method: Method, rows: Tensor) -> Tensor:
    """Proven lower bounds of ``C f(x0)``, float64, (b, k)."""
    at_points = points.region(torch.zeros(len(points), device=points.center.device))
    method = method if method.bounds_jacobian else parse(f"{method.host}+RecurJac")
    analysis = analyse(model, at_points, method, rows, rigorous=True)
    return analysis.center_value - analysis.center_error


def _drops(
    model: Any, points: PerturbedPoints, radii: Tensor, method: Method, rows: Tensor, steps: int, **options: Any
) -> Iterator[Tensor]:
    """Upper bounds of ``C f(x0) - C f(x)`` on balls of growing radii ``t_1 < ... < t_n``: (b, k) each.

    Let x lie in the (clipped) l_inf ball of radius ``t_n``, and let ``x_i`` be x with every coordinate brought to
    within ``t_i`` of that of x0. The path from x0 over ``x_1``, ``x_2``, ... ends in x. Its i-th segment lies in the
    ball of radius ``t_i``, and on it coordinate r moves, towards x, by at most the difference of how far this ball and
    the one before it reach to that side. So the mean value theorem bounds the drop on the segment by the Jacobian on
    the ball and these differences; where nothing is clipped all of them are ``t_i - t_(i-1)``.

    Args:
        model: the host's `BoundedModule`.
        points: x0.
        radii: ``t_n``, (b,); the others are ``i / n`` of it.
        method: a parsed method that bounds Jacobians.
        rows: C, (b, k, n_out).
        steps: n.
        options: of `analyse`.
    """
    rows_type = torch.float64 if options.get("rigorous") else rows.dtype
    total = torch.zeros_like(rows[:, :, 0], dtype=rows_type)
    before: tuple[Tensor, Tensor] | None = None
    for i in range(1, steps + 1):
        inner = radii * (i / steps) if i < steps else radii
        below, above = points.reach(inner)
        analysis = analyse(model, points.region(inner), method, rows, **options)
        below, above = below.to(rows_type), above.to(rows_type)
        grown = (below, above) if before is None else (below - before[0], above - before[1])
        total = total + largest_drop(analysis, *grown)
        before = below, above
        yield total
