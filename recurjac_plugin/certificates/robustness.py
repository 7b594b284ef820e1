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
from recurjac_plugin.jacobian.methods import LINES, Method, Norm, Order, OutputMethodName, parse, require_rigorous
from recurjac_plugin.lipschitz.mean_value import output_bounds
from recurjac_plugin.neurons.searches.largest import effort_of
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.rounding import gamma, proof_slack

from .drops import Drops
from .perturbed_points import Clip, PerturbedPoints, point_rows, probing, read_points
from .radius_search import RadiusSearch, largest_radius
from .searched.margins import MarginProbe
from .searched.radii import further, require_searchable


@through_float32
@full_precision()
def certified_radius(
    model: nn.Module,
    x0: Tensor,
    *,
    norm: Norm,
    C: Tensor,
    method: OutputMethodName | None = None,
    steps: int = 15,
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
    r"""The largest radius found such that every row of ``C f`` is positive on the whole ball around `x0`.

    With the margins of `margin_rows` for C, no input in the ball is classified otherwise. RecurJac and Fast-Lip certify
    a radius by the paper's integral over nested balls of radii ``0 = t_0 < ... < t_n``: row k stays positive where

    .. math:: C_k f(x_0) - \sum_i L_k(t_i) (t_i - t_{i-1}) > 0,

    with ``L_k(t)`` the row constants of `local_lipschitz` on the ball of radius t, and no difference of two radii more
    than ``t_n / steps`` (`certificates.drops`). A method of the host alone certifies
    a radius if its lower bounds are positive there; with ``+CROWN``, row by row, either of the two. The radius is found
    by growing or shrinking by a factor of 10, then bisecting (`radius_search`). Every radius returned has been
    certified itself; a larger one may exist.

    With a `budget` larger radii are searched from there on: branch and bound over the sides of neurons shows that no
    row is 0 or less on a ball, and points where one is bound the radius from above, until both meet or time is up
    (`certificates.searched`). What that certifies is proven, rounding included. The radius is never smaller than
    without a budget; for networks of functions with two linear pieces, and balls of any norm.

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
        max_probes: most radii to probe per sample by single passes.
        budget: seconds for a search over the sides of neurons around each point, beyond the radius that single passes
            certify; None for no search.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`: whether what is certified is proven, rounding included.
        reference: as in `jacobian_bounds`.

    Returns:
        Shape (b,), of the model's dtype and device, not differentiable: 0 where nothing was certified, among others
        where a row is not positive at `x0`.

    Raises:
        InputError: model, points, C or options do not fit together.
        MethodError: unknown method.
        UnsupportedError: the network has parts without a rule, or, with a `budget`, neurons without two linear pieces.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.5.
    """
    declare(model, reference)
    seconds = effort_of(0.0, 0.0 if budget is None else budget)[1]
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise InputError(f"`steps` must be a whole number of at least 1, got {steps!r}.")
    parsed, points = parse(method), read_points(x0, norm, clip)
    require_rigorous(parsed, rigorous)
    search = RadiusSearch(initial, limit, tolerance, max_probes)
    outputs, rows = point_rows(model, points, C)
    if budget is not None:
        require_searchable(model, points)
    options = {"order": order, "shift": shift, "memory_budget": memory_budget, "rigorous": rigorous}
    passes = _Passes(model, points, parsed, rows, outputs, steps, **options)
    active, dtype = passes.positive_at_points.cpu(), points.center.dtype
    certified = probing(passes, points)
    # What one division of a radius refuses another one may certify.
    otherwise = partial(certified, evenly=True) if parsed.bounds_jacobian else None
    radii = largest_radius(certified, active, search, dtype, otherwise)
    if seconds:
        probe = partial(MarginProbe, model, memory_budget=memory_budget)
        radii = further(radii, probe, points, rows, active, search, dtype, seconds)
    return radii.to(points.center)


class _Passes:
    """Certifies balls by single passes: see `certified_radius`, of whose arguments this takes some."""

    def __init__(
        self,
        model: Any,
        points: PerturbedPoints,
        method: Method,
        rows: Tensor,
        outputs: Tensor,
        steps: int,
        **options: Any,
    ) -> None:
        self.model, self.points, self.method, self.rows, self.steps = model, points, method, rows, steps
        self.rigorous = bool(options["rigorous"])
        terms = rows * outputs.unsqueeze(1)
        self.margin, self.scale = terms.sum(2), terms.abs().sum(2)
        if self.rigorous:
            self.margin = _proven_margin(model, points, method, rows)
        self.drops = Drops(model, points, method, rows, steps, **options) if method.bounds_jacobian else None

    @property
    def positive_at_points(self) -> Tensor:
        """Points themselves at which all rows are positive, bool (b,)."""
        return self._positive(self.margin, torch.arange(len(self.points), device=self.margin.device)).all(1)

    def _positive(self, bound: Tensor, index: Tensor) -> Tensor:
        """Whether rows of some points are positive by their lower bounds, bool (m, k)."""
        # An infinite bound is an overflow, not a proof.
        slack = 0.0 if self.rigorous else proof_slack(self.scale[index], self.margin[index] - bound)
        return bound.isfinite() & (bound > slack)

    def __call__(self, index: Tensor, radii: Tensor, evenly: bool = False) -> Tensor:
        """Which balls around some of the points are certified, bool (m,)."""
        chosen, rows, drops = self.points.take(index), self.rows[index], self.drops
        proved = torch.zeros_like(rows[:, :, 0], dtype=torch.bool)
        if self.method.with_host_output:
            region = chosen.region(radii)
            host = output_bounds(self.model, region, method=self.method.host, C=rows, rigorous=self.rigorous)
            proved = self._positive(host[0], index)
        if drops is None or bool(proved.all()):
            return proved.all(1)
        rest = (~proved.all(1)).nonzero().squeeze(1)

        def holds(drop: Tensor, of: Tensor) -> Tensor:
            at, of = index[rest[of]], rest[of]
            if self.rigorous:  # sums of as many terms as there are columns and segments
                count = 2 * self.points.center[0].numel() + 8 * (drops.segments + self.steps) + 64
                drop = drop + gamma(count) * (drop + self.margin[at].abs())
            return (self._positive(self.margin[at] - drop, at) | proved[of]).all(1)

        certain = torch.ones_like(proved[:, 0])
        certain[rest] = drops.up_to(index[rest], radii.to(index.device)[rest], holds, evenly)
        return certain


def _proven_margin(model: Any, points: PerturbedPoints, method: Method, rows: Tensor) -> Tensor:
    """Proven lower bounds of ``C f(x0)``, float64, (b, k)."""
    at_points = points.region(torch.zeros(len(points), device=points.center.device))
    method = method if method.bounds_jacobian else parse(f"{method.host}+{LINES}")
    analysis = analyse(model, at_points, method, rows, rigorous=True)
    return analysis.center_value - analysis.center_error
