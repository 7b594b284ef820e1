"""Intervals ``[lower, upper]`` of numbers, element by element: what is known of an unknown tensor."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, RecurJacError
from recurjac_plugin.numerics.rounding import CONTRADICTION

Interval = tuple[Tensor, Tensor]
"""Lower and upper bounds, both of shape (b, *shape)."""

Intervals = Mapping[str, Interval]
"""Such bounds by the names of the nodes that they are of."""


def require_numbers(*bounds: Tensor) -> None:
    """Refuse bounds of gradients, of any shapes, that have become NaN; the device is waited for once.

    Raises:
        InputError: they have, as sums of infinite values of both signs do.
    """
    if bounds and bool(torch.stack([bound.isnan().any() for bound in bounds]).any()):
        raise InputError(
            f"The gradients overflow {bounds[0].dtype}: their bounds contain NaN; use float64, or a smaller region."
        )


def intersection(first: Interval, second: Interval) -> Interval:
    """``[max(l, l'), min(u, u')]``: the tighter of two lower and of two upper bounds, element by element.

    Bounds that meet at the true value cross by rounding; then what lies between them is kept. All of one shape.

    Raises:
        RecurJacError: the two contradict each other, so one of them is wrong.
    """
    if not first[0].numel():  # of no regions, or no rows
        return first
    lower, upper = torch.maximum(first[0], second[0]), torch.minimum(first[1], second[1])
    if bool((lower - upper > CONTRADICTION * torch.maximum(lower.abs(), upper.abs()).amax()).any()):
        raise RecurJacError(
            "Two bounds of the same quantity contradict each other: one of them is wrong, or the numbers are too large "
            f"for {lower.dtype}; please report the network, or try float64."
        )
    return torch.minimum(lower, upper), torch.maximum(lower, upper)


def ordered(bounds: Interval) -> Interval:
    """Bounds that have crossed by rounding where they meet, with their ends exchanged there; NaN stays."""
    lower, upper = bounds
    crossed = lower > upper
    return torch.where(crossed, upper, lower), torch.where(crossed, lower, upper)


def rounded_up(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The least numbers of a type that are no less than the given ones, of float64."""
    near = value.to(dtype)
    return torch.where(near.double() < value, torch.nextafter(near, torch.full_like(near, torch.inf)), near)


def rounded_outward(bounds: Interval, dtype: torch.dtype) -> Interval:
    """Bounds of float64 in another type, the lower rounded down and the upper rounded up."""
    return -rounded_up(-bounds[0], dtype), rounded_up(bounds[1], dtype)
