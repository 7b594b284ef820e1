r"""Intervals of a node from what is known nearby: bounds that the host holds of nodes before it, and IBP from there.

CROWN's bounds of a node and those by intervals from its own inputs both hold, so that their intersection does. Where a
value is a sum, the size of its terms says how far rounding has moved it:

.. math:: \text{size}(z) = |W| \, \text{size}(h) + |b| \text{ for } z = W h + b, \qquad
    \text{size}(z) = \max(|l|, |u|) \text{ otherwise.}

Source: own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.bound_operators import linear
from recurjac_plugin.bound_operators.part import Part, value_of
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.operators import OPERATORS
from recurjac_plugin.host.library import HOST_FAILURES
from recurjac_plugin.numerics.intervals import Interval


def box(interval: Any) -> Interval:
    """The bounds of an input as a box: the host hands an l_p ball on as its centre, with its norm and radius beside."""
    lower, upper = interval[0], interval[1]
    ball = getattr(interval, "ptb", None)
    if ball is not None and getattr(ball, "norm", torch.inf) != torch.inf:
        radius = torch.as_tensor(ball.eps).to(lower)
        radius = radius.reshape(-1, *(1,) * (lower.dim() - 1)) if radius.dim() else radius
        return lower - radius, upper + radius
    return lower, upper


def held(node: Any) -> Interval | None:
    """The bounds that the host holds of a node, (b, *shape) each; None where it holds none of both sides."""
    if not node.perturbed:
        value = value_of(node)
        return (value, value) if isinstance(value, Tensor) else None
    lower, upper = getattr(node, "lower", None), getattr(node, "upper", None)
    if lower is not None and upper is not None:
        return lower, upper
    own = vars(node).get("interval")
    return None if own is None else box(own)


def interval_of(node: Any) -> Interval:
    """Bounds of a node: those that the host holds, or by intervals from its inputs'."""
    found = held(node)
    return from_inputs(node) if found is None else found


def from_inputs(node: Any) -> Interval:
    """Bounds of a node by intervals from those of its inputs, whatever the host holds of the node itself.

    Raises:
        What the node's own interval propagation raises.
    """
    lower, upper = node.interval_propagate(*(interval_of(source) for source in node.inputs))
    return lower, upper


def narrowed(node: Any, bounds: Interval) -> Interval:
    """Bounds of a node, intersected with those by intervals from its inputs' where these can be had."""
    if not node.perturbed or not node.inputs:
        return bounds
    try:
        lower, upper = from_inputs(node)
    except (*HOST_FAILURES, UnsupportedError):
        return bounds
    return torch.maximum(bounds[0], lower), torch.minimum(bounds[1], upper)


def tighten(node: Any) -> None:
    """`narrowed` for the bounds that the host holds of a node."""
    node.lower, node.upper = narrowed(node, (node.lower, node.upper))


@torch.no_grad()
def size_of(node: Any) -> Tensor:
    """The size of the terms that a node's value is made of, (b, *shape)."""
    if node.perturbed and node.inputs and type(node).__name__ in OPERATORS:
        part = Part.of(node)
        try:
            if part.is_linear:
                sizes = {name: size_of(node.inputs[position]) for name, position in part.positions.items()}
                origin = part.origin({name: torch.zeros_like(size) for name, size in sizes.items()}).abs()
                return origin + sum(one.push_absolute(sizes[name]) for name, one in linear.maps(part))
        except UnsupportedError:
            pass
    lower, upper = interval_of(node)
    return torch.maximum(lower.abs(), upper.abs())
