"""Rows of the activation table from what a user knows of a function, checked before anything is built on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf, isfinite

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError

from .activation import Activation
from .functions import at_most

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
    function: Plain | None = None,
) -> Activation:
    """A row for the table.

    Args:
        class_name: key of the row, for messages; without ``Bound`` the function's name.
        derivative: element-wise ``z -> f'(z)``, any shape.
        critical_points: ``(z*, value)`` or ``(z*, (value, ...))``.
        curvature: upper bound of ``|f'''|`` between the kinks.
        function: element-wise ``z -> f(z)``, any shape.

    Raises:
        InputError: a critical point is not a pair of finite numbers, the curvature is negative, or what is given
            contradicts itself on intervals between -1e4 and 1e4: the derivative is not that of the function, or leaves
            its range on an interval, because one of its peaks, valleys or kinks is missing.
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
    if not curvature >= 0:
        raise InputError(f"`curvature` of `{class_name}` must be at least 0, got {curvature!r}.")
    activation = Activation(
        class_name.removeprefix("Bound"),
        lambda z, parameters: derivative(z),
        lambda parameters: points,
        curvature=at_most(curvature),
        function=None if function is None else lambda z, parameters: function(z),
    )
    _require_range(class_name, activation)
    if function is not None:
        _require_derivative_of(class_name, derivative, function)
    return activation


def _probes() -> Tensor:
    """Numbers of all sizes and both signs, in order, none of them one that kinks are put at; shape (n,)."""
    sizes = torch.logspace(-6.01, 4, 301, dtype=torch.float64)
    return torch.cat((-sizes.flip(0), sizes))


@torch.no_grad()
def _require_range(class_name: str, activation: Activation) -> None:
    """Compare the range of a derivative on intervals with its values inside.

    Raises:
        InputError: a value lies outside.
    """
    probes = _probes()
    for reach in (1, 7, 49, len(probes) - 1):  # neighbours, ..., all of them
        lower, upper = probes[:-reach], probes[reach:]
        share = torch.linspace(0, 1, _PIECES + 1, dtype=torch.float64).unsqueeze(1)
        z = lower + share * (upper - lower)
        values = activation.derivative(z, {})
        least, most = activation.derivative_range(lower, upper, {})
        slack = _AGREEMENT * torch.maximum(least.abs(), most.abs()) + _CANCELLATION
        outside = (values < least - slack) | (values > most + slack)
        if bool(outside.any()):
            piece = int(outside.any(0).nonzero()[0])
            inside = int(outside[:, piece].nonzero()[0])
            raise InputError(
                f"`critical_points` of `{class_name}` must have every peak, valley and kink of the derivative: on "
                f"[{lower[piece]:g}, {upper[piece]:g}] they give it the range [{least[piece]:g}, {most[piece]:g}], but "
                f"at {z[inside, piece]:g} it is {values[inside, piece]:g}."
            )


def _require_derivative_of(class_name: str, derivative: Plain, function: Plain) -> None:
    """Compare a derivative with what autograd makes of its function, where both are finite.

    Raises:
        InputError: they differ, or the function is not element-wise or not differentiable.
    """
    z = _probes().requires_grad_()
    with torch.enable_grad():
        values = function(z)
        if not isinstance(values, Tensor) or values.shape != z.shape or not values.requires_grad:
            raise InputError(f"`function` of `{class_name}` must be element-wise and differentiable by autograd.")
        expected = torch.autograd.grad(values.sum(), z)[0]
    with torch.no_grad():
        given = derivative(z.detach())
    slack = _AGREEMENT * torch.maximum(expected.abs(), torch.ones_like(expected))
    apart = (given - expected).abs() > slack
    apart &= given.isfinite() & expected.isfinite()
    if bool(apart.any()):
        at = int(apart.nonzero()[0])
        raise InputError(
            f"`derivative` of `{class_name}` must be that of `function`: at {float(z[at]):g} it is {given[at]:g}, but "
            f"autograd gives {expected[at]:g}."
        )
