r"""Bounds of pre-activations: gathered, checked, and turned into the derivative ranges that follow from them.

Bounds that the caller gives are taken as they are; the host bounds what is left. All of them come with an error,
because a bound that rounding has moved across a kink would hide one side of it: derivatives are ranged over

.. math:: [\, l_j - e_j,\; u_j + e_j \,]

(`gains.undetermined`), with the errors e of `gains.errors`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError, UnsupportedError
from recurjac_plugin.gains.errors import estimated_errors
from recurjac_plugin.gains.gains import Gains
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds, derivative_ranges
from recurjac_plugin.graph.graph import Graph
from recurjac_plugin.graph.steps import Read
from recurjac_plugin.host.problem import Problem
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.rounding import NOTICEABLE, UNEXPLAINED

from .host import HostBounds, host_bounds


@dataclass(frozen=True, eq=False)
class ProvenErrors:
    """What proven bounds of a Jacobian, and of the rows, are made of.

    Attributes:
        gains: the exact part between undetermined neurons, that of the rows included.
        spreads: sums of the absolute values of all terms of linear bounds of what factor steps multiply, by name of the
            step, (b, *shape).
        center: errors of the rows at the centres of the regions, (b, k).
    """

    gains: Gains
    spreads: Mapping[str, Tensor]
    center: Tensor

    def part(
        self,
        regions: Tensor,  # shape: (n,)
        rows: Tensor,  # shape: (n, k')
    ) -> ProvenErrors:
        """Those of some regions, by position, and of some rows of each."""
        spreads = {name: spread[regions] for name, spread in self.spreads.items()}
        return ProvenErrors(self.gains.part(regions, rows), spreads, self.center[regions].gather(1, rows))


@dataclass(frozen=True, eq=False)
class Preactivations:
    """What is known of the nodes that a network's factor steps read.

    Attributes:
        bounds: their bounds ``l <= z <= u``, by name, each of shape (b, *shape).
        derivatives: the derivative ranges ``[dl, du]`` of the factor steps, by their names.
        host_output: the host's bounds of ``C f``, each of shape (b, k); None where the host was not run.
        proven: what proven bounds bring along ; None for others.
    """

    bounds: Mapping[str, PreactivationBounds]
    derivatives: Mapping[str, Layer]
    host_output: Interval | None = None
    proven: ProvenErrors | None = None


def bound_preactivations(
    problem: Problem,
    method: str,
    rows: Tensor,  # shape: (b, k, *output_shape)
    given: Intervals,
    with_output: bool,
    bounds_by: Callable[[Problem, str, Tensor, Sequence[str]], HostBounds] = host_bounds,
) -> Preactivations:
    """Bound everything that the derivatives of a network depend on.

    The result has ``l <= z(x) <= u`` for every node z that a factor step reads, given or by the host, and
    ``[dl, du]``, the range of the step's derivative over ``[l, u]`` with room for rounding (see this module).

    Args:
        problem: model and regions.
        method: the host's method for what is not given.
        rows: specification matrix C.
        given: bounds by the caller, by name, each with b times or once as many elements as the node has.
        with_output: whether the host's bounds of ``C f`` are wanted even if all else is given.
        bounds_by: what bounds in the host's place.

    Raises:
        InputError: bounds of unknown names, of the wrong shape, inverted, or NaN.
        UnsupportedError: the host cannot bound the network, or is known or seen to do it wrongly; or bounds reach
            beyond where an activation has a finite derivative.

    Source:
        Zhang, Zhang, Hsieh: RecurJac, AAAI 2019, arXiv:1810.11783, section 3.2, for the ranges of derivatives.
    """
    graph = problem.graph
    bounds = _floating_pairs(given, graph.reads)
    unit = max((torch.finfo(low.dtype).eps for low, _ in bounds.values()), default=0.0)
    host_output = None
    if with_output or len(bounds) < len(graph.reads):
        wanted = [name for name in graph.reads if name not in bounds]
        computed = bounds_by(problem, method, rows, wanted)
        bounds |= computed.intervals
        unit = max(unit, computed.unit)
        host_output = computed.output
    values = problem.host_graph.values
    checked = checked_bounds(graph, bounds, unit, graph, values, problem.reach, rows)
    _require_small_errors({name: each for name, each in checked.items() if name not in given}, values)
    return Preactivations(checked, derivative_ranges(graph, checked), host_output)


def checked_bounds(
    graph: Graph,
    bounds: Intervals,
    unit: float,
    network: Graph,
    values: Mapping[str, Tensor],
    reach: Mapping[str, Tensor],
    like: Tensor,
) -> dict[str, PreactivationBounds]:
    """Bounds of everything that the factor steps of a graph read, by name: in their own shapes, and with their errors.

    Bounds of a node are inverted if ``l_j > u_j + 64 e_j`` anywhere, with its estimated error e.

    Args:
        graph: the network, or the part of it whose derivatives are wanted.
        bounds: lower and upper bounds of everything that the steps read, by name, each with as many elements as
            (b, *shape) or *shape.
        unit: relative error of one rounding in them.
        network: the graph whose terms add up to what is read.
        values: values of its inputs and nodes at the centres of the regions, (b, *shape) each.
        reach: how far its inputs can be from there, by name, (b, *shape) each.
        like: a tensor of the batch, dtype and device of the inputs, (b, ...).

    Returns:
        Bounds of shape (b, *shape) each, with their estimated errors (`estimated_errors`).

    Raises:
        InputError: bounds of the wrong shape, or inverted.

    Source:
        Own; see `gains.errors`.
    """
    pairs = {name: _checked(bounds[name], read, like) for name, read in graph.reads.items()}
    errors = estimated_errors(network, values, reach, pairs, unit)
    checked = {name: PreactivationBounds(*pair, errors[name]) for name, pair in pairs.items()}
    for name, each in checked.items():
        _require_ordered(name, each)
    return checked


def _floating_pairs(given: Intervals, reads: Mapping[str, Read]) -> dict[str, Interval]:
    """The caller's pre-activation bounds, as pairs of floating-point tensors."""
    unknown = [name for name in given if name not in reads]
    if unknown:
        raise InputError(
            f"`intermediate_bounds` names {', '.join(f'`{name}`' for name in unknown)}, which no activation reads; "
            f"pre-activations are {', '.join(f'`{name}`' for name in reads)}."
        )
    for name, pair in given.items():
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and all(isinstance(bound, Tensor) and bound.is_floating_point() for bound in pair)
        ):
            raise InputError(f"`intermediate_bounds` of `{name}` must be two floating-point tensors, lower and upper.")
    return {name: (pair[0], pair[1]) for name, pair in given.items()}


