r"""Where the host's own bounds are known, or seen, to be wrong, so that nothing certified is built on them.

Jacobian bounds are only as sound as the pre-activation bounds they start from. Each row of `DEFECTS` names an operator,
and says for which of its uses and host methods the bounds in the host do not hold; those are refused. Besides,
`require_center_inside` compares all bounds with the network's values at the centre x0 of the region, which the host has
evaluated anyway: of

.. math:: l_j - s \le z_j(x_0) \le u_j + s, \qquad
    s = 1024 \, \varepsilon \max_j \max(|l_j|, |u_j|, |z_j(x_0)|),

with eps the unit of the bounds (`host_unit`) and the largest finite number of the node in the same sample, a violation
is either an error of an operator not listed here, or the rounding of terms that cancel, which float64 tells apart.

Source: own; found by comparing the host's bounds with sampled values, and from its code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from math import inf

import torch
from torch import Tensor

from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.graph.node import Node
from recurjac_plugin.host.library import VERSION
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.numerics.intervals import Intervals
from recurjac_plugin.numerics.rounding import GROSS

Check = Callable[[Node, str], str | None]


def another(method: str) -> str:
    """A method on other pre-activation bounds, to try where those of the host's `method` cannot be had.

    ``CROWN+RecurJac`` for IBP, ``IBP+RecurJac`` for everything else.

    Source:
        Own.
    """
    return "CROWN+RecurJac" if method == "IBP" else "IBP+RecurJac"


DEFECTS: dict[str, Check] = {}
"""Exact class name of the host's node -> ``(node, host method) -> reason`` or None.

It has no rows for 0.3 and 0.7.1: what these bound wrongly is bounded by `bound_operators`. What is found to be wrong is
refused by a row here until it is.
"""


def require_sound(nodes: Iterable[Node], method: str) -> None:
    """Refuse a graph for which the host's method is known to be wrong.

    Refused is every node for which ``DEFECTS[node.kind](node, method)`` gives a reason.

    Args:
        nodes: of the graph.
        method: the host's method.

    Raises:
        UnsupportedError: lists every such node.

    Source:
        Own; found by comparing the host's bounds with sampled values.
    """
    offenders = [
        f"`{node.name}` ({node.kind.removeprefix('Bound')}): {reason}"
        for node in nodes
        if node.kind in DEFECTS and (reason := DEFECTS[node.kind](node, method)) is not None
    ]
    if offenders:
        raise UnsupportedError(
            "The network",
            offenders,
            f"auto_LiRPA {VERSION} gives wrong bounds there with `{method}`; where the reason names CROWN, use "
            "interval bounds instead, `IBP+...` without `+CROWN`.",
        )


# The host computes the logarithm of a number below this as that of this one, and bounds it so.
_LOGARITHM_FROM = 1e-12


def require_whole_logarithms(lower: Mapping[str, Tensor | None]) -> None:
    """Refuse logarithms of numbers that the host cuts off: it takes ``log(max(z, 1e-12))`` for ``log z``.

    Args:
        lower: lower bounds of the arguments by name of the node, (b, *shape) each; None where the host has none.

    Raises:
        UnsupportedError: lists the nodes with a lower bound below 1e-12, or with none.

    Source:
        Own; it follows from the host's code.
    """
    wrong = [
        f"`{name}` (Log): its argument can come below {_LOGARITHM_FROM:g}, where the host cuts the logarithm off"
        for name, bound in lower.items()
        if bound is None or bool((bound < _LOGARITHM_FROM).any())
    ]
    if wrong:
        raise UnsupportedError(
            "The network", wrong, "Use a smaller region, or other pre-activation bounds, e.g. `IBP+RecurJac`."
        )


# Interval bounds in the host know the norm of the region only in its first linear layer, which they must reach
# unchanged. Any other operator takes an l_1 or l_2 ball for its centre, and CROWN trusts intervals when it picks stable
# neurons. The value is the largest p for which the operator's formula holds: convolutions use that of l_2 for all.
_PASSES_NORM_ON = {"BoundReshape", "BoundFlatten", "BoundSqueeze", "BoundUnsqueeze"}
_USES_NORM = {"BoundLinear": inf, "BoundConv": 2.0}


def loses_norm(graph: HostGraph, name: str, norm: float) -> bool:
    """Whether the host's bounds over an l_p ball of one input do not hold; those over the box around it do.

    True if ``p > p_max`` for an operator that reads the input, directly or through changes of shape alone: ``p_max`` is
    inf for linear layers, 2 for convolutions, and 0 for all others. Boxes (p = inf) are never lost.

    Args:
        graph: the network.
        name: of the input.
        norm: p.

    Source:
        Own; it follows from the host's code for interval bounds.
    """
    if norm == inf:
        return False
    carriers = {name}
    for node in graph.nodes:
        if carriers.isdisjoint(node.inputs):
            continue
        if node.kind in _PASSES_NORM_ON:
            carriers.add(node.name)
        elif norm > _USES_NORM.get(node.kind, 0.0):
            return True
    return False


def host_unit(graph: HostGraph, dtype: torch.dtype) -> float:
    """Relative error of one rounding in the host's bounds: eps of the type, of float32 where a node computes in that.

    Args:
        graph: the network.
        dtype: type of the network's numbers.

    Source:
        Own; it follows from the host's code.
    """
    narrow = any(_casts_to_float32(node) for node in graph.nodes)
    return max(torch.finfo(dtype).eps, torch.finfo(torch.float32).eps * narrow)


def _casts_to_float32(node: Node) -> bool:
    # Exporters write a CELU of float64 as one of float32 between two casts.
    return node.kind == "BoundCast" and node.attributes.get("type") == torch.float32


def require_center_inside(bounds: Intervals, values: Mapping[str, Tensor], method: str, unit: float) -> None:
    """Refuse bounds that do not contain the network's own values at the centre of the region.

    Refused are nodes with ``z_j(x0) < l_j - s`` or ``z_j(x0) > u_j + s`` anywhere, s as in this module.

    Args:
        bounds: lower and upper bounds by name, with as many elements as the value, (b, ...) each.
        values: values by the same names, shape (b, *shape).
        method: the host's method.
        unit: relative error of one rounding in them.

    Raises:
        UnsupportedError: lists every node with wrong bounds.

    Source:
        Own; bounds over a region must hold at its centre.
    """
    wrong = [f"`{name}`" for name, interval in bounds.items() if _escapes(values[name], *interval, unit)]
    if wrong:
        raise UnsupportedError(
            "The network",
            [f"{name}: its value at the centre of the region lies outside the host's bounds" for name in wrong],
            f"This is an error of auto_LiRPA {VERSION} with `{method}`, or rounding where large terms cancel: compute "
            f"in float64, with `rigorous=True`, or with other pre-activation bounds, e.g. `{another(method)}`.",
        )


def _escapes(value: Tensor, lower: Tensor, upper: Tensor, unit: float) -> bool:
    value, lower, upper = (t.detach().flatten(1) for t in (value, lower, upper))
    scale = torch.maximum(value.abs(), torch.maximum(lower.abs(), upper.abs()))
    scale = torch.where(scale < inf, scale, 0.0).amax(1, keepdim=True) if scale.numel() else scale
    slack = GROSS * unit * scale
    return bool(((value < lower - slack) | (value > upper + slack)).any())
