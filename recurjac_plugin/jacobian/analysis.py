"""From a host's model and a perturbed input to bounds of all gradients: what every public quantity starts from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from recurjac_plugin.errors import InputError
from recurjac_plugin.gains.gains import Gains, compute_gains
from recurjac_plugin.gains.summed_terms import term_sizes
from recurjac_plugin.gains.undetermined import Layer, PreactivationBounds
from recurjac_plugin.graph.graph import Graph, build_graph
from recurjac_plugin.host.problem import read, specification
from recurjac_plugin.host.region import Arguments
from recurjac_plugin.numerics.intervals import Interval, Intervals
from recurjac_plugin.numerics.memory import memory_budget as chosen_budget
from recurjac_plugin.numerics.region import Region
from recurjac_plugin.preactivations.defects import Precision, host_precision
from recurjac_plugin.preactivations.evidence import checked_evidence, derivative_ranges
from recurjac_plugin.preactivations.host import host_bounds
from recurjac_plugin.recursion.backward import BackwardOrder, backward_order
from recurjac_plugin.recursion.fast_lip import IntervalArithmetic
from recurjac_plugin.recursion.forward import ForwardOrder, ShiftedForwardOrder, shifted_forward_order
from recurjac_plugin.recursion.mccormick import Expansion, expansion

from .bounded import BothOrders, OneOrder
from .methods import Method, Treatment

ORDERS = ("backward", "forward", "both")
"""Names of the orders; `both` is the intersection."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """The bounds of one model over one batch of regions, for one method and one set of rows.

    Attributes:
        arguments: where the inputs lie.
        graph: the network as plain steps.
        derivatives: derivative ranges of its factor steps.
        rows: what is differentiated, shape (b, k, *output_shape).
        evidence: bounds of what the factors depend on, by the names of the nodes read.
        centers: their values at the centres of the regions.
        treatment: what happens at an undetermined neuron.
        order, shift: in which order the neurons' gradients are bounded, see `jacobian_bounds`.
        memory_budget: bytes that one chunk of columns may take.
        center_value: ``C f(center)``, shape (b, k).
        host_output: the host's bounds of ``C f``, each of shape (b, k); None where the host was not run.
    """

    arguments: Arguments
    graph: Graph
    derivatives: Mapping[str, Layer]
    rows: Tensor
    evidence: Mapping[str, PreactivationBounds]
    centers: Mapping[str, Tensor]
    treatment: Treatment
    order: str
    shift: int
    memory_budget: int
    center_value: Tensor
    host_output: tuple[Tensor, Tensor] | None

    @cached_property
    def region(self) -> Region:
        """The region of all perturbed inputs together.

        Raises:
            InputError: they have no common norm.
        """
        return self.arguments.joined()

    @cached_property
    def gains(self) -> Gains:
        """The exact part between the undetermined neurons."""
        return compute_gains(self.graph, self.derivatives, self.rows, self.memory_budget)

    @cached_property
    def expansion(self) -> Expansion | None:
        """What is known of the derivatives beyond their ranges, if the method uses it."""
        if not self.treatment.derivative_lines:
            return None
        return expansion(self.gains, self.graph, self.evidence, self.centers, self.arguments.regions)

    @cached_property
    def jacobian(self) -> Interval:
        """Lower and upper bounds of the Jacobian, both of shape (b, k, columns)."""
        return self._in_order.jacobian()

    def upper_of_sum(
        self,
        weights: Tensor,  # shape: (b, k, columns)
    ) -> Tensor:
        """Upper bound of ``sum_r weights_r J_kr`` for every row k: (b, k).

        Tighter than summing the bounds of the entries, because the neurons' derivatives are shared by all entries.
        """
        return self._in_order.upper_of_sum(weights)

    def part(
        self,
        regions: Tensor,  # shape: (n,)
        rows: Tensor,  # shape: (n, k')
    ) -> Analysis:
        """The analysis of some regions, by position, and of some rows of each; without the host's output bounds."""
        return replace(
            self,
            arguments=Arguments((self.region.part(regions),)),
            derivatives={name: layer.part(regions) for name, layer in self.derivatives.items()},
            rows=gathered_rows(self.rows[regions], rows),
            evidence={name: each.part(regions) for name, each in self.evidence.items()},
            centers={name: value[regions] for name, value in self.centers.items()},
            center_value=self.center_value[regions].gather(1, rows),
            host_output=None,
        )

    @cached_property
    def _in_order(self) -> OneOrder | BothOrders:
        if self.order == "both":
            return BothOrders(self._forward, self._backward)
        return self._forward if self.order == "forward" else self._backward

    @property
    def _backward(self) -> BackwardOrder | IntervalArithmetic:
        if self.treatment.upper_line is None:
            return self._intervals(forward=False)
        return backward_order(self.gains, self.treatment.upper_line, self.memory_budget, self.expansion)

    @property
    def _forward(self) -> ForwardOrder | ShiftedForwardOrder | IntervalArithmetic:
        line = self.treatment.upper_line
        if line is None:
            return self._intervals(forward=True)
        if self.shift and self.graph.factors:
            return shifted_forward_order(self.graph, self.derivatives, self.rows, line, self.memory_budget)
        return ForwardOrder(self.gains, line, self.memory_budget, self.expansion)

    def _intervals(self, forward: bool) -> IntervalArithmetic:
        return IntervalArithmetic(self.graph, self.derivatives, self.rows, self.memory_budget, forward)


