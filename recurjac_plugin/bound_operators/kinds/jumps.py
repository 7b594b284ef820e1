r"""Piecewise constant functions in the host: IBP by their values at the ends, CROWN on the lines around them.

Both on intervals that are wider by what rounding can do, here and where the network is evaluated:

.. math:: [\, l - r,\; u + r \,], \qquad r = 64 \, \varepsilon \, \text{size}

with the size of the terms that the number is the sum of (`local.size_of`): an estimate. Where the host is run by
`preactivations.host`, errors that come from further away count, too.

Source: own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.activations.jumps import JUMPS, Jump
from recurjac_plugin.activations.lines import Relaxation
from recurjac_plugin.bound_operators import elementwise
from recurjac_plugin.bound_operators.part import Part
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.host.library import HOST_FAILURES
from recurjac_plugin.numerics.intervals import Interval
from recurjac_plugin.numerics.rounding import ELEMENTWISE, PROOF, eps

from .local import box, size_of
from .treatment import Treatment

_ROOM = "recurjac_room"
"""Attribute of a node: errors of what it reads, (b, *shape), where somebody knows them better."""


def give_room(node: Any, errors: Tensor) -> bool:
    """Let a node leave room for errors of what it reads; whether its values change by that.

    Args:
        node: of the host; its argument has bounds.
        errors: of the argument, one for each of its numbers.
    """
    ends = node.inputs[0].lower, node.inputs[0].upper
    before = _jump(node).interval(*_widened(node, *ends))
    vars(node)[_ROOM] = errors.detach().reshape(ends[0].shape)
    after = _jump(node).interval(*_widened(node, *ends))
    return any(bool((a != b).any()) for a, b in zip(before, after, strict=True))


class JumpTreatment(Treatment):
    """See this module."""

    def requires_input_bounds(self, node: Any) -> list[int]:
        """Those of its argument."""
        return [0]

    def interval_propagate(self, node: Any, *v: Any, **kwargs: Any) -> Interval:
        """Its values at the ends of the wider interval."""
        return _jump(node).interval(*_widened(node, *box(v[0])))

    def bound_backward(self, node: Any, last_lA: Any, last_uA: Any, *x: Any, **kwargs: Any) -> Any:
        """CROWN on the lines around it on the wider interval."""
        lines = _lines(node, x[0].lower, x[0].upper)
        lA, lower = elementwise.one_side(node, last_lA, lines, positive_below=True)
        uA, upper = elementwise.one_side(node, last_uA, lines, positive_below=False)
        return [(lA, uA), *((None, None) for _ in x[1:])], lower, upper

    def bound_relax(self, node: Any, x: Any, init: bool = False, dim_opt: Any = None) -> None:
        """The same lines for the host's own use."""
        lines = _lines(node, x.lower, x.upper)
        node.lw, node.lb, node.uw, node.ub = (
            lines.lower_slope,
            lines.lower_constant,
            lines.upper_slope,
            lines.upper_constant,
        )

    def init_opt_parameters(self, node: Any, start_nodes: Sequence[Any]) -> None:
        """There is nothing to optimise."""
        node.alpha = {}


def _jump(node: Any) -> Jump:
    return JUMPS[type(node).__name__]


def _lines(node: Any, lower: Tensor, upper: Tensor) -> Relaxation:
    """Lines that hold for what the network computes, though what they are made of is the argument without errors."""
    (low, high), room = _widened(node, lower, upper), _room(node, lower, upper)
    jump = _jump(node)
    lines, values = jump.lines(low, high, room), jump.interval(low, high)
    far, steep = torch.maximum(low.abs(), high.abs()), torch.maximum(lines.lower_slope, lines.upper_slope)
    own = torch.maximum(*(value.abs() for value in values))
    rounding = ELEMENTWISE * eps(low) * (steep * far + torch.where(steep > 0, own, 0.0))
    return lines.padded(room, 0.0, rounding)


@torch.no_grad()
def _room(node: Any, lower: Tensor, upper: Tensor) -> Tensor:
    """What rounding can do to the argument, (b, *shape)."""
    room = PROOF * eps(lower) * torch.maximum(_size(node, lower), torch.maximum(lower.abs(), upper.abs()))
    known = vars(node).get(_ROOM)
    return room if known is None else torch.maximum(room, known.to(room))


@torch.no_grad()
def _widened(node: Any, lower: Tensor, upper: Tensor) -> Interval:
    """The bounds of what it reads with room for rounding, as constants: no gradient passes through a jump."""
    room = _room(node, lower, upper)
    least, most = _limits(node.inputs[0])
    return (torch.minimum(lower, upper) - room).clamp(least, most), (torch.maximum(lower, upper) + room).clamp(
        least, most
    )


def _limits(node: Any) -> tuple[float, float]:
    """Ends that a node's values do not pass, however they are rounded: 0 and infinity behind a ReLU."""
    try:
        found = Part.of(node).activation if node.perturbed and node.inputs else None
    except UnsupportedError:
        found = None
    return (-torch.inf, torch.inf) if found is None else found[0].values(found[1])


def _size(node: Any, like: Tensor) -> Tensor:
    """The size of the terms of what it reads; of its whole layer's values where that cannot be had."""
    try:
        size = size_of(node.inputs[0])
    except (*HOST_FAILURES, UnsupportedError):
        size = None
    return like.abs().amax() if size is None or size.shape != like.shape else size
