"""Where the host's own bounds are known to be wrong, so that nothing certified is built on them.

Jacobian bounds are only as sound as the pre-activation bounds they start from. Each row names an operator, and says for
which of its uses and host methods the host's bounds do not hold; those are refused. Besides, `require_center_inside`
compares every bound with the network's values at the centre of the region, which the host has evaluated anyway: it
catches gross errors of operators not listed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

import torch
from torch import Tensor

from .errors import UnsupportedError
from .host import IS_03, VERSION
from .node import Node

Interval = tuple[Tensor, Tensor]
Check = Callable[[Node, str], str | None]

# The host's bounds at a point are off by rounding; what is caught here is off by a visible part of the layer's size.
_ROUNDING = 1024


def _leaky_relu(node: Node, method: str) -> str | None:
    slope = node.attributes.get("leaky_alpha", node.attributes.get("alpha", 0.0))
    if isinstance(slope, float) and slope < 0:
        return f"negative slope {slope:g}, which the host bounds as if it were monotone"
    if isinstance(slope, float) and slope > 1 and method != "IBP":
        return f"slope {slope:g} above 1, which the host's CROWN bounds as if it were convex"
    return None


def _concat(node: Node, method: str) -> str | None:
    if IS_03 and method != "IBP" and not all(node.perturbed):
        return "a constant is concatenated, which CROWN of auto_LiRPA 0.3 loses"
    return None


def _gather(node: Node, method: str) -> str | None:
    index = node.constants[1] if len(node.constants) > 1 else None
    if method != "IBP" and index is not None and index.unique().numel() < index.numel():
        return "an index is repeated, of which the host's CROWN keeps only one"
    return None


DEFECTS: dict[str, Check] = {
    "BoundRelu": _leaky_relu,
    "BoundLeakyRelu": _leaky_relu,
    "BoundConcat": _concat,
    "BoundGather": _gather,
}
"""Exact class name of the host's node -> ``(node, host method) -> reason`` or None."""


def require_sound(nodes: Iterable[Node], method: str) -> None:
    """Refuse a graph for which the host's method is known to be wrong.

    Raises:
        UnsupportedError: lists every such node.
    """
    found = [
        f"`{node.name}` ({node.kind.removeprefix('Bound')}): {reason}"
        for node in nodes
        if node.kind in DEFECTS and (reason := DEFECTS[node.kind](node, method)) is not None
    ]
    if found:
        raise UnsupportedError(
            "The network",
            found,
            f"auto_LiRPA {VERSION} gives wrong bounds there with `{method}`; `IBP+...` is right for all but negative "
            "slopes.",
        )


def require_center_inside(bounds: Mapping[str, Interval], values: Mapping[str, Tensor], method: str) -> None:
    """Refuse bounds that do not contain the network's own values at the centre of the region.

    Raises:
        UnsupportedError: lists every node with wrong bounds.
    """
    wrong = [f"`{name}`" for name, interval in bounds.items() if _escapes(values[name], *interval)]
    if wrong:
        raise UnsupportedError(
            "The network",
            [f"{name}: its value at the centre of the region lies outside the host's bounds" for name in wrong],
            f"This is an error of auto_LiRPA {VERSION} with `{method}`; try other pre-activation bounds, e.g. "
            "`IBP+RecurJac`.",
        )


def _escapes(value: Tensor, lower: Tensor, upper: Tensor) -> bool:
    value, lower, upper = (t.detach().reshape(len(value), -1) for t in torch.broadcast_tensors(value, lower, upper))
    scale = torch.stack((value.abs(), lower.abs(), upper.abs())).amax(0)
    scale = torch.where(scale < inf, scale, 0.0).amax(1, keepdim=True) if scale.numel() else scale
    slack = _ROUNDING * torch.finfo(value.dtype).eps * scale
    return bool(((value < lower - slack) | (value > upper + slack)).any())