def gathered_rows(
    C: Tensor,  # shape: (n, k, *output_shape)
    rows: Tensor,  # shape: (n, k')
) -> Tensor:
    """The chosen rows of every region's matrix, by position: (n, k', *output_shape)."""
    return C.gather(1, rows.reshape(*rows.shape, *[1] * (C.dim() - 2)).expand(-1, -1, *C.shape[2:]))


def analyse(
    model: Any,
    x: Any,
    method: Method,
    C: Tensor | None,
    *,
    order: str = "backward",
    shift: int = 0,
    intermediate_bounds: Intervals | None = None,
    memory_budget: int | None = None,
) -> Analysis:
    """Find out what is certain and what is not about the derivatives of ``C f``.

    Args:
        model: the host's `BoundedModule`.
        x: a `BoundedTensor`, or a tuple of them and of plain tensors.
        method: a parsed method that bounds Jacobians.
        C: specification matrix, shape (b or 1, k, n_out); None for all outputs.
        order: in which order the neurons' gradients are bounded, one of `ORDERS`.
        shift: 1 to let the forward order begin behind the first activation layer.
        intermediate_bounds: pre-activation bounds by node name, used instead of the host's where given.
        memory_budget: bytes that one chunk may take; None for a share of the free memory.

    Raises:
        InputError: model, input or C do not fit together.
        UnsupportedError: parts of the network have no rule.
    """
    treatment = method.treatment
    _check_order(order, shift)
    arguments, host_graph = read(model, x)
    budget = chosen_budget(memory_budget, arguments.reference.device)
    graph = build_graph(host_graph.nodes, host_graph.inputs, host_graph.output_name)
    rows = specification(C, host_graph.output)
    reads = {read.name: read for step in graph.factors for read in step.reads}
    given = _given_bounds(intermediate_bounds or {}, reads)
    precision = {name: Precision(torch.finfo(low.dtype).eps) for name, (low, _) in given.items()}
    host_output = None
    if method.with_host_output or len(given) < len(reads):
        wanted = [name for name in reads if name not in given]
        computed, host_output = host_bounds(model, host_graph, arguments, method.host, rows, wanted)
        given |= computed
        precision |= dict.fromkeys(wanted, host_precision(host_graph, method.host, rows.dtype))
    sizes: dict[str, Tensor] = {}
    if any(step.factor.kinked for step in graph.factors):  # nothing else looks at them
        sizes = term_sizes(graph, host_graph.values, max(each.least for each in precision.values()))
    evidence = checked_evidence(graph, sizes, given, precision, arguments.reference)
    return Analysis(
        arguments=arguments,
        graph=graph,
        derivatives=derivative_ranges(graph, evidence),
        rows=rows.reshape(*rows.shape[:2], *graph.shapes[graph.output]),  # in the shape of the last step
        evidence=evidence,
        centers={name: host_graph.values[name] for name in reads},
        treatment=treatment,
        order=order,
        shift=shift,
        memory_budget=budget,
        center_value=host_graph.specified(rows),
        host_output=host_output,
    )


def _check_order(order: str, shift: int) -> None:
    if order not in ORDERS:
        raise InputError(f"`order` must be one of {', '.join(map(repr, ORDERS))}, got {order!r}.")
    if isinstance(shift, bool) or shift not in (0, 1):
        raise InputError(f"`shift` must be 0 or 1, got {shift!r}.")
    if shift and order == "backward":
        raise InputError("`shift` belongs to the forward order: use `order='forward'` or `order='both'` with it.")


def _given_bounds(given: Intervals, names: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """The caller's pre-activation bounds, as pairs of floating-point tensors."""
    unknown = [name for name in given if name not in names]
    if unknown:
        raise InputError(
            f"`intermediate_bounds` names {', '.join(f'`{name}`' for name in unknown)}, which no activation reads; "
            f"pre-activations are {', '.join(f'`{name}`' for name in names)}."
        )
    for name, pair in given.items():
        if not (
            isinstance(pair, (tuple, list))
            and len(pair) == 2
            and all(isinstance(bound, Tensor) and bound.is_floating_point() for bound in pair)
        ):
            raise InputError(f"`intermediate_bounds` of `{name}` must be two floating-point tensors, lower and upper.")
    return {name: (pair[0], pair[1]) for name, pair in given.items()}
