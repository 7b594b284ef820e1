"""Bounds by the host's own methods: what the Jacobian pass starts from, and what it is compared with.

One run of the host (IBP, CROWN-IBP, CROWN or alpha-CROWN) bounds the rows ``C f(x)`` and, on the way, the nodes that
activations read. It runs on the user's model, within `preserved`, with the settings it needs: torch's default type set
to that of the network, and bounds of our own for the operators of which its own do not hold (`bound_operators`). What
it gives is refused where it is known (`defects`) or seen not to hold.

Source: the host's methods are IBP (Gowal et al., arXiv:1810.12715), CROWN-IBP (Zhang et al., ICLR 2020,
arXiv:1906.06316), CROWN (Zhang, Weng, Chen, Hsieh, Daniel, NeurIPS 2018, arXiv:1811.00866) and alpha-CROWN (Xu et al.,
ICLR 2021, arXiv:2011.13824); what is put right around them is this package's own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recurjac_plugin.activations.table import ACTIVATIONS
from recurjac_plugin.bound_operators.installation import installed
from recurjac_plugin.bound_operators.kinds.easing import ease
from recurjac_plugin.bound_operators.kinds.jumps import give_room
from recurjac_plugin.errors import UnsupportedError
from recurjac_plugin.gains.errors import estimated_errors
from recurjac_plugin.graph.factors.jumps import JumpFactor
from recurjac_plugin.graph.node import Node
from recurjac_plugin.host.library import HOST_FAILURES, IS_03, VERSION, BoundedModule
from recurjac_plugin.host.problem import Problem
from recurjac_plugin.host.read import HostGraph
from recurjac_plugin.host.region import Arguments
from recurjac_plugin.host.state import default_dtype, keep_gradients, preserved
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.memory import ran_out
from recurjac_plugin.numerics.region import Region

from .defects import (
    another,
    host_unit,
    loses_norm,
    require_center_inside,
    require_sound,
    require_whole_logarithms,
)

# `register` wraps this in the class; the package itself goes to the host directly.
_HOST_COMPUTE_BOUNDS = BoundedModule.compute_bounds


_SMALL = 2**28  # bytes that every machine has
_ELEMENT_BY_ELEMENT = ("BoundAdd", "BoundSub", "BoundBatchNormalization", "BoundIdentity", "BoundNeg")


class HostRoomError(UnsupportedError):
    """The host's bounds do not fit into the memory."""


def no_room(method: str, what: str) -> HostRoomError:
    """The error that says so."""
    return HostRoomError(
        "The network",
        [f"auto_LiRPA {VERSION} {what} with `{method}`"],
        f"Bound a smaller region, or try other pre-activation bounds, e.g. `{another(method)}`.",
    )


class HostBounds(NamedTuple):
    """What one run of the host gives.

    Attributes:
        intervals: bounds of the nodes asked for, by name, each of shape (b, *shape).
        output: bounds of ``C f(x)``, each of shape (b, k).
        unit: relative error of one rounding in them.
    """

    intervals: dict[str, Interval]
    output: Interval
    unit: float


def host_bounds(
    problem: Problem,
    method: str,
    rows: Tensor,  # shape: (b, k, *output_shape)
    names: Sequence[str],
) -> HostBounds:
    """Run one of the host's own methods: ``lower <= C f(x) <= upper`` on the regions, and likewise for nodes.

    Args:
        problem: model and regions. An l_p ball that the host would lose the norm of is replaced by its box.
        method: name of the method, as the host spells it.
        rows: specification matrix C.
        names: nodes whose bounds are wanted.

    Raises:
        HostRoomError: the host ran out of memory.
        UnsupportedError: the host leaves some of the named nodes without bounds, cannot bound an operator, or is known
            or seen to bound one wrongly.

    Source:
        The papers named in this module, as auto_LiRPA carries them out.
    """
    model, graph = problem.model, problem.host_graph
    require_sound(graph.nodes, method)
    with preserved(model), _host_settings(method, rows.dtype):
        _dense_alpha(model, method)
        if method == "alpha-CROWN":  # its optimisation calls `backward`, which would add to the weights' gradients
            keep_gradients(model, False)
        x = problem.arguments.for_host(_hulls(graph, problem.arguments))
        lower, upper = _computed(model, x, rows, method)
        while problem.jumps and _gives_room(problem, model, x, method, host_unit(graph, rows.dtype)):
            lower, upper = _computed(model, x, rows, method)
        intervals = _bounds_of_nodes(model, x, names, method)
        arguments_of_logs = {node.name: node.inputs[0] for node in graph.nodes if node.kind == "BoundLog"}
        if arguments_of_logs:
            require_whole_logarithms(
                {name: getattr(model[argument], "lower", None) for name, argument in arguments_of_logs.items()}
            )
    _require_all(intervals, method)
    # Values of one number per sample have no axis for it in the host.
    intervals = {name: _shaped(interval, graph.values[name].shape) for name, interval in intervals.items()}
    if not torch.is_grad_enabled():
        intervals = {name: (low.detach(), high.detach()) for name, (low, high) in intervals.items()}
        lower, upper = lower.detach(), upper.detach()
    if lower.numel() != rows.shape[0] * rows.shape[1]:  # IBP of outputs with several dimensions
        raise UnsupportedError(
            "The network",
            [f"auto_LiRPA {VERSION} takes the matrix of rows for another one with `{method}`"],
            "Flatten the outputs, or try another method.",
        )
    output = lower.reshape(rows.shape[:2]), upper.reshape(rows.shape[:2])
    unit = host_unit(graph, rows.dtype)
    values = {**graph.values, "output": graph.specified(rows)}
    require_center_inside(intervals | {"output": output}, values, method, unit)
    return HostBounds(intervals, output, unit)


