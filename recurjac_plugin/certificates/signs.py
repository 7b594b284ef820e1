r"""Monotonicity: the sign of every entry of the Jacobian over a whole region, certified, refuted or unknown.

Bounds ``L <= J <= U`` over the region certify: +1 where ``L >= 0``, -1 where ``U <= 0``; more entries on the parts of
the region, if it is cut (`branch_and_bound.entry_signs`). Derivatives at two points refute (`sampled_derivatives`).
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, overload

import torch
from torch import Tensor, nn

from recurjac_plugin.branch_and_bound.entry_signs import (
    JacobianBounder,
    Signs,
    cut_for_signs,
    require_consistent,
    signs_of,
)
from recurjac_plugin.errors import InputError
from recurjac_plugin.host.problem import read, read_in_float64, specification
from recurjac_plugin.host.region import Inputs, cut, read_region, through_float32, type_of
from recurjac_plugin.host.same_function import declare
from recurjac_plugin.jacobian.analysis import analyse
from recurjac_plugin.jacobian.bounds import Bounds
from recurjac_plugin.jacobian.entries import in_shapes
from recurjac_plugin.jacobian.entry_search import reduced_network, searched_entries
from recurjac_plugin.jacobian.methods import MethodName, Order, parse_jacobian_method
from recurjac_plugin.jacobian.parts import bounded_in_parts
from recurjac_plugin.neurons.searches.largest import Effort, effort_of
from recurjac_plugin.numerics.intervals import Interval, rounded_outward
from recurjac_plugin.numerics.precision import full_precision
from recurjac_plugin.numerics.region import Region

from .held.entry_signs import Monotonicity
from .sampled_derivatives import SampledDerivatives, SampledRegion

DEFAULT_SAMPLES = 64
"""Random points per region that may refute."""


@overload
def monotonicity(  # type: ignore[overload-overlap]  # a tuple of one input is one input
    model: nn.Module, x: Tensor | tuple[Tensor],
    *, C: Tensor | None = None, method: MethodName | None = None, order: Order = "backward",
    wanted: Tensor | None = None, timeout: float | None = None, max_boxes: int | None = None,
    budget: float | None = None, seed: int = 0, batch_size: int = 256, memory_budget: int | None = None,
    rigorous: bool = False, reference: nn.Module | None = None,
) -> Tensor: ...  # fmt: skip


@overload
def monotonicity(
    model: nn.Module, x: tuple[Tensor, ...] | list[Tensor],
    *, C: Tensor | None = None, method: MethodName | None = None, order: Order = "backward",
    wanted: Tensor | None = None, timeout: float | None = None, max_boxes: int | None = None,
    budget: float | None = None, seed: int = 0, batch_size: int = 256, memory_budget: int | None = None,
    rigorous: bool = False, reference: nn.Module | None = None,
) -> tuple[Tensor, ...]: ...  # fmt: skip


def monotonicity(
    model: nn.Module,
    x: Inputs,
    *,
    C: Tensor | None = None,
    method: MethodName | None = None,
    order: Order = "backward",
    wanted: Tensor | None = None,
    timeout: float | None = None,
    max_boxes: int | None = None,
    budget: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Tensor | tuple[Tensor, ...]:
    r"""Certify in which inputs ``C f`` is monotone over the region of `x`.

    With the bounds L and U of `jacobian_bounds`, entry (b, k, r) is

    .. math:: +1 \text{ if } L_{bkr} \ge 0, \qquad -1 \text{ if } U_{bkr} \le 0, \qquad 0 \text{ (unknown) otherwise:}

    row k never decreases (never increases) anywhere in region b as input r grows and the other inputs stay. The signs
    are not strict, for a ReLU network may have flat parts; where ``L = U = 0`` the row does not depend on the input,
    both hold, and the entry is +1. Like the bounds, certificates are proven only with `rigorous`. To ask about a
    feature's whole range, let the region be a box that spans it.

    With `timeout` or `max_boxes` boxes are bisected where entries stay unknown (branch and bound): the coordinate whose
    side times Jacobian width is largest is halved, and an entry is certified when it has its sign in every part.
    Entries refuted by derivatives met on the way are not pursued.

    Args:
        model: auto_LiRPA's `BoundedModule`; it is left as it was.
        x: a `BoundedTensor` whose perturbation is an l_p ball or a box, shape (b, *input_shape); for a model of several
            inputs a tuple of all of them, plain tensors where they are not perturbed: without bisection and search.
        C: specification matrix, shape (b or 1, k, n_out); None takes every output.
        method: as in `jacobian_bounds`.
        order: as in `jacobian_bounds`.
        wanted: bool, broadcast to (b, k, *input_shape): the entries boxes are bisected for; None for all. The others
            are decided by the undivided region alone.
        timeout: seconds to spend, for all regions together; stops after the first batch of boxes that ends later.
        max_boxes: how many boxes to bound in each region, itself included. With this alone the result does not depend
            on the speed of the machine.
        budget: seconds for a search over the sides of neurons in each region, before boxes are bisected, for the
            entries that are unknown by then; for networks of functions with two linear pieces, and balls of any norm.
        seed: of the points that derivatives are sampled at while bisecting.
        batch_size: boxes bounded, and points evaluated, at once; 1 for networks that take one input at a time.
        memory_budget: as in `jacobian_bounds`.
        rigorous: as in `jacobian_bounds`.
        reference: as in `jacobian_bounds`.

    Returns:
        int8, (b, k, *input_shape); for a tuple of inputs a tuple, one for each perturbed input.

    Raises:
        InputError: as in `jacobian_bounds`; a budget that is not positive; bisection of a ball that is no box.
        MethodError: unknown method, or one without Jacobian bounds.
        RecurJacError: a derivative met at a point contradicts the bounds.
        UnsupportedError: the network has parts without a rule.

    Source:
        The derivative's sign over a region from Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783; the choice
        of the side to halve (the smear) from Kearfott: Rigorous Global Search, 1996.
    """
    if isinstance(x, (tuple, list)) and len(x) > 1:
        if not timeout is max_boxes is budget is None:
            raise InputError(
                "`timeout`, `max_boxes` and `budget` are for models of one input: make the model of "
                "`flat_inputs(module, shapes)`, of one input that has all of them."
            )
        declare(model, reference)
        return _of_each_input(model, x, method, C, order=order, memory_budget=memory_budget, rigorous=rigorous)
    return monotonicity_report(
        model,
        x,
        C=C,
        method=method,
        order=order,
        wanted=wanted,
        timeout=timeout,
        max_boxes=max_boxes,
        budget=budget,
        samples=0 if timeout is None and max_boxes is None else DEFAULT_SAMPLES,
        seed=seed,
        batch_size=batch_size,
        memory_budget=memory_budget,
        rigorous=rigorous,
        reference=reference,
    ).sign


@through_float32
@full_precision()
@torch.no_grad()
def monotonicity_report(
    model: nn.Module,
    x: Inputs,
    *,
    C: Tensor | None = None,
    method: MethodName | None = None,
    order: Order = "backward",
    wanted: Tensor | None = None,
    timeout: float | None = None,
    max_boxes: int | None = None,
    budget: float | None = None,
    samples: int = DEFAULT_SAMPLES,
    seed: int = 0,
    batch_size: int = 256,
    memory_budget: int | None = None,
    rigorous: bool = False,
    reference: nn.Module | None = None,
) -> Monotonicity:
    """Certify or refute monotonicity, the refutations with two points each where the derivative has both signs.

    Certificates are those of `monotonicity`. An entry is refuted if autograd, in the model's type, gives a derivative
    above and one below 0 at two points inside the region, both by more than rounding: 64 units of it, times the sum of
    the magnitudes of all ways from the input to the row. Smaller derivatives are reported as 0. The points are random
    ones, and ascended from those towards the missing sign.

    Args:
        model: as in `monotonicity`.
        x: as in `monotonicity`.
        C: as in `monotonicity`.
        method: as in `monotonicity`.
        order: as in `monotonicity`.
        wanted: as in `monotonicity`; also the entries that points are ascended for.
        timeout: as in `monotonicity`.
        max_boxes: as in `monotonicity`.
        budget: as in `monotonicity`.
        samples: random points in each region; with 0 only bisection, which tries one in every box, can refute.
        seed: of the points.
        batch_size: as in `monotonicity`.
        memory_budget: as in `monotonicity`.
        rigorous: as in `monotonicity`.
        reference: as in `jacobian_bounds`.

    Raises:
        InputError: as in `monotonicity`, or a negative number of samples.
        MethodError: as in `monotonicity`.
        RecurJacError: as in `monotonicity`.
        UnsupportedError: as in `monotonicity`.
    """
    declare(model, reference)
    start = time.monotonic()
    bisects = timeout is not None or (max_boxes is not None and max_boxes != 1)
    _check_budget(timeout, max_boxes, samples, seed, batch_size)
    region = read_region(x)
    graph = read(model, x).host_graph
    if bisects and region.norm != math.inf:
        raise InputError(
            f"Only boxes can be bisected, and the region is an l_{region.norm:g} ball: leave out `timeout` and "
            "`max_boxes`, or take the box around it (norm inf)."
        )
    deadline = math.inf if timeout is None else start + timeout
    C = specification(C, graph.output).flatten(2)
    bounds_of = partial(
        _signed_bounds, model, method=method, order=order, memory_budget=memory_budget, rigorous=rigorous
    )
    bounds = bounds_of(x, C=C)
    shape, input_shape = bounds.lower.shape, tuple(bounds.lower.shape[2:])
    lower, upper = (bound.flatten(2) for bound in bounds)
    if budget is not None:
        lower, upper = _searched(model, x, C, (lower, upper), effort_of(0.0, budget)[1], memory_budget)
    rises, falls = lower >= 0, upper <= 0
    sign, mask = signs_of(rises, falls), _mask(wanted, shape, lower.device)
    generator = torch.Generator().manual_seed(seed)
    met = SampledDerivatives(model, C, input_shape, batch_size, deadline)
    place = SampledRegion(*_ends(x, region, outward=False), region.norm, region.radius[:, :1])
    met.sample(place, samples, generator)
    if samples:
        met.climb(place, lower, upper, mask & (sign == 0), generator)
    require_consistent(rises & ~met.can_rise | falls & ~met.can_fall)
    goal, boxes = Signs(sign, mask, met, generator), torch.ones(len(C), dtype=torch.int64, device=C.device)
    if bisects:
        bounder = JacobianBounder(bounds_of, C, input_shape, batch_size, deadline)
        boxes = cut_for_signs(goal, bounder, *_ends(x, region, outward=True), (lower, upper), max_boxes)
    return _report(goal.sign, met, boxes, shape)


@through_float32
@full_precision()
@torch.no_grad()
def _of_each_input(model: Any, x: Any, method: str | None, C: Tensor | None, **options: Any) -> tuple[Tensor, ...]:
    """Signs of all entries, (b, k, *input_shape) for every perturbed input, by the undivided regions."""
    analysis = analyse(model, x, parse_jacobian_method(method), C, **options)
    lower, upper = analysis.signed()
    sign = signs_of(lower >= 0, upper <= 0)
    return in_shapes(analysis.graph, (sign, sign))[::2]


def _searched(model: Any, x: Any, C: Tensor, bounds: Interval, seconds: float, memory_budget: int | None) -> Interval:
    """Bounds (b, k, columns), where a search over the sides of neurons finds a sign those with it."""
    lower, upper = (bound.clone() for bound in bounds)
    for i in range(len(C)):
        start = time.perf_counter()
        reduced, memory = reduced_network(read_in_float64(model, cut(x, slice(i, i + 1))), C[i : i + 1], memory_budget)
        ends, _ = searched_entries(reduced, memory, Effort(0.0, start + seconds), signs_alone=True)
        low, high = rounded_outward(ends, lower.dtype)
        unknown = (lower[i] < 0) & (upper[i] > 0)
        lower[i] = torch.where(unknown & (low >= 0), low, lower[i])
        upper[i] = torch.where(unknown & (high <= 0), high, upper[i])
    return lower, upper


@full_precision()
def _signed_bounds(model: Any, x: Any, *, method: str | None, C: Tensor, rigorous: bool, **options: Any) -> Bounds:
    """Bounds of the Jacobian whose signs rounding cannot have changed, see `Analysis.signed`."""
    parsed, methods = parse_jacobian_method(method), list[str]()

    def bound(x: Any, C: Tensor | None) -> tuple[Tensor, ...]:
        analysis = analyse(model, x, parsed, C, rigorous=rigorous, **options)
        methods.extend(analysis.methods)
        lower, upper = analysis.signed()
        if rigorous:
            lower, upper = rounded_outward((lower, upper), type_of(x))
        shape = (*lower.shape[:2], *analysis.region.center.shape[1:])
        return lower.reshape(shape), upper.reshape(shape)

    lower, upper = bounded_in_parts(bound, model, x, C, options["memory_budget"])
    return Bounds(lower, upper, rigorous, tuple(methods))


def _report(sign: Tensor, met: SampledDerivatives, boxes: Tensor, shape: torch.Size) -> Monotonicity:
    """What was found out about every entry, from tensors of shape (b, k, columns)."""
    points, lowest_at, highest_at = met.points()
    entries = (sign, met.refuted & (sign == 0), met.lowest, met.highest, lowest_at, highest_at)
    sign, refuted, lowest, highest, lowest_at, highest_at = (entry.reshape(shape) for entry in entries)
    return Monotonicity(sign, refuted, lowest, highest, points, lowest_at, highest_at, boxes)


def _ends(x: Any, region: Region, outward: bool) -> tuple[Tensor, Tensor]:
    """The ends of the box around each region, (b, columns) each.

    They are those that were given, or ``center - radius`` and ``center + radius``, rounded: outward, so that nothing of
    the region is cut off, or inward, so that no point outside of it is added.
    """
    center = region.center.flatten(1)
    reach = region.radius.expand_as(center)
    toward = torch.full_like(center, math.inf if outward else -math.inf)
    lower, upper = torch.nextafter(center - reach, -toward), torch.nextafter(center + reach, toward)
    if not outward:
        lower, upper = torch.minimum(lower, center), torch.maximum(upper, center)
    fixed = reach == 0
    lower, upper = torch.where(fixed, center, lower), torch.where(fixed, center, upper)
    for given, end in ((x.ptb.x_L, lower), (x.ptb.x_U, upper)):
        if given is not None:
            end.copy_(given.expand_as(region.center).flatten(1))
    return lower, upper


def _mask(wanted: Tensor | None, shape: torch.Size, device: torch.device) -> Tensor:
    """The wanted entries, bool (b, k, columns)."""
    if wanted is None:
        return torch.ones(shape, dtype=torch.bool, device=device).flatten(2)
    if not isinstance(wanted, Tensor) or wanted.dtype != torch.bool:
        came = wanted.dtype if isinstance(wanted, Tensor) else type(wanted).__name__
        raise InputError(f"`wanted` must be a tensor of bool that says which entries to decide, got {came}.")
    try:
        return wanted.to(device).expand(shape).flatten(2)
    except RuntimeError as error:
        raise InputError(
            f"`wanted` has shape {tuple(wanted.shape)}, which does not broadcast to the signs' {tuple(shape)}."
        ) from error


def _check_budget(timeout: Any, max_boxes: Any, samples: Any, seed: Any, batch_size: Any) -> None:
    if timeout is not None and not (isinstance(timeout, (int, float)) and 0 < timeout < math.inf):
        raise InputError(f"`timeout` must be a finite number of seconds above 0, or None, got {timeout!r}.")
    for name, value, least in (
        ("max_boxes", 1 if max_boxes is None else max_boxes, 1),
        ("samples", samples, 0),
        ("seed", seed, 0),
        ("batch_size", batch_size, 1),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise InputError(f"`{name}` must be a whole number of at least {least}, got {value!r}.")