def _checked(pair: Interval, read: Read, like: Tensor) -> Interval:
    """Bounds of a node in its own shape, (b, *shape) each, and in the dtype and on the device of the inputs."""
    shape = (len(like), *read.shape)
    lower, upper = pair
    sizes = (torch.Size(shape).numel(), torch.Size(shape[1:]).numel())
    if lower.numel() != upper.numel() or lower.numel() not in sizes:
        raise InputError(
            f"The bounds of `{read.name}` have shapes {tuple(lower.shape)} and {tuple(upper.shape)}, expected {shape}."
        )
    lower, upper = (bound.to(like).reshape(-1, *shape[1:]).expand(shape) for bound in (lower, upper))
    return lower, upper


def _require_ordered(name: str, bounds: PreactivationBounds) -> None:
    """Refuse lower bounds that lie above the upper ones by more than rounding explains."""
    if bool((bounds.lower > bounds.upper + UNEXPLAINED * bounds.error).any()):
        raise InputError(f"The bounds of `{name}` are inverted by more than rounding: give lower bounds first.")


def _require_small_errors(bounds: Mapping[str, PreactivationBounds], values: Mapping[str, Tensor]) -> None:
    """Refuse bounds that miss the values at the centres by more than their errors can be thought to explain."""
    wrong = [
        f"`{name}`: rounding moved its bounds past its value at the centre of the region"
        for name, each in bounds.items()
        if bool((torch.maximum(each.lower - values[name], values[name] - each.upper) > NOTICEABLE * each.error).any())
    ]
    if wrong:
        raise UnsupportedError("The network", wrong, "Compute in float64 (`model.double()`), or with `rigorous=True`.")