def _computed(model: Any, x: tuple[Any, ...], rows: Tensor, method: str) -> Interval:
    """The host's bounds of ``C f(x)``; those of its nodes stay in the model."""
    alone = len(model.final_node().output_shape) == 1  # one number per sample, for which the host takes no rows
    try:
        lower, upper = _as_far_as_it_goes(model, x, method, C=None if alone else rows)
    except UnsupportedError:
        raise
    except (*HOST_FAILURES, MemoryError) as error:
        if ran_out(error):
            raise no_room(method, "runs out of memory") from error
        reason = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(": ")
        raise UnsupportedError(
            "The network",
            [f"auto_LiRPA {VERSION} cannot bound it with `{method}` ({reason})"],
            f"Try other pre-activation bounds, e.g. `{another(method)}`, or a newer auto_LiRPA.",
        ) from error
    if alone:
        low, high = (bound.reshape(-1, 1, 1) for bound in (lower, upper))
        return torch.minimum(rows * low, rows * high).flatten(1), torch.maximum(rows * low, rows * high).flatten(1)
    return lower, upper


_COPIES = 4  # of the coefficients: of lower and upper bounds, each before and after an operator


def bytes_for_crown(graph: HostGraph, dtype: torch.dtype) -> int:
    r"""Bytes that the coefficients of the host's CROWN take at most at once, about.

    Each of the n neurons that an activation reads has coefficients at every node before it: at one of C channels
    the host keeps windows, of a side r that grows backwards by the kernels, while there are convolutions and functions
    of elements between them, and whole rows elsewhere,

    .. math:: 4 \max_{p, q} n_p \min(n_q, C_q r_{pq}^2) \cdot \text{bytes}.

    Args:
        graph: the network at a batch of regions.
        dtype: of the bounds.

    Returns:
        0 for a network with parts that have no rule here.

    Source: own; for the windows Xu et al., NeurIPS 2020, arXiv:2002.12920, as auto_LiRPA has them.
    """
    nodes = {node.name: node for node in graph.nodes}
    most = max((value.numel() for value in graph.values.values()), default=0)
    batch, item = len(graph.output), torch.finfo(dtype).bits // 8
    if _COPIES * most * most * item // batch < _SMALL:
        return _COPIES * most * most * item // batch
    try:
        reads = graph.function.reads
    except UnsupportedError:  # parts without a rule: nobody but the host can bound it
        return 0
    largest = 0
    for name in reads:
        sides: dict[str, float] = {name: 1.0}
        for node in reversed(graph.nodes):
            side = sides.get(node.name)
            if side is None:
                continue
            further = _further(node, side)
            for source in node.inputs:
                if source in nodes or source in graph.inputs:
                    sides[source] = max(sides.get(source, 0.0), further)
        neurons = graph.values[name].numel() // batch
        for source, side in sides.items():
            shape = graph.values[source].shape
            row = math.prod(shape[1:])
            if side < math.inf and len(shape) == 4:
                row = min(row, shape[1] * min(int(side), shape[2]) * min(int(side), shape[3]))
            largest = max(largest, neurons * row)
    return _COPIES * largest * batch * item


def _further(node: Node, side: float) -> float:
    """The side of the window that a window of a node's output depends on; infinite where the host keeps whole rows."""
    if node.kind in _ELEMENT_BY_ELEMENT or node.kind in ACTIVATIONS:
        return side
    if node.kind == "BoundConv" and node.constants[1] is not None:
        kernel, step, apart = node.constants[1].shape[2], node.attributes["stride"][0], node.attributes["dilation"][0]
        return (side - 1) * step + apart * (kernel - 1) + 1
    return math.inf


def _as_far_as_it_goes(model: Any, x: tuple[Any, ...], method: str, **options: Any) -> Any:
    """The host's bounds, without what it fails on; its first error where nothing is left to do without."""
    like = next(value for value in x if value.is_floating_point())
    first: BaseException | None = None
    while True:
        try:
            return _HOST_COMPUTE_BOUNDS(model, x=x, method=method, **options)
        except (*HOST_FAILURES, UnsupportedError) as error:
            if ran_out(error):
                raise
            first = first or error
            if not ease(model, error, like):
                raise first from None


