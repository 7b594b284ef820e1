"""The radius around a point on which margins are certified to stay positive."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from recurjac_plugin.errors import InputError
from recurjac_plugin.host.region import through_float32
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.methods import LINES, Method, parse, require_rigorous
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma, proof_slack

from .drops import Drops
from .perturbed_points import Clip, PerturbedPoints, point_rows, probing, read_points
from .radius_search import RadiusSearch, largest_radius


@through_float32
@full_precision()
def certified_radius(
    model: Any,
    x0: Tensor,
    *,
    norm: float,
    C: Tensor,
    method: str | None = None,
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
    a radius by the paper's integral over nested balls of radii ``0 = t_0 < ... < t_n``: row k stays positive where

    .. math:: C_k f(x_0) - \sum_i L_k(t_i) (t_i - t_{i-1}) > 0,

    with ``L_k(t)`` the row constants of `local_lipschitz` on the ball of radius t, and no difference of two radii more
    than ``t_n / steps`` (`certificates.drops`). A method of the host alone certifies
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
        steps: least number of nested balls for the integral; methods of the host alone need one.
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

    drops = Drops(model, points, parsed, rows, steps, **options) if parsed.bounds_jacobian else None

    def positive(bound: Tensor, index: Tensor) -> Tensor:
        # An infinite bound is an overflow, not a proof.
        slack = 0.0 if rigorous else proof_slack(scale[index], margin[index] - bound)
        return bound.isfinite() & (bound > slack)

    def check(index: Tensor, radii: Tensor, evenly: bool = False) -> Tensor:
        chosen, C_chosen = points.take(index), rows[index]
        proved = torch.zeros_like(C_chosen[:, :, 0], dtype=torch.bool)
        if parsed.with_host_output:
            host = output_bounds(model, chosen.region(radii), method=parsed.host, C=C_chosen, rigorous=rigorous)
            proved = positive(host[0], index)
        if drops is None or bool(proved.all()):
            return proved.all(1)

        def holds(drop: Tensor, of: Tensor) -> Tensor:
            if rigorous:  # sums of as many terms as there are columns and segments
                count = 2 * points.center[0].numel() + 8 * (drops.segments + steps) + 64
                drop = drop + gamma(count) * (drop + margin[index[of]].abs())
            return (positive(margin[index[of]] - drop, index[of]) | proved[of]).all(1)

        rest = (~proved.all(1)).nonzero().squeeze(1)
        certain = torch.ones_like(proved[:, 0])
        radii = radii.to(index.device)[rest]
        certain[rest] = drops.up_to(index[rest], radii, lambda drop, of: holds(drop, rest[of]), evenly)
        return certain

    everyone = torch.arange(len(points), device=margin.device)
    active = positive(margin, everyone).all(1).cpu()
    certified = probing(check, points)
    # What one division of a radius refuses another one may certify.
    otherwise = None if drops is None else partial(certified, evenly=True)
    return largest_radius(certified, active, search, points.center.dtype, otherwise).to(points.center)


def _proven_margin(model: Any, points: PerturbedPoints, method: Method, rows: Tensor) -> Tensor:
    """Proven lower bounds of ``C f(x0)``, float64, (b, k)."""
    at_points = points.region(torch.zeros(len(points), device=points.center.device))
    method = method if method.bounds_jacobian else parse(f"{method.host}+{LINES}")
    analysis = analyse(model, at_points, method, rows, rigorous=True)
    return analysis.center_value - analysis.center_error
