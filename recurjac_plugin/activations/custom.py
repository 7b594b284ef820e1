"""Rows of the activation table from what a user knows of a function, checked before anything is built on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isfinite

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

from .activation import Activation, Domain

Plain = Callable[[Tensor], Tensor]

# Mistakes are larger, in parts of the derivative; the rounding of a sensible formula is smaller, and cancellation in
# its tails (``1 - tanh(z)^2``) smaller than the second number.
_AGREEMENT = 1e-6
_CANCELLATION = 1e-12
_PIECES = 32


def custom_activation(
    class_name: str,
    derivative: Plain,
    critical_points: Iterable[tuple[float, tuple[float, ...] | float]],
    curvature: float = inf,
    domain: tuple[float, float] = (-inf, inf),
    function: Plain | None = None,
) -> Activation:
    """A row for the table.

    Args:
        class_name: key of the row, for messages; without ``Bound`` the function's name.
        derivative: element-wise ``z -> f'(z)``, any shape.
        critical_points: ``(z*, value)`` or ``(z*, (value, ...))``.
        curvature: upper bound of ``|f'''|`` between the kinks.
        domain: ends of the open interval on which the derivative is finite.
        function: element-wise ``z -> f(z)``, any shape.

    Raises:
        InputError: a critical point is not a pair of finite numbers, the curvature is negative, the domain empty, or
            what is given contradicts itself at the numbers that are tried, between -1e4 and 1e4: the derivative is not
            that of the function, or leaves its range on an interval because one of its peaks, valleys or kinks is
            missing.
    """
    points = _read_points(class_name, critical_points)
    if not curvature >= 0:
        raise InputError(f"`curvature` of `{class_name}` must be at least 0, got {curvature!r}.")
    first, last = domain
    if not first < last:
        raise InputError(f"`domain` of `{class_name}` must be two numbers in order, got {domain}.")
    activation = Activation(
        class_name.removeprefix("Bound"),
        lambda z, parameters: derivative(z),
        points,
        domain=lambda parameters: _open_interval(first, last),
        curvature=curvature,
        function=None if function is None else lambda z, parameters: function(z),
    )
    probes = _probes(first, last)
    if function is not None:
        _require_derivative_of(class_name, derivative, function, probes)
    _require_range(class_name, activation, probes)
    return activation


def _read_points(
    class_name: str, critical_points: Iterable[tuple[float, tuple[float, ...] | float]]
) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """Critical points as numbers, each with a tuple of values.

    Raises:
        InputError: they are no pairs, or not finite.
    """
    try:
        points = tuple(
            (float(point), tuple(map(float, values if isinstance(values, (tuple, list)) else (values,))))
            for point, values in critical_points
        )
    except (TypeError, ValueError) as error:
        raise InputError(
            f"`critical_points` of `{class_name}` must be pairs of a point and the value(s) of the derivative there."
        ) from error
    if not all(isfinite(number) for point, values in points for number in (point, *values)):
        raise InputError(f"`critical_points` of `{class_name}` must be finite, got {points}.")
    return points


def _open_interval(first: float, last: float) -> Domain | None:
    """The domain between two numbers, without them; None if nothing is left out."""
    ends = [f"above {first:g}"] * (first > -inf) + [f"below {last:g}"] * (last < inf)
    if not ends:
        return None
    return Domain(" and ".join(ends), lambda lower, upper: (lower > first) & (upper < last))


def _probes(first: float, last: float) -> Tensor:
    """Numbers between two, in order: of all sizes, at all distances from both, none that has a kink; shape (n,)."""
    sizes = torch.logspace(-6.01, 4, 301, dtype=torch.float64)
    starts = [start for start in (first, 0.0, last) if isfinite(start)]
    probes = torch.cat([start + sign * sizes for start in starts for sign in (-1, 1)]).unique()
    return probes[(probes > first) & (probes < last)]


@torch.no_grad()
def _require_range(class_name: str, activation: Activation, probes: Tensor) -> None:
    """Compare the range of a derivative on intervals between probes with its values inside.

    Raises:
        InputError: a value lies outside.
    """
    for reach in (1, 7, 49, len(probes) - 1):  # neighbours, ..., all of them
        lower, upper = probes[:-reach], probes[reach:]
        share = torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64).unsqueeze(1)
        z = lower + share * (upper - lower)
        values = activation.derivative(z, {})
        least, most = activation.derivative_range(lower, upper, {})
        slack = _AGREEMENT * torch.maximum(least.abs(), most.abs()) + _CANCELLATION
        outside = (values < least - slack) | (values > most + slack)
        if bool(outside.any()):
            inside, piece = outside.nonzero()[0].tolist()
            raise InputError(
                f"`critical_points` of `{class_name}` must have every peak, valley and kink of the derivative: on "
                f"[{lower[piece]:g}, {upper[piece]:g}] they give it the range [{least[piece]:g}, {most[piece]:g}], but "
                f"at {z[inside, piece]:g} it is {values[inside, piece]:g}."
            )


def _require_derivative_of(class_name: str, derivative: Plain, function: Plain, probes: Tensor) -> None:
    """Compare a derivative with what autograd makes of its function, where both are finite.

    Raises:
        InputError: they differ, or the function is not element-wise or not differentiable.
    """
    with torch.enable_grad():
        z = probes.clone().requires_grad_()
        values = function(z)
        if not isinstance(values, Tensor) or values.shape != z.shape or not values.requires_grad:
            raise InputError(f"`function` of `{class_name}` must be element-wise and differentiable by autograd.")
        (expected,) = torch.autograd.grad(values.sum(), z)
    with torch.no_grad():
        given = derivative(probes)
        apart = (given - expected).abs() > _AGREEMENT * expected.abs().clamp(min=1)
        apart &= given.isfinite() & expected.isfinite()
    if bool(apart.any()):
        at = int(apart.nonzero()[0])
        raise InputError(
            f"`derivative` of `{class_name}` must be that of `function`: at {probes[at].item():g} it is "
            f"{given[at].item():g}, but autograd gives {expected[at].item():g}."
        )