def _gives_room(problem: Problem, model: Any, x: tuple[Any, ...], method: str, unit: float) -> bool:
    """Give piecewise constant nodes room for the estimated errors of what they read; whether that changes a value.

    Each of them has left some of its own, for the sum in front of it; here errors from further away count, too.
    """
    try:
        network = problem.function
    except UnsupportedError:  # nothing is known of other parts
        return False
    reads = _bounds_of_nodes(model, x, network.reads, method)
    shapes = problem.host_graph.values
    known = {n: _shaped(each, shapes[n].shape) for n, each in reads.items() if each[0] is not None}
    errors = estimated_errors(network, shapes, problem.reach, known, unit)
    changes = False
    for step in network.factors:
        if isinstance(step.factor, JumpFactor) and step.reads[0].name in errors:
            changes |= give_room(model[step.name], errors[step.reads[0].name])
    return changes


def _bounds_of_nodes(model: Any, x: tuple[Any, ...], names: Iterable[str], method: str) -> dict[str, Any]:
    """The bounds that the host has left in its nodes, or those of a run of their own where it has left none."""
    # Nodes of 0.3 have no such attributes before they have bounds.
    intervals: dict[str, Any] = {
        name: (getattr(model[name], "lower", None), getattr(model[name], "upper", None)) for name in names
    }
    for name, (low, high) in intervals.items():
        if low is None or high is None:  # no operator of the host asked for them
            intervals[name] = _bounds_of_node(model, x, name, method)
    return intervals


def _shaped(interval: Interval, shape: tuple[int, ...]) -> Interval:
    return interval[0].reshape(shape), interval[1].reshape(shape)


def _require_all(intervals: Intervals, method: str) -> None:
    missing = [name for name, (low, high) in intervals.items() if low is None or high is None]
    if missing:
        raise UnsupportedError(
            "The network",
            [f"`{name}`: auto_LiRPA left it without bounds" for name in missing],
            f"Try other pre-activation bounds than `{method}`, e.g. `{another(method)}`.",
        )


def output_bounds_by_crown(model: Any, x: tuple[Any, ...], bound_lower: bool, bound_upper: bool) -> tuple[Any, Any]:
    """CROWN bounds of a model's output as the host gives them, in the type of its inputs: ``lower <= f(x) <= upper``.

    Nothing is refused, and errors of the host are not translated.

    Args:
        model: auto_LiRPA's `BoundedModule`.
        x: its inputs, (b, *input_shape) each; one at least has a floating-point type.
        bound_lower: whether the lower side is wanted.
        bound_upper: whether the upper side is wanted.

    Returns:
        Two tensors of shape (b, *output_shape); None for an unwanted side.

    Source:
        Zhang, Weng, Chen, Hsieh, Daniel: CROWN, NeurIPS 2018, arXiv:1811.00866, Theorem 3.2.
    """
    dtype = next(value.dtype for value in x if value.is_floating_point())
    with _host_settings("CROWN", dtype):
        lower, upper = _as_far_as_it_goes(model, x, "CROWN", bound_lower=bound_lower, bound_upper=bound_upper)
    return lower, upper


def _bounds_of_node(model: Any, x: tuple[Any, ...], name: str, method: str) -> Any:
    """Bounds of one node by a run of their own; None where the host cannot."""
    try:
        return _as_far_as_it_goes(model, x, method, final_node_name=name)
    except HOST_FAILURES:
        return None, None


def _hulls(graph: HostGraph, arguments: Arguments) -> list[int]:
    """Positions of the arguments that must be boxes for the host's bounds to hold."""
    positions = [i for i, value in enumerate(arguments.values) if isinstance(value, Region)]
    return [
        i
        for i, name, region in zip(positions, graph.inputs, arguments.regions, strict=True)
        if region.norm < math.inf and loses_norm(graph, name, region.norm)
    ]


def _dense_alpha(model: Any, method: str) -> None:
    """Keep 0.3 from mixing sparse and dense optimisation variables, which ends in a failed assertion."""
    if IS_03 and method == "alpha-CROWN":
        for node in model._modules.values():
            for option in ("use_sparse_spec_alpha", "use_sparse_features_alpha"):
                if hasattr(node, option):
                    setattr(node, option, False)


@contextmanager
def _host_settings(method: str, dtype: torch.dtype) -> Iterator[None]:
    """What the host takes from the process: default dtype, autograd (alpha-CROWN optimises), stdout (it prints)."""
    gradients = method == "alpha-CROWN" or torch.is_grad_enabled()
    with installed(), default_dtype(dtype), torch.set_grad_enabled(gradients), redirect_stdout(sys.stderr):
        yield
